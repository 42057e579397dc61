"""Undirected graphs with types of nodes and edges: padded dense batches for a product of two processes.

Shape suffixes: B batch, N nodes of the largest graph, M graphs, K types of nodes, R types of edges ("no edge" is type 0).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data.graph import Graph, graph_of
from langevin.data.split import check_split, empty, in_split
from langevin.files import parse_json

MOST_NODES, MOST_TYPES = 10_000, 10_000
"""Of one graph, and of its nodes or edges, in a file: a batch has a place for each pair of nodes, a network an output a type."""


class Graphs:
    """Graphs in memory, as a `Source`: batch.x = {"nodes": (B, N), "edges": (B, N, N)} int64, batch.mask (B, N) bool.

    Padded nodes and edges are 0, edges are symmetric, the diagonal is 0. Where all nodes are of one type there is nothing to be
    known about them, and "edges" is the only leaf. The number of nodes is no part of what a process destroys: at sampling it is
    drawn by `draw_mask`.

    Args:
        graphs: what `graph_of` reads: `Graph`, networkx graphs, PyG-like data, or {"n": ..., "edges": [[i, j], ...]}.
        node_types: K, or the names of the types. Found from the data where it is None.
        edge_types: R with "no edge" among them, or the names. Found from the data where it is None.
        keys: a name for each graph, by which it is split and told from others; by default a hash of its content.
        cond: conditions by name, each (M, ...): numbers (M,), and "label" (M,) int64 for classes.
        size: N; that of the largest graph where it is None.
        measured: (mean, deviation) of conditions that were divided so: what was told is mean + deviation * cond.

    Attributes:
        numbers: batches hold floats for Gaussian processes: nodes (B, N, K) one-hot, edges (B, N, N) the numbers of their types.

    Raises:
        ValueError: for no graphs, types out of range, graphs larger than `size`, or keys and conditions of another number.
    """

    numbers = False

    def __init__(
        self,
        graphs: Iterable[Any],
        node_types: int | Sequence[str] | None = None,
        edge_types: int | Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        cond: Mapping[str, Tensor] | None = None,
        size: int | None = None,
        measured: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        read: list[Graph] = []
        for g in graphs:
            try:
                read.append(graph_of(g))
            except ValueError as error:
                raise ValueError(f"graph {len(read)}: {error}") from None
        if not read:
            raise ValueError("there are no graphs; give at least one.")
        self.sizes = torch.tensor([len(g.nodes) for g in read])
        self._nodes, self._pairs, self._kinds = (torch.cat([g[k] for g in read]) for k in range(3))
        counts = torch.tensor([len(g.kinds) for g in read])
        self._node_ends, self._edge_ends = self.sizes.cumsum(0), counts.cumsum(0)
        most_node, most_edge = int(self._nodes.max()) + 1, int(self._kinds.max()) + 1 if len(self._kinds) else 2
        self.node_types, self.edge_types = _names(node_types, max(most_node, 1)), _names(edge_types, max(most_edge, 2))
        if most_node > len(self.node_types) or most_edge > len(self.edge_types):
            raise ValueError(
                f"the graphs have node types up to {most_node - 1} and edge types up to {most_edge - 1}, and there are "
                f"{len(self.node_types)} and {len(self.edge_types)}; name them all ('no edge' is the first of the edges')."
            )
        largest = int(self.sizes.max())
        self.size = largest if size is None else size
        if self.size < largest:
            raise ValueError(f"size is {size} and the largest graph has {largest} nodes; make it at least that, or leave it out.")
        self.keys = [_key(g) for g in read] if keys is None else list(keys)
        self.cond, self.measured = {n: torch.as_tensor(c) for n, c in cond.items()} if cond else None, dict(measured or {})
        for field, values in (("keys", self.keys), *((f"cond[{n!r}]", c) for n, c in (self.cond or {}).items())):
            if len(values) != len(read):
                raise ValueError(f"{field} has {len(values)} entries for {len(read)} graphs; give one each.")

    def _leaves(self, nodes: Any, edges: Any) -> dict[str, Any]:
        return {"nodes": nodes, "edges": edges} if len(self.node_types) > 1 else {"edges": edges}

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        return self._leaves((self.size, len(self.node_types)) if self.numbers else (self.size,), (self.size, self.size))

    @property
    def categories(self) -> dict[str, int]:
        """Number of types of each leaf, "no edge" included."""
        return self._leaves(len(self.node_types), len(self.edge_types))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, k: int) -> Graph:
        """Graph number k, without padding."""
        n, e = int(self._node_ends[k]), int(self._edge_ends[k])
        first = int(self._edge_ends[k - 1]) if k else 0
        edges = slice(first, e)
        return Graph(self._nodes[n - int(self.sizes[k]) : n], self._pairs[edges], self._kinds[edges])

    def batch(self, index: Tensor) -> Batch:
        index = torch.as_tensor(index)
        b, n = len(index), self.size
        mask = torch.arange(n) < self.sizes[index][:, None]
        nodes, edges = torch.zeros(b, n, dtype=torch.int64), torch.zeros(b, n, n, dtype=torch.int64)
        of, at = self._places(index)
        nodes[mask] = self._nodes[of]
        row, (i, j) = torch.arange(b).repeat_interleave(self._edge_counts(index)), self._pairs[at].unbind(1)
        edges[row, i, j] = edges[row, j, i] = self._kinds[at]
        cond = None if self.cond is None else {name: c[index] for name, c in self.cond.items()}
        if self.numbers:
            return Batch(
                self._leaves(F.one_hot(nodes, len(self.node_types)) * mask[..., None].float(), edges.float()), cond, mask
            )
        return Batch(self._leaves(nodes, edges), cond, mask)

    def as_numbers(self) -> "Graphs":
        """The same graphs as floats."""
        out = copy(self)
        out.numbers = True
        return out

    def by(self, units: Mapping[str, tuple[float, float]]) -> Self:
        """The same graphs, what was measured in these units (mean, deviation); itself where they are its own."""
        changed = {name: units[name] for name, own in self.measured.items() if units.get(name, own) != own}
        if not changed:
            return self
        out, cond = copy(self), dict(self.cond or {})
        for name, (mean, deviation) in changed.items():
            was, scale = self.measured[name]
            cond[name] = ((cond[name].double() * scale + was - mean) / deviation).float()
        out.cond, out.measured = cond, {**self.measured, **changed}
        return out

    def told(self, columns: Mapping[str, Tensor]) -> Self:
        """The same graphs with numbers (M,) by name for conditions, each less its mean and divided by its deviation.

        Raises:
            ValueError: for numbers that are all one.
        """
        out, cond, measured = copy(self), dict(self.cond or {}), dict(self.measured)
        for name, values in columns.items():
            cond[name], measured[name] = standardised(name, values)
        out.cond, out.measured = cond or None, measured
        return out

    def padded(self, size: int) -> "Graphs":
        """The same graphs in batches of `size` nodes, which are no fewer than the largest has."""
        out = copy(self)
        out.size = size
        return out

    def among(self, node_types: Sequence[str], edge_types: Sequence[str], size: int) -> Self:
        """The same graphs in batches of `size` nodes, under all the types that a model knows.

        Raises:
            ValueError: for graphs that are larger, or of further types.
        """
        for what, own, known in (
            ("nodes", int(self.sizes.max()), size),
            ("types of nodes", int(self._nodes.max()) + 1, len(node_types)),
            ("types of edges", len(self.edge_types), len(edge_types)),
        ):
            if own > known:
                raise ValueError(f"a graph has {own} {what}, and what is known are graphs of up to {known}; leave it out.")
        out = copy(self)
        out.size, out.node_types, out.edge_types = size, list(node_types), list(edge_types)
        return out

    def part(self, index: Tensor) -> "Graphs":
        """The graphs at index, padded to the same size."""
        chosen = copy(self)
        chosen.sizes, (nodes, edges) = self.sizes[index], self._places(index)
        chosen._nodes, chosen._pairs, chosen._kinds = self._nodes[nodes], self._pairs[edges], self._kinds[edges]
        chosen._node_ends, chosen._edge_ends = chosen.sizes.cumsum(0), self._edge_counts(index).cumsum(0)
        chosen.keys = [self.keys[k] for k in index.tolist()]
        chosen.cond = None if self.cond is None else {n: c[index] for n, c in self.cond.items()}
        return chosen

    def _edge_counts(self, index: Tensor) -> Tensor:
        return torch.diff(self._edge_ends, prepend=torch.zeros(1, dtype=torch.int64))[index]

    def _places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Where the nodes and the edges of graphs are, one graph after the other."""
        sizes, counts = self.sizes[index], self._edge_counts(index)
        return _ranges(self._node_ends[index] - sizes, sizes), _ranges(self._edge_ends[index] - counts, counts)

    def split(self, name: str, held_out: float = 0.1) -> "Graphs":
        """The "train", "test" or "all" of it: each graph goes by the hash of its key, so that isomorphic molecules, which have
        one key, never stand on both sides.

        Raises:
            ValueError: for an unknown split, or one without graphs.
        """
        check_split(name, held_out)
        chosen = [k for k, key in enumerate(self.keys) if in_split(key, held_out, name)]
        if not chosen:
            raise ValueError(empty(name, held_out, len(self), "graphs"))
        return self.part(torch.tensor(chosen))

    def digest(self) -> str:
        """SHA-256 of all graphs and conditions, for protocol cards."""
        total = hashlib.sha256(f"{self.node_types} {self.edge_types} {self.size}".encode())
        for value in (self.sizes, self._nodes, self._edge_ends, self._pairs, self._kinds):
            total.update(value.contiguous().numpy().tobytes())
        for name, value in sorted((self.cond or {}).items()):
            total.update(name.encode() + value.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    # What a process and a sampler ask

    def marginals(self) -> dict[str, Tensor]:
        """Shares of the types of each leaf, float64: (K,) over all nodes, (R,) over all pairs of nodes of one graph. The limits
        of a marginal process (DiGress, 2209.14734, sec. 4.1)."""
        nodes = torch.bincount(self._nodes, minlength=len(self.node_types)).double()
        edges = torch.bincount(self._kinds, minlength=len(self.edge_types)).double()
        edges[0] = (self.sizes * (self.sizes - 1) // 2).sum() - edges.sum()
        return self._leaves(nodes / nodes.sum(), edges / edges.sum().clamp(min=1))

    def size_probs(self) -> Tensor:
        """(N + 1,) float64, how often graphs have so many nodes."""
        return torch.bincount(self.sizes, minlength=self.size + 1).double() / len(self)

    def draw_mask(self, noise: Noise) -> Tensor:
        """(B, N) bool for `sample(mask=...)`: numbers of nodes drawn from these graphs', a function of (seed, sample id)."""
        return drawn_mask(self.size_probs(), noise)


def standardised(name: str, values: Tensor, where: str = "") -> tuple[Tensor, tuple[float, float]]:
    """Numbers (M,) less their mean and divided by their deviation, float32, and both.

    Args:
        where: they were read, in words: " of table.csv".

    Raises:
        ValueError: for numbers that are all one, or too large for a mean.
    """
    values = values.double()
    if bool((values == values[0]).all()):
        raise ValueError(
            f"properties has {name!r}, which is {float(values[0]):g} in every row that was taken{where}; leave it out."
        )
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise ValueError(f"properties has {name!r}, whose numbers{where} are too large for a mean; divide it, or leave it out.")
    return ((values - mean) / deviation).float(), (mean, deviation)


def drawn_mask(size_probs: Tensor, noise: Noise) -> Tensor:
    """(B, N) bool, the first n nodes of each sample, with n drawn from size_probs (N + 1,)."""
    u = noise.at("nodes").uniform(())
    total = size_probs.double().to(u.device).cumsum(0)
    n = torch.searchsorted(total / total[-1], u, right=True).clamp(max=len(size_probs) - 1)
    return torch.arange(len(size_probs) - 1, device=u.device) < n[:, None]


def unpadded(x: Mapping[str, Tensor], mask: Tensor | None = None) -> list[Graph]:
    """Samples {"nodes": (B, N), "edges": (B, N, N)} as graphs, nodes of type 0 where they are left out.

    mask (B, N) marks the real nodes, which need not come first.
    """
    edges = x["edges"].cpu()
    nodes = x["nodes"].cpu() if "nodes" in x else torch.zeros_like(edges[:, 0])
    real = torch.ones(nodes.shape, dtype=torch.bool) if mask is None else mask.cpu()
    out = []
    for v, e, m in zip(nodes, edges, real, strict=True):
        kept = e[m][:, m].triu(1)
        pairs = kept.nonzero()
        out.append(Graph(v[m], pairs, kept[pairs[:, 0], pairs[:, 1]]))
    return out


def read_graphs(path: str | Path, properties: Sequence[str] = (), labels: bool = False) -> Graphs:
    """Graphs from a .json file: a list of {"n": nodes, "edges": [[i, j], ...]}.

    Args:
        properties: numbers that entries tell, {"properties": {"weight": 3.5}}, which become conditions: see `Graphs.told`.
        labels: each entry tells its class, {"label": 2}, which becomes the condition "label".

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds something else, or an entry that does not tell what is asked for.
    """
    path = Path(path)
    try:
        told = parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; give a .json file of graphs.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); give a .json file of graphs.") from None
    like = "write [{'n': 3, 'edges': [[0, 1], [1, 2]]}, ...] as JSON."
    if not isinstance(told, list) or not told:
        raise ValueError(f"{path} is no list of graphs; {like}")
    for k, one in enumerate(told):
        if not _told(one):
            raise ValueError(
                f"{path} has as graph {k} what is none, or one of more than {MOST_NODES:,} nodes or {MOST_TYPES:,} types; {like}"
            )
    columns = {name: torch.tensor([_number(e.get("properties"), name, path) for e in told]) for name in properties}
    classes = [_number(e, "label", path) for e in told] if labels else None
    if classes is not None and any(c < 0 or c != int(c) or c >= MOST_TYPES for c in classes):
        raise ValueError(f"{path} has a label that is no whole number from 0 to {MOST_TYPES - 1}; number the classes so.")
    try:
        made = Graphs(told, cond=None if classes is None else {"label": torch.tensor(classes).long()})
        return made.told(columns) if columns else made
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _told(one: Any) -> bool:
    """Whether a value of a file is a graph, as far as its kinds and sizes go."""
    if not isinstance(one, dict) or type(one.get("n")) is not int or not 0 < one["n"] <= MOST_NODES:
        return False
    edges, nodes, kinds = one.get("edges"), one.get("nodes"), one.get("kinds")
    lists = [values for values in (nodes, kinds) if values is not None]
    return (
        isinstance(edges, list)
        and all(isinstance(e, list) and len(e) == 2 and all(type(v) is int and abs(v) < 2**62 for v in e) for e in edges)
        and all(isinstance(values, list) and all(type(v) is int and -1 <= v < MOST_TYPES for v in values) for values in lists)
        and (nodes is None or len(nodes) == one["n"])
    )


def _number(told: Any, name: str, path: Path) -> float:
    value = told.get(name) if isinstance(told, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{path} has a graph that tells no number {name!r}; give each one, or do not ask for it.")
    return float(value)


def _names(types: int | Sequence[str] | None, found: int) -> tuple[str, ...]:
    if isinstance(types, int) or types is None:
        return tuple(str(k) for k in range(found if types is None else types))
    return tuple(types)


def _key(graph: Graph) -> str:
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in graph)).hexdigest()[:16]


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """starts[0], starts[0] + 1, ... (counts[0] of them), then those of the next."""
    ends = counts.cumsum(0)
    return torch.arange(int(ends[-1])) + (starts - ends + counts).repeat_interleave(counts)
