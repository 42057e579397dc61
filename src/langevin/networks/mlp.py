"""A residual multilayer perceptron for vectors, and adapters that let picture networks take categories, or beliefs about them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond, Conditions, sinusoid, zero
from langevin.networks.linear import Linear


class MLP(nn.Module):
    """Residual layers on vectors (B, features), modulated by level and label.

    Args:
        features: of the input. width, depth: of the hidden layers.
        classes: number of labels for cond["label"]. scalars: names of further conditions (B,); see `Conditions`.
    """

    def __init__(
        self, features: int = 2, width: int = 128, depth: int = 4, classes: int | None = None, scalars: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.features, self.waves = features, 32
        self.enter = Linear(features, width)
        self.level = nn.Sequential(Linear(features * self.waves, width), nn.SiLU(), Linear(width, width))
        self.conditions = Conditions(width, classes, scalars=scalars)
        self.layers = nn.ModuleList(Linear(width, width) for _ in range(depth))
        self.modulation = nn.ModuleList(zero(Linear(width, 2 * width)) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth))
        self.leave = Linear(width, features)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, features); level (B,) or (B, features); (B, features)."""
        if z.ndim != 2 or z.shape[1] != self.features:
            raise ValueError(
                f"states are {tuple(z.shape)}, and this MLP reads rows (B, {self.features}); build it so for others, and "
                "networks.UNet or DiT for pictures."
            )
        levels = (level[:, None] if level.ndim == 1 else level).expand(-1, self.features)
        emb = self.level(sinusoid(levels, self.waves).flatten(1).to(self.enter.weight.dtype))
        vector, _ = self.conditions(cond, len(z), z.device)
        emb = F.silu(emb if vector is None else emb + vector)
        h = self.enter(z)
        for layer, modulation, norm in zip(self.layers, self.modulation, self.norms, strict=True):
            scale, shift = modulation(emb).chunk(2, dim=-1)
            h = h + layer(F.silu(norm(h) * (1 + scale) + shift))
        return self.leave(F.silu(h))


class PixelCategories(nn.Module):
    """Lets a picture network read categories (B, C, H, W) int64 and answer with K numbers each, (B, C, H, W, K): logits, or
    what else a prediction reads (`langevin.heads.outputs`).

    Args:
        net: a picture network with C * width input and C * K output channels.
        states: of the process (one more than categories where there is a mask).
        categories: K, those of the data for logits. size: (C, H, W). width: features per embedded pixel.
    """

    def __init__(self, net: nn.Module, states: int, categories: int, size: tuple[int, int, int], width: int = 16) -> None:
        super().__init__()
        self.net, self.categories = net, categories
        self.embed = nn.Embedding(states, width)
        # neighbours in value start as neighbours in the embedding: grey levels are ordered
        ramp = torch.linspace(0, 3, states)[:, None] * torch.arange(1, width + 1)
        with torch.no_grad():
            self.embed.weight.copy_(torch.cos(ramp))
        self.bias = nn.Parameter(torch.zeros(*size, categories))

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        h = self.embed(z).permute(0, 1, 4, 2, 3).flatten(1, 2)
        if level.ndim > 1:
            level = level.mean(1, keepdim=True)
        out = self.net(h, level, cond, mask)
        return out.unflatten(1, (z.shape[1], self.categories)).permute(0, 1, 3, 4, 2) + self.bias


class PixelBeliefs(nn.Module):
    """Lets a picture network read K probabilities a pixel, (B, C, H, W, K), and answer with as many logits.

    Args:
        net: a picture network with C * K input and output channels.
        categories: K. size: (C, H, W).
    """

    def __init__(self, net: nn.Module, categories: int, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.net, self.categories = net, categories
        self.bias = nn.Parameter(torch.zeros(*size, categories))

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        if level.ndim > 1:  # levels that differ are those of whole pixels
            level = level[..., 0].mean(1, keepdim=True)
        out = self.net(z.permute(0, 1, 4, 2, 3).flatten(1, 2), level, cond, mask)
        return out.unflatten(1, (z.shape[1], self.categories)).permute(0, 1, 3, 4, 2) + self.bias
