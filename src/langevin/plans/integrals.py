"""Weights of multistep rows: integrals of the polynomial through the last evaluations, in float64.

The probability flow is a straight line in each of these pairs of a state and an evaluation, if the evaluation does not
change; where it does, the step is an integral of it.

    basis       z_s                                                         integral over
    x0          (sigma_s / sigma_t) z_t + sigma_s int x^ d(alpha/sigma)     alpha/sigma     DPM-Solver++, DDIM
    eps         (alpha_s / alpha_t) z_t + alpha_s int e^ d(sigma/alpha)     sigma/alpha     DPM-Solver, DEIS, LMS
    v           (n_s / n_t) z_t + n_s int v^ d(phi), n^2 = alpha^2 d^2 + sigma^2            phi, the angle
    velocity    z_t + int u dt                                              t               Adams-Bashforth

With noise (rate 1 + tau^2 > 1; x0 only) the weight is exp(rate u) du, u = log(alpha/sigma) (SA-Solver, 2309.05019, eq. 9).
The evaluation is interpolated as a polynomial in a `variable`, which is the second choice every such method makes:
"lam" (log alpha/sigma), "angle" (arctan(sigma / (alpha d))), "sigma" (sigma/alpha) or "t".
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langevin.core.levels import Level
from langevin.core.schedule import Schedule

VARIABLES = ("lam", "angle", "sigma", "t")
_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(32))
# beyond these, exp(u) is nothing beside 1; and a belief does not change any more
_FARTHEST = 40.0


def polar(schedule: Schedule, t: Level, data_std: float) -> tuple[Tensor, Tensor]:
    """(phi, n) of (alpha d, sigma) = n (cos phi, sin phi), float64, shape of t."""
    alpha, sigma = schedule(t)
    return torch.atan2(sigma, alpha * data_std), (alpha**2 * data_std**2 + sigma**2).sqrt()


def level_of(schedule: Schedule, phi: Tensor, data_std: float) -> Tensor:
    """The level whose angle is phi, of the shape of phi. As `Schedule.invert`, but in few calls of the schedule, for angles that
    are met once: each round looks at 65 levels and keeps the cell between two of them."""
    lam = -2 * (data_std * phi.double().tan()).log()[..., None]
    low, width = torch.zeros_like(lam), 1.0
    share = torch.linspace(0, 1, 65, dtype=torch.float64, device=lam.device)
    while width > 2e-17:
        above = schedule.lam((low + width * share).clamp(max=1)) > lam
        low = low + width / 64 * (above.sum(-1, keepdim=True) - 1).clamp(0, 63)
        width /= 64
    return low[..., 0]


@dataclass(frozen=True)
class Integrals:
    """The weights of one basis and variable on one schedule.

    Args:
        schedule: the schedule of the leaf.
        basis: "x0", "eps", "v" or "velocity".
        variable: of the polynomial.
        data_std: d of the angle.
    """

    schedule: Schedule
    basis: str
    variable: str
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if self.variable not in VARIABLES:
            raise ValueError(f"variable is {self.variable!r}; interpolate in one of {', '.join(VARIABLES)}.")
        if self.basis == "velocity" and self.variable != "t":
            raise ValueError(f"variable is {self.variable!r}; a velocity is dz/dt, so interpolate it in 't'.")

    def places(self, levels: list[float]) -> list[float]:
        """Values of the variable, infinite where it has none."""
        return self._variable(torch.tensor(levels, dtype=torch.float64)).tolist()

    def _variable(self, t: Tensor) -> Tensor:
        if self.variable == "t":
            return t
        if self.variable == "angle":
            return polar(self.schedule, t, self.data_std)[0]
        alpha, sigma = self.schedule(t)
        return (alpha / sigma).log() if self.variable == "lam" else sigma / alpha

    def _of_ratio(self, log_ratio: Tensor) -> Tensor:
        """The variable, given log(sigma / alpha)."""
        if self.variable == "lam":
            return -log_ratio
        if self.variable == "t":
            return self.schedule.invert(-2 * log_ratio)
        ratio = log_ratio.exp()
        return (ratio / self.data_std).atan() if self.variable == "angle" else ratio

    def step(self, start: float, stop: float, nodes: list[float], rate: float = 1.0) -> list[float]:
        """Weight of the evaluation at each of `nodes` (levels), for the step from start to stop.

        For x0 and eps they sum to 1, as a row's `mix` does; for "v" and "velocity" they are integrals over the angle and
        over t.
        """
        at = self.places(nodes)
        if len(nodes) == 1 and self.basis in ("x0", "eps"):
            return [1.0]
        points, weights = self._rule(start, stop, rate)
        out = []
        for j, own in enumerate(at):
            value = torch.ones_like(points)
            for m, other in enumerate(at):
                if m != j:
                    value = value * (points - other) / (own - other)
            out.append(float((weights * value).sum()))
        return out

    def _rule(self, start: float, stop: float, rate: float) -> tuple[Tensor, Tensor]:
        """Quadrature over the step: values of the variable, and weights."""

        def gauss(low: float, high: float) -> tuple[Tensor, Tensor]:
            return (high - low) / 2 * _NODES + (high + low) / 2, (high - low) / 2 * _WEIGHTS

        if self.basis == "velocity":
            return gauss(start, stop)
        if self.basis == "v":
            points, weights = gauss(*(self.polar(t)[0] for t in (start, stop)))
            return self._of_ratio((self.data_std * points.tan()).log()), weights
        logs = [-float(self.schedule.lam(t)) / 2 for t in (start, stop)]  # log(sigma / alpha)
        if self.basis == "eps" and self.variable != "lam":
            points, weights = gauss(math.exp(logs[1]), math.exp(logs[0]))
            return self._of_ratio(points.log()), weights / weights.sum()
        if self.basis == "eps":
            points, weights = gauss(logs[1], logs[0])
            weights = weights * (points - logs[0]).exp()
            return self._of_ratio(points), weights / weights.sum()
        if not math.isfinite(logs[1]):
            # sigma_s int x^ d(alpha/sigma) tends to the belief at clean data itself
            return torch.tensor(self.places([stop]), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        # the weight falls away towards noise; where that is far, most points go where it counts
        far = min(logs[0], logs[1] + _FARTHEST / rate)
        near = min(far, logs[1] + 6 / rate)
        panels = [gauss(logs[1], near), gauss(near, far)] if far > near else [gauss(logs[1], near)]
        points, weights = (torch.cat(parts) for parts in zip(*panels, strict=True))
        weights = weights * (rate * (logs[1] - points)).exp()
        return self._of_ratio(points), weights / weights.sum()

    def polar(self, t: float) -> tuple[float, float]:
        phi, norm = polar(self.schedule, t, self.data_std)
        return float(phi), float(norm)

    def usable(self, stop: float, nodes: list[float], order: int) -> int:
        """How many of `nodes` (newest first) a polynomial can go through: those where the variable is finite."""
        at = self.places(nodes[:order])
        if not math.isfinite(at[0]) or not math.isfinite(self.places([stop])[0]):
            return 1
        reach = 1
        while reach < len(at) and math.isfinite(at[reach]):
            reach += 1
        return reach
