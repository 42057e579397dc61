"""diffusers' schedulers for tables of betas."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from langevin.core.plan import Draft, Plan
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import given
from langevin.plans.profiles.indexed import by_index, cogvideox
from langevin.plans.profiles.methods import SIGMA, sa_published
from langevin.plans.profiles.solvers import BASES, NAMED, chosen
from langevin.plans.profiles.tables import as_told, known, levels_of, sigma_grid, solver_grid, spaced, table_of, timestep

INDEXED = ("ddim", "ddpm", "pndm", "cogvideox_dpm")
SPACED = ("linspace", "leading", "trailing")


def diffusers(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    sigmas: str | None = None,
    timesteps: int = 1000,
    offset: int = 1,
    set_alpha_to_one: bool = False,
    eta: float = 0.0,
    final: str = "zero",
    start: float = 1.0,
    reference: bool = True,
    prk: bool = False,
    tau: float | Callable[[float], float] = 1.0,
    low: int = 200,
    high: int = 800,
    predictor_order: int = 2,
    corrector_order: int = 2,
    algorithm: str | None = None,
    order: int | None = None,
    solver_type: str | None = None,
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    disable_corrector: str | Sequence[int] = (),
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    lambda_min: float = -math.inf,
) -> Draft:
    """diffusers' schedulers for variance-preserving tables (`schedules.betas`), faults included:

    - The network is told integer timesteps beside exact sigmas: rounded for "karras" and "lu", cut for "exponential" (the first
      to T - 2 on Stable Diffusion's table, as here, and by luck of float32 to T - 1 on DDPM's).
    - "linspace" leaves timestep 0 out for the solvers in log-SNR, which leap to clean data from far above it.
    - DDIM and PNDM step down by T // n whatever the network is told: where n does not divide T, "trailing" drifts from it.
    - DEIS on ramps ("karras" and so on) repeats its last sigma, and so do the others with `final` "sigma_min" where their grid
      ends there, and DDIM and PNDM at timestep 0 without set_alpha_to_one. That evaluation does nothing, and is left out here;
      SA-Solver's and UniPC's correct the step before.
    - DPM-Solver of order 3, multistep, lacks a factor 2, and with noise ("sde_dpmpp_2m", "sde_dpmpp_2s" with slopes "heun") has a
      sign wrong beside.
    - Below 15 steps the last are of lower order, UniPC's and SA-Solver's always (`lower_order_final`). A step to clean data is of
      order 1, whatever is asked: the peer's UniPC gives NaN there without `lower_order_final`, on noise, and as bh1.

    Not reproduced: PNDM begun late, for a picture, whose second evaluation the peer takes for one of a level higher, and PNDM of
    v predictions, which the peer mixes as they are; the step more than asked, at timestep -1, which "trailing" makes at n = 61,
    103 and others; DPM-Solver++ on cosine tables, which cuts timesteps where this rounds; crashes.

    Args:
        steps: evaluations (Heun and DPM2 make 2 steps - 1, PNDM steps + 1, or steps + 9 with `prk`).
        sampler: "ddim", "ddpm", "pndm"; "euler",
            "euler_ancestral", "heun", "lms", "dpm_2", "dpm_2_ancestral"; "dpmpp_2m", "dpmpp_3m", "sde_dpmpp_2m", "dpmpp_2s",
            "sde_dpmpp_2s", "cogvideox_dpm" (CogVideoX's own "sde_dpmpp_2m", from timestep to timestep), "unipc", "unipc_3"
            (bh2, of order 2 and 3), "unipc_bh1", "unipc_3_bh1", "deis", "sa_solver".
        sigmas: "linspace", "leading", "trailing", "karras", "exponential", "beta" (needs scipy), or "lu"
            (multistep DPM-Solver++ alone); by default
            the scheduler's own, "leading" for the first three and "cogvideox_dpm", "linspace" for the rest.
        timesteps: T.
        offset: `steps_offset` of "leading"; Stable Diffusion has 1.
        set_alpha_to_one: whether "ddim", "pndm" and "cogvideox_dpm" end at clean data, or at timestep 0 (Stable Diffusion).
        eta: of "ddim".
        final: where the solvers and Euler end, at "zero", or at "sigma_min", the table's lowest level.
        start: the level to begin at, for a picture that is noised to it: the peer's own levels below it follow.
        reference: with the slips of the peer's methods ("dpmpp_3m"), or without.
        prk: of "pndm", whether three Runge-Kutta steps begin (`skip_prk_steps` false; Stable Diffusion skips them). The
            peer tells the network a middle one timestep beside the state's where T // n is odd, and fails below 4 steps.
        tau, low, high: of "sa_solver", how stochastic it is between the timesteps low and high (`tau_func`), or a function of the
            timestep. predictor_order, corrector_order: its orders, 1 to 4.
        algorithm: "data_prediction" or "noise_prediction", what the solvers extrapolate. order: `solver_order`. solver_type:
            "midpoint" or "heun", the slope of DPM-Solver's second order, or UniPC's "bh1" or "bh2". lower_order_final,
            euler_at_final, disable_corrector: as there. By default all are what the sampler's name says; see `solvers.Solver`.
        sigma_min, sigma_max: ends of "karras", "exponential" and "beta" where they are not the table's, in sigma/alpha.
        lambda_min: least log(alpha/sigma) at the timesteps of the solvers (`lambda_min_clipped`).
    """
    check_steps(steps)
    sampler = known(sampler, [*INDEXED, *SIGMA, *NAMED, "sa_solver"], "sampler")
    solver = chosen(
        sampler, algorithm=algorithm, order=order, solver_type=solver_type, lower_order_final=lower_order_final,
        euler_at_final=euler_at_final, disable_corrector=disable_corrector,
    )  # fmt: skip
    legal = SPACED[:1] if solver and solver.family == "singlestep" else SPACED
    legal = legal if sampler in INDEXED else [*legal, "karras", "exponential", "beta"]
    legal = [*legal, "lu"] if solver and solver.family == "multistep" else legal
    kind = known(sigmas or ("leading" if sampler in INDEXED else "linspace"), legal, "sigmas")
    if (eta and sampler != "ddim") or (set_alpha_to_one and sampler not in ("ddim", "pndm", "cogvideox_dpm")):
        raise ValueError(f"sampler {sampler!r} has neither eta nor set_alpha_to_one; leave them out, or choose 'ddim'.")
    if prk and sampler != "pndm":
        raise ValueError(f"prk is true for sampler {sampler!r}; only 'pndm' has a Runge-Kutta start, leave it out.")
    if (sigma_min or sigma_max) and kind in (*SPACED, "lu"):
        raise ValueError(f"sigmas is {kind!r}, which ends where the table does; leave sigma_min and sigma_max out.")
    name = f"diffusers({steps}, {sampler}{', prk' if prk else ''}, {kind})"

    basis = BASES[algorithm or "data_prediction"]
    tau_of = tau if callable(tau) else lambda i: tau if low <= i <= high else 0.0

    def fill(schedule: Schedule) -> Plan:
        if schedule.scale != "vp":
            raise ValueError(f"{name} needs a variance-preserving table, such as schedules.betas(); for flows there is sd3.")
        if sampler in INDEXED:
            told = spaced(kind, steps, timesteps, offset).round().astype(int).tolist()
            if start < 1:
                begin = max(round(start * timesteps) - 1, 0)
                told = [begin, *(i for i in told if i < begin)]
            last = 0.0 if set_alpha_to_one or sampler == "ddpm" else 1 / timesteps
            stride, eta_of = 0 if start < 1 else timesteps // steps, 1.0 if sampler == "ddpm" else eta
            if sampler == "cogvideox_dpm":
                return dataclasses.replace(cogvideox(schedule, name, told, stride, timesteps, last), name=name)
            return by_index(schedule, name, sampler, told, stride, timesteps, last, eta_of, prk)
        table = table_of(schedule, timesteps)
        ends = sigma_min, sigma_max
        if sampler in SIGMA:
            told, ratios = sigma_grid(kind, steps, table, offset, ends)
        else:
            told, ratios = solver_grid(kind, steps, table, offset, ends, lambda_min)
        if sampler.startswith("dpm_2") and kind == "karras":
            told = told.round()
        to_zero = final == "zero" and sampler not in ("deis", "sa_solver")
        lowest = ratios[-1] if sigma_min and sampler != "euler" else table[0]
        repeated = not to_zero and bool(ratios[-1] <= lowest * (1 + 1e-9))  # a last step of size zero, left out
        if repeated and steps == 1:
            raise ValueError(f"{name} is one step of size zero; ask for at least 2.")
        if not repeated:
            ratios = np.append(ratios, 0.0 if to_zero else lowest)
        levels, whole = levels_of(schedule, ratios, name), len(told)
        if start < 1:
            below = [(level, t) for level, t in zip(levels, told, strict=False) if level < start - 1e-9]
            first = float(timestep(math.exp(-float(schedule.lam(start)) / 2), table))
            first = next((t for level, t in zip(levels, told, strict=False) if abs(level - start) < 1e-9), first)
            levels, told = [start, *(b[0] for b in below), levels[-1]], np.array([first, *(b[1] for b in below)])
        shown = {level: float(t) for level, t in zip(levels, told, strict=False)}
        grid, count = given(levels), len(levels) - 1
        if solver:
            draft = solver.draft(count, grid, whole, repeated, reference, to_zero)
        elif sampler in SIGMA:
            draft = SIGMA[sampler](count, grid)
        else:
            orders = predictor_order, corrector_order
            draft = sa_published(
                count, grid, lambda level: tau_of(shown[level]), orders, basis, repeated, lower_order_final is not False
            )
        plan = draft.on(schedule)
        return dataclasses.replace(as_told(plan, schedule, shown, table, sampler.startswith("dpm_2")), name=name)

    return Draft(name, fill)
