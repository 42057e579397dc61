"""Data sets in memory, and the order in which any data set is visited."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.tree import Tree, leaves, tree, tree_map


class Source(Protocol):
    """What a trainer needs of data."""

    @property
    def shape(self) -> Any:
        """Shape of one sample (a dict by leaf for a product)."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch:
        """The samples at index (B,) int64."""
        ...


class Arrays:
    """Tensors in memory.

    Args:
        x: (N, *shape), or a dict of them by leaf; tensors or numpy arrays. Floats for Gaussian processes, integers for
            categorical ones.
        cond: conditions by name, each (N, ...).
    """

    def __init__(self, x: Tree, cond: Mapping[str, Tensor] | None = None) -> None:
        x, cond = tree_map(torch.as_tensor, x), {n: torch.as_tensor(c) for n, c in (cond or {}).items()}
        sizes = {len(v) for v in [*leaves(x).values(), *(cond or {}).values()]}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"the arrays have {sorted(sizes)} rows; give the same number, above 0, everywhere.")
        self.x, self.cond = x, dict(cond) if cond else None
        self.shape = tree({n: tuple(v.shape[1:]) for n, v in leaves(x).items()})

    def __len__(self) -> int:
        return len(next(iter(leaves(self.x).values())))

    def batch(self, index: Tensor) -> Batch:
        cond = None if self.cond is None else {n: c[index] for n, c in self.cond.items()}
        return Batch(tree_map(lambda v: v[index], self.x), cond)

    def split(self, at: int) -> "tuple[Arrays, Arrays]":
        """The first `at` rows, and the rest."""
        first, rest = torch.arange(at), torch.arange(at, len(self))
        return tuple(Arrays((b := self.batch(i)).x, b.cond) for i in (first, rest))  # pyright: ignore[reportReturnType]

    def digest(self) -> str:
        """SHA-256 of all values, for protocol cards."""
        total = hashlib.sha256()
        for name, value in sorted({**leaves(self.x), **(self.cond or {})}.items()):
            total.update(name.encode() + str(tuple(value.shape)).encode())
            total.update(value.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    return Noise(seed, torch.arange(size), epoch, "order").uniform(()).argsort()


def order(seed: int, size: int, start: int, count: int) -> Tensor:
    """Which samples stand at places start, ..., start + count - 1 of an endless shuffled reading.

    A pure function of (seed, epoch, place): each epoch has every sample once, and nothing needs to be saved to resume.
    """
    places = torch.arange(start, start + count)
    return torch.cat([
        _permutation(seed, epoch, size)[places[places // size == epoch] % size]
        for epoch in range(start // size, (start + count - 1) // size + 1)
    ])  # fmt: skip
