"""DINOv2 (2304.07193): the vision transformer whose class token FD-DINOv2 compares (2306.04675).

Tensors are named as in its publishers' files (cls_token, blocks.0.attn.qkv.weight, ...); width, depth, patch and the kind of
its feed-forward layers are read off their shapes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.evaluate.features import colour

HEAD = 64
"""Width of a head in every published size."""


class Attention(nn.Module):
    """Self-attention over (B, L, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, width))


class MLP(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """A gated layer (2002.05202), in the giant size."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Scale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and scaled after."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, 1e-6), Attention(width), Scale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width, 1e-6), (SwiGLU if gated else MLP)(width, hidden), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Pictures to one vector per patch."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class DINOv2(nn.Module):
    """Pictures (B, 1 or 3, H, W) in [-1, 1] -> the class token after the last normalisation, (B, width).

    Args:
        width, depth: of the transformer: 384, 768, 1024 wide and 12, 12, 24 deep for S, B, L; 1536 and 40 for g.
        hidden: width inside the feed-forward layers.
        gated: SwiGLU in their place, as in g.
        patch: pixels of a patch's side.
        places: learned positions, a square number (37 x 37 as published).
        registers: register tokens (2309.16588).
        size: side in pixels that pictures are resized to.
    """

    UNUSED = ("mask_token",)
    batch = 64
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self, width: int, depth: int, hidden: int, gated: bool = False, patch: int = 14, places: int = 37 * 37,
        registers: int = 0, size: int = 224,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % HEAD:
            raise ValueError(f"width is {width}; DINOv2 has heads of {HEAD}, so give a multiple.")
        self.hash, self.size, self.patch = "", size, patch
        self.name = f"DINOv2 ViT-{ {384: 'S', 768: 'B', 1024: 'L', 1536: 'g'}.get(width, width) }/{patch}"
        self.name += f" with {registers} registers" if registers else ""
        self.resize = f"bicubic to {size}, antialiased"
        # the published networks without registers interpolate positions at a scale that is a tenth of a patch too large
        self.offset, self.antialias = (0.0, True) if registers else (0.1, False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.registers = registers
        self.patch_embed = Patches(width, patch)
        self.blocks = nn.ModuleList(Block(width, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "DINOv2":
        """The size these tensors are of.

        Raises:
            ValueError: if they are of no size.
        """
        needed = ("cls_token", "pos_embed", "patch_embed.proj.weight")
        gated = "blocks.0.mlp.w3.weight" in tensors
        inner = "blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"
        for name in (*needed, inner):
            if name not in tensors:
                raise ValueError(f"the file lacks {name!r}, which every DINOv2 has; give the publishers' tensors, unrenamed.")
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
        return cls(
            tensors["cls_token"].shape[-1], depth, tensors[inner].shape[1], gated, tensors["patch_embed.proj.weight"].shape[-1],
            tensors["pos_embed"].shape[1] - 1, registers,
        )  # fmt: skip

    def digest(self) -> str:
        return self.hash

    def _places(self, height: int, width: int) -> Tensor:
        """(1, height * width, D): the learned square of positions, stretched over this grid."""
        grid = self.pos_embed[:, 1:]
        side = round(grid.shape[1] ** 0.5)
        if (height, width) == (side, side):
            return grid
        square = grid.view(1, side, side, -1).permute(0, 3, 1, 2)
        options = {"mode": "bicubic", "antialias": self.antialias}
        if self.offset:
            options["scale_factor"] = ((height + self.offset) / side, (width + self.offset) / side)
        else:
            options["size"] = (height, width)
        return F.interpolate(square, **options).flatten(2).transpose(1, 2)

    def tokens(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W), sides multiples of the patch -> (B, 1 + registers + patches, D)."""
        x = self.patch_embed(x)
        height, width = x.shape[2:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        kept = [self.register_tokens.expand(len(x), -1, -1)] if self.registers else []
        x = torch.cat([first, *kept, x.flatten(2).transpose(1, 2) + self._places(height, width)], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(self, x: Tensor) -> Tensor:
        x = colour(x) / 255
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.MEAN, self.STD))
        return self.tokens((x - mean) / std)[:, 0]

    def probabilities(self, features: Tensor) -> Tensor | None:
        return None
