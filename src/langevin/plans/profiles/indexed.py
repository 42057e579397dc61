"""Methods of diffusers that step from timestep to timestep: DDIM, DDPM and PNDM, and CogVideoX's DPM-Solver++ with noise."""

import dataclasses
from typing import TypeAlias

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.grids import given
from langevin.plans.multistep import multistep, papers_second_order
from langevin.plans.pseudo import RUNGE_KUTTA, adams_mix
from langevin.plans.runge_kutta import TABLEAUS

Move: TypeAlias = tuple[int, int, int, tuple[float, ...], bool]
"""The timestep told, from, to, weights of the evaluations newest first, and whether from the anchor."""


def _pndm(told: list[int], stride: int, prk: bool) -> list[Move]:
    """PNDM's moves; `stride` is 0 where the timesteps are not the peer's own, and each step goes to the next that is told."""
    moves: list[Move] = []
    kept: list[int] = []
    begun = min(RUNGE_KUTTA, len(told) - 1) if prk else 0
    for i, j in zip(told[:begun], told[1:], strict=False):
        # the middle is half a stride below i when it is gone to, and half a stride above j when it is told
        below, above = (i - stride // 2, j + stride // 2) if stride else (j + (i - j) // 2,) * 2
        kept.append(len(moves))
        stages = [mix for _, mix in TABLEAUS["rk4"][1]]
        moves += [(i, i, below, stages[0], False), (above, i, above, stages[1], True), (above, i, j, stages[2], True)]
        moves.append((j, i, j, stages[3], True))
    rest = told[begun:]
    for place, (i, j) in enumerate(zip(rest, [*rest[1:], -1], strict=True)):
        kept.append(len(moves))
        moves.append((i, i, i - stride if stride else j, adams_mix(kept), False))
        if place == 0 and not prk and j >= 0:  # the second evaluation serves the corrected first step alone
            moves.append((j, j + stride if stride else i, j, (0.5, 0.5), True))
    return moves


def by_index(
    schedule: Schedule, name: str, sampler: str, told: list[int], stride: int, size: int, last: float, eta: float, prk: bool
) -> Plan:
    """DDIM, DDPM and PNDM: noise carried from timestep i to i - stride, and below 0 to the level `last`. For processes that read
    noise where another level is told (`Gaussian.reads`)."""

    def level(i: int) -> float:
        return (i + 1) / size if i >= 0 else last

    if sampler == "pndm":
        moves = _pndm(told, stride, prk)
    elif sampler == "ddpm" or not stride:  # to the next that is told
        moves = [(i, i, j, (1.0,), False) for i, j in zip(told, [*told[1:], -1], strict=True)]
    else:
        moves = [(i, i, i - stride, (1.0,), False) for i in told]
    process, rows = Gaussian(schedule), []
    state = anchor = level(told[0])
    for i, source, target, mix, anchored in moves:
        start, stop = anchor if anchored else state, level(target)
        if start == stop:  # from timestep 0 to itself, which does nothing
            continue
        row = Row(level=state, start=start, stop=stop, mix=mix, eta=eta, anchored=anchored)
        if abs(level(i) - state) > 1e-12 or abs(level(source) - start) > 1e-12:
            x_weight, z_weight, c = process.bridge_numbers(level(source), stop, eta)
            alpha, sigma = (float(v) for v in schedule(level(source)))
            if sampler == "pndm":
                weights, a = tuple(-m * x_weight * sigma / alpha for m in mix), z_weight + x_weight / alpha
            else:  # noise is undone at the told level, and the loop undoes it at the state's
                at, away = (float(v) for v in schedule(state))
                part = away * alpha / (sigma * at)
                weights, a = (x_weight / part,), z_weight - x_weight * (1 - away / sigma) / (at * part)
            row = dataclasses.replace(row, eta=0.0, a=a, mix=weights, c=c, shown=level(i))
        rows.append(row)
        state, anchor = stop, start
    return Plan(name=name, basis="eps" if sampler == "pndm" else "x0", order=1, rows=tuple(rows))


def cogvideox(schedule: Schedule, name: str, told: list[int], stride: int, size: int, last: float) -> Plan:
    """CogVideoX's DPM-Solver++ 2M with noise, from timestep i to i - stride, and by a step of order 1 to the level `last`.

    Args:
        stride: 0 where the timesteps are not the peer's own, and each step goes to the next that is told.

    Raises:
        ValueError: where the timesteps told are not those that the state is at, whose beliefs the peer mixes by their states.
    """
    if stride and any(i - stride != j for i, j in zip(told, [*told[1:], min(told[-1] - stride, -1)], strict=True)):
        raise ValueError(
            f"{name} steps by {stride} timesteps, which are not those that it tells the network; computed here are numbers of "
            f"steps that divide {size}, and the spacing 'leading'."
        )
    levels = [(i + 1) / size for i in told]
    levels, steps = (levels, len(told) - 1) if levels[-1] == last else ([*levels, last], len(told))
    if steps == 0:
        raise ValueError(f"{name} is one step of size zero; ask for at least 2.")
    exact = multistep(steps, "x0", "lam", 2, tau=1.0, grid=given(levels), limit=lambda i: 1 if i == len(told) - 1 else 2)
    return papers_second_order(exact.on(schedule), schedule)
