"""The typed settings of a training run. Imports no torch, so that the command line can show them at once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Closed(BaseModel):
    """A closed schema: unknown fields are errors, and a value cannot change after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainConfig(Closed):
    """How to train."""

    steps: int = Field(default=2000, ge=1)
    """Optimiser updates."""
    batch: int = Field(default=64, ge=1)
    """Samples per update (divided over `accumulate` passes)."""
    accumulate: int = Field(default=1, ge=1)
    """Passes per update; must divide batch."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup: int = Field(default=100, ge=0)
    """Updates over which the rate rises to lr."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the rate does after the warm-up; cosine falls to 0 at the last update."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decay, on weights with two or more axes only."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's moments."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the weight average per update, ramped up as (1 + k) / (10 + k)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the network under autocast."""
    seed: int = 0
    """Names every random choice of the run."""
    save_every: int = Field(default=500, ge=1)
    """Updates between checkpoints."""
    keep: int = Field(default=2, ge=2)
    """Checkpoints kept."""
    preview_every: int = Field(default=500, ge=1)
    """Updates between sample grids."""
    log_every: int = Field(default=10, ge=1)
    """Updates between lines of the log."""
