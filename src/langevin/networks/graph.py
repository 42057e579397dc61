"""A graph transformer: nodes, edges and the whole graph in three streams (DiGress, 2209.14734, sec. 3.3 and app. B).

Shape suffixes: B batch, N nodes, F features of nodes, C channels of edges, Y features of the whole graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond, Conditions, LevelEmbedding, check_heads, zero
from langevin.networks.blocks.embeddings import refuse_unknown
from langevin.networks.linear import Linear

_TAKEN = ("drop", "guidance", "ids", "label")
"""Conditions that are no properties."""


class Film(nn.Module):
    """x (1 + scale(y)) + shift(y)."""

    def __init__(self, whole: int, width: int) -> None:
        super().__init__()
        self.scale, self.shift = Linear(whole, width), Linear(whole, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        around = (slice(None), *[None] * (x.ndim - 2))
        return torch.addcmul(self.shift(y)[around], x, 1 + self.scale(y)[around])


class Pool(nn.Module):
    """x (B, ..., D) -> (B, Y) from mean, least, greatest and deviation over the elements that are real (PNA, 2004.05718).

    Padding takes no part in any of them: where it does, as in the published program, the same graph has other outputs beside a
    larger one.
    """

    def __init__(self, width: int, whole: int) -> None:
        super().__init__()
        self.join = Linear(4 * width, whole)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """real (B, ...) bool."""
        x, there = x.flatten(1, -2), real.flatten(1)[..., None]
        count = there.sum(1).clamp(min=1)
        some = there.any(1)
        mean = (x * there).sum(1) / count
        # of an empty set (the edges of a single node) all is 0
        spread = ((x - mean[:, None]).square() * there).sum(1) / count
        least, most = x.masked_fill(~there, torch.inf).amin(1), x.masked_fill(~there, -torch.inf).amax(1)
        least, most = least.masked_fill(~some, 0.0), most.masked_fill(~some, 0.0)
        return self.join(torch.cat([mean, least, most, (spread + 1e-6).sqrt()], -1))


class GraphBlock(nn.Module):
    """Attention between nodes that edges modulate and that makes new edges, then feed-forwards; norms after each.

    Scores are kept channel by channel, Y_ij = q_i k_j / sqrt(d), and edges act on them by Y (1 + M e_ij) + A e_ij.
    """

    def __init__(self, width: int, edge_width: int, whole: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = (width // heads) ** -0.5
        self.qkv = Linear(width, 3 * width)
        self.edge = Linear(edge_width, 2 * width)
        self.film_edge, self.film_node = Film(whole, width), Film(whole, width)
        self.out_edge, self.out_node = Linear(width, edge_width), Linear(width, width)
        self.own, self.pool_node, self.pool_edge = Linear(whole, whole), Pool(width, whole), Pool(edge_width, whole)
        self.out_whole = nn.Sequential(nn.SiLU(), Linear(whole, whole))
        inner = (2 * width, 2 * edge_width, 2 * whole)
        sizes = (width, edge_width, whole)
        self.forwards = nn.ModuleList(
            nn.Sequential(Linear(d, i), nn.SiLU(), nn.Dropout(dropout), Linear(i, d)) for d, i in zip(sizes, inner, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d) for d in (*sizes, *sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, e: Tensor, y: Tensor, mask: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, N, F), e (B, N, N, C), y (B, Y); mask (B, N) real nodes, pairs (B, N, N) real edges, without the diagonal."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scale, shift = self.edge(e).chunk(2, dim=-1)
        scores = torch.addcmul(shift, (q * self.scale)[:, :, None] * k[:, None], 1 + scale)
        to_edge = self.out_edge(self.film_edge(scores, y))
        weights = torch.softmax(scores.masked_fill(~mask[:, None, :, None], -torch.inf), dim=2)
        to_node = self.out_node(self.film_node((weights * v[:, None]).sum(2), y))
        to_whole = self.out_whole(self.own(y) + self.pool_node(x, mask) + self.pool_edge(e, pairs))
        new = [
            norm(old + self.dropout(step))
            for norm, old, step in zip(self.norms[:3], (x, e, y), (to_node, to_edge, to_whole), strict=True)
        ]
        x, e, y = (
            norm(h + self.dropout(forward(h))) for norm, h, forward in zip(self.norms[3:], new, self.forwards, strict=True)
        )
        return x, e, y


class GraphTransformer(nn.Module):
    """Permutation-equivariant network on graphs: z and outputs are dicts with the leaves "nodes" and "edges".

    States are types, (B, N) and (B, N, N) int64, or floats, (B, N, F) and (B, N, N) or (B, N, N, C); answers are logits
    (B, N, nodes), (B, N, N, edges), or floats like the state. Edges are answered symmetric, with a diagonal of 0, and padding is
    answered by 0. Without the leaf "nodes", where all are alike, edges alone are answered for.

    Args:
        nodes, edges: how many types or channels are answered for.
        width, edge_width, whole: features of nodes, of edges and of the whole graph.
        depth, heads: layers; heads only set the scale of the scores, which are kept channel by channel.
        features: `features(nodes (B, N, F), edges (B, N, N, C), mask (B, N))` on what enters (one-hot for types): features of
            nodes (B, N, ...), of edges (B, N, N, ...) and of the whole graph (B, ...), with `widths`, the number of each. Called
            without gradients. See `langevin.graphs.features`.
        node_states, edge_states: how many types or channels enter, where these differ: one more for masked processes.
        residual: whether the state that enters is added to the answer.
        classes: number of labels for cond["label"].
        properties: names of numbers (B,) in cond, of about unit size, each with a null of its own for samples in cond["drop"].

    Raises:
        ValueError: for a width that the heads do not divide, or a property of a name that other conditions or torch have.
    """

    def __init__(
        self,
        nodes: int,
        edges: int,
        width: int = 96,
        edge_width: int = 48,
        whole: int = 64,
        depth: int = 4,
        heads: int = 8,
        features: Callable[..., Any] | None = None,
        node_states: int | None = None,
        edge_states: int | None = None,
        residual: bool = True,
        dropout: float = 0.0,
        classes: int | None = None,
        properties: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.nodes, self.edges, self.residual = nodes, edges, residual
        self.node_states, self.edge_states = node_states or nodes, edge_states or edges
        self.features = features
        extra = (0, 0, 0) if features is None else tuple(getattr(features, "widths"))  # noqa: B009  (any callable may have it)
        self.enter_node = _two(self.node_states + extra[0], width)
        self.enter_edge = _two(self.edge_states + extra[1], edge_width)
        self.enter_whole = _two(whole + extra[2], whole)
        self.level_node, self.level_edge = (LevelEmbedding(whole) for _ in range(2))
        self.to_node, self.to_edge = zero(Linear(whole, width)), zero(Linear(whole, edge_width))
        self.conditions = Conditions(whole, classes)
        self.properties = nn.ModuleDict()
        for name in properties:
            if not name or "." in name or name in _TAKEN or hasattr(self.properties, name):
                raise ValueError(f"properties has {name!r}, which no condition can be called; take another name, without dots.")
            self.properties[name] = Property(whole)
        # nothing but a regressor reads the last block's whole graph, so elsewhere what makes it (own, pool_*, out_whole, its
        # forward and norms) never has a gradient; without the leaf "nodes" neither has what makes the last nodes. They stay:
        # checkpoints have their names, and the weights drawn after them their places in the generator
        self.trunk = nn.ModuleList(GraphBlock(width, edge_width, whole, heads, dropout) for _ in range(depth))
        self.leave_node, self.leave_edge = _two(width, nodes), _two(edge_width, edges)
        zero(self.leave_node[-1])
        zero(self.leave_edge[-1])

    def forward(
        self, z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond = None, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """level by leaf, (B,) or broadcastable to its state; mask (B, N) bool, the real nodes."""
        return by_size(self._answer, z, level, cond, mask)

    def _answer(self, z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond, mask: Tensor | None) -> dict[str, Tensor]:
        edges = z["edges"]
        (x, e, _), (x_in, e_in), (mask, pairs) = self._streams(z, level, cond, mask)
        x, e = self.leave_node(x), self.leave_edge(e)
        if self.residual:
            x, e = x + x_in[..., : self.nodes], e + e_in[..., : self.edges]
        e = (e + e.transpose(1, 2)) / 2
        x, e = x * mask[..., None], e * pairs[..., None]
        numbers = self.edges == 1 and edges.is_floating_point() and edges.ndim == 3
        out = {"nodes": x, "edges": e[..., 0] if numbers else e}
        return {name: out[name] for name in z}

    def _streams(
        self, z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond, mask: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Nodes, edges and the whole after the last block; nodes and edges as they entered; which of them are real."""
        edges = z["edges"]
        nodes = z["nodes"] if "nodes" in z else torch.zeros_like(edges[:, 0], dtype=torch.int64)
        if nodes.ndim == 3 and "nodes" not in z:  # edges one-hot: there is one type of nodes
            nodes = nodes[..., 0]
        dtype = self.enter_node[-1].weight.dtype
        assert isinstance(dtype, torch.dtype)
        b, n = nodes.shape[:2]
        mask = torch.ones(b, n, dtype=torch.bool, device=nodes.device) if mask is None else mask
        pairs = mask[:, :, None] & mask[:, None, :] & ~torch.eye(n, dtype=torch.bool, device=nodes.device)
        x = _entered(nodes, self.node_states, 2, dtype) * mask[..., None]
        e = _entered(edges, self.edge_states, 3, dtype) * pairs[..., None]
        x_in, e_in = x, e
        edge_level = self.level_edge(_level(level["edges"], 3))
        node_level = self.level_node(_level(level["nodes"], 2)) if "nodes" in level else torch.zeros_like(edge_level[:, 0])
        of_edges = _over(edge_level, pairs)
        if edge_level.shape[1:-1].numel() > 1:  # nodes attend to themselves, at the level of the edges
            edge_level = torch.where(pairs[..., None], edge_level, of_edges[:, None, None])
        y = _over(node_level, mask) + of_edges
        y = self._conditioned(y, cond)
        if self.features is not None:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # counts are exact
                more = self.features(x, e, mask)
            x, e, y = (torch.cat([h, m.to(dtype)], -1) for h, m in zip((x, e, y), more, strict=True))
        x = self.enter_node(x) + self.to_node(F.silu(node_level))
        e = self.enter_edge(e) + self.to_edge(F.silu(edge_level))
        e, y = (e + e.transpose(1, 2)) / 2, self.enter_whole(y)
        for block in self.trunk:
            x, e, y = block(x, e, y, mask, pairs)
        return (x, e, y), (x_in, e_in), (mask, pairs)

    def _conditioned(self, y: Tensor, cond: Cond) -> Tensor:
        given = dict(cond or {})
        refuse_unknown({n: v for n, v in given.items() if n != "drop"}, [*self.conditions.names, *self.properties])
        drop = given.get("drop")
        for name, embed in self.properties.items():
            y = y + embed(given.pop(name, None), drop, y)
        vector, _ = self.conditions(given, len(y), y.device)
        return y if vector is None else y + vector


