"""Transformers: DiT for pictures, and one joint network for several modalities.

Each modality enters and leaves through a port: `enter` turns its state into tokens, `levels` gives the level of each
token, `leave` turns tokens into the network's output. The trunk sees one sequence; modalities meet only there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond, Conditions, LevelEmbedding, TransformerBlock, grid_positions, zero
from langevin.networks.linear import Linear


class Port(nn.Module, ABC):
    """How one modality becomes tokens (B, L, D), and tokens become its output."""

    @abstractmethod
    def enter(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z -> tokens (B, L, D), and what `leave` wants to see again."""

    @abstractmethod
    def levels(self, level: Tensor) -> Tensor:
        """level (B,) or broadcastable to z -> (B, 1 or L)."""

    @abstractmethod
    def leave(self, h: Tensor, entered: Tensor) -> Tensor:
        """Tokens (B, L, D) -> output."""


class PicturePort(Port):
    """Pictures (B, channels, H, W) as patches, with fixed 2D sinusoid positions.

    Args:
        width: of the tokens.
        size: height and width in pixels.
        patch: side of a patch.
        out_channels: `channels` by default.
        stem: channels of a convolutional stem before the patches, whose features meet the tokens again in convolutions on
            the way out; 0 for plain patches, as in DiT. Convolutions know that neighbours are alike, which attention has
            to learn: on small data that is worth more than depth (U-ViT, 2209.12152, sec. 3.2).
    """

    def __init__(
        self, width: int, channels: int, size: tuple[int, int], patch: int, out_channels: int | None = None, stem: int = 0
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"pictures are {size[0]} x {size[1]} with patch {patch}; make patch divide both sides.")
        self.size, self.patch, self.out = size, patch, out_channels or channels
        self.stem = self.refine = None
        inner = stem or self.out
        if stem:
            convolutions = [nn.Conv2d(c, stem, 3, padding=1) for c in (channels, stem, 2 * stem)]
            self.stem = nn.Sequential(convolutions[0], nn.SiLU(), convolutions[1], nn.SiLU())
            self.refine = nn.Sequential(convolutions[2], nn.SiLU(), zero(nn.Conv2d(stem, self.out, 3, padding=1)))
        self.project = nn.Conv2d(stem or channels, width, patch, stride=patch)
        self.final = Linear(width, inner * patch**2)
        if not stem:
            zero(self.final)
        self.register_buffer("positions", grid_positions(size[0] // patch, size[1] // patch, width), persistent=False)

    def enter(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if tuple(z.shape[-2:]) != self.size:
            raise ValueError(f"pictures are {tuple(z.shape[-2:])}, this network was built for {self.size}; rebuild it so.")
        features = z if self.stem is None else self.stem(z)
        return self.project(features).flatten(2).transpose(1, 2) + self.get_buffer("positions"), features

    def levels(self, level: Tensor) -> Tensor:
        if level.ndim == 1:
            return level[:, None]
        full = level.mean(1).expand(-1, *self.size)
        return F.avg_pool2d(full[:, None], self.patch).flatten(1)

    def leave(self, h: Tensor, entered: Tensor) -> Tensor:
        rows, columns = (n // self.patch for n in self.size)
        patches = self.final(h).unflatten(2, (-1, self.patch, self.patch)).unflatten(1, (rows, columns))
        pixels = patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return pixels if self.refine is None else self.refine(torch.cat([pixels, entered], 1))


class CategoryPort(Port):
    """Categories (B,) or (B, L) int64 as one token each; logits (..., categories) out."""

    def __init__(self, width: int, states: int, categories: int, length: int | None = None) -> None:
        super().__init__()
        self.length = length
        self.embed = nn.Embedding(states, width)
        self.positions = nn.Parameter(torch.randn(length or 1, width) * 0.02)
        self.final = zero(Linear(width, categories))

    def enter(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(z.reshape(len(z), -1)) + self.positions, z

    def levels(self, level: Tensor) -> Tensor:
        return level.reshape(len(level), -1)

    def leave(self, h: Tensor, entered: Tensor) -> Tensor:
        out = self.final(h)
        return out[:, 0] if self.length is None else out


class JointTransformer(nn.Module):
    """One transformer over the tokens of all its ports (adaLN-Zero per token, so every token has its own level).

    Args:
        ports: by leaf name; a single port named "" takes and returns bare tensors.
        width, depth, heads: of the trunk.
        classes, tokens, scalars: conditions, as for `UNet`.
    """

    def __init__(
        self,
        ports: Mapping[str, Port],
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        classes: int | None = None,
        tokens: int | None = None,
        scalars: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.names = list(ports)
        self.ports = nn.ModuleList(ports.values())
        self.level = LevelEmbedding(width)
        self.kind = nn.Parameter(torch.randn(len(self.names), width) * 0.02)
        self.conditions = Conditions(width, classes, tokens, scalars)
        context = None if tokens is None else width
        self.trunk = nn.ModuleList(TransformerBlock(width, heads, width, dropout, context) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), zero(Linear(width, 2 * width)))

    def forward(self, z: Any, level: Any, cond: Cond = None, mask: Tensor | None = None) -> Any:
        """z and level by leaf (bare for the port ""); outputs likewise. mask (B, tokens) hides padded tokens."""
        states = z if isinstance(z, Mapping) else {"": z}
        levels = level if isinstance(level, Mapping) else {"": level}
        hs, embs, entered = [], [], []
        for name, port, kind in zip(self.names, self.ports, self.kind, strict=True):
            assert isinstance(port, Port)
            h, seen = port.enter(states[name])
            entered.append(seen)
            hs.append(h + kind)
            embs.append(self.level(port.levels(levels[name])) + kind)
        if len(embs) > 1:
            embs = [e.expand(-1, h.shape[1], -1) for e, h in zip(embs, hs, strict=True)]
        h, emb = torch.cat(hs, 1), torch.cat(embs, 1)
        vector, context = self.conditions(cond, len(h), h.device)
        if vector is not None:
            emb = emb + vector[:, None]
        if mask is not None and mask.shape != h.shape[:2]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} for {tuple(h.shape[:2])} tokens; mark each token, or pass none."
            )
        for block in self.trunk:
            h = block(h, emb, context, mask)
        shift, scale = self.modulation(emb).chunk(2, dim=-1)
        h = self.norm(h) * (1 + scale) + shift
        parts = h.split([part.shape[1] for part in hs], dim=1)
        out = {}
        for name, port, part, seen in zip(self.names, self.ports, parts, entered, strict=True):
            assert isinstance(port, Port)
            out[name] = port.leave(part, seen)
        return out if isinstance(z, Mapping) else out[""]


class DiT(nn.Module):
    """Diffusion transformer on pictures (2212.09748): patches, adaLN-Zero, labels or tokens as conditions.

    Args:
        channels: of the pictures.
        size: height and width.
        patch: side of a patch.
        width, depth, heads: of the trunk (S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16; XL 1152, 28, 16).
        classes, tokens, scalars: conditions, as for `UNet`.
        out_channels: `channels` by default.
        stem: see `PicturePort`; 0 for the published architecture.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int | tuple[int, int] = 32,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        dropout: float = 0.0,
        classes: int | None = None,
        tokens: int | None = None,
        out_channels: int | None = None,
        stem: int = 0,
        scalars: Sequence[str] = (),
    ) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        port = PicturePort(width, channels, sides, patch, out_channels, stem)
        self.joint = JointTransformer({"": port}, width, depth, heads, dropout, classes, tokens, scalars)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, channels, H, W); level (B,) or broadcastable to z; (B, out_channels, H, W)."""
        return self.joint(z, level, cond, mask)
