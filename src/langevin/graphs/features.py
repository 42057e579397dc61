"""Structural features of graphs, which a network cannot find by itself: cycles, spectra, walks, heat, pieces, valencies.

A message-passing network does not see whether a node stands in a ring, nor whether the graph hangs together. So what enters it
is enlarged by numbers that are functions of the graph alone: a permutation of the nodes permutes them, and padding changes
nothing. (Eigenvectors are not among them: where eigenvalues repeat, they are a choice of the solver. Heat, which is made of
all of them, is not.)

Shape suffixes: B batch, N nodes, F features of nodes, C of edges, Y of the whole graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from langevin.graphs.operators import heat, laplacian, masked, transition

Features = tuple[Tensor, Tensor, Tensor]
"""Of nodes (B, N, F), of edges (B, N, N, C), of the whole graph (B, Y)."""


def cycles(graph: Tensor, published: bool = False) -> tuple[Tensor, Tensor]:
    """How many simple cycles pass through each node, (..., N, 3) of 3, 4 and 5 nodes, and how many there are, (..., 4) of 3 to 6.

    With d degrees and t = diag(A^3), twice the triangles at a node:

        3    t / 2
        4    [diag(A^4) - d (d - 1) - A d] / 2
        5    [diag(A^5) - 2 t d - 2 (A o A^2) d - A t + 5 t] / 2

    (the published program leaves out a term of the last, which is then wrong wherever there are triangles: `published` has it so,
    [diag(A^5) - 2 t d - A t + t] / 2, for networks that were trained on it), and of six nodes
    the total after Harary and Manvel, "On the number of cycles in a graph" (1971).

    Args:
        graph: (..., N, N) symmetric, 0 diagonal; every weight above 0 is an edge. Counted in float64, exactly.
    """
    a = (graph > 0).double()
    a2 = a @ a
    a3, a4 = a2 @ a, a2 @ a2
    d = a.sum(-1)

    def diagonal(m: Tensor) -> Tensor:
        return m.diagonal(dim1=-2, dim2=-1)

    def times(m: Tensor, v: Tensor) -> Tensor:
        return (m @ v[..., None])[..., 0]

    t, t4, t5 = diagonal(a3), diagonal(a4), (a2 * a3).sum(-1)
    three = t / 2
    four = (t4 - d * (d - 1) - times(a, d)) / 2
    five = (t5 - 2 * t * d - times(a, t) + t) / 2
    if not published:
        five = five - times(a * a2, d) + 2 * t
    six = (
        (a3 * a3).sum((-1, -2)) - 3 * t.square().sum(-1) + 9 * (a * a2.square()).sum((-1, -2)) - 6 * (t4 * d).sum(-1)
        + 6 * t4.sum(-1) - 4 * t.sum(-1) + 4 * (d**3).sum(-1) + 3 * a3.sum((-1, -2)) - 12 * d.square().sum(-1) + 4 * d.sum(-1)
    ) / 12  # fmt: skip
    return torch.stack([three, four, five], -1), torch.stack([three.sum(-1) / 3, four.sum(-1) / 4, five.sum(-1) / 5, six], -1)


def pieces(graph: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(size, count): the number of nodes of the piece that each node is in (..., N), 0 for padding, and of pieces (...,)."""
    graph = masked(graph, mask)
    n = graph.shape[-1]
    eye = torch.eye(n, dtype=torch.float32, device=graph.device)
    reached = (graph > 0).float() + eye
    for _ in range(max(n - 1, 1).bit_length()):
        reached = ((reached @ reached) > 0).float()
    first = reached.argmax(-1) == torch.arange(n, device=graph.device)  # the first node of each piece speaks for it
    size = reached.sum(-1)
    if mask is None:
        return size, first.sum(-1)
    return size * mask, (first & mask).sum(-1)


def spectrum(graph: Tensor, count: int = 5, mask: Tensor | None = None) -> Tensor:
    """(..., count), the smallest eigenvalues above 0 of L = D - A, in order, each over the number of nodes (so at most 1);
    0 where there are fewer. How many are 0 is the number of pieces."""
    n = graph.shape[-1]
    matrix = laplacian(graph.double(), mask)
    real = torch.ones(graph.shape[:-1], dtype=torch.bool, device=graph.device) if mask is None else mask
    matrix = matrix + torch.diag_embed(torch.where(real, 0.0, 4.0 * n))  # padding comes last
    values = torch.linalg.eigvalsh(matrix)
    of, (_, zeros) = real.sum(-1, keepdim=True), pieces(graph, mask)
    place = zeros[..., None] + torch.arange(count, device=graph.device)
    taken = values.gather(-1, place.clamp(max=n - 1))
    return torch.where(place < of, taken / of.clamp(min=1), 0.0)


