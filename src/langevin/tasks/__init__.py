"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.edit import colourise, denoise, inpaint, interpolate, slerp, stroke, super_resolve
from langevin.tasks.risk import bleu, least_risk
from langevin.tasks.wording import contains, of_length

__all__ = [
    "bleu", "colourise", "contains", "denoise", "inpaint", "interpolate", "least_risk", "of_length", "slerp", "stroke",
    "super_resolve",
]  # fmt: skip
