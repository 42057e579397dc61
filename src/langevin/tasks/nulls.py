"""Inversion through guidance: a null condition for each step, with which guided steps come back to a picture (2211.09794)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, evaluating
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Row, StateRow
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import plans_for, trajectory
from langevin.core.tree import leaves, tree
from langevin.guidance import CFG
from langevin.guidance.wrapped import Wrapped
from langevin.plans.first_order import ddim
from langevin.plans.inversion import inversion

Null = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Nulls:
    """Classifier-free guidance of strength w away from other conditions at each level.

    Args:
        levels: from noise to data. nulls: conditions (B, ...) at each of them; those not named are the samples' own.
    """

    w: float
    levels: tuple[float, ...]
    nulls: tuple[Null, ...] = field(repr=False)

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        return _ByLevel(denoiser, self)


class _ByLevel(Wrapped):
    guidance: Nulls
    keeps_leaps = True

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> GaussianPosterior:
        if t[""].ndim:
            raise ValueError("a null condition for each step follows one level, and these differ; sample without given=.")
        gaps = [abs(level - float(t[""])) for level in self.guidance.levels]
        null = self.guidance.nulls[gaps.index(min(gaps))]
        return leaves(CFG(self.guidance.w, null=dict(null))(self.denoiser)(tree(z), tree(t), cond, mask))[""]


@dataclass(frozen=True, eq=False)
class Inverted:
    """Args:
    noise: (B, *shape), where the picture comes from. guidance: what brings it back under `ddim(steps)`.
    missed: (B,) relative distance of what the guided steps end at from the picture.
    """

    noise: Tensor
    guidance: Nulls
    missed: Tensor


def invert_through(
    denoiser: BaseDenoiser,
    picture: Tensor,
    cond: Mapping[str, Tensor],
    null: Null,
    w: float,
    steps: int = 50,
    iterations: int = 20,
    rate: float = 0.03,
    exact: bool = True,
    fixed: Null | None = None,
) -> Inverted:
    """The noise of `picture` (B, *shape) under `cond`, unguided, and null conditions by which steps guided by w retrace its way.

        found = invert_through(model, pictures, *as_vectors(model, {"label": threes}), w=3.0)
        eights, _ = as_vectors(model, {"label": labels})
        edited = lv.sample(model, lv.plans.ddim(50), n, start=found.noise, cond=eights, guidance=found.guidance)

    Args:
        cond: conditions by name, floats (B, ...) where `null` names them.
        null: where to begin, floats (B, ...); see `as_vectors` for models of labels.
        iterations: of Adam at each step, of two evaluations and a gradient each; each sample for itself.
        rate: of Adam, in units of the null's own root mean square (1 where it is 0).
        exact: see `plans.inversion`; explicit steps lead to a way that guided steps retrace as well, from a little beside.
        fixed: further conditions (B, ...) of the half that is led away from, which stay as they are, such as a mask of tokens.

    Raises:
        ValueError: for a process other than one Gaussian process, or a null of other names or shapes than cond.
    """
    leaf = denoiser.process.leaves().get("")
    if not isinstance(leaf, Gaussian):
        raise ValueError(f"this inverts one Gaussian process, and the model's is {denoiser.process}; use given=.")
    if iterations < 1 or not rate > 0:
        raise ValueError(f"iterations is {iterations} and rate {rate}; give at least 1, and a rate above 0.")
    if not null or any(n not in cond or cond[n].shape != v.shape or not v.is_floating_point() for n, v in null.items()):
        raise ValueError(f"null has {sorted(null)} and cond {sorted(cond)}; give floats of one shape under the same names.")
    count, shape, told, held = len(picture), tuple(picture.shape[1:]), dict(cond), dict(fixed or {})
    walk = trajectory(denoiser, inversion(steps, exact), count, start=picture, shape=shape, cond=told)
    pivots = [picture, *(leaves(step.z)[""].clone() for step in walk)]
    noise = pivots.pop()
    now, z, nulls = {n: v.detach() for n, v in null.items()}, noise, []
    rows = plans_for(denoiser.process, ddim(steps))[""].rows

    def stepped(null: Null, z: Tensor, row: Row | StateRow) -> Tensor:
        x_weight, z_weight, _ = leaf.bridge_numbers(row.start, row.stop, 0.0)
        belief = leaves(CFG(w, null={**held, **null})(denoiser)(z, row.start, told))[""]
        return x_weight * belief.mean + z_weight * z

    with evaluating(denoiser):
        for row, aim in zip(rows, reversed(pivots), strict=True):
            now = _fitted(now, partial(stepped, z=z, row=row), aim, iterations, rate)
            nulls.append({**held, **now})
            with torch.no_grad():
                z = stepped(now, z, row)
    missed = (z - picture).flatten(1).norm(dim=1) / picture.flatten(1).norm(dim=1).clamp(min=1e-12)
    return Inverted(noise, Nulls(w, tuple(row.start for row in rows), tuple(nulls)), missed)


def _fitted(null: Null, step: Callable[[Null], Tensor], aim: Tensor, iterations: int, rate: float) -> dict[str, Tensor]:
    """Null conditions from which `step` lands nearer to `aim` (B, *shape), each sample for itself, by Adam from `null` on."""
    sizes = {n: _size(v) for n, v in null.items()}
    # what moves is wide: in half precision small steps would be lost
    wide = {n: torch.promote_types(v.dtype, torch.float32) for n, v in null.items()}
    free = {n: torch.zeros_like(v, dtype=wide[n]).requires_grad_() for n, v in null.items()}

    def moved() -> dict[str, Tensor]:
        return {n: (v + sizes[n] * free[n]).to(v.dtype) for n, v in null.items()}

    optimiser = torch.optim.Adam(free.values(), lr=rate)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / iterations)
    for _ in range(iterations):
        with torch.enable_grad():
            miss = (step(moved()) - aim).square().flatten(1).sum(1)
            gradients = torch.autograd.grad(miss.sum(), list(free.values()))
        for value, gradient in zip(free.values(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        decay.step()
    return {n: v.detach() for n, v in moved().items()}


def _size(value: Tensor) -> Tensor:
    """Root mean square of each sample, 1 where it is 0."""
    mean = value.square().mean(tuple(range(1, value.ndim)), keepdim=True).sqrt()
    return torch.where(mean > 0, mean, 1.0)


def as_vectors(denoiser: Denoiser, cond: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(conditions whose labels are the network's vectors for them, its learned null in the same form), (B, E) each.

    Raises:
        ValueError: if the network has no labels, or learned no null.
    """
    conditions = getattr(denoiser.net, "conditions", None)
    table = getattr(conditions, "label", None)
    if table is None or "label" not in cond or not getattr(conditions, "learned_null", False):
        raise ValueError("this network has no labels with a learned null, or cond has no label; give null conditions yourself.")
    vectors = table.weight.detach()
    label = vectors[cond["label"]]
    return {**cond, "label": label}, {"label": vectors[-1].expand_as(label).clone()}
