"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.augment import Augmented, augment, stripes
from langevin.tasks.edit import (
    change,
    colourise,
    denoise,
    image_to_image,
    inpaint,
    interpolate,
    invert,
    slerp,
    stroke,
    super_resolve,
)
from langevin.tasks.inverse import METHODS, Restored, coverage, restore
from langevin.tasks.risk import bleu, least_risk
from langevin.tasks.wording import contains, of_length

__all__ = [
    "METHODS",
    "Augmented",
    "Restored",
    "augment",
    "bleu",
    "change",
    "colourise",
    "contains",
    "coverage",
    "denoise",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "least_risk",
    "of_length",
    "restore",
    "slerp",
    "stripes",
    "stroke",
    "super_resolve",
]
