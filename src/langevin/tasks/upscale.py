"""Larger pictures of small ones, by models that were trained to (SR3, 2104.07636; cascades, 2106.15282), of any size.

A stage is one model with its factor. Small pictures are given noise of a level that the model is told: none where they are real,
some where another model drew them, whose faults it then covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import sample
from langevin.guidance.known import super_resolve
from langevin.guidance.tiles import Tiles

GENERATED = 0.1
"""Level of noise given to pictures that a model drew, unless another is said."""


def upscale(
    denoiser: BaseDenoiser,
    plan: Plan | Draft,
    low: Tensor,
    factor: int,
    *,
    noise: float = 0.0,
    tiles: Tiles | None = None,
    keep: bool = False,
    seed: int = 0,
    first_id: int = 0,
    **options: Any,
) -> Tensor:
    """Samples (B, C, factor h, factor w) of p(x | low), low (B, C, h, w).

    Args:
        denoiser: trained with `Denoising(augment=...)`: it is told cond["low"] and cond["augment"].
        noise: level of noise that `low` is given, from 0 to 1.
        tiles: the network sees tiles of the picture; None for all of it at once.
        keep: averages of patches are `low` to rounding, where a network alone is near it: for small pictures that are averages.
        options: of `sample`.

    Raises:
        ValueError: if noise leaves [0, 1], or the process is not one Gaussian process.
    """
    process = denoiser.process
    if not isinstance(process, Gaussian):
        raise ValueError(f"upscaling draws from one Gaussian process, and the model's is {process}; use given=.")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}; it is the level that small pictures are raised to, from 0 to 1.")
    if low.ndim != 4 or factor < 1:
        raise ValueError(f"low has shape {tuple(low.shape)} and factor is {factor}; give (B, C, h, w) and a factor from 1.")
    count, shape = len(low), (low.shape[1], factor * low.shape[2], factor * low.shape[3])
    fresh = Noise.of(seed, count, first_id, low.device).at("augment")
    told = process.marginal(low, noise, fresh) if noise else low
    cond = {**options.pop("cond", {}), "low": told, "augment": torch.full((count,), noise, device=low.device)}
    inner = options.pop("guidance", None)

    def guided(d: BaseDenoiser) -> BaseDenoiser:
        seen = d if tiles is None else tiles(d)
        whole = seen if inner is None else inner(seen)
        return known(whole) if keep else whole

    known = super_resolve(low, factor)
    drawn = sample(denoiser, plan, count, seed=seed, first_id=first_id, shape=shape, cond=cond, guidance=guided, **options)
    return known.keep(drawn) if keep else drawn


@dataclass(frozen=True)
class Stage:
    """One model of a cascade; arguments are those of `upscale`."""

    denoiser: BaseDenoiser
    plan: Plan | Draft
    factor: int
    tiles: Tiles | None = None


def cascade(
    stages: Sequence[Stage], low: Tensor, *, noise: float | None = None, real: bool = True, keep: bool = False, seed: int = 0,
    first_id: int = 0,
) -> list[Tensor]:  # fmt: skip
    """The pictures after each stage, the last being the largest.

    Args:
        noise: of every stage; by default none for what is `real`, and `GENERATED` for what a stage drew.
        real: whether `low` is; False for samples of a model.
        keep: of every stage, see `upscale`.
    """
    made: list[Tensor] = []
    for i, stage in enumerate(stages):
        level = noise if noise is not None else 0.0 if real and i == 0 else GENERATED
        # stage by stage other noise, and other than that of samples of a model: else what a stage draws would depend on its input
        at = first_id + (i + (not real)) * 2**32
        made.append(
            upscale(stage.denoiser, stage.plan, made[-1] if made else low, stage.factor, noise=level, tiles=stage.tiles,
                    keep=keep, seed=seed, first_id=at)
        )  # fmt: skip
    return made
