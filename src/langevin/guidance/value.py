"""Guidance by a value of clean data: samples of p(x) exp(value(x)), with the value asked about what is believed of x.

Nothing is trained on noise. With V = gamma J, the covariance of x given z_t, and g, -H the value's gradient and curvature at x^,

    covariance "full"    x^ + V (1 + H V)^-1 g     exact where data is normal and the value quadratic
    covariance "none"    x^ + V g                  the value of the mean for the mean of the value: too sure of itself (DPS)

A categorical leaf's logits gain the gradient by probabilities, which is exact where values add up over independent positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.inverse import Tangent, solve


@dataclass(frozen=True)
class Value:
    """Steer towards data of high value.

    Args:
        value: `value(x, cond) -> (B,)` in nats, twice differentiable; x is (B, *shape), for a categorical leaf the probabilities
            (B, *shape, K).
        scale: multiplies it; 0 is unguided.
        covariance: "full" or "none", for Gaussian leaves.
        iterations: of GMRES, each one backward pass through the model and one through the value.
    """

    value: Callable[[Any, Cond], Tensor]
    scale: float = 1.0
    covariance: str = "full"
    iterations: int = 5

    def __post_init__(self) -> None:
        if self.covariance not in ("full", "none"):
            raise ValueError(f"covariance is {self.covariance!r}; there are 'full' and 'none'.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: unless the process is one Gaussian or categorical process.
        """
        if not isinstance(denoiser.process, (Gaussian, Categorical)):
            raise ValueError(f"a value is of one Gaussian or categorical leaf, and this is {denoiser.process}; guide a leaf.")
        return _Valued(denoiser, self)


class _Valued(BaseDenoiser):
    def __init__(self, denoiser: BaseDenoiser, guidance: Value) -> None:
        super().__init__()
        self.denoiser, self.guidance = denoiser, guidance
        self.process, self.shape = denoiser.process, denoiser.shape

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        leaf, g = self.process.leaves()[""], self.guidance

        def ask(state: Tensor, level: Tensor) -> Any:
            return leaves(self.denoiser(tree({"": state}), tree({"": level}), cond, mask))[""]

        if isinstance(leaf, Categorical):
            belief = ask(z[""], t[""])
            with torch.enable_grad():
                probs = belief.probs.detach().requires_grad_()
                (slope,) = torch.autograd.grad(g.value(probs, cond).sum(), probs)
            return belief.with_params(belief.params + g.scale * slope.to(belief.params))
        assert isinstance(leaf, Gaussian)
        at = Tangent(ask, z[""], t[""], leaf)
        with torch.enable_grad():
            x = at.mean.clone().requires_grad_()
            (slope,) = torch.autograd.grad(g.scale * g.value(x, cond).sum(), x, create_graph=g.covariance == "full")

        def system(u: Tensor) -> Tensor:
            v = at.covariance(u)
            if not slope.requires_grad:  # the value is linear
                return u
            (bend,) = torch.autograd.grad(slope, x, v, retain_graph=True, allow_unused=True)
            return u if bend is None else u - bend

        u = solve(system, slope.detach(), g.iterations) if g.covariance == "full" else slope
        return at.with_mean(at.mean + at.covariance(u))
