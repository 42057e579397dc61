"""What rows that move categories have in common."""

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, StateRow, joined
from langevin.core.posterior import CategoricalPosterior
from langevin.core.process import LeafProcess
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named


class JumpRow(StateRow):
    """A row in which each position goes by itself, with probabilities that the belief gives."""

    @abstractmethod
    def probs(self, leaf: Categorical, z: Tensor, belief: CategoricalPosterior) -> Tensor:
        """Where each position of z (B, *shape) goes: (B, *shape, S) float64."""

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return with_padding(leaf, leaf.draw(self.probs(leaf, z, belief), noise, mask), z, mask)


def along_grid(name: str, row: Any, steps: int, grid: str | Grid) -> Draft:
    """A plan that has `row` in each step of a grid, in the basis "x0"."""
    check_steps(steps)
    levels_of = named(grid)

    def fill(schedule: Schedule) -> Plan:
        rows = tuple(replace(row, start=t, stop=s) for t, s in joined(levels_of(schedule, steps)))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)


def check_falls(row: StateRow) -> None:
    """Refuse a row that does not go down. Raises ValueError."""
    if not 0 <= row.stop < row.start <= 1:
        raise ValueError(f"a {type(row).__name__} row goes from {row.start:g} to {row.stop:g}; let levels fall within [0, 1].")


def check_categorical(leaf: Any, plan: str) -> None:
    """Refuse a process of numbers. Raises ValueError."""
    if leaf.kind != "categorical":
        raise ValueError(f"{plan} moves categories, and the process is {leaf.kind}; use a plan such as ddpm or dpmpp.")


def check_masking(leaf: Any, plan: str) -> None:
    """Refuse a process without a mask. Raises ValueError."""
    check_categorical(leaf, plan)
    if not leaf.masked:
        raise ValueError(f"{plan} reveals masks, and the process has none; use limit='mask', or a plan such as tau_leaping.")


def alpha_at(leaf: Categorical, t: float) -> float:
    """The keep-probability at a level."""
    return float(leaf.schedule.alpha(torch.tensor(t, dtype=torch.float64)))


def taken(plan: str, schedule: Schedule) -> float:
    """The share of tokens that noise has taken at level 1, 1 - alpha(1).

    Raises:
        ValueError: where it is 0, as under the schedule of a process of numbers whose signal stays while noise grows.
    """
    share = 1 - float(schedule.alpha(torch.ones((), dtype=torch.float64)))
    if not share > 0:
        said = f"{plan} moves categories, and under schedule {schedule.extra_repr()} alpha stays 1, so that none is ever noised"
        raise ValueError(f"{said}; use a plan such as ddpm or dpmpp.")
    return share


def where_blank(schedule: Schedule, blank: Tensor) -> Tensor:
    """The level at which a share `blank` of tokens is masked, 1 - alpha(t) = blank, by bisection; not below it."""
    low, high = torch.zeros_like(blank), torch.ones_like(blank)
    for _ in range(60):
        middle = (low + high) / 2
        below = 1 - schedule.alpha(middle) < blank
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high  # the upper end: evidence at alpha = 1 would rule out every token behind a mask


def probs_of_states(leaf: Categorical, belief: CategoricalPosterior) -> Tensor:
    """The belief over all states, (B, *shape, S) float64."""
    return torch.nn.functional.pad(belief.probs.double(), (0, leaf.states - leaf.categories))


def masks_of(leaf: Categorical, z: Tensor) -> Tensor:
    """(B, P) bool, the masks of z (B, *shape), its P positions in a row."""
    return (z == leaf.categories).reshape(len(z), -1)


def free_positions(leaf: LeafProcess, z: Tensor, mask: Tensor | None) -> Tensor:
    """(B, P) bool, the positions to be drawn: no padding, and of positions that the space ties together the first."""
    index = torch.arange(1, math.prod(z.shape[1:]) + 1, device=z.device).reshape(z.shape[1:]).expand(z.shape)
    return (leaf.space.project(index, mask) == index).reshape(len(z), -1)


def revealed(leaf: Categorical, z: Tensor, chosen: Tensor, token: Tensor, mask: Tensor | None) -> Tensor:
    """z with `token` at the `chosen` positions, both (B, P), and at those tied to them."""
    z_new = torch.where(chosen.reshape(z.shape), token.reshape(z.shape), z)
    return with_padding(leaf, leaf.space.project(z_new, mask), z, mask)


def with_padding(leaf: Categorical, moved: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
    """`moved` (B, *shape), with padding as it is in z."""
    real = leaf.space.real(z, mask)
    return moved if real is None else torch.where(real, moved, z)
