"""Blocks on tokens.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

from torch import Tensor, nn

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.feedforward import Gated
from langevin.networks.linear import Linear


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, modulated by adaLN-Zero (DiT, 2212.09748, fig. 3). x (B, L, D), emb (B, 1 or L, E)."""

    def __init__(self, width: int, heads: int, emb: int, dropout: float, context: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.feed = nn.Sequential(
            Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Dropout(dropout), Linear(4 * width, width)
        )
        self.modulation = nn.Sequential(nn.SiLU(), zero(Linear(emb, 6 * width)))
        self.cross = None if context is None else Attention(width, heads, context, zero_out=True)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb).chunk(6, dim=-1)
        h = recomputed(lambda x, scale, shift: self.norm1(x) * (1 + scale) + shift, x, scale1, shift1)
        x = x + gate1 * self.attention(h, mask=mask)
        if self.cross is not None:
            x = x + self.cross(x, context)
        h = recomputed(lambda x, scale, shift: self.norm2(x) * (1 + scale) + shift, x, scale2, shift2)
        return x + gate2 * self.feed(h)


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