def walks(graph: Tensor, steps: int = 8, mask: Tensor | None = None) -> Tensor:
    """(..., N, N, steps), P^k for k = 1 .. steps: where a walker from each node is after k steps. The diagonal, chances of being
    back, encodes nodes (2110.07875, sec. 3.2); the others encode pairs (2305.17589, sec. 3.1)."""
    step = transition(graph, mask)
    powers = [step]
    for _ in range(steps - 1):
        powers.append(powers[-1] @ step)
    return torch.stack(powers, -1)


def powers(weights: Tensor, most: int = 4, mask: Tensor | None = None) -> Tensor:
    """(..., N, N, most - 1), A^k / n^((k - 1) / 2) for k = 2 .. most, A = `weights` over their root mean square over pairs of
    the n real nodes: of about unit size for noise of any. Of noisy numbers they tell what a cut of them loses: who has
    neighbours in common, and by how much (the higher-order adjacencies of GDSS, 2202.02514, sec. 3.3).

    Args:
        weights: (..., N, N) symmetric, 0 diagonal; 0 beside padding.
    """
    n = weights.new_full(weights.shape[:-2], weights.shape[-1]) if mask is None else mask.sum(-1).to(weights)
    size = (weights.square().sum((-1, -2)) / (n * (n - 1)).clamp(min=1)).sqrt().clamp(min=1e-6)
    a, root = weights / size[..., None, None], n.clamp(min=1).sqrt()[..., None, None]
    made = [a]
    for _ in range(most - 1):
        made.append(made[-1] @ a / root)
    return torch.stack(made[1:], -1)


def warmth(graph: Tensor, times: Sequence[float] = (0.5, 2.0), mask: Tensor | None = None) -> Tensor:
    """(..., N, N, T), exp(-t L) with the normalised Laplacian, which has no eigenvalue above 2."""
    return torch.stack([heat(graph, time, mask, "normalised") for time in times], -1)


def ranks(graph: Tensor, alpha: float = 0.15, mask: Tensor | None = None) -> Tensor:
    """(..., N, N), personalised PageRank: row i is alpha (I - (1 - alpha) P)^-1 from node i, and sums to 1."""
    n = graph.shape[-1]
    eye = torch.eye(n, dtype=graph.dtype, device=graph.device)
    out = alpha * torch.linalg.inv(eye - (1 - alpha) * transition(graph, mask))
    return out if mask is None else out * mask[..., None].to(out.dtype)


_WALKS, _TIMES, _VALUES, _POWERS = 8, (0.5, 2.0), 5, 4
KINDS: dict[str, tuple[int, int, int]] = {
    "cycles": (3, 0, 4), "pieces": (1, 0, 1), "spectrum": (0, 0, _VALUES), "walks": (_WALKS, _WALKS, 0),
    "heat": (len(_TIMES), len(_TIMES), 0), "pagerank": (1, 1, 0), "size": (0, 0, 1),
    "powers": (_POWERS - 1, _POWERS - 1, 0),
}  # fmt: skip
"""Numbers of features of nodes, edges and the whole graph."""


