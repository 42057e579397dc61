"""Consistency models in continuous time (sCM, 2410.11081): neighbouring levels of a ladder, infinitely close.

On the trigonometric schedule with prediction "v", in the angle phi = pi t / 2,

    z = cos(phi) x + sin(phi) e,   f(z, phi) = cos(phi) z - sin(phi) F(z, phi),

F the network's output, and z moves along dz/dphi = v, which is a teacher's, or cos(phi) e - sin(phi) x. The gradient of
consistency training tends to that of |F - F^- - g|^2 with the tangent

    g = cos(phi) df/dphi = -cos^2(phi) (F - v) - r cos(phi) sin(phi) (z + dF/dphi),

F^- and g without gradient and dF/dphi by one forward differentiation. r rises from 0 to 1 as training begins, and g is
replaced by g / (|g| + c), since the derivative of a network that has learned little is large (sec. 4.2).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast, expand
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Networks, Objective, drop_conditions, mean_over_elements
from langevin.objectives.coupling import Coupling, partners
from langevin.objectives.coupling import named as coupling_named
from langevin.objectives.leaps import agree, forward_derivative, guided, one_gaussian, replayed
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.levels import named as levels_named
from langevin.objectives.teachers import check_guided, frozen


class ContinuousConsistency(Objective):
    """sCM: distillation (sCD) with a teacher, training (sCT) without. Sample with `plans.consistency`.

    Show the network t itself, by prediction `predictions.v(level="t")`: of 1000 t the derivative is a thousand times larger
    than what is to be learned (sec. 4.1).

    Args:
        teacher: a frozen denoiser whose flow is followed, of the same process (`Rescheduled` makes it so); None trains without.
        levels: a density of levels; log(sigma/alpha) ~ N(-1, 1.4^2) by default, as published for CIFAR-10.
        warmup: share of the run in which r rises from 0 to 1.
        normalise: c of the tangent's normalisation; None for none.
        adaptive: learn a weight for each level: the loss is exp(w) |...|^2 / D - w, with w(t) a broken line of `knots` pieces.
        knots: of that line.
        guidance: of the teacher.
        drop: probability that a sample's conditions are dropped.
        coupling: which noise meets which data.
    """

    def __init__(
        self,
        teacher: BaseDenoiser | None = None,
        levels: str | LevelDensity = "lognormal_sigma:mean=-1.0,std=1.4",
        warmup: float = 0.1,
        normalise: float | None = 0.1,
        adaptive: bool = True,
        knots: int = 32,
        guidance: float = 1.0,
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__()
        for field, value in (("warmup", warmup), ("drop", drop)):
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}; it is a share below 1.")
        if normalise is not None and not normalise > 0:
            raise ValueError(f"normalise is {normalise}; give a length above 0, or None for no normalisation.")
        if adaptive and knots < 1:
            raise ValueError(f"knots is {knots}; a broken line has at least 1 piece.")
        self.levels = levels_named(levels)
        self.warmup, self.normalise, self.drop = warmup, normalise, drop
        self.guidance = check_guided(teacher, guidance)
        self.paced = warmup > 0
        self.coupling, self.nets, self.done = coupling_named(coupling), Networks(), 1.0
        if teacher is not None:
            self.nets["teacher"] = frozen(teacher)
        self.log_weight = nn.Parameter(torch.zeros(knots + 1)) if adaptive else None

    def extra_repr(self) -> str:
        weight = "none" if self.log_weight is None else f"learned, {len(self.log_weight) - 1} pieces"
        said = f"warmup={self.warmup:g}, normalise={self.normalise}, weight={weight}, guidance={self.guidance:g}"
        return f"{said}, drop={self.drop:g}, coupling={type(self.coupling).__name__}"

    def prepare(self, model: Denoiser) -> None:
        process = one_gaussian(model.process)
        t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
        straight = torch.allclose(process.schedule.sigma(t), torch.sin(math.pi / 2 * t), atol=1e-9)
        if not (straight and process.schedule.scale == "vp") or model.predictions[""].name != "v" or model.leaps:
            raise ValueError(
                "consistency in continuous time is written in the angle between data and noise; use a Denoiser with prediction "
                "'v' on schedule 'trigonometric'."
            )
        if "teacher" in self.nets:
            agree(self.nets["teacher"], process)

    def begin(self, model: Denoiser, step: int, done: float) -> None:
        self.done = done

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, x = one_gaussian(model.process), leaves(batch.x)[""]
        t = expand(self.levels.quantile(stratified(noise.at("levels")), process.schedule), x)
        cond = drop_conditions(batch.cond, noise, self.drop)
        e = partners(self.coupling, process, batch, noise.at("noise"))
        z = process.mix(x, e, t)
        v = self.direction(process, z, x, e, t, cond, batch.mask)
        real = process.space.real(x, batch.mask)  # of padding a network may say anything
        with replayed(z.device) as back:
            _, g = self.tangent(model, z, t, v, cond, batch.mask)
            if self.normalise is not None:
                # the norm is that of the mean square, so that c means the same at every size of data
                g = g / (mean_over_elements(g.square(), real).sqrt().reshape(t.shape) + self.normalise)
            back()
            own = model.outputs({"": z}, {"": t}, cond, batch.mask)[""]
        # F^- is F itself: of the differentiated pass it would differ by the rounding of autocast, as if that were a tangent
        squares = mean_over_elements((own - own.detach() - g).square(), real)
        each = squares
        if self.log_weight is not None:
            w = self.weight(t.reshape(-1))
            each = w.exp() * squares - w
        logs = {"loss": each.mean().detach(), "loss/tangent": mean_over_elements(g.square(), real).mean().detach()}
        return Loss(each.mean(), logs, {"": t.reshape(-1)}, {"": squares.detach()})

    def direction(self, process: Gaussian, z: Tensor, x: Tensor, e: Tensor, t: Tensor, cond: Cond, mask: Any) -> Tensor:
        """dz/dphi: of the teacher's flow, or of the path from x to e."""
        if "teacher" not in self.nets:
            alpha, sigma = process.schedule(t)
            return cast(alpha, x) * e - cast(sigma, x) * x
        teacher: Any = self.nets["teacher"]
        with torch.no_grad():
            believed = guided(teacher, z, t, cond, mask, self.guidance)
        return process.velocity(GaussianPosterior(believed), z, t) * (2 / math.pi)

    def tangent(self, model: Denoiser, z: Tensor, t: Tensor, v: Tensor, cond: Cond, mask: Any) -> tuple[Tensor, Tensor]:
        """(F, g), before normalisation, where z moves along v = dz/dphi."""
        alpha, sigma = one_gaussian(model.process).schedule(t)
        both = alpha * sigma
        # both factors enter before differentiation, whose numbers then stay small at the ends (sec. 4.1)
        said, rate = forward_derivative(
            lambda z, t: model.outputs({"": z}, {"": t}, cond, mask)[""], (z, t), (cast(both, z) * v, both * (2 / math.pi))
        )
        r = 1.0 if self.warmup == 0 else min(1.0, self.done / self.warmup)
        return said, -cast(alpha**2, z) * (said - v) - r * (cast(both, z) * z + rate)

    def weight(self, t: Tensor) -> Tensor:
        """w at levels t (N,): the broken line through its knots, at equal distances of t."""
        assert self.log_weight is not None
        place = t.to(self.log_weight.dtype) * (len(self.log_weight) - 1)
        left = place.floor().clamp(max=len(self.log_weight) - 2)
        low, high = self.log_weight[left.long()], self.log_weight[left.long() + 1]
        return low + (place - left) * (high - low)
