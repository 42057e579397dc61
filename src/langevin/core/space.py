"""Spaces: where data and noise live. Symmetries and padding are enforced here and nowhere else."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Space(ABC):
    """A linear subspace (or a set of ties) in which states, data and noise all lie.

    `mask` (B, N) bool marks the real nodes of padded sets; None means that all are real.
    """

    @abstractmethod
    def project(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """The nearest member of the space to u; independent draws become draws in the space."""

    def real(self, like: Tensor, mask: Tensor | None) -> Tensor | None:
        """Bool, broadcastable to `like`: its elements that say something, no padding and no diagonal; None for all."""
        return None if mask is None else mask.reshape(*mask.shape, *[1] * (like.ndim - 2))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Euclidean(Space):
    """All of R^n, or all strings of categories. With a mask, axis 1 counts nodes and padded ones are 0."""

    def project(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return u if mask is None else u * mask.reshape(*mask.shape, *[1] * (u.ndim - 2)).to(u.dtype)


class Centred(Space):
    """Points (B, N, D) with their centre of mass at zero, for translation-invariant densities (2203.17003, sec. 3.2)."""

    def project(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return u - u.mean(1, keepdim=True)
        m = mask[..., None].to(u.dtype)
        return (u - (u * m).sum(1, keepdim=True) / m.sum(1, keepdim=True)) * m


class SymmetricEdges(Space):
    """Edges (B, N, N) or (B, N, N, D) of undirected graphs: the upper triangle is free, the diagonal is 0."""

    def project(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        free = torch.where(_along(_pairs(u, mask).triu(1), u), u, torch.zeros_like(u))
        return free + free.transpose(1, 2)

    def real(self, like: Tensor, mask: Tensor | None) -> Tensor:
        return _along(_pairs(like, mask), like)


def _pairs(like: Tensor, mask: Tensor | None) -> Tensor:
    """(B or 1, N, N) bool, the pairs of two real nodes."""
    pairs = ~torch.eye(like.shape[1], dtype=torch.bool, device=like.device)[None]
    return pairs if mask is None else pairs & mask[:, :, None] & mask[:, None, :]


def _along(pairs: Tensor, like: Tensor) -> Tensor:
    return pairs.reshape(*pairs.shape, *[1] * (like.ndim - 3))
