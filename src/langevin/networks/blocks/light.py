"""Attention and feed-forward networks on pictures, at a cost linear in their pixels.

Shape suffixes: B batch, C channels, H W height and width, L pixels, D features of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import at_least_single, silu
from langevin.networks.linear import Linear


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """Attention with ReLU(q) . ReLU(k) as the weight of each pixel, in float32 at least (2006.16236; EfficientViT, 2205.14756).

    Args:
        q, k: (B, heads, D, L). v: (B, heads, D', L).

    Returns:
        (B, heads, D', L), float32 or wider.
    """
    q, k = F.relu(at_least_single(q)), F.relu(at_least_single(k))
    sums = F.pad(at_least_single(v), (0, 0, 0, 1), value=1.0) @ k.transpose(-1, -2)  # the last row adds up the weights
    made = sums @ q
    return made[..., :-1, :] / (made[..., -1:, :] + eps)


class Multiscale(nn.Module):
    """Linear attention of (B, C, H, W), some of whose heads see queries, keys and values averaged over their surroundings
    (EfficientViT, 2205.14756, sec. 3.1). C -> C, without the residual.

    Args:
        head: D.
        sizes: of the surroundings; each adds as many heads as there are without.
    """

    def __init__(self, channels: int, head: int, sizes: Sequence[int] = (5,)) -> None:
        super().__init__()
        if channels < head:
            raise ValueError(f"head is {head} for {channels} channels; make it {channels} at most.")
        self.head = head
        heads = channels // head
        width = heads * head
        self.qkv = Linear(channels, 3 * width, bias=False)
        self.near = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * width, 3 * width, size, padding=size // 2, groups=3 * width, bias=False),
                nn.Conv2d(3 * width, 3 * width, 1, groups=3 * heads, bias=False),
            )
            for size in sizes
        )
        self.out = Linear(width * (1 + len(sizes)), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.movedim(1, -1)).movedim(-1, 1)
        told = torch.cat([qkv, *(near(qkv) for near in self.near)], dim=1)
        q, k, v = told.flatten(2).unflatten(1, (-1, 3 * self.head)).chunk(3, dim=2)
        h = linear_attention(q, k, v).to(x.dtype).flatten(1, 2).unflatten(2, x.shape[2:])
        return self.out(h.movedim(1, -1)).movedim(-1, 1)


class GatedConvolution(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): more channels, each convolved by itself, half of which gate the others (GLUMBConv of Sana,
    2410.10629). Without the residual."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.grow = nn.Conv2d(channels, 2 * inner, 1)
        self.depth = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.shrink = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.depth(silu(self.grow(x))).chunk(2, dim=1)
        return self.shrink(h * F.silu(gate))
