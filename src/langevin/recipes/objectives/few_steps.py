"""The typed settings of objectives that learn to sample in few steps, from a teacher or from data alone. Imports no torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from langevin.recipes.objectives.base import Coupling, Distance, Objective


class ConsistencyConfig(Objective):
    """Consistency models: distillation with a teacher, training without. See `langevin.objectives.consistency`."""

    ends: ClassVar = True
    taught: ClassVar = "either"

    kind: Literal["consistency"] = "consistency"
    improved: bool = False
    """Improved consistency training: no slow copy, steps that double, log-normal levels, a pseudo-Huber distance."""
    schedule: Literal["fixed", "growing", "doubling"] = "fixed"
    """Of the steps over a run: growing is consistency training as first published, N(k), with a decay mu(k) that grows with them;
    doubling is that of improved training."""
    steps: int = Field(default=18, ge=2)
    """Intervals of the grid; where they grow or double, the last number of them."""
    decay: float = Field(default=0.95, ge=0, lt=1)
    """Share that the slow copy keeps at each update, where there is one; where steps grow, at the beginning (published 0.9)."""
    as_published_code: bool = False
    """Where steps grow, mu(k) as in the published code, which begins at decay^2."""
    order: Literal[1, 2] = 2
    """Of the teacher's step: 1 is DDIM's, 2 Heun's."""
    grid: str = "karras"
    mean: float = -1.1
    """Of log(sigma/alpha), for improved training."""
    std: float = Field(default=2.0, gt=0)
    guidance: float = 1.0
    """Of the teacher."""
    distance: Distance = "squared"
    """Between two beliefs: squared, absolute, huber, pseudo_huber; of pictures lpips:weights=FILE and classifier as well."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ShortcutConfig(Objective):
    """See `langevin.objectives.Shortcut`."""

    learns: ClassVar = "map"
    scalars: ClassVar = ("span",)
    taught: ClassVar = "either"

    kind: Literal["shortcut"] = "shortcut"
    finest: int = Field(default=7, ge=1)
    share: float = Field(default=0.25, gt=0, lt=1)
    decay: float = Field(default=0.999, ge=0, lt=1)
    guidance: float = 1.0
    """Of the teacher."""
    distance: Distance = "squared"
    """Between two beliefs: squared, absolute, huber, pseudo_huber; of pictures lpips:weights=FILE and classifier as well."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


def _range(w: tuple[float, float]) -> tuple[float, float]:
    if not w[0] < w[1]:
        raise ValueError(
            f"w is {w}; give a range from least to most, or use consistency with objective.guidance for one strength."
        )
    return w


Strengths = Annotated[tuple[float, float], AfterValidator(_range)]


