"""Distances between sets of samples, over features (N, D) of any network. All sums are in float64.

None is a published FID by itself: a number is named after its features and its protocol (`langevin.evaluate.card`).
Pairs are visited a block of rows at a time, so that 50,000 samples need no 50,000 x 50,000 table.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from langevin.core.noise import Noise

CELLS = 2**24
"""Pairs held at once: 128 MiB of float64."""


def checked(**features: Tensor) -> list[Tensor]:
    """Feature sets in float64.

    Raises:
        ValueError: if one is not (N, D) with N of at least 2, holds values that are not finite, or has another D.
    """
    for name, f in features.items():
        if f.ndim != 2 or len(f) < 2:
            raise ValueError(f"features {name} have shape {tuple(f.shape)}; give (N, D) with at least 2 samples.")
        if not bool(f.isfinite().all()):
            raise ValueError(f"features {name} hold values that are not finite; the model or the plan diverged.")
    widths = {name: f.shape[1] for name, f in features.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"the feature sets have widths {widths}; take all from one network.")
    return [f.double() for f in features.values()]


def rows(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """a in parts whose tables of pairs with b are small."""
    return a.split(max(1, CELLS // len(b)))


def _sum(kernel: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Sum of kernel(a_i, b_j) over all pairs."""
    return torch.stack([kernel(part, b).sum() for part in rows(a, b)]).sum()


def drawn(count: int, size: int, seed: int, draw: int, purpose: str) -> Tensor:
    """`size` different places of `count`, a function of (seed, draw, purpose)."""
    return Noise(seed, torch.arange(count), draw, purpose).uniform(()).argsort()[:size]


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between the normal fits of features a (N, D) and b (M, D).

    |m_a - m_b|^2 + tr(C_a + C_b) - 2 sum sqrt(eig(C_a C_b)) (1706.08500, eq. 6). Biased upwards for few samples: compare
    it with that of real data against real data of the same sizes.
    """
    a, b = checked(a=a, b=b)
    cov_a, cov_b = (torch.cov(f.T).reshape(f.shape[1], f.shape[1]) for f in (a, b))
    # the product of two covariances has real, non-negative eigenvalues; rounding may say otherwise
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * root)


def frechet_infinity(a: Tensor, b: Tensor, points: int = 15, seed: int = 0) -> float:
    """The Frechet distance that infinitely many samples a would have (1911.07023, section 4).

    The distance is biased by about c / N: it is measured at `points` sizes between N / 10 and N, on random parts of a, and
    the line through it against 1 / N is read at 0. The bias from a small b remains.
    """
    if points < 2 or len(a) < 10 * points:
        raise ValueError(f"a line through {points} sizes of {len(a)} samples is no fit; give at least {10 * max(points, 2)}.")
    sizes = torch.linspace(len(a) / 10, len(a), points).round().long()
    at = torch.tensor([frechet(a[drawn(len(a), int(n), seed, i, "fd")], b) for i, n in enumerate(sizes)], dtype=torch.float64)
    line = torch.stack([torch.ones(points, dtype=torch.float64), 1 / sizes.double()], 1)
    return float(torch.linalg.lstsq(line, at[:, None]).solution[0])


def kid(a: Tensor, b: Tensor, *, subsets: int = 100, size: int | None = None, seed: int = 0) -> tuple[float, float | None]:
    """Kernel distance between features a (N, D) and b (M, D): mean and standard deviation over random subsets.

    Subsets overlap the more, the nearer `size` is to N and M, and their deviation then says too little of the error of the mean.
    Where they are all of both sets it says nothing: the distance is computed once, and the deviation is None.

    The squared maximum mean discrepancy of the kernel (x.y / D + 1)^3, by its unbiased estimate (1801.01401, section 4), so
    it may come out below 0.

    Args:
        subsets: how many are drawn.
        size: samples in each, without repetition; by default 1000, or all there are.
        seed: names the subsets.
    """
    a, b = checked(a=a, b=b)
    size = min(1000, len(a), len(b)) if size is None else size
    if subsets < 1 or not 2 <= size <= min(len(a), len(b)):
        raise ValueError(f"kid has {subsets} subsets of {size}; take at least 1, of 2 to {min(len(a), len(b))} samples.")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        itself = ((x * x).sum(1) / x.shape[1] + 1) ** 3
        return (_sum(kernel, x, x) - itself.sum()) / (len(x) * (len(x) - 1))

    found, same = [], len(a) == len(b) == size
    for k in range(1 if same else subsets):
        x, y = a[drawn(len(a), size, seed, k, "kid/a")], b[drawn(len(b), size, seed, k, "kid/b")]
        found.append(within(x) + within(y) - 2 * _sum(kernel, x, y) / size**2)
    values = torch.stack(found)
    return float(values.mean()), None if same else float(values.std(correction=0))


def cmmd(a: Tensor, b: Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """Distance between CLIP embeddings a (N, D) and b (M, D): 1000 times a squared maximum mean discrepancy (2401.09603).

    Embeddings are scaled to unit length; the kernel is exp(-|x - y|^2 / (2 sigma^2)). As in the paper's program the estimate
    is the biased one, with each sample's pair with itself, so it is never negative.
    """
    a, b = (f / f.norm(dim=1, keepdim=True) for f in checked(a=a, b=b))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / (2 * sigma**2))

    parts = _sum(kernel, a, a) / len(a) ** 2 + _sum(kernel, b, b) / len(b) ** 2 - 2 * _sum(kernel, a, b) / (len(a) * len(b))
    return float(scale * parts)


def clip_score(pictures: Tensor, texts: Tensor) -> tuple[float, float]:
    """How well pictures fit their texts: 100 max(cos, 0) of their CLIP embeddings, both (N, D), pair by pair.

    2104.08718, section 3, with the factor 100 in use today for the paper's 2.5. Returns the mean and its standard error.
    """
    a, b = checked(pictures=pictures, texts=texts)
    if len(a) != len(b):
        raise ValueError(f"there are {len(a)} pictures and {len(b)} texts; give one text to each picture.")
    score = 100 * torch.cosine_similarity(a, b).clamp(min=0)
    return float(score.mean()), float(score.std() / len(score) ** 0.5)


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))) from class probabilities (N, K): mean and deviation over consecutive splits.

    1606.03498, section 4. It sees no real data: 1 for a blind classifier, K for sure and even classes.
    """
    (p,) = checked(probabilities=probabilities)
    if bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > 1e-3).any()):
        raise ValueError("probabilities must be at least 0 and add up to 1 in each row; pass them through a softmax.")
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits is {splits} for {len(p)} samples; take 1 to {len(p)}.")
    scores = []
    for k in range(splits):
        part = p[k * len(p) // splits : (k + 1) * len(p) // splits]
        kl = torch.xlogy(part, part) - torch.xlogy(part, part.mean(0))
        scores.append(kl.sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| for point sets (N, D) and (M, D), 0 if and only if the laws agree."""
    a, b = checked(a=a, b=b)

    def within(x: Tensor) -> Tensor:
        return _sum(torch.cdist, x, x) / (len(x) * (len(x) - 1))

    return float(2 * _sum(torch.cdist, a, b) / (len(a) * len(b)) - within(a) - within(b))
