"""Shortcut models (2410.12557): one network, trained at once on the flow and on leaps that are twice two halves of themselves."""

import copy
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, drop_conditions
from langevin.objectives.coupling import partners
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import Leaps, belief, one_gaussian, trail


class Shortcut(Leaps):
    """A share of the batch learns to leap by d = 1, 1/2, 1/4, ..., from levels that are multiples of d, as its slow copy does in
    two leaps of d / 2 (sec. 3.2); the rest is a denoiser's loss at any level.

    Beliefs are compared after division by max(sigma, least): on the flow schedule that is the published loss, an error of
    velocities.

    Args:
        finest: 2^-n, the smallest leap that is learned from others is 2 finest; leaps of `finest` are steps along the flow.
        share: of the batch that learns leaps.
        decay: share that the slow copy keeps at each update.
        least: the weight stops growing where sigma falls below this.
        drop, distance: as for `Leaps`.
    """

    def __init__(
        self,
        finest: int = 7,
        share: float = 0.25,
        decay: float = 0.999,
        least: float = 0.05,
        distance: str | Distance = "squared",
        drop: float = 0.0,
    ) -> None:
        super().__init__(distance, drop)
        if finest < 1 or not 0 < share < 1:
            raise ValueError(f"finest is {finest} and share {share}; give halvings from 1 and a share between 0 and 1.")
        self.finest, self.share, self.decay, self.least = finest, share, decay, least
        self.says += f", finest={finest}, share={share:g}, decay={decay:g}, least={least:g}"

    def prepare(self, model: Denoiser) -> None:
        if not model.leaps:
            raise ValueError("a shortcut model is told how far to leap; use a FlowMap.")
        self.nets["slow"] = copy.deepcopy(model).requires_grad_(False).eval()

    def end(self, model: Denoiser) -> None:
        trail(self.nets["slow"], model, self.decay)

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        halvings = (noise.at("halvings").uniform(()) * self.finest).floor()  # d = 1, ..., 2^(1 - finest)
        d = 0.5**halvings
        t = ((noise.at("start").uniform(()) / d).floor() + 1) * d  # a multiple of d in (0, 1]
        shape = (-1, *[1] * (like.ndim - 1))
        t, u, s = (v.clamp(0, 1).reshape(shape).to(like.device) for v in (t, t - d / 2, t - d))
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
        process, x = one_gaussian(model.process), leaves(batch.x)[""]
        count = max(1, round(self.share * len(x)))
        # which samples: by the data's own order, which is shuffled; so the leaps see every class
        part = Noise(noise.seed, noise.ids[:count], noise.step, noise.purpose)
        rest = Noise(noise.seed, noise.ids[count:], noise.step, f"{noise.purpose}/flow")
        leaps = super().forward(model, _rows(batch, slice(0, count)), part)
        flow, levels, each = leaps.total * 0, leaps.levels[""], leaps.each[""]
        if count < len(x):
            other = _rows(batch, slice(count, None))
            data = leaves(other.x)[""]
            t = rest.at("levels").uniform(()).reshape(-1, *[1] * (x.ndim - 1)).to(x.device)
            e = partners(self.coupling, process, other, rest.at("noise"))
            z, cond = process.mix(data, e, t), drop_conditions(other.cond, rest, self.drop)
            own = belief(model, z, t, t, cond, other.mask)
            errors = self.distance(own, data) * cast(self.weight(process, t, t, t), own).reshape(-1)
            flow, levels = errors.mean(), torch.cat([levels, t.reshape(-1)])
            each = torch.cat([each, errors.detach()])
        total = self.share * leaps.total + (1 - self.share) * flow
        logs = {"loss": total.detach(), "loss/leaps": leaps.total.detach(), "loss/flow": flow.detach()}
        return Loss(total, logs, {"": levels}, {"": each})


def _rows(batch: Batch, rows: slice) -> Batch:
    cond = None if batch.cond is None else {name: value[rows] for name, value in batch.cond.items()}
    source = None if batch.source is None else leaves(batch.source)[""][rows]
    return Batch(leaves(batch.x)[""][rows], cond, None if batch.mask is None else batch.mask[rows], source)
