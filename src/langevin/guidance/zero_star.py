"""CFG-Zero* (2503.18886): classifier-free guidance of velocities that are not exact.

    v = s v_n + w (v_c - s v_n),   s = <v_c, v_n> / |v_n|^2   of each sample,

so that what the unconditional velocity is wrong by in length does not count; and a first stretch in which nothing moves, since
next to noise a network's velocity is further off than none at all.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, check_entries
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import Belief
from langevin.core.prediction import named
from langevin.core.tree import leaves, tree
from langevin.guidance.classifier_free import Halves, check_strength
from langevin.guidance.means import free_of, with_mean
from langevin.guidance.projected import check_means, inner


@dataclass(frozen=True)
class CFGZero:
    """CFG-Zero*, for Gaussian leaves whose flow has a finite velocity, such as flow matching; one call of twice the batch.

    Args:
        w: strength; 1 is unguided but for `still`.
        still: the share of [0, 1], next to noise, in which nothing moves; 0.04 is the paper's for 50 steps. 0 for none.
        interval: as of `CFG`.
        null: as of `CFG`.

    Raises:
        ValueError: for settings out of range, and for processes without means or finite velocities.
    """

    w: float
    still: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    null: Cond = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_strength(self.w, self.interval)
        check_entries(self.null, field="null")
        if not 0 <= self.still < 1:
            raise ValueError(f"still is {self.still}; it is a share of the way, at least 0 and below 1.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        check_means(denoiser, "CFG-Zero* scales velocities")
        for name, leaf in denoiser.process.leaves().items():
            _VELOCITY.check(leaf, name)
        return _ZeroStar(denoiser, self)


_VELOCITY: Any = named("velocity")


class _ZeroStar(Halves):
    guidance: CFGZero

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        guided = super().forward(z, t, cond, mask)
        if not self.guidance.still:
            return guided
        parts: Any = self.process.leaves()
        return tree({name: self._stilled(belief, parts[name], z[name], t[name]) for name, belief in leaves(guided).items()})

    def _stilled(self, belief: Any, leaf: Gaussian, z: Tensor, t: Tensor) -> Any:
        stay = (t > 1 - self.guidance.still).to(z.device)
        return with_mean(belief, torch.where(stay, _VELOCITY.posterior(leaf, torch.zeros_like(z), z, t).mean, belief.mean))

    def between(self, null: Any, conditional: Any, weights: dict[str, Tensor], z: Any, t: Any, mask: Tensor | None) -> Belief:
        parts: Any = self.process.leaves()
        nulls, states, levels = leaves(null), leaves(z), leaves(t)
        return tree({name: self._guided(nulls[name], belief, weights[name], parts[name], states[name], levels[name], mask)
                     for name, belief in leaves(conditional).items()})  # fmt: skip

    def _guided(self, null: Any, conditional: Any, w: Tensor, leaf: Gaussian, z: Tensor, t: Tensor, mask: Any) -> Any:
        with_it, without = (_VELOCITY.output(leaf, belief.mean, z, t) for belief in (conditional, null))
        free = free_of(leaf, z, t, mask)
        if free is not None:  # of what is known, which is clean, a velocity says nothing
            with_it, without = (torch.where(free, v, 0.0) for v in (with_it, without))
        scaled = without * (inner(with_it, without) / inner(without, without).clamp(min=1e-24)).to(without)
        mean = _VELOCITY.posterior(leaf, scaled + w.to(z) * (with_it - scaled), z, t).mean
        return with_mean(conditional, mean if free is None else torch.where(free, mean, conditional.mean))
