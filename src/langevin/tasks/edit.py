"""Editing with any model and any plan, without training (consistency models, 2303.01469, sec. 5.3 and app. D).

All of these are `sample` with a guidance or a start; options are those of `sample`. Few-step models edit in as many evaluations
as their plans have, such as `plans.consistency(4)`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, home
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import plans_for
from langevin.guidance import CFG
from langevin.guidance import known as parts
from langevin.interpolants import stochastic
from langevin.plans.first_order import ddim
from langevin.plans.grids import uniform
from langevin.plans.inversion import begin, inversion
from langevin.sampling import Planned, named, planned, sample


def inpaint(denoiser: BaseDenoiser, plan: Planned, picture: Tensor, known: Tensor, **options: Any) -> Tensor:
    """Pictures (B, *shape) that are `picture` where `known` (bool, broadcastable to it) is True."""
    return _kept(denoiser, plan, parts.inpaint(picture, known), len(picture), options)


def super_resolve(denoiser: BaseDenoiser, plan: Planned, low: Tensor, factor: int, **options: Any) -> Tensor:
    """Pictures (B, C, h factor, w factor) whose patches have the averages `low` (B, C, h, w)."""
    return _kept(denoiser, plan, parts.super_resolve(low, factor), len(low), options)


def colourise(
    denoiser: BaseDenoiser, plan: Planned, grey: Tensor, weights: Sequence[float] = parts.LUMA, **options: Any
) -> Tensor:
    """Pictures (B, C, H, W) whose grey values, sum_c weights_c x_c, are `grey` (B, 1, H, W)."""
    return _kept(denoiser, plan, parts.colourise(grey, weights), len(grey), options)


def _kept(denoiser: BaseDenoiser, plan: Planned, known: parts.Known, count: int, options: dict[str, Any]) -> Tensor:
    inner = options.pop("guidance", None)
    options.setdefault("shape", tuple(known.value.shape[1:]))
    drawn = sample(denoiser, plan, count, guidance=lambda d: known(d if inner is None else inner(d)), **options)
    # plans that do not end on a belief (those that mix velocities) meet what is known up to their own error
    return known.keep(drawn)


def stroke(denoiser: BaseDenoiser, plan: Planned, picture: Tensor, **options: Any) -> Tensor:
    """Pictures like `picture` (B, *shape), such as a few strokes of paint: noise up to the level where the plan begins, and down
    again (SDEdit, 2108.01073).

    Args:
        plan: the higher it begins, the freer; e.g. `plans.consistency(2, "uniform;start=0.6")`.

    Raises:
        ValueError: unless the process is one Gaussian process.
    """
    drawn = planned(plan, denoiser, len(picture), options)
    start = raised(denoiser, drawn, picture, options.get("seed", 0), options.get("first_id", 0), options.get("mask"))
    options.setdefault("shape", tuple(picture.shape[1:]))
    return sample(denoiser, drawn, len(picture), start=start, **options)


def raised(
    denoiser: BaseDenoiser, plan: Plan | Draft, picture: Tensor, seed: int = 0, first_id: int = 0, mask: Tensor | None = None
) -> Tensor:
    """`picture` (B, *shape) with the noise of the level at which a plan begins, where `sample(..., start=)` goes on.

    Raises:
        ValueError: unless the process is one Gaussian process.
    """
    process = _gaussian(denoiser)
    level = plans_for(process, plan)[""].rows[0].start
    noise = named(seed, first_id, len(picture)).at("stroke")
    return process.marginal(picture, expand(level, picture), noise, mask)


def image_to_image(denoiser: BaseDenoiser, plan: Planned, picture: Tensor, strength: float, **options: Any) -> Tensor:
    """Pictures like `picture` (B, *shape): noise up to level `strength`, and down again by all of the plan's steps.

    Args:
        plan: any draft; it is filled on the levels below `strength`, see `plans.begin`.
        strength: a noise level, so it means the same under every plan. 0 gives `picture` itself, without asking the model; 1
            forgets it.

    Raises:
        ValueError: if strength leaves [0, 1], or the process is not one Gaussian process.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it is the noise level to begin at, from 0 to 1.")
    _gaussian(denoiser)
    if strength == 0:
        return picture
    options.setdefault("shape", tuple(picture.shape[1:]))
    if strength == 1:
        return sample(denoiser, plan, len(picture), **options)
    return stroke(denoiser, begin(planned(plan, denoiser, len(picture), options), strength), picture, **options)


