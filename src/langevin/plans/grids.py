"""Grids: which levels a plan visits. A grid is a function (schedule, steps) -> steps + 1 falling levels.

All end at `stop`; where that is 0, the last step leaps from the schedule's floor to clean data, as is the custom.
One step is always legal: it goes from `start` to `stop`.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from langevin.core.schedule import Schedule

Grid: TypeAlias = Callable[[Schedule, int], list[float]]


def uniform(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of t."""
    return lambda schedule, steps: torch.linspace(start, stop, steps + 1, dtype=torch.float64).tolist()


def quadratic(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of sqrt(t): finer near data (DDIM, 2010.02502, app. D.2)."""
    return lambda schedule, steps: torch.linspace(start**0.5, stop**0.5, steps + 1, dtype=torch.float64).square().tolist()


def log_snr(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of lam (DPM-Solver; "exponential" in sigma)."""
    return _by_lam(lambda low, high, n: torch.linspace(low, high, n, dtype=torch.float64), start, stop)


def karras(rho: float = 7.0, start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of (sigma/alpha)^(1/rho) (EDM, 2206.00364, eq. 5)."""

    def ramp(low: float, high: float, n: int) -> Tensor:
        from_sigma, to_sigma = (torch.tensor(-lam / 2, dtype=torch.float64).exp() for lam in (low, high))
        part = torch.linspace(0, 1, n, dtype=torch.float64)
        sigma = (from_sigma ** (1 / rho) + part * (to_sigma ** (1 / rho) - from_sigma ** (1 / rho))) ** rho
        return -2 * sigma.log()

    return _by_lam(ramp, start, stop)


def trailing(timesteps: int = 1000) -> Grid:
    """Published timesteps T, T - T/n, ...: starts at the last one (2305.08891, sec. 3.3)."""

    def levels(schedule: Schedule, steps: int) -> list[float]:
        _enough(steps, timesteps)
        return [round(timesteps * (steps - i) / steps) / timesteps for i in range(steps)] + [0.0]

    return levels


def leading(timesteps: int = 1000, offset: int = 1) -> Grid:
    """Published timesteps i (T // n) + offset: Stable Diffusion's default. It starts below level 1."""

    def levels(schedule: Schedule, steps: int) -> list[float]:
        _enough(steps, timesteps)
        stride = timesteps // steps
        shift = min(offset, stride - 1)  # where every timestep is asked for there is none to skip
        # index i of the paper is level (i + 1) / T
        return [(i * stride + shift + 1) / timesteps for i in reversed(range(steps))] + [0.0]

    return levels


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": uniform, "quadratic": quadratic, "log_snr": log_snr, "karras": karras,
    "trailing": trailing, "leading": leading,
}  # fmt: skip


def named(grid: str | Grid) -> Grid:
    """A grid by name, or the one given."""
    if not isinstance(grid, str):
        return grid
    if grid not in GRIDS:
        raise ValueError(f"grid is {grid!r}; choose one of {', '.join(GRIDS)}.")
    return GRIDS[grid]()


def _enough(steps: int, timesteps: int) -> None:
    if steps > timesteps:
        raise ValueError(f"{steps} steps asked of {timesteps} published timesteps; ask for at most {timesteps}.")


def _by_lam(ramp: Callable[[float, float, int], Tensor], start: float, stop: float) -> Grid:
    def levels(schedule: Schedule, steps: int) -> list[float]:
        lowest, highest = schedule.lam_range
        low = max(float(schedule.lam(start)), lowest)
        if stop > 0:
            inner = ramp(low, float(schedule.lam(stop)), steps + 1)
        else:
            inner = ramp(low, highest, max(steps, 1))[:steps]
        nodes = schedule.invert(inner).tolist()
        nodes[0] = start  # the ramp's first level is cut where lam is -inf
        if stop > 0:
            nodes[-1] = stop
            return nodes
        return [*nodes, 0.0]

    return levels
