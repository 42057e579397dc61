"""What can be told of a plan by arithmetic: its order, and where two plans differ."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, Row, StateRow, saved
from langevin.core.posterior import GaussianPosterior
from langevin.core.process import Process
from langevin.core.schedule import Schedule
from langevin.core.tree import spread
from langevin.oracles import NormalOracle

SEEN = 6.0
"""log-SNR below which noise is seen: it has more than a twentieth of the signal's size. Schedules and published timesteps have
their floors above."""


def warn_if_noisy(plan: Any, process: Process) -> None:
    """Warn that samples keep noise, where a written plan, or one of a dict of them by leaf, stops on its way down. A draft ends
    where its grid is told to, and a plan that rises, or stays at its level, is no way to data."""
    parts = process.leaves()
    if isinstance(plan, Mapping) and set(plan) != set(parts):
        return  # which the loop has a sentence for
    for name, one in spread(plan, list(parts), "plan").items():
        if not isinstance(one, Plan) or not 0 < (stop := one.rows[-1].stop) < one.rows[0].start:
            continue
        if (lam := float(parts[name].schedule.lam(stop))) < SEEN:
            warnings.warn(
                f"plan {one.name} ends at level {stop:g}, so that samples keep noise of {math.exp(-lam / 2):.2g} times the "
                "signal's size; let its last row stop at 0, or take the last state of lv.trajectory where that is meant.",
                stacklevel=3,
            )


class _OneByOne(Noise):
    """Sample k gets a unit of noise at step k and none elsewhere; the last two samples get none."""

    def normal(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return (self.ids == self.step).to(dtype).reshape(-1, *[1] * len(shape)).expand(-1, *shape)


def terminal_moments(
    plan: Plan, schedule: Schedule, mean: float, variance: float, start: tuple[float, float]
) -> tuple[float, float]:
    """(mean, variance) of the state after a plan, for data N(mean, variance) and a start of the moments `start`: exact.

    With the exact denoiser of a normal every row is linear, so the end is base + gain start + sum_k c_k noise_k, and a batch
    of one state for each noise and two more reads off all of these.
    """
    process = Gaussian(schedule)
    exact = NormalOracle(process, *(torch.tensor(v, dtype=torch.float64) for v in ([mean], [[variance]])))
    n = len(plan.rows)
    z = torch.zeros(n + 2, 1, dtype=torch.float64)
    z[n + 1] = 1.0
    anchor, history, drawn = z, [], 0
    belief = GaussianPosterior(z)
    for i, (row, number) in enumerate(zip(plan.rows, process.numbers(plan), strict=True)):
        if not isinstance(row, Row) or number is None:
            raise ValueError(f"plan {plan.name} has rows that depend on the state; moments are exact for linear plans only.")
        drawn = drawn if row.anchored else i
        if row.level is not None:
            belief = exact(z, row.level if row.shown is None else row.shown)
            history = [process.observe(belief, z, number), *history][: plan.history]
        begin = anchor if row.anchored else z
        anchor, z = (anchor if row.anchored else z), process.advance(
            begin, history, belief, number, _OneByOne(0, torch.arange(n + 2), drawn), None
        )  # fmt: skip
    base = z[n]
    gain, noise = z[n + 1] - base, z[:n] - base
    return float(base + gain * start[0]), float(gain**2 * start[1] + noise.square().sum())


def order(make: Callable[[int], Draft | Plan], schedule: Schedule, steps: tuple[int, ...] = (40, 80, 160)) -> float:
    """The order of convergence of `make(steps)` on a schedule, by arithmetic: how the end of a linear flow (that of normal
    data, where beliefs depend on the state) approaches the truth as the steps double. For noisy plans it is the variance's.

    Give a grid that stops before 0: the leap to clean data has an order of its own.
    """
    mean, variance = 0.7, 0.3
    errors = []
    for n in steps:
        plan = make(n).on(schedule)
        (alpha, sigma), (end_alpha, end_sigma) = (
            [float(v) for v in schedule(t)] for t in (plan.rows[0].start, plan.rows[-1].stop)
        )
        spread = (alpha**2 * variance + sigma**2) ** 0.5
        # a state one deviation off the mean stays one deviation off it; noisy plans are judged by their variance
        got = terminal_moments(plan, schedule, mean, variance, (alpha * mean, spread**2))
        truth = end_alpha**2 * variance + end_sigma**2
        errors.append(abs(got[1] - truth))
    x, y = [math.log(n) for n in steps], [math.log(max(e, 1e-300)) for e in errors]
    middle = sum(x) / len(x), sum(y) / len(y)
    return -sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True)) / sum((a - middle[0]) ** 2 for a in x)


def _written(plan: Plan | Draft) -> Plan:
    if not isinstance(plan, Plan):
        raise ValueError(f"{plan} is a draft, whose table is not written yet; pass plan.on(process.schedule).")
    return plan


def after(plan: Plan, level: float) -> Plan:
    """The part of the plan that begins at the first level at or below `level`: image-to-image starts in the middle.

    Rows mix only evaluations made within the part, so its first steps are of lower order.

    Raises:
        ValueError: if no level of the plan is that low, but for its end.
    """
    plan = _written(plan)
    rests = [r for r in plan.rows if not r.anchored and r.start <= level + 1e-12 and (isinstance(r, Row) or r.nfe)]
    if not rests:
        raise ValueError(f"{plan.name} has no row at or below level {level:g}; give a level above {plan.rows[-1].start:g}.")
    place = plan.rows.index(rests[0])
    rows: list[Row | StateRow] = []
    made = 0
    first = dataclasses.replace(rests[0], level=rests[0].start) if isinstance(rests[0], Row) else rests[0]
    for row in (first, *plan.rows[place + 1 :]):
        made += row.nfe
        if isinstance(row, Row) and len(row.mix) > made:
            # the weight of evaluations that were not made goes to the oldest that was
            row = dataclasses.replace(row, mix=(*row.mix[: made - 1], sum(row.mix[made - 1 :])))
        rows.append(row)
    return dataclasses.replace(plan, name=f"{plan.name} from {rows[0].start:g}", rows=tuple(rows))


def join(plan: Plan, other: Plan) -> Plan:
    """One plan after another, which begins where this one ends and has its basis."""
    plan, other = _written(plan), _written(other)
    if (plan.basis, plan.data_std) != (other.basis, other.data_std):
        raise ValueError(f"{plan.name} is in basis {plan.basis!r} and {other.name} in {other.basis!r}; join plans of one basis.")
    name, order = f"{plan.name} + {other.name}", min(plan.order, other.order)
    return dataclasses.replace(plan, name=name, order=order, rows=(*plan.rows, *other.rows))


def compare(one: Plan, other: Plan, tolerance: float = 1e-9) -> str:
    """Where two plans first differ, in words; "the same" if nowhere beyond the tolerance."""
    one, other = _written(one), _written(other)
    for field in ("basis", "data_std"):
        if getattr(one, field) != getattr(other, field):
            return f"{field}: {getattr(one, field)!r} and {getattr(other, field)!r}"
    for i, (a, b) in enumerate(zip(one.rows, other.rows, strict=False)):
        if type(a) is not type(b):
            return f"row {i}: {type(a).__name__} and {type(b).__name__}"
        for name, value in saved(a).items():
            theirs = saved(b)[name]
            if not _close(value, theirs, tolerance):
                return f"row {i}, {name}: {value} and {theirs}"
    if len(one.rows) != len(other.rows):
        return f"rows: {len(one.rows)} and {len(other.rows)}"
    return "the same"


def _close(a: object, b: object, tolerance: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= tolerance
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return a == b
