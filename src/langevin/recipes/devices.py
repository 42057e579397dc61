"""Where a run is computed."""

import os

import torch


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one. Raises ValueError for one that this machine does not have."""
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device is {name!r}, which this machine does not have; use 'cpu' or 'auto'.") from None
    return chosen


def device_of_process(name: str) -> torch.device:
    """As `device_of`, where there is a GPU for each process."""
    chosen = device_of(name)
    needed = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0")) + 1)
    if chosen.type == "cuda" and needed > 1 and needed > (there := torch.cuda.device_count()):
        raise ValueError(f"processes is {needed}, but this machine has {there} GPUs; use at most {there}, or --device cpu.")
    return chosen
