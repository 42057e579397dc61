"""DPM-Solver with error control (2206.00927, app. C), and k-diffusion's controller of its step sizes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.plan import Draft, DrivingRow, Plan, Row, StateRow
from langevin.core.schedule import Schedule
from langevin.plans.dormand_prince import along

_NEAR = 1e-5  # of log(alpha/sigma), within which the end is reached
_STEADY = 1e-8  # added to errors, of which the inverse is taken


@dataclass(frozen=True, kw_only=True)
class AdaptiveDPM(DrivingRow):
    """DPM-Solver-12 or -23: each step by the methods of order `order` - 1 and `order`, whose difference is its error.

    The state is z / alpha, and steps are in log(alpha/sigma). A step of error e has the factor 1 + arctan(f - 1) for the next
    one's size, f = e^-b1 e'^-b2 e''^-b3, e' and e'' the errors of the last steps taken and (b1, b2, b3) = (P + I + D, -P - 2D,
    D) / order; it is taken where that factor is at least `safety`, and tried again otherwise. `order` evaluations a trial.

    Args:
        order: 2 or 3.
        rtol, atol: error allowed per step, of z / alpha: the larger of atol and rtol |z / alpha|, in the mean square of elements.
        first: size of the first step.
        proportional, integral, derivative: P, I and D.
        safety: least factor of a step that is taken.
        together: one step size for the whole batch, from its mean square error, as k-diffusion has it. By default each sample has
            its own, so that it does not depend on its batch; all are evaluated together until the hardest arrives.
        most: evaluations after which it gives up.
    """

    start: float
    stop: float
    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    first: float = 0.05
    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0
    safety: float = 0.81
    together: bool = False
    most: int = 1000

    @property
    def nfe(self) -> int:
        return self.most

    def problem(self, evaluations: int) -> str | None:
        if not 0 < self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall, and end above 0"
        if self.order not in (2, 3):
            return f"has order {self.order}; there are 2 and 3"
        if not (self.rtol >= 0 and self.atol > 0 and self.first > 0 and 0 < self.safety < 1):
            return (
                f"has rtol {self.rtol:g}, atol {self.atol:g}, first {self.first:g} and safety {self.safety:g}; tolerances and "
                "the first step are above 0, and safety lies between 0 and 1"
            )
        return None

    def check(self, leaf: Any) -> None:
        if not isinstance(leaf, Gaussian):
            raise ValueError(f"adaptive steps follow a score, which a {leaf.kind} leaf has none of; use ddpm there.")
        if not float(leaf.schedule(self.start)[0]) > 0:
            raise ValueError("dpm_adaptive begins where no signal is; give sigma_max, or use plans.adaptive.")

    def drive(self, evaluate: Callable[[Any, Any], Any], parts: Any, z: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(parts) > 1:
            raise ValueError("adaptive steps follow one process and this is a product; use a fixed plan such as dpmpp.")
        ((name, leaf),) = parts.items()
        schedule, like = leaf.schedule, z[name]
        begin, end = (float(schedule.lam(t)) / 2 for t in (self.start, self.stop))

        calls = 0

        def noise(y: Tensor, at: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > self.most:
                raise ValueError(f"most is {self.most} and dpm_adaptive needs more evaluations; raise it, or the tolerances.")
            levels = schedule.invert((2 * at).clamp(2 * begin, 2 * end))
            levels = torch.where(at <= begin, self.start, torch.where(at >= end, self.stop, levels))
            state = y * along(schedule(levels)[0], y)
            belief = evaluate({name: state}, {name: expand(levels, state)})
            mean = belief.mean if name == "" else belief[name].mean
            return (y - mean) * along(at.exp(), y)

        y = like / float(schedule(self.start)[0])
        before, at = y, torch.full((len(y),), begin, dtype=torch.float64)
        size, past = torch.full_like(at, self.first), [torch.zeros_like(at)] * 2  # logs of the last steps' inverse errors
        fresh = True
        p, i, d = (v / self.order for v in (self.proportional, self.integral, self.derivative))
        while bool((left := at < end - _NEAR).any()):
            stop = torch.where(left, (at + size).clamp(max=end), at + _NEAR)
            low, high = self._both(noise, y, at, stop - at)
            allowed = (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)
            error = ((low - high) / allowed).flatten(1).double().square().mean(1).cpu()
            error = (error.mean().expand_as(error) if self.together else error).sqrt()
            inverse = -(error + _STEADY).log()
            past, fresh = ([inverse, inverse] if fresh else past), False
            factor = ((p + i + d) * inverse - (p + 2 * d) * past[0] + d * past[1]).exp()
            factor = 1 + (factor - 1).atan()
            good = left & (factor >= self.safety)
            keep = good.reshape(-1, *[1] * (y.ndim - 1)).to(y.device)
            before, y = torch.where(keep, low, before), torch.where(keep, high, y)
            at = torch.where(good, stop, at)
            past = [torch.where(good, inverse, past[0]), torch.where(good, past[0], past[1])]
            size = size * factor
        return {name: y * float(schedule(self.stop)[0])}

    def _both(self, noise: Callable[[Tensor, Tensor], Tensor], y: Tensor, at: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The step of size h by both methods (2206.00927, alg. 1 and 2)."""

        def move(share: float, slope: Tensor) -> Tensor:
            """sigma/alpha that share of the way on, times the integral of exp over it, of a noise that does not change."""
            return y - along((-at - share * h).exp() * torch.expm1(share * h), y) * slope

        def bend(share: float) -> Tensor:
            """What a slope of the noise over a step that long adds to it, in units of the step."""
            part = share * h
            return along(torch.expm1(part) / part - 1, y) / along(torch.expm1(part), y)

        first = noise(y, at)
        if self.order == 2:
            change = noise(move(1 / 2, first), at + h / 2) - first
            return move(1.0, first), move(1.0, first + change)
        change = noise(move(1 / 3, first), at + h / 3) - first
        then = noise(move(2 / 3, first + 2 * bend(2 / 3) * change), at + 2 * h / 3) - first
        return move(1.0, first + 3 / 2 * change), move(1.0, first + 3 / 2 * bend(1.0) * then)


