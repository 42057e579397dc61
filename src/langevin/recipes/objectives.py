"""The typed settings of objectives. Imports no torch; `langevin.recipes.build` makes the objects."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from langevin.config import Closed

Distance = str
"""d(a, b): squared, absolute, pseudo_huber:c=0.03, huber:c=0.001; of pictures also lpips:weights=FILE,size=64, by a safetensors
file of LPIPS, and classifier, by the features of a classifier that is trained on the run's own labels and kept in it."""

Coupling = str
"""Which noise, or which data of another kind, meets which data: independent, ot, entropic:reg=0.5, paired."""


class _Objective(Closed):
    """What a recipe has to know of an objective before it is made.

    Attributes:
        learns: "denoiser", or "map" for a flow map.
        ends: the denoiser answers with ends of the flow, which no solver of the flow can follow.
        scalars: conditions that its network takes besides those of the data.
        taught: "always", "never", or "either": whether it has a teacher.
    """

    learns: ClassVar[Literal["denoiser", "map"]] = "denoiser"
    ends: ClassVar[bool] = False
    scalars: ClassVar[tuple[str, ...]] = ()
    taught: ClassVar[Literal["always", "never", "either"]] = "never"

    @property
    def strength(self) -> float:
        """Of the guidance that what it learns has by nature; 1 for none."""
        return float(getattr(self, "guidance", 1.0))


class DenoisingConfig(_Objective):
    """See `langevin.objectives.Denoising`."""

    kind: Literal["denoising"] = "denoising"
    weight: str = "simple"
    levels: str = "uniform"
    spread: Literal["shared", "independent", "elements"] = "shared"
    clean: float = Field(default=0.0, ge=0, lt=1)
    drop: float = Field(default=0.1, ge=0, lt=1)
    coupling: Coupling = "independent"
    augment: float = Field(default=0.0, ge=0, le=1)
    """Of data "upscale": the highest level of noise in the small pictures."""
    leaf_weights: dict[str, float] = Field(default_factory=dict)
    """Of a product, the factor of each leaf's loss; 1 for all by default."""


class InterFlowConfig(_Objective):
    """See `langevin.objectives.interpolant.InterFlow`."""

    kind: Literal["interflow"] = "interflow"
    levels: str = "uniform"
    unbiased: bool = True
    """Divide by the density of the levels."""
    path: Literal["ascent", "descent"] = "ascent"
    """How a learned path is trained."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ELBOConfig(_Objective):
    """See `langevin.objectives.ELBO`."""

    kind: Literal["elbo"] = "elbo"
    steps: int = Field(default=100, ge=1)
    drop: float = Field(default=0.1, ge=0, lt=1)
    cross_entropy: float = Field(default=0.0, ge=0)
    """Its weight beside the sum of the bound: the lambda of D3PM's code, times steps."""
    form: Literal["exact", "text", "images"] = "exact"


