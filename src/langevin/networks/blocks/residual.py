"""Blocks on pictures: residual convolutions, and attention over pixels.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

import torch
from torch import Tensor, nn

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, silu, zero
from langevin.networks.blocks.norms import Norm, group_norm
from langevin.networks.convolution import Conv2d
from langevin.networks.linear import Linear


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; the embedding enters; norm, SiLU, conv. x (B, C, H, W), emb (B, 1 or H, 1 or W, E).

    Args:
        emb: E; None for blocks that are told no level, as those of autoencoders.
        time: "scale_shift" modulates the second norm, "add" adds to its input.
        norm: makes the norms.
        scale: what the sum is divided by: 2 ** 0.5 keeps its variance (NCSN++, 2011.13456, app. H).
        resample: changes the resolution of x and, behind the first norm, of what is convolved (BigGAN, 1809.11096, fig. 15).
        project: x passes a convolution of size 1 even if the channels stay as they are.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        emb: int | None,
        dropout: float = 0.0,
        time: str = "add",
        norm: Norm = group_norm,
        scale: float = 1.0,
        resample: nn.Module | None = None,
        project: bool = False,
    ) -> None:
        super().__init__()
        if time not in ("scale_shift", "add"):
            raise ValueError(f"time is {time!r}; the level enters by 'scale_shift' or 'add'.")
        self.time, self.scale, self.resample = time, scale, resample
        self.norm1, self.conv1 = norm(channels), Conv2d(channels, out, 3, padding=1)
        self.emb = None if emb is None else Linear(emb, 2 * out if time == "scale_shift" else out)
        self.norm2, self.conv2 = norm(out), zero(Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if channels == out and not project else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = recomputed(lambda x: silu(self.norm1(x)), x)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        if self.emb is None or emb is None:
            h = recomputed(lambda h: silu(self.norm2(h)), h)
        else:
            h = recomputed(self._enter, h, self.emb(emb).permute(0, 3, 1, 2))
        out = _added(self.conv2(self.dropout(h)), self.skip(x))
        return out if self.scale == 1 else out / self.scale

    def _enter(self, h: Tensor, e: Tensor) -> Tensor:
        if self.time == "add":
            return silu(self.norm2(h + e))
        scale, shift = e.chunk(2, dim=1)
        return silu(self.norm2(h) * (1 + scale) + shift)


def _added(h: Tensor, x: Tensor) -> Tensor:
    """h + x, in the memory of h where no gradient will ask for it."""
    return h + x if torch.is_grad_enabled() or h.dtype != x.dtype else h.add_(x)


class SpatialAttention(nn.Module):
    """Attention over the pixels of (B, C, H, W), to themselves and then, if given, to context tokens.

    Args:
        norm: makes the norm before it; None for none.
        scale: what the sum with the pixels is divided by.
    """

    def __init__(
        self, channels: int, heads: int, context: int | None, norm: Norm | None = group_norm, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.norm, self.scale = nn.Identity() if norm is None else norm(channels), scale
        self.attention = Attention(channels, heads, zero_out=True)
        self.cross_norm = None if context is None else nn.LayerNorm(channels)
        self.cross = None if context is None else Attention(channels, heads, context, zero_out=True)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2).contiguous()  # else each layer that reads it keeps a copy
        h = x.flatten(2).transpose(1, 2) + self.attention(h)
        h = h if self.scale == 1 else h / self.scale
        if self.cross is not None and self.cross_norm is not None:
            h = h + self.cross(self.cross_norm(h), context, mask)
        if x.is_contiguous(memory_format=torch.channels_last):
            return h.transpose(1, 2).unflatten(2, x.shape[2:])
        return h.transpose(1, 2).reshape(x.shape)
