"""diffusers' schedulers for flows."""

import dataclasses
import math

import numpy as np
import torch

from langevin.core.plan import Draft, Plan
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps, ddim
from langevin.plans.grids import given, shift_level
from langevin.plans.profiles.methods import EXACT, SOLVER, UNIPC
from langevin.plans.profiles.tables import as_shown, below, known
from langevin.plans.runge_kutta import heun


def sd3(
    steps: int = 28,
    shift: float = 3.0,
    reference: bool = True,
    sampler: str = "euler",
    timesteps: int = 1000,
    lowest: float | None = None,
    terminal: float | None = None,
    start: float = 1.0,
) -> Draft:
    """Stable Diffusion 3's sampler (diffusers' FlowMatchEulerDiscrete, FlowMatchHeunDiscrete), for `schedules.flow()`.

    The shift is part of the plan, so the schedule has none.

    Args:
        shift: t -> shift t / (1 + (shift - 1) t).
        reference: as shipped, where the lowest t, 1/T, is shifted once when the scheduler is made and again with the rest of
            the grid (diffusers#13243): the last level is 0.0089 for shift 3. False shifts every level once: 0.0030.
        sampler: "euler", `steps` evaluations, or "heun", 2 steps - 1.
        timesteps: T.
        lowest: the lowest level before the shift, where that is not 1/T; FLUX has 1/steps.
        terminal: the lowest level after it, to which the grid is stretched (LTX).
        start: the level to begin at, for a picture that is noised to it: the levels below it follow.
    """
    check_steps(steps)
    known(sampler, ["euler", "heun"], "sampler")
    if not shift > 0:
        raise ValueError(f"shift is {shift}; it multiplies sigma/alpha, so give a number above 0.")
    name = f"sd3({steps}, shift={shift:g}{'' if reference else ', shifted once'}{', heun' if sampler == 'heun' else ''})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        low = (shift_level(1 / timesteps, shift) if reference else 1 / timesteps) if lowest is None else lowest
        levels = shift_level(np.linspace(1.0, low, steps), shift)
        if terminal is not None:
            levels = 1 - (1 - levels) * (1 - terminal) / (1 - levels[-1])
        ends = below([*levels.tolist(), 0.0], start)
        count, grid = len(ends) - 1, given(ends)
        plan = (ddim(count, grid=grid) if sampler == "euler" else heun(count, grid, "velocity")).on(schedule)
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def flow_solver(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    shift: float = 3.0,
    reference: bool = True,
    timesteps: int = 1000,
    start: float = 1.0,
) -> Draft:
    """diffusers' DPM-Solver++ and UniPC on flows (`use_flow_sigmas`: Sana, Wan), for `schedules.flow()`. The network is told
    whole thousandths, cut, beside exact levels; `reference=False` tells it the levels.

    Args:
        sampler: "dpmpp_2m", "dpmpp_3m", "unipc", "unipc_3" or "unipc_bh1", "unipc_3_bh1".
        shift, timesteps, start: as for `sd3`.
    """
    check_steps(steps)
    solvers = [s for s in SOLVER if s in ("dpmpp_2m", "dpmpp_3m") or s in UNIPC]
    known(sampler, solvers, "sampler")
    name = f"flow_solver({steps}, {sampler}, shift={shift:g})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        if sampler in UNIPC:
            levels = shift_level(np.linspace(1.0, 1 / timesteps, steps + 1)[:-1], shift)
            levels[0] = min(levels[0], 1 - 1e-6)
        else:
            levels = shift_level(1 - np.linspace(1.0, 1 / timesteps, steps + 1), shift)[::-1][:-1]
        levels = below([*levels.tolist(), 0.0], start)
        plan = (SOLVER if reference else EXACT)[sampler](len(levels) - 1, given(levels)).on(schedule)
        if reference:
            shown = {level: math.floor(level * timesteps + 1e-9) / timesteps for level in levels}
            plan = as_shown(plan, schedule, lambda level, anchored: shown[level])
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def _unshifted(schedule: Schedule, name: str) -> None:
    if schedule.scale != "flow" or abs(float(schedule.sigma(torch.tensor(0.5, dtype=torch.float64))) - 0.5) > 1e-12:
        raise ValueError(f"{name} brings its own shift; use it with schedules.flow(), unshifted.")
