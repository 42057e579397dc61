"""Training: from a denoiser, data and an objective to a run directory that nothing can lose."""

from langevin.config import TrainConfig
from langevin.training.checkpoint import load_latest
from langevin.training.ema import Ema
from langevin.training.trainer import Trainer, fit

__all__ = ["Ema", "TrainConfig", "Trainer", "fit", "load_latest"]
