"""What passes from a guidance that moves states to the rows of plans that let it: see `langevin.guidance.Control`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ControlledPosterior:
    """A belief, and what moves a step that was made with it.

    Args:
        belief: the posterior. Other rows and guidance ask for `mean` and are refused, so that no control is lost in silence.
        move: (x, mu, sigma, level of x) -> x, where the sampler's step x has the law N(mu, sigma^2).
    """

    belief: Any
    move: Callable[[Tensor, Tensor, float, float], Tensor]

    @property
    def mean(self) -> Tensor:
        raise ValueError("Control moves the steps of plans.controlled, and this plan or guidance makes others; use that plan.")

    @property
    def params(self) -> Tensor:
        return self.mean


@dataclass(frozen=True)
class TiltedPosterior:
    """A belief about categories, and what the next state is weighed by.

    Args:
        belief: the posterior. Other rows and guidance ask for its logits and are refused, so that no tilt is lost in silence.
        tilt: (B, *shape, S), added to the logarithms of the probabilities of the next state.
    """

    belief: Any
    tilt: Tensor

    @property
    def params(self) -> Tensor:
        raise ValueError("of='state' tilts the steps of plans.tilted, and this plan or guidance makes others; use that plan.")

    @property
    def logits(self) -> Tensor:
        return self.params

    @property
    def probs(self) -> Tensor:
        return self.params
