"""diffusers' schedulers for flows."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps, ddim
from langevin.plans.grids import given, shift_level
from langevin.plans.moves import Renoise
from langevin.plans.profiles.solvers import NAMED, chosen
from langevin.plans.profiles.tables import Array, as_shown, below, known, ramp
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
    sigmas: str | None = None,
    stochastic: bool = False,
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
        sigmas: "karras", "exponential" or "beta" (needs scipy), a ramp in the level between the grid's ends, of "euler".
        stochastic: of "euler", leap to clean data, and with fresh noise back to the next level (`stochastic_sampling`).
    """
    check_steps(steps)
    known(sampler, ["euler", "heun"], "sampler")
    if sigmas is not None:
        known(sigmas, ["karras", "exponential", "beta"], "sigmas")
    if sampler == "heun" and (sigmas or stochastic):
        raise ValueError("sampler is 'heun', which has neither sigmas nor stochastic; leave them out, or choose 'euler'.")
    if not shift > 0:
        raise ValueError(f"shift is {shift}; it multiplies sigma/alpha, so give a number above 0.")
    name = f"sd3({steps}, shift={shift:g}{'' if reference else ', shifted once'}{', heun' if sampler == 'heun' else ''})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        low = (shift_level(1 / timesteps, shift) if reference else 1 / timesteps) if lowest is None else lowest
        levels = shift_level(np.linspace(1.0, low, steps), shift)
        if terminal is not None:
            levels = _stretched(levels, terminal)
        levels = levels if sigmas is None else ramp(sigmas, levels[0], levels[-1], steps)
        ends = below([*levels.tolist(), 0.0], start)
        count, grid = len(ends) - 1, given(ends)
        plan = (ddim(count, grid=grid) if sampler == "euler" else heun(count, grid, "velocity")).on(schedule)
        if stochastic:
            rows: list[Row | StateRow] = []
            for t, s in joined(ends):
                rows += [Row(level=t, start=t, stop=0.0), *([Renoise(start=0.0, stop=s)] if s > 0 else [])]
            plan = dataclasses.replace(plan, rows=tuple(rows))
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def flow_solver(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    shift: float = 3.0,
    reference: bool = True,
    timesteps: int = 1000,
    start: float = 1.0,
    end: float = 0.0,
    terminal: float | None = None,
    between: tuple[float, float] | None = None,
    **settings: Any,
) -> Draft:
    """diffusers' DPM-Solver++ and UniPC on flows (`use_flow_sigmas`: Sana, Wan), for `schedules.flow()`. The network is told
    whole thousandths, cut, beside exact levels; `reference=False` tells it the levels.

    Args:
        sampler: of `profiles.diffusers`, one of the solvers in log-SNR.
        shift, timesteps, start: as for `sd3`.
        end: the level to end at; 0 is clean data. UniPC with another ends where its grid does.
        terminal: of UniPC, the lowest level of the grid, to which it is stretched after its shift (`shift_terminal`).
        between: of UniPC, a grid of Karras's between these values of sigma/alpha (lowest, highest), and no shift.
        settings: of the solver, as of `profiles.diffusers`: order, solver_type, lower_order_final and so on.
    """
    check_steps(steps)
    known(sampler, [name for name, solver in NAMED.items() if solver.basis == "x0"], "sampler")
    solver = chosen(sampler, **settings)
    assert solver is not None
    if solver.basis != "x0":
        raise ValueError("algorithm is 'noise_prediction', which the peer has not for flows; leave it out.")
    unipc = solver.family == "unipc"
    if not unipc and (terminal is not None or between is not None):
        raise ValueError(f"sampler {sampler!r} has neither terminal nor between; leave them out, or choose 'unipc'.")
    repeated = unipc and end > 0
    if repeated and steps == 1:
        raise ValueError(f"{sampler!r} that ends above clean data is one step of size zero; ask for at least 2.")
    name = f"flow_solver({steps}, {sampler}, shift={shift:g})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        if between is not None:
            ratios = ramp("karras", between[1], between[0], steps)
            levels = ratios / (1 + ratios)
        elif unipc:
            levels = shift_level(np.linspace(1.0, 1 / timesteps, steps + 1)[:-1], shift)
            levels = levels if terminal is None else _stretched(levels, terminal)
            levels[0] = min(levels[0], 1 - 1e-6)
        else:
            levels = shift_level(1 - np.linspace(1.0, 1 / timesteps, steps + 1), shift)[::-1][:-1]
        levels = below([*levels.tolist(), *([] if repeated else [end])], start)
        plan = solver.draft(len(levels) - 1, given(levels), steps, repeated, reference, levels[-1] == 0).on(schedule)
        if reference:
            shown = {level: math.floor(level * timesteps + 1e-9) / timesteps for level in levels}
            plan = as_shown(plan, schedule, lambda level, anchored: shown[level])
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def _stretched(levels: Array, terminal: float) -> Array:
    """The levels, stretched so that the last is `terminal` (LTX)."""
    return 1 - (1 - levels) * (1 - terminal) / (1 - levels[-1])


def _unshifted(schedule: Schedule, name: str) -> None:
    if schedule.scale != "flow" or abs(float(schedule.sigma(torch.tensor(0.5, dtype=torch.float64))) - 0.5) > 1e-12:
        raise ValueError(f"{name} brings its own shift; use it with schedules.flow(), unshifted.")
