"""In which numbers a network is run while it is trained."""

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
