"""What a data set holds, told by a few of its rows: whether a run goes on on the data it was begun with."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from langevin.core.tree import leaves
from langevin.data.stream import PIPE, Stream

ROWS = 32
"""Rows that are looked at, evenly spread, the first and the last among them."""
TOLERANCE = 0.01
"""By how much of a row's size the same data may differ."""


def fingerprint(source: Any) -> str | None:
    """What tells a data set from others: of 32 rows at fixed places, as JSON, or a hash of a stream's urls. None where rows
    cannot be read, or are other ones each time.

    Whole numbers count as they are, by a hash. Of others three numbers of each row are kept (its size, its mean, and a mean under
    signs that vary), which `agree` compares: another decoder of the same files is off by a level here and there.
    """
    if isinstance(source, Stream):
        said = [url if url.startswith(PIPE) else url.rpartition("/")[2] for url in source.urls]
        return hashlib.sha256(str((said, source.reader)).encode()).hexdigest()[:16]
    try:
        n = len(source)
        places = sorted({k * (n - 1) // (ROWS - 1) for k in range(ROWS)})
        rows = [_row(source, place) for place in places]
        if [_row(source, place) for place in places] != rows:  # of a flip by chance one row says nothing half the time
            return None
    except Exception:  # what cannot be read is told where training meets it
        return None
    told = "\n".join(" ".join(f"{name} {_rounded(value)}" for name, value in row) for row in rows)
    kept = [{name: _kept(value) for name, value in row} for row in rows]
    return json.dumps({"hash": hashlib.sha256(told.encode()).hexdigest()[:16], "rows": kept}, separators=(",", ":"))


def agree(was: str, now: str) -> bool:
    """Whether two fingerprints are of the same data: floats by 1 % of the size of their row, or of the usual row.

    One of an older checkpoint is a hash alone, of the same numbers to three digits.
    """
    if was == now:
        return True
    if not (was.startswith("{") and now.startswith("{")):
        return "{" in now and json.loads(now)["hash"] == was
    ours, theirs = json.loads(was)["rows"], json.loads(now)["rows"]
    if [[*row] for row in ours] != [[*row] for row in theirs]:
        return False
    for name in ours[0] if ours else ():
        both = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
        sizes = [a[1] for a, _ in both if len(a) == 4]
        usual = sum(sizes) / max(len(sizes), 1)
        for a, b in both:
            if len(a) != len(b) or a[0] != b[0]:
                return False
            if len(a) != 4:
                if a != b:
                    return False
            elif max(abs(p - q) for p, q in zip(a[1:], b[1:], strict=True)) > TOLERANCE * max(a[1], usual):
                return False
    return True


def _row(source: Any, place: int) -> list[tuple[str, list[Any]]]:
    """Names of the tensors of a row, and what is told of each: its shape, and its whole numbers, or three of its floats."""
    batch = source.batch(torch.tensor([place]))
    parts = {"x": batch.x, "source": batch.source, "mask": batch.mask, "cond": batch.cond}
    return [(f"{part} {name}", _told(value)) for part, held in parts.items() for name, value in _tensors(held)]


def _tensors(held: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in sorted(leaves(held).items()) if isinstance(value, Tensor))


def _told(value: Tensor) -> list[Any]:
    shape = str(tuple(value.shape))
    if not value.is_floating_point():
        return [shape, str(value.flatten().tolist())]
    flat = value.detach().flatten().double().cpu()
    size = float(flat.square().mean().sqrt()) if flat.numel() else 0.0
    if not math.isfinite(size):
        return [shape, str(size)]
    mixed = flat * torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
    return [shape, size, float(flat.mean()), float(mixed.mean())] if flat.numel() else [shape, 0.0, 0.0, 0.0]


def _kept(told: list[Any]) -> list[Any]:
    """What is told of a tensor, short: five digits of its floats, a hash of its whole numbers."""
    if len(told) == 2:
        return [told[0], hashlib.sha256(told[1].encode()).hexdigest()[:16]]
    return [told[0], *(float(f"{v:.5g}") for v in told[1:])]


def _rounded(told: list[Any]) -> str:
    """What is told of a tensor as older checkpoints hash it."""
    if len(told) == 2 or told[1] == 0:
        return f"{told[0]} {told[1]}"
    # a step of the size's own power of two, so that it is the same for sizes that differ in their last digits
    step = 2.0 ** (math.floor(math.log2(told[1])) - 9)
    size = float(torch.tensor(told[1], dtype=torch.float32))
    return f"{told[0]} {[round(v / step) for v in (size, *told[2:])]}"
