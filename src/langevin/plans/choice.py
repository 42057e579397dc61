"""Which plan? `default` knows the number of steps alone; `auto` asks the model."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Shape, check_entries, home
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, sample
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, given
from langevin.plans.multistep import multistep, trig
from langevin.plans.optimal import optimal_levels, prior

T = TypeVar("T")


def default(steps: int = 20) -> Draft:
    """What the library picks when nothing is known but the number of evaluations, on any Gaussian process.

    Few steps must not extrapolate far: up to 6, second order in data predictions, with levels where data takes shape; up to
    8, third order of the same in the angle. Then `trig`, of an order that grows with the steps. See docs/plans.md for the
    measurements behind the numbers.
    """
    check_steps(steps)
    if steps <= 6:
        made = multistep(steps, "x0", "lam", 2, True, grid="angle;center=1.05;power=0.62")
    elif steps <= 8:
        made = multistep(steps, "x0", "angle", 3, True, data_std=1.4, grid="angle;center=0.47;power=0.7")
    elif steps <= 12:
        made = trig(steps, 2, 1.0, grid="angle;center=0.56;power=0.7")
    else:
        made = trig(steps, 3 if steps <= 24 else 4)
    return Draft(f"default({steps})", lambda schedule: dataclasses.replace(made.on(schedule), name=f"default({steps})"))


GRIDS = (
    (0.25, 0.5),
    (0.25, 0.75),
    (0.35, 0.65),
    (0.5, 0.75),
    (0.56, 0.78),
    (0.7, 0.65),
    (1.0, 0.62),
    (1.0, 0.75),
    (1.0, 1.0),
    (1.0, 1.5),
    (1.5, 0.75),
    (2.0, 1.0),
)
"""Centers and powers of the angle grids that are tried."""


BATCH, TIMESTEPS, FINE, PLACED = 256, 1000, 100, 2**21
"""Starts evaluated at once; published timesteps that `linspace` counts; evaluations of a fine trajectory; numbers of the states
by which levels are placed."""


@dataclass(frozen=True)
class Method(Draft):
    """A plan on a grid that can be made on another: `on_grid(grid)` is the same method there."""

    on_grid: Callable[[Grid], Draft] = field(repr=False)

    @staticmethod
    def of(make: Callable[..., Draft], grid: str | Grid, name: str) -> "Method":
        """What `make(grid=..., name=...)` is on `grid`, by this name."""
        return Method(name, make(grid=grid, name=name).fill, lambda other: make(grid=other, name=f"{name}, moved"))


def candidates(steps: int, levels: Sequence[float] | None = None) -> list[Draft]:
    """Plans worth trying at so many evaluations: three ways to extrapolate, on grids that lean to noise or to data.

    Args:
        levels: those of `optimal_levels`, on which two further plans are made.
    """
    out = [default(steps)]
    for center, power in GRIDS:
        grid = f"angle;center={center};power={power}"
        for order in (2, 3, 4) if steps > 5 else (2, 3):
            for basis, variable, d in (("x0", "angle", 1.0), ("v", "angle", 0.6), ("x0", "lam", 1.0)):
                if variable != "lam" or order < 4:
                    method = partial(multistep, steps, basis, variable, order, True, data_std=d)
                    out.append(Method.of(method, grid, f"{basis}/{variable} order {order} {grid}"))
    # what the peers do at few steps: equal steps of t, and a leap. It errs more in typical samples, and fewer end elsewhere
    for grid in ("uniform", "linspace") if steps < TIMESTEPS else ():
        for variable in ("lam", "angle"):
            for order in (2, 3, 4) if steps > 4 else (2, 3):
                method = partial(multistep, steps, "x0", variable, order, True, 1)
                out.append(Method.of(method, grid, f"x0/{variable} order {order} {grid}"))
    for order in (2, 3) if levels else ():
        assert levels
        method = partial(multistep, steps, "x0", "lam", order, True, 1)
        out.append(Method.of(method, given(levels), f"x0/lam order {order} optimal"))
    return out


@dataclass(frozen=True)
class Trial:
    """A plan and its error on held starts.

    Args:
        rms: root mean square error per coordinate against the model's own fine trajectory; median: over starts.
    """

    plan: Plan
    rms: float
    median: float

    @property
    def score(self) -> float:
        """Both errors, by which `tune` tells its plans apart: of samples that end elsewhere, by the RMS, twice as much
        as those of typical ones. `auto` judges by `Yardstick.regret`.
        """
        return 0.65 * math.log(max(self.rms, 1e-12)) + 0.35 * math.log(max(self.median, 1e-12))

    def __str__(self) -> str:
        return f"{self.plan.name}: {self.plan.nfe} evaluations, rms {self.rms:.3g}, median {self.median:.3g}"


def in_pieces(count: int, batch: int, take: Callable[[int, int], T]) -> Iterator[T]:
    """take(low, high) of 0 .. count, so many at once; half as many where memory is short."""
    low = 0
    while low < count:
        high = min(low + batch, count)
        try:
            made = take(low, high)
        except torch.OutOfMemoryError:
            if high - low == 1:
                raise
            batch = (high - low) // 2
            continue
        yield made
        low = high


@dataclass(frozen=True)
class Starts:
    """States to begin with and where the model's own fine trajectory takes them; `batch` of them are evaluated at once."""

    denoiser: BaseDenoiser
    start: Tensor
    end: Tensor
    cond: Cond
    guidance: Guidance | None
    batch: int = BATCH

    @staticmethod
    @torch.no_grad()  # schedules may be learned
    def of(
        denoiser: BaseDenoiser,
        count: int,
        seed: int,
        cond: Cond = None,
        guidance: Guidance | None = None,
        shape: Shape | None = None,
        start: Tensor | None = None,
        fine: int = FINE,
        batch: int = BATCH,
    ) -> "Starts":
        """`count` starts from the prior (or those given), carried to data by `fine` evaluations of `trig` at order 4."""
        process = denoiser.process
        if not isinstance(process, Gaussian):
            raise ValueError(f"the process is a {type(process).__name__}; plans are chosen and tuned for one Gaussian process.")
        if start is None:
            start = prior(denoiser, count, seed, shape)
        check_entries(cond, len(start))
        device, dtype = home(denoiser)
        start = start.detach() if dtype is None else start.detach().to(device, dtype)
        cond = None if cond is None else {name: value.to(start.device) for name, value in cond.items()}
        made = Starts(denoiser, start, start, cond, guidance, batch)
        return dataclasses.replace(made, end=made.run(trig(fine, 4)))

    def part(self, low: int, high: int) -> "Starts":
        cond = None if self.cond is None else {name: value[low:high] for name, value in self.cond.items()}
        return dataclasses.replace(self, start=self.start[low:high], end=self.end[low:high], cond=cond)

    def run(self, plan: Plan | Draft) -> Tensor:
        """Where the plan takes the starts."""
        shape = tuple(self.start.shape[1:])

        def take(low: int, high: int) -> Tensor:
            piece = self.part(low, high)
            told = {"cond": piece.cond, "guidance": self.guidance, "shape": shape}
            return sample(self.denoiser, plan, high - low, start=piece.start, **told)

        return torch.cat([*in_pieces(len(self.start), self.batch, take)])

    def candidates(self, steps: int) -> list[Draft]:
        """`candidates`, with levels that are placed on the model by the first of these starts."""
        if steps > FINE:
            return candidates(steps)
        few = self.part(0, max(1, min(128, self.batch, PLACED // max(1, self.start[0].numel()))))
        told = {"cond": few.cond, "guidance": self.guidance, "shape": tuple(self.start.shape[1:])}
        return candidates(steps, optimal_levels(self.denoiser, steps, start=few.start, fine=FINE, **told))

    def trial(self, plan: Plan | Draft) -> Trial:
        plan = plan.on(self.denoiser.process.leaves()[""].schedule)  # once: a table costs more than a small model's walk
        off = (self.run(plan) - self.end).flatten(1).double().square().mean(1).sqrt()
        return Trial(plan, float(off.square().mean().sqrt()), float(off.median()))


def best(starts: Starts, plans: Sequence[Draft | Plan]) -> list[Trial]:
    """The plans' errors on all starts, best first, of those that did well on a quarter of them."""
    few = starts.part(0, max(len(starts.start) // 4, min(32, len(starts.start))))
    first = sorted((few.trial(plan) for plan in plans), key=lambda trial: trial.score)
    kept = first[: max(len(first) // 6, min(8, len(first)))]
    return sorted((starts.trial(trial.plan) for trial in kept), key=lambda trial: trial.score)
