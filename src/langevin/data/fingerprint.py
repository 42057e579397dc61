"""What a data set holds, told by a few of its rows: whether a run goes on on the data it was begun with."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from langevin.core.tree import leaves
from langevin.data.stream import PIPE, Stream

ROWS = 32
"""Rows that are looked at, evenly spread, the first and the last among them."""


def fingerprint(source: Any) -> str | None:
    """A hash of 32 rows at fixed places, or of a stream's urls; None where rows cannot be read, or are other ones each time.

    Whole numbers count as they are. Of others, three sums over each row count to three digits: what another machine makes of
    the same files in its last digits is the same data.
    """
    if isinstance(source, Stream):
        said = [url if url.startswith(PIPE) else url.rpartition("/")[2] for url in source.urls]
        return hashlib.sha256(str((said, source.reader)).encode()).hexdigest()[:16]
    try:
        n = len(source)
        places = sorted({k * (n - 1) // (ROWS - 1) for k in range(ROWS)})
        rows = [_row(source, place) for place in places]
        if _row(source, places[0]) != rows[0]:
            return None
    except Exception:  # what cannot be read is told where training meets it
        return None
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _row(source: Any, place: int) -> str:
    batch = source.batch(torch.tensor([place]))
    parts = {"x": batch.x, "source": batch.source, "mask": batch.mask, "cond": batch.cond}
    return " ".join(f"{part} {name} {_told(value)}" for part, held in parts.items() for name, value in _tensors(held))


def _tensors(held: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in sorted(leaves(held).items()) if isinstance(value, Tensor))


def _told(value: Tensor) -> str:
    if not value.is_floating_point():
        return f"{tuple(value.shape)} {value.flatten().tolist()}"
    flat = value.detach().flatten().double()
    size = float(flat.square().mean().sqrt()) if flat.numel() else 0.0
    if not 0 < size < math.inf:
        return f"{tuple(value.shape)} {size}"
    # a step of the size's own power of two, so that it is the same for sizes that differ in their last digits
    step = 2.0 ** (math.floor(math.log2(size)) - 9)
    mixed = flat * torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
    return f"{tuple(value.shape)} {[round(float(v) / step) for v in (size * torch.ones(()), flat.mean(), mixed.mean())]}"
