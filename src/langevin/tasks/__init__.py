"""Tasks: what is done with a trained model besides drawing samples."""

from langevin.tasks.edit import colourise, denoise, inpaint, interpolate, slerp, stroke, super_resolve

__all__ = ["colourise", "denoise", "inpaint", "interpolate", "slerp", "stroke", "super_resolve"]