def invert(denoiser: BaseDenoiser, picture: Tensor, steps: int = 50, exact: bool = True, **options: Any) -> Tensor:
    """The noise (B, *shape) that `ddim(steps)` makes `picture` of; see `plans.inversion`. `sample(..., start=)` goes back."""
    _gaussian(denoiser)
    options.setdefault("shape", tuple(picture.shape[1:]))
    return sample(denoiser, inversion(steps, exact), len(picture), start=picture, **options)


def change(
    denoiser: BaseDenoiser, picture: Tensor, cond: Cond, target: Cond, steps: int = 50, w: float = 1.0, exact: bool = True
) -> Tensor:
    """`picture` (B, *shape) as it would be under other conditions: its noise under `cond`, carried down under `target`.

    Args:
        cond, target: conditions by name, (B, ...). w: of classifier-free guidance on the way down.
    """
    noise = invert(denoiser, picture, steps, exact, cond=cond)
    guidance = CFG(w) if w != 1 else None
    shape = tuple(picture.shape[1:])
    return sample(denoiser, ddim(steps), len(picture), start=noise, cond=target, guidance=guidance, shape=shape)


def interpolate(denoiser: BaseDenoiser, plan: Planned, count: int = 8, seeds: tuple[int, int] = (0, 1), **options: Any) -> Tensor:
    """`count` samples (count, *shape) on the way from the first sample of one seed to that of another: their noises are turned
    into each other by `slerp`.

    Raises:
        ValueError: if count is below 2, the shape is unknown, the plan draws noise of its own, which is another for each picture,
            or the process is not one Gaussian process.
    """
    process, shape = _gaussian(denoiser), options.get("shape", denoiser.shape)
    if count < 2:
        raise ValueError(f"count is {count}; a way has two ends, so ask for at least 2.")
    if not isinstance(shape, tuple):
        raise ValueError("the shape of a sample is unknown; pass shape=, or build the denoiser with it.")
    table = plans_for(process, planned(plan, denoiser, count, {**options, "shape": shape}))[""]
    if stochastic(table):
        raise ValueError(f"plan {table.name} draws noise of its own, which is another for each picture; use one such as ddim:10 "
                         "or consistency:1.")  # fmt: skip
    dtype = home(denoiser)[1] or torch.float32
    first, second = (process.prior(shape, Noise.of(seed, 1).at("prior").at(""), dtype=dtype) for seed in seeds)
    many = (count, *[1] * len(shape))
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    start = slerp(first.expand(count, *shape), second.expand(count, *shape), share.reshape(many))
    return sample(denoiser, table, count, start=start, **options)


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """From a (B, ...) to b along the great circle, `share` (B, 1, ..., 1) of the angle between them: equal norms stay.

    Where the two are parallel, along the line.
    """
    axes = tuple(range(1, a.ndim))
    one, other = a.double(), b.double()
    norms = one.square().sum(axes, keepdim=True).sqrt() * other.square().sum(axes, keepdim=True).sqrt()
    angle = ((one * other).sum(axes, keepdim=True) / norms).clamp(-1, 1).arccos()
    straight = angle.sin() < 1e-9
    below = torch.where(straight, 1.0, angle.sin())
    left = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / below)
    right = torch.where(straight, share, (share * angle).sin() / below)
    return (left * one + right * other).to(a.dtype)


def denoise(denoiser: BaseDenoiser, z: Tensor, level: float, **options: Any) -> Tensor:
    """What noisy data z (B, *shape) at `level` was: the mean of all that it may have been, or of a model that leaps the one that
    its flow ends at. One evaluation.

    Args:
        level: above 0; `process.schedule.invert(lam)` is that of a log-SNR.
    """
    options.setdefault("shape", tuple(z.shape[1:]))
    return sample(denoiser, ddim(1, grid=uniform(start=level)), len(z), start=z, **options)


def _gaussian(denoiser: BaseDenoiser) -> Gaussian:
    if not isinstance(denoiser.process, Gaussian):
        raise ValueError(f"this edits states of one Gaussian process, and the model's is {denoiser.process}; use given=.")
    return denoiser.process
