"""Blocks on tokens.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.feedforward import Gated, GatedConvolution, gelu_forward
from langevin.networks.blocks.norms import Tabled, modulation
from langevin.networks.linear import Linear


@dataclass(frozen=True)
class BlockForm:
    """Where the blocks of published transformers differ from DiT's.

    Args:
        single: the embedding is projected once for all blocks, to which each adds a table of its own (PixArt).
        linear: attention to itself is linear in the number of tokens (Sana).
        convolution: the feed-forward's inner features over the width where it is a gated convolution; None for two layers with
            GELU, four times the width.
        bias: of queries, keys and values in attention to itself.
        norm: eps of the norms of queries and keys, across heads; None for none.
        cross_heads: of attention to context; as many as of attention to itself by default.
        eps: of the norms before attention and before the feed-forward.
    """

    single: bool = False
    linear: bool = False
    convolution: float | None = None
    bias: bool = True
    norm: float | None = None
    cross_heads: int | None = None
    eps: tuple[float, float] = (1e-6, 1e-6)


PLAIN = BlockForm()
"""DiT's blocks."""


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, modulated by adaLN-Zero (DiT, 2212.09748, fig. 3). x (B, L, D), emb (B, 1 or L, E).

    Args:
        emb: E, or 6 D where the form is `single`.
        context: features of the tokens to attend to as well, None for none.
    """

    def __init__(self, width: int, heads: int, emb: int, dropout: float, context: int | None, form: BlockForm = PLAIN) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=eps) for eps in form.eps)
        self.attention = Attention(width, heads, bias=form.bias, norm=form.norm, linear=form.linear)
        if form.convolution is None:
            self.feed: nn.Module = gelu_forward(width, 4 * width, dropout)
        else:
            self.feed = GatedConvolution(width, int(form.convolution * width))
        self.modulation = Tabled(width, 6) if form.single else modulation(emb, width, 6)
        self.cross = None
        if context is not None:
            self.cross = Attention(width, form.cross_heads or heads, context, zero_out=True, norm=form.norm)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """mask (B, L) and context_mask (B, M) bool, True where attended to; grid: rows, columns of the tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb).chunk(6, dim=-1)
        x = _added(x, gate1, self.attention(_entering(self.norm1, x, scale1, shift1), mask=mask))
        if self.cross is not None:
            x = x + self.cross(x, context, context_mask)
        h = _entering(self.norm2, x, scale2, shift2)
        if isinstance(self.feed, GatedConvolution):
            assert grid is not None
            return _added(x, gate2, self.feed(h, grid))
        return _added(x, gate2, self.feed(h))


# in one pass over memory where nothing is learned; by products and sums where it is, so that a run that was begun with them goes
# on with the same bits
def _entering(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return torch.addcmul(shift, norm(x), 1 + scale)
    return recomputed(lambda x, scale, shift: norm(x) * (1 + scale) + shift, x, scale, shift)


def _added(x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    return x + gate * h if torch.is_grad_enabled() else torch.addcmul(x, gate, h)


class ReadingBlock(nn.Module):
    """Pre-norm attention to itself, then to tokens, then a gated feed-forward network (LDM, 2112.10752, sec. E.2.1).

    Args:
        context: features of the tokens.
        cross_only: the first attention reads the tokens too.
    """

    def __init__(self, width: int, heads: int, context: int, cross_only: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross_only = cross_only
        self.attention = Attention(width, heads, context if cross_only else None, bias=False)
        self.cross = Attention(width, heads, context, bias=False)
        self.feed = Gated(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, L, D), context (B, M, E), mask (B, M) bool, True where attended to."""
        h = self.norm1(x)
        x = x + (self.attention(h, context, mask) if self.cross_only else self.attention(h))
        x = x + self.cross(self.norm2(x), context, mask)
        return x + self.feed(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of (B, C, H, W), which read tokens (LDM, 2112.10752, fig. 3)."""

    def __init__(self, channels: int, heads: int, depth: int, context: int, groups: int = 32, cross_only: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.enter, self.leave = Linear(channels, channels), zero(Linear(channels, channels))
        self.blocks = nn.ModuleList(ReadingBlock(channels, heads, context, cross_only) for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.enter(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, context, mask)
        return x + self.leave(h).transpose(1, 2).unflatten(2, x.shape[2:])
