"""Exact denoisers: the tutorial, the ground truth of every law test, and the benchmark of every plan.

All are one thing: data that is a mixture of M components, each a point (or a small isotropic Gaussian around one) in
every leaf. The belief is then a weighted mean, with weights by Bayes' rule over all leaves and elements at once.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.posterior import Belief, CategoricalPosterior, GaussianPosterior
from langevin.core.process import LeafProcess, Process
from langevin.core.tree import Tree, leaves, tree

# stands for log 0 in sums from which single terms are taken out again; exp of it is 0 in float64
_NEVER = -1e4


class Mixture(BaseDenoiser):
    """The exact belief for a mixture, on Gaussian, categorical and product processes, at per-element levels.

    Args:
        process: what destroys the data.
        points: (M, *shape) centres (int64 for categorical leaves); a dict by leaf for a product.
        weights: (M,) probabilities of the components; equal by default.
        std: standard deviation of each component around its centre on Gaussian leaves; 0 for a finite data set.
        label: (M,) class of each component. With cond={"label": (B,)} the belief is given the class, except for samples
            marked in cond["drop"].
    """

    def __init__(
        self,
        process: Process,
        points: Tree,
        weights: Tensor | None = None,
        std: float = 0.0,
        label: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not std >= 0:
            raise ValueError(f"std is {std}; a standard deviation is not negative.")
        self.process, self.std, self.label = process, float(std), label
        self.points = {n: p.double() if p.is_floating_point() else p for n, p in leaves(points).items()}
        count = len(next(iter(self.points.values())))
        w = torch.full((count,), 1 / count, dtype=torch.float64) if weights is None else weights.double()
        if w.shape != (count,) or bool((w < 0).any()):
            raise ValueError(f"weights have shape {tuple(w.shape)}; give {count} of them, none negative.")
        self.log_weights = (w / w.sum()).log().clamp(min=_NEVER)
        self.shape = tree({n: tuple(p.shape[1:]) for n, p in self.points.items()})

    def _evidence(self, leaf: LeafProcess, points: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """log q(z_t | component) per element, (B, M, elements), float64, up to a constant."""
        if isinstance(leaf, Categorical):
            table = leaf.evidence(z, t).clamp(min=_NEVER).reshape(len(z), -1, leaf.categories)  # (B, D, K)
            index = points.to(z.device).reshape(len(points), -1)  # (M, D)
            return table[:, torch.arange(index.shape[1], device=z.device), index]
        alpha, sigma = (c.to(z.device) for c in leaf.schedule(t))
        variance = (alpha**2 * self.std**2 + sigma**2).clamp(min=1e-24).expand(z.shape).flatten(1)[:, None]
        signal = alpha.expand(z.shape).flatten(1)[:, None]
        return -((z.double().flatten(1)[:, None] - signal * points.to(z.device).flatten(1)) ** 2) / (2 * variance)

    def log_weight(self, evidence: Mapping[str, Tensor], cond: Cond) -> Tensor:
        """Unnormalised log-probability of each component given z (and the class), (B, M)."""
        total = sum(e.sum(-1) for e in evidence.values()) + self.log_weights.to(next(iter(evidence.values())).device)
        if cond is not None and "label" in cond:
            if self.label is None:
                raise ValueError("cond has a label, but this oracle was built without label=; pass one class per component.")
            other = cond["label"][:, None] != self.label.to(total.device)
            if bool(other.all(1).any()):
                raise ValueError(f"label {int(cond['label'][other.all(1)][0])} belongs to no component of this oracle.")
            if "drop" in cond:
                other = other & ~cond["drop"][:, None]
            total = total.masked_fill(other, -math.inf)
        return total

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        parts = self.process.leaves()
        for name, points in self.points.items():
            if z[name].shape[1:] != points.shape[1:]:
                known = tuple(points.shape[1:])
                raise ValueError(f"states are {tuple(z[name].shape)}, and this oracle's data is of shape {known}; give such.")
        evidence = {n: self._evidence(leaf, self.points[n], z[n], t[n]) for n, leaf in parts.items()}
        log_w = self.log_weight(evidence, cond)
        return tree({n: self._belief(leaf, n, z[n], t[n], log_w, evidence[n]) for n, leaf in parts.items()})

    def _belief(self, leaf: LeafProcess, name: str, z: Tensor, t: Tensor, log_w: Tensor, evidence: Tensor) -> Any:
        points = self.points[name].to(z.device)
        if isinstance(leaf, Categorical):
            # leave each position's own evidence out, to match prediction "logits"
            others = torch.logsumexp(
                torch.where(
                    torch.nn.functional.one_hot(points.reshape(len(points), -1), leaf.categories).bool(),  # (M, D, K)
                    (log_w[..., None] - evidence)[..., None],
                    -math.inf,
                ),
                dim=1,
            )
            logits = others.clamp(min=_NEVER + log_w.amax(1)[:, None, None]).reshape(*z.shape, leaf.categories)
            return CategoricalPosterior(logits, leaf.evidence(z, t))
        w = torch.softmax(log_w, dim=1)
        centre = torch.einsum("bm,m...->b...", w, points)
        if self.std == 0:
            square = torch.einsum("bm,m...->b...", w, points**2)
            return GaussianPosterior(centre.to(z.dtype), (square - centre**2).clamp(min=0).to(z.dtype))
        alpha, sigma = (c.to(z.device) for c in leaf.schedule(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        mean = centre + gain * (z.double() - alpha * centre)
        square = torch.einsum("bm,m...->b...", w, points**2)
        within = self.std**2 * sigma**2 / (alpha**2 * self.std**2 + sigma**2)
        between = (1 - gain * alpha) ** 2 * (square - centre**2).clamp(min=0)
        return GaussianPosterior(mean.to(z.dtype), (within + between).expand(z.shape).to(z.dtype))

    def log_prob(self, z: Tensor, t: Any, cond: Cond = None) -> Tensor:
        """log q(z_t), (B,) nats, on a single Gaussian leaf with sigma > 0 or std > 0."""
        leaf = self.process.leaves()[""]
        if not isinstance(leaf, Gaussian):
            raise ValueError("log_prob is for one Gaussian leaf; sum probabilities over states for categories.")
        level = expand(t, z)
        alpha, sigma = leaf.schedule(level)
        variance = (alpha**2 * self.std**2 + sigma**2).expand(z.shape).flatten(1)
        evidence = {"": self._evidence(leaf, self.points[""], z, level)}
        return torch.logsumexp(self.log_weight(evidence, cond), 1) - 0.5 * (2 * math.pi * variance).log().sum(1)


class NormalOracle(BaseDenoiser):
    """The exact belief for x ~ N(mean, covariance) on one Gaussian process, at per-element levels.

    Args:
        process: a Gaussian process.
        mean: (D,). covariance: (D, D).
    """

    def __init__(self, process: Gaussian, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        mean, covariance = mean.double(), covariance.double()
        if covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"covariance has shape {tuple(covariance.shape)} for a mean of {len(mean)}; give (D, D).")
        self.process, self.mean, self.covariance, self.shape = process, mean, covariance, (len(mean),)

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> GaussianPosterior:
        leaf, state = self.process.leaves()[""], z[""]
        alpha, sigma = (c.to(state.device) for c in leaf.schedule(t[""]))
        alpha, sigma = (c.expand(state.shape) if c.ndim else c.expand(1, state.shape[1]) for c in (alpha, sigma))
        own, covariance = self.mean.to(state.device), self.covariance.to(state.device)
        cross = covariance * alpha[:, None, :]  # cov(x, z)
        total = alpha[:, :, None] * cross + torch.diag_embed(sigma**2)
        gain = torch.linalg.solve(total, cross, left=False)
        off = state.double() - alpha * own
        mean = own + (off @ gain[0].T if len(gain) == 1 else torch.einsum("bij,bj->bi", gain, off))
        left = covariance - gain @ cross.transpose(1, 2)
        return GaussianPosterior(mean.to(state.dtype), left.diagonal(dim1=1, dim2=2).expand(state.shape).to(state.dtype))


def gaussian(process: Gaussian, mean: Tensor, covariance: Tensor) -> NormalOracle:
    """Exact denoiser of N(mean, covariance)."""
    return NormalOracle(process, mean, covariance)


def mixture(process: Process, means: Tensor, std: float, weights: Tensor | None = None, label: Tensor | None = None) -> Mixture:
    """Exact denoiser of a mixture of isotropic Gaussians, means (M, *shape)."""
    return Mixture(process, means, weights, std, label)


def dataset(process: Process, points: Tree, label: Tensor | None = None) -> Mixture:
    """Exact denoiser of a finite data set, which it memorises: points (M, *shape), or a dict by leaf."""
    return Mixture(process, points, label=label)


def enumerated(process: Categorical, table: Tensor) -> Mixture:
    """Exact denoiser of a joint table of probabilities over K^D strings: table (K, ..., K), D axes."""
    strings = torch.tensor(list(itertools.product(*(range(k) for k in table.shape))))
    return Mixture(process, strings, table.flatten())
