"""One undirected graph, from whatever holds one.

Shape suffixes: n nodes, e edges.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Graph(NamedTuple):
    """One graph, without padding.

    Args:
        nodes: (n,) int64, the type of each node.
        pairs: (e, 2) int64, each edge once, smaller end first.
        kinds: (e,) int64, the type of each edge, from 1.
    """

    nodes: Tensor
    pairs: Tensor
    kinds: Tensor


def graph_of(thing: Any) -> Graph:
    """A `Graph` from what holds one.

    - networkx graphs: integer attributes "type" of nodes (0 where there is none) and edges (1).
    - PyG-like data: `edge_index` (2, e); `x` (n,), (n, 1) or one-hot (n, K); `edge_attr` (e,), (e, 1) types from 0, or one-hot;
      `num_nodes`. Types of edges count from 0 there, and from 1 here.
    - mappings {"n": nodes, "edges": [[i, j], ...]} with optional "nodes" (n,) and "kinds" (e,).

    Loops are refused, directions and repetitions dropped.

    Raises:
        ValueError: for anything else, for loops, for ends that are no nodes, for numbers that are not whole, and for features
            that are no types.
    """
    if isinstance(thing, Graph):
        return _checked(*thing)
    told: Any = thing  # by what it has
    if hasattr(told, "edge_index"):
        pairs = _whole("edge_index", told.edge_index, (2, -1)).T
        nodes, kinds = (_types(name, getattr(told, name, None)) for name in ("x", "edge_attr"))
        count = getattr(told, "num_nodes", None)
        n = int(pairs.max()) + 1 if count is None else int(count)
        return _checked(
            torch.zeros(n, dtype=torch.int64) if nodes is None else nodes,
            pairs,
            torch.ones(len(pairs), dtype=torch.int64) if kinds is None else kinds + 1,
        )
    if hasattr(told, "number_of_nodes") and hasattr(told, "edges"):
        place = {node: k for k, node in enumerate(told.nodes)}
        edges = list(told.edges(data=True))
        return _checked(
            torch.tensor([_type(data, 0) for _, data in told.nodes(data=True)], dtype=torch.int64),
            torch.tensor([[place[i], place[j]] for i, j, _ in edges], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([_type(data, 1) for _, _, data in edges], dtype=torch.int64),
        )
    if isinstance(told, Mapping) and "n" in told:
        n, pairs = int(_whole("n", told["n"], ())), _whole("edges", told.get("edges"), (-1, 2))
        nodes, kinds = (None if told.get(key) is None else _whole(key, told[key], (-1,)) for key in ("nodes", "kinds"))
        if n < 1 or (nodes is not None and len(nodes) != n):
            raise ValueError(
                f"a graph has n = {n} and {n if nodes is None else len(nodes)} nodes; give it at least one, and as many as n."
            )
        return _checked(
            torch.zeros(n, dtype=torch.int64) if nodes is None else nodes,
            pairs,
            torch.ones(len(pairs), dtype=torch.int64) if kinds is None else kinds,
        )
    raise ValueError(
        f"a {type(told).__name__} is no graph; give networkx graphs, data with edge_index, or {{'n': ..., 'edges': ...}}."
    )


def to_networkx(graph: Graph) -> Any:
    """The graph as `networkx.Graph`, types as the attribute "type" of nodes and edges.

    Raises:
        ImportError: without networkx.
    """
    try:
        import networkx
    except ImportError:
        raise ImportError("networkx is missing; pip install 'langevin[graphs]'.") from None
    g = networkx.Graph()
    g.add_nodes_from((k, {"type": int(v)}) for k, v in enumerate(graph.nodes))
    g.add_edges_from((int(i), int(j), {"type": int(r)}) for (i, j), r in zip(graph.pairs, graph.kinds, strict=True))
    return g


def _checked(nodes: Tensor, pairs: Tensor, kinds: Tensor) -> Graph:
    """Each edge once, smaller end first, in order; of one that is told twice, the first telling."""
    if nodes.ndim != 1 or not len(nodes) or len(pairs) != len(kinds):
        raise ValueError(
            f"a graph has nodes {tuple(nodes.shape)}, {len(pairs)} edges and {len(kinds)} types of them; make them fit."
        )
    if len(beyond := pairs[(pairs < 0) | (pairs >= len(nodes))]):
        raise ValueError(f"an edge ends at node {int(beyond[0])} of {len(nodes)}; ends run from 0 to {len(nodes) - 1}.")
    if bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError("a graph has an edge from a node to itself; take loops out.")
    if int(nodes.min()) < 0 or (len(kinds) and int(kinds.min()) < 1):
        raise ValueError("types of nodes count from 0, and those of edges from 1; 0 is 'no edge'.")
    low, high = torch.minimum(*pairs.unbind(1)), torch.maximum(*pairs.unbind(1))
    name = low * len(nodes) + high
    order = name.argsort(stable=True)
    new = torch.ones(len(order), dtype=torch.bool)
    new[1:] = name[order][1:] != name[order][:-1]
    kept = order[new]
    return Graph(nodes, torch.stack([low, high], 1)[kept], kinds[kept])


def _whole(name: str, values: Any, shape: tuple[int, ...]) -> Tensor:
    """Values of a shape as int64; -1 is any length. A silent cast would move an edge, and a silent reshape pair other ends."""
    try:
        t = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        t = None
    if t is not None and t.numel() == 0 and len(shape):
        t = t.reshape([max(n, 0) for n in shape])
    fits = t is not None and t.ndim == len(shape) and all(m in (n, -1) for m, n in zip(shape, t.shape, strict=True))
    if t is None or not fits or t.dtype is torch.bool or not bool((t.long() == t).all()):
        told = f"{values!r:.60}" if t is None or t.ndim == 0 or t.numel() < 9 else f"of shape {tuple(t.shape)}"
        wants = str(tuple("any" if n == -1 else n for n in shape)).replace("'", "") if shape else "one number"
        raise ValueError(f"a graph has {name} {told}; give whole numbers, {wants}.")
    return t.long()


def _type(data: Mapping[str, Any], usual: int) -> int:
    told = data.get("type", usual)
    try:
        whole = isinstance(told, str) or int(told) == told
        number = int(told)
    except (TypeError, ValueError):
        whole, number = False, 0
    if not whole:
        raise ValueError(
            f"a node or an edge has type {told!r}; number the types, from 0 for nodes and from 1 for edges (their names are "
            "node_types= and edge_types= of Graphs)."
        )
    return number


def _types(name: str, values: Any) -> Tensor | None:
    if values is None:
        return None
    t = torch.as_tensor(values)
    if t.ndim == 2 and t.shape[1] > 1:
        whole = bool(((t == 0) | (t == 1)).all()) and bool((t.sum(1) == 1).all())
        found = t.long().argmax(1)
    else:
        found = t.reshape(-1).long()
        whole = t.ndim in (1, 2) and bool((found == t.reshape(-1)).all())
    if not whole:
        raise ValueError(f"{name} of shape {tuple(t.shape)} tells no types: give whole numbers, or rows of zeros and a single 1; "
                         f"of features keep the columns of the type, as in data.{name} = data.{name}[:, :K].")  # fmt: skip
    return found
