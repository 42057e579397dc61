"""Numbers of any scale as numbers of mean 0 and deviation 1, which processes are made for, and the way back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from langevin.data.arrays import Arrays


def standardised(x: Any, cond: Mapping[str, Any] | None = None, axis: int | None = 1) -> tuple[Arrays, Tensor, Tensor]:
    """(data, mean, std), with data.x = (x - mean) / std, so that samples are put back by `samples * std + mean`.

    A log-likelihood of x in nats is that of (x - mean) / std, less the sum of log std over all numbers of a sample.

    Args:
        x: (N, *shape) numbers, as a tensor, a numpy array or lists.
        cond: as for `Arrays`.
        axis: of x along which statistics differ: 1 for each column of a table and each channel of pictures; None for one mean and
            deviation of all numbers, which leaves angles and distances alone, as points in space need it.

    Returns:
        mean and std broadcast to x and to samples: (1, D) for tables, (1, C, 1, 1) for pictures. Where nothing varies std is 1.

    Raises:
        ValueError: if x is no numbers of two rows or more, or holds some that are not finite.
    """
    values = torch.as_tensor(x)
    if values.ndim < 1 or len(values) < 2 or values.is_complex():
        raise ValueError(
            f"x has shape {tuple(values.shape)} and dtype {values.dtype}; give (N, *shape) real numbers, N at least 2."
        )
    if axis is not None and axis % values.ndim == 0:
        raise ValueError(f"axis is {axis} of {values.ndim}; name one from 1 to {values.ndim - 1}, or None.")
    kept = values.double()
    if not bool(kept.isfinite().all()):
        raise ValueError("x holds numbers that are not finite; leave those rows out, or fill them in.")
    over = tuple(k for k in range(values.ndim) if axis is None or k != axis % values.ndim)
    std, mean = torch.std_mean(kept, over, correction=0, keepdim=True)
    # what rounding makes of a constant is no deviation
    std = torch.where(std > 1e-12 * mean.abs().clamp(min=1e-300), std, 1.0)
    return Arrays(((kept - mean) / std).float(), cond), mean.float(), std.float()
