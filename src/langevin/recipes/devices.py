"""Where a run is computed."""

import os

import torch

from langevin.devices import device_of


def device_of_process(name: str) -> torch.device:
    """As `device_of`, where there is a GPU for each process."""
    chosen = device_of(name)
    needed = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0")) + 1)
    if chosen.type == "cuda" and needed > 1 and needed > (there := torch.cuda.device_count()):
        raise ValueError(f"processes is {needed}, but this machine has {there} GPUs; use at most {there}, or --device cpu.")
    return chosen
