"""Autoguidance (2406.02507): a model is led away from a worse copy of itself.

    belief = weaker + w (stronger - weaker)

Both are asked the same, so what they agree on, the condition's own spread among it, is not pushed; where the worse one errs more
in the same direction, the better is moved the other way. Classifier-free guidance instead leads away from another task.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.messages import one_line
from langevin.core.posterior import Belief, lerp
from langevin.core.tree import tree
from langevin.guidance.classifier_free import check_strength, inside, outside
from langevin.guidance.wrapped import Wrapped


@dataclass(frozen=True, eq=False)
class AutoGuidance:
    """Guidance by a weaker model of the same data: trained for less long, or a smaller one. For every kind of leaf: means are
    extrapolated, and logits of categories.

    Args:
        weaker: the other denoiser, asked with the same conditions; of the same process.
        w: strength; 1 is unguided, and does not ask the weaker one.
        interval: as of `CFG`.

    Raises:
        ValueError: for settings out of range, and for models whose processes differ.
    """

    weaker: BaseDenoiser
    w: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_strength(self.w, self.interval)

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        ours, theirs = (one_line(model.process) for model in (denoiser, self.weaker))
        if ours != theirs:
            raise ValueError(
                f"the weaker model's process is {theirs} where the model's is {ours}; take a weaker model of the same."
            )
        return _Apart(denoiser, self)


class _Apart(Wrapped):
    guidance: AutoGuidance

    def __init__(self, denoiser: BaseDenoiser, guidance: AutoGuidance) -> None:
        super().__init__(denoiser, guidance)
        self.weaker = guidance.weaker  # a part, so that it moves between devices with the other

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        g, belief = self.guidance, self.denoiser.believe(z, t, cond, mask)
        if g.w == 1 or all(outside(g.interval, level) for level in t.values()):
            return belief
        weights: dict[str, Any] = {name: torch.where(inside(g.interval, level), g.w, 1.0) for name, level in t.items()}
        return lerp(self.weaker(tree(z), tree(t), cond, mask), belief, tree(weights))
