"""Norms, and how an embedding modulates what they give."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from langevin.networks.blocks.common import at_least_single, recomputed, zero
from langevin.networks.linear import Linear

Norm = Callable[[int], nn.GroupNorm]
"""Makes the norm of so many channels."""


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with up to `groups` groups of at least 4 channels: a channel alone in its group would lose any constant
    added to it, and with it the level."""
    return nn.GroupNorm(math.gcd(groups, max(channels // 4, 1)), channels, eps=1e-6)


def fixed_groups(groups: int, eps: float) -> Norm:
    """Norms of so many groups, whatever the channels: those of published networks."""
    return lambda channels: nn.GroupNorm(groups, channels, eps=eps)


def four_channels(eps: float, most: int = 32) -> Norm:
    """Norms of up to `most` groups of four channels or more (NCSN++, 2011.13456)."""
    return lambda channels: nn.GroupNorm(min(channels // 4, most), channels, eps=eps)


def modulation(emb: int, width: int, vectors: int) -> nn.Sequential:
    """emb (..., E) -> (..., vectors * width), 0 at first: the shifts, scales and gates of adaLN-Zero (2212.09748)."""
    return nn.Sequential(nn.SiLU(), zero(Linear(emb, vectors * width)))


class Tabled(nn.Module):
    """Shifts, scales and gates as a table (vectors, D) that is learned, on top of an embedding (adaLN-single; PixArt, 2310.00426,
    sec. 2.3): embedding (..., D), the same for each, or (..., vectors * D) -> (..., vectors * D)."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vectors, width) / width**0.5)

    def forward(self, emb: Tensor) -> Tensor:
        return (emb.unflatten(-1, (-1, self.table.shape[1])) + self.table.to(emb.dtype)).flatten(-2)


def modulated(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """norm(x) * (1 + scale) + shift; x (B, L, D), scale and shift (B, 1 or L, D)."""
    if shift is None:
        return recomputed(lambda x, scale: norm(x) * (1 + scale), x, scale)
    return recomputed(lambda x, scale, shift: torch.addcmul(shift, norm(x), 1 + scale), x, scale, shift)


class RMSNorm(nn.RMSNorm):
    """torch's, without its warning under autocast: half-precision input is normed in the float32 of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype))).to(x.dtype)


class RootMeanSquare(nn.Module):
    """x (B, C, ...) over the root mean square of its channels, each with a scale and a shift of its own (1910.07467; DC-AE,
    2410.10733)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        over = at_least_single(x).square().mean(1, keepdim=True).add_(self.eps).rsqrt_()
        weight, bias = (p.view(-1, *[1] * (x.ndim - 2)) for p in (self.weight, self.bias))
        return torch.addcmul(bias, (x * over).to(x.dtype), weight)
