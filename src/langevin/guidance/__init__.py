"""Guidance: denoiser -> denoiser, composable. w = 1 is unguided."""

from langevin.guidance.classifier import ClassifierGuidance
from langevin.guidance.classifier_free import CFG

__all__ = ["CFG", "ClassifierGuidance"]
