"""Latent consistency models (2310.04378): consistency distillation of a guided teacher, the strength being a condition.

f(z_t, t, w) is the end of the flow that passes through z_t, as the teacher guided with strength w believes it. Its steps are
DDIM's, over strides of a grid. The student is shown w as cond["guidance"], in this library's convention: 1 is unguided, and
the paper's omega is w - 1. `plans.lcm` samples from it. LCM-LoRA (2311.05556) is the same on a model with `adapters.lora`.

At level 0 the belief is the state itself under every prediction, which is the boundary condition. The published models have
c_skip and c_out of their own instead: prediction `Published`.
"""

from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.prediction import GaussianPrediction
from langevin.core.prediction import named as prediction_named
from langevin.objectives.consistency import Consistency
from langevin.objectives.coupling import Coupling
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import follow
from langevin.objectives.teachers import drawn, frozen, strengths
from langevin.plans.grids import Grid


class LatentConsistency(Consistency):
    """Consistency distillation with guidance as a condition.

    Args:
        teacher: a frozen denoiser of the same process that learned without conditions, too.
        w: (least, most) strength of guidance, drawn evenly for each sample; the network is then built with
            scalars=("guidance",). One number is a fixed strength, of which the student is told nothing.
        original: levels of the grid.
        skip: how many of them a step of the teacher crosses. The published training has 50 and 1 (of 1000 timesteps), the paper
            writes 1000 and 20.
        decay: share that the slow copy keeps at each update, a number or a function of the share done; None for no copy.
        grid: of levels.
        distance, drop, coupling: as for `Leaps`. A dropped sample has no condition to strengthen.
    """

    def __init__(
        self,
        teacher: BaseDenoiser,
        w: float | tuple[float, float] = (3.0, 15.0),
        original: int = 50,
        skip: int = 1,
        decay: Any = 0.95,
        grid: str | Grid = "uniform",
        distance: str | Distance = "huber",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__(frozen(teacher), original, decay, 1, grid, distance=distance, drop=drop, coupling=coupling)
        if not 1 <= skip <= original:
            raise ValueError(f"skip is {skip} of {original} original levels; give a stride from 1 to {original}.")
        self.w, self.skip = strengths(w), skip
        self.says = f"{self.says}, w={self.w}, skip={skip}"

    def conditions(self, batch: Batch, noise: Noise, like: Tensor) -> Cond:
        cond = super().conditions(batch, noise, like)
        return cond if self.w[0] == self.w[1] else {**(cond or {}), "guidance": drawn(self.w, noise, like)}

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ladder = self.ladder(process)
        i = (noise.uniform(()).cpu() * (len(ladder) - 1)).long() + 1
        t, u = (expand(ladder[j], like) for j in (i, (i - self.skip).clamp(min=0)))
        return t, u, torch.zeros_like(t)

    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        given = dict(cond or {})
        w: Any = given.pop("guidance", self.w[0])
        teacher: Any = self.nets["teacher"]
        return follow(teacher, z, t, u, given or None, mask, w)


class Published(GaussianPrediction):
    """The belief of published latent consistency models, c_skip z + c_out x^, of the x^ that an inner prediction means.

        c_skip = d^2 / (i^2 + d^2),   c_out = i / sqrt(i^2 + d^2),   i = scaling times the timestep, from 0

    c_out lacks the factor d of consistency models (2303.01469, eq. 25), and is 0.9988 at timestep 1 already: the boundary is a
    matter of timestep 0 alone, to which lower levels are clamped. Train new models without it, as every prediction keeps
    f(z, 0) = z; this one is for weights that were trained so.

    Args:
        inner: a name or a prediction, "eps" for the published ones.
        deviation: d. scaling: of the timestep. timesteps: of the schedule.
    """

    def __init__(
        self, inner: str | GaussianPrediction = "eps", deviation: float = 0.5, scaling: float = 10.0, timesteps: int = 1000
    ) -> None:
        base = prediction_named(inner)
        if not isinstance(base, GaussianPrediction):
            raise ValueError(f"inner is {inner!r}; give a prediction for Gaussian processes, such as 'eps'.")
        super().__init__("lcm", self._published_pair, base.level_name)
        self.inner, self.deviation, self.scaling, self.timesteps = base, deviation, scaling, timesteps

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out) at level t; timestep i is level (i + 1) / timesteps."""
        i = self.scaling * (self.timesteps * t - 1).round(decimals=9).clamp(min=0)
        total = i**2 + self.deviation**2
        return self.deviation**2 / total, i / total.sqrt()

    def parts(self, process: Gaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out = self.coefficients(t)
        output, state = self.inner.parts(process, t)
        return c_out * output, c_out * state + c_skip

    def _published_pair(self, schedule: Any, t: Tensor) -> tuple[Tensor, Tensor]:
        output, state = self.parts(Gaussian(schedule), t)
        alpha, sigma = schedule(t)
        return (1 - state * alpha) / output, -state * sigma / output