def dpm_adaptive(
    rtol: float = 0.05,
    atol: float = 0.0078,
    order: int = 3,
    first: float = 0.05,
    proportional: float = 0.0,
    integral: float = 1.0,
    derivative: float = 0.0,
    safety: float = 0.81,
    together: bool = False,
    most: int = 1000,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    denoise: bool = True,
) -> Draft:
    """DPM-Solver-12 or -23 with error control (2206.00927, app. C), its step sizes by a PID controller, as k-diffusion's
    `sample_dpm_adaptive`, which `together=True, denoise=False` is; `Step.nfe` tells the evaluations it took.

    Args:
        rtol, atol, order, first, proportional, integral, derivative, safety, together, most: see `AdaptiveDPM`.
        sigma_min, sigma_max: sigma/alpha to begin and end at; by default those of the schedule.
        denoise: end with the belief at sigma_min, by one evaluation more, or at sigma_min.
    """
    name = f"dpm_adaptive(rtol={rtol:g}, atol={atol:g}, order={order})"

    def fill(schedule: Schedule) -> Plan:
        top, low = schedule.lam_range
        ends = [top if sigma_max is None else -2 * math.log(sigma_max), low if sigma_min is None else -2 * math.log(sigma_min)]
        if ends[0] < float(schedule.lam(1.0)) - 1e-9:
            raise ValueError(f"{name} begins at sigma/alpha {sigma_max:g}, above the schedule's; lower sigma_max.")
        start, stop = (float(t) for t in schedule.invert(torch.tensor(ends, dtype=torch.float64)))
        row = AdaptiveDPM(
            start=1.0 if start > 1 - 1e-9 else start, stop=stop, order=order, rtol=rtol, atol=atol, first=first,
            proportional=proportional, integral=integral, derivative=derivative, safety=safety, together=together, most=most,
        )  # fmt: skip
        rows: list[Row | StateRow] = [row, *([Row(level=stop, start=stop, stop=0.0)] if denoise else [])]
        return Plan(name=name, basis="eps", order=order, rows=tuple(rows))

    return Draft(name, fill)
