"""Peers that step in sigma/alpha from sigma_max to sigma_min, and then to 0: k-diffusion and EDM."""

import dataclasses
import math
from typing import Any

import numpy as np

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps, euler_ancestral
from langevin.plans.grids import given
from langevin.plans.profiles.methods import (
    SIGMA,
    Builder,
    dpm_2_ancestral,
    dpm_fast,
    dpmpp_2m_sde,
    dpmpp_3m_sde,
    dpmpp_sde,
)
from langevin.plans.profiles.solvers import NAMED, chosen
from langevin.plans.profiles.tables import known, levels_of, ramp, written_out
from langevin.plans.runge_kutta import dpmpp_single, edm_stochastic

EDM = ("heun", "euler", "dpmpp_2m", "dpmpp_3m", "sde_dpmpp_2m")
NOISY = ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
CHURNED = ("euler", "heun", "dpm_2")


def k_diffusion(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    noise: float = 1.0,
    sigmas: str = "karras",
    eta: float = 1.0,
    solver_type: str = "midpoint",
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
) -> Draft:
    """k-diffusion's samplers on its grids, and 0 at the end; on any schedule, whose sigma/alpha is its sigma.

    Its "dpm_adaptive" is `plans.dpm_adaptive(together=True, denoise=False)`, at eta 0.

    Args:
        sampler: "euler", "heun", "dpm_2", "lms", "dpmpp_2m"; "dpmpp_2s" (`sample_dpmpp_2s_ancestral` at eta 0); "dpm_fast",
            `steps` evaluations in all, which ends at sigma_min; and with fresh noise "euler_ancestral", "dpm_2_ancestral",
            "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde" (which lacks a factor 2). Heun, DPM2, 2S and
            dpmpp_sde make 2 steps - 1 evaluations.
        sigmas: "karras", "exponential", "polyexponential" or "vp", which has `beta_d`, `beta_min` and `eps_s`.
        sigma_min, sigma_max: by default those of the schedule; "vp" has its own.
        rho: by default 7 for "karras", 1 for "polyexponential".
        churn, low, high: s_churn, s_tmin and s_tmax, of "euler", "heun" and "dpm_2". Noise is added only where the schedule has
            room above sigma_max.
        noise: s_noise, factor of all fresh noise.
        eta: share of the noise, of samplers with fresh noise. solver_type: "midpoint" or "heun", of "dpmpp_2m_sde".
    """
    check_steps(steps)
    table: dict[str, Builder] = {
        **SIGMA,
        "euler_ancestral": lambda n, grid: euler_ancestral(n, eta, grid),
        "dpm_2_ancestral": lambda n, grid: dpm_2_ancestral(n, grid, eta),
        "dpmpp_2s_ancestral": lambda n, grid: dpm_2_ancestral(n, grid, eta, "x0"),
        "dpmpp_2m": NAMED["dpmpp_2m"].draft,
        "dpmpp_2s": lambda n, grid: dpmpp_single(n, grid=grid),
        "dpmpp_sde": lambda n, grid: dpmpp_sde(n, grid, eta),
        "dpmpp_2m_sde": lambda n, grid: dpmpp_2m_sde(n, grid, eta, solver_type),
        "dpmpp_3m_sde": lambda n, grid: dpmpp_3m_sde(n, grid, eta),
        "dpm_fast": dpm_fast,
    }
    sampler = known(sampler, list(table), "sampler")
    known(sigmas, ["karras", "exponential", "polyexponential", "vp"], "sigmas")
    known(solver_type, ["midpoint", "heun"], "solver_type")
    if churn and sampler not in CHURNED:
        raise ValueError(f"churn is {churn:g} for sampler {sampler!r}; only {', '.join(map(repr, CHURNED))} have it here.")
    if not 0 <= eta <= 1 or (eta != 1 and sampler not in NOISY):
        raise ValueError(f"eta is {eta:g} for sampler {sampler!r}; it lies in [0, 1], and {', '.join(NOISY)} have it.")
    if solver_type != "midpoint" and sampler != "dpmpp_2m_sde":
        raise ValueError(f"solver_type is {solver_type!r} for sampler {sampler!r}; only 'dpmpp_2m_sde' has one, leave it out.")
    if sigmas == "vp" and (sigma_min or sigma_max):
        raise ValueError("sigmas is 'vp', whose ends beta_d, beta_min and eps_s say; leave sigma_min and sigma_max out.")
    if sampler == "dpm_fast" and sigmas != "karras":
        raise ValueError(f"sigmas is {sigmas!r} for sampler 'dpm_fast', which has equal steps of log sigma; leave it out.")
    build = (lambda n, grid: edm_stochastic(n, churn, low, high, noise, grid, sampler)) if churn else table[sampler]
    name = f"k_diffusion({steps}, {sampler})"

    def fill(schedule: Schedule) -> Plan:
        least, most = _ends(schedule, sigma_min, sigma_max)
        if sampler == "dpm_fast":
            ratios = ramp("exponential", most, least, steps // 3 + 2)
        elif sigmas == "vp":
            t = np.linspace(1.0, eps_s, steps)
            ratios = np.append(np.sqrt(np.expm1(beta_d * t**2 / 2 + beta_min * t)), 0.0)
        else:
            ratios = np.append(ramp(sigmas, most, least, steps, rho or (7.0 if sigmas == "karras" else 1.0)), 0.0)
        plan = build(steps, given(levels_of(schedule, ratios, name))).on(schedule)
        if noise != 1 and sampler in NOISY:
            plan = _louder(plan, schedule, noise)
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def _louder(plan: Plan, schedule: Schedule, factor: float) -> Plan:
    """The plan whose fresh noise has `factor` times its standard deviation."""
    rows = []
    for row, number in zip(plan.rows, Gaussian(schedule).numbers(plan), strict=True):
        if isinstance(row, Row) and number is not None and number.c:
            row = dataclasses.replace(written_out(row, number), c=factor * number.c)
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows))


