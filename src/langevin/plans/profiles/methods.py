"""Methods whose arithmetic is a peer's own, and all of a peer's methods by name."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import euler, euler_ancestral
from langevin.plans.grids import Grid
from langevin.plans.multistep import dpm_solver_multistep, dpmpp, lms, multistep, papers_second_order, rounded
from langevin.plans.runge_kutta import TABLEAUS, between, dpm_2, dpmpp_single, heun, stages, thirds

Builder: TypeAlias = Callable[[int, Grid], Draft]

UNIPC = {"unipc": (2, "bh2"), "unipc_3": (3, "bh2"), "unipc_bh1": (2, "bh1"), "unipc_3_bh1": (3, "bh1")}
"""Order and variant by name."""
FEW = 15
"""Below so many steps diffusers lowers the order of the last ones (`lower_order_final`)."""


def _plain(row: Any) -> Row:
    assert isinstance(row, Row)
    return row


def dpmpp_3m(steps: int, grid: Grid) -> Draft:
    """DPM-Solver++ 3M as diffusers has it: the second difference lacks its factor 2, so the order is below 3.

    Exact weights are `dpmpp(order=3)`. Below 15 steps the last step but one is of order 2.
    """
    draft = dpmpp(steps, 2, grid=grid)
    return Draft(f"dpmpp_3m({steps})", lambda schedule: _lacking(draft.on(schedule), schedule, steps - 1 - (steps < FEW), 1.0))


def dpmpp_3m_sde(steps: int, grid: Grid, eta: float) -> Draft:
    """k-diffusion's DPM-Solver++ 3M SDE, which lacks the same factor; its steps of order 2 are exact."""
    draft = multistep(steps, "x0", "lam", 2, tau=math.sqrt(eta), grid=grid)
    return Draft(f"dpmpp_3m_sde({steps})", lambda schedule: _lacking(draft.on(schedule), schedule, steps - 1, 1 + eta))


def _lacking(plan: Plan, schedule: Schedule, end: int, rate: float) -> Plan:
    """Rows 2 to `end` with three beliefs and half of their second difference; `rate` is 1, and 2 with all of the noise."""
    half = [float(v) / 2 for v in schedule.lam(torch.tensor(plan.levels, dtype=torch.float64))]
    rows = list(plan.rows)
    for i in range(2, end):
        h = half[i + 1] - half[i]
        near, far = (half[i] - half[i - 1]) / h, (half[i - 1] - half[i - 2]) / h
        h *= rate
        fall = math.expm1(-h)
        slope, bend = -(fall / h + 1) / fall, ((fall + h) / h**2 - 0.5) / fall
        # weights of the two neighbouring differences of beliefs
        p = (slope * (1 + near / (near + far)) + bend / (near + far)) / near
        q = -(slope * near + bend) / (near + far) / far
        rows[i] = dataclasses.replace(_plain(rows[i]), mix=(1 + p, q - p, -q))
    return dataclasses.replace(plan, rows=tuple(rows))


def dpmpp_2m_sde(steps: int, grid: Grid, eta: float, solver: str) -> Draft:
    """k-diffusion's DPM-Solver++ 2M SDE: the slope of beliefs at the middle of a step ("midpoint"), or over it ("heun"). Its
    eta is SA-Solver's tau^2."""
    exact = multistep(steps, "x0", "lam", 2, tau=math.sqrt(eta), grid=grid)
    name = f"dpmpp_2m_sde({steps}, {solver})"
    return exact if solver == "heun" else Draft(name, lambda schedule: papers_second_order(exact.on(schedule), schedule))


def dpmpp_2s(steps: int, grid: Grid) -> Draft:
    """DPM-Solver++ 2S as diffusers has it: `steps` evaluations, every other level of the grid the middle of a step."""

    def fill(schedule: Schedule) -> Plan:
        levels = grid(schedule, steps)
        half = [float(v) / 2 for v in schedule.lam(torch.tensor(levels, dtype=torch.float64))]
        rows = []
        for i in range(steps):
            t, s = levels[i], levels[i + 1]
            if i % 2 == 0 or i == steps - 1:
                rows.append(Row(level=t, start=t, stop=s))
                continue
            weight = (half[i + 1] - half[i - 1]) / (half[i] - half[i - 1]) / 2
            rows.append(Row(level=t, start=levels[i - 1], stop=s, mix=(weight, 1 - weight), anchored=True))
        return Plan(name=f"dpmpp_2s({steps})", basis="x0", order=2, rows=tuple(rows))

    return Draft(f"dpmpp_2s({steps})", fill)


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
        rows = tuple(dataclasses.replace(row, eta=eta if row.stop > 0 else 0.0) for row in map(_plain, plan.rows))
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


