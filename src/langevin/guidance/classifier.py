"""Classifier guidance by gradient (2105.05233): the score of the state gains the gradient of log p(c | z_t).

In terms of the belief's mean, x^ = (z + sigma^2 score) / alpha, so the mean gains scale sigma^2 / alpha grad log p.
For categories the gradient with respect to the one-hot state is added to the logits, or weighs the next state (DiGress,
2209.14734, sec. 5), which is Bayes' rule to first order in the step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from langevin.control import TiltedPosterior
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.levels import cast
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.means import with_mean
from langevin.guidance.wrapped import Wrapped

# least alpha / sigma at which means are steered: below it the exact step is finite only if the classifier is exact
_SIGNAL = 0.05


@dataclass(frozen=True)
class ClassifierGuidance:
    """Steer towards states to which a classifier gives high probability.

    Args:
        log_prob: `log_prob(z, t, cond) -> (B,)`, log p(c | z_t) for noisy states, differentiable in z. z is the state (a
            dict for a product); categorical leaves come as one-hot floats (B, *shape, S).
            A regressor's is -|g(z) - y|^2: of each sample, for with a mean over the batch the strength would depend on its size.
        scale: strength; 1 is Bayes' rule when log_prob is exact, 0 is unguided.
        of: what is steered of categories: the "belief", under every plan, or the "state", under `plans.tilted`.
        padded: log_prob is also given the mask (B, N), as a fourth argument.

    A gradient is taken in the space of the data: of an edge that is told twice it is the sum of both, and padding has none.
    """

    log_prob: Callable[..., Tensor]
    scale: float = 1.0
    of: str = "belief"
    padded: bool = False

    def __post_init__(self) -> None:
        if self.of not in ("belief", "state"):
            raise ValueError(f"of is {self.of!r}; steer the 'belief' of categories, or the next 'state'.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        return _Classifier(denoiser, self)


class _Classifier(Wrapped):
    guidance: ClassifierGuidance

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        parts = self.process.leaves()
        belief = leaves(self.denoiser(tree(z), tree(t), cond, mask))
        with torch.enable_grad():
            inputs = {
                name: (leaf.one_hot(z[name]).float() if isinstance(leaf, Categorical) else z[name].detach()).requires_grad_()
                for name, leaf in parts.items()
            }
            placed = {name: leaf.space.project(inputs[name], mask) for name, leaf in parts.items()}
            asked = (tree(placed), tree(t), cond, *((mask,) if self.guidance.padded else ()))
            total = self.guidance.log_prob(*asked).sum()
            gradients = dict(zip(inputs, torch.autograd.grad(total, list(inputs.values()), allow_unused=True), strict=True))
        out = {}
        for name, leaf in parts.items():
            gradient = gradients[name]
            if gradient is None:
                out[name] = belief[name]
                continue
            gradient = leaf.space.project(gradient, mask)
            if isinstance(leaf, Categorical) and self.guidance.of == "state":
                out[name] = TiltedPosterior(belief[name], self.guidance.scale * gradient)
            elif isinstance(leaf, Categorical):
                step = self.guidance.scale * gradient[..., : belief[name].logits.shape[-1]]
                out[name] = belief[name].with_params(belief[name].params + step)
            else:
                alpha, sigma = leaf.schedule(t[name])
                # where almost nothing is left of x, a gradient on z says next to nothing about it, divided by next to nothing
                gain = torch.where(alpha >= _SIGNAL * sigma, sigma**2 / alpha.clamp(min=1e-12), 0.0)
                step = cast(self.guidance.scale * gain, z[name]) * gradient
                out[name] = with_mean(belief[name], belief[name].mean + step)
        return tree(out)
