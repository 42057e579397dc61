"""Adaptive projected guidance (2410.02416): strong guidance without the burnt colours of strong classifier-free guidance.

    x^ = c + (w - 1) (d_perp + parallel d_along),   d = (c - n) min(1, longest / |c - n|)

of means, c with the condition and n without; d_along is the part of d along c. That part makes the picture larger, which is more
contrast and colour, and the other changes what is drawn. With parallel = 1 and no `longest` it is classifier-free guidance. The
paper's momentum, a running mean of d over the steps, is left out: a belief would depend on the calls before it, so that a sampler
that looks twice at a step, or begins in the middle, would be another model's.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.messages import leaf_name
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.classifier_free import Halves, check_strength
from langevin.guidance.means import free_of, with_mean


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance, for Gaussian leaves; one batched call of twice the batch per evaluation.

    Args:
        w: strength; 1 is unguided.
        parallel: how much is kept of the part of the guidance along the conditional mean (the paper's eta): 0 none, 1 all.
        longest: of the difference of a sample's two means, as a norm over all its elements (the paper's r, 2.5 to 15 for
            latents); longer ones are scaled down to it. Infinite for no limit.
        interval: as of `CFG`.
        null: as of `CFG`.

    Raises:
        ValueError: for settings out of range, and for a process with a categorical leaf, whose beliefs have no direction.
    """

    w: float
    parallel: float = 0.0
    longest: float = math.inf
    interval: tuple[float, float] = (0.0, 1.0)
    null: Cond = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_strength(self.w, self.interval)
        if not 0 <= self.parallel <= 1:
            raise ValueError(f"parallel is {self.parallel}; it is a share, in [0, 1], 1 for all.")
        if not self.longest > 0:
            raise ValueError(f"longest is {self.longest}; give a norm above 0, math.inf for no limit.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        check_means(denoiser, "APG projects differences of means")
        return _Projected(denoiser, self)


def check_means(denoiser: BaseDenoiser, what: str) -> None:
    """Refuse a process of which a leaf has no mean to be moved."""
    for name, leaf in denoiser.process.leaves().items():
        if leaf.kind != "gaussian":
            raise ValueError(f"{what}, and {leaf_name(name)} is {leaf.kind}; use CFG, which mixes logits.")


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The product of each sample's elements summed, with the axes of a kept: (B, 1, ..., 1), at least float32."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


class _Projected(Halves):
    guidance: APG

    def between(self, null: Any, conditional: Any, weights: dict[str, Tensor], z: Any, t: Any, mask: Tensor | None) -> Belief:
        parts, nulls, states, levels = self.process.leaves(), leaves(null), leaves(z), leaves(t)
        free = {name: free_of(leaf, states[name], levels[name], mask) for name, leaf in parts.items()}
        return tree({name: self._guided(nulls[name], belief, weights[name], free[name])
                     for name, belief in leaves(conditional).items()})  # fmt: skip

    def _guided(self, null: Any, conditional: Any, w: Tensor, free: Tensor | None) -> Any:
        g, mean = self.guidance, conditional.mean
        wide = torch.promote_types(mean.dtype, torch.float32)  # sums over a sample
        along, difference = mean.to(wide), (mean - null.mean).to(wide)
        if free is not None:  # what is known is no direction to be guided in
            along, difference = (torch.where(free, v, 0.0) for v in (along, difference))
        if math.isfinite(g.longest):
            length = inner(difference, difference).sqrt()
            difference = difference * (g.longest / length.clamp(min=1e-12)).clamp(max=1.0)
        if g.parallel != 1:
            share = inner(difference, along) / inner(along, along).clamp(min=1e-24)
            difference = difference - (1 - g.parallel) * share * along
        return with_mean(conditional, mean + (w.to(mean) - 1) * difference.to(mean))
