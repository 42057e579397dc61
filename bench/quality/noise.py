"""The noise schedules of the benchmark, z = alpha x + sigma e; the "ratio" is sigma / alpha.

    sd         Stable Diffusion's scaled-linear betas, T = 1000 discrete times (2112.10752)
    cosine     Nichol and Dhariwal's cosine betas, cut at 0.999, T = 1000; the ratio ends at 2.0e4 (2102.09672, eq. 17)
    vp_linear  DDPM's linear betas 1e-4 .. 0.02, T = 1000 (2006.11239, sec. 4)
    edm        variance exploding, ratios 80 .. 0.002 (2206.00364)
    rf         rectified flow, z = (1 - t) x + t e, from pure noise

Cumulative products of discrete schedules are made in float32, as every library ships them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

VP = ("sd", "cosine", "vp_linear")
ALL = (*VP, "edm", "rf")


@dataclass(frozen=True)
class Noise:
    """A schedule.

    Args:
        name: what it is called.
        alpha, sigma: at the largest noise, where sampling starts.
        ratio_min, ratio_max: the ratios between which a network would have been trained; rf's smallest is that of t = 1/1000.
        log_ratios: (T,) of the discrete times, float64; None where time is continuous.
    """

    name: str
    alpha: float
    sigma: float
    ratio_min: float
    ratio_max: float
    log_ratios: Tensor | None = None

    @property
    def last(self) -> int:
        """The largest discrete time."""
        assert self.log_ratios is not None
        return len(self.log_ratios) - 1

    def vp(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at a discrete time 0 .. T - 1, or between two: the log-ratio is a straight line, as in the peers."""
        assert self.log_ratios is not None
        t = torch.as_tensor(t, dtype=torch.float64).clamp(0, self.last)
        left = t.floor().long().clamp(max=self.last - 1)
        return vp_of_ratio(torch.lerp(self.log_ratios[left], self.log_ratios[left + 1], t - left).exp())


def vp_of_ratio(ratio: Tensor | float) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha^2 + sigma^2 = 1."""
    ratio = torch.as_tensor(ratio, dtype=torch.float64)
    alpha = (1 + ratio * ratio).rsqrt()
    return alpha, alpha * ratio


def _discrete(name: str, betas: Tensor) -> Noise:
    kept = torch.cumprod(1.0 - betas, 0).double()
    ratio = ((1 - kept) / kept).sqrt()
    logs = 0.5 * torch.log((1 - kept) / kept)
    return Noise(name, kept[-1].sqrt().item(), (1 - kept[-1]).sqrt().item(), ratio[0].item(), ratio[-1].item(), logs)


def _sd() -> Noise:
    return _discrete("sd", torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2)


def _cosine() -> Noise:
    def kept(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - kept((i + 1) / 1000) / kept(i / 1000), 0.999) for i in range(1000)]
    return _discrete("cosine", torch.tensor(betas, dtype=torch.float32))


NOISES: dict[str, Callable[[], Noise]] = {
    "sd": _sd,
    "cosine": _cosine,
    "vp_linear": lambda: _discrete("vp_linear", torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32)),
    "edm": lambda: Noise("edm", 1.0, 80.0, 0.002, 80.0),
    "rf": lambda: Noise("rf", 0.0, 1.0, 0.001 / 0.999, math.inf),
}


@cache
def get(name: str) -> Noise:
    """The schedule of that name."""
    return NOISES[name]()
