"""Runge-Kutta: higher order from evaluations at predicted states, then again from the anchor."""

from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named


def heun(steps: int = 18, grid: str | Grid | None = None, basis: str | None = None) -> Draft:
    """Heun's second-order method, 2 steps - 1 evaluations: the step to clean data is Euler's (2206.00364, alg. 1).

    Args:
        basis: "eps" integrates in sigma/alpha (EDM, k-diffusion), "velocity" in t (flows). By default "eps" where t = 1
            still holds signal, "velocity" where alpha is 0 there.
        grid: by default "karras" for "eps" and "uniform" for "velocity".
    """
    check_steps(steps)
    if basis not in (None, "eps", "velocity"):
        raise ValueError(f"basis is {basis!r}; Heun's slopes are of 'eps' or 'velocity'.")
    asked = None if grid is None else named(grid)

    def fill(schedule: Schedule) -> Plan:
        chosen = basis or ("eps" if float(schedule(1.0)[0]) > 0 else "velocity")
        levels = (asked or named("karras" if chosen == "eps" else "uniform"))(schedule, steps)
        rows = []
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            rows.append(Row(level=t, start=t, stop=s))
            if s > 0:
                rows.append(Row(level=s, start=t, stop=s, mix=(0.5, 0.5), anchored=True))
        return Plan(name=f"heun({steps})", basis=chosen, order=2, rows=tuple(rows))

    return Draft(f"heun({steps})", fill)
