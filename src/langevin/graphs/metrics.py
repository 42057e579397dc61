"""How far a set of graphs is from another: maximum mean discrepancies of four statistics, with fixed kernels, and their floor.

A discrepancy says nothing alone: it depends on the kernel, on the number of graphs and on the data. So `compare` always has
the same number between training and test graphs beside it, the least that can be asked for.

Graphs are (n, n) adjacencies in a list (`unpad` makes it of a padded batch); every weight above 0 is an edge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.graphs.operators import laplacian
from langevin.graphs.orbits import orbits

KERNELS = ("emd", "tv")


@dataclass(frozen=True)
class Statistic:
    """What is compared of a graph.

    Args:
        of: graphs -> (M, V), a histogram (or a vector of means) a graph.
        histogram: whether it is one.
        bin: width of a bin, the unit of the earth mover's distance.
        sigma: width of the kernel exp(-distance^2 / (2 sigma^2)).
    """

    of: Callable[[Sequence[Tensor], int], Tensor]
    histogram: bool
    bin: float
    sigma: float


def _degrees(graphs: Sequence[Tensor], most: int) -> Tensor:
    return torch.stack([_shares((g > 0).sum(1), most) for g in graphs])


def _shares(values: Tensor, most: int) -> Tensor:
    counts = torch.bincount(values, minlength=most).double()
    return counts / counts.sum()


def _clustering(graphs: Sequence[Tensor], most: int) -> Tensor:
    # 100 bins on [0, 1], the last one closed
    return torch.stack([_shares((clustering(g) * 100 + 1e-9).long().clamp(max=99), 100) for g in graphs])


def _orbit_means(graphs: Sequence[Tensor], most: int) -> Tensor:
    return torch.stack([orbits(g).double().mean(0) for g in graphs])


def _spectra(graphs: Sequence[Tensor], most: int) -> Tensor:
    # 200 bins on [-1e-5, 2]
    values = [torch.linalg.eigvalsh(laplacian((g > 0).double(), kind="normalised")) for g in graphs]
    return torch.stack([_shares(((v + 1e-5) / 2.00001 * 200).long().clamp(0, 199), 200) for v in values])


STATISTICS: dict[str, Statistic] = {
    "degree": Statistic(_degrees, True, 1.0, 1.0),
    "clustering": Statistic(_clustering, True, 0.01, 0.1),
    "orbit": Statistic(_orbit_means, False, 1.0, 30.0),
    "spectral": Statistic(_spectra, True, 0.01, 1.0),
}
"""Kernels as GraphRNN's and GRAN's evaluations have them (1802.08773; 1910.00760), so that published tables can be read beside.

degree: histogram of degrees, sigma 1. clustering: of local coefficients in 100 bins, sigma 0.1 in units of the coefficient.
orbit: means over nodes of the 15 orbits, sigma 30. spectral: eigenvalues of the normalised Laplacian in 200 bins, sigma 1.
"""


@dataclass(frozen=True)
class Distance:
    """A squared discrepancy between samples and test graphs, and the same of training and test graphs."""

    value: float
    floor: float

    @property
    def ratio(self) -> float:
        return self.value / max(self.floor, 1e-12)

    def __str__(self) -> str:
        return f"{self.value:.4f} (train against test {self.floor:.4f}, ratio {self.ratio:.2f})"


def clustering(graph: Tensor) -> Tensor:
    """Local clustering coefficients, (n,): the share of pairs of neighbours that are neighbours; 0 below two neighbours."""
    a = (graph > 0).double()
    d = a.sum(1)
    return ((a @ a) * a).sum(1) / (d * (d - 1)).clamp(min=1)


def unpad(graphs: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """(B, N, N) and mask (B, N) as a list of (n, n); real nodes need not come first."""
    real = torch.ones(graphs.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
    return [g[m][:, m] for g, m in zip(graphs.cpu(), real, strict=True)]


def mmd(a: Sequence[Tensor], b: Sequence[Tensor], statistic: str, kernel: str = "emd") -> float:
    """Squared maximum mean discrepancy, E k(a, a') + E k(b, b') - 2 E k(a, b) over all pairs (its biased form, as published).

    Args:
        statistic: a key of `STATISTICS`.
        kernel: exp(-distance^2 / (2 sigma^2)) of the earth mover's distance ("emd", GraphRNN; of means, the Euclidean one) or of
            half the L1 distance ("tv", GRAN and DiGress).
    """
    if statistic not in STATISTICS or kernel not in KERNELS:
        raise ValueError(
            f"statistic is {statistic!r} and kernel {kernel!r}; there are {', '.join(STATISTICS)}, and {', '.join(KERNELS)}."
        )
    if not a or not b:
        raise ValueError(f"the sets hold {len(a)} and {len(b)} graphs; give at least one in each.")
    how = STATISTICS[statistic]
    most = max(len(g) for g in [*a, *b])
    u, v = how.of(a, most), how.of(b, most)

    def mean(x: Tensor, y: Tensor) -> float:
        if kernel == "tv":
            distance = torch.cdist(x, y, p=1) / 2
        elif how.histogram:  # on a line it is the area between the distribution functions
            distance = torch.cdist(x.cumsum(1), y.cumsum(1), p=1) * how.bin
        else:
            distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return float(torch.exp(-(distance**2) / (2 * how.sigma**2)).mean())

    return mean(u, u) + mean(v, v) - 2 * mean(u, v)


def compare(
    samples: Sequence[Tensor],
    test: Sequence[Tensor],
    train: Sequence[Tensor],
    statistics: Sequence[str] = tuple(STATISTICS),
    kernel: str = "emd",
) -> dict[str, Distance]:
    """Each statistic's distance between samples and test graphs, with the floor of training graphs against test graphs."""
    return {s: Distance(mmd(samples, test, s, kernel), mmd(train, test, s, kernel)) for s in statistics}


