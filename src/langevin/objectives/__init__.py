"""Objectives: what training minimises, where its levels are drawn, and how much each counts."""

from langevin.core.batch import Batch
from langevin.objectives import levels, weights
from langevin.objectives.base import Loss, Objective
from langevin.objectives.denoising import Denoising
from langevin.objectives.elbo import ELBO
from langevin.objectives.interpolant import InterFlow

__all__ = ["ELBO", "Batch", "Denoising", "InterFlow", "Loss", "Objective", "levels", "weights"]
