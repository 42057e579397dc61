"""Devices by name, what they hold, and torch's global generator on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one.

    Raises:
        ValueError: for one that this machine does not have.
    """
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=chosen)
        if chosen.type == "meta":  # which holds no numbers
            raise RuntimeError
    except (RuntimeError, AssertionError, TypeError):
        raise ValueError(f"device is {str(name)!r}, which this machine does not have; use 'cpu' or 'auto'.") from None
    return chosen


def refuse_beyond(field: str, value: object, numbers: float, device: torch.device, remedy: str) -> None:
    """Refuse what a machine cannot hold, before it tries: where memory ends, the system ends the program without a word.

    Args:
        field, value: what asks for it.
        numbers: float32 numbers that are needed at once, at least.
        remedy: what to do, the end of a sentence.

    Raises:
        ValueError: where they are more than the memory of the device.
    """
    if device.type == "cuda":
        have = torch.cuda.get_device_properties(device).total_memory
    elif device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    need, have = 4 * numbers / 2**30, have / 2**30
    if need > have:
        said, there = (f"{n:,.0f}" if n >= 10 else f"{n:.2g}" for n in (need, have))
        raise ValueError(f"{field} is {value}, which takes at least {said} GB of memory, and there are {there}; {remedy}.")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generator, which only dropout and initialisation use, set for a while and put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
