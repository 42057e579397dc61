"""Tar shards on disk, in any order."""

import copy
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data import tar
from langevin.data.decode import SUFFIXES, Kept, Unreadable, decode, mirror, read_npy, read_text, to_unit
from langevin.data.split import check_split, in_split

_PICTURES = {s.removeprefix(".") for s in SUFFIXES}
_FACTS = {"cls", "txt", "json"}


def is_data(extension: str) -> bool:
    """Whether members of this extension are x."""
    return extension in _PICTURES or extension == "npy"


@dataclass(frozen=True)
class Reader:
    """From the members of a sample to tensors.

    By extension: one of png, jpg, jpeg, webp, bmp, gif, npy is x; cls is cond["label"], an integer; NAME.npy is cond[NAME],
    such as an embedding; txt, or json with "caption" or "text", is the caption; json may have "label" too. All else is left
    alone.
    """

    size: int
    channels: int

    def x(self, data: Mapping[str, bytes]) -> Tensor:
        """(C, H, W) uint8, or the array."""
        found = sorted(filter(is_data, data))
        if len(found) != 1:
            raise Unreadable(f"it has {' and '.join(found) or 'neither picture nor npy'}; there must be one")
        if found == ["npy"]:
            return _numbers(data["npy"])
        return decode(io.BytesIO(data[found[0]]), (self.size, self.size), self.channels)

    def cond(self, data: Mapping[str, bytes]) -> dict[str, Tensor]:
        """Conditions by name."""
        label, _ = facts(data)
        given = {} if label is None else {"label": torch.tensor(label)}
        return given | {e.removesuffix(".npy"): _numbers(d) for e, d in data.items() if e.endswith(".npy")}


