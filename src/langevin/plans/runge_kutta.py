"""Runge-Kutta: higher order from evaluations at predicted states, then again from the anchor."""

from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named


def heun(steps: int = 18, grid: str | Grid = "karras", basis: str | None = None) -> Draft:
    """Heun's second-order method, 2 steps - 1 evaluations: the step to clean data is Euler's (2206.00364, alg. 1).

    Args:
        basis: "eps" integrates in sigma/alpha (EDM, k-diffusion), "velocity" in t (flows). By default "eps" where the
            first level still holds signal, "velocity" where alpha is 0 there.
    """
    check_steps(steps)

    def fill(schedule: Schedule) -> Plan:
        levels = named(grid)(schedule, steps)
        chosen = basis or ("eps" if float(schedule(levels[0])[0]) > 0 else "velocity")
        rows = []
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            rows.append(Row(level=t, start=t, stop=s))
            if s > 0:
                rows.append(Row(level=s, start=t, stop=s, mix=(0.5, 0.5), anchored=True))
        return Plan(name=f"heun({steps})", basis=chosen, order=2, rows=tuple(rows))

    return Draft(f"heun({steps})", fill, {"steps": steps})
