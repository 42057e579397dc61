"""Tar shards on disk, in any order."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data import tar
from langevin.data.contents import contents
from langevin.data.decode import Kept, mirror, to_unit
from langevin.data.members import Reader, arrays, extension_of, is_data, join, naming
from langevin.data.scan import check_broken, judge
from langevin.data.split import check_split, empty, in_split

T = TypeVar("T")


class Shards:
    """Samples in tar shards, written as WebDataset writes them; read in any order. All are read once before, with threads, and
    everything that is wrong with any of them is said at once.

    Args:
        paths: a folder of *.tar, a tar, or a list of them; uncompressed.
        size: side in pixels to which pictures are cropped and resized.
        channels: 3 for colour, 1 for grey.
        held_out: share of samples kept for testing, chosen by a hash of shard and key.
        split: "train", "test" or "all".
        flip: training sees half of the samples mirrored, chosen by (seed, place).
        keep: bytes of decoded samples kept in memory, in each process that reads.
        broken: "fail" refuses shards with samples that cannot be read, naming each; "skip" leaves them out and says so.
        max_skipped: largest share of broken samples that "skip" may leave out.
        scan_file: JSON in which the reading is remembered, for shards whose size and time of change stay as they are.
        progress: show a bar while reading, on a terminal.
        labels: False leaves labels unread.

    What members mean is said at `langevin.data.members.Reader`. Pictures come as floats in [-1, 1].

    Raises:
        FileNotFoundError: if there are no shards, or no samples in them.
        ValueError: for a shard that is damaged or has members it must not have (see `langevin.data.tar.samples`), for samples
            that cannot be read, as `broken` says, and if only some samples have labels, or captions.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        size: int = 64,
        channels: int = 3,
        held_out: float = 0.1,
        split: str = "train",
        flip: bool = False,
        keep: int = 1 << 29,
        broken: str = "fail",
        max_skipped: float = 0.01,
        scan_file: str | Path | None = None,
        progress: bool = True,
        labels: bool = True,
    ) -> None:
        check_broken(broken)
        check_split(split, held_out)
        self.reader, self.flip, self._share, self._limit = Reader(size, channels, labels), flip, held_out, keep
        every = contents(shard_paths(paths), None if scan_file is None else Path(scan_file), progress)
        bad = {str(one.sample): one.seen for one in every if isinstance(one.seen, str)}
        judge(bad, len(every), broken, max_skipped, "samples")
        self._all = [one for one in every if not isinstance(one.seen, str)]
        if not self._all:
            raise FileNotFoundError(f"{paths} has shards without samples{' that are whole' * bool(bad)}; give others.")
        told = self._all_have([one.label for one in self._all], "label") if labels else None
        self._labels = None if told is None else torch.tensor(told)
        self._texts = self._all_have([one.caption for one in self._all], "caption")
        first = self._all[0]
        self.shape = tuple(first.seen) if extension_of(first.sample.members) == "npy" else (channels, size, size)
        self._choose(split)

    def part(self, split: str) -> "Shards":
        """Another split of the same scan."""
        check_split(split, self._share)
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: str) -> None:
        names = [f"{one.path.name}/{one.sample.key}" for one in self._all]
        chosen = [i for i, name in enumerate(names) if in_split(name, self._share, split)]
        if not chosen:
            raise FileNotFoundError(empty(split, self._share, len(self._all), "samples in shards"))
        self._samples = [self._all[i] for i in chosen]
        self.labels = None if self._labels is None else self._labels[chosen]
        self.captions = None if self._texts is None else [self._texts[i] for i in chosen]
        self._kept = Kept(self._limit)

    def _all_have(self, values: list[T | None], what: str) -> list[T] | None:
        without = [one.sample for one, value in zip(self._all, values, strict=True) if value is None]
        if 0 < len(without) < len(values):
            raise ValueError(
                f"{len(without)} of {len(values)} samples have no {what}, the first {without[0]}; give all one, or none."
            )
        return None if without else [value for value in values if value is not None]

    def __len__(self) -> int:
        return len(self._samples)

    def _bytes(self, index: int, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        one = self._samples[index]
        return {e: tar.fetch(one.path, m) for e, m in one.sample.members.items() if wanted(e)}

    def _x(self, index: int) -> Tensor:
        with naming(self._samples[index].sample):
            return self._kept.get(index, lambda: self.reader.x(self._bytes(index, is_data)))

    def _cond(self, index: int) -> dict[str, Tensor]:
        with naming(self._samples[index].sample):
            given = arrays(self._bytes(index, lambda e: e.endswith(".npy")))
        return given if self.labels is None else {"label": self.labels[index], **given}

    def batch(self, index: Tensor) -> Batch:
        x = join([(str(self._samples[i].sample), {"x": self._x(i)}) for i in torch.as_tensor(index).tolist()])["x"]
        return Batch(to_unit(x), self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without decoding x."""
        return join([(str(self._samples[i].sample), self._cond(i)) for i in torch.as_tensor(index).tolist()]) or None

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def digest(self) -> str:
        """SHA-256 over keys, contents, and what pictures are made into, for protocol cards and caches."""
        total = hashlib.sha256(str(self.reader).encode())
        for one in self._samples:
            for extension, member in sorted(one.sample.members.items()):
                total.update(f"{one.sample.key}.{extension}".encode() + tar.fetch(one.path, member))
        return total.hexdigest()[:16]


def shard_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shards that `paths` names: a folder's *.tar, sorted, or the files themselves."""
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    found = [p for g in given for p in (sorted(g.glob("*.tar")) if g.is_dir() else [g])]
    missing = [p for p in found if not p.is_file()]
    if missing or not found:
        raise FileNotFoundError(f"{missing[0] if missing else paths} has no shard; give a folder with *.tar, or the files.")
    return found