class GraphRegressor(GraphTransformer):
    """Numbers of a whole graph, (B, outcomes), read from a noisy one; invariant to the order of its nodes.

    States are types, or one-hot floats (B, N, nodes) and (B, N, N, edges), by which answers are then differentiable: guidance
    asks for the gradient. No gradient goes through `features`, which are computed of the state.

    Args:
        outcomes: how many numbers. Others as `GraphTransformer`, without conditions.
    """

    def __init__(self, outcomes: int, nodes: int, edges: int, whole: int = 64, **settings: Any) -> None:
        super().__init__(nodes, edges, whole=whole, residual=False, **settings)
        del self.leave_node, self.leave_edge
        self.leave_whole = _two(whole, outcomes)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond = None, mask: Tensor | None = None
    ) -> Tensor:
        return by_size(self._read, z, level, None, mask)

    def _read(self, z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond, mask: Tensor | None) -> Tensor:
        (_, _, y), _, _ = self._streams(z, level, cond, mask)
        return self.leave_whole(y)


class Property(nn.Module):
    """A number of each sample, or a learned null, as a vector to add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(Linear(1, width), nn.SiLU(), Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor | None, drop: Tensor | None, like: Tensor) -> Tensor:
        null = self.null.expand(len(like), -1)
        if value is None:
            return null
        if value.shape != (len(like),):
            raise ValueError(f"a property has shape {tuple(value.shape)}; give one number for each of {len(like)} samples.")
        embedded = self.embed(value.to(like.dtype)[:, None])
        # a product rather than a choice, so that both have a gradient, 0 where not chosen
        keep = torch.ones(len(like), 1, device=like.device) if drop is None else (~drop).to(like.dtype)[:, None]
        return keep * embedded + (1 - keep) * null


def by_size(
    answer: Callable[..., Any], z: Mapping[str, Tensor], level: Mapping[str, Tensor], cond: Cond, mask: Tensor | None
) -> Any:
    """answer(z, level, cond, mask), of graphs of like size at once, each group without the padding that all of it has.

    A pair of nodes costs as much where it is padding: of graphs of 10 to 125 nodes, padded to the largest, nine tenths are. The
    answer is that of all at once, but for the order of sums.
    """
    groups = None if mask is None else _groups(mask)
    if mask is None or groups is None:
        return answer(z, level, cond, mask)
    most, parts = mask.shape[1], []
    for index, n in groups:
        part = {name: _cut(v, index, n, most, 2 if name == "edges" else 1) for name, v in z.items()}
        at = {name: _cut(v, index, n, most, 2 if name == "edges" else 1) for name, v in level.items()}
        given = None if cond is None else {name: v[index] for name, v in cond.items()}
        said = answer(part, at, given, mask[index, :n])
        if not isinstance(said, Tensor):
            said = {name: F.pad(v, _beyond(v.ndim, 2 if name == "edges" else 1, most - n)) for name, v in said.items()}
        parts.append(said)
    back = torch.cat([index for index, _ in groups]).argsort()
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)[back]
    return {name: torch.cat([p[name] for p in parts])[back] for name in parts[0]}


_ALIKE, _WORTH = 0.7, {"cpu": 4096}
"""Graphs of more than so much of the largest one's size are of like size. Pairs of nodes that a group apart has to save; on other
devices as many as keep them busy."""


def _groups(mask: Tensor) -> list[tuple[Tensor, int]] | None:
    """Rows of mask (B, N), and the nodes of the largest graph among them, largest first; None where apart they cost as much."""
    worth = _WORTH.get(mask.device.type, 2**20)
    capturing = mask.is_cuda and torch.cuda.is_current_stream_capturing()  # which may not wait for sizes
    if mask.numel() * mask.shape[1] <= worth or capturing or torch.compiler.is_compiling():
        return None
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    sizes, order = (mask * place).amax(1).sort(descending=True, stable=True)
    of = sizes.tolist()
    starts, largest = [0], of[0]
    for k, n in enumerate(of):
        if n <= _ALIKE * largest and (len(of) - k) * (largest**2 - n**2) > worth:
            starts.append(k)
            largest = n
    if len(starts) == 1 and of[0] > _ALIKE * mask.shape[1]:
        return None
    return [(order[a:b], max(of[a], 1)) for a, b in zip(starts, [*starts[1:], len(of)], strict=True)]


def _cut(v: Tensor, index: Tensor, n: int, most: int, axes: int) -> Tensor:
    """Rows of v, and of its first axes after that as much as n nodes have; what is one for all of them stays."""
    if v.ndim and v.shape[0] > 1:
        v = v[index]
    for axis in range(1, min(axes + 1, v.ndim)):
        if v.shape[axis] == most:
            v = v.narrow(axis, 0, n)
    return v


def _beyond(ndim: int, axes: int, more: int) -> list[int]:
    """For `F.pad`: so many more along the axes after the first."""
    return [0, 0] * (ndim - 1 - axes) + [0, more] * axes


def _two(into: int, out: int) -> nn.Sequential:
    inner = max(into, out)
    return nn.Sequential(Linear(into, inner), nn.SiLU(), Linear(inner, out))


def _entered(z: Tensor, states: int, axes: int, dtype: torch.dtype) -> Tensor:
    if not z.is_floating_point():
        return F.one_hot(z, states).to(dtype)
    return (z if z.ndim > axes else z[..., None]).to(dtype)


def _over(h: Tensor, real: Tensor) -> Tensor:
    """The mean of h (B, ..., D), which may be one for all elements, over those that are real, (B, D)."""
    if h.shape[1:-1].numel() == 1:
        return h.flatten(1, -2)[:, 0]
    weight = real[..., None].to(h.dtype).expand(*real.shape, h.shape[-1])
    return (h * weight).flatten(1, -2).sum(1) / weight.flatten(1, -2).sum(1).clamp(min=1)


def _level(level: Tensor, axes: int) -> Tensor:
    """(B,) or broadcastable to the state -> (B, 1 or N, ...), one level per node or pair."""
    if level.ndim == 1:
        return level.reshape(-1, *[1] * (axes - 1))
    return level.mean(tuple(range(axes, level.ndim))) if level.ndim > axes else level
