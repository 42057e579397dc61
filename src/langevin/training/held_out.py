"""The loss on data that is not trained on, always with the same noise, so that its steps can be compared."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.data import Stream
from langevin.objectives import Objective

MOST = 1024
"""Held-out samples that a loss is taken of."""


def checked(valid: Any, shape: Any) -> Any:
    """Held-out data that a loss can be taken of, `valid` itself.

    Raises:
        ValueError: if it is no data set, a stream, or of another shape than what is trained on.
    """
    if isinstance(valid, Stream) or not (hasattr(valid, "batch") and hasattr(valid, "__len__")):
        raise ValueError(f"valid is a {type(valid).__name__}; give a data set of known length, such as data.split(at)[1].")
    if valid.shape != shape:
        raise ValueError(f"valid has samples of shape {valid.shape} and the data of {shape}; give held-out samples of the same.")
    return valid


def index_of(valid: Any, batch: int) -> Iterator[Tensor]:
    """Places of at most 1,024 samples, evenly spread, in batches of one shape each."""
    n = len(valid)
    places = torch.arange(min(n, MOST)) * n // min(n, MOST)
    groups = getattr(valid, "groups", None)
    parts = [places] if groups is None else [places[groups[places] == g] for g in groups[places].unique()]
    return (piece for part in parts for piece in part.split(batch))


@torch.no_grad()
def held_out_loss(
    denoiser: Denoiser, objective: Objective, valid: Any, batch: int, seed: int, ready: Callable[[Batch], Batch]
) -> float:
    """The mean of the objective's loss, of which sample k has the levels and the noise of (seed, k) every time.

    Args:
        ready: puts a batch where the network is.
    """
    total, count = 0.0, 0
    for index in index_of(valid, batch):
        read = ready(valid.batch(index))
        n = len(next(iter(leaves(read.x).values())))
        device = next(iter(leaves(read.x).values())).device
        noise = Noise(seed, index.to(device), purpose="/valid")
        total += float(objective(denoiser, read, noise).total) * n
        count += n
    return total / count
