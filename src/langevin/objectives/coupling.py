"""Couplings: which noise meets which data in a training batch."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Coupling(ABC):
    """Pairs a batch of data with a batch of noise, by reordering the noise."""

    @abstractmethod
    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None) -> Tensor:
        """e (B, ...) reordered to meet x (B, ...)."""


class Independent(Coupling):
    """Noise meets data as drawn; the only coupling whose marginals are those of the Gaussian process."""

    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None) -> Tensor:
        return e


class OptimalTransport(Coupling):
    """Minibatch optimal transport: the exact assignment of least squared distance (2302.00482; 2304.14772).

    Within each class where labels are given: a plan over the whole batch would bias noise given the class.
    Needs scipy (extra `metrics`).
    """

    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None) -> Tensor:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise ImportError("optimal transport needs scipy; install the extra: pip install 'langevin[metrics]'.") from None
        out = e.clone()
        groups = torch.zeros(len(x), dtype=torch.int64) if label is None else label.cpu()
        for value in groups.unique():
            index = (groups == value).nonzero()[:, 0].to(x.device)
            cost = torch.cdist(x[index].flatten(1).double(), e[index].flatten(1).double()) ** 2
            rows, columns = linear_sum_assignment(cost.cpu().numpy())
            out[index[torch.from_numpy(rows)]] = e[index[torch.from_numpy(columns)]]
        return out
