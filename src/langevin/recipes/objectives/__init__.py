"""The typed settings of objectives. Imports no torch; `langevin.recipes.build` makes the objects."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from langevin.recipes.objectives.base import Coupling, Distance, Objective
from langevin.recipes.objectives.few_steps import (
    AdversarialConfig,
    ConsistencyConfig,
    ContinuousConsistencyConfig,
    DistributionMatchingConfig,
    GuidanceDistillationConfig,
    LatentConsistencyConfig,
    MeanFlowConfig,
    ProgressiveConfig,
    ReflowConfig,
    ShortcutConfig,
    Strengths,
    TrajectoryConfig,
)

__all__ = [
    "AdversarialConfig",
    "AutoencodingConfig",
    "BayesianFlowConfig",
    "ConsistencyConfig",
    "ContinuousConsistencyConfig",
    "Coupling",
    "DenoisingConfig",
    "Distance",
    "DistributionMatchingConfig",
    "ELBOConfig",
    "EmbeddingConfig",
    "GuidanceDistillationConfig",
    "InterFlowConfig",
    "LatentConsistencyConfig",
    "MaskingConfig",
    "MeanFlowConfig",
    "Objective",
    "ObjectiveConfig",
    "ProgressiveConfig",
    "ReflowConfig",
    "ShortcutConfig",
    "Strengths",
    "TrajectoryConfig",
]


class DenoisingConfig(Objective):
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


class InterFlowConfig(Objective):
    """See `langevin.objectives.interpolant.InterFlow`."""

    kind: Literal["interflow"] = "interflow"
    levels: str = "uniform"
    unbiased: bool = True
    """Divide by the density of the levels."""
    path: Literal["ascent", "descent"] = "ascent"
    """How a learned path is trained."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    coupling: Coupling = "independent"


class ELBOConfig(Objective):
    """See `langevin.objectives.ELBO`."""

    kind: Literal["elbo"] = "elbo"
    steps: int = Field(default=100, ge=1)
    drop: float = Field(default=0.1, ge=0, lt=1)
    cross_entropy: float = Field(default=0.0, ge=0)
    """Its weight beside the sum of the bound: the lambda of D3PM's code, times steps."""
    form: Literal["exact", "text", "images"] = "exact"


class MaskingConfig(Objective):
    """See `langevin.objectives.Masking`."""

    kind: Literal["masking"] = "masking"
    drop: float = Field(default=0.0, ge=0, lt=1)
    seen: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of tokens that are seen, beside the bound of those that are masked; 0 is the bound alone, as published."""


class EmbeddingConfig(Objective):
    """See `langevin.objectives.Embedding`."""

    kind: Literal["embedding"] = "embedding"
    form: Literal["simple", "bound"] = "simple"
    steps: int | None = Field(default=None, ge=1)
    levels: str = "uniform"
    spread: Literal["shared", "elements"] = "shared"
    rounding: float = Field(default=1.0, ge=0)
    """Factor of the term that keeps words apart."""
    drop: float = Field(default=0.0, ge=0, lt=1)


class BayesianFlowConfig(Objective):
    """See `langevin.objectives.BayesianFlow`."""

    kind: Literal["bayesian-flow"] = "bayesian-flow"
    steps: int | None = Field(default=None, ge=1)
    """None for continuous time."""
    reconstruction: bool = False
    levels: str = "uniform"
    spread: Literal["shared", "independent", "elements"] = "shared"
    clean: float = Field(default=0.0, ge=0, lt=1)
    drop: float = Field(default=0.1, ge=0, lt=1)


class AutoencodingConfig(Objective):
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


ObjectiveConfig = Annotated[
    DenoisingConfig | InterFlowConfig | ELBOConfig | EmbeddingConfig | BayesianFlowConfig | ConsistencyConfig
    | ShortcutConfig | MeanFlowConfig | LatentConsistencyConfig
    | ProgressiveConfig | AdversarialConfig | DistributionMatchingConfig | GuidanceDistillationConfig | TrajectoryConfig
    | ContinuousConsistencyConfig | ReflowConfig | MaskingConfig | AutoencodingConfig,
    Field(discriminator="kind"),
]  # fmt: skip