class Structural:
    """Features of a (noisy) graph for `GraphTransformer(features=...)`.

    Args:
        kinds: of `KINDS`: "cycles" through nodes and in all, over 10 and at most 1; "pieces", whether a node is outside of the
            largest piece, and their number over that of nodes; "spectrum", five eigenvalues; "walks", eight steps; "heat", two
            times; "pagerank"; "size", nodes over `size`; "powers" of the adjacency, of a single channel its numbers.
        edge_types: R; channels 1 .. R - 1 of an edge are edges, others (none, a mask) are not. A single channel is a weight, and
            an edge above 0.5.
        size: nodes of the largest graph.
        molecule: what the types mean, for valencies.
        published: cycles of five as the published program of DiGress counts them; see `cycles`. (`Valencies` is told itself.)

    Attributes:
        widths: numbers of features of nodes, edges and the whole graph.
    """

    def __init__(
        self,
        kinds: Sequence[str] = ("cycles", "pieces", "spectrum", "walks", "size"),
        edge_types: int = 2,
        size: int = 1,
        molecule: "Valencies | None" = None,
        published: bool = False,
    ) -> None:
        self.published = published
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"features has {kind!r}; there are {', '.join(KINDS)}.")
        self.kinds, self.edge_types, self.size, self.molecule = tuple(kinds), edge_types, size, molecule
        parts = [KINDS[kind] for kind in kinds] + ([] if molecule is None else [molecule.widths])
        self.widths = (sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts))

    def __call__(self, nodes: Tensor, edges: Tensor, mask: Tensor) -> Features:
        """nodes (B, N, K) and edges (B, N, N, R) one-hot (or weights), mask (B, N)."""
        if edges.shape[-1] == 1:
            weights = edges[..., 0].double()
            graph = (weights > 0.5).double()
        else:
            weights = graph = edges[..., 1 : self.edge_types].sum(-1).double()
        made = [getattr(self, f"_{kind}")(weights if kind == "powers" else graph, mask) for kind in self.kinds]
        if self.molecule is not None:
            made.append(self.molecule(nodes, edges, mask))
        b, n = mask.shape
        real, pairs = mask[..., None], (mask[:, :, None] & mask[:, None, :])[..., None]
        shapes = ((b, n, 0), (b, n, n, 0), (b, 0))
        x, e, y = (
            torch.cat([nodes.new_zeros(shape), *(p[i].to(nodes.dtype) for p in made if p[i] is not None)], -1)
            for i, shape in enumerate(shapes)
        )
        return x * real, e * pairs, y

    def _cycles(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        at, total = cycles(graph, self.published)
        return (at / 10).clamp(max=1), None, (total / 10).clamp(max=1)

    def _pieces(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        size, count = pieces(graph, mask)
        outside = size < size.amax(-1, keepdim=True)
        return outside[..., None], None, (count / mask.sum(-1).clamp(min=1))[..., None]

    def _spectrum(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, spectrum(graph, _VALUES, mask)

    def _walks(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return _both(walks(graph, _WALKS, mask))

    def _powers(self, weights: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return _both(powers(weights, _POWERS, mask))

    def _heat(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return _both(warmth(graph, _TIMES, mask))

    def _pagerank(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return _both(ranks(graph, mask=mask)[..., None])

    def _size(self, graph: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, (mask.sum(-1) / self.size)[..., None]


def _both(pairs: Tensor) -> tuple[Tensor | None, ...]:
    return pairs.diagonal(dim1=1, dim2=2).transpose(1, 2), pairs, None


class Valencies:
    """Of molecules: the orders of bonds at each atom, what is left of its valency, charges and weights.

    Args:
        orders: of each type of bond, "none" first.
        valencies, charges, weights: of each type of atom; weights in daltons.
        published: as the program of DiGress has it, which takes the place of the largest entry for its value: of types none,
            single, double, triple and aromatic, an aromatic bond counts 4 and not 1.5, and the usual valency of an atom is the
            number of its type.
    """

    widths = (3, 0, 2)

    def __init__(
        self,
        orders: Sequence[float],
        valencies: Sequence[float],
        charges: Sequence[float],
        weights: Sequence[float],
        published: bool = False,
    ) -> None:
        self.published = published
        self.orders = torch.tensor(orders, dtype=torch.float32)
        self.atoms = torch.tensor([valencies, charges, weights], dtype=torch.float32).T
        if self.atoms.ndim != 2:
            raise ValueError("valencies, charges and weights differ in number; give one of each for each type of atom.")

    def __call__(self, nodes: Tensor, edges: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
        # further channels (a mask) have no order, valency, charge or weight
        orders, atoms = self.orders.to(edges), self.atoms.to(nodes)
        bonds, types = edges[..., : len(orders)], nodes[..., : len(atoms)]
        valency, charge, weight = (types @ atoms).unbind(-1)
        if self.published:
            bound, valency = (bonds * orders).argmax(-1).sum(-1).to(charge), (types * atoms[:, 0]).argmax(-1).to(charge)
        else:
            bound = (bonds @ orders).sum(-1)
        of_nodes = torch.stack([bound / 4, (valency - bound) / 4, charge], -1)
        of_whole = torch.stack([weight.sum(-1) / 100, charge.sum(-1) / 4], -1)
        return of_nodes, None, of_whole
