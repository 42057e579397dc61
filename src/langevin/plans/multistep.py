"""Multistep: higher order from earlier evaluations, still one evaluation a step.

With half log-SNR u = log(alpha / sigma) and h = u_s - u_t the exact probability flow is (2211.01095, eq. 8)

    z_s = (sigma_s / sigma_t) z_t + sigma_s integral exp(u) x^(u) du,

and its SDE form has exp(2u) in the integral. Replacing x^ by the polynomial through the last evaluations gives weights
which, divided by their sum, are the row's `mix`; the bridge supplies the rest.
"""

import math

from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named


def dpmpp(steps: int = 20, order: int = 2, sde: bool = False, grid: str | Grid = "log_snr") -> Draft:
    """DPM-Solver++ multistep (2211.01095, alg. 2), `steps` evaluations.

    Order 2 uses the paper's weights 1 + 1/(2r), -1/(2r). Order 3 uses the exact third-order weights: published codes
    lack a factor 2 on the second difference and converge at less. Steps without enough history, and the leap to clean
    data, are of lower order.

    Args:
        order: 1, 2 or 3.
        sde: the stochastic form (eta = 1), of weak order 2 at most.
    """
    check_steps(steps)
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}; dpmpp has orders 1, 2 and 3.")

    name = f"dpmpp({steps}, order={order}{', sde' if sde else ''})"

    levels_of = named(grid)

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        half = [float(schedule.lam(t)) / 2 for t in levels]
        rows = []
        for i, (t, s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            # history is usable while lam is finite; across an infinite step nothing is known of the curve
            reach = min(order, i + 1)
            while reach > 1 and not (math.isfinite(half[i + 1]) and math.isfinite(half[i - reach + 1])):
                reach -= 1
            mix = _mix(half[i + 1], half[i::-1][:reach], 2.0 if sde else 1.0)
            rows.append(Row(level=t, start=t, stop=s, mix=mix, eta=1.0 if sde else 0.0))
        # extrapolating a noisy path gains weak order 2 at most
        return Plan(name=name, basis="x0", order=min(order, 2) if sde else order, rows=tuple(rows))

    return Draft(name, fill)


def _mix(stop: float, nodes: list[float], rate: float) -> tuple[float, ...]:
    """Weights of the evaluations at `nodes` (newest first) for the step from nodes[0] to stop; rate 1 ODE, 2 SDE."""
    if len(nodes) == 1:
        return (1.0,)
    h = stop - nodes[0]
    back = [(nodes[0] - u) / h for u in nodes]  # distances behind, in steps: 0, r, ...
    if len(nodes) == 2:
        half = 1 / (2 * back[1])
        return (1 + half, -half)
    # moments of the normalised weight exp(rate (u - stop)) over the step, for u = nodes[0] + x h
    k = rate * h
    total = -math.expm1(-k)
    first = (k - total) / k / total
    second = (1 - 2 * first * total / k) / total
    r1, r2 = back[1], back[2]
    # Lagrange polynomials through 0, -r1, -r2, integrated
    newest = ((r1 + r2) * first + second) / (r1 * r2) + 1
    middle = -(r2 * first + second) / (r1 * (r2 - r1))
    oldest = (r1 * first + second) / (r2 * (r2 - r1))
    return (newest, middle, oldest)
