"""Peers that step in sigma/alpha from sigma_max to sigma_min, and then to 0: k-diffusion and EDM."""

import dataclasses
import math

import numpy as np

from langevin.core.plan import Draft, Plan
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import given
from langevin.plans.profiles.methods import EDM, K_DIFFUSION, Builder
from langevin.plans.profiles.tables import known, levels_of, ramp
from langevin.plans.runge_kutta import edm_stochastic


def k_diffusion(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    noise: float = 1.0,
) -> Draft:
    """k-diffusion's samplers on Karras sigmas, and 0 at the end; on any schedule, whose sigma/alpha is its sigma.

    Args:
        sampler: "euler", "euler_ancestral", "heun", "lms", "dpm_2", "dpmpp_2m", "dpmpp_2s" (`sample_dpmpp_2s_ancestral` at eta
            0). Heun, DPM2 and 2S make 2 steps - 1 evaluations.
        sigma_min, sigma_max: by default those of the schedule.
        churn, low, high, noise: s_churn, s_tmin, s_tmax and s_noise, of "heun". Noise is added only where the schedule has
            room above sigma_max.
    """
    sampler = known(sampler, list(K_DIFFUSION), "sampler")
    if churn and sampler != "heun":
        raise ValueError(f"churn is {churn:g} for sampler {sampler!r}; only 'heun' has it here.")
    build = (lambda n, grid: edm_stochastic(n, churn, low, high, noise, grid)) if churn else K_DIFFUSION[sampler]
    return _in_sigma(f"k_diffusion({steps}, {sampler})", steps, build, sigma_min, sigma_max, rho)


def edm(steps: int = 18, sampler: str = "heun", sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Draft:
    """EDM's sampler (2206.00364, alg. 1: "heun", 2 steps - 1 evaluations) and diffusers' for EDM: "euler", "dpmpp_2m", and
    "dpmpp_3m", which lacks a factor 2. For `schedules.edm()`.
    """
    sampler = known(sampler, list(EDM), "sampler")
    return _in_sigma(f"edm({steps}, {sampler})", steps, EDM[sampler], sigma_min, sigma_max, rho)


def _in_sigma(name: str, steps: int, build: Builder, sigma_min: float | None, sigma_max: float | None, rho: float) -> Draft:
    check_steps(steps)

    def fill(schedule: Schedule) -> Plan:
        high, low = (math.exp(-lam / 2) for lam in schedule.lam_range)
        ratios = ramp("karras", sigma_max or high, sigma_min or low, steps, rho)
        levels = levels_of(schedule, np.append(ratios, 0.0), name)
        return dataclasses.replace(build(steps, given(levels)).on(schedule), name=name)

    return Draft(name, fill)
