"""What of an update is not finite: the sample and the tensor to look at, where a norm alone says that something is."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.tree import leaves
from langevin.training.refusals import listed
from langevin.training.sharding import own

MOST = 8
"""Names in one sentence."""


def blame(
    batches: Sequence[tuple[Batch, Tensor]], losses: Sequence[Mapping[str, Tensor]], players: Iterable[tuple[str, nn.Parameter]]
) -> str:
    """A sentence's part about the first of these that has something not finite: the batches, weights, losses, gradients.

    Of sharded weights this process looks at its own part, and sends nothing.

    Args:
        batches: what this process read, each with the ids (n,) of its samples.
        losses: of each batch, by leaf, (N,); N is n but where levels differ within a sample.
        players: weights by name, with their gradients.
    """
    for batch, ids in batches:
        if found := [f"{name} of {_samples(ids[bad])}" for name, value in _tensors(batch) if (bad := _bad(value)).any()]:
            return f"{listed(found, MOST)} is not finite"
    named = list(players)
    if odd := [name for name, p in named if not bool(own(p.detach()).isfinite().all())]:
        return f"the weight {listed(odd, MOST)} is not finite already"
    for each, (_, ids) in zip(losses, batches, strict=True):
        for name, loss in each.items():
            if len(loss) == len(ids) and (bad := _bad(loss)).any():
                of = f" of leaf {name!r}" if name else ""
                return f"the loss{of} of {_samples(ids[bad])} is not finite, though batch and weights are"
    # where the loss is not finite no gradient is, and their names say nothing
    if odd := [name for name, p in named if p.grad is not None and not bool(own(p.grad).isfinite().all())]:
        return "" if len(odd) == len(named) > 1 else f"the gradient of {listed(odd, MOST)} is not finite"
    norms = {name: float(own(p.grad).norm()) for name, p in named if p.grad is not None}
    return f"the largest gradient is that of {max(norms, key=lambda name: norms[name])}" if norms else ""


def _tensors(batch: Batch) -> Iterable[tuple[str, Tensor]]:
    yield from ((f"leaf {name!r}" if name else "x", value) for name, value in leaves(batch.x).items())
    yield from ((f"condition {name!r}", value) for name, value in (batch.cond or {}).items())
    if batch.source is not None:
        yield from ((f"source {name!r}" if name else "source", value) for name, value in leaves(batch.source).items())


def _bad(value: Tensor) -> Tensor:
    """(B,) whether a sample holds a number that is none."""
    if not value.is_floating_point():
        return torch.zeros(len(value), dtype=torch.bool)
    return ~value.detach().isfinite().reshape(len(value), -1).all(1).cpu()


def _samples(ids: Tensor) -> str:
    return f"sample {int(ids)}" if len(ids) == 1 else f"samples {listed(ids.tolist(), MOST)}"
