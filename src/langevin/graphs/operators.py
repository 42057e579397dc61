"""Diffusion on graphs: random walks, heat, personalised PageRank and APPNP. Nothing here is learned.

    P = D^-1 A                 transition, each row sums to 1
    f <- P f                   smooths a signal: constants stay, on a connected graph all ends as a constant
    p <- P^T p                 moves a probability: the total stays, on a connected graph it ends as degree / 2m
    exp(-t L), L = D - A       heat: symmetric, so it keeps constants and totals alike

Signals and probabilities are told apart by name, because the first formula is often printed for the second (on a star, one
step of P from the hub makes a "probability" of 4.0). Nodes without edges keep what they have: P_ii = 1.

Shapes: graphs (..., N, N), weights not negative, symmetric unless said; mask (..., N) bool, the real nodes; values on nodes
(..., N, C). Padded nodes have no edges, send nothing and receive nothing. B graphs, N nodes, C columns.
"""

import math

import torch
from torch import Tensor

LAPLACIANS = ("combinatorial", "normalised", "walk")


def masked(graph: Tensor, mask: Tensor | None) -> Tensor:
    """The graph without the edges of padded nodes.

    Raises:
        ValueError: if it is no set of square matrices, has negative weights, or the mask does not fit.
    """
    if graph.ndim < 2 or graph.shape[-1] != graph.shape[-2]:
        raise ValueError(f"the graph has shape {tuple(graph.shape)}; give (..., N, N) weights of edges.")
    graph = graph if graph.is_floating_point() else graph.to(torch.get_default_dtype())
    if bool((graph < 0).any()):
        raise ValueError("the graph has negative weights; a walk needs weights of at least 0.")
    if mask is None:
        return graph
    if mask.dtype != torch.bool or mask.shape != graph.shape[:-1]:
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)} for graphs {tuple(graph.shape)}; give bools, one a node.")
    return graph * (mask[..., :, None] & mask[..., None, :]).to(graph.dtype)


def transition(graph: Tensor, mask: Tensor | None = None, lazy: bool = False) -> Tensor:
    """P = D^-1 A, or (I + P) / 2 with `lazy`, whose walk converges on bipartite graphs too. (..., N, N).

    Rows of nodes without edges stand still (P_ii = 1); rows of padded nodes are 0.
    """
    graph = masked(graph, mask)
    degree = graph.sum(-1, keepdim=True)
    eye = torch.eye(graph.shape[-1], dtype=graph.dtype, device=graph.device)
    step = torch.where(degree > 0, graph / degree.clamp(min=torch.finfo(graph.dtype).tiny), eye)
    step = (step + eye) / 2 if lazy else step
    return step if mask is None else step * mask[..., None].to(step.dtype)


def smooth(signal: Tensor, step: Tensor, times: int = 1) -> Tensor:
    """P^k f: every node takes the mean of its neighbours, k times. signal (..., N, C), step from `transition`."""
    for _ in range(times):
        signal = step @ signal
    return signal


def walk(probability: Tensor, step: Tensor, times: int = 1) -> Tensor:
    """(P^T)^k p: where walkers are after k steps. probability (..., N, C), each column a distribution over nodes."""
    return smooth(probability, step.transpose(-1, -2), times)


def stationary(graph: Tensor, mask: Tensor | None = None) -> Tensor:
    """degree / 2m, the limit of the lazy walk on a connected graph, (..., N)."""
    degree = masked(graph, mask).sum(-1)
    return degree / degree.sum(-1, keepdim=True)


def mixing_rate(graph: Tensor, mask: Tensor | None = None, lazy: bool = False) -> Tensor:
    """The second largest |eigenvalue| of the walk, (...,): the distance to the limit falls by this factor a step.

    It is 1 where the walk has no limit: graphs in several pieces, and bipartite ones unless `lazy`. Symmetric graphs only.
    """
    graph = masked(graph, mask)
    # P is similar to D^-1/2 A D^-1/2, which is symmetric
    values = torch.linalg.eigvalsh(_balanced(graph))
    degree = graph.sum(-1)
    real = torch.ones_like(degree, dtype=torch.bool) if mask is None else mask
    alone = ((degree == 0) & real).sum(-1, keepdim=True)  # each has P_ii = 1, and an eigenvalue 0 in the balanced form
    order = values.abs().argsort(-1)  # the nodes without edges, padded ones among them, are zeros
    ranked = values.gather(-1, order)
    place = torch.arange(ranked.shape[-1], device=ranked.device)
    ranked = torch.where(place < alone, torch.ones_like(ranked), ranked)
    ranked = (1 + ranked) / 2 if lazy else ranked.abs()
    padded = (~real).sum(-1, keepdim=True)
    ranked = torch.where((place >= alone) & (place < alone + padded), torch.zeros_like(ranked), ranked)
    return ranked.sort(-1).values[..., -2]


