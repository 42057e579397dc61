"""Progressive distillation (2202.00512): one step of the student lands where two of the teacher's DDIM steps do.

Then the student is the teacher, of half as many steps. The grid of a stage is every second level of the one before, so that
uniform levels, or any other grid, are met again; `thinned` is that grid for a plan.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.schedule import Schedule
from langevin.objectives.coupling import Coupling
from langevin.objectives.distances import Distance
from langevin.objectives.leaps import Ladder, Leaps, belief, one_gaussian, trail
from langevin.objectives.teachers import check_weighting, frozen, signal_weight
from langevin.plans.grids import Grid
from langevin.plans.grids import named as grid_named


def thinned(grid: str | Grid, finest: int) -> Grid:
    """Every so many of the levels that `grid` has at `finest` steps: what a student of fewer steps was trained on.

    A stage that began with a student of `steps` has finest = 2 steps. Uniform grids need no thinning.
    """
    base = grid_named(grid)

    def levels(schedule: Schedule, steps: int) -> list[float]:
        if finest % steps:
            raise ValueError(f"steps is {steps}, which does not divide the {finest} of the finest grid; ask for a divisor.")
        return base(schedule, finest)[:: finest // steps]

    return levels


class Progressive(Leaps):
    """Halves the number of steps at equal shares of the run; each student becomes the teacher of the next.

    On alpha = 1 with grid "karras" it is the variant that the consistency models' code compares with (2303.01469).

    Args:
        teacher: a frozen denoiser of the same process, guided or not, of which 2 steps become 1.
        steps: of the first student, a multiple of 2^(stages - 1).
        stages: how many students; by default down to one step, or as far as `steps` can be halved.
        weighting: of the squared error of x: "truncated" max(SNR, 1), or "v" SNR + 1 (eq. 10, 11).
        grid: of levels, at 2 steps.
        decay: share that a slow copy keeps at each update; it, rather than the student, becomes the teacher, and the student
            goes on from it. None for no such copy.
        distance, drop, coupling: as for `Leaps`.

    Raises:
        ValueError: for steps that cannot be halved so often; before training, for a model whose prediction is the noise.
    """

    stage: Tensor

    def __init__(
        self,
        teacher: BaseDenoiser,
        steps: int = 16,
        stages: int | None = None,
        weighting: str = "truncated",
        grid: str | Grid = "uniform",
        decay: float | None = None,
        distance: str | Distance = "squared",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__(distance, drop, coupling)
        if stages is None:
            stages = (steps & -steps).bit_length()
        if steps < 1 or stages < 1 or steps % 2 ** (stages - 1):
            raise ValueError(f"steps is {steps} for {stages} stages; give a multiple of 2^(stages - 1).")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it is a share below 1, or None.")
        self.nets["teacher"] = frozen(teacher)
        self.steps, self.stages, self.weighting = steps, stages, check_weighting(weighting)
        self.grid, self.decay = Ladder(grid), decay
        self.says += f", steps={steps}, stages={stages}, weighting={weighting}, decay={decay}"
        self.says += f", grid={self.grid.says}"
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    @property
    def teacher(self) -> BaseDenoiser:
        """Of the stage that training is in."""
        return self.nets["last" if int(self.stage) else "teacher"]  # pyright: ignore[reportReturnType]

    def prepare(self, model: Denoiser) -> None:
        one_gaussian(model.process)
        name = model.predictions[""].name
        if name in ("eps", "score"):
            raise ValueError(
                f"prediction is {name!r}, which says nothing about x at t = 1, where a student of one step begins; "
                "use 'v', 'velocity', 'x0' or 'edm'."
            )
        self.get_buffer("stage").zero_()
        self.nets["last"] = copy.deepcopy(model).requires_grad_(False).eval()
        super().prepare(model)

    @property
    def paced(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    def begin(self, model: Denoiser, step: int, done: float) -> None:
        super().begin(model, step, done)
        stage = int(self.stage)
        if stage < min(int(done * self.stages), self.stages - 1):
            if self.decay is not None:
                trail(model, self.nets["slow"], 0.0)
            self.nets["last"].load_state_dict(model.state_dict())
            self.stage.fill_(stage + 1)

    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ladder = self.grid(process.schedule, 2 * self.steps)[:: 2 ** int(self.stage)]
        i = 2 * (noise.uniform(()).cpu() * (len(ladder) // 2)).long()
        t, u, s = (expand(ladder[j], like) for j in (i + 2, i + 1, i))
        return t, u, s

    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        process: Any = model.process
        return process.land(z, belief(self.teacher, z, t, u, cond, mask), t, u)

    def ahead(self, model: Denoiser) -> BaseDenoiser:
        return self.teacher

    def weight(self, process: Gaussian, t: Tensor, u: Tensor, s: Tensor) -> Tensor:
        return signal_weight(self.weighting, process, t)
