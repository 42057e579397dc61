"""Fresh noise while data has no shape, and the flow from there: what modes are is drawn, how wide they are is computed."""

import math

import torch

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, given, named
from langevin.plans.multistep import multistep, trig


def trig_sde(
    steps: int = 20,
    order: int = 2,
    tau: float = 1.0,
    low: float = 0.5,
    data_std: float = 0.8,
    grid: str | Grid = "angle;center=0.5;power=0.73",
) -> Draft:
    """SA-Solver of order 2 (2309.05019) where sigma/alpha is above `low`, `trig` below: `steps` evaluations.

    Noise forgets the errors of earlier steps, and costs accuracy where a step crosses the width of a mode, which noise drawn in
    few steps misses by more than the flow does. The evaluation where both meet corrects the one and begins the other.

    Args:
        order: of `trig`.
        tau: how stochastic: 1 is ancestral.
        low: sigma/alpha below which nothing is drawn. The first step always draws.
    """
    check_steps(steps)
    if not (0 < tau <= 1 and low >= 0):
        raise ValueError(f"tau is {tau:g} and low {low:g}; tau lies above 0 and at most at 1, and low is 0 or more.")
    name = f"trig_sde({steps}, order={order}, tau={tau:g}, low={low:g})"

    def fill(schedule: Schedule) -> Plan:
        levels = named(grid)(schedule, steps)
        above = sum(math.exp(-float(schedule.lam(level)) / 2) > low for level in levels[:-1])
        met = max(1, min(above, steps - 1))
        if steps == 1:
            return multistep(1, "x0", "lam", 1, tau=tau, grid=given(levels), name=name).on(schedule)
        head = multistep(met, "x0", "lam", 2, True, tau=tau, grid=given(levels[: met + 1]), closing=True).on(schedule)
        tail = trig(steps - met, order, data_std, grid=given(levels[met:])).on(schedule)
        rows = [*head.rows, *of_beliefs(tail, Gaussian(schedule), evaluated=True)]
        return Plan(name=name, basis="x0", order=2, rows=tuple(rows))

    return Draft(name, fill)


def of_beliefs(plan: Plan, process: Gaussian, evaluated: bool = False) -> list[Row]:
    """The rows of a plan without noise, in any basis, as rows of the basis "x0": every state is linear in the first one and the
    beliefs, and so each is in the one that its row begins from.

    Args:
        evaluated: whether the first state has been evaluated before.
    """
    state = torch.zeros(plan.nfe + 1, dtype=torch.float64)  # in terms of (z, x^_0, x^_1, ...)
    state[0] = 1.0
    anchor, history, rows, made = state, [], [], 0
    for row, number in zip(plan.rows, process.numbers(plan), strict=True):
        if not isinstance(row, Row) or number is None or number.c:
            raise ValueError(f"plan {plan.name} draws noise or depends on the state; only linear plans are rows of beliefs.")
        level = row.level
        if level is not None:
            made += 1
            unit = torch.zeros_like(state)
            unit[made] = 1.0
            history.insert(0, number.x_part * unit + number.z_part * state)
            level = None if evaluated and made == 1 else level
        begin = anchor if row.anchored else state
        anchor, state = begin, number.a * begin + sum(w * u for w, u in zip(number.w, history, strict=False))
        keep = float(state[0] / begin[0])
        mix = (state - keep * begin)[1 : made + 1].flip(0).tolist()
        rows.append(Row(level=level, start=row.start, stop=row.stop, anchored=row.anchored, a=keep, mix=tuple(mix)))
    return rows