class MaskingConfig(_Objective):
    """See `langevin.objectives.Masking`."""

    kind: Literal["masking"] = "masking"
    drop: float = Field(default=0.0, ge=0, lt=1)
    seen: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of tokens that are seen, beside the bound of those that are masked; 0 leaves the bound alone."""


class EmbeddingConfig(_Objective):
    """See `langevin.objectives.Embedding`."""

    kind: Literal["embedding"] = "embedding"
    form: Literal["simple", "bound"] = "simple"
    steps: int | None = Field(default=None, ge=1)
    levels: str = "uniform"
    spread: Literal["shared", "elements"] = "shared"
    rounding: float = Field(default=1.0, ge=0)
    """Factor of the term that keeps words apart."""
    drop: float = Field(default=0.0, ge=0, lt=1)


class BayesianFlowConfig(_Objective):
    """See `langevin.objectives.BayesianFlow`."""

    kind: Literal["bayesian-flow"] = "bayesian-flow"
    steps: int | None = Field(default=None, ge=1)
    """None for continuous time."""
    reconstruction: bool = False
    levels: str = "uniform"
    spread: Literal["shared", "independent", "elements"] = "shared"
    clean: float = Field(default=0.0, ge=0, lt=1)
    drop: float = Field(default=0.1, ge=0, lt=1)


class ConsistencyConfig(_Objective):
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


class ShortcutConfig(_Objective):
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


class MeanFlowConfig(_Objective):
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


class LatentConsistencyConfig(_Objective):
    """Consistency distillation with guidance as a condition (LCM). See `langevin.objectives.LatentConsistency`."""

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


class ProgressiveConfig(_Objective):
    """See `langevin.objectives.Progressive`."""

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


class _Few(_Objective):
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
    """See `langevin.objectives.Adversarial`."""

    taught: ClassVar = "always"

    kind: Literal["adversarial"] = "adversarial"
    distill: float = Field(default=2.5, ge=0)
    """Weight of the distillation."""
    weighting: Literal["exponential", "sds"] = "exponential"


class DistributionMatchingConfig(_Few):
    """See `langevin.objectives.DistributionMatching` (DMD2)."""

    taught: ClassVar = "always"

    kind: Literal["dmd"] = "dmd"
    every: int = Field(default=5, ge=1)
    """The student is trained at each such update."""
    adversarial: float = Field(default=0.0, ge=0)
    """Weight of a critic; 0 for none."""


class GuidanceDistillationConfig(_Objective):
    """See `langevin.objectives.GuidanceDistillation`."""

    taught: ClassVar = "always"
    scalars: ClassVar = ("guidance",)

    kind: Literal["guidance"] = "guidance"
    w: Strengths = (1.0, 5.0)
    """Least and most strength of guidance; 1 is none."""
    weighting: Literal["truncated", "v"] = "truncated"
    levels: str = "uniform"
    drop: float = Field(default=0.0, ge=0, lt=1)


class TrajectoryConfig(_Objective):
    """Consistency trajectories (CTM). See `langevin.objectives.Trajectory`."""

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


class ContinuousConsistencyConfig(_Objective):
    """Consistency in continuous time (sCM). See `langevin.objectives.ContinuousConsistency`."""

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


class AutoencodingConfig(_Objective):
    """See `langevin.objectives.Autoencoding`."""

    kind: Literal["autoencoding"] = "autoencoding"
    distance: Distance = "absolute"
    """squared, absolute, huber or pseudo_huber; lpips:weights=FILE and classifier as well."""
    kl: float = Field(default=1e-6, ge=0)
    """Weight of the divergence of codes from standard noise."""
    perceptual: float = Field(default=0.0, ge=0)
    """Weight of a second distance."""
    distance_of_features: Distance | None = None
    """The second distance: lpips:weights=FILE or classifier."""
    adversarial: float = Field(default=0.0, ge=0)
    """Weight of a critic of patches; 0 for none."""
    after: float = Field(default=0.5, ge=0, lt=1)
    """Share of the run after which the critic counts."""
    width: int = Field(default=32, ge=4)
    """Of the critic."""
    rate: float = Field(default=1.0, gt=0)
    """Learning rate of the critic, relative to the autoencoder's."""

    @model_validator(mode="before")
    @classmethod
    def _lpips_as_a_word(cls, given: Any) -> Any:
        """Earlier recipes have a file of LPIPS in a field of its own."""
        if not isinstance(given, dict) or "lpips" not in given:
            return given
        file = given["lpips"]
        rest = {name: value for name, value in given.items() if name != "lpips"}
        return rest if file is None else {"distance_of_features": f"lpips:weights={file}", **rest}


class ReflowConfig(_Objective):
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


ObjectiveConfig = Annotated[
    DenoisingConfig | InterFlowConfig | ELBOConfig | EmbeddingConfig | BayesianFlowConfig | ConsistencyConfig
    | ShortcutConfig | MeanFlowConfig | LatentConsistencyConfig
    | ProgressiveConfig | AdversarialConfig | DistributionMatchingConfig | GuidanceDistillationConfig | TrajectoryConfig
    | ContinuousConsistencyConfig | ReflowConfig | MaskingConfig | AutoencodingConfig,
    Field(discriminator="kind"),
]  # fmt: skip
