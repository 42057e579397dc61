"""Beliefs whose mean is moved."""

import functools
from typing import Any

import torch
from torch import Tensor

from langevin.core.posterior import GaussianPosterior


def with_mean(belief: Any, mean: Tensor) -> Any:
    """The belief with another mean, (B, *shape). Of one that has probabilities of points only the mean is left."""
    return belief.with_params(mean) if isinstance(belief, GaussianPosterior) else GaussianPosterior(mean)


def free_of(leaf: Any, z: Tensor, t: Tensor, mask: Tensor | None) -> Tensor | None:
    """(B, *shape) which elements of a leaf are neither known, at level 0, nor padding; None where levels and space mark none.

    Level 0 is data, also on a schedule that keeps a little noise there.
    """
    marks = (leaf.space.real(z, mask), (t > 0).to(z.device) if t.ndim else None)
    found = [mark.expand(z.shape) for mark in marks if mark is not None]
    return functools.reduce(torch.logical_and, found) if found else None
