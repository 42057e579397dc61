"""Up from data to the noise that DDIM makes it of (2010.02502, sec. 4.3), and plans that begin late."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, DrivingRow, Plan, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named

Image = Callable[[Tensor], Tensor]
_PATIENCE = 10
"""Evaluations after which a fixed point's residual should have halved."""


@dataclass(frozen=True, kw_only=True)
class Ascent(StateRow):
    """DDIM's step upwards, with the noise believed at its lower end: explicit, so it is the step's inverse to first order.

    Args:
        floor: clean data is asked about at the schedule's floor, which networks know; False takes it for free of noise, as an
            exact denoiser at level 0 does.
    """

    start: float
    stop: float
    floor: bool = True

    def problem(self, evaluations: int) -> str | None:
        return None if 0 <= self.start < self.stop <= 1 else f"climbs from {self.start:g} to {self.stop:g}; the end lies above"

    def check(self, leaf: Any) -> None:
        _gaussian(leaf)

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> float:
        return self.start or leaf.schedule.floor

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        alpha_at, sigma_at = (float(v) for v in leaf.schedule(self.at(leaf, z, noise)))
        ratio, weight = _climb(leaf, self.start, self.stop)
        if self.start == 0 and not self.floor:
            return ratio * z
        return ratio * z + weight / sigma_at * (z - alpha_at * belief.mean)


@dataclass(frozen=True, kw_only=True)
class ExactAscent(DrivingRow):
    """The inverse of DDIM's step from `stop` down to `start`, by a fixed point with Anderson acceleration.

    The step is z_start = b x^ + k z_stop, and z_stop = r z_start + w e^ as well. Where noise rules, what a good network believes
    of x hardly changes with z_stop, and elsewhere its e^ hardly does; the other form is tried where the first does not settle.

    Args:
        most: evaluations at most, of each form. tolerance: of the residual's norm, relative to the state's, at which to stop; the
            state's own rounding where that is more.
    """

    start: float
    stop: float
    most: int = 30
    tolerance: float = 1e-14

    @property
    def nfe(self) -> int:
        return 2 * self.most + 2

    def problem(self, evaluations: int) -> str | None:
        return None if 0 <= self.start < self.stop <= 1 else f"climbs from {self.start:g} to {self.stop:g}; the end lies above"

    def check(self, leaf: Any) -> None:
        _gaussian(leaf)

    def drive(self, evaluate: Callable[[Any, Any], Any], parts: Any, z: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(parts) > 1:
            raise ValueError("inversion follows one process and this is a product; invert its Gaussian leaf alone.")
        ((name, leaf),) = parts.items()
        given, level = z[name], torch.tensor(self.stop, dtype=torch.float64)
        alpha, sigma = (float(v) for v in leaf.schedule(level))
        ratio, weight = _climb(leaf, self.start, self.stop)
        believed, kept, _ = leaf.bridge_numbers(self.stop, self.start, 0.0)

        def mean(state: Tensor) -> Tensor:
            belief = evaluate({name: state}, {name: level})
            return (belief if name == "" else belief[name]).mean

        by_data: Image = lambda state: (given - believed * mean(state)) / kept  # noqa: E731
        by_noise: Image = lambda state: ratio * given + weight / sigma * (state - alpha * mean(state))  # noqa: E731
        forms = [by_data] * (kept > 0) + [by_noise] * (alpha > 0 or kept <= 0)
        if alpha >= sigma:
            forms.reverse()
        first, found = ratio * given + weight / max(sigma, 1e-30) * given * sigma, []
        for form in forms:
            state, settled = self._fixed(form, first)
            if settled:
                return {name: state}
            found.append((state, (given - believed * mean(state) - kept * state).flatten(1).double().norm(dim=1)))
        (state, off), *rest = found
        for other, miss in rest:  # of each sample the one that leads back more nearly
            state = torch.where(((miss < off) | off.isnan()).reshape(-1, *[1] * (state.ndim - 1)), other, state)
        return {name: state}

    def _fixed(self, image: Image, first: Tensor) -> tuple[Tensor, bool]:
        """A fixed point of `image` from `first`, and whether it was reached: the nearest to one that was met, otherwise."""
        enough = max(self.tolerance, 4 * torch.finfo(first.dtype).eps)
        state, nearest, least, begun = first, first, torch.full((len(first),), torch.inf).to(first.device).double(), None
        whole = (-1, *[1] * (first.ndim - 1))
        points: list[Tensor] = []
        gaps: list[Tensor] = []
        for k in range(self.most):
            moved = image(state)
            gap = (moved - state).flatten(1).double()
            off = gap.norm(dim=1) / moved.flatten(1).double().norm(dim=1).clamp(min=1e-30)
            ran = ~off.isfinite()  # away: such a sample stays where it was nearest, and disturbs no other
            moved, gap = torch.where(ran.reshape(whole), nearest, moved), gap.masked_fill(ran[:, None], 0.0)
            points.append(moved.flatten(1).double())
            gaps.append(gap)
            del points[:-6], gaps[:-6]
            if bool((off <= enough).all()):
                return moved, True
            begun = off if begun is None else begun
            nearest = torch.where((off < least).reshape(whole), moved, nearest)
            least = torch.fmin(least, off)
            if k >= _PATIENCE and bool(((least > 0.5 * begun) | (least <= enough) | ran).all()):
                break  # what has not settled by now spreads out, and will not
            best = points[-1]
            if len(gaps) > 1:
                change = torch.stack([b - a for a, b in zip(gaps[:-1], gaps[1:], strict=True)], 2)
                along = torch.stack([b - a for a, b in zip(points[:-1], points[1:], strict=True)], 2)
                share = torch.linalg.pinv(change, rtol=1e-10) @ gaps[-1][..., None]
                best = best - (along @ share).squeeze(2)
            state = best.reshape(first.shape).to(first.dtype)
        return nearest, False


def _climb(leaf: Gaussian, low: float, high: float) -> tuple[float, float]:
    """z_high = ratio z_low + weight e."""
    (alpha, sigma), (alpha_high, sigma_high) = ([float(v) for v in leaf.schedule(t)] for t in (low, high))
    ratio = alpha_high / alpha
    return ratio, sigma_high - ratio * sigma


def _gaussian(leaf: Any) -> None:
    if not isinstance(leaf, Gaussian):
        raise ValueError(f"inversion climbs a Gaussian process, and the leaf is {leaf.kind}; use given=.")


def inversion(steps: int = 50, exact: bool = True, floor: bool = True, grid: str | Grid = "uniform") -> Draft:
    """The way up that `ddim(steps, grid=grid)` goes down: begin it with data, `sample(..., start=x)`.

    Args:
        exact: undo each step to rounding, some evaluations a step; else the explicit step, one evaluation, whose round trip
            is off by an error that halves with twice the steps. floor: see `Ascent`.
    """
    check_steps(steps)
    levels_of = named(grid)
    name = f"inversion({steps}, exact={exact})"

    def fill(schedule: Schedule) -> Plan:
        climbs = joined(levels_of(schedule, steps)[::-1])
        rows = tuple(ExactAscent(start=t, stop=s) if exact else Ascent(start=t, stop=s, floor=floor) for t, s in climbs)
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)


