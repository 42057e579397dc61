"""Attention on pictures at a cost linear in their pixels.

Shape suffixes: B batch, C channels, H W height and width, L pixels, D features of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from langevin.networks.blocks.attention import attend_linearly
from langevin.networks.linear import Linear


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
        h = attend_linearly(*(part.transpose(2, 3) for part in (q, k, v)))  # (B, heads, L, D)
        h = h.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])
        return self.out(h.movedim(1, -1)).movedim(-1, 1)
