"""What a noisy state says of numbers that belong to the data: the teacher of guidance by a regressor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.process import Process
from langevin.core.tree import leaves, tree
from langevin.objectives.base import Loss, Objective, draw_levels
from langevin.objectives.levels import LevelDensity
from langevin.objectives.levels import named as levels_named

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda said, goal: (said - goal).square(),
    "logistic": lambda said, goal: F.binary_cross_entropy_with_logits(said, goal, reduction="none"),
}


class Regression(Objective):
    """E |g(z_t, t) - y|^2, whose minimiser is g = E[y | z_t] (DiGress, 2209.14734, sec. 5, trains its regressor so); or, of y
    that are 0 or 1, the cross-entropy of logits g, whose minimiser is the log-odds of p(y = 1 | z_t), as control by a classifier
    asks (Diffusion-LM, 2205.14217, sec. 4.3).

    It trains a `training.Model`, whose network is asked `net(z, 1000 t, None, mask)` -> (B, outcomes).

    Args:
        process: what makes z_t of the data; it is not trained.
        outcomes: names of the conditions y, numbers (B,), in the order of the network's answers.
        levels: where levels are drawn, one for all leaves of a sample.
        loss: "squared", or "logistic".

    Raises:
        ValueError: for another loss; when first called, for outcomes that the data does not have.
    """

    def __init__(
        self, process: Process, outcomes: Sequence[str], levels: str | LevelDensity = "uniform", loss: str = "squared"
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)}.")
        self.loss = loss
        self._process, self.outcomes, self.levels = (process,), tuple(outcomes), levels_named(levels)  # no module of this one

    def extra_repr(self) -> str:
        return f"process={self._process[0]}, outcomes={', '.join(self.outcomes)}, loss={self.loss}"

    def forward(self, model: Any, batch: Batch, noise: Noise) -> Loss:
        parts, x, cond = self._process[0].leaves(), leaves(batch.x), batch.cond or {}
        if missing := [name for name in self.outcomes if name not in cond]:
            raise ValueError(
                f"outcomes has {missing[0]!r}, and the data has {', '.join(cond) or 'no conditions'}; name one of them."
            )
        t = draw_levels(self.levels, parts, x, noise, "shared", 0.0)
        z = {name: leaf.marginal(x[name], t[name], noise.at("noise").at(name), batch.mask) for name, leaf in parts.items()}
        said = model.net(tree(z), tree({name: shown(level, x[name]) for name, level in t.items()}), None, batch.mask)
        goal = torch.stack([cond[name].to(said) for name in self.outcomes], 1)
        each = LOSSES[self.loss](said, goal).mean(1)
        levels = {name: level.reshape(-1).to(each.device) for name, level in t.items()}
        met: dict[str, Tensor] = dict.fromkeys(levels, each.detach())  # pyright: ignore[reportAssignmentType]
        return Loss(each.mean(), {"loss": each.detach().mean()}, levels, met)


def shown(level: Tensor, like: Tensor) -> Tensor:
    """Levels as networks of categories are shown them, 1000 t: (B,), or broadcastable to states `like`."""
    level = 1000 * level.to(like.device, torch.float32)
    return level if level.ndim else level.expand(len(like))
