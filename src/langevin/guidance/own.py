"""A guidance of one's own, as a function of what a denoiser is asked."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.wrapped import Wrapped


class Guided(Wrapped):
    """A denoiser whose beliefs are a function's, so that it can be sampled from, guided further, and asked for likelihoods.

    Args:
        denoiser: whose process, shape and device these are; what the function asks is its own affair.
        believe: (z, t, cond, mask) -> belief, called as a denoiser is: z (B, *shape) and t levels that broadcast against it, or
            dicts of them by leaf for a product; cond by name, or None; mask (B, N), or None. A belief is what a denoiser returns,
            most simply one of the denoiser's with another mean: `dataclasses.replace(belief, mean=...)`.

    Raises:
        ValueError: for what cannot be called so; when first called, for a tensor in place of a belief.
    """

    keeps_leaps = True

    def __init__(self, denoiser: BaseDenoiser, believe: Callable[..., Belief]) -> None:
        super().__init__(denoiser)
        if not callable(believe):
            given = type(believe).__name__
            raise ValueError(f"guidance gives a {given}; return a denoiser, or a function (z, t, cond, mask) -> belief.")
        try:
            inspect.signature(believe).bind(0, 0, None, None)
        except TypeError:
            said = f"guidance gives a function of {inspect.signature(believe)}"
            raise ValueError(f"{said}; it is called as (z, t, cond, mask) and returns a belief.") from None
        except ValueError:  # a builtin, which does not say
            pass
        self.function = believe

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        belief: Any = self.function(tree(z), tree(t), cond, mask)
        for part in leaves(belief).values():
            if part is None or isinstance(part, Tensor):
                said = "None" if part is None else f"a tensor of shape {tuple(part.shape)}"
                raise ValueError(f"guidance returns {said}; return a belief, such as dataclasses.replace(belief, mean=...).")
        return belief
