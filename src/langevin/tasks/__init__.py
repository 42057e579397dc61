"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.anomaly import auroc, strangeness
from langevin.tasks.augment import Augmented, augment, stripes
from langevin.tasks.edit import (
    change,
    colourise,
    denoise,
    image_to_image,
    inpaint,
    interpolate,
    invert,
    raised,
    slerp,
    stroke,
    super_resolve,
)
from langevin.tasks.inverse import METHODS, Restored, coverage, restore
from langevin.tasks.latents import gallery, shifted
from langevin.tasks.levels import LevelsMet, levels_met
from langevin.tasks.nulls import Inverted, Nulls, as_vectors, invert_through
from langevin.tasks.risk import bleu, least_risk
from langevin.tasks.upscale import Stage, cascade, upscale
from langevin.tasks.wording import contains, of_length

__all__ = [
    "METHODS",
    "Augmented",
    "Inverted",
    "LevelsMet",
    "Nulls",
    "Restored",
    "Stage",
    "as_vectors",
    "augment",
    "auroc",
    "bleu",
    "cascade",
    "change",
    "colourise",
    "contains",
    "coverage",
    "denoise",
    "gallery",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "invert_through",
    "least_risk",
    "levels_met",
    "of_length",
    "raised",
    "restore",
    "shifted",
    "slerp",
    "strangeness",
    "stripes",
    "stroke",
    "super_resolve",
    "upscale",
]
