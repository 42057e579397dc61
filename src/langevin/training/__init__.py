"""Training: from a denoiser, data and an objective to a run directory that nothing can lose."""

from langevin.config import TrainConfig
from langevin.files import DiskFull
from langevin.training.checkpoint import Checkpoint, load_latest
from langevin.training.ema import Ema
from langevin.training.fitting import fit
from langevin.training.lock import Lock
from langevin.training.model import Model
from langevin.training.saving import Checkpoints, Patience
from langevin.training.trainer import Trainer

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "DiskFull",
    "Ema",
    "Lock",
    "Model",
    "Patience",
    "TrainConfig",
    "Trainer",
    "fit",
    "load_latest",
]
