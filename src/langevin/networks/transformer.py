"""Transformers: DiT for pictures, and one joint network for several modalities.

Each modality enters and leaves through a port: `enter` turns its state into tokens, `levels` gives the level of each
token, `leave` turns tokens into the network's output. The trunk sees one sequence; modalities meet only there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import (
    PLAIN,
    BlockForm,
    Captions,
    Cond,
    Conditions,
    LevelEmbedding,
    Sinusoid,
    Tabled,
    TransformerBlock,
    grid_positions,
    kept_positions,
    modulation,
    zero,
)
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


@dataclass(frozen=True)
class Places:
    """How published image transformers tell patches apart.

    Args:
        span: positions run over 0 .. span along both sides, whatever the picture's size; None for no positions, where
            convolutions tell neighbours.
    """

    span: float | None


class PicturePort(Port):
    """Pictures (B, channels, H, W) as patches, with fixed 2D sinusoid positions.

    Args:
        width: of the tokens.
        size: height and width in pixels, which pictures must have; where there are `places`, the usual ones.
        patch: side of a patch.
        out_channels: `channels` by default.
        stem: channels of a convolutional stem before the patches, whose features meet the tokens again in convolutions on
            the way out; 0 for plain patches, as in DiT. Convolutions know that neighbours are alike, which attention has
            to learn: on small data that is worth more than depth (U-ViT, 2209.12152, sec. 3.2).
        places: positions for pictures of any size, in place of the fixed ones.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        size: tuple[int, int],
        patch: int,
        out_channels: int | None = None,
        stem: int = 0,
        places: Places | None = None,
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"pictures are {size[0]} x {size[1]} with patch {patch}; make patch divide both sides.")
        self.size, self.patch, self.out, self.places = size, patch, out_channels or channels, places
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
        if places is None:
            self.register_buffer("positions", grid_positions(size[0] // patch, size[1] // patch, width), persistent=False)

    def enter(self, z: Tensor) -> tuple[Tensor, Tensor]:
        sides = tuple(z.shape[-2:])
        if self.places is None and sides != self.size:
            raise ValueError(f"pictures are {sides}, this network was built for {self.size}; rebuild it so.")
        if any(n % self.patch for n in sides):
            raise ValueError(f"pictures are {sides[0]} x {sides[1]} for patches of {self.patch}; make the sides multiples.")
        features = z if self.stem is None else self.stem(z)
        tokens = self.project(features).flatten(2).transpose(1, 2)
        if self.places is None:
            return tokens + self.get_buffer("positions"), features
        if self.places.span is None:
            return tokens, features
        table = kept_positions(*self.grid(features), tokens.shape[2], self.places.span, tokens.device, tokens.dtype)
        return tokens + table, features

    def grid(self, entered: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return entered.shape[-2] // self.patch, entered.shape[-1] // self.patch

    def levels(self, level: Tensor) -> Tensor:
        if level.ndim == 1:
            return level[:, None]
        full = level.mean(1, keepdim=True)
        if self.places is None:
            full = full.expand(-1, 1, *self.size)
        elif full.shape[-2:] == (1, 1):
            return full.flatten(1)
        return F.avg_pool2d(full, self.patch).flatten(1)

    def leave(self, h: Tensor, entered: Tensor) -> Tensor:
        rows, columns = self.grid(entered)
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


class VectorPort(Port):
    """Vectors (B, L, features) as one token each, such as embedded words, with learned positions.

    Args:
        length: L, the most tokens.
        out_features: `features` by default; the number of categories for logits.
    """

    def __init__(self, width: int, features: int, length: int, out_features: int | None = None) -> None:
        super().__init__()
        self.project = nn.Sequential(Linear(features, width), nn.SiLU(), Linear(width, width))
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        out = out_features or features
        self.final = nn.Sequential(Linear(width, width), nn.SiLU(), zero(Linear(width, out)))

    def enter(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.shape[1] > len(self.positions):
            raise ValueError(f"there are {z.shape[1]} vectors, this network was built for {len(self.positions)}; rebuild it so.")
        return self.project(z) + self.positions[: z.shape[1]], z

    def levels(self, level: Tensor) -> Tensor:
        # the coordinates of one vector are known together, or not at all
        return level[:, None] if level.ndim == 1 else level.mean(-1)

    def leave(self, h: Tensor, entered: Tensor) -> Tensor:
        return self.final(h)


class VectorClassifier(nn.Module):
    """Vectors (B, L, features) at levels (B,) -> logits (B, outcomes): whether a sequence has each of some attributes, which do
    not exclude each other. An attribute is told by the vector that shows it most.

    Args:
        length, features: of a sequence. outcomes: how many attributes.
        width, depth, heads, dropout: of the transformer.
    """

    def __init__(
        self, length: int, features: int, outcomes: int, width: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        port = VectorPort(width, features, length, width)
        # it begins at 0, where all vectors show an attribute alike and none learns to be the one that does
        nn.init.normal_(port.final[-1].weight, std=width**-0.5)  # pyright: ignore[reportArgumentType]
        self.trunk = JointTransformer({"": port}, width, depth, heads, dropout)
        self.last = Linear(width, outcomes)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        return self.last(self.trunk(z, level.reshape(len(z), -1)[:, 0]).amax(1))


class JointTransformer(nn.Module):
    """One transformer over the tokens of all its ports (adaLN-Zero per token, so every token has its own level).

    Args:
        ports: by leaf name; a single port named "" takes and returns bare tensors.
        width, depth, heads: of the trunk.
        classes, tokens, scalars: conditions, as for `UNet`.
        form: of the blocks.
        captions: what makes of cond a vector, tokens and their mask, in place of the conditions above.
        shift: of the level's sinusoids.
        kinds: whether tokens and levels of each port are told apart by vectors that are learned; one port needs none.
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
        form: BlockForm = PLAIN,
        captions: Captions | None = None,
        shift: float = 0.0,
        kinds: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.form, self.heads = list(ports), form, heads
        if not kinds and len(self.names) > 1:
            raise ValueError(f"kinds is False for the ports {', '.join(self.names)}; let them be told apart.")
        if form.convolution is not None and [isinstance(port, PicturePort) for port in ports.values()] != [True]:
            raise ValueError(f"convolution is {form.convolution}; feed-forwards that convolve need one picture and nothing else.")
        self.ports = nn.ModuleList(ports.values())
        self.level = LevelEmbedding(width, waves=Sinusoid(256, shift))
        self.kind = nn.Parameter(torch.randn(len(self.names), width) * 0.02) if kinds else None
        self.conditions = Conditions(width, classes, tokens, scalars) if captions is None else captions
        context = None if tokens is None and captions is None else width
        emb = 6 * width if form.single else width
        self.trunk = nn.ModuleList(TransformerBlock(width, heads, emb, dropout, context, form) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        # all blocks' modulation from the embedding, and what comes after them from the embedding itself
        self.shared = modulation(width, width, 6) if form.single else None
        self.modulation = Tabled(width, 2) if form.single else modulation(width, width, 2)

    def forward(self, z: Any, level: Any, cond: Cond = None, mask: Tensor | None = None) -> Any:
        """z and level by leaf (bare for the port ""); outputs likewise. mask (B, tokens) hides padded tokens."""
        states = z if isinstance(z, Mapping) else {"": z}
        levels = level if isinstance(level, Mapping) else {"": level}
        hs, embs, entered = [], [], []
        kinds = [None] * len(self.names) if self.kind is None else self.kind
        for name, port, kind in zip(self.names, self.ports, kinds, strict=True):
            assert isinstance(port, Port)
            h, seen = port.enter(states[name])
            emb = self.level(port.levels(levels[name]))
            entered.append(seen)
            hs.append(h if kind is None else h + kind)
            embs.append(emb if kind is None else emb + kind)
        if len(embs) > 1:
            embs = [e.expand(-1, h.shape[1], -1) for e, h in zip(embs, hs, strict=True)]
        h, emb = torch.cat(hs, 1), torch.cat(embs, 1)
        vector, context, *kept = self.conditions(cond, len(h), h.device)
        if vector is not None:
            emb = emb + vector[:, None]
        if mask is not None and mask.shape != h.shape[:2]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} for {tuple(h.shape[:2])} tokens; mark each token, or pass none."
            )
        grid = None
        if self.form.convolution is not None:
            (port,) = self.ports
            assert isinstance(port, PicturePort)
            grid = port.grid(entered[0])
        every = emb if self.shared is None else self.shared(emb)
        for block in self.trunk:
            h = block(h, every, context, mask, kept[0] if kept else None, grid)
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

    With `form`, `captions` and `places` it is PixArt (2310.00426, 2403.04692) or Sana (2410.10629), which read texts.

    Args:
        channels: of the pictures.
        size: height and width.
        patch: side of a patch.
        width, depth, heads: of the trunk (S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16; XL 1152, 28, 16).
        classes, tokens, scalars: conditions, as for `UNet`.
        out_channels: `channels` by default.
        stem: see `PicturePort`; 0 for the published architecture.
        form, captions, shift, kinds: see `JointTransformer`. places: see `PicturePort`.
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
        form: BlockForm = PLAIN,
        captions: Captions | None = None,
        places: Places | None = None,
        shift: float = 0.0,
        kinds: bool = True,
    ) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        port = PicturePort(width, channels, sides, patch, out_channels, stem, places)
        self.joint = JointTransformer(
            {"": port}, width, depth, heads, dropout, classes, tokens, scalars, form, captions, shift, kinds
        )

    @property
    def port(self) -> PicturePort:
        (port,) = self.joint.ports
        assert isinstance(port, PicturePort)
        return port

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, channels, H, W); level (B,) or broadcastable to z; (B, out_channels, H, W)."""
        return self.joint(z, level, cond, mask)
