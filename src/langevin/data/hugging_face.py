"""Data sets of the `datasets` library."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data.decode import Kept, Unreadable, decode, mirror, to_unit


class HFDataset:
    """Pictures in a `datasets.Dataset`, which stays on disk; x is floats in [-1, 1].

    Args:
        dataset: a split, such as `datasets.load_dataset(...)["train"]`, or a folder written by `save_to_disk`.
        image: column of pictures. They are decoded here, under this library's limits.
        label: column of class numbers, for cond["label"]; None for none.
        caption: column of text, for `captions`; None for none.
        size: side in pixels to which pictures are cropped and resized.
        channels: 3 for colour, 1 for grey.
        flip: training sees half of the pictures mirrored, chosen by (seed, place).
        keep: bytes of decoded pictures kept in memory, in each process that reads.

    Raises:
        ImportError: without the library `datasets`.
        ValueError: for columns that are not there or do not hold what they should.
    """

    def __init__(
        self,
        dataset: Any,
        image: str = "image",
        label: str | None = "label",
        caption: str | None = None,
        size: int = 64,
        channels: int = 3,
        flip: bool = False,
        keep: int = 1 << 29,
    ) -> None:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("HFDataset needs the library datasets; pip install datasets.") from None
        if isinstance(dataset, (str, Path)):
            dataset = datasets.load_from_disk(str(dataset))
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(f"dataset is a {type(dataset).__name__}; choose a split, such as dataset['train'].")
        for field, name in (("image", image), ("label", label), ("caption", caption)):
            if name is not None and name not in dataset.column_names:
                raise ValueError(f"{field} is {name!r}, which the data set lacks; it has {', '.join(dataset.column_names)}.")
        if not len(dataset):
            raise ValueError("dataset has no rows; choose another split.")
        if not isinstance(dataset.features[image], datasets.Image):
            raise ValueError(f"image is {image!r}, which holds no pictures; cast it to datasets.Image().")
        self._packed = dataset.with_format(None).select_columns([image]).cast_column(image, datasets.Image(decode=False))
        self._name, self.size, self.channels, self.flip = image, (size, size), channels, flip
        self.shape = (channels, size, size)
        self.labels = None if label is None else _labels(label, dataset.with_format(None)[label][:])
        self.captions = None if caption is None else _captions(caption, dataset.with_format(None)[caption][:])
        self._kept = Kept(keep)

    def __len__(self) -> int:
        return len(self._packed)

    def _bytes(self, index: int) -> bytes:
        said = self._packed[index][self._name]
        if said is None:
            raise ValueError(f"row {index} has no picture; filter it out.")
        return said["bytes"] if said["bytes"] is not None else Path(said["path"]).read_bytes()

    def _read(self, index: int) -> Tensor:
        try:
            return self._kept.get(index, lambda: decode(io.BytesIO(self._bytes(index)), self.size, self.channels))
        except (Unreadable, OSError) as error:
            why = error if isinstance(error, Unreadable) else type(error).__name__
            raise ValueError(f"row {index} cannot be read: {why}; filter it out.") from None

    def batch(self, index: Tensor) -> Batch:
        return Batch(to_unit(torch.stack([self._read(i) for i in index.tolist()])), self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without decoding."""
        return None if self.labels is None else {"label": self.labels[index]}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def digest(self) -> str:
        """SHA-256 over pictures, labels, captions, and what pictures are made into."""
        total = hashlib.sha256(str((self.shape, None if self.labels is None else self.labels.tolist(), self.captions)).encode())
        for k in range(len(self)):
            total.update(self._bytes(k))
        return total.hexdigest()[:16]


def _labels(name: str, column: list[Any]) -> Tensor:
    if not all(type(v) is int and v >= 0 for v in column):
        raise ValueError(f"label is {name!r}, which holds other things than integers from 0; pass label=None, or encode it.")
    return torch.tensor(column)


def _captions(name: str, column: list[Any]) -> list[str]:
    if not all(isinstance(v, str) and v.strip() for v in column):
        raise ValueError(f"caption is {name!r}, which has rows without text; filter them out.")
    return column
