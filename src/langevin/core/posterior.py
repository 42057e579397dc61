"""Posteriors: what a denoiser believes about the clean data x, given the state z at its level.

A belief is a mean (Gaussian processes) or logits (categories); `params` is the tensor in which beliefs are mixed,
so guidance and multistep plans are written once for both. A product's belief is a dict of these.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from langevin.core.noise import Noise
from langevin.core.tree import tree_map


@dataclass(frozen=True)
class GaussianPosterior:
    """Mean of x given z, and optionally its variance per element."""

    mean: Tensor
    variance: Tensor | None = None

    @property
    def params(self) -> Tensor:
        return self.mean

    def with_params(self, params: Tensor) -> "GaussianPosterior":
        return replace(self, mean=params)

    def sample(self, noise: Noise) -> Tensor:
        """One draw; the mean where no variance is known."""
        if self.variance is None:
            return self.mean
        return self.mean + self.variance.sqrt() * noise.normal(tuple(self.mean.shape[1:]), self.mean.dtype)


@dataclass(frozen=True)
class CategoricalPosterior:
    """Probabilities of each category, as softmax(logits + evidence).

    Args:
        logits: (B, *shape, K), what the network says. Mixing happens here.
        evidence: (B, *shape, K) or None, log q(z_t | x = k): what the state itself says about its own position. Kept
            apart because it does not take part in mixing, and holds -inf for masked processes.
    """

    logits: Tensor
    evidence: Tensor | None = None

    @property
    def params(self) -> Tensor:
        return self.logits

    def with_params(self, params: Tensor) -> "CategoricalPosterior":
        return replace(self, logits=params)

    @property
    def log_probs(self) -> Tensor:
        logits = self.logits.float() if self.logits.dtype in (torch.bfloat16, torch.float16) else self.logits
        total = logits if self.evidence is None else logits + self.evidence.to(logits.dtype)
        return torch.log_softmax(total, dim=-1)

    @property
    def probs(self) -> Tensor:
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """The expected one-hot vector, which is the probabilities."""
        return self.probs

    def sample(self, noise: Noise) -> Tensor:
        """(B, *shape) int64, one draw by Gumbel-max in float64."""
        return draw(self.log_probs, noise)


Posterior: TypeAlias = GaussianPosterior | CategoricalPosterior
Belief: TypeAlias = Any  # a Posterior, or a dict of them for a product


def draw(log_probs: Tensor, noise: Noise) -> Tensor:
    """One category per position from (B, *shape, S) log-probabilities, by Gumbel-max in float64."""
    return (log_probs.double() + noise.gumbel(tuple(log_probs.shape[1:]))).argmax(-1)


def lerp(a: Belief, b: Belief, weight: Any) -> Belief:
    """a + weight (b - a) in the tensor where beliefs mix: means for Gaussians, logits for categories."""

    def one(a: Posterior, b: Posterior, w: Any) -> Posterior:
        w = w.to(a.params) if isinstance(w, Tensor) and w.ndim else w
        if isinstance(w, Tensor) and 0 < w.ndim < a.params.ndim:
            w = w[..., None]
        return b.with_params(a.params + w * (b.params - a.params))

    weights = weight if isinstance(weight, dict) else tree_map(lambda _: weight, a)
    return tree_map(one, a, b, weights)
