"""Samplers that are published with models of few steps."""

import dataclasses
import math
from collections.abc import Sequence

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans import few_step
from langevin.plans.first_order import check_steps
from langevin.plans.inversion import begin
from langevin.plans.moves import Renoise
from langevin.plans.profiles.tables import levels_of, ramp


def lcm(
    steps: int = 4,
    original: int = 50,
    timesteps: int = 1000,
    scaling: float = 10.0,
    sigma_data: float = 0.5,
    start: float = 1.0,
) -> Draft:
    """diffusers' LCMScheduler: `plans.lcm`, whose leaps keep c_skip of the state and take c_out of the belief (2310.04378, app.).

    Args:
        scaling, sigma_data: c_skip = sigma_data^2 / ((scaling i)^2 + sigma_data^2) at timestep i.
        start: the level to begin at, for a picture that is noised to it; all leaps are from levels at and below it.
    """
    name = f"lcm({steps}, boundary)"

    def fill(schedule: Schedule) -> Plan:
        plan = begin(few_step.lcm(steps, original, timesteps), start).on(schedule)
        rows = []
        for row in plan.rows:
            if isinstance(row, Row):
                place = scaling * (row.start * timesteps - 1)
                total = place**2 + sigma_data**2
                row = dataclasses.replace(row, a=sigma_data**2 / total, mix=(place / math.sqrt(total),))
            rows.append(row)
        return dataclasses.replace(plan, name=name, rows=tuple(rows))

    return Draft(name, fill)


def tcd(steps: int = 4, gamma: float = 0.3, original: int = 50, timesteps: int = 1000, start: float = 1.0) -> Draft:
    """diffusers' TCDScheduler (2402.19159, alg. 2): leap to the timestep floor((1 - gamma) next), and noise up to the next; the
    last leap ends at timestep 0, which is not quite clean data. `steps` evaluations.

    Args:
        start: as of `lcm`.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it lies in [0, 1], 0 deterministic and 1 a leap to clean data each time.")
    name = f"tcd({steps}, gamma={gamma:g})"

    def fill(schedule: Schedule) -> Plan:
        plan = begin(few_step.lcm(steps, original, timesteps), start).on(schedule)
        levels = [row.start for row in plan.rows if isinstance(row, Row) and (start == 1 or row.start > 1 / timesteps)]
        if not levels:
            raise ValueError(f"start is {start:g}, and {name} ends at level {1 / timesteps:g}; begin above it.")
        rows: list[Row | StateRow] = []
        for t, s in joined([*levels, 1 / timesteps]):
            low = (math.floor((1 - gamma) * round(s * timesteps - 1)) + 1) / timesteps
            rows.append(Row(level=t, start=t, stop=low))
            if low < s:
                rows.append(Renoise(start=low, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def consistency_models(
    steps: int = 1,
    nodes: Sequence[int] | None = None,
    count: int = 40,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    noise: float = 1.0,
) -> Draft:
    """Consistency models' multistep sampler (2303.01469, alg. 1), as published: fresh noise of variance sigma^2 - sigma_min^2.

    Args:
        nodes: which of the `count` Karras levels to leap from, 0 the noisiest; by default every (count // steps)-th.
        noise: factor of the fresh noise.
    """
    check_steps(steps)
    chosen = sorted(nodes if nodes is not None else [i * (count // steps) for i in range(steps)])
    if not all(0 <= i < count for i in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"nodes are {chosen}; they count the {count} levels from 0, each once.")
    ratios = ramp("karras", sigma_max, sigma_min, count, rho)[chosen]
    name = f"consistency_models({len(chosen)})"

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, ratios, name)
        rows: list[Row | StateRow] = []
        for t, s, ratio in zip(levels, [*levels[1:], 0.0], [*ratios[1:], 0.0], strict=True):
            rows.append(Row(level=t, start=t, stop=0.0))
            if ratio > sigma_min:
                rows.append(Renoise(start=0.0, stop=s, factor=noise * math.sqrt(1 - (sigma_min / ratio) ** 2)))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)
