"""Plans: functions that fill sampler tables from a schedule and a grid. See `langevin.core.plan` for what a plan is."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

from langevin import spec
from langevin.core.plan import Draft, Plan, Row, StateRow
from langevin.files import read_plain
from langevin.plans import grids
from langevin.plans.analysis import after, compare, join, order
from langevin.plans.bayesian_flow import bayesian_flow
from langevin.plans.choice import Starts, Trial, candidates, default
from langevin.plans.control import controlled, tilted
from langevin.plans.corrections import Langevin
from langevin.plans.dpm_adaptive import AdaptiveDPM, dpm_adaptive
from langevin.plans.few_step import consistency, lcm, trajectory
from langevin.plans.first_order import ddim, ddpm, euler, euler_ancestral
from langevin.plans.grids import Grid
from langevin.plans.inverse import Restored, ddnm, ddrm, repaint
from langevin.plans.inversion import Ascent, ExactAscent, begin, inversion
from langevin.plans.jumps import flow_jumps
from langevin.plans.moves import Adaptive, FreshNoise, LearnedVariance, Renoise
from langevin.plans.multistep import (
    adams_bashforth,
    deis,
    dpm_solver_multistep,
    dpmpp,
    lms,
    multistep,
    sa_solver,
    trig,
    unipc,
)
from langevin.plans.optimal import optimal_levels
from langevin.plans.predictor_corrector import adaptive, annealed_langevin, predictor_corrector, splitting
from langevin.plans.profiles import diffusers, edm, k_diffusion, profile, sd3
from langevin.plans.pseudo import plms, pndm
from langevin.plans.rates import defog
from langevin.plans.runge_kutta import (
    dpm_2,
    dpm_solver,
    dpmpp_single,
    edm_stochastic,
    heun,
    heun3,
    midpoint,
    restart,
    rk4,
)
from langevin.plans.score_sde import score_sde
from langevin.plans.trig_sde import trig_sde
from langevin.plans.trying import auto, published
from langevin.plans.tuning import tune
from langevin.plans.unmasking import confidence, first_hitting, remask, tau_leaping

PLANS: dict[str, Callable[..., Draft]] = {
    f.__name__: f for f in (
        adams_bashforth, adaptive, annealed_langevin, bayesian_flow, confidence, consistency, controlled, ddim, ddnm, ddpm,
        ddrm, default, defog, deis, diffusers, dpm_2, dpm_adaptive, dpm_solver, dpm_solver_multistep, dpmpp, dpmpp_single,
        edm, edm_stochastic, euler, euler_ancestral, first_hitting, flow_jumps, heun, heun3, k_diffusion, lcm, lms, midpoint,
        multistep, plms, pndm, predictor_corrector, remask, repaint, restart, rk4, sa_solver, score_sde, sd3, splitting,
        tau_leaping, tilted, trajectory, trig, trig_sde, unipc,
    )
}  # fmt: skip

__all__ = [
    "PLANS",
    "Adaptive",
    "AdaptiveDPM",
    "Ascent",
    "Draft",
    "ExactAscent",
    "FreshNoise",
    "Grid",
    "Langevin",
    "LearnedVariance",
    "Plan",
    "Renoise",
    "Restored",
    "Row",
    "StateRow",
    "Starts",
    "Trial",
    "after",
    "auto",
    "begin",
    "candidates",
    "compare",
    "counted",
    "grids",
    "inversion",
    "join",
    "optimal_levels",
    "order",
    "parse",
    "placed",
    "profile",
    "published",
    "tried",
    "tune",
    *PLANS,
]  # pyright: ignore  # fmt: skip


def counted(text: str, steps: int) -> tuple[str, str | None]:
    """The word of a plan with its number of steps, `steps` where it says none; and the number it says itself, None for none.
    Plans that take as many as they need are left as they are."""
    if text.partition(":")[0] in ("adaptive", "dpm_adaptive"):
        return text, None
    return spec.completed(text, "steps", steps)


OPTIMAL = "grid=optimal"


def placed(text: str) -> bool:
    """Whether a plan's word leaves its levels to the model, as "dpmpp:10:grid=optimal" does."""
    return any(option == OPTIMAL for part in text.split(":")[1:] for option in part.split(","))


def tried(text: str) -> int | None:
    """How many evaluations a word asks of a plan that is found by trying, as "auto:10" does; None for other words.

    Raises:
        ValueError: for "auto" without a number.
    """
    name, _, steps = text.partition(":")
    if name != "auto":
        return None
    if not steps.isdecimal() or int(steps) < 1:
        raise ValueError(f"plan is {text!r}; say how many evaluations, as in 'auto:10'.")
    return int(steps)


def parse(text: str, optimal: Grid | None = None) -> Draft | Plan:
    """A plan from a word: "dpmpp:20", "ddim:50:eta=0.5,grid=karras", or the path of a saved plan (.json).

    Args:
        optimal: the grid that "grid=optimal" stands for, such as `optimal_levels` of a model makes.

    Raises:
        ValueError: naming the nearest plan or option; for grid=optimal where no grid is given for it, and for "auto:10".
    """
    if (steps := tried(text)) is not None:
        raise ValueError(f"plan is {text!r}, which is found by trying plans on a model, as lv.sample and langevin sample do; "
                         f"here give what plans.auto(denoiser, {steps}).plan finds.")  # fmt: skip
    if text.endswith(".json"):
        return Plan.from_json(read_plain(Path(text), 2**24).decode(errors="replace"))
    known, name = PLANS, text.partition(":")[0]
    if placed(text) and name in PLANS:
        if optimal is None:
            raise ValueError(f"plan is {text!r}, whose levels are placed on a model; use it with a run, or give the levels of "
                             "plans.optimal_levels as grids.given.")  # fmt: skip
        if "grid" not in inspect.signature(PLANS[name]).parameters:
            raise ValueError(f"plan is {text!r}, and {name} has no grid to place; leave it out.")
        kept = (",".join(option for option in part.split(",") if option != OPTIMAL) for part in text.split(":"))
        text, known = ":".join(part for part in kept if part), {**PLANS, name: partial(PLANS[name], grid=optimal)}
    return spec.parse(text, known, "plan", first="steps")
