"""The memory of an update, from that of a few samples: where it ends, the system ends the program without a word."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from langevin.core.batch import Batch
from langevin.core.tree import tree_map
from langevin.devices import refuse_beyond

FEW = 4
"""Samples that are asked."""
MANY = 4096
"""Samples in a pass from which on it is asked."""
REMEDY = "take a smaller one, or more passes (accumulate)"


def refuse_large(batch: int, count: int, each: float, device: torch.device) -> None:
    """Refuse a batch of which the data alone cannot be held: `count` samples in a pass, of `each` numbers, which are there
    clean, noisy, as the network sees them and as their gradient. Raises as `refuse_beyond`."""
    refuse_beyond("batch", batch, 4 * count * each, device, REMEDY)


def refuse_unholdable(
    batch: int, count: int, some: Batch, net: nn.Module, loss: Callable[[Batch], Tensor], device: torch.device
) -> None:
    """Refuse a batch whose `count` samples in a pass leave more for the backward pass than can be held.

    Args:
        some: the samples that are asked: of `some`, the first few.
        loss: of samples.

    Raises:
        ValueError: as `refuse_beyond`.
    """
    if count < MANY or device.type != "cpu":  # a GPU says so itself
        return
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = value.untyped_storage().nbytes()
        return value

    training = net.training
    net.eval()  # averages over a batch are not to see it
    try:
        with saved_tensors_hooks(keep, lambda value: value):
            total = loss(_first(some))
        del total
    finally:
        net.train(training)
    refuse_beyond("batch", batch, sum(kept.values()) / 4 / FEW * count, device, REMEDY)


def _first(batch: Batch) -> Batch:
    def cut(value: Any) -> Any:
        return None if value is None else tree_map(lambda v: v[:FEW], value)

    return Batch(cut(batch.x), cut(batch.cond), cut(batch.mask), cut(batch.source))
