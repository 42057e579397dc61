"""Grids: which levels a plan visits. A grid is a function (schedule, steps) -> steps + 1 falling levels.

All end at `stop`. Where that is 0, those written in log-SNR or in Karras's sigma leap from the schedule's floor to clean
data, as is the custom, or walk all the way where noise is left at level 0; `angle` comes to rest there. One step is always
legal: it goes from `start` to `stop`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from langevin import spec
from langevin.core.schedule import Schedule

Grid: TypeAlias = Callable[[Schedule, int], list[float]]


def uniform(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of t."""
    _check_ends(start, stop)
    return lambda schedule, steps: torch.linspace(start, stop, steps + 1, dtype=torch.float64).tolist()


def quadratic(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of sqrt(t): finer near data (DDIM, 2010.02502, app. D.2)."""
    _check_ends(start, stop)
    return lambda schedule, steps: torch.linspace(start**0.5, stop**0.5, steps + 1, dtype=torch.float64).square().tolist()


def log_snr(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of lam (DPM-Solver; "exponential" in sigma)."""
    return _by_lam(lambda low, high, n: torch.linspace(low, high, n, dtype=torch.float64), start, stop)


def karras(rho: float = 7.0, start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of (sigma/alpha)^(1/rho) (EDM, 2206.00364, eq. 5)."""

    if not rho > 0:
        raise ValueError(f"rho is {rho}; give a number above 0.")

    def ramp(low: float, high: float, n: int) -> Tensor:
        from_sigma, to_sigma = (torch.tensor(-lam / 2, dtype=torch.float64).exp() for lam in (low, high))
        part = torch.linspace(0, 1, n, dtype=torch.float64)
        sigma = (from_sigma ** (1 / rho) + part * (to_sigma ** (1 / rho) - from_sigma ** (1 / rho))) ** rho
        return -2 * sigma.log()

    return _by_lam(ramp, start, stop)


def sigma(start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of sigma/alpha."""
    return karras(1.0, start, stop)


def angle(center: float = 0.35, power: float = 0.75, start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of arctan((sigma / (alpha center))^power).

    Levels crowd where sigma/alpha is near `center`, about half the data's standard deviation, and thin out on both sides as
    a power law, so that neither pure noise nor clean data is infinitely far away: the grid needs no floor, and is nearly the
    same on every schedule. power 1 and center 1 are equal steps of the variance-preserving angle.
    """
    if not (center > 0 and power > 0):
        raise ValueError(f"center is {center} and power {power}; both are above 0.")
    _check_ends(start, stop)

    def place(schedule: Schedule, level: float) -> float:
        alpha, noise = (float(v) for v in schedule(level))
        return math.atan((noise / alpha / center) ** power) if alpha > 0 else math.pi / 2

    def levels(schedule: Schedule, steps: int) -> list[float]:
        ends = place(schedule, start), place(schedule, stop)
        places = torch.linspace(*ends, steps + 1, dtype=torch.float64)
        ratio = center * places[1:-1].tan() ** (1 / power)
        return [start, *schedule.invert(-2 * ratio.log()).tolist(), stop]

    return levels


def beta(a: float = 0.6, b: float = 0.6, start: float = 1.0, stop: float = 0.0) -> Grid:
    """Equal steps of the Beta(a, b) distribution function of t: more levels at both ends (2407.12173). Needs scipy."""
    _check_ends(start, stop)

    def levels(schedule: Schedule, steps: int) -> list[float]:
        del schedule
        return [start, *(stop + (start - stop) * beta_shares(steps + 1, a, b)[1:-1]).tolist(), stop]

    return levels


def beta_shares(count: int, a: float = 0.6, b: float = 0.6) -> Any:
    """`count` numbers from 1 to 0 at equal steps of the Beta(a, b) distribution function; an array."""
    try:
        from scipy.stats import beta as law
    except ImportError:
        raise ValueError("the grid 'beta' needs scipy; install langevin[metrics], or choose another grid.") from None
    return law.ppf(torch.linspace(1, 0, count, dtype=torch.float64).numpy(), a, b)


def linspace(timesteps: int = 1000) -> Grid:
    """Published timesteps T - 1 .. 0 in equal steps, rounded, then clean data (the default of many peers' solvers).

    The lowest of these n + 1 timesteps, 0, is left out, so the last step is a leap from far above clean data: up to about 15
    steps that costs little, beyond it rules the error.
    """

    def levels(schedule: Schedule, steps: int) -> list[float]:
        del schedule
        _enough(steps, timesteps - 1)
        return [(round((timesteps - 1) * (steps - i) / steps) + 1) / timesteps for i in range(steps)] + [0.0]

    return levels


def shift_level(t: Any, shift: float) -> Any:
    """t -> shift t / (1 + (shift - 1) t), of a number or an array."""
    return shift * t / (1 + (shift - 1) * t)


def shifted(grid: "str | Grid" = "uniform", shift: float = 3.0) -> Grid:
    """Another grid under t -> shift t / (1 + (shift - 1) t): on the flow schedule the noise sigma/alpha is multiplied by
    `shift` (SD3, 2403.03206, sec. 5.3.2). Use it where the schedule itself is not shifted.
    """
    base = named(grid)
    if not shift > 0:
        raise ValueError(f"shift is {shift}; it multiplies sigma/alpha, so give a number above 0.")
    return lambda schedule, steps: [shift_level(t, shift) for t in base(schedule, steps)]


def dynamic(tokens: int = 4096, grid: "str | Grid" = "uniform") -> Grid:
    """`shifted` by the resolution: log(shift) runs from 0.5 at 256 tokens to 1.15 at 4096 (FLUX)."""
    return shifted(grid, math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)))


def given(levels: Sequence[float]) -> Grid:
    """Levels written out, such as those of `plans.optimal_levels`; legal at their own number of steps only."""
    fixed = [float(t) for t in levels]

    def grid(schedule: Schedule, steps: int) -> list[float]:
        del schedule
        if steps != len(fixed) - 1:
            raise ValueError(f"steps is {steps}, but the grid has {len(fixed)} levels; ask for {len(fixed) - 1} steps.")
        return fixed

    return grid


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
    "uniform": uniform, "quadratic": quadratic, "log_snr": log_snr, "exponential": log_snr, "karras": karras, "sigma": sigma,
    "angle": angle, "beta": beta, "trailing": trailing, "leading": leading, "linspace": linspace, "shifted": shifted,
    "dynamic": dynamic,
}  # fmt: skip


def named(grid: str | Grid) -> Grid:
    """A grid by name, or the one given. Options follow after semicolons: "angle;center=0.5;power=1"."""
    if not isinstance(grid, str):
        return grid
    name, *options = grid.split(";")
    return spec.parse(f"{name}:{','.join(options)}", GRIDS, "grid")


_FAINT = -2 * math.log(1000)


def shows_signal(schedule: Schedule) -> bool:
    """Whether t = 1 still holds signal: sigma/alpha stays below 1000 there, so that steps in it are of moderate size."""
    return float(schedule.lam(1.0)) > _FAINT


def natural(grid: str | Grid | None) -> Grid:
    """A grid by name, or the one given. None is "karras" where t = 1 still holds signal (EDM, VP by betas) and "uniform" where
    steps of sigma/alpha would leap over most of the way (flows, cosine)."""
    if grid is not None:
        return named(grid)
    return lambda schedule, steps: named("karras" if shows_signal(schedule) else "uniform")(schedule, steps)


def _enough(steps: int, timesteps: int) -> None:
    if steps > timesteps:
        raise ValueError(f"{steps} steps asked of {timesteps} published timesteps; ask for at most {timesteps}.")


def _check_ends(start: float, stop: float) -> None:
    if not 0 <= stop < start <= 1:
        raise ValueError(f"the grid runs from {start:g} to {stop:g}; give 0 <= stop < start <= 1.")


def _by_lam(ramp: Callable[[float, float, int], Tensor], start: float, stop: float) -> Grid:
    _check_ends(start, stop)

    def levels(schedule: Schedule, steps: int) -> list[float]:
        lowest, highest = schedule.lam_range
        low = max(float(schedule.lam(start)), lowest)
        # a schedule whose floor is 0 keeps noise there, and no leap is left: lam is finite all the way
        reached = stop > 0 or schedule.floor == 0
        if reached:
            inner = ramp(low, float(schedule.lam(stop)), steps + 1)
        else:
            inner = ramp(low, highest, max(steps, 1))[:steps]
        nodes = schedule.invert(inner).tolist()
        nodes[0] = start  # the ramp's first level is cut where lam is -inf
        if reached:
            nodes[-1] = stop
            return nodes
        return [*nodes, 0.0]

    return levels
