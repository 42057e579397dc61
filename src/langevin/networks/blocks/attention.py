"""Attention of tokens to tokens.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import zero
from langevin.networks.linear import Linear, transformed


class Attention(nn.Module):
    """Multi-head attention of x (B, L, D) to itself, or to context (B, M, E).

    Args:
        bias: of queries, keys and values; what comes out always has one.
    """

    def __init__(self, width: int, heads: int, context: int | None = None, zero_out: bool = False, bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width} for {heads} heads; make width a multiple of heads.")
        self.heads = heads
        self.query = Linear(width, width, bias)
        self.key_value = Linear(width if context is None else context, 2 * width, bias)
        self.out = zero(Linear(width, width)) if zero_out else Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask (B, M) bool, True where attended to."""
        source = x if context is None else context
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        keep = None if mask is None else mask[:, None, None, :]
        h = _attend(q, k, v, keep)
        return self.out(h.transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with heads as the second axis; written out where torch's own lacks a forward derivative."""
    if not transformed():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if keep is None else scores.masked_fill(~keep, -math.inf)
    return scores.softmax(-1) @ v
