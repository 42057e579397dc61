"""The typed settings of objectives. Imports no torch; `langevin.recipes.build` makes the objects."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from langevin.config import Closed


class _Objective(Closed):
    """What a recipe has to know of an objective before it is made.

    Attributes:
        learns: "denoiser", or "map" for a flow map.
        scalars: conditions that its network takes besides those of the data.
        taught: "always", "never", or "either": whether it has a teacher.
    """

    learns: ClassVar[Literal["denoiser", "map"]] = "denoiser"
    scalars: ClassVar[tuple[str, ...]] = ()
    taught: ClassVar[Literal["always", "never", "either"]] = "never"


class DenoisingConfig(_Objective):
    """See `langevin.objectives.Denoising`."""

    kind: Literal["denoising"] = "denoising"
    weight: str = "simple"
    levels: str = "uniform"
    spread: Literal["shared", "independent", "elements"] = "shared"
    clean: float = Field(default=0.0, ge=0, lt=1)
    drop: float = Field(default=0.1, ge=0, lt=1)


class ELBOConfig(_Objective):
    """See `langevin.objectives.ELBO`."""

    kind: Literal["elbo"] = "elbo"
    steps: int = Field(default=100, ge=1)
    drop: float = Field(default=0.1, ge=0, lt=1)


class ConsistencyConfig(_Objective):
    """Consistency models: distillation with a teacher, training without. See `langevin.objectives.consistency`."""

    taught: ClassVar = "either"

    kind: Literal["consistency"] = "consistency"
    improved: bool = False
    """Improved consistency training: no slow copy, steps that double, log-normal levels, a pseudo-Huber distance."""
    steps: int = Field(default=18, ge=2)
    """Intervals of the grid; the last number of them, for improved training."""
    decay: float = Field(default=0.95, ge=0, lt=1)
    """Share that the slow copy keeps at each update, where there is one."""
    order: Literal[1, 2] = 2
    """Of the teacher's step: 1 is DDIM's, 2 Heun's."""
    grid: str = "karras"
    mean: float = -1.1
    """Of log(sigma/alpha), for improved training."""
    std: float = Field(default=2.0, gt=0)
    guidance: float = 1.0
    """Of the teacher."""
    distance: str = "squared"
    drop: float = Field(default=0.0, ge=0, lt=1)


class ShortcutConfig(_Objective):
    """See `langevin.objectives.Shortcut`."""

    learns: ClassVar = "map"
    scalars: ClassVar = ("span",)

    kind: Literal["shortcut"] = "shortcut"
    finest: int = Field(default=7, ge=1)
    share: float = Field(default=0.25, gt=0, lt=1)
    decay: float = Field(default=0.999, ge=0, lt=1)
    drop: float = Field(default=0.0, ge=0, lt=1)


class MeanFlowConfig(_Objective):
    """See `langevin.objectives.MeanFlow`."""

    learns: ClassVar = "map"
    scalars: ClassVar = ("span",)

    kind: Literal["mean-flow"] = "mean-flow"
    improved: bool = True
    equal: float = Field(default=0.75, ge=0, lt=1)
    mean: float = -0.4
    std: float = Field(default=1.0, gt=0)
    power: float = Field(default=1.0, ge=0)
    omega: float = 1.0
    drop: float = Field(default=0.0, ge=0, lt=1)


ObjectiveConfig = Annotated[
    DenoisingConfig | ELBOConfig | ConsistencyConfig | ShortcutConfig | MeanFlowConfig, Field(discriminator="kind")
]
