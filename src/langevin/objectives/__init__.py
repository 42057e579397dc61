"""Objectives: what training minimises, where its levels are drawn, and how much each counts."""

from langevin.core.batch import Batch
from langevin.objectives import levels, weights
from langevin.objectives.base import Loss, Objective
from langevin.objectives.consistency import Consistency
from langevin.objectives.denoising import Denoising
from langevin.objectives.elbo import ELBO, hybrid
from langevin.objectives.interpolant import InterFlow
from langevin.objectives.mean_flow import MeanFlow
from langevin.objectives.shortcut import Shortcut

__all__ = [
    "ELBO", "Batch", "Consistency", "Denoising", "InterFlow", "Loss", "MeanFlow", "Objective", "Shortcut", "hybrid", "levels",
    "weights",
]  # fmt: skip