def dpmpp_to_sigma_min(steps: int, grid: Grid, sampler: str, repeated: bool) -> Draft:
    """DPM-Solver++ as diffusers has it where it ends above clean data: below 15 steps the last is of order 1, and of 3M the last
    but one of order 2. `repeated` where the peer's last step is of size zero and left out here."""
    base = dpmpp(steps, 2, sampler == "sde_dpmpp_2m", grid)
    few = steps + repeated < FEW

    def fill(schedule: Schedule) -> Plan:
        plan = base.on(schedule)
        if sampler == "dpmpp_3m":
            plan = _lacking(plan, schedule, steps - (2 - repeated) * few, 1.0)
        if few and not repeated:
            plan = dataclasses.replace(plan, rows=(*plan.rows[:-1], dataclasses.replace(_plain(plan.rows[-1]), mix=(1.0,))))
        return plan

    return Draft(f"{sampler}({steps}, to sigma_min)", fill)


def unipc_falling(steps: int, grid: Grid, sampler: str, closing: bool = False) -> Draft:
    """UniPC with diffusers' `lower_order_final`: orders fall to 3, 2, 1 towards the end, correctors with them. `sampler` of
    `UNIPC`; `closing` as of `sa_published`."""
    order, variant = UNIPC[sampler]
    exact = multistep(steps, "x0", "lam", order, True, 1 + closing, grid=grid, falling=True, closing=closing)
    return Draft(f"unipc({steps}, order={order})", lambda schedule: rounded(exact.on(schedule), schedule, variant))


def sa_published(
    steps: int, grid: Grid, tau_at: Callable[[float], float], orders: tuple[int, int], basis: str, closing: bool
) -> Draft:
    """SA-Solver as its authors' code and diffusers have it: orders of (predictor, corrector) that fall towards the end, and on
    data the rounded weights of two evaluations. `closing` where the last step is of size zero, whose evaluation corrects."""

    def fill(schedule: Schedule) -> Plan:
        predictor, corrector = orders
        plan = multistep(steps, basis, "lam", predictor, True, 1 + closing, tau=tau_at, grid=grid, falling=True,
                         corrector_order=corrector, closing=closing).on(schedule)  # fmt: skip
        return rounded(plan, schedule, "bh1", tau_at) if basis == "x0" else plan

    return Draft(f"sa_solver({steps}, orders={orders})", fill)


def deis_log(steps: int, grid: Grid) -> Draft:
    """DEIS in log rho, which is DPM-Solver on noise with exact integrals."""
    return dpm_solver_multistep(steps, 2, int(steps < FEW), grid)


SIGMA: dict[str, Builder] = {  # diffusers' schedulers that step in sigma/alpha
    "euler": lambda n, grid: euler(n, grid),
    "euler_ancestral": lambda n, grid: euler_ancestral(n, grid=grid),
    "heun": lambda n, grid: heun(n, grid, "eps"),
    "lms": lambda n, grid: lms(n, grid=grid),
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
}
SOLVER: dict[str, Builder] = {  # and those that step in log-SNR
    "dpmpp_2m": lambda n, grid: dpmpp(n, grid=grid),
    "dpmpp_3m": dpmpp_3m,
    "sde_dpmpp_2m": lambda n, grid: dpmpp(n, sde=True, grid=grid),
    "dpmpp_2s": dpmpp_2s,
    **{name: partial(unipc_falling, sampler=name) for name in UNIPC},
    "deis": deis_log,
}
EXACT: dict[str, Builder] = {**SIGMA, **SOLVER, "dpmpp_3m": lambda n, grid: dpmpp(n, 3, grid=grid)}
"""The same methods without a peer's slips."""
EDM: dict[str, Builder] = {name: {**SIGMA, **SOLVER}[name] for name in ("heun", "euler", "dpmpp_2m", "dpmpp_3m")}
