"""The Gaussian process, z_t = alpha_t x + sigma_t e, which is DDPM, DDIM, score SDEs, EDM, flow matching and more.

With tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2 and v = eta^2 tau sigma_s^2 the bridge is

    z_s ~ N( alpha_s x + sqrt(sigma_s^2 - v) (z_t - alpha_t x) / sigma_t,  v ).

It keeps the marginals for every eta in [0, 1]. With x replaced by the belief's mean it is DDIM (eta 0; 2010.02502,
eq. 12), DDPM (eta 1; 2006.11239, eq. 7), Euler for flow matching (eta 0) and EDM's Euler (eta 0, alpha 1).

In DDPM's letters alpha_t^2 is abar_t, beta_t = 1 - abar_t / abar_s, tau = beta_t / (1 - abar_t), and at eta = 1

    mean   sqrt(abar_s) beta_t / (1 - abar_t) x + sqrt(1 - beta_t) (1 - abar_s) / (1 - abar_t) z_t,
    v      beta_t (1 - abar_s) / (1 - abar_t)   ("beta tilde"; DDIM's sigma_t is eta sqrt(v), eq. 16).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from langevin.core.levels import Level, broadcastable, cast
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row
from langevin.core.posterior import GaussianPosterior
from langevin.core.process import LeafProcess, check_descent, check_eta, check_ids, check_schedule
from langevin.core.schedule import Schedule
from langevin.core.space import Euclidean, Space


class Numbers(NamedTuple):
    """One row, z_s = a z_from + sum_j w_j u_j + c noise, with u = x_part x^ + z_part z."""

    x_part: float
    z_part: float
    a: float
    w: tuple[float, ...]
    c: float


class Gaussian(LeafProcess):
    """z_t = alpha_t x + sigma_t e, e standard normal in `space`.

    Args:
        schedule: see `langevin.schedules`.
        space: Euclidean by default.

    Attributes:
        reads: what a network says that is told another level than the state's (`Row.shown`), as its publisher's code reads it at
            the state's: noise ("eps"; of flows velocity), "v", or data ("x0").
    """

    kind, reads = "gaussian", "eps"

    def __init__(self, schedule: Schedule, space: Space | None = None) -> None:
        super().__init__()
        check_schedule(schedule)
        self.schedule, self.space = schedule, space or Euclidean()

    def extra_repr(self) -> str:
        return f"space={self.space}"

    def noise(self, like: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        """Standard normal noise in the space, shaped like `like`."""
        check_ids(like, noise)
        return self.space.project(noise.normal(tuple(like.shape[1:]), like.dtype).to(like.device), mask)

    def confined(self, belief: GaussianPosterior, mask: Tensor | None) -> GaussianPosterior:
        return belief if (mean := self.space.project(belief.mean, mask)) is belief.mean else belief.with_params(mean)

    def check_data(self, x: Tensor, what: str = "data") -> None:
        if not x.is_floating_point():
            raise ValueError(f"{what} for a Gaussian process is {x.dtype}; give floats, scaled to about unit variance.")

    def marginal(self, x: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        return self.mix(x, self.noise(x, noise, mask), t)

    def mix(self, x: Tensor, e: Tensor, t: Level) -> Tensor:
        """alpha_t x + sigma_t e."""
        self.check_data(x)
        alpha, sigma = self.schedule(broadcastable(t, x))
        return cast(alpha, x) * x + cast(sigma, x) * e

    def prior(
        self, shape: tuple[int, ...], noise: Noise, mask: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        # sigma(1) e: what remains of data when alpha(1) x is negligible beside it
        sigma = self.schedule(1.0)[1]
        return sigma.to(dtype) * self.space.project(noise.normal(shape, dtype), mask)

    def bridge(
        self, z: Tensor, belief: GaussianPosterior, t: Level, s: Level, noise: Noise, eta: float = 1.0, mask: Tensor | None = None
    ) -> Tensor:
        t, s = broadcastable(t, z), broadcastable(s, z)
        check_descent(t, s)
        check_eta(eta)
        x_part, z_part, deviation = self._bridge(t, s, eta)
        mean = cast(x_part, z) * belief.mean + cast(z_part, z) * z
        return mean if eta == 0 else mean + cast(deviation, z) * self.noise(z, noise, mask)

    def land(self, z: Tensor, x: Tensor, t: Level, s: Level) -> Tensor:
        """z_s by the deterministic bridge from z_t with belief x: the bridge at eta = 0."""
        x_part, z_part, _ = self._bridge(broadcastable(t, z), broadcastable(s, z), 0.0)
        return cast(x_part, z) * x + cast(z_part, z) * z

    def _bridge(self, t: Tensor, s: Tensor, eta: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(weight of x, weight of z_t, standard deviation) of z_s, in float64."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(s)
        ratio = torch.where(sigma_s > 0, alpha_t * sigma_s / (alpha_s * sigma_t).clamp(min=1e-300), 0.0)
        ratio = torch.where(t == s, 1.0, ratio)  # also where both are pure noise
        tau = ((1 - ratio) * (1 + ratio)).clamp(0, 1)
        spread = torch.where(sigma_t > 0, sigma_s * (1 - eta**2 * tau).sqrt() / sigma_t.clamp(min=1e-300), 1.0)
        return alpha_s - spread * alpha_t, spread, eta * tau.sqrt() * sigma_s

    def bridge_numbers(self, t: float, s: float, eta: float = 1.0) -> tuple[float, float, float]:
        """The bridge from t to s as (weight of x, weight of z_t, standard deviation)."""
        x_part, z_part, deviation = self._bridge(torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64), eta)
        return float(x_part), float(z_part), float(deviation)

    def kl(self, x: Tensor, belief: GaussianPosterior, z: Tensor, t: Level, s: Level) -> Tensor:
        """1/2 (SNR_s - SNR_t) (x - x^)^2 (VDM, 2107.00630, eq. 14)."""
        gain = self.schedule.lam(broadcastable(s, z)).exp() - self.schedule.lam(broadcastable(t, z)).exp()
        return 0.5 * cast(gain, z) * (x - belief.mean) ** 2

    def velocity(self, belief: GaussianPosterior, z: Tensor, t: Level) -> Tensor:
        """dz/dt of the probability flow, alpha' x^ + sigma' e^ (t > 0)."""
        x_part, z_part = self._velocity(broadcastable(t, z))
        return cast(x_part, z) * belief.mean + cast(z_part, z) * z

    def _velocity(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), (alpha_rate, sigma_rate) = self.schedule(t), self.schedule.rates(t)
        return alpha_rate - sigma_rate * alpha / sigma, sigma_rate / sigma

    def score(self, belief: GaussianPosterior, z: Tensor, t: Level) -> Tensor:
        """grad log q(z_t) = -(z - alpha x^) / sigma^2 (Tweedie; t > 0)."""
        alpha, sigma = self.schedule(broadcastable(t, z))
        return (cast(alpha, z) * belief.mean - z) / cast(sigma, z) ** 2

    def renoise(self, z: Tensor, s: Level, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.schedule(broadcastable(s, z)), self.schedule(broadcastable(t, z))
        ratio = alpha_t / alpha_s
        deviation = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt()
        return cast(ratio, z) * z + cast(deviation, z) * self.noise(z, noise, mask)

    def check(self, plan: Plan, leaf: str) -> None:
        at = leaf_name(leaf)
        rows = [row for row in plan.rows if isinstance(row, Row)]
        if plan.basis == "velocity" and any(row.eta for row in rows):
            raise ValueError(
                f"plan {plan.name} adds noise (eta > 0) in the velocity basis, which follows the flow of {at}; "
                "use the x0 basis, as ddim(steps, eta) does."
            )
        starts = torch.tensor([row.level for row in rows if row.level is not None], dtype=torch.float64)
        if plan.basis == "velocity" and not all(bool(r.isfinite().all()) for r in self.schedule.rates(starts)):
            raise ValueError(f"plan {plan.name} follows a velocity that is infinite on the schedule of {at}; use the x0 basis.")
        if plan.basis == "eps" and rows and not float(self.schedule(rows[0].start)[0]) > 0:
            raise ValueError(f"plan {plan.name} keeps noise predictions, but alpha is 0 at level {rows[0].start:g} of {at}, "
                             "where they say nothing about x; use dpmpp, or basis 'velocity', 'v' or 'x0'.")  # fmt: skip

    def slope(self, level: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
        """Parts of x^ and z in the basis "v", cos(phi) e - sin(phi) x / d."""
        alpha, sigma = self.schedule(level)
        angle = torch.atan2(sigma, alpha * data_std)
        return -angle.cos() * alpha / sigma - angle.sin() / data_std, angle.cos() / sigma

    def numbers(self, plan: Plan) -> list[Numbers | None]:
        # all rows at once: schedules are asked a handful of times per run, not per step
        rows = [row for row in plan.rows if isinstance(row, Row)]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        start, stop, eta = column([r.start for r in rows]), column([r.stop for r in rows]), column([r.eta for r in rows])
        level = column([r.start if r.level is None else r.level for r in rows])
        shown = column([n if r.shown is None else r.shown for r, n in zip(rows, level.tolist(), strict=True)])
        a, w, c = torch.ones_like(start), torch.ones_like(start), torch.zeros_like(start)
        if plan.basis == "velocity":
            (x_part, z_part), w = self._velocity(shown), stop - start
        elif plan.basis == "v":
            x_part, z_part = self.slope(shown, plan.data_std)
        else:
            x_weight, z_weight, c = self._bridge(start, stop, eta)
            (alpha, sigma), (alpha_at, sigma_at) = self.schedule(level), self.schedule(shown)
            if plan.basis == "x0":
                x_part, z_part, a, w = torch.ones_like(start), torch.zeros_like(start), z_weight, x_weight
                if self.reads == "v":
                    x_part, z_part = sigma / sigma_at, alpha - alpha_at * (sigma / sigma_at)
                elif self.reads == "eps" and bool((shown != level).any()):
                    alpha, alpha_at = (torch.ones_like(v) if self.schedule.scale == "flow" else v for v in (alpha, alpha_at))
                    x_part, z_part = sigma * alpha_at / (sigma_at * alpha), (1 - sigma / sigma_at) / alpha
            else:
                # eps: the belief about x is (z_from - sigma e) / alpha at the level the row starts from
                x_part, z_part = -alpha_at / sigma_at, 1 / sigma_at
                alpha, sigma = self.schedule(start)
                a, w = z_weight + x_weight / alpha, -x_weight * sigma / alpha
        columns = iter(list(zip(*(v.tolist() for v in (x_part, z_part, a, w, c)), strict=True)))
        out: list[Numbers | None] = []
        for row in plan.rows:
            if not isinstance(row, Row):
                out.append(None)
                continue
            x, z, factor, weight, deviation = next(columns)
            own = (factor, tuple(weight * m for m in row.mix), deviation) if row.a is None else (row.a, row.mix, row.c)
            out.append(Numbers(x, z, *own))
        return out

    def draws(self, number: Numbers) -> bool:
        return number.c != 0

    def observe(self, belief: GaussianPosterior, z: Tensor, number: Numbers) -> Tensor:
        if number.z_part == 0:
            return belief.mean if number.x_part == 1 else belief.mean * number.x_part
        return (belief.mean * number.x_part).add_(z, alpha=number.z_part)

    def advance(
        self, start: Tensor, history: list[Tensor], belief: GaussianPosterior, number: Numbers, noise: Noise, mask: Tensor | None
    ) -> Tensor:
        z = start * number.a  # a new tensor, so that the rest can be added in place
        for weight, u in zip(number.w, history, strict=False):
            z.add_(u, alpha=weight)
        if number.c:
            z.add_(self.noise(z, noise, mask), alpha=number.c)
        return z
