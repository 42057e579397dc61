"""Pseudo numerical methods (PNDM, 2202.09778): classical weights for equal steps of t, on mixed noise that DDIM's step carries.

The transfer is DDIM's, exact where noise predictions do not change, so that steps are not limited by the schedule. The weights
are those of equations in t, and what they gain beside DDIM's is one order: the methods converge at order 2.
"""

from collections.abc import Sequence

from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.runge_kutta import TABLEAUS, stages

ADAMS = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
"""Adams-Bashforth weights for equal steps, newest first, by order."""
RUNGE_KUTTA = 3
"""Steps that fill the history Adams-Bashforth of order 4 wants."""


def adams_mix(kept: Sequence[int], order: int = 4) -> tuple[float, ...]:
    """Adams-Bashforth's weights, newest first, on the evaluations numbered `kept` (rising) alone; others have 0."""
    used = [*reversed(kept)][:order]
    weights = dict(zip(used, ADAMS[len(used)], strict=True))
    return tuple(weights.get(m, 0.0) for m in range(used[0], used[-1] - 1, -1))


def plms(steps: int = 50, order: int = 4, grid: str | Grid = "trailing") -> Draft:
    """PLMS, the pseudo linear multistep half of PNDM (2202.09778, eq. 12): Adams-Bashforth's constants, `steps` evaluations.

    Args:
        order: how many evaluations are mixed; the first steps have fewer.
    """
    check_steps(steps)
    if order not in ADAMS:
        raise ValueError(f"order is {order}; PLMS has orders 1 to 4.")
    levels_of = named(grid)
    name = f"plms({steps}, order={order})"

    def fill(schedule: Schedule) -> Plan:
        rows = [
            Row(level=t, start=t, stop=s, mix=ADAMS[min(order, i + 1)])
            for i, (t, s) in enumerate(joined(levels_of(schedule, steps)))
        ]
        return Plan(name=name, basis="eps", order=min(order, 2), rows=tuple(rows))

    return Draft(name, fill)


def pndm(steps: int = 50, grid: str | Grid = "trailing") -> Draft:
    """PNDM (2202.09778, alg. 2): three pseudo Runge-Kutta steps of four evaluations each, through the middle of t, and from there
    PLMS of order 4 on the first evaluation of each step. steps + 9 evaluations from 4 steps on.

    The last step, to clean data, is never a Runge-Kutta step; fewer than 4 steps have as many of these as there are before it.
    """
    check_steps(steps)
    levels_of = named(grid)
    name = f"pndm({steps})"

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row] = []
        kept: list[int] = []  # numbers of the evaluations that steps begin with
        for i, (t, s) in enumerate(joined(levels_of(schedule, steps))):
            kept.append(len(rows))
            if i < min(RUNGE_KUTTA, steps - 1):
                rows += stages(t, s, TABLEAUS["rk4"][1], lambda share, t=t, s=s: t + share * (s - t))
            else:
                rows.append(Row(level=t, start=t, stop=s, mix=adams_mix(kept)))
        return Plan(name=name, basis="eps", order=2, rows=tuple(rows))

    return Draft(name, fill)
