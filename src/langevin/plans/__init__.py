"""Plans: functions that fill sampler tables from a schedule and a grid. See `langevin.core.plan` for what a plan is."""

from collections.abc import Callable
from pathlib import Path

from langevin import spec
from langevin.core.plan import Draft, Plan, Row
from langevin.plans import grids
from langevin.plans.first_order import ddim, ddpm, euler, euler_ancestral
from langevin.plans.grids import Grid
from langevin.plans.multistep import dpmpp
from langevin.plans.runge_kutta import heun

PLANS: dict[str, Callable[..., Draft]] = {
    "ddim": ddim, "ddpm": ddpm, "dpmpp": dpmpp, "euler": euler, "euler_ancestral": euler_ancestral, "heun": heun,
}  # fmt: skip

__all__ = [
    "PLANS",
    "Draft",
    "Grid",
    "Plan",
    "Row",
    "ddim",
    "ddpm",
    "dpmpp",
    "euler",
    "euler_ancestral",
    "grids",
    "heun",
    "parse",
]  # fmt: skip


def parse(text: str) -> Draft | Plan:
    """A plan from a word: "dpmpp:20", "ddim:50:eta=0.5,grid=karras", or the path of a saved plan (.json).

    Raises:
        ValueError: naming the nearest plan or option.
    """
    if text.endswith(".json"):
        return Plan.from_json(Path(text).read_text())
    return spec.parse(text, PLANS, "plan", first="steps")
