"""Kernels between categories that are not low rank: chains of matrices (D3PM), ordered values, neighbours in an embedding.

    ordinal_rates, nearest_neighbour_rates   matrices of rates R for `Categorical(rates=)` (small K) or `Squared` (large K)
    Chain, discretised_gaussian              T matrices Q_1, ..., Q_T, as the D3PM paper has them
    Squared                                  exp(-log(keep) R) from powers M, M^2, M^4, ... that only ever meet vectors

A kernel is used as `Categorical(K, schedule, kernel=...)`. Rows are earlier states, columns later ones (2107.03006, sec. 3).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.categorical import Kernel
from langevin.core.levels import KeptByLevel


def ordinal_rates(categories: int, width: float = 0.05) -> Tensor:
    """(K, K) rates of jumping between ordered values, a discretised Gaussian of the distance (D3PM, app. A.2.3).

    Distances count in units of the range K - 1, so that the same width means the same at every K. (The published
    code fixes the range at 255, which freezes every state at small K.)
    """
    index = torch.arange(categories, dtype=torch.float64)
    rates = torch.exp(-((index[:, None] - index) ** 2) / ((categories - 1) * width) ** 2)
    rates.fill_diagonal_(0)
    rates /= rates.sum(1).max()
    rates = (rates + rates.T) / 2
    return rates - torch.diag(rates.sum(1))


def nearest_neighbour_rates(embeddings: Tensor, neighbours: int = 5) -> Tensor:
    """(K, K) rates of jumping to near categories (D3PM, app. A.2.4): A = (G + G^T) / (2 k), R = A - diag(A 1).

    G joins each category to the k most similar others by cosine; R is symmetric, so that its limit is uniform if the graph
    hangs together.

    Args:
        embeddings: (K, D).
        neighbours: k.
    """
    count = len(embeddings)
    if embeddings.ndim != 2 or not 1 <= neighbours < count:
        raise ValueError(
            f"embeddings have shape {tuple(embeddings.shape)} and neighbours is {neighbours}; give (K, D), 1 <= k < K."
        )
    unit = F.normalize(embeddings.double(), dim=1)
    near = (unit @ unit.T).fill_diagonal_(-math.inf).topk(neighbours, dim=1).indices
    graph = torch.zeros(count, count, dtype=torch.float64).scatter_(1, near, 1.0)
    joined = (graph + graph.T) / (2 * neighbours)
    return joined - torch.diag(joined.sum(1))


class Chain(Kernel):
    """A chain of T steps, each with a matrix of its own.

    Step i is taken where the schedule's alpha falls below 1 - (i - 1) / T: under `keep_linear()` the state at a level in
    ((i - 1) / T, i / T] has made i steps, so that every grid of levels is legal, levels drawn evenly are steps drawn evenly,
    and `ELBO(T)` is the paper's bound. Other schedules spend the steps otherwise. Memory: 16 T S^2 bytes.

    Args:
        steps: (T, S, S), rows summing to 1.
        limit: (S,), where the chain ends; by default what its product makes of the uniform distribution.
    """

    def __init__(self, steps: Tensor, limit: Tensor | None = None) -> None:
        steps = torch.as_tensor(steps, dtype=torch.float64)
        if (
            steps.ndim != 3
            or steps.shape[1] != steps.shape[2]
            or bool((steps < 0).any() | ((steps.sum(2) - 1).abs() > 1e-9).any())
        ):
            raise ValueError(f"steps have shape {tuple(steps.shape)}; give (T, S, S), no entry negative, rows summing to 1.")
        self.steps, products = steps, [torch.eye(steps.shape[1], dtype=torch.float64)]
        for step in steps:
            products.append(products[-1] @ step)
        self.products = torch.stack(products)
        self.limit = self.products[-1].mean(0) if limit is None else torch.as_tensor(limit, dtype=torch.float64)
        self._kept = KeptByLevel()

    def index(self, alpha: Tensor) -> Tensor:
        """Steps made at keep-probability alpha, int64."""
        # alpha comes as a product of quotients, so a whole number may be missed by rounding
        return (len(self.steps) * (1 - alpha) - 1e-6).ceil().clamp(0, len(self.steps)).long()

    def between(self, made: int, then: int) -> Tensor:
        """Q_{made + 1} ... Q_{then}, (S, S)."""
        if made == 0:
            return self.products[then]
        if then == made + 1:
            return self.steps[made]
        steps = self.steps[made:then]
        return self._kept.get_or((made, then), lambda: functools.reduce(torch.matmul, steps, self.products[0]))

    def _matrices(self, keep: Tensor, since: Tensor | float, device: torch.device) -> Tensor:
        """(*levels, S, S), for keep (*levels, 1)."""
        since = torch.as_tensor(since, dtype=torch.float64, device=keep.device)
        made, then = (i.cpu() for i in torch.broadcast_tensors(self.index(since), self.index(keep * since)))
        pairs, place = torch.stack([made.flatten(), then.flatten()]).unique(dim=1, return_inverse=True)
        found = torch.stack([self.between(a, b) for a, b in pairs.T.tolist()])
        return found[place].reshape(*made.shape[:-1], *found.shape[1:]).to(device)

    def push(self, p: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        q = self._matrices(keep, since, p.device)
        if q.ndim == 2:
            return p @ q
        q = q.reshape(*[1] * (p.ndim + 1 - q.ndim), *q.shape)
        if all(n == 1 for n in q.shape[1:-2]):  # one level a sample
            return (p.flatten(1, -2) @ q.reshape(len(q), *q.shape[-2:])).reshape(p.shape)
        return (p[..., None, :] @ q)[..., 0, :]

    def column(self, z: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        q = self._matrices(keep, since, z.device).transpose(-1, -2)
        if q.ndim == 2:
            return q[z]
        q = q.reshape(*[1] * (z.ndim + 2 - q.ndim), *q.shape)
        if all(n == 1 for n in q.shape[1:-2]):
            q = q.reshape(len(q), *q.shape[-2:]).expand(len(z), -1, -1)
            return q[torch.arange(len(z), device=z.device)[:, None], z.flatten(1)].reshape(*z.shape, -1)
        return q.expand(*z.shape, *q.shape[-2:]).gather(-2, z[..., None, None].expand(*z.shape, 1, q.shape[-1]))[..., 0, :]


def discretised_gaussian(
    categories: int, steps: int = 100, start: float = 0.01, end: float = 0.2, reference: bool = False
) -> Chain:
    """D3PM's discretised Gaussian (2107.03006, app. A.2.3), betas linear from `start` to `end`:

        Q_ij = exp(-4 (i - j)^2 / ((K - 1)^2 b)) / sum_{n = 1-K .. K-1} exp(-4 n^2 / ((K - 1)^2 b)),  i != j

    and the rest on the diagonal: symmetric, so the limit is uniform.

    The paper's betas, 1e-4 .. 0.02 in 1,000 steps, are meant for K = 256: at K = 17 they move nothing, so the default is larger.

    Args:
        reference: values 255 / (K - 1) apart in a range of K - 1, as the published image code and its copies have them: right
            at K = 256 alone. At small K the state then never moves.
    """
    if categories < 2 or steps < 1 or not 0 < start <= end:
        raise ValueError(
            f"the chain has {categories} categories, {steps} steps and betas {start:g} .. {end:g}; give 2, 1, above 0."
        )
    span = (categories - 1) ** 2 / 255 if reference else categories - 1
    betas = torch.linspace(start, end, steps, dtype=torch.float64)[:, None]
    distance = torch.arange(1 - categories, categories, dtype=torch.float64)
    mass = torch.softmax(-4 * distance**2 / (span**2 * betas), dim=1)  # (T, 2K - 1)
    index = torch.arange(categories)
    q = mass[:, (index[:, None] - index) + categories - 1] * (1 - torch.eye(categories, dtype=torch.float64))
    return Chain(q + torch.diag_embed(1 - q.sum(2)), torch.full((categories,), 1 / categories, dtype=torch.float64))


class Squared(Kernel):
    """exp(-log(keep) R) for large K (D3PM, app. A.2.4): M = exp(h R) for a small h, then M^2, M^4, ... once, with rows
    renormalised at each squaring. A vector meets those in the binary digits of -log(keep) / h; what is left over is a short
    Taylor series, so that every level is met exactly. O(K^2) a token and digit; some 20 matrices of K^2 numbers.

    Args:
        rates: (K, K), non-negative off the diagonal, rows summing to 0.
        dtype: float32 halves the memory.

    Raises:
        ValueError: if the categories do not all reach each other, so that there is no prior.
    """

    TERMS = 10

    def __init__(self, rates: Tensor, dtype: torch.dtype = torch.float64) -> None:
        rates = torch.as_tensor(rates, dtype=torch.float64)
        size = len(rates)
        off_diagonal = rates - torch.diag(rates.diagonal())
        if rates.shape != (size, size) or bool((off_diagonal < 0).any() | (rates.sum(1).abs() > 1e-9).any()):
            raise ValueError(
                f"rates have shape {tuple(rates.shape)}; give (K, K), non-negative off the diagonal, rows summing to 0."
            )
        self.rates, fastest = rates.to(dtype), float(-rates.diagonal().min())
        self.step = 2.0**-4 / max(fastest, 1e-12)
        power = torch.linalg.matrix_exp(self.step * rates)
        self.powers: list[Tensor] = []
        for _ in range(64):
            power = power / power.sum(1, keepdim=True)
            self.powers.append(power.to(dtype))
            if float((power - power[0]).abs().max()) < 1e-13:
                break
            power = power @ power
        else:
            raise ValueError(
                "the rates have several limits, so no prior; join all categories, with more neighbours for instance."
            )
        self.limit = power.mean(0)
        self._there: dict[torch.device, tuple[Tensor, list[Tensor], Tensor]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, list[Tensor], Tensor]:
        """(rates, powers, limit) on a device, carried there once: K^2 numbers for each of some 20 matrices."""
        if device not in self._there:
            self._there[device] = (self.rates.to(device), [p.to(device) for p in self.powers], self.limit.to(device))
        return self._there[device]

    def _apply(self, v: Tensor, keep: Tensor, transpose: bool) -> Tensor:
        rates, powers, _ = self.on(v.device)

        def turned(matrix: Tensor) -> Tensor:
            return matrix.T if transpose else matrix

        gone = -keep.clamp(min=1e-300).log() / self.step
        whole = gone.floor().clamp(max=2.0 ** len(self.powers) - 1)
        left, digits, v = (gone - whole).clamp(max=1) * self.step, whole.long(), v.to(self.rates.dtype)
        term, matrix = v, turned(rates)
        for k in range(1, self.TERMS + 1):
            term = (term @ matrix) * (left / k).to(v.dtype)
            v = v + term
        binary = (digits.reshape(-1, 1) >> torch.arange(len(powers), device=digits.device)) & 1
        # all digits are asked for at once: a device is waited for a single time
        for j, (power, some) in enumerate(zip(powers, binary.any(0).tolist(), strict=True)):
            if some:
                v = torch.where((digits >> j & 1).bool(), v @ turned(power), v)
        return v.double().clamp(min=0)

    def push(self, p: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        mixed = p.double().sum(-1, keepdim=True) * self.on(p.device)[2]
        return torch.where(keep > 0, self._apply(p, keep, False), mixed)

    def column(self, z: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        limit = self.on(z.device)[2]
        return torch.where(keep > 0, self._apply(F.one_hot(z, len(limit)), keep, True), limit[z][..., None])
