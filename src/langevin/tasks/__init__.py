"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.edit import colourise, denoise, inpaint, interpolate, slerp, stroke, super_resolve
from langevin.tasks.risk import bleu, least_risk

__all__ = ["bleu", "colourise", "denoise", "inpaint", "interpolate", "least_risk", "slerp", "stroke", "super_resolve"]
