"""A peer's grids: the values of sigma/alpha that it steps with, and the timesteps that its network is told beside them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from langevin import spec
from langevin.core.gaussian import Gaussian, Numbers
from langevin.core.plan import Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.grids import beta_shares

Array: TypeAlias = np.ndarray[Any, Any]
Ends: TypeAlias = tuple[float | None, float | None]

LARGEST = math.sqrt(2**24 - 1)
"""diffusers' sigma/alpha where alpha is 0 (`rescale_betas_zero_snr`)."""


def below(levels: list[float], start: float) -> list[float]:
    """The levels from `start` down."""
    return levels if start >= 1 else [start, *(t for t in levels if t < start - 1e-9)]


def known(value: str, names: Sequence[str], what: str) -> str:
    """One of some names. Raises ValueError for another, with the nearest."""
    if value not in names:
        near = spec.nearest(value, list(names))
        raise ValueError(f"{what} is {value!r}; did you mean {near!r}? There are {', '.join(names)}.")
    return value


def table_of(schedule: Schedule, timesteps: int) -> Array:
    """sigma/alpha at the published timesteps 0 .. T - 1."""
    lam = schedule.lam(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps)
    return np.minimum((-lam / 2).exp().numpy(), LARGEST)


def spaced(kind: str, steps: int, size: int, offset: int, extra: int = 0, below: int | None = None) -> Array:
    """Timesteps from the noisiest down; `extra` more are laid out at the low end and left out. `below` where the first is below
    this timestep, and not below T (`lambda_min_clipped`)."""
    top = size if below is None else below
    if kind == "linspace":
        return np.linspace(0, top - 1, steps + extra)[::-1][:steps]
    if kind == "trailing":
        return np.arange(top, 0, -size / steps).round()[:steps] - 1
    out = np.arange(steps + extra)[::-1][:steps] * (top // (steps + extra)) + float(offset)
    if out[0] >= size:
        raise ValueError(f"{steps} steps with offset {offset} begin at timestep {out[0]:g} of {size}, where the peer fails.")
    return out


def ramp(kind: str, high: float, low: float, steps: int, rho: float = 7.0) -> Array:
    """`steps` values of sigma/alpha from `high` down to `low`; "exponential" for every other name."""
    if kind == "karras":
        return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho
    if kind == "beta":
        return low + beta_shares(steps) * (high - low)
    if kind == "polyexponential":
        return low * np.exp(np.linspace(1.0, 0.0, steps) ** rho * math.log(high / low))
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def timestep(ratio: Any, table: Array) -> Any:
    """Where sigma/alpha lies among the published timesteps, log-linear between them."""
    return np.interp(np.log(ratio), np.log(table), np.arange(len(table)))


def sigma_grid(kind: str, steps: int, table: Array, offset: int, ends: Ends = (None, None)) -> tuple[Array, Array]:
    """(told, sigma/alpha) of the schedulers that step in sigma/alpha: timesteps are fractional, and none is left out.

    Args:
        ends: the lowest and the highest sigma/alpha of ramps, where these are not the table's.
    """
    told = spaced(kind if kind in ("leading", "trailing") else "linspace", steps, len(table), offset)
    ratios = np.interp(told, np.arange(len(table)), table)
    if kind in ("karras", "exponential", "beta"):
        ratios = ramp(kind, ends[1] or ratios[0], ends[0] or ratios[-1], steps)
        told = timestep(ratios, table)
    return told, ratios


def solver_grid(
    kind: str, steps: int, table: Array, offset: int, ends: Ends = (None, None), least: float = -math.inf
) -> tuple[Array, Array]:
    """(told, sigma/alpha) of DPM-Solver, UniPC and DEIS: integer timesteps.

    Args:
        ends: as of `sigma_grid`.
        least: of log(alpha/sigma), below which no timestep lies; ramps have them all.
    """
    if kind in ("linspace", "leading", "trailing"):
        told = spaced(kind, steps, len(table), offset, 1, int((-np.log(table) >= least).sum())).round()
        return told, table[told.astype(int)]
    ratios = ramp(kind, ends[1] or table[-1], ends[0] or table[0], steps)
    told = timestep(ratios, table)
    # the peer computes the first timestep as T - 1 less a rounding of float32, and cuts
    return np.floor(told - 1e-6).clip(min=0) if kind in ("exponential", "beta") else told.round(), ratios


def levels_of(schedule: Schedule, ratios: Array, name: str) -> list[float]:
    """The levels with these values of sigma/alpha."""
    wanted = torch.from_numpy(-2 * np.log(ratios[ratios > 0]))
    if bool((wanted < schedule.lam(1.0) - 1e-9).any()):
        top = math.exp(-float(schedule.lam(1.0)) / 2)
        raise ValueError(f"{name} begins at sigma/alpha {ratios[0]:g}, above the schedule's {top:g}; lower sigma_max.")
    levels = [1.0 if t > 1 - 1e-9 else t for t in schedule.invert(wanted).tolist()]
    return [*levels, *([0.0] if ratios[-1] == 0 else [])]


def as_told(plan: Plan, schedule: Schedule, shown: dict[float, float], table: Array, middles: bool = False) -> Plan:
    """The plan whose network is told timesteps, `shown` by level and by interpolation elsewhere.

    Args:
        middles: rows from the anchor are asked in the middle of a step, which may be at a level of the grid.
    """

    def level(at: float, anchored: bool) -> float:
        told = None if middles and anchored else shown.get(at)
        if told is None:
            told = float(timestep(math.exp(-float(schedule.lam(at)) / 2), table))
        return (told + 1) / len(table)

    return as_shown(plan, schedule, level)


def written_out(row: Row, number: Numbers) -> Row:
    """A row that says its numbers itself, which the process would supply otherwise."""
    return dataclasses.replace(row, eta=0.0, a=number.a, mix=number.w, c=number.c)


def as_shown(plan: Plan, schedule: Schedule, level: Callable[[float, bool], float]) -> Plan:
    """A row that is told another level than the state's, `level(state's, from the anchor)`, has its numbers written out."""
    rows = []
    for row, number in zip(plan.rows, Gaussian(schedule).numbers(plan), strict=True):
        if isinstance(row, Row) and number is not None and row.level is not None:
            told = level(row.level, row.anchored)
            if abs(told - row.level) > 1e-9:
                row = dataclasses.replace(written_out(row, number), shown=told)
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows))
