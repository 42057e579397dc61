"""Control of models in embedding space (Diffusion-LM, 2205.14217, sec. 4.2 and 5): clamping, and plug-in control by gradient.

Control moves states, not beliefs: after each step x of the sampler, of law N(mu, sigma^2), a few steps of Adagrad on x minimise

    -log p(c | x) + pull |x - mu|^2 / sigma^2.

What minimises is here; when it does is said by the rows of `plans.controlled`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.control import ControlledPosterior
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.embedded import Embedded
from langevin.guidance.means import with_mean
from langevin.guidance.wrapped import Wrapped

OF = ("state", "belief")


@dataclass(frozen=True)
class Clamp:
    """Beliefs become the nearest point of the table, which commits each step to words (sec. 4.2).

    Args:
        below: levels, from 0 up to which; above them beliefs stay as they are, since early commitments are mistakes.
    """

    below: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.below <= 1:
            raise ValueError(f"below is {self.below}; it is a level, in [0, 1].")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: if no leaf of the process has points.
        """
        if not any(isinstance(leaf, Embedded) for leaf in denoiser.process.leaves().values()):
            raise ValueError(f"there are no points to clamp to in {denoiser.process}; clamp embedded processes.")
        return _Clamped(denoiser, self)


class _Clamped(Wrapped):
    guidance: Clamp
    keeps_leaps = True

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        out = dict(leaves(self.denoiser(tree(z), tree(t), cond, mask)))
        for name, leaf in self.process.leaves().items():
            if isinstance(leaf, Embedded):
                mean = out[name].mean
                low = (t[name] <= self.guidance.below).to(mean.device)
                near = leaf.clamp(mean)
                out[name] = with_mean(out[name], near if bool(low.all()) else torch.where(low, near, mean))
        return tree(out)


@dataclass(frozen=True)
class Control:
    """Plug-in control of one Gaussian process, for `plans.controlled`. Put it around other guidance.

    Args:
        log_prob: `log_prob(x, t, cond) -> (B,)`, log p(c | x), differentiable in x, which is a state (B, *shape) at level t, or
            with `of="belief"` what the denoiser believes there.
        steps: of Adagrad after each step of the sampler (K; 3 in the paper).
        rate: its learning rate.
        pull: the weight that keeps x at the sampler's step (lambda; 1e-4 to 1e-2 in the paper, by the task).
        of: "state" for classifiers of noisy states; "belief" for those of data, whose gradient goes through the network.
        above: lowest level that is controlled: below it steps are the sampler's (10 of 200 steps in the published code).
        renewed: forget Adagrad's history between the K steps, as the published code does, which makes a new optimiser for each:
            they are then steps of `rate` along the sign of the gradient.
    """

    log_prob: Callable[[Tensor, Any, Cond], Tensor]
    steps: int = 3
    rate: float = 0.1
    pull: float = 0.01
    of: str = "state"
    above: float = 0.05
    renewed: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.rate > 0 or not self.pull >= 0 or not 0 <= self.above <= 1:
            raise ValueError(
                f"steps is {self.steps}, rate {self.rate}, pull {self.pull} and above {self.above}; give steps and pull from 0, "
                "a rate above 0, and a level."
            )
        if self.of not in OF:
            raise ValueError(f"of is {self.of!r}; control the 'state', or the 'belief' about it.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: unless the process is one Gaussian process.
        """
        if not isinstance(denoiser.process, Gaussian):
            raise ValueError(f"control moves the states of one Gaussian process, and this is {denoiser.process}.")
        return _Controlled(denoiser, self)


class _Controlled(Wrapped):
    guidance: Control

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Any:
        belief = leaves(self.denoiser(tree(z), tree(t), cond, mask))[""]

        def move(x: Tensor, mean: Tensor, deviation: float, level: float) -> Tensor:
            return self.moved(x, mean, deviation, level, cond, mask)

        return ControlledPosterior(belief, move)

    def moved(self, x: Tensor, mean: Tensor, deviation: float, level: float, cond: Cond, mask: Tensor | None) -> Tensor:
        """x (B, *shape) at `level` after the steps of Adagrad."""
        c = self.guidance
        if level < c.above or not c.steps:
            return x
        t = expand(level, x)
        held = x.detach().clone()
        # where a step has no noise the published code takes variance 1
        weight = c.pull / (deviation**2 if deviation > 0 else 1.0)
        history = torch.zeros_like(held)
        for _ in range(c.steps):
            with torch.enable_grad():
                held.requires_grad_()
                seen = held if c.of == "state" else leaves(self.denoiser(held, level, cond, mask))[""].mean
                said = c.log_prob(seen, t, cond).sum()
                slope = torch.autograd.grad(said, held, allow_unused=True)[0] if said.requires_grad else None
            if slope is None:
                raise ValueError(
                    "log_prob does not depend on x, as of beliefs that are clamped; control of='state', or leave Clamp out."
                )
            held = held.detach()
            gradient = 2 * weight * (held - mean) - slope
            history = gradient.square() if c.renewed else history + gradient.square()
            held = held - c.rate * gradient / (history.sqrt() + 1e-10)
        return held