def _balanced(graph: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2, 0 where a node has no edges."""
    degree = graph.sum(-1)
    root = torch.where(degree > 0, degree.clamp(min=torch.finfo(graph.dtype).tiny).rsqrt(), 0.0)
    return root[..., :, None] * graph * root[..., None, :]


def laplacian(graph: Tensor, mask: Tensor | None = None, kind: str = "combinatorial") -> Tensor:
    """L, (..., N, N): "combinatorial" D - A, "normalised" I - D^-1/2 A D^-1/2, "walk" I - P.

    Rows of nodes without edges, and of padded ones, are 0 in each.
    """
    if kind not in LAPLACIANS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(LAPLACIANS)}.")
    graph = masked(graph, mask)
    degree = graph.sum(-1)
    if kind == "combinatorial":
        return torch.diag_embed(degree) - graph
    alive = torch.diag_embed((degree > 0).to(graph.dtype))
    if kind == "normalised":
        return alive - _balanced(graph)
    return alive - graph / degree.clamp(min=torch.finfo(graph.dtype).tiny)[..., None]


def heat(graph: Tensor, time: float | Tensor, mask: Tensor | None = None, kind: str = "combinatorial") -> Tensor:
    """exp(-t L), (..., N, N), by eigenvectors: for graphs up to some thousand nodes; `heat_on` is for larger ones.

    Args:
        time: t, a number or (...,) one a graph.
        kind: "combinatorial" or "normalised", the symmetric ones.
    """
    if kind == "walk":
        raise ValueError("kind is 'walk', which is not symmetric; use 'combinatorial' or 'normalised'.")
    values, vectors = torch.linalg.eigh(laplacian(graph, mask, kind))
    decay = torch.exp(-torch.as_tensor(time, dtype=values.dtype, device=values.device)[..., None] * values.clamp(min=0))
    kernel = (vectors * decay[..., None, :]) @ vectors.transpose(-1, -2)
    return kernel if mask is None else kernel * (mask[..., :, None] & mask[..., None, :]).to(kernel.dtype)


def heat_on(values: Tensor, graph: Tensor, time: float, tolerance: float = 1e-12) -> Tensor:
    """exp(-t (D - A)) values by Chebyshev polynomials, without any eigenvectors: for large and sparse graphs.

    Args:
        values: (N, C). graph: (N, N), dense or sparse. tolerance: of the kernel, in the largest norm.
    """
    if not time >= 0 or not tolerance > 0:
        raise ValueError(f"time is {time} and tolerance {tolerance}; give a time of at least 0 and a tolerance above 0.")
    degree = _row_sums(graph)[:, None].to(values)
    top = max(2 * float(degree.max()), 1e-300)  # Gershgorin: eigenvalues lie in [0, 2 max degree]
    # exp(-t top (1 + c) / 2) = sum_k a_k T_k(c); a_k by the trapezoidal rule in the angle, which is exact to rounding here
    half = time * top / 2
    degrees = 32 + math.ceil(half + 8 * math.sqrt(half) + 2 * math.log(1 / tolerance))
    angle = (torch.arange(degrees, dtype=torch.float64) + 0.5) * math.pi / degrees
    shape = torch.exp(-half * (1 + angle.cos()))
    waves = torch.cos(torch.arange(degrees, dtype=torch.float64)[:, None] * angle)
    weights = 2 / degrees * (waves @ shape)
    weights[0] /= 2
    tail = weights.abs().flip(0).cumsum(0).flip(0)
    weights = weights[: max(1, int((tail > tolerance).sum()))].tolist()

    def shifted(u: Tensor) -> Tensor:  # 2 L / top - 1
        return (degree * u - _times(graph, u)) * (2 / top) - u

    before, now = values, shifted(values)
    out = weights[0] * values
    for i, weight in enumerate(weights[1:]):
        if i:
            before, now = now, 2 * shifted(now) - before
        out = out + weight * now
    return out


def _row_sums(graph: Tensor) -> Tensor:
    return _times(graph, torch.ones(graph.shape[-1], 1, dtype=graph.dtype, device=graph.device))[:, 0]


def _times(graph: Tensor, u: Tensor) -> Tensor:
    return torch.sparse.mm(graph, u) if graph.layout != torch.strided else graph @ u


def pagerank(
    graph: Tensor,
    seeds: Tensor,
    alpha: float = 0.15,
    mask: Tensor | None = None,
    of: str = "probability",
    steps: int | None = None,
) -> Tensor:
    """alpha (I - (1 - alpha) P^T)^-1 seeds, (..., N, C): where a walker is that goes home with probability alpha a step.

    Args:
        seeds: (..., N, C), each column a distribution over the nodes that walkers start from.
        alpha: in (0, 1]; networkx's alpha is 1 - alpha.
        of: "probability", with P^T; "signal" has P in its place, as some texts print it, and does not sum to 1.
        steps: terms of the power series sum_k alpha (1 - alpha)^k (P^T)^k; None solves the linear system. The rest of the
            series weighs (1 - alpha)^(steps + 1).
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it is the probability of going home, above 0 and at most 1.")
    if of not in ("probability", "signal"):
        raise ValueError(f"of is {of!r}; choose 'probability' or 'signal'.")
    step = transition(graph, mask)
    step = step.transpose(-1, -2) if of == "probability" else step
    seeds = seeds.to(step.dtype)
    if steps is None:
        eye = torch.eye(step.shape[-1], dtype=step.dtype, device=step.device)
        return alpha * torch.linalg.solve(eye - (1 - alpha) * step, seeds)
    rest, out = seeds, alpha * seeds
    for _ in range(steps):
        rest = (1 - alpha) * (step @ rest)
        out = out + alpha * rest
    return out


def pagerank_push(graph: Tensor, seeds: Tensor, alpha: float = 0.15, tolerance: float = 1e-8) -> tuple[Tensor, Tensor]:
    """PageRank of a large graph by pushing only what is worth it (Andersen, Chung, Lang, "Local graph partitioning using
    PageRank vectors", 2006): (estimate, residual), both (N, C).

    At the end no node holds a residual above tolerance x its degree, and estimate + pagerank(residual) is exact. All nodes
    above the bound are pushed at once.

    Args:
        graph: (N, N) symmetric, dense or sparse. seeds: (N, C).
    """
    if not 0 < alpha <= 1 or not tolerance > 0:
        raise ValueError(f"alpha is {alpha} and tolerance {tolerance}; give alpha in (0, 1] and a tolerance above 0.")
    degree = _row_sums(graph)[:, None].to(seeds)
    alone = degree == 0
    share = torch.where(alone, 0.0, 1 / degree.clamp(min=1e-300))
    bound = tolerance * torch.where(alone, 1.0, degree)
    # what starts at a node without edges stays there
    out, rest = torch.where(alone, seeds, 0.0), torch.where(alone, 0.0, seeds)
    while bool((active := rest.abs() > bound).any()):
        sent = torch.where(active, rest, 0.0)
        out = out + alpha * sent
        rest = rest - sent + (1 - alpha) * _times(graph, sent * share)
    return out, rest


def appnp(values: Tensor, graph: Tensor, alpha: float = 0.1, steps: int = 10, mask: Tensor | None = None) -> Tensor:
    """Z <- (1 - alpha) A^ Z + alpha H from Z = H = values, (..., N, C), with A^ = D^-1/2 (A + I) D^-1/2, D the degrees of A + I
    (APPNP, 1810.05997, eq. 5). The propagation of a network's predictions, so it is no walk and keeps no totals.
    """
    graph = masked(graph, mask)
    eye = torch.eye(graph.shape[-1], dtype=graph.dtype, device=graph.device)
    own = eye if mask is None else eye * mask[..., None].to(graph.dtype)
    spread, out = _balanced(graph + own).to(values.dtype), values
    for _ in range(steps):
        out = (1 - alpha) * (spread @ out) + alpha * values
    return out
