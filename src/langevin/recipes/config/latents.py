"""Settings of latents: which autoencoder a run's pictures go through, and how one is trained. Imports no torch."""

from typing import Literal

from pydantic import Field

from langevin.config import Closed


class CodecConfig(Closed):
    """An autoencoder, whose latents a run learns in place of pixels. See `langevin.recipes.latents`."""

    origin: str | None = None
    """A published autoencoder (folder, file or id; of a whole model its vae/), or a run of one; None learns pixels."""
    scale: Literal["auto", "own", "measured"] = "auto"
    """How latents come to unit variance: by the autoencoder's own numbers, or by those of training pictures; auto is its own for
    a published one, measured for a run."""
    dtype: Literal["float16", "float32"] = "float16"
    """What latents are kept in, in the run directory."""


class UntouchedConfig(Closed):
    """Nothing destroys the data: of autoencoders, which have no levels and no samples."""

    kind: Literal["none"] = "none"


class AutoencoderConfig(Closed):
    """See `langevin.networks.Autoencoder`: of the layout of Stable Diffusion's (AutoencoderKL), small."""

    kind: Literal["autoencoder"] = "autoencoder"
    width: int = Field(default=32, ge=4)
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Of the width, at each resolution; each after the first halves the sides."""
    blocks: int = Field(default=1, ge=1)
    latents: int = Field(default=4, ge=1)
    """Channels of the latents."""
    attention: bool = True
    """Whether the middle attends."""
