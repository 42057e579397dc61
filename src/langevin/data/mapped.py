"""Data sets of one's own, of the kind that torch's DataLoader reads by index."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from langevin.core.batch import Batch
from langevin.data.arrays import numbers
from langevin.data.decode import to_unit

Place = int | str
"""Where in an item something stands: a position of a tuple, or a key of a dict."""


class Dataset:
    """A map-style data set: anything with a length whose items are read one by one, such as a torch.utils.data.Dataset.

    An item is the sample itself, or a tuple, list or dict with it. Samples may be tensors, numpy arrays, numbers or PIL pictures,
    which become (C, H, W); uint8 is pictures, given as floats in [-1, 1].

    Sample k is what `dataset[k]` gives. An item that is drawn anew each time makes a run that cannot be repeated; what training
    changes at random belongs into `augment` (see `Source`).

    Args:
        dataset: what is read, in the worker processes of `fit(workers=)` too, as it is forked into them.
        x: where the sample stands in an item, if it is not the item.
        label: where its class stands, an integer, which becomes cond["label"]; None for none.
        cond: further conditions by name, and where they stand.

    Raises:
        ValueError: for a data set without a length or an item, for places that its items do not have, and, when a batch is read,
            for samples of another shape than the first.
    """

    def __init__(self, dataset: Any, x: Place = 0, label: Place | None = None, cond: Mapping[str, Place] | None = None) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ValueError(f"dataset is a {type(dataset).__name__}, which has no length and items; write shards for a Stream.")
        if not len(dataset):
            raise ValueError("dataset has no items; give at least one.")
        self.dataset, self._x = dataset, x
        self._cond: dict[str, Place] = {**({} if label is None else {"label": label}), **(cond or {})}
        first, held = self._read(0)
        self.shape = tuple(first.shape)
        self._shapes = {name: tuple(value.shape) for name, value in held.items()}

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor) -> Batch:
        rows = [(k, *self._read(k)) for k in torch.as_tensor(index).tolist()]
        for k, x, held in rows:
            for name, shape, wanted in (
                ("sample", tuple(x.shape), self.shape),
                *((f"{name} of sample", tuple(v.shape), self._shapes[name]) for name, v in held.items()),
            ):
                if shape != wanted:
                    raise ValueError(f"{name} {k} has shape {shape}, and that of sample 0 is {wanted}; make them agree.")
        cond = {name: torch.stack([held[name] for _, _, held in rows]) for name in self._cond}
        return Batch(torch.stack([x for _, x, _ in rows]), cond or None)

    def digest(self) -> str:
        """SHA-256 of all samples and conditions, which are read for it."""
        total = hashlib.sha256()
        for k in range(len(self)):
            x, held = self._read(k)
            for name, value in (("", x), *sorted(held.items())):
                total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + value.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    def _read(self, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        item = self.dataset[k]
        x = _at(item, self._x, "x") if isinstance(item, (tuple, list, Mapping)) else item
        held = {name: _tensor(_at(item, place, name), f"{name} of item {k}") for name, place in self._cond.items()}
        return to_unit(_tensor(x, f"sample {k}")), held


def _at(item: Any, place: Place, what: str) -> Any:
    try:
        return item[place]
    except (KeyError, IndexError, TypeError):
        has = f"the keys {list(item)}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
        raise ValueError(f"{what} is {place!r} of an item, and items are {has}; say where it stands in them.") from None


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Image.Image):
        pixels = torch.from_numpy(np.array(value))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    value = numbers(value, what, "let items hold tensors, arrays, numbers or pictures, and say where in them")
    return value.float() if value.dtype == torch.float64 else value.long() if value.dtype == torch.int32 else value


def remedy(data: Any) -> str:
    """What to do about data that is no source, for a sentence."""
    if isinstance(data, torch.utils.data.DataLoader):
        return (
            "pass what it reads, as langevin.data.Dataset(loader.dataset, x=0, label=1); batch= and workers= of fit do the rest"
        )
    if isinstance(data, torch.utils.data.IterableDataset):
        return "it has no index: write it as tar shards and read those, by langevin.data.Shards or Stream"
    if isinstance(data, (Tensor, np.ndarray)):
        return 'wrap it as langevin.data.Arrays(x), or Arrays(x, {"label": labels})'
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple, dict, str)):
        return "wrap it as langevin.data.Dataset(data, x=0, label=1), with where in its items sample and label stand"
    return "wrap tensors in langevin.data.Arrays(x, cond), and a data set that is read by index in langevin.data.Dataset(data)"
