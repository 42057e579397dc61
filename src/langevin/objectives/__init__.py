"""Objectives: what training minimises, where its levels are drawn, and how much each counts."""

from langevin.core.batch import Batch
from langevin.objectives import levels, weights
from langevin.objectives.autoencoding import Autoencoding
from langevin.objectives.base import Loss, Objective
from langevin.objectives.bayesian_flow import BayesianFlow
from langevin.objectives.consistency import Consistency
from langevin.objectives.denoising import Denoising
from langevin.objectives.elbo import ELBO, hybrid
from langevin.objectives.embedding import Embedding
from langevin.objectives.interpolant import InterFlow
from langevin.objectives.masking import Masking
from langevin.objectives.mean_flow import MeanFlow
from langevin.objectives.regression import Regression
from langevin.objectives.shortcut import Shortcut

__all__ = [
    "ELBO", "Autoencoding", "Batch", "BayesianFlow", "Consistency", "Denoising", "Embedding", "InterFlow", "Loss", "Masking",
    "MeanFlow", "Objective", "Regression", "Shortcut", "hybrid", "levels", "weights",
]  # fmt: skip
