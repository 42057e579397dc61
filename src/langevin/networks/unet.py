"""The U-Net: residual blocks down, in the middle and up, with attention at chosen resolutions."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import (
    Cond,
    Conditions,
    LevelEmbedding,
    ResidualBlock,
    SpatialAttention,
    group_norm,
    zero,
)


class _Stage(nn.Module):
    """One residual block, and attention where the resolution has it."""

    def __init__(self, block: ResidualBlock, attention: SpatialAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, context)


class _Stages(nn.Module):
    """The stages of one resolution, one after the other; their outputs are what the way up meets again."""

    def __init__(self, stages: Sequence[_Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def __iter__(self) -> Iterator[_Stage]:
        return (s for s in self.stages if isinstance(s, _Stage))


class UNet(nn.Module):
    """A U-Net on (B, channels, H, W) (DDPM, 2006.11239; ADM, 2105.05233).

    Args:
        channels: of the input.
        width: channels at full resolution.
        multipliers: of width, one per resolution; each further one halves H and W.
        blocks: residual blocks per resolution.
        attention: resolutions with self-attention (and cross-attention if tokens are given), 0 the full one. The middle
            always has it.
        head_width: features per attention head.
        dropout: in residual blocks.
        classes: number of labels for cond["label"]; None for no labels.
        tokens: features of cond["tokens"]; None for no cross-attention.
        time: how the level enters, "scale_shift" or "add".
        out_channels: `channels` by default.
        patch: pictures are read and answered in patches of so many pixels a side, each with all of its pixels as channels, so
            that full resolution costs one convolution in and one out ("simple diffusion", 2301.11093, sec. 3.3).
        scalars: names of further conditions (B,), such as "span" or "guidance"; see `Conditions`.

    Raises:
        ValueError: when called on pictures whose sides are not multiples of patch * 2 ** (resolutions - 1).
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        head_width: int = 64,
        dropout: float = 0.0,
        classes: int | None = None,
        tokens: int | None = None,
        time: str = "scale_shift",
        out_channels: int | None = None,
        patch: int = 1,
        scalars: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if patch < 1:
            raise ValueError(f"patch is {patch}; give the side of a patch in pixels, 1 for none.")
        emb = 4 * width
        self.level = LevelEmbedding(emb, width)
        self.conditions = Conditions(emb, classes, tokens, scalars)
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        context = None if tokens is None else emb

        def stage(now: int, out: int, attend: bool) -> _Stage:
            heads = max(out // head_width, 1)
            return _Stage(ResidualBlock(now, out, emb, dropout, time), SpatialAttention(out, heads, context) if attend else None)

        self.enter = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        kept, now = [width], width
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        for i, m in enumerate(multipliers):
            group = []
            for _ in range(blocks):
                group.append(stage(now, m * width, i in attention))
                now = m * width
                kept.append(now)
            self.down.append(_Stages(group))
            last = i == len(multipliers) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(now, now, 3, stride=2, padding=1))
            if not last:
                kept.append(now)
        self.middle = _Stages([stage(now, now, True), stage(now, now, False)])
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for i, m in reversed(list(enumerate(multipliers))):
            group = []
            for _ in range(blocks + 1):
                group.append(stage(now + kept.pop(), m * width, i in attention))
                now = m * width
            self.up.append(_Stages(group))
            self.grow.append(nn.Identity() if i == 0 else nn.Conv2d(now, now, 3, padding=1))
        self.norm = group_norm(now)
        self.leave = zero(nn.Conv2d(now, (out_channels or channels) * patch**2, 3, padding=1))

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, channels, H, W); level (B,) or broadcastable to z; (B, out_channels, H, W)."""
        if z.shape[-2] % self.factor or z.shape[-1] % self.factor:
            raise ValueError(
                f"pictures are {z.shape[-2]} x {z.shape[-1]}, and this U-Net shrinks them {self.factor} times; "
                f"make the sides multiples of {self.factor}."
            )
        if level.ndim > 1:
            # one embedding per pixel, (B, 1 or H, 1 or W, E); coarser resolutions average the embeddings
            emb = _shrunk(self.level(level.mean(1)), self.patch)
        else:
            emb = self.level(level)[:, None, None]
        vector, context = self.conditions(cond, len(z), z.device)
        emb = F.silu(emb if vector is None else emb + vector[:, None, None])
        embs = [emb]
        for _ in self.down[1:]:
            embs.append(_shrunk(embs[-1], 2))

        h = self.enter(F.pixel_unshuffle(z, self.patch))
        kept = [h]
        for i, (group, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            assert isinstance(group, _Stages)
            for stage in group:
                h = stage(h, embs[i], context)
                kept.append(h)
            if i < len(self.down) - 1:
                h = shrink(h)
                kept.append(h)
        for stage in self.middle:
            h = stage(h, embs[-1], context)
        for i, (group, grow) in enumerate(zip(self.up, self.grow, strict=True)):
            assert isinstance(group, _Stages)
            for stage in group:
                h = stage(torch.cat([h, kept.pop()], dim=1), embs[len(embs) - 1 - i], context)
            if i < len(self.up) - 1:
                h = grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), self.patch)


def _shrunk(emb: Tensor, factor: int) -> Tensor:
    """Embeddings (B, h, w, E) averaged over squares of pixels along the axes that vary."""
    window = [factor if n > 1 else 1 for n in emb.shape[1:3]]
    return emb if window == [1, 1] else F.avg_pool2d(emb.permute(0, 3, 1, 2), window).permute(0, 2, 3, 1)
