"""Tasks: what is done with a trained model besides drawing samples."""

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

__all__ = [
    "METHODS",
    "Restored",
    "change",
    "colourise",
    "coverage",
    "denoise",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "restore",
    "slerp",
    "stroke",
    "super_resolve",
]
