"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.edit import colourise, denoise, inpaint, interpolate, slerp, stroke, super_resolve
from langevin.tasks.inverse import METHODS, Restored, coverage, restore

__all__ = [
    "METHODS",
    "Restored",
    "colourise",
    "coverage",
    "denoise",
    "inpaint",
    "interpolate",
    "restore",
    "slerp",
    "stroke",
    "super_resolve",
]
