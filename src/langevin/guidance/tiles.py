"""Beliefs about pictures larger than a network has seen, tile by tile, blended so that no seam shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import GaussianPosterior
from langevin.core.tree import leaves, tree
from langevin.guidance.wrapped import Wrapped


@dataclass(frozen=True)
class Tiles:
    """Guidance by which a denoiser sees tiles of a picture, at every step (MultiDiffusion, 2302.08113).

    Beliefs are blended with weights that sum to 1. Across an overlap a tile's weight rises over the middle half, and is 0 in the
    quarter at its own edge: a network that sees no further than that answers as it would have for the whole picture. Conditions
    that are pictures, (B, C, h, w) with H = r h, are cut with it.

    Args:
        size: side of a tile in pixels. overlap: of neighbours.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap is {self.overlap} of tiles of {self.size}; it is at least 0 and below their size.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: unless the process is one Gaussian process.
        """
        if not isinstance(denoiser.process, Gaussian):
            raise ValueError(f"tiles are of pictures under one Gaussian process, and this is {denoiser.process}.")
        return _Tiled(denoiser, self)

    def along(self, side: int) -> list[tuple[int, Tensor]]:
        """(where it begins, weights (n,) float64) of each tile along an axis of `side` pixels."""
        size = min(self.size, side)
        step = size - self.overlap
        if step < 1:
            return [(0, torch.ones(side, dtype=torch.float64))]
        begins = [*range(0, side - size, step), side - size]
        place = torch.arange(size, dtype=torch.float64) + 0.5
        found = []
        for begin in begins:
            weight = torch.ones(size, dtype=torch.float64)
            if self.overlap:
                rise = ((place - self.overlap / 4) / (self.overlap / 2)).clamp(0, 1)
                weight = weight if begin == 0 else weight * rise
                weight = weight if begin == side - size else weight * rise.flip(0)
            found.append((begin, weight))
        total = torch.zeros(side, dtype=torch.float64)
        for begin, weight in found:
            total[begin : begin + size] += weight
        return [(begin, weight / total[begin : begin + size]) for begin, weight in found]


class _Tiled(Wrapped):
    guidance: Tiles
    keeps_leaps = True

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> GaussianPosterior:
        state, level = z[""], t[""]
        if state.ndim != 4:
            raise ValueError(f"samples have shape {tuple(state.shape[1:])}; tiles are of pictures (C, H, W).")
        height, width = state.shape[-2:]
        blended = torch.zeros_like(state)
        for top, down in self.guidance.along(height):
            for left, across in self.guidance.along(width):
                box = (top, left, len(down), len(across))
                here = None if cond is None else {n: _cut(v, box, (height, width), n) for n, v in cond.items()}
                at = level if level.ndim < 4 else _cut(level, box, (height, width), "t")
                part = _cut(state, box, (height, width), "z")
                belief = leaves(self.denoiser(tree({"": part}), tree({"": at}), here, mask))[""]
                weight = (down[:, None] * across).to(state)
                blended[..., top : top + box[2], left : left + box[3]] += weight * belief.mean
        return GaussianPosterior(blended)


def _cut(value: Tensor, box: tuple[int, int, int, int], sides: tuple[int, int], name: str) -> Tensor:
    """The part of a picture, or of one that is r times smaller or larger, in a box of the full one; other values as they are."""
    if value.ndim != 4 or value.shape[-2:] == (1, 1):
        return value
    if value.shape[-2] > sides[0]:  # a hint in pixels, of states in latents
        scale = value.shape[-2] // sides[0]
        if tuple(value.shape[-2:]) != (sides[0] * scale, sides[1] * scale):
            raise ValueError(
                f"{name} is {value.shape[-2]} x {value.shape[-1]} for states of {sides[0]} x {sides[1]}; make it a multiple."
            )
        top, left, high, wide = (edge * scale for edge in box)
        return value[..., top : top + high, left : left + wide]
    ratio = sides[0] // value.shape[-2]
    if tuple(value.shape[-2:]) != (sides[0] // ratio, sides[1] // ratio) or any(edge % ratio for edge in (*box, *sides)):
        raise ValueError(
            f"{name} is {value.shape[-2]} x {value.shape[-1]} for pictures of {sides[0]} x {sides[1]} in tiles of {box[2]} x "
            f"{box[3]}; make size, overlap and sides multiples of the factor between them."
        )
    top, left, high, wide = (edge // ratio for edge in box)
    return value[..., top : top + high, left : left + wide]