class MeanFlowConfig(Objective):
    """See `langevin.objectives.MeanFlow`."""

    learns: ClassVar = "map"
    taught: ClassVar = "either"

    kind: Literal["mean-flow"] = "mean-flow"
    improved: bool = True
    equal: float = Field(default=0.75, ge=0, lt=1)
    mean: float = -0.4
    std: float = Field(default=1.0, gt=0)
    power: float = Field(default=1.0, ge=0)
    omega: float = 1.0
    """Guidance within training; with a teacher, the strength it is guided by."""
    kappa: float = Field(default=0.0, ge=0, lt=1)
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"
    w: Strengths | None = None
    """Least and most strength of guidance, of which the network is told; in place of omega."""

    @property
    def scalars(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("span",) if self.w is None else ("span", "guidance")

    @property
    def strength(self) -> float:
        return self.omega / (1 - self.kappa)


class LatentConsistencyConfig(Objective):
    """Consistency distillation with guidance as a condition (LCM). See
    `langevin.objectives.latent_consistency.LatentConsistency`."""

    ends: ClassVar = True
    taught: ClassVar = "always"
    scalars: ClassVar = ("guidance",)

    kind: Literal["lcm"] = "lcm"
    w: Strengths = (1.0, 3.0)
    """Least and most strength of guidance; 1 is none."""
    original: int = Field(default=50, ge=2)
    """Levels of the grid."""
    skip: int = Field(default=1, ge=1)
    """How many of them the teacher crosses at once."""
    decay: float = Field(default=0.95, ge=0, lt=1)
    grid: str = "uniform"
    distance: Distance = "huber"
    """Between two beliefs: squared, absolute, huber, pseudo_huber; of pictures lpips:weights=FILE and classifier as well."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ProgressiveConfig(Objective):
    """See `langevin.objectives.progressive.Progressive`."""

    taught: ClassVar = "always"

    kind: Literal["progressive"] = "progressive"
    steps: int = Field(default=16, ge=1)
    """Of the first student."""
    stages: int | None = Field(default=None, ge=1)
    """How many students; down to one step by default."""
    weighting: Literal["truncated", "v"] = "truncated"
    grid: str = "uniform"
    decay: float | None = Field(default=None, ge=0, lt=1)
    """Share that a slow copy keeps, which becomes the teacher then."""
    distance: Distance = "squared"
    """Between two beliefs: squared, absolute, huber, pseudo_huber; of pictures lpips:weights=FILE and classifier as well."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class _Few(Objective):
    """Students of a few steps, each at levels of its own."""

    ends: ClassVar = True

    steps: int = Field(default=1, ge=1)
    """Of the student."""
    grid: str = "uniform"
    """Of its levels."""
    guidance: float = 1.0
    """Of the teacher."""
    r1: float = Field(default=1e-5, ge=0)
    """Weight of the penalty on the critic's gradient."""
    at: str = ""
    """Modules of the teacher that the critic reads, by shell patterns joined by "|"; its main blocks by default."""
    width: int = Field(default=64, ge=1)
    """Of the critic's heads."""
    rate: float = Field(default=1.0, gt=0)
    """Learning rate of what is trained beside the student, relative to its own."""
    drop: float = Field(default=0.0, ge=0, lt=1)


class AdversarialConfig(_Few):
    """See `langevin.objectives.adversarial.Adversarial`."""

    taught: ClassVar = "always"

    kind: Literal["adversarial"] = "adversarial"
    distill: float = Field(default=2.5, ge=0)
    """Weight of the distillation."""
    weighting: Literal["exponential", "sds"] = "exponential"


class DistributionMatchingConfig(_Few):
    """See `langevin.objectives.distribution_matching.DistributionMatching` (DMD2)."""

    taught: ClassVar = "always"

    kind: Literal["dmd"] = "dmd"
    every: int = Field(default=5, ge=1)
    """The student is trained at each such update."""
    adversarial: float = Field(default=0.0, ge=0)
    """Weight of a critic; 0 for none."""


class GuidanceDistillationConfig(Objective):
    """See `langevin.objectives.guidance_distillation.GuidanceDistillation`."""

    taught: ClassVar = "always"
    scalars: ClassVar = ("guidance",)

    kind: Literal["guidance"] = "guidance"
    w: Strengths = (1.0, 5.0)
    """Least and most strength of guidance; 1 is none."""
    weighting: Literal["truncated", "v"] = "truncated"
    levels: str = "uniform"
    drop: float = Field(default=0.0, ge=0, lt=1)


class TrajectoryConfig(Objective):
    """Consistency trajectories (CTM). See `langevin.objectives.trajectory.Trajectory`."""

    learns: ClassVar = "map"
    scalars: ClassVar = ("span",)
    taught: ClassVar = "either"

    kind: Literal["trajectory"] = "trajectory"
    steps: int = Field(default=18, ge=2)
    longest: int = Field(default=4, ge=1)
    """Most intervals that the teacher crosses."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    order: Literal[1, 2] = 2
    grid: str = "karras"
    share: float = Field(default=1.0, ge=0)
    """Factor of the denoising loss."""
    guidance: float = 1.0
    distance: Distance = "squared"
    """Between two beliefs: squared, absolute, huber, pseudo_huber; of pictures lpips:weights=FILE and classifier as well."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ContinuousConsistencyConfig(Objective):
    """Consistency in continuous time (sCM). See `langevin.objectives.continuous.ContinuousConsistency`."""

    ends: ClassVar = True
    taught: ClassVar = "either"

    kind: Literal["continuous"] = "continuous"
    levels: str = "lognormal_sigma:mean=-1.0,std=1.4"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the run over which the tangent enters."""
    normalise: float | None = Field(default=0.1, gt=0)
    """The tangent is divided by its norm plus this; None leaves it."""
    adaptive: bool = True
    """Learn a weight by level."""
    guidance: float = 1.0
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ReflowConfig(Objective):
    """Rectified flow: training on the pairs that the teacher's flow makes. See `langevin.tasks.reflow`."""

    taught: ClassVar = "always"

    kind: Literal["reflow"] = "reflow"
    pairs: int = Field(default=20_000, ge=1)
    """How many, made before training begins and kept in the run directory."""
    plan: str = "dpmpp:20"
    """That the teacher makes them by; deterministic."""
    guidance: float = 1.0
    """Of the teacher."""
    seed: int = 0
    """Of the noise that pairs begin at."""
    steps: int | None = Field(default=None, ge=1)
    """Distil into so many equal steps; None learns the straightened flow."""
    distance: Distance | None = None
    """Between ends that are believed in and those of the pairs, such as lpips:weights=FILE or classifier; None for the squared
    error of velocities."""