def _ends(schedule: Schedule, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The lowest and the highest sigma/alpha, the schedule's own where none is said."""
    highest, lowest = (math.exp(-lam / 2) for lam in schedule.lam_range)
    return sigma_min or lowest, sigma_max or highest


def edm(
    steps: int = 18,
    sampler: str = "heun",
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    sigmas: str = "karras",
    final: str = "zero",
    reference: bool = True,
    **settings: Any,
) -> Draft:
    """EDM's sampler (2206.00364, alg. 1: "heun", 2 steps - 1 evaluations) and diffusers' for EDM: "euler", "dpmpp_2m",
    "sde_dpmpp_2m" and "dpmpp_3m", which lacks a factor 2. For `schedules.edm()`, or any whose sigma/alpha reaches sigma_max.

    Args:
        sigmas: "karras", which has `rho`, or "exponential".
        final: "zero", or "sigma_min", where the peer's last step is of size zero and left out here.
        reference: with the slips of the peer's methods, or without.
        settings: of the solver, as of `profiles.diffusers`: order, solver_type, lower_order_final, euler_at_final.
    """
    sampler = known(sampler, EDM, "sampler")
    check_steps(steps)
    known(sigmas, ["karras", "exponential"], "sigmas")
    to_zero = known(final, ["zero", "sigma_min"], "final") == "zero"
    solver = chosen(sampler, **settings)
    if steps == 1 and not to_zero:
        raise ValueError("final is 'sigma_min' with 1 step, which is of size zero; ask for at least 2.")
    name = f"edm({steps}, {sampler})"

    def fill(schedule: Schedule) -> Plan:
        ratios = ramp(sigmas, sigma_max, sigma_min, steps, rho)
        levels = levels_of(schedule, np.append(ratios, 0.0) if to_zero else ratios, name)
        grid, count = given(levels), len(levels) - 1
        if solver:
            draft = solver.draft(count, grid, steps, not to_zero, reference, to_zero)
        else:
            draft = SIGMA[sampler](count, grid)
        return dataclasses.replace(draft.on(schedule), name=name)

    return Draft(name, fill)
