"""Plans for models that leap: consistency models and LCM, which leap to clean data, and trajectory models."""

import math

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.moves import Renoise


def consistency(steps: int = 4, grid: str | Grid = "uniform") -> Draft:
    """Multistep consistency sampling (2303.01469, alg. 1; LCM, 2310.04378, alg. 3): leap to clean data, add fresh noise up to
    the next level, leap again. `steps` evaluations.
    """
    check_steps(steps)
    levels_of = named(grid)
    name = f"consistency({steps})"

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        for t, s in joined(levels_of(schedule, steps)):
            rows.append(Row(level=t, start=t, stop=0.0))
            if s > 0:
                rows.append(Renoise(start=0.0, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def trajectory(steps: int = 4, gamma: float = 0.0, grid: str | Grid = "uniform") -> Draft:
    """gamma-sampling of consistency trajectory models (2310.02279, alg. 3): leap below the next level, to sqrt(1 - gamma^2)
    of its sigma/alpha, and add fresh noise up to it. `steps` evaluations.

    Args:
        gamma: 0 is `ddim`, which draws no noise; 1 is `consistency`, which leaps to clean data each time.
    """
    check_steps(steps)
    levels_of = named(grid)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it lies in [0, 1], 0 deterministic and 1 a leap to clean data each time.")
    name = f"trajectory({steps}, gamma={gamma:g})"

    def below(schedule: Schedule, level: float) -> float:
        if gamma in (0, 1) or level == 0:
            return level * (1 - gamma)
        return float(schedule.invert(schedule.lam(level) - math.log((1 - gamma) * (1 + gamma))))

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        for t, s in joined(levels_of(schedule, steps)):
            low = below(schedule, s)
            rows.append(Row(level=t, start=t, stop=low))
            if low < s:
                rows.append(Renoise(start=low, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def lcm(steps: int = 4, original: int = 50, timesteps: int = 1000) -> Draft:
    """`consistency` on the levels that latent consistency models were distilled at: `original` of the `timesteps`, of which
    `steps` are taken evenly from the noisiest down.
    """
    if not 1 <= steps <= original <= timesteps:
        raise ValueError(f"steps is {steps} of {original} original of {timesteps}; give 1 <= steps <= original <= timesteps.")
    stride = timesteps // original
    trained = [(i + 1) * stride / timesteps for i in range(original)][::-1]
    levels = [trained[int(i * original / steps)] for i in range(steps)]

    def grid(schedule: Schedule, count: int) -> list[float]:
        del schedule, count
        return [*levels, 0.0]

    return Draft(f"lcm({steps})", consistency(steps, grid).fill)
