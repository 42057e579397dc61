"""Adaptive steps of order 5(4), of each sample for itself (Dormand and Prince, "A family of embedded Runge-Kutta formulae",
1980, table 2)."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

State: TypeAlias = tuple[Tensor, ...]
"""Parts of a state, each (B, ...): errors are controlled in each of them."""
Slope: TypeAlias = Callable[[State, Tensor], State]
"""(state, u (B,)) -> d state / du."""


class Arrival(NamedTuple):
    """The state at the end, its slope there, and the slope and the place (B,) that the last step began at."""

    state: State
    slope: State
    before: State
    before_at: Tensor


def along(u: Tensor, part: Tensor) -> Tensor:
    """Numbers of samples (B,), broadcastable against `part` (B, ...), as it is."""
    return u.reshape(-1, *[1] * (part.ndim - 1)).to(part)


def integrate(
    slope: Slope, state: State, start: float, stop: float, rtol: float, atol: float, parts: int = 20, largest: float = 5.0
) -> Arrival:
    """From u = start to u = stop, either way.

    Every sample has steps of its own, so that it does not depend on its batch; all are evaluated together until the hardest
    arrives.

    Args:
        rtol, atol: error allowed per step and part.
        parts: of the way that the first step takes.
        largest: most by which a step may be longer than the last.
    """
    sign = 1.0 if stop > start else -1.0
    at = torch.full((len(state[0]),), start, dtype=torch.float64)
    size = torch.full_like(at, (stop - start) / parts)
    now, first = state, slope(state, at)
    before, before_at = first, at.clone()

    while bool((sign * at < sign * stop).any()):
        size = sign * torch.minimum(sign * size, sign * (stop - at))
        stages, moved = [first], now
        for row, share in zip(A[1:], C[1:], strict=True):
            moved = _moved(now, size, row, stages)
            there = at + share * size
            stages.append(slope(moved, there.clamp(max=stop) if sign > 0 else there.clamp(min=stop)))
        worst = torch.zeros_like(at)
        for i, part in enumerate(now):
            error = along(size, part) * sum(weight * k[i] for weight, k in zip(E, stages, strict=True))
            allowed = atol + rtol * torch.maximum(part.abs(), moved[i].abs())
            worst = torch.maximum(worst, (error / allowed).flatten(1).double().square().mean(1).sqrt().cpu())
        good = (worst <= 1) & (sign * at < sign * stop)
        keep = [good.reshape(-1, *[1] * (part.ndim - 1)).to(part.device) for part in now]
        before = tuple(torch.where(k, a, b) for k, a, b in zip(keep, first, before, strict=True))
        before_at = torch.where(good, at, before_at)
        now = tuple(torch.where(k, a, b) for k, a, b in zip(keep, moved, now, strict=True))
        first = tuple(torch.where(k, a, b) for k, a, b in zip(keep, stages[-1], first, strict=True))
        at = torch.where(good, at + size, at)
        at = torch.where(sign * (stop - at) < 1e-12, stop, at)
        size = size * (0.9 * worst.clamp(min=1e-10) ** -0.2).clamp(0.2, largest)
    return Arrival(now, first, before, before_at)


def _moved(now: State, size: Tensor, row: tuple[float, ...], stages: list[State]) -> State:
    out = []
    for i, part in enumerate(now):
        step, moved = along(size, part), part
        for weight, k in zip(row, stages, strict=True):
            moved = moved + step * weight * k[i]
        out.append(moved)
    return tuple(out)
