"""Consistency models (2303.01469), by distillation and by training, and improved consistency training (2310.14189).

f(z_t, t) is the end of the flow that passes through z_t. It is learned as a belief: `Denoiser` answers with f, and
`plans.consistency` samples from it. Neighbouring levels t_i < t_(i+1) of a grid must agree:

    d(f(z_(i+1)), f^-(z^_i)),   z^_i a teacher's step from z_(i+1), or alpha_i x + sigma_i e with the same e.

At level 0 the belief is the state itself, whatever the network says: f(z, 0) = z holds under every prediction, and under all
but "x0" f is continuous there.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.objectives.coupling import Coupling
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import Ladder, Leaps, check_order, follow, now
from langevin.objectives.teachers import check_guided, frozen
from langevin.plans.grids import Grid


def doubling(done: float, first: int = 10, last: int = 1280) -> int:
    """iCT's number of steps: first, doubled at equal shares of the run up to last (2310.14189, sec. 3.4)."""
    stages = math.floor(math.log2(last / first)) + 1
    return min(first * 2 ** math.floor(done * stages), last)


def growing(done: float, first: int = 2, last: int = 150) -> int:
    """Consistency training's number of steps, from first to last + 1 (2303.01469, app. C): its square grows evenly."""
    return math.ceil(math.sqrt(done * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1


def slowing(done: float, first: int = 2, last: int = 150, start: float = 0.9, as_published_code: bool = False) -> float:
    """Consistency training's decay of the slow copy, mu(k) = exp(first log(start) / N(k)).

    The published code divides by N(k) - 1, so that it begins with 0.81 and not 0.9; `as_published_code` does so as well.
    """
    return math.exp(first * math.log(start) / (growing(done, first, last) - as_published_code))


class Consistency(Leaps):
    """Consistency distillation with a teacher, consistency training without.

    Args:
        teacher: a frozen denoiser of the same process, whose flow is followed; None trains without.
        steps: intervals of the grid, a number or a function of the share of the run that is done, such as `growing`.
        decay: share that the slow copy f^- keeps at each update, a number or a function of the share done; None compares with
            the model itself, without gradient (iCT; with a function 0 would be the same at the cost of a copy).
        order: of the teacher's step: 1 is DDIM's, 2 Heun's.
        grid: of levels.
        weighting: "none"; "inverse" divides by the difference of sigma/alpha between the levels (iCT, eq. 5).
        density: "uniform" over the intervals; "lognormal" by the normal law of log(sigma/alpha) (iCT, eq. 6).
        mean, std: of that law.
        guidance: of the teacher.
        distance, drop, coupling: as for `Leaps`.
    """

    def __init__(
        self,
        teacher: BaseDenoiser | None = None,
        steps: Any = 18,
        decay: Any = 0.95,
        order: int = 2,
        grid: str | Grid = "karras",
        weighting: str = "none",
        density: str = "uniform",
        mean: float = -1.1,
        std: float = 2.0,
        guidance: float = 1.0,
        distance: str | Distance = "squared",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__(distance, drop, coupling)
        check_order(order)
        if weighting not in ("none", "inverse") or density not in ("uniform", "lognormal"):
            raise ValueError(
                f"weighting is {weighting!r} and density {density!r}; use 'none' or 'inverse', 'uniform' or 'lognormal'."
            )
        if density == "uniform" and (mean, std) != (-1.1, 2.0):
            raise ValueError(
                f"mean is {mean:g} and std {std:g}, of density 'lognormal', and density is 'uniform'; leave them out."
            )
        check_guided(teacher, guidance)
        if teacher is not None:
            self.nets["teacher"] = frozen(teacher)
        self.steps, self.decay, self.order, self.grid = steps, decay, order, Ladder(grid)
        self.weighting, self.chosen, self.mean, self.std, self.guidance = weighting, density, mean, std, guidance
        self.says += f", steps={_said(steps)}, decay={_said(decay)}, order={order}, grid={self.grid.says}, weighting={weighting}"
        self.says += f", density={density}, mean={mean:g}, std={std:g}, guidance={guidance:g}"

    @property
    def paced(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return super().paced or callable(self.steps)

    def ladder(self, process: Gaussian) -> Tensor:
        """Levels 0 = t_0 < t_1 < ... < t_N = 1 of this part of the run, float64."""
        return self.grid(process.schedule, now(self.steps, self.done))

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ladder = self.ladder(process)
        shares = torch.ones(len(ladder) - 1, dtype=torch.float64)
        if self.chosen == "lognormal":
            # the levels between which the law is asked: log(sigma/alpha), the data end at the first level above it
            logs = -process.schedule.lam(ladder) / 2
            logs[0] = 2 * logs[1] - logs[2] if len(logs) > 2 else logs[1] - 1
            shares = torch.erf((logs.clamp(max=20.0) - self.mean) / (math.sqrt(2) * self.std)).diff()
        total = (shares / shares.sum()).cumsum(0)
        i = torch.searchsorted(total, noise.uniform(()).cpu()).clamp(max=len(shares) - 1)
        t, u = (expand(ladder[j], like) for j in (i + 1, i))
        return t, u, torch.zeros_like(t)

    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        if "teacher" not in self.nets:
            return model.process.mix(x, e, u)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        teacher: Any = self.nets["teacher"]
        return follow(teacher, z, t, u, cond, mask, self.guidance, self.order)

    def ahead(self, model: Denoiser) -> BaseDenoiser:
        return model if self.decay is None else self.nets["slow"].train(model.training)  # pyright: ignore[reportReturnType]

    def weight(self, process: Gaussian, t: Tensor, u: Tensor, s: Tensor) -> Tensor:
        if self.weighting == "none":
            return torch.ones_like(t)
        above, below = ((-process.schedule.lam(v) / 2).clamp(max=7.0).exp() for v in (t, u))
        return 1 / (above - below)


def improved(distance: str | Distance = "pseudo_huber", first: int = 10, last: int = 1280, **settings: Any) -> Consistency:
    """Improved consistency training (iCT): no slow copy, steps that double, log-normal levels, weights 1 / (t_(i+1) - t_i) and a
    pseudo-Huber distance."""
    given = {"decay": None, "weighting": "inverse", "density": "lognormal", **settings}

    def doubled(done: float) -> int:
        return doubling(done, first, last)

    doubled.__name__ = f"doubling({first}, {last})"
    return Consistency(None, doubled, distance=distance, **given)


def paced(
    schedule: str, last: int, decay: float, as_published_code: bool = False
) -> tuple[int | Callable[[float], int], float | Callable[[float], float]]:
    """(steps, decay) of a run, for `Consistency`.

    Args:
        schedule: "fixed"; "growing", N(k) and mu(k) of consistency training (2303.01469, app. C); or "doubling" (iCT).
        last: number of steps, at the end. decay: of the slow copy, mu(0) where steps grow.
        as_published_code: of mu(k), see `slowing`.

    Raises:
        ValueError: for another name, or `as_published_code` of a schedule that has no mu(k).
    """
    if schedule not in ("fixed", "growing", "doubling"):
        raise ValueError(f"schedule is {schedule!r}; choose fixed, growing or doubling.")
    if as_published_code and schedule != "growing":
        raise ValueError(f"as_published_code is of mu(k), which schedule {schedule!r} has not; use 'growing', or leave it out.")
    if schedule == "fixed":
        return last, decay

    def steps(done: float) -> int:
        return growing(done, last=last) if schedule == "growing" else doubling(done, min(10, last), last)

    def mu(done: float) -> float:
        return slowing(done, last=last, start=decay, as_published_code=as_published_code)

    steps.__name__, mu.__name__ = f"{schedule}({last})", f"slowing({last}, {decay:g})"
    return steps, mu if schedule == "growing" else decay


def _said(value: Any) -> str:
    return getattr(value, "__name__", repr(value)) if callable(value) else str(value)
