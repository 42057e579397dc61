"""Counts of small subgraphs: which of the 15 positions in connected graphs of 2 to 4 nodes each node takes, and how often."""

import torch
from torch import Tensor

NAMES = (
    "edge", "path3 end", "path3 middle", "triangle", "path4 end", "path4 inside", "claw leaf", "claw centre", "cycle4",
    "paw handle", "paw base", "paw joint", "diamond tip", "diamond middle", "clique4",
)  # fmt: skip


def orbits(graph: Tensor) -> Tensor:
    """(N, 15) int64: how often each node stands in each orbit of induced subgraphs (numbered as in Przulj, "Biological network
    comparison using graphlet degree distribution", 2007, which ORCA follows).

    Subgraphs that may have further edges are counted first, by products of matrices; those with more edges are then taken out.

    Args:
        graph: (N, N) symmetric, 0 diagonal; every weight above 0 is an edge.
    """
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or not torch.equal(graph, graph.T) or bool(graph.diagonal().any()):
        raise ValueError(f"the graph has shape {tuple(graph.shape)}; give (N, N), symmetric, with a diagonal of 0.")
    a = (graph > 0).double()
    d = a.sum(1)
    shared = a @ a  # neighbours in common
    on_edge = a * shared  # triangles over each edge
    t = on_edge.sum(1) / 2
    beyond = a @ (d - 1)  # steps on from each neighbour

    def pairs(n: Tensor) -> Tensor:
        return n * (n - 1) / 2

    i, j = a.nonzero(as_tuple=True)
    common = a[i] * a[j]
    cliques = a.new_zeros(a.shape)
    cliques[i, j] = ((common @ a) * common).sum(1) / 2  # edges among the common neighbours of an edge
    off = shared - torch.diag(d)

    o14 = cliques.sum(1) / 3
    o12 = ((a @ (a * (on_edge - 1))) * a).sum(1) / 2 - 3 * o14
    o13 = (a * pairs(on_edge)).sum(1) - 3 * o14
    o8 = pairs(off).sum(1) - o12 - o13 - 3 * o14
    o9 = a @ t - on_edge.sum(1) - 2 * o12 - 3 * o14
    o10 = on_edge @ (d - 2) - 2 * o12 - 2 * o13 - 6 * o14
    o11 = t * (d - 2) - 2 * o13 - 3 * o14
    o6 = a @ pairs(d - 1) - o9 - o10 - 2 * o12 - o13 - 3 * o14
    o7 = d * (d - 1) * (d - 2) / 6 - o11 - o13 - o14
    o4 = a @ beyond - d * (d - 1) - 2 * t - 2 * o8 - 2 * o9 - o10 - 4 * o12 - 2 * o13 - 6 * o14
    o5 = (d - 1) * beyond - 2 * t - 2 * o8 - o10 - 2 * o11 - 2 * o12 - 4 * o13 - 6 * o14
    three = [d, beyond - 2 * t, pairs(d) - t, t]
    return torch.stack([*three, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14], 1).round().long()