def join(rows: Sequence[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """(name, tensors) of each sample to tensors (B, ...).

    Raises:
        ValueError: naming a sample that does not fit the first.
    """
    first, like = rows[0]
    for name, tensors in rows:
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in like.items()}:
            raise ValueError(
                f"{name} has {_shapes(tensors)} where {first} has {_shapes(like)}; give all samples the same shapes."
            )
    return {n: torch.stack([t[n] for _, t in rows]) for n in like}


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{n} {tuple(t.shape)}" for n, t in sorted(tensors.items())) or "nothing"


def _numbers(data: bytes) -> Tensor:
    try:
        return torch.from_numpy(read_npy(data).copy())
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable("its npy holds a type that torch lacks") from None


def facts(data: Mapping[str, bytes]) -> tuple[int | None, str | None]:
    """(label, caption) of a sample.

    Raises:
        Unreadable: if they are not what their extensions say.
    """
    said: dict[str, object] = {}
    if "json" in data:
        try:
            said = dict(json.loads(data["json"]))
        except (ValueError, TypeError, RecursionError):
            raise Unreadable("its json is no object") from None
    label, text = said.get("label"), said.get("caption", said.get("text"))
    if "cls" in data:
        try:
            label = int(data["cls"][:32])
        except ValueError:
            raise Unreadable("its cls is no integer") from None
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        raise Unreadable(f"its label is {str(label)[:40]!r}; labels are integers from 0")
    if "txt" in data:
        text = read_text(data["txt"])
    if text is not None and not isinstance(text, str):
        raise Unreadable("its caption is no text")
    return label, text


class Shards:
    """Samples in tar shards, written as WebDataset writes them; read in any order, by offsets found in one scan of the headers.

    Args:
        paths: a folder of *.tar, a tar, or a list of them; uncompressed.
        size: side in pixels to which pictures are cropped and resized.
        channels: 3 for colour, 1 for grey.
        held_out: share of samples kept for testing, chosen by a hash of shard and key.
        split: "train", "test" or "all".
        flip: training sees half of the samples mirrored, chosen by (seed, place).
        keep: bytes of decoded samples kept in memory, in each process that reads.

    What members mean is said at `Reader`. Pictures come as floats in [-1, 1]; a sample that cannot be decoded is an error
    when it is read.

    Raises:
        FileNotFoundError: if there are no shards.
        ValueError: for a shard that is damaged or has members it must not have (see `langevin.data.tar.samples`), and if
            only some samples have labels, or captions.
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
    ) -> None:
        check_split(split, held_out)
        self.reader, self.flip, self._share, self._limit = Reader(size, channels), flip, held_out, keep
        self._all: list[tuple[Path, tar.Sample]] = []
        labels, texts = [], []
        for path in shard_paths(paths):
            with path.open("rb") as file:
                for sample in tar.samples(file, str(path), _FACTS):
                    with naming(sample):
                        label, text = facts(packed(sample))
                    labels.append(label)
                    texts.append(text)
                    self._all.append((path, sample))
        if not self._all:
            raise FileNotFoundError(f"{paths} has shards without samples; give others.")
        self._labels = torch.tensor(labels) if self._all_have(labels, "label") else None
        self._texts = texts if self._all_have(texts, "caption") else None
        self._choose(split)
        self.shape = tuple(self._x(0).shape)

    def part(self, split: str) -> "Shards":
        """Another split of the same scan."""
        check_split(split, self._share)
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: str) -> None:
        chosen = [i for i, (p, s) in enumerate(self._all) if in_split(f"{p.name}/{s.key}", self._share, split)]
        if not chosen:
            raise FileNotFoundError(f"the {split} split of the shards is empty; change held_out or add samples.")
        self._samples = [self._all[i] for i in chosen]
        self.labels = None if self._labels is None else self._labels[chosen]
        self.captions = None if self._texts is None else [self._texts[i] for i in chosen]
        self._kept = Kept(self._limit)

    def _all_have(self, values: Sequence[object], what: str) -> bool:
        without = [s for (_, s), v in zip(self._all, values, strict=True) if v is None]
        if 0 < len(without) < len(values):
            raise ValueError(
                f"{len(without)} of {len(values)} samples have no {what}, the first {without[0]}; give all one, or none."
            )
        return not without

    def __len__(self) -> int:
        return len(self._samples)

    def _bytes(self, index: int, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        path, sample = self._samples[index]
        return {e: m.data if m.data is not None else tar.fetch(path, m) for e, m in sample.members.items() if wanted(e)}

    def _x(self, index: int) -> Tensor:
        with naming(self._samples[index][1]):
            return self._kept.get(index, lambda: self.reader.x(self._bytes(index, is_data)))

    def _cond(self, index: int) -> dict[str, Tensor]:
        with naming(self._samples[index][1]):
            return self.reader.cond(self._bytes(index, lambda e: not is_data(e)))

    def batch(self, index: Tensor) -> Batch:
        x = join([(str(self._samples[i][1]), {"x": self._x(i)}) for i in index.tolist()])["x"]
        return Batch(to_unit(x), self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without decoding x."""
        return join([(str(self._samples[i][1]), self._cond(i)) for i in index.tolist()]) or None

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def digest(self) -> str:
        """SHA-256 over keys, contents, and what pictures are made into, for protocol cards and caches."""
        total = hashlib.sha256(str(self.reader).encode())
        for path, sample in self._samples:
            for extension, member in sorted(sample.members.items()):
                total.update(f"{sample.key}.{extension}".encode() + tar.fetch(path, member))
        return total.hexdigest()[:16]


def shard_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shards that `paths` names: a folder's *.tar, sorted, or the files themselves."""
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    found = [p for g in given for p in (sorted(g.glob("*.tar")) if g.is_dir() else [g])]
    missing = [p for p in found if not p.is_file()]
    if missing or not found:
        raise FileNotFoundError(f"{missing[0] if missing else paths} has no shard; give a folder with *.tar, or the files.")
    return found


def packed(sample: tar.Sample) -> dict[str, bytes]:
    """The bytes that were read with the headers, by extension."""
    return {e: m.data for e, m in sample.members.items() if m.data is not None}


@contextmanager
def naming(sample: tar.Sample) -> Iterator[None]:
    """Says which sample cannot be read."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"{sample} cannot be read: {error}.") from None
