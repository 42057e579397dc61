"""The encoders of T5 (1910.10683; version 1.1) and umT5, in the form that text-to-image models read.

Shape suffixes: B batch, L tokens, D width, H heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.linear import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh")}


@dataclass(frozen=True)
class Words:
    """What an encoder says of token ids (B, L).

    Args:
        hidden: the states (B, L, D) before the first layer and after each, the last one normed.
        last: the last of them.
    """

    hidden: list[Tensor]
    last: Tensor
    pooled: None = None


class WideNorm(nn.Module):
    """Root mean square in float32; the result has the dtype of the weight."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        wide = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * wide.to(self.weight.dtype)


class T5Block(nn.Module):
    """Attention without a scale, then a feed-forward network, each behind a norm; no biases but those of positions. x (B, L, D).

    Args:
        buckets: of relative positions that the block learns a bias for, one for each head; None takes an earlier block's.
    """

    def __init__(
        self, width: int, heads: int, features: int, inner: int, activation: str, gated: bool, eps: float, buckets: int | None
    ) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm1, self.norm2 = WideNorm(width, eps), WideNorm(width, eps)
        self.qkv, self.out = Linear(width, 3 * heads * features, bias=False), Linear(heads * features, width, bias=False)
        self.positions = None if buckets is None else nn.Embedding(buckets, heads)
        self.gate = Linear(width, inner, bias=False) if gated else None
        self.grow, self.shrink = Linear(width, inner, bias=False), Linear(inner, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        act = ACTIVATIONS[self.activation]
        h = act(self.grow(h)) if self.gate is None else act(self.gate(h)) * self.grow(h)
        # the sums of this layer do not fit float16, so its weight may be wider than the rest
        return x + self.shrink(h.to(self.shrink.weight.dtype)).to(x.dtype)


class T5Encoder(nn.Module):
    """Token ids (B, L) int64 and a mask (B, L) bool, True where attended to, -> `Words`.

    Args:
        vocabulary, width, depth, heads, inner: of the transformer; XXL is 32128, 4096, 24, 64, 10240.
        features: of each head.
        activation: "relu", or "gelu" in its tanh form. gated: a second, linear half multiplies it (version 1.1).
        buckets, span: of relative positions; offsets beyond the span share one.
        everywhere: each block has biases of its own (umT5), and not the first alone.

    Raises:
        ValueError: for an unknown activation.
    """

    def __init__(
        self,
        vocabulary: int = 32128,
        width: int = 4096,
        depth: int = 24,
        heads: int = 64,
        features: int = 64,
        inner: int = 10240,
        activation: str = "gelu",
        gated: bool = True,
        buckets: int = 32,
        span: int = 128,
        eps: float = 1e-6,
        everywhere: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        self.width, self.buckets, self.span, self.everywhere = width, buckets, span, everywhere
        self.token = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            T5Block(width, heads, features, inner, activation, gated, eps, buckets if everywhere or i == 0 else None)
            for i in range(depth)
        )
        self.norm = WideNorm(width, eps)

    def places(self, length: int, device: torch.device) -> Tensor:
        """(L, L) the bucket of each offset: its own while small, shared on a logarithmic scale beyond."""
        place = torch.arange(length, device=device)
        offset = place[None, :] - place[:, None]
        half = self.buckets // 2
        exact = half // 2
        far = offset.abs()
        grown = (far.clamp(min=1).float() / exact).log() / math.log(self.span / exact) * (half - exact)
        bucket = torch.where(far < exact, far, (exact + grown.long()).clamp(max=half - 1))
        return bucket + half * (offset > 0)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Words:
        places = self.places(ids.shape[1], ids.device)
        hidden, bias = [self.token(ids)], None
        for block in self.blocks:
            assert isinstance(block, T5Block)
            if block.positions is not None:
                bias = block.positions(places).permute(2, 0, 1)[None]
                if mask is not None:
                    bias = bias + torch.where(mask[:, None, None, :].bool(), 0.0, torch.finfo(bias.dtype).min)
            assert bias is not None
            hidden.append(block(hidden[-1], bias))
        hidden[-1] = self.norm(hidden[-1])
        return Words(hidden, hidden[-1])
