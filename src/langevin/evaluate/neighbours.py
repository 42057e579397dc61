"""What nearest neighbours say: precision and recall, density and coverage, and whether samples are copies of training data."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from langevin.data import Source
from langevin.evaluate.metrics import CELLS, checked, rows

VALUES = 2**26
"""Numbers of training data held at once: 256 MiB of float32."""


class PRDC(NamedTuple):
    """Precision and recall (1904.06991, eqs. 1-2), density and coverage (2002.09797, eqs. 3-4)."""

    precision: float
    """Share of samples inside some real point's ball."""
    recall: float
    """Share of real points inside some sample's ball."""
    density: float
    """Mean number of real balls that a sample lies in, over k; around 1 for the true law, and not bounded by it."""
    coverage: float
    """Share of real balls with a sample inside."""


def prdc(samples: Tensor, real: Tensor, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of samples (N, D) against real (M, D).

    A point's ball reaches to its k-th nearest neighbour in its own set, itself left out. Density and coverage are published
    with k = 5, precision and recall with k = 3.
    """
    samples, real = checked(samples=samples, real=real)
    if not 1 <= k < min(len(samples), len(real)):
        raise ValueError(f"k is {k}; a ball needs 1 to {min(len(samples), len(real)) - 1} neighbours among these samples.")
    reach, own = _reach(real, k), _reach(samples, k)
    inside, falls, recalled = [], 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    closest = torch.full_like(reach, torch.inf)
    for part, ball in zip(rows(samples, real), own.split(max(1, CELLS // len(real))), strict=True):
        distance = torch.cdist(part, real)
        within = distance <= reach
        inside.append(within.any(1))
        falls += int(within.sum())
        recalled |= (distance <= ball[:, None]).any(0)
        closest = torch.minimum(closest, distance.amin(0))
    return PRDC(
        precision=float(torch.cat(inside).double().mean()),
        recall=float(recalled.double().mean()),
        density=falls / (k * len(samples)),
        coverage=float((closest <= reach).double().mean()),
    )


def _reach(x: Tensor, k: int) -> Tensor:
    """(N,) distance to the k-th nearest other point; the nearest of all is the point itself."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in rows(x, x)])


def nearest(samples: Tensor, train: Tensor | Source, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """(N,) Euclidean distance of each sample to the nearest training sample, and its place, from (N, *shape) floats.

    Distances come from inner products: that of an exact copy may read as a thousandth of its norm. A source is read a part at a
    time.
    """
    size = len(train) if isinstance(train, Tensor) else max(1, VALUES // samples[0].numel())
    distance = samples.new_full((len(samples),), torch.inf)
    place = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    for index in torch.arange(len(train)).split(size):
        x: Any = train if isinstance(train, Tensor) else train.batch(index).x
        flat = x.flatten(1)
        found = [torch.cdist(part.flatten(1), flat).min(1) for part in samples.split(max(1, min(chunk, CELLS // len(flat))))]
        values, places = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
        nearer = ~(values >= distance)  # what is no number stays seen
        distance, place = torch.where(nearer, values, distance), torch.where(nearer, places + int(index[0]), place)
    return distance, place


@dataclass(frozen=True)
class Memorisation:
    """Samples beside their nearest training data, and held-out real data beside theirs."""

    distance: Tensor
    """(N,) from each sample to its nearest training sample."""
    index: Tensor
    """(N,) which one that is."""
    real: Tensor
    """(M,) from each held-out real sample to its nearest training sample."""
    alpha: float = 0.05

    @cached_property
    def ratio(self) -> float:
        """Mean distance of samples over that of held-out data: 1 for the true law, below 1 where there are copies."""
        return float(self.distance.mean()) / float(self.real.mean())

    @cached_property
    def share(self) -> float:
        """Share of samples nearer than the alpha-quantile of held-out data: alpha for the true law, more with copies."""
        return float((self.distance < self.real.double().quantile(self.alpha)).double().mean())

    def closest(self, count: int = 10) -> Tensor:
        """The samples nearest to training data, nearest first."""
        return self.distance.argsort(stable=True)[:count]


def memorisation(samples: Tensor, train: Tensor | Source, held: Tensor, alpha: float = 0.05) -> Memorisation:
    """Compare samples (N, *shape) and held-out real data (M, *shape) with the training data (K, *shape), which a
    source reads a part at a time."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it is a share, between 0 and 1.")
    distance, index = nearest(samples, train)
    return Memorisation(distance, index, nearest(held, train)[0], alpha)
