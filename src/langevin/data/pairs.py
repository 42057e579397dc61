"""Data for flows between two distributions: where paths begin, beside where they end."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.messages import one_line
from langevin.core.noise import Noise
from langevin.core.process import LeafProcess
from langevin.core.tree import leaves
from langevin.data.order import order
from langevin.data.source import Source


class _Joined:
    """Two sources as one. All but the beginnings is the data's own."""

    def __init__(self, data: Source, source: Source) -> None:
        if leaves(data.shape) != leaves(source.shape):
            raise ValueError(f"samples have shape {data.shape} and their beginnings {source.shape}; make them agree.")
        if any(getattr(s, "groups", None) is not None for s in (data, source)):
            raise ValueError("one source is grouped by shape, and paths join samples of one shape; read it without groups.")
        self.data, self.source = data, source
        self.shape = data.shape
        self.labels, self.classes, self.cond = (getattr(data, name, None) for name in ("labels", "classes", "cond"))

    def __len__(self) -> int:
        return len(self.data)

    def digest(self) -> str:
        """Hash of both; they need digests of their own."""
        both = (type(self).__name__, *(s.digest() for s in (self.data, self.source)))  # pyright: ignore[reportAttributeAccessIssue]
        return hashlib.sha256(" ".join(both).encode()).hexdigest()[:16]


class Pairs(_Joined):
    """Two sources row by row: sample k ends at data k and begins at source k.

    Args:
        data: where paths end, x.
        source: where they begin; its x becomes `Batch.source`, its conditions are left out.

    What training changes at random, such as flips, is the same on both sides.

    Raises:
        ValueError: if shapes or sizes differ, the rows of one are grouped by shape, or one side alone is flipped.
    """

    def __init__(self, data: Source, source: Source) -> None:
        super().__init__(data, source)
        if len(data) != len(source):
            raise ValueError(f"there are {len(data)} samples and {len(source)} beginnings; give one each, or use Unpaired.")
        self.flip, flip = (getattr(side, "flip", False) for side in (data, source))
        if self.flip != flip:
            raise ValueError(f"flip is {self.flip} for the samples and {flip} for their beginnings, which would part pairs; give "
                             "both the same.")  # fmt: skip

    def batch(self, index: Tensor) -> Batch:
        return replace(self.data.batch(index), source=self.source.batch(index).x)

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it: both sides changed by the same noise."""
        assert batch.source is not None
        seen, met = batch, Batch(batch.source)
        if own := getattr(self.data, "augment", None):
            seen = own(seen, noise)
        if own := getattr(self.source, "augment", None):
            met = own(met, noise)
        return replace(seen, source=met.x)


class Unpaired(_Joined):
    """Two sources that know nothing of each other, each read in its own endless shuffled order: every epoch of either has each of
    its samples once, and which meets which is new each time. Their sizes may differ.

    Args:
        data: where paths end, x.
        source: where they begin.

    Raises:
        ValueError: if shapes differ, or the rows of one are grouped by shape.
    """

    def batch(self, index: Tensor) -> Batch:
        """The samples at index, beside the source's at the same places, counted round."""
        return replace(self.data.batch(index), source=self.source.batch(index % len(self.source)).x)

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it: beside what stands in the source's own order at the places `noise.ids`."""
        # the order of `data` is named by the seed itself; any other name gives another order
        index = order(~noise.seed, len(self.source), int(noise.ids[0]), len(noise.ids))
        met, seen = self.source.batch(index), batch
        if own := getattr(self.data, "augment", None):
            seen = own(seen, noise)
        if own := getattr(self.source, "augment", None):
            met = own(met, noise.at("source"))
        return replace(seen, source=met.x)


class Starts:
    """The first samples of a source as places to begin at, as they are, under conditions of their own.

    Args:
        source: whose x they are.
        count: how many, or all where there are fewer.
        cond: conditions by name, each (count, ...) of what is to be made of them, such as labels.
    """

    def __init__(self, source: Source, count: int, cond: Mapping[str, Tensor] | None = None) -> None:
        self.source, self.count, self.cond, self.shape = source, min(count, len(source)), dict(cond or {}) or None, source.shape

    def __len__(self) -> int:
        return self.count

    def batch(self, index: Tensor) -> Batch:
        return Batch(self.source.batch(index).x, None if self.cond is None else {n: c[index] for n, c in self.cond.items()})

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.source.digest()} {self.count}".encode())  # pyright: ignore[reportAttributeAccessIssue]
        return _conditioned(total, self.cond)


class Prior:
    """The noise of a process as a data set: sample k is where `langevin.sample` begins sample k under this seed.

    Args:
        process: one process with a prior.
        shape: shape of one sample.
        count: how many.
        seed: any integer.
        cond: conditions by name, each (count, ...), such as the labels that samples are to have.
    """

    def __init__(
        self, process: LeafProcess, shape: tuple[int, ...], count: int, seed: int = 0, cond: Mapping[str, Tensor] | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"count is {count}; ask for at least 1 sample.")
        for name, value in (cond or {}).items():
            if len(value) != count:
                raise ValueError(f"cond[{name!r}] has {len(value)} entries for {count} samples; give one each.")
        self.process, self.shape, self.count, self.seed, self.cond = process, tuple(shape), count, seed, dict(cond or {}) or None

    def __len__(self) -> int:
        return self.count

    @torch.no_grad()  # schedules may be learned
    def batch(self, index: Tensor) -> Batch:
        noise = Noise(self.seed, index.long()).at("prior").at("")
        cond = None if self.cond is None else {n: c[index] for n, c in self.cond.items()}
        return Batch(self.process.prior(self.shape, noise), cond)

    def digest(self) -> str:
        said = one_line(f"{self.process!r} {self.shape} {self.count} {self.seed}")
        return _conditioned(hashlib.sha256(said.encode()), self.cond)


def _conditioned(total: Any, cond: Mapping[str, Tensor] | None) -> str:
    """A hash of what a hash has seen already, and of conditions."""
    for name, value in sorted((cond or {}).items()):
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
