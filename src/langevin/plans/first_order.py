"""First order, one evaluation a step: z_s from the bridge, with the belief's mean for x.

DDIM, DDPM, Euler in sigma and Euler-ancestral are one table; the names differ in eta and in the grid they are known for.
"""

from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.grids import Grid, named


def check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}; ask for at least 1.")


def _first_order(name: str, steps: int, eta: float, grid: str | Grid) -> Draft:
    check_steps(steps)
    levels_of = named(grid)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it lies in [0, 1], 0 deterministic and 1 ancestral.")

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        rows = tuple(Row(level=t, start=t, stop=s, eta=eta) for t, s in zip(levels[:-1], levels[1:], strict=True))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)


def ddim(steps: int = 50, eta: float = 0.0, grid: str | Grid = "uniform") -> Draft:
    """DDIM (2010.02502, eq. 12). eta 0 is deterministic, 1 is DDPM. `steps` evaluations."""
    return _first_order(f"ddim({steps}, eta={eta:g})", steps, eta, grid)


def ddpm(steps: int = 1000, grid: str | Grid = "uniform") -> Draft:
    """Ancestral sampling with the exact posterior variance (2006.11239, eq. 7). `steps` evaluations."""
    return _first_order(f"ddpm({steps})", steps, 1.0, grid)


def euler(steps: int = 30, grid: str | Grid = "karras") -> Draft:
    """Euler's method on the probability flow in sigma/alpha (2206.00364, alg. 1 without correction): DDIM's update."""
    return _first_order(f"euler({steps})", steps, 0.0, grid)


def euler_ancestral(steps: int = 30, eta: float = 1.0, grid: str | Grid = "karras") -> Draft:
    """Euler to a lower level, then noise back up: the ancestral sampler of k-diffusion, which is the bridge at `eta`."""
    return _first_order(f"euler_ancestral({steps}, eta={eta:g})", steps, eta, grid)
