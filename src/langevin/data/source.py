"""What a data set has to be."""

from typing import Any, Protocol

from torch import Tensor

from langevin.core.batch import Batch


class Source(Protocol):
    """What training needs of data. Anything with these three members will do.

    A source may have more, and is then used for more:

    - `digest() -> str`: a hash of everything that `batch` can give, for protocol cards and caches.
    - `groups`, (N,) int64 or None: samples of different groups have different shapes and never share a batch.
    - `augment(batch, noise) -> Batch`: what training changes at random in a batch, from `noise` alone. `batch` itself
      gives the samples as they are.
    - `conditions(index) -> dict | None`: what `batch` gives as cond, at less cost.
    - `captions`, a list of N str or None: what an encoder turns into conditions, see `langevin.data.cached`.
    - `labels`, (N,) int64 or None, given by `batch` as cond["label"].
    """

    @property
    def shape(self) -> Any:
        """Shape of one sample (a dict by leaf for a product). With groups, that of the square one."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch:
        """The samples at index (B,) int64, all of one group."""
        ...
