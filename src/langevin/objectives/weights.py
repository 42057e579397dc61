"""Weights: how much an error at each noise level counts, as a factor on the squared error of the noise.

Three ways to read one, told apart by `measure`, because papers mix them up:
    "lam"    integral w(lam) |e - e^|^2 d lam                 (any function of lam; 2303.00848); divided by the density drawn
    "t"      E_{t uniform} w |e - e^|^2                       (min-SNR, ELBO); divided by the density drawn
    "drawn"  E_{t as drawn} w |e - e^|^2                      (EDM): the density is part of the weighting
`simple` is none of these: the plain squared error of what the network predicts, as drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from langevin import spec
from langevin.core.schedule import Schedule

MEASURES = ("lam", "t", "drawn")


@dataclass(frozen=True)
class Weight:
    """A factor on the squared noise error; `on(schedule, t)` is it in float64."""

    name: str
    on: Callable[[Schedule, Tensor], Tensor]
    measure: str

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure is {self.measure!r}; choose one of {', '.join(MEASURES)}.")


simple = Weight("simple", lambda s, t: torch.ones_like(t), "drawn")


def elbo() -> Weight:
    """-lam'(t) / 2: the evidence lower bound (VDM, 2107.00630, eq. 17)."""
    return Weight("elbo", lambda s, t: -s.lam_rate(t) / 2, "t")


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) / SNR on the noise (2303.09556, sec. 3.4): the same loss for x0, eps and v predictions."""
    return Weight(f"min_snr({gamma:g})", lambda s, t: (gamma * torch.exp(-s.lam(t))).clamp(max=1), "t")


def edm(sigma_data: float = 0.5) -> Weight:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x, for density `LogNormalSigma` (2206.00364, table 1)."""

    def on(s: Schedule, t: Tensor) -> Tensor:
        square = torch.exp(-s.lam(t))
        return (square + sigma_data**2) / sigma_data**2

    return Weight(f"edm({sigma_data:g})", on, "drawn")


def sigmoid(bias: float = 0.0) -> Weight:
    """w(lam) = sigmoid(bias - lam) (2303.00848, sec. 5)."""
    return by_lam(lambda lam: torch.sigmoid(bias - lam), f"sigmoid({bias:g})")


def score_matching(power: float = 2.0) -> Weight:
    """sigma^power on the squared error of the score, at levels as drawn: denoising score matching (Vincent 2011). Of power 2 it
    is the plain error of the noise, as over many scales (NCSN, 1907.05600, eq. 6; score SDEs, 2011.13456, eq. 7); of power 0 that
    of the score."""
    return Weight(f"score_matching({power:g})", lambda s, t: s.sigma(t) ** (power - 2), "drawn")


def flow() -> Weight:
    """Categories only: the bound of discrete flow matching; see `langevin.objectives.jumps`."""

    def on(s: Schedule, t: Tensor) -> Tensor:
        raise ValueError("weight 'flow' is a bound of categories; use 'elbo' for Gaussian leaves.")

    return Weight("flow", on, "t")


def by_lam(f: Callable[[Tensor], Tensor], name: str = "by_lam") -> Weight:
    """Any function of the log-SNR, as a weight per unit of lam."""
    return Weight(name, lambda s, t: f(s.lam(t)), "lam")


WEIGHTS: dict[str, Callable[..., Weight]] = {
    "simple": lambda: simple, "elbo": elbo, "min_snr": min_snr, "edm": edm, "flow": flow, "sigmoid": sigmoid,
    "score_matching": score_matching,
}  # fmt: skip


def named(weight: str | Weight) -> Weight:
    """A weight by name, with its options ("min_snr:gamma=5"), or the one given."""
    if isinstance(weight, Weight):
        return weight
    return spec.parse(weight, WEIGHTS, "weight")
