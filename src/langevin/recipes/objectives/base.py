"""What the typed settings of all objectives have. Imports no torch."""

from typing import ClassVar, Literal

from langevin.config import Closed

Distance = str
"""d(a, b): squared, absolute, pseudo_huber:c=0.03, huber:c=0.001; of pictures also lpips:weights=FILE,size=64, by a safetensors
file of LPIPS, and classifier, by the features of a classifier that is trained on the run's own labels and kept in it."""

Coupling = str
"""Which noise, or which data of another kind, meets which data: independent, ot, entropic:reg=0.5, paired."""


class Objective(Closed):
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
