"""What a generator is made of beside its networks, and what it gives.

B pictures, C latent channels, H W pixels, h w latents
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from langevin.core.sample import Step
from langevin.tasks.inputs import as_bytes


class Codec(Protocol):
    """Between pictures (B, 3, H, W) in [-1, 1] and latents (B, C, H / factor, W / factor) of about unit variance."""

    @property
    def factor(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents; the mean of the encoder's distribution, or the draw that standard `noise` (B, C, h, w) makes."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Pictures."""
        ...


@dataclass(frozen=True)
class Defaults:
    """What a request that does not say takes.

    Args:
        size: (width, height) in pixels. steps: evaluations.
        guidance: w of classifier-free guidance, 1 for none; of a model that is told it (`told`), what it is told.
        multiple: sizes are multiples of it. most: the longest side in pixels that the network has positions for, None for any.
        classes: how many labels there are, for models of classes.
        norm: of guided outputs, see `CFG`.
    """

    size: tuple[int, int] = (512, 512)
    steps: int = 50
    guidance: float = 7.5
    told: bool = False
    multiple: int = 8
    classes: int | None = None
    norm: str = ""
    most: int | None = None


@dataclass(frozen=True)
class Progress:
    """What a request's `callback` is given after each step.

    Args:
        step: see `Step`. preview: pictures (B, 3, h', w') in [-1, 1] of what is believed now; cheap after the first, or by a tiny
            autoencoder (`langevin.zoo.adapting.add_preview`), which makes them as large as the result.
    """

    step: Step
    preview: Callable[[], Tensor]


@dataclass(frozen=True)
class Result:
    """Pictures, and what made them.

    Args:
        tensor: (B, 3, H, W) in [-1, 1]. latents: (B, C, h, w), or the pictures where there is no codec.
        info: prompt, seed, plan and the like, for each.
        memory: of a feature cache, what it left out; print it.
    """

    tensor: Tensor
    latents: Tensor
    info: list[dict[str, Any]]
    memory: Any = None

    @property
    def images(self) -> list[Image.Image]:
        return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in as_bytes(self.tensor)]
