"""A batch of training data."""

from dataclasses import dataclass

from torch import Tensor

from langevin.core.denoiser import Cond
from langevin.core.tree import Tree


@dataclass(frozen=True)
class Batch:
    """Training data.

    Args:
        x: (B, *shape), or a dict of them by leaf.
        cond: conditions by name, each (B, ...).
        mask: (B, N) bool, the real nodes of padded sets.
        source: like x, where the path of each sample begins: data of another kind, or the noise it was made from. Without it
            paths begin at fresh noise.
    """

    x: Tree
    cond: Cond = None
    mask: Tensor | None = None
    source: Tree | None = None
