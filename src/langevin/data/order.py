"""The order in which data is visited: a pure function of (seed, epoch, place), so that nothing is saved to resume."""

from functools import lru_cache

import torch
from torch import Tensor

from langevin.core.noise import Noise


@lru_cache(maxsize=2)  # a batch may join two epochs
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    return Noise(seed, torch.arange(size), epoch, "order").uniform(()).argsort()


def order(seed: int, size: int, start: int, count: int) -> Tensor:
    """Which samples, (count,) int64, stand at places start, ..., start + count - 1 of an endless shuffled reading.

    Each epoch, `size` places, has every sample once.
    """
    places = torch.arange(start, start + count)
    return torch.cat([
        _permutation(seed, epoch, size)[places[places // size == epoch] % size]
        for epoch in range(start // size, (start + count - 1) // size + 1)
    ])  # fmt: skip


class Order:
    """The batches of an endless shuffled reading.

    Without groups the reading is `order`, cut into batches of one size; epochs may join within a batch. With groups every
    batch is of one group, batches of all groups are shuffled together, each epoch has every sample once, and the last
    batch of a group is short where the group does not divide.

    Args:
        seed: any integer.
        size: number of samples, N.
        batch: samples per batch.
        groups: (N,) int64.

    Raises:
        ValueError: if sizes are below 1 or groups has another length.
    """

    def __init__(self, seed: int, size: int, batch: int, groups: Tensor | None = None) -> None:
        for field, value in (("size", size), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{field} is {value}; an order needs at least 1.")
        if groups is not None and groups.shape != (size,):
            raise ValueError(f"groups has shape {tuple(groups.shape)} for {size} samples; give one group per sample.")
        self.seed, self.size, self.samples = seed, size, batch
        self._groups = groups
        self._epoch = -1
        if groups is not None:
            counts = groups.unique(return_counts=True)[1]
            self._lengths = torch.cat([_lengths(int(n), batch) for n in counts])

    def batch(self, step: int) -> tuple[int, Tensor]:
        """Batch number `step`, 0-based.

        Returns:
            (place, index): how many samples were read before it, and which samples it has, (B,) int64 with B at most `batch`.
        """
        place = self.place(step)
        if self._groups is None:
            return place, order(self.seed, self.size, place, self.samples)
        epoch, k = divmod(step, len(self._lengths))
        index, starts = self._table(epoch)
        return place, index[starts[k] : starts[k + 1]]

    def place(self, step: int) -> int:
        """How many samples are read before batch number `step`; without groups nothing is shuffled for it."""
        if self._groups is None:
            return step * self.samples
        epoch, k = divmod(step, len(self._lengths))
        return epoch * self.size + (self._table(epoch)[1][k] if k else 0)

    def _table(self, epoch: int) -> tuple[Tensor, list[int]]:
        """An epoch's samples in the order of reading, and where its batches start; the last one asked for is kept."""
        if epoch != self._epoch:
            self._index, self._starts = self._shuffled(epoch)
            self._epoch = epoch
        return self._index, self._starts

    def _shuffled(self, epoch: int) -> tuple[Tensor, list[int]]:
        assert self._groups is not None
        shuffled = _permutation(self.seed, epoch, self.size)
        by_group = shuffled[self._groups[shuffled].argsort(stable=True)].split(self._lengths.tolist())
        turn = Noise(self.seed, torch.arange(len(by_group)), epoch, "batches").uniform(()).argsort()
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), self._lengths[turn].cumsum(0)])
        return torch.cat([by_group[k] for k in turn.tolist()]), starts.tolist()


def _lengths(count: int, batch: int) -> Tensor:
    """`count` samples cut into batches, the last one short: [batch, ..., batch, rest]."""
    whole, rest = divmod(count, batch)
    return torch.tensor([batch] * whole + [rest] * (rest > 0))


class InOrder:
    """The batches of a `Stream`, which shuffles for itself: batch k has the places k * batch, ..., (k + 1) * batch - 1.

    Args:
        seed: for augmentation.
        batch: samples per batch.
    """

    def __init__(self, seed: int, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; an order needs at least 1.")
        self.seed, self.samples = seed, batch

    def batch(self, step: int) -> tuple[int, Tensor]:
        """(place, places (B,) int64) of batch number `step`, 0-based."""
        place = self.place(step)
        return place, torch.arange(place, place + self.samples)

    def place(self, step: int) -> int:
        """How many samples are read before batch number `step`."""
        return step * self.samples
