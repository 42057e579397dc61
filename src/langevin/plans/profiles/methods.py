"""Methods whose arithmetic is a peer's own, and all of a peer's methods by name."""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import euler, euler_ancestral
from langevin.plans.grids import Grid
from langevin.plans.multistep import lms, multistep, papers_second_order, rounded
from langevin.plans.profiles.solvers import falling, lacking, plain
from langevin.plans.runge_kutta import TABLEAUS, between, dpm_2, dpmpp_single, heun, stages, thirds

Builder: TypeAlias = Callable[[int, Grid], Draft]


def dpmpp_3m_sde(steps: int, grid: Grid, eta: float) -> Draft:
    """k-diffusion's DPM-Solver++ 3M SDE, which lacks a factor 2; its steps of order 2 are exact."""
    draft = multistep(steps, "x0", "lam", 3, tau=math.sqrt(eta), grid=grid)
    return Draft(f"dpmpp_3m_sde({steps})", lambda schedule: lacking(draft.on(schedule), schedule, 1 + eta))


def dpmpp_2m_sde(steps: int, grid: Grid, eta: float, solver: str) -> Draft:
    """k-diffusion's DPM-Solver++ 2M SDE: the slope of beliefs at the middle of a step ("midpoint"), or over it ("heun"). Its
    eta is SA-Solver's tau^2."""
    exact = multistep(steps, "x0", "lam", 2, tau=math.sqrt(eta), grid=grid)
    name = f"dpmpp_2m_sde({steps}, {solver})"
    return exact if solver == "heun" else Draft(name, lambda schedule: papers_second_order(exact.on(schedule), schedule))


def dpm_2_ancestral(steps: int, grid: Grid, eta: float = 1.0, basis: str = "eps") -> Draft:
    """DPM2 to the lower level of the ancestral step, and noise back up (k-diffusion's `sample_dpm_2_ancestral`); in the basis x0
    `sample_dpmpp_2s_ancestral`."""
    name = f"dpm_2_ancestral({steps}, eta={eta:g}{', x0' if basis == 'x0' else ''})"

    def fill(schedule: Schedule) -> Plan:
        rows, process = [], Gaussian(schedule)
        for t, s in joined(grid(schedule, steps)):
            if s == 0:
                rows.append(Row(level=t, start=t, stop=s))
                continue
            alpha, sigma = (float(v) for v in schedule(s))
            noise = process.bridge_numbers(t, s, eta)[2]
            half = [math.exp(-float(schedule.lam(t)) / 2), math.sqrt(sigma**2 - noise**2) / alpha]
            middle = float(schedule.invert(-math.log(half[0] * half[1])))
            rows.append(Row(level=t, start=t, stop=middle))
            rows.append(Row(level=middle, start=t, stop=s, anchored=True, eta=eta))
        return Plan(name=name, basis=basis, order=1, rows=tuple(rows))

    return Draft(name, fill)


def dpmpp_sde(steps: int, grid: Grid, eta: float) -> Draft:
    """k-diffusion's `sample_dpmpp_sde`: an ancestral step to the middle, and from the anchor one by the belief there.

    Both have one draw of noise; k-diffusion's, from a Brownian tree in sigma, are those of two parts of one path.
    """
    single = dpmpp_single(steps, grid=grid)

    def fill(schedule: Schedule) -> Plan:
        plan = single.on(schedule)
        rows = tuple(dataclasses.replace(row, eta=eta if row.stop > 0 else 0.0) for row in map(plain, plan.rows))
        return dataclasses.replace(plan, order=1 if eta else 2, rows=rows)

    return Draft(f"dpmpp_sde({steps})", fill)


def dpm_fast(evaluations: int, grid: Grid) -> Draft:
    """k-diffusion's `sample_dpm_fast` (DPM-Solver-fast, 2206.00927, sec. 3.4): steps of order 3, and the last of lower order, so
    that there are so many `evaluations`. It ends at the grid's lowest level above 0."""
    last = [2, 1] if evaluations % 3 == 0 else [evaluations % 3]
    orders = [3] * (evaluations // 3 + 1 - len(last)) + last

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row] = []
        for order, (t, s) in zip(orders, joined(grid(schedule, len(orders))), strict=True):
            h = float(schedule.lam(s) - schedule.lam(t)) / 2
            tableau = {1: [(1.0, (1.0,))], 2: TABLEAUS["midpoint"][1], 3: thirds(h, "eps")}[order]
            rows += stages(t, s, tableau, between(schedule, t, s, "lam"))
        return Plan(name=f"dpm_fast({evaluations})", basis="eps", order=1, rows=tuple(rows))

    return Draft(f"dpm_fast({evaluations})", fill)


def sa_published(
    steps: int, grid: Grid, tau_at: Callable[[float], float], orders: tuple[int, int], basis: str, closing: bool, lower: bool
) -> Draft:
    """SA-Solver as its authors' code and diffusers have it: orders of (predictor, corrector) that fall towards the end where
    `lower`, and on data the rounded weights of two evaluations. `closing` where the last step is of size zero, whose evaluation
    corrects."""

    def fill(schedule: Schedule) -> Plan:
        predictor, corrector = orders
        plan = multistep(
            steps, basis, "lam", predictor, True, tau=tau_at, grid=grid, corrector_order=corrector, closing=closing,
            limit=falling(steps + closing) if lower else None,
        ).on(schedule)  # fmt: skip
        return rounded(plan, schedule, "bh1", tau_at) if basis == "x0" else plan

    return Draft(f"sa_solver({steps}, orders={orders})", fill)


SIGMA: dict[str, Builder] = {  # diffusers' schedulers that step in sigma/alpha
    "euler": lambda n, grid: euler(n, grid),
    "euler_ancestral": lambda n, grid: euler_ancestral(n, grid=grid),
    "heun": lambda n, grid: heun(n, grid, "eps"),
    "lms": lambda n, grid: lms(n, grid=grid),
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
}
