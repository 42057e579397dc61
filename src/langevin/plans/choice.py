"""Which plan? `default` knows the number of steps alone; `auto` asks the model."""

from langevin.core.plan import Draft
from langevin.plans.first_order import check_steps
from langevin.plans.multistep import multistep, trig


def default(steps: int = 20) -> Draft:
    """What the library picks when nothing is known but the number of evaluations, on any Gaussian process.

    Few steps must not extrapolate far: up to 6, second order in data predictions, with levels where data takes shape. Then
    `trig` of an order that grows with the steps. See docs/plans.md for the measurements behind the numbers.
    """
    check_steps(steps)
    if steps <= 6:
        return multistep(steps, "x0", "lam", 2, True, grid="angle;center=1;power=0.75", name=f"default({steps})")
    order = 2 if steps <= 10 else 3 if steps <= 20 else 4
    plan = trig(steps, order)
    return Draft(f"default({steps})", plan.fill)
