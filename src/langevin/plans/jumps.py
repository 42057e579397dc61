"""Discrete flow matching's sampler: tokens jump to draws from the belief, and as many jump back as one likes.

See `langevin.objectives.jumps` for the bound that belongs to it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical, LowRank
from langevin.core.plan import Draft
from langevin.core.posterior import CategoricalPosterior
from langevin.plans.grids import Grid
from langevin.plans.tokens import JumpRow, along_grid, alpha_at, check_categorical, check_falls, probs_of_states


def hazards(leaf: Categorical, z: Tensor, belief: CategoricalPosterior, toward: float, back: float) -> Tensor:
    """toward p(y) + back pi(y) for y != z, (B, *shape, S) float64: rates of jumping to y, or what they add up to over a step.

    With toward = (1 + c) (-alpha'/(1 - alpha)) and back = c (-alpha'/alpha) this is u + c (u - u~) of discrete flow matching
    (2407.15595, eq. 25): u moves straight to the belief, u~ is the way back to the source, and every c >= 0 keeps the marginals.
    """
    limit = leaf.kernel.limit.to(z.device)
    # what noise never jumps to is data: the belief is the state itself
    rate = torch.where(limit[z][..., None] > 0, toward * probs_of_states(leaf, belief), 0.0) + back * limit
    return rate * (1 - leaf.one_hot(z))


@dataclass(frozen=True, kw_only=True)
class FlowJump(JumpRow):
    """A step of the jump process above, its belief held as it was at `start` and its factors of time integrated exactly, to
    (1 + c) log((1 - alpha_t) / (1 - alpha_s)) and c log(alpha_s / alpha_t). A position jumps at most once, with probability
    1 - exp(-total hazard). On the step to level 0 it is drawn from the belief.

    At alpha_t = 0, pure noise, the way back is infinitely fast and leaves the law as it is: there c is 0.

    Args:
        corrector: c. For a mask, 0 never takes a token back.
    """

    start: float
    stop: float
    corrector: float = 0.0

    def __post_init__(self) -> None:
        check_falls(self)
        if not 0 <= self.corrector < math.inf:
            raise ValueError(f"corrector is {self.corrector}; give a strength of at least 0.")

    def check(self, leaf: Any) -> None:
        check_categorical(leaf, "flow_jumps")
        if not isinstance(leaf.kernel, LowRank):
            raise ValueError(
                f"flow_jumps knows the rates of low-rank kernels, and this is a {type(leaf.kernel).__name__} one; use ddpm."
            )

    def probs(self, leaf: Categorical, z: Tensor, belief: CategoricalPosterior) -> Tensor:
        alpha_t, alpha_s = alpha_at(leaf, self.start), alpha_at(leaf, self.stop)
        if self.stop == 0 or alpha_s == 1:
            jumped = leaf.kernel.limit.to(z.device)[z][..., None] > 0
            return torch.where(jumped, probs_of_states(leaf, belief), leaf.one_hot(z))
        corrector = self.corrector if alpha_t > 0 else 0.0
        toward = (1 + corrector) * math.log((1 - alpha_t) / (1 - alpha_s))
        back = corrector * math.log(alpha_s / alpha_t) if corrector else 0.0
        hazard = hazards(leaf, z, belief, toward, back)
        total = hazard.sum(-1, keepdim=True)
        jump = -torch.expm1(-total)
        return (1 - jump) * leaf.one_hot(z) + jump * hazard / total.clamp(min=1e-300)


def flow_jumps(steps: int = 50, corrector: float = 0.0, grid: str | Grid = "uniform") -> Draft:
    """Discrete flow matching (2407.15595, alg. 1), `steps` evaluations; of first order, for all low-rank limits.

    Args:
        corrector: strength c of the way back, chosen when samples are drawn: what was jumped to may be left again. More of it
            asks for more steps.
    """
    row = FlowJump(start=1.0, stop=0.0, corrector=corrector)
    return along_grid(f"flow_jumps({steps}, corrector={corrector:g})", row, steps, grid)
