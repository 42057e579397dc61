"""Out of the data's distribution, towards a property: MOOD (2206.07632), for Gaussian leaves.

    score' = (1 - sqrt(lam)) score + w decay^t (|score| / |grad P|) grad P,   |.| the sum of absolute values over a sample

The first factor widens what is drawn: Langevin steps with it are at home in p^(1 - sqrt(lam)), whose covariance, where p is
normal, is that of p over 1 - sqrt(lam). The second makes the pull towards the property as large as the score, whatever the units
of P. (The model that the source calls three-dimensional is of graphs.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.means import with_mean
from langevin.guidance.wrapped import Wrapped


@dataclass(frozen=True)
class Exploration:
    """Explore beyond the data.

    Args:
        lam: how far; 0 stays within, below 1.
        value: `value(z, t, cond, mask) -> (B,)`, a property of noisy states, differentiable in z (a dict for a product); leaves
            that it does not depend on are not pulled.
        w: strength of the pull.
        decay: its factor at the level of pure noise; at data it is 1.
    """

    lam: float = 0.04
    value: Callable[..., Tensor] | None = None
    w: float = 0.5
    decay: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.lam < 1 or not 0 < self.decay <= 1:
            raise ValueError(f"lam is {self.lam} and decay {self.decay}; give lam in [0, 1) and decay in (0, 1].")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: for a leaf without a score.
        """
        for name, leaf in denoiser.process.leaves().items():
            if not isinstance(leaf, Gaussian):
                raise ValueError(f"leaf {name!r} is {leaf.kind}, and exploration scales a score; use a Gaussian process.")
        return _Exploring(denoiser, self)


class _Exploring(Wrapped):
    guidance: Exploration

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        parts, g = self.process.leaves(), self.guidance
        beliefs = leaves(self.denoiser(tree(z), tree(t), cond, mask))
        slopes: dict[str, Tensor | None] = dict.fromkeys(parts)
        if g.value is not None and g.w:
            with torch.enable_grad():
                inputs = {name: state.detach().requires_grad_() for name, state in z.items()}
                placed = {name: leaf.space.project(inputs[name], mask) for name, leaf in parts.items()}
                total = g.value(tree(placed), tree(t), cond, mask).sum()
                found = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
            slopes = dict(zip(inputs, found, strict=True))
        out = {}
        for name, leaf in parts.items():
            own, state = beliefs[name].mean, z[name].to(torch.promote_types(z[name].dtype, torch.float32))  # float16 has no 1e-12
            alpha, sigma = (cast(v, state) for v in leaf.schedule(t[name]))
            score = (alpha * own.to(state) - state) / sigma.clamp(min=1e-12) ** 2
            moved = (1 - g.lam**0.5) * score
            slope = slopes[name]
            if slope is not None:
                slope = leaf.space.project(slope, mask).to(state)
                axes = tuple(range(1, slope.ndim))
                ratio = score.abs().sum(axes, keepdim=True) / slope.abs().sum(axes, keepdim=True).clamp(min=1e-12)
                moved = moved + g.w * cast(g.decay ** t[name], slope) * ratio * slope
            mean = (state + sigma**2 * moved) / alpha.clamp(min=1e-12)
            # where next to nothing is seen of the data a score says nothing of it, and would be divided by nothing
            out[name] = with_mean(beliefs[name], torch.where(alpha >= 0.05 * sigma, mean.to(own), own))
        return tree(out)
