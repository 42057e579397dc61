"""Methods whose arithmetic is a peer's own, and all of a peer's methods by name."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import euler, euler_ancestral
from langevin.plans.grids import Grid
from langevin.plans.multistep import dpm_solver_multistep, dpmpp, lms, multistep, rounded
from langevin.plans.runge_kutta import dpm_2, dpmpp_single, heun

Builder: TypeAlias = Callable[[int, Grid], Draft]

FEW = 15
"""Below so many steps diffusers lowers the order of the last ones (`lower_order_final`)."""


def _plain(row: Any) -> Row:
    assert isinstance(row, Row)
    return row


def dpmpp_3m(steps: int, grid: Grid) -> Draft:
    """DPM-Solver++ 3M as diffusers has it: the second difference lacks its factor 2, so the order is below 3.

    Exact weights are `dpmpp(order=3)`. Below 15 steps the last step but one is of order 2.
    """

    def fill(schedule: Schedule) -> Plan:
        plan = dpmpp(steps, 2, grid=grid).on(schedule)
        half = [float(v) / 2 for v in schedule.lam(torch.tensor(plan.levels, dtype=torch.float64))]
        rows = list(plan.rows)
        for i in range(2, steps - 1 - (steps < FEW)):
            h = half[i + 1] - half[i]
            near, far = (half[i] - half[i - 1]) / h, (half[i - 1] - half[i - 2]) / h
            fall = math.expm1(-h)
            slope, bend = -(fall / h + 1) / fall, ((fall + h) / h**2 - 0.5) / fall
            # weights of the two neighbouring differences of beliefs
            p = (slope * (1 + near / (near + far)) + bend / (near + far)) / near
            q = -(slope * near + bend) / (near + far) / far
            rows[i] = dataclasses.replace(_plain(rows[i]), mix=(1 + p, q - p, -q))
        return dataclasses.replace(plan, rows=tuple(rows))

    return Draft(f"dpmpp_3m({steps})", fill)


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


def dpm_2_ancestral(steps: int, grid: Grid) -> Draft:
    """DPM2 to the lower level of the ancestral step, and noise back up (k-diffusion's `sample_dpm_2_ancestral`)."""

    def fill(schedule: Schedule) -> Plan:
        rows, process = [], Gaussian(schedule)
        for t, s in joined(grid(schedule, steps)):
            if s == 0:
                rows.append(Row(level=t, start=t, stop=s))
                continue
            alpha, sigma = (float(v) for v in schedule(s))
            noise = process.bridge_numbers(t, s)[2]
            half = [math.exp(-float(schedule.lam(t)) / 2), math.sqrt(sigma**2 - noise**2) / alpha]
            middle = float(schedule.invert(-math.log(half[0] * half[1])))
            rows.append(Row(level=t, start=t, stop=middle))
            rows.append(Row(level=middle, start=t, stop=s, anchored=True, eta=1.0))
        return Plan(name=f"dpm_2_ancestral({steps})", basis="eps", order=1, rows=tuple(rows))

    return Draft(f"dpm_2_ancestral({steps})", fill)


def unipc_falling(steps: int, grid: Grid, order: int, variant: str = "bh2") -> Draft:
    """UniPC with diffusers' `lower_order_final`: orders fall to 3, 2, 1 towards the end, correctors with them."""
    exact = multistep(steps, "x0", "lam", order, True, 1, grid=grid, falling=True)
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


SIGMA: dict[str, Builder] = {  # diffusers' schedulers that step in sigma/alpha; k-diffusion has the same
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
    "unipc": lambda n, grid: unipc_falling(n, grid, 2),
    "unipc_3": lambda n, grid: unipc_falling(n, grid, 3),
    "unipc_bh1": lambda n, grid: unipc_falling(n, grid, 2, "bh1"),
    "unipc_3_bh1": lambda n, grid: unipc_falling(n, grid, 3, "bh1"),
    "deis": deis_log,
}
EXACT: dict[str, Builder] = {**SIGMA, **SOLVER, "dpmpp_3m": lambda n, grid: dpmpp(n, 3, grid=grid)}
"""The same methods without a peer's slips."""
K_DIFFUSION: dict[str, Builder] = {
    **SIGMA,
    "dpmpp_2m": SOLVER["dpmpp_2m"],
    "dpmpp_2s": lambda n, grid: dpmpp_single(n, grid=grid),
}
EDM: dict[str, Builder] = {name: {**SIGMA, **SOLVER}[name] for name in ("heun", "euler", "dpmpp_2m", "dpmpp_3m")}
