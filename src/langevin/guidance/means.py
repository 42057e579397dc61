"""Beliefs whose mean is moved."""

from typing import Any

from torch import Tensor

from langevin.core.posterior import GaussianPosterior


def with_mean(belief: Any, mean: Tensor) -> Any:
    """The belief with another mean, (B, *shape). Of one that has probabilities of points only the mean is left."""
    return belief.with_params(mean) if isinstance(belief, GaussianPosterior) else GaussianPosterior(mean)
