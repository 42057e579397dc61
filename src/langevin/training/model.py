"""What is trained and is no denoiser."""

from typing import Any

from torch import nn

from langevin.core.denoiser import Shape
from langevin.core.process import LeafProcess, Process


class Untouched(Process):
    """The process of data that nothing destroys. It has no leaves, so there are no levels, no plans and no samples."""

    def leaves(self) -> dict[str, LeafProcess]:
        return {}


class Model(nn.Module):
    """A network that its objective alone knows how to call, in a denoiser's place in the `Trainer`: an autoencoder, a regressor.

    Args:
        net: any network. shape: of one sample; the trainer fills it in from the data.
    """

    def __init__(self, net: nn.Module, shape: Shape | None = None) -> None:
        super().__init__()
        self.net, self.process, self.shape = net, Untouched(), shape
        self.predictions: dict[str, Any] = {}
        self.spread: str | None = None

    def extra_repr(self) -> str:
        return f"shape={self.shape}"
