"""Settings of latents: which autoencoder a run's pictures go through. Imports no torch."""

from typing import Literal

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
