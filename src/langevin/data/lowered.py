"""Pictures with smaller copies of themselves as a condition."""

import hashlib
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.data.source import Source


class Lowered:
    """A source of pictures (C, H, W), each with cond["low"], the averages of its patches of `factor` pixels a side.

    Args:
        source: its own conditions are left out.

    Raises:
        ValueError: if the samples are no pictures of one shape whose sides `factor` divides.
    """

    def __init__(self, source: Source, factor: int) -> None:
        shape = source.shape
        if not isinstance(shape, tuple) or len(shape) != 3 or getattr(source, "groups", None) is not None:
            raise ValueError(f"samples have shape {shape}; small copies are made of pictures (C, H, W) of one shape.")
        if factor < 2 or shape[1] % factor or shape[2] % factor:
            raise ValueError(f"factor is {factor} for pictures of {shape[1]} x {shape[2]}; give one from 2 that divides both.")
        self.source, self.factor, self.shape = source, factor, shape
        self.flip = getattr(source, "flip", False)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, index: Tensor) -> Batch:
        return self._lowered(self.source.batch(index))

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it: the small copies are of pictures that the source has changed at random."""
        own = getattr(self.source, "augment", None)
        return batch if own is None else self._lowered(own(batch, noise))

    def _lowered(self, read: Batch) -> Batch:
        return replace(read, cond={"low": F.avg_pool2d(leaves(read.x)[""], self.factor)})

    def digest(self) -> str:
        """Hash of the source, which needs one of its own, and of the factor."""
        said = f"{self.source.digest()} lowered {self.factor}"  # pyright: ignore[reportAttributeAccessIssue]
        return hashlib.sha256(said.encode()).hexdigest()[:16]
