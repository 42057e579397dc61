"""Devices by name."""

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
