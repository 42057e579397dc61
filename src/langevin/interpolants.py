"""Interpolants: a process between two data sets, z_t = alpha_t x + sigma_t y + gamma_t e.

x is data (t = 0), y is data of another kind (t = 1) where a Gaussian process has noise, and e is standard normal noise that
may be added on the way (stochastic interpolants, 2303.08797). The velocity of its flow is

    v(z, t) = E[alpha' x + sigma' y + gamma' e | z_t = z],

and that is all a model of it learns. Any velocity is a belief: the x with which alpha' x + sigma' (z - alpha x) / sigma is
v, which is E[x | z] where gamma is 0. So predictions, plans and the loop are those of the Gaussian process.
"""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level, broadcastable, cast
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.plan import DrivingRow, Plan, Row
from langevin.core.schedule import Schedule
from langevin.core.space import Space

GAMMAS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "bridge": lambda t: ((t * (1 - t)).sqrt(), (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())),
    "sine": lambda t: (torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t)),
    "constant": lambda t: (torch.ones_like(t), torch.zeros_like(t)),
}
"""gamma and its derivative in t, for noise 1."""


def stochastic(plan: Plan) -> bool:
    """Whether a plan does anything but follow the flow."""
    return any(row.eta > 0 or row.c > 0 if isinstance(row, Row) else not isinstance(row, DrivingRow) for row in plan.rows)


class Interpolant(Gaussian):
    """The process between two data sets; batches bring the other one as `Batch.source`, and `sample` is given it as start.

    Args:
        schedule: the weights of x and y: `flow()` is the straight path, `trigonometric()` that which keeps the variance of
            independent ends, `learned_path()` one that is trained.
        noise: the factor of gamma; 0 adds none.
        shape: gamma for noise 1: "bridge" sqrt(t (1 - t)), the Brownian bridge of that volatility (SB-CFM, 2302.00482,
            table 1; the sqrt(2 t (1 - t)) of 2303.08797 is noise = sqrt(2)); "sine" sin^2(pi t); "constant" 1, which blurs the
            ends as well (CFM, the same table).
        space: Euclidean by default.

    Raises:
        ValueError: if noise is negative or the shape has another name.
    """

    def __init__(self, schedule: Schedule, noise: float = 0.0, shape: str = "bridge", space: Space | None = None) -> None:
        super().__init__(schedule, space)
        if not 0 <= noise < math.inf or shape not in GAMMAS:
            raise ValueError(f"noise is {noise} of shape {shape!r}; give at least 0, and one of {', '.join(GAMMAS)}.")
        self.added, self.shape = float(noise), shape

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise={self.added:g}, shape={self.shape}"

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(gamma, d gamma / dt) at t, float64. The bridge's derivative is infinite at the ends, and cut 1e-12 before them."""
        value, rate = GAMMAS[self.shape](t.double().clamp(1e-12, 1 - 1e-12))
        return self.added * value, self.added * rate

    def ends(self, x: Tensor, y: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ends (x', y') between which a path without noise is at level t where the noisy one is, and as fast:

            alpha x' + sigma y' = alpha x + sigma y + gamma e,   and the same with all weights differentiated.

        So whatever is computed on the ends of a path needs not know of the noise.
        """
        if not self.added:
            return x, y
        t = broadcastable(t, x)
        (alpha, sigma), (alpha_rate, sigma_rate), (gamma, gamma_rate) = self.schedule(t), self.schedule.rates(t), self.gamma(t)
        determinant = alpha * sigma_rate - alpha_rate * sigma
        e = self.noise(x, noise, mask)
        x_part, y_part = gamma * sigma_rate - gamma_rate * sigma, alpha * gamma_rate - alpha_rate * gamma
        return x + cast(x_part / determinant, x) * e, y + cast(y_part / determinant, x) * e

    def check(self, plan: Plan, leaf: str) -> None:
        super().check(plan, leaf)
        if stochastic(plan):
            raise ValueError(
                f"plan {plan.name} adds noise or follows a score, and {leaf_name(leaf)} is an interpolant, of which only the "
                "flow is learned; use a deterministic plan, such as heun:20:grid=uniform."
            )

    # What a Gaussian process knows of its other end, and this does not

    def prior(
        self, shape: tuple[int, ...], noise: Noise, mask: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> NoReturn:
        raise ValueError(
            "an interpolant begins at data of another kind, for which there is no prior; pass start= with that data."
        )

    def bridge(
        self, z: Tensor, belief: Any, t: Level, s: Level, noise: Noise, eta: float = 0.0, mask: Tensor | None = None
    ) -> Tensor:
        if eta:
            raise ValueError(f"eta is {eta}, and an interpolant has no noise that could be drawn afresh; use eta = 0.")
        return self.land(z, belief.mean, t, s)

    def marginal(self, x: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> NoReturn:
        raise ValueError("where an interpolant is depends on both of its ends; mix(x, y, t) is the path between them.")

    def renoise(self, z: Tensor, s: Level, t: Level, noise: Noise, mask: Tensor | None = None) -> NoReturn:
        raise ValueError("an interpolant cannot go back up without its other end; use a plan whose levels fall.")

    def kl(self, x: Tensor, belief: Any, z: Tensor, t: Level, s: Level) -> NoReturn:
        raise ValueError("an interpolant has no variational bound; train it by Denoising or InterFlow.")

    def score(self, belief: Any, z: Tensor, t: Level) -> NoReturn:
        raise ValueError("the score of an interpolant does not follow from its velocity; only a Gaussian process has both.")
