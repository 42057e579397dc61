"""Blocks on tokens.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

from torch import Tensor, nn

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
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
