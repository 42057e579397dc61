"""Shortcut models (2410.12557): one network, trained at once on the flow and on leaps that are twice two halves of themselves."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast, expand
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, drop_conditions
from langevin.objectives.coupling import Coupling, partners
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import Leaps, belief, guided, one_gaussian
from langevin.objectives.levels import stratified
from langevin.objectives.teachers import check_guided, frozen


class Shortcut(Leaps):
    """A share of the batch learns to leap by d = 1, 1/2, 1/4, ..., from levels that are multiples of d, as its slow copy does in
    two leaps of d / 2 (sec. 3.2); the rest is a denoiser's loss at any level.

    Beliefs are compared after division by max(sigma, least): on the flow schedule that is the published loss, an error of
    velocities.

    Args:
        finest: 2^-n, the smallest leap that is learned from others is 2 finest; leaps of `finest` are steps along the flow.
        share: of the batch that learns leaps.
        decay: share that the slow copy keeps at each update. What is known of short leaps reaches those twice as long through it,
            so a run needs many times `finest` / (1 - decay) updates; 0.999 is the published value for long ones.
        least: the weight stops growing where sigma falls below this.
        drop, distance, coupling: as for `Leaps`.
        teacher: a frozen denoiser of the same process (see `Rescheduled`), whose belief is what the flow is learned from in place
            of the data; None learns from data alone.
        guidance: of the teacher.
    """

    def __init__(
        self,
        finest: int = 7,
        share: float = 0.25,
        decay: float = 0.999,
        least: float = 0.05,
        distance: str | Distance = "squared",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
        teacher: BaseDenoiser | None = None,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(distance, drop, coupling)
        if finest < 1 or not 0 < share < 1:
            raise ValueError(f"finest is {finest} and share {share}; give halvings from 1 and a share between 0 and 1.")
        self.finest, self.share, self.decay, self.least = finest, share, decay, least
        self.guidance = check_guided(teacher, guidance)
        if teacher is not None:
            self.nets["teacher"] = frozen(teacher)
        self.says += f", finest={finest}, share={share:g}, decay={decay:g}, least={least:g}, guidance={guidance:g}"

    def prepare(self, model: Denoiser) -> None:
        if not model.leaps:
            raise ValueError("a shortcut model is told how far to leap; use a FlowMap.")
        super().prepare(model)

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        halvings = (noise.at("halvings").uniform(()) * self.finest).floor()  # d = 1, ..., 2^(1 - finest)
        d = 0.5**halvings
        t = ((noise.at("start").uniform(()) / d).floor() + 1) * d  # a multiple of d in (0, 1]
        t, u, s = (expand(v.clamp(0, 1), like) for v in (t, t - d / 2, t - d))
        return t, u, s

    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        process, slow = one_gaussian(model.process), self.ahead(model)
        return process.land(z, belief(slow, z, t, self.onward(t, u), cond, mask), t, u)

    def onward(self, u: Tensor, s: Tensor) -> Tensor:
        # both halves of the smallest pair are steps along the flow: nobody teaches leaps of `finest`
        return torch.where(u - s < 1.5 * 0.5**self.finest, u, s)

    def ahead(self, model: Denoiser) -> BaseDenoiser:
        return self.nets["slow"]  # pyright: ignore[reportReturnType]

    def weight(self, process: Gaussian, t: Tensor, u: Tensor, s: Tensor) -> Tensor:
        return process.schedule.sigma(t).clamp(min=self.least) ** -2

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        x = leaves(batch.x)[""]
        # drawn over the whole batch: the same samples leap however it is divided over passes and processes
        leaping = stratified(noise.at("leaps")) < self.share
        total, levels, each, logs = x.new_zeros(()), [], [], {}
        for name, loss, mark in (("leaps", super().forward, leaping), ("flow", self.flow, ~leaping)):
            rows = mark.nonzero()[:, 0]
            logs[f"loss/{name}"] = x.new_zeros(())
            if len(rows):
                part = loss(model, _rows(batch, rows.to(x.device)), replace(noise, ids=noise.ids[rows], among=None))
                share = part.total * (len(rows) / len(x))
                total, logs[f"loss/{name}"] = total + share, share.detach()
                levels.append(part.levels[""])
                each.append(part.each[""])
        return Loss(total, {"loss": total.detach(), **logs}, {"": torch.cat(levels)}, {"": torch.cat(each)})

    def flow(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        """The loss of leaps of length 0."""
        process, x, noise = one_gaussian(model.process), leaves(batch.x)[""], noise.at("flow")
        t = expand(noise.at("levels").uniform(()), x)
        z = process.mix(x, partners(self.coupling, process, batch, noise.at("noise")), t)
        cond = drop_conditions(batch.cond, noise, self.drop)
        if "teacher" in self.nets:
            with torch.no_grad():
                x = guided(self.nets["teacher"], z, t, cond, batch.mask, self.guidance)  # pyright: ignore[reportArgumentType]
        own = belief(model, z, t, t, cond, batch.mask)
        each = self.distance(own, x) * cast(self.weight(process, t, t, t), own).reshape(-1)
        return Loss(each.mean(), {}, {"": t.reshape(-1)}, {"": each.detach()})


def _rows(batch: Batch, rows: Tensor) -> Batch:
    cond = None if batch.cond is None else {name: value[rows] for name, value in batch.cond.items()}
    source = None if batch.source is None else leaves(batch.source)[""][rows]
    return Batch(leaves(batch.x)[""][rows], cond, None if batch.mask is None else batch.mask[rows], source)