class _Lower(Schedule):
    """The part of a schedule below a level, stretched to [0, 1]."""

    def __init__(self, base: Schedule, top: float) -> None:
        super().__init__()
        self.base, self.top, self.scale, self.floor = base, top, base.scale, min(base.floor / top, 0.5)

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.alpha(t * self.top)

    def sigma(self, t: Tensor) -> Tensor:
        return self.base.sigma(t * self.top)


def begin(plan: Plan | Draft, level: float) -> Plan | Draft:
    """The plan with all its steps below `level`, the first of which begins there: it is filled on that part of the schedule.

    A draft whose grid begins below the schedule's top ("leading", or one with start=) is filled on so much more of it.

    Raises:
        ValueError: if level leaves (0, 1], or the plan is written out and begins elsewhere; as a draft is filled, if it cannot
            begin there, being bound to levels of its own.
    """
    if not 0 < level <= 1:
        raise ValueError(f"level is {level}; a plan begins above 0 and at most at 1.")
    if isinstance(plan, Plan):
        if abs(plan.rows[0].start - level) > _CLOSE:
            raise ValueError(
                f"plan {plan.name} is written out from level {plan.rows[0].start:g}, and {level:g} is asked: give a draft such "
                "as dpmpp(20), or what plans.after leaves of it there."
            )
        return plan
    if level == 1:
        return plan

    def fill(schedule: Schedule) -> Plan:
        made = _below(plan, schedule, level)
        if 0 < (first := made.rows[0].start) < level - _CLOSE:
            top = level * level / first
            if top > 1 + _CLOSE:
                raise ValueError(
                    f"plan {plan.name} begins at level {first / level:g} at most, and {level:g} is asked; give its grid start=1."
                )
            made = _below(plan, schedule, 1.0 if top > 1 - _CLOSE else top)
        if abs((first := made.rows[0].start) - level) > _CLOSE:
            raise ValueError(
                f"plan {plan.name} begins at level {first:g} by itself, and {level:g} is asked; leave out what binds it."
            )
        return made

    return Draft(plan.name, fill)


_CLOSE = 1e-9  # levels that differ by rounding alone


def _below(plan: Draft, schedule: Schedule, top: float) -> Plan:
    """The plan on the part of a schedule below `top`, in the schedule's own levels."""
    if top == 1:
        return plan.on(schedule)
    made = plan.on(_Lower(schedule, top))

    def moved(row: Any) -> Any:
        fields = [n for n in ("level", "start", "stop", "shown") if n in {f.name for f in dataclasses.fields(row)}]
        values = {n: getattr(row, n) for n in fields}
        values = {n: None if v is None else v * top for n, v in values.items()}
        if values.get("shown") is not None:
            values["shown"] = max(values["shown"], schedule.floor)  # networks know no level below it
        return dataclasses.replace(row, **values)

    return dataclasses.replace(made, rows=tuple(moved(row) for row in made.rows))
