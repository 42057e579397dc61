"""Data sets of the `datasets` library."""

import copy
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data.decode import Kept, Unreadable, decode, measure, mirror, to_unit
from langevin.data.scan import alone, check_broken, judge, looked, remember, stamp_of
from langevin.data.split import check_split, empty, in_split


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
        held_out: share of rows kept for testing, chosen by a hash of the row's number.
        split: "train", "test" or "all".
        broken: "fail" refuses rows whose pictures cannot be read, naming each; "skip" leaves them out and says so.
        max_skipped: largest share of broken rows that "skip" may leave out.
        scan_file: JSON in which the scan is remembered, for a data set whose files stay as they are, and hold the pictures
            themselves.
        progress: show a bar while scanning, on a terminal.

    Raises:
        ImportError: without the library `datasets`.
        FileNotFoundError: if a split has no rows.
        ValueError: for columns that are not there or do not hold what they should, and for rows that cannot be read, as `broken`
            says.
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
        held_out: float = 0.0,
        split: str = "all",
        broken: str = "fail",
        max_skipped: float = 0.01,
        scan_file: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        check_broken(broken)
        check_split(split, held_out)
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
        self._labels = None if label is None else _labels(label, dataset.with_format(None)[label][:])
        self._texts = None if caption is None else _captions(caption, dataset.with_format(None)[caption][:])
        self._share, self._limit = held_out, keep
        stamp = [str(getattr(dataset, "_fingerprint", "")), image, len(dataset)]
        bad = self._scan([*stamp, *_stamps(dataset)], None if scan_file is None else Path(scan_file), progress)
        judge({f"row {row}": why for row, why in bad.items()}, len(dataset), broken, max_skipped, "rows")
        self._whole = [row for row in range(len(dataset)) if row not in bad]
        self._choose(split)

    def part(self, split: str) -> "HFDataset":
        """Another split of the same scan."""
        check_split(split, self._share)
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: str) -> None:
        self.rows = [row for row in self._whole if in_split(str(row), self._share, split)]
        if not self.rows:
            raise FileNotFoundError(empty(split, self._share, len(self._whole), "rows"))
        self.labels = None if self._labels is None else self._labels[self.rows]
        self.captions = None if self._texts is None else [self._texts[row] for row in self.rows]
        self._kept = Kept(self._limit)

    def _scan(self, stamp: list[Any], file: Path | None, progress: bool) -> dict[int, str]:
        """Why rows cannot be read."""
        with alone(file):
            if (known := _known(file, stamp)) is not None:
                return known
            seen = looked(self._look, range(len(self._packed)), progress)
            bad = {row: why for row, (why, _) in enumerate(seen) if why is not None}
            if file is not None and all(within for _, within in seen):  # of others, files may change that nobody stamps
                remember(file, {"stamp": stamp, "bad": {str(row): why for row, why in bad.items()}})
        return bad

    def _look(self, row: int) -> tuple[str | None, bool]:
        """(why a row cannot be read, or None; whether the data set itself holds its picture)."""
        said = self._packed[row][self._name]
        within = said is None or said["bytes"] is not None
        try:
            measure(io.BytesIO(_bytes(said)))
        except Unreadable as error:
            return str(error), within
        return None, within

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, index: int) -> Tensor:
        row = self.rows[index]
        try:
            return self._kept.get(
                index, lambda: decode(io.BytesIO(_bytes(self._packed[row][self._name])), self.size, self.channels)
            )
        except Unreadable as error:
            raise ValueError(f"row {row} was whole when it was scanned and cannot be read any more: {error}.") from None

    def batch(self, index: Tensor) -> Batch:
        return Batch(to_unit(torch.stack([self._read(i) for i in torch.as_tensor(index).tolist()])), self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without decoding."""
        return None if self.labels is None else {"label": self.labels[index]}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def digest(self) -> str:
        """SHA-256 over pictures, labels, captions, and what pictures are made into."""
        total = hashlib.sha256(str((self.shape, None if self.labels is None else self.labels.tolist(), self.captions)).encode())
        for row in self.rows:
            total.update(_bytes(self._packed[row][self._name]))
        return total.hexdigest()[:16]


def _bytes(said: Any) -> bytes:
    """Of a picture, in the data set or in a file that it names."""
    if said is None:
        raise Unreadable("it has no picture")
    try:
        return said["bytes"] if said["bytes"] is not None else Path(said["path"]).read_bytes()
    except OSError as error:
        raise Unreadable(type(error).__name__) from None


def _stamps(dataset: Any) -> list[Any]:
    return [[str(one["filename"]), *(stamp_of(Path(one["filename"])) or [])] for one in dataset.cache_files]


def _known(file: Path | None, stamp: list[Any]) -> dict[int, str] | None:
    try:
        said = json.loads(file.read_bytes()) if file else {}
        return {int(row): str(why) for row, why in said["bad"].items()} if said["stamp"] == stamp else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _labels(name: str, column: list[Any]) -> Tensor:
    if not all(type(v) is int and v >= 0 for v in column):
        raise ValueError(f"label is {name!r}, which holds other things than integers from 0; pass label=None, or encode it.")
    return torch.tensor(column)


def _captions(name: str, column: list[Any]) -> list[str]:
    if not all(isinstance(v, str) and v.strip() for v in column):
        raise ValueError(f"caption is {name!r}, which has rows without text; filter them out.")
    return column
