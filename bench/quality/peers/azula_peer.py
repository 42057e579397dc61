"""azula: samplers that walk equal steps of t through a schedule, and stop at its smallest noise (the end "stop").

Rectified flow uses azula's own schedule; the others are written as schedules of azula.
"""

from typing import Any

import azula.sample
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import RectifiedSchedule, Schedule
from quality import noise
from quality.peers.base import Solver, most_steps
from quality.targets import Network
from torch import Tensor

MULTISTEP = ("zAB", "vAB", "zEAB", "xEAB", "REAB")
# name: class, options, evaluations a step
KINDS: dict[str, tuple[str, dict[str, int], int]] = {
    "DDIM": ("DDIMSampler", {}, 1),
    "Heun": ("HeunSampler", {}, 2),
    **{f"{kind}{order}": (f"{kind}Sampler", {"order": order}, 1) for kind in MULTISTEP for order in (2, 3)},
    "DDPM": ("DDPMSampler", {}, 1),
    "Ito": ("ItoSampler", {}, 1),
    "PC": ("PCSampler", {}, 2),
}
SOLVERS = {name: Solver(noise.ALL, stochastic=name in ("DDPM", "Ito", "PC")) for name in KINDS}


class Written(Schedule):
    """A schedule of the benchmark in azula's terms: discrete times are equal steps of t; edm's t is ratio^(1/7)."""

    def __init__(self, noise: noise.Noise) -> None:
        super().__init__()
        self.noise = noise

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        own = self.noise
        if own.log_ratios is not None:
            return own.vp(t * own.last)
        low, high = own.ratio_min ** (1 / 7), own.ratio_max ** (1 / 7)
        ratio = (low + t * (high - low)) ** 7
        return torch.ones_like(ratio), ratio


class Exact(Denoiser):
    """The network as azula's denoiser."""

    def __init__(self, network: Network, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> DiracPosterior:
        return DiracPosterior(self.network.x0(x_t, *self.schedule(t)))


def sample(schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor:
    written = RectifiedSchedule() if schedule == "rf" else Written(noise.get(schedule))
    kind, options, cost = KINDS[solver]
    steps = most_steps(budget, lambda n: cost * n)
    sampler = getattr(azula.sample, kind)(Exact(network, written), steps=steps, silent=True, dtype=torch.float64, **options)
    return sampler(start)
