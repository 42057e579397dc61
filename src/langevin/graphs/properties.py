"""Numbers that are computed of a graph, by which graphs are asked for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from langevin.graphs.features import cycles, pieces
from langevin.graphs.metrics import clustering


def _edges(graph: Tensor) -> float:
    return float((graph > 0).sum()) / 2


def _density(graph: Tensor) -> float:
    return _edges(graph) / max(len(graph) * (len(graph) - 1) / 2, 1)


PROPERTIES: dict[str, Callable[[Tensor], float]] = {
    "nodes": lambda graph: float(len(graph)),
    "edges": _edges,
    "density": _density,
    "triangles": lambda graph: float(cycles((graph > 0).double())[1][..., 0]),
    "clustering": lambda graph: float(clustering(graph).mean()),
    "pieces": lambda graph: float(pieces(graph)[1]),
}
"""Of an adjacency (n, n): numbers of nodes, edges, triangles and pieces; the share of pairs of nodes with an edge; the mean of
local clustering coefficients."""


def properties_of(graphs: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """(M, P) float64."""
    return torch.tensor([[PROPERTIES[name](g) for name in names] for g in graphs], dtype=torch.float64).reshape(
        len(graphs), len(names)
    )
