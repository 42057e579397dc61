"""Guidance distillation (2210.03142, stage one): a student told the strength says in one evaluation what a guided teacher does
in two. It is a denoiser like any other, to be distilled further, with `Progressive` for one."""

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Networks, Objective, draw_levels, drop_conditions, mean_over_elements
from langevin.objectives.coupling import Independent, partners
from langevin.objectives.leaps import agree, belief, guided, one_gaussian
from langevin.objectives.levels import LevelDensity
from langevin.objectives.levels import named as levels_named
from langevin.objectives.teachers import check_weighting, drawn, frozen, signal_weight, strengths


class GuidanceDistillation(Objective):
    """E weight |x_student(z_t, t, w) - x_w(z_t, t)|^2, x_w = x_null + w (x_cond - x_null) of the teacher (eq. 3).

    Args:
        teacher: a frozen denoiser of the same process that learned without conditions, too.
        w: (least, most) strength of guidance, 1 for none (the paper's own is w - 1), drawn evenly for each sample and shown to
            the student as cond["guidance"]; its network is built with scalars=("guidance",). One number is a fixed strength, of
            which the student is told nothing.
        weighting: of the squared error of x: "truncated" max(SNR, 1), or "v" SNR + 1.
        levels: a name or a `LevelDensity`.
        drop: probability that a sample's conditions are dropped.
    """

    def __init__(
        self,
        teacher: BaseDenoiser,
        w: float | tuple[float, float] = (1.0, 5.0),
        weighting: str = "truncated",
        levels: str | LevelDensity = "uniform",
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}; it is a probability below 1.")
        self.nets = Networks({"teacher": frozen(teacher)})
        self.w, self.weighting, self.drop = strengths(w), check_weighting(weighting), drop
        self.levels = levels_named(levels)

    def extra_repr(self) -> str:
        return f"w={self.w}, weighting={self.weighting}, drop={self.drop:g}"

    def prepare(self, model: Denoiser) -> None:
        agree(self.nets["teacher"], one_gaussian(model.process))

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, x = one_gaussian(model.process), leaves(batch.x)[""]
        t = draw_levels(self.levels, {"": process}, {"": x}, noise, "shared", 0.0)[""].to(x.device)
        z = process.mix(x, partners(Independent(), process, batch, noise.at("noise")), t)
        cond = drop_conditions(batch.cond, noise, self.drop)
        fixed = self.w[0] == self.w[1]
        w: Tensor | float = self.w[0] if fixed else drawn(self.w, noise, x)
        teacher: BaseDenoiser = self.nets["teacher"]  # pyright: ignore[reportAssignmentType]
        with torch.no_grad():
            target = guided(teacher, z, t, cond, batch.mask, w)
        own = belief(model, z, t, t, cond if fixed else {**(cond or {}), "guidance": torch.as_tensor(w)}, batch.mask)
        error = cast(signal_weight(self.weighting, process, t), own) * (own - target).square()
        each = mean_over_elements(error, process.space.real(error, batch.mask))
        loss = each.mean()
        return Loss(loss, {"loss": loss.detach()}, {"": t.reshape(-1).to(each.device)}, {"": each.detach()})
