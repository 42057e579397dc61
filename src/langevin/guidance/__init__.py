"""Guidance: denoiser -> denoiser, composable. w = 1 is unguided."""

from langevin.guidance.classifier import ClassifierGuidance
from langevin.guidance.classifier_free import CFG
from langevin.guidance.known import Known, colourise, inpaint, super_resolve
from langevin.guidance.plug_in import Clamp, Control

__all__ = ["CFG", "Clamp", "ClassifierGuidance", "Control", "Known", "colourise", "inpaint", "super_resolve"]