def mean_ratio(distances: Mapping[str, Distance]) -> float:
    """Mean over statistics of value / floor: the figure called MMD ratio."""
    return sum(d.ratio for d in distances.values()) / len(distances)


def connected(graph: Tensor) -> bool:
    """Whether every node can be reached from the first; False for none."""
    if not len(graph):
        return False
    reached, before = torch.zeros(len(graph), dtype=torch.bool), -1
    reached[0] = True
    while int(reached.sum()) > before:
        before = int(reached.sum())
        reached = reached | (graph.cpu() > 0)[reached].any(0)
    return before == len(graph)


def planar(graph: Tensor) -> bool:
    """Whether it can be drawn without crossings.

    Raises:
        ImportError: without networkx.
    """
    return bool(_networkx().check_planarity(as_networkx(graph))[0])


def as_networkx(graph: Tensor) -> Any:
    """(n, n) as a `networkx.Graph` without attributes."""
    g = _networkx().Graph()
    g.add_nodes_from(range(len(graph)))
    g.add_edges_from((graph.cpu().triu(1) > 0).nonzero().tolist())
    return g


def classes(graphs: Sequence[Tensor]) -> list[int]:
    """A number for each graph, equal for those that are the same up to the order of their nodes.

    Raises:
        ImportError: without networkx.
    """
    nx = _networkx()
    seen: dict[Any, list[tuple[int, Any]]] = {}
    out, made = [], 0
    for graph in graphs:
        g = as_networkx(graph)
        like = seen.setdefault(tuple(sorted(map(tuple, orbits(graph.cpu()).tolist()))), [])  # equal if they are the same
        number = next((n for n, other in like if nx.is_isomorphic(g, other)), None)
        if number is None:
            number, made = made, made + 1
            like.append((number, g))
        out.append(number)
    return out


def shares(samples: Sequence[Tensor], train: Sequence[Tensor], valid: Callable[[Tensor], bool] = connected) -> dict[str, float]:
    """Shares of samples: valid; of the valid ones unique; of the unique ones not in the training set. A share of valid ones alone
    is won by one graph said over and over, so they come together.

    Args:
        valid: `connected` by default; for planar graphs `lambda g: planar(g) and connected(g)`.
    """
    good = [g for g in samples if valid(g)]
    number = classes([*train, *good])
    known, new = set(number[: len(train)]), set(number[len(train) :])
    return {
        "valid": len(good) / len(samples) if samples else 0.0,
        "unique": len(new) / len(good) if good else 0.0,
        "novel": len(new - known) / len(new) if new else 0.0,
    }


def _networkx() -> Any:
    try:
        import networkx
    except ImportError:
        raise ImportError("networkx is missing; pip install 'langevin[graphs]'.") from None
    return networkx
