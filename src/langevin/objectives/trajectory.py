"""Consistency trajectory models (2310.02279): leaps between any two levels of a flow, learned from a teacher's steps.

For levels t > u >= s of a ladder the leap from t to s is to land where a teacher's steps to u and a slow copy's leap on to s do;
with s = t a leap is a denoiser's belief, which the denoising loss that is added teaches (eq. 18). The published loss carries both
landing points on to data by a further leap of the slow copy; here they are compared as beliefs, which costs no evaluation. Its
adversarial part is left out.
"""

from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.objectives.base import Loss
from langevin.objectives.coupling import Coupling
from langevin.objectives.denoising import Denoising
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import Ladder, Leaps, belief, check_order, follow, one_gaussian
from langevin.objectives.teachers import frozen
from langevin.plans.grids import Grid


class Trajectory(Leaps):
    """A flow map learned from a teacher, or from itself. Sample with `plans.trajectory`, or with any plan of one-step rows.

    Args:
        teacher: a frozen denoiser of the same process, whose flow is followed (a `FlowMap` leaps); None follows that of the
            slow copy, asked as a denoiser.
        steps: intervals of the ladder.
        longest: intervals of the ladder, at most, that lie between t and u.
        decay: share that the slow copy keeps at each update.
        order: of the teacher's step: 1 is DDIM's, 2 Heun's.
        grid: of levels.
        denoising: the loss that is added, of any batch; `Denoising(drop=drop)` by default.
        share: its factor.
        guidance: of the teacher, unless it leaps.
        distance, drop, coupling: as for `Leaps`.
    """

    def __init__(
        self,
        teacher: BaseDenoiser | None = None,
        steps: int = 18,
        longest: int = 4,
        decay: float = 0.999,
        order: int = 2,
        grid: str | Grid = "karras",
        denoising: Denoising | None = None,
        share: float = 1.0,
        guidance: float = 1.0,
        distance: str | Distance = "squared",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__(distance, drop, coupling)
        if not 1 <= longest <= steps:
            raise ValueError(f"longest is {longest} of {steps} steps; give 1 <= longest <= steps.")
        check_order(order)
        if not share >= 0:
            raise ValueError(f"share is {share}; it is the factor of the denoising loss, 0 for none.")
        if teacher is not None:
            self.nets["teacher"] = frozen(teacher)
            if teacher.leaps and guidance != 1:
                raise ValueError(f"guidance is {guidance:g}, and a teacher that leaps is not guided; leave it at 1.")
        self.steps, self.longest, self.decay, self.order, self.grid = steps, longest, decay, order, Ladder(grid)
        self.denoising, self.share, self.guidance = denoising or Denoising(drop=drop, coupling=coupling), share, guidance
        self.says += f", steps={steps}, longest={longest}, decay={decay:g}, order={order}, grid={self.grid.says}, share={share:g}"
        self.says += f", guidance={guidance:g}"

    def prepare(self, model: Denoiser) -> None:
        if not model.leaps:
            raise ValueError("a trajectory model is told where to leap to; use a FlowMap.")
        super().prepare(model)

    def ladder(self, process: Gaussian) -> Tensor:
        """Levels 0 = t_0 < t_1 < ... < t_N = 1, float64."""
        return self.grid(process.schedule, self.steps)

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ladder, (one, two, three) = self.ladder(process), noise.uniform((3,)).cpu().unbind(1)
        top = 1 + (one * self.steps).long()  # 1 .. N
        last = (two * top).long()  # 0 .. top - 1
        between = top - 1 - (three * (top - last).clamp(max=self.longest)).long()  # within `longest` below top, last or above
        t, u, s = (expand(ladder[i], like) for i in (top, between, last))
        return t, u, s

    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        teacher: Any = self.nets["teacher"] if "teacher" in self.nets else self.nets["slow"]
        if teacher.leaps and "teacher" in self.nets:
            return one_gaussian(model.process).land(z, belief(teacher, z, t, u, cond, mask), t, u)
        ladder = self.ladder(one_gaussian(model.process)).to(t.device)
        top, low = torch.searchsorted(ladder, t.contiguous()), torch.searchsorted(ladder, u.contiguous())
        for k in range(int((top - low).max())):
            here, there = (ladder[(top - j).clamp(min=0)] for j in (k, k + 1))
            going = top - k > low
            # those who have arrived are moved by nothing: their step is taken between levels that exist, and thrown away
            here, there = torch.where(going, here, t), torch.where(going, there, u)
            z = torch.where(going.to(z.device), follow(teacher, z, here, there, cond, mask, self.guidance, self.order), z)
        return z

    def ahead(self, model: Denoiser) -> BaseDenoiser:
        return self.nets["slow"]  # pyright: ignore[reportReturnType]

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        leaps = super().forward(model, batch, noise)
        if self.share == 0:
            return leaps
        beside = self.denoising(model, batch, noise.at("denoising"))
        total = leaps.total + self.share * beside.total
        logs = {"loss": total.detach(), "loss/leaps": leaps.total.detach(), "loss/denoising": beside.total.detach()}
        return Loss(total, logs, leaps.levels, leaps.each)
