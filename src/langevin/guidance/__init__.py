"""Guidance: denoiser -> denoiser, composable. w = 1 is unguided."""

from langevin.guidance import operators
from langevin.guidance.cached import Cached
from langevin.guidance.classifier import ClassifierGuidance
from langevin.guidance.classifier_free import CFG
from langevin.guidance.exploration import Exploration
from langevin.guidance.inverse import DPS, ByLevels, Measurement, Moments, Observed, PiGDM, Replaced
from langevin.guidance.known import Known, colourise, inpaint, super_resolve
from langevin.guidance.operators import Operator
from langevin.guidance.own import Guided
from langevin.guidance.plug_in import Clamp, Control
from langevin.guidance.projected import APG
from langevin.guidance.sharpened import Sharpened
from langevin.guidance.tiles import Tiles
from langevin.guidance.value import Value
from langevin.guidance.weaker import AutoGuidance
from langevin.guidance.zero_star import CFGZero

__all__ = [
    "APG",
    "CFG",
    "DPS",
    "AutoGuidance",
    "ByLevels",
    "CFGZero",
    "Cached",
    "Clamp",
    "ClassifierGuidance",
    "Control",
    "Exploration",
    "Guided",
    "Known",
    "Measurement",
    "Moments",
    "Observed",
    "Operator",
    "PiGDM",
    "Replaced",
    "Sharpened",
    "Tiles",
    "Value",
    "colourise",
    "inpaint",
    "operators",
    "super_resolve",
]
