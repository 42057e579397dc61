"""In which numbers a network is run while it is trained, and in which order they are added."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_type(name: str, device: torch.device) -> torch.dtype:
    """The type of autocast for a name of `TrainConfig.precision` on a device; float32 is none."""
    return PRECISIONS["bfloat16" if multiplies_bfloat16(device) else "float32"] if name == "auto" else PRECISIONS[name]


def named(precision: torch.dtype) -> str:
    """Its name in `PRECISIONS`."""
    return next(name for name, value in PRECISIONS.items() if value == precision)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for products of bfloat16 matrices.

    A CPU without AMX does such products too, but no faster than in float32, and its convolutions mostly slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # without a public name so far
    return device.type == "cpu" and tiles is not None and bool(tiles())


@contextmanager
def one_order(asked: bool) -> Iterator[None]:
    """Algorithms whose sums have one order, where that is asked for: on a GPU atomic additions, cuDNN's choice by the clock and
    cuBLAS's many workspaces make the same update different in its last bits each time. Torch's settings are put back after it.

    cuBLAS reads its setting when it is first used, so a process that multiplied matrices on a GPU before it trains has to be
    started with CUBLAS_WORKSPACE_CONFIG=:4096:8.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    by_clock = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.backends.cudnn.benchmark = by_clock
