"""The U-Net: residual blocks down, in the middle and up, with attention at chosen resolutions.

One assembler serves our recipes and published networks: what differs is the norm, which resolutions attend, whether they attend
to themselves or read text as well, how resolutions change, and how the level is shown.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import (
    Added,
    Average,
    Cond,
    Conditions,
    Filtered,
    Grow,
    LevelEmbedding,
    Norm,
    Repeat,
    ResidualBlock,
    Shrink,
    SpatialAttention,
    SpatialTransformer,
    TextConditions,
    Waves,
    group_norm,
    zero,
)

Mixer = SpatialAttention | SpatialTransformer
Depth = int | Sequence[int]


@dataclass(frozen=True)
class Reading:
    """Transformers that read tokens as they are, in place of plain attention (Stable Diffusion; LDM, 2112.10752).

    Args:
        context: features of cond["tokens"].
        depth: transformer blocks after each residual block, for each resolution; 0 for none, several numbers where residual
            blocks of one resolution differ.
        heads: of each resolution.
        middle: transformer blocks in the middle; as at the coarsest resolution that has any, by default.
        groups: of the norms before transformers.
        cross_only: resolutions whose blocks attend to the tokens alone.
        added: further conditions that enter with the level.
        guidance: features of an embedding of cond["guidance"], the strength w, which enters before the level's network; None for
            none.
        climbing: as `depth`, on the way up, where there is one residual block more for each resolution; the same by default.
            Networks that were made smaller by leaving blocks out differ there (SSD-1B, 2401.02677).
    """

    context: int
    depth: Sequence[Depth]
    heads: Sequence[int]
    middle: int | None = None
    groups: int = 32
    cross_only: Sequence[int] = ()
    added: Added | None = None
    guidance: int | None = None
    climbing: Sequence[Depth] | None = None

    def at(self, level: int, channels: int, block: int, up: bool) -> SpatialTransformer | None:
        """The transformer after a residual block of a resolution."""
        said = (self.climbing if up and self.climbing is not None else self.depth)[level]
        return self._made(level, channels, said if isinstance(said, int) else said[block], level in self.cross_only)

    def in_the_middle(self, channels: int) -> SpatialTransformer | None:
        """The transformer of the middle."""
        firsts = [d if isinstance(d, int) else d[0] for d in self.depth]
        depth = next((d for d in reversed(firsts) if d), 0) if self.middle is None else self.middle
        return self._made(len(self.depth) - 1, channels, depth, False)

    def _made(self, level: int, channels: int, depth: int, cross_only: bool) -> SpatialTransformer | None:
        heads = self.heads[level]
        return SpatialTransformer(channels, heads, depth, self.context, self.groups, cross_only) if depth else None


@dataclass(frozen=True)
class Attending:
    """Attention over pixels, beside which resolutions attend and by how many heads.

    Args:
        norm: makes the norms before it.
        middle: whether the middle attends.
        middle_norm: makes the norm there; None for none.
        once: on the way up, after a resolution's last block alone, and not after each (NCSN++).
    """

    norm: Norm = group_norm
    middle: bool = True
    middle_norm: Norm | None = group_norm
    once: bool = False


CHANGES = ("conv", "residual", "projected", "filtered")


@dataclass(frozen=True)
class Resampling:
    """How resolutions change.

    Args:
        down, up: each change, from the finest on, or one for all: "conv", a convolution that takes every second pixel, or one
            after pixels were repeated; "residual", means of pixels, or repeated ones, within a residual block (ADM, 2105.05233);
            "projected", the same, and what passes beside the block is convolved with size 1 (BigGAN, 1809.11096; DDPM++);
            "filtered", that again through a filter that lets little alias (NCSN++).
        end: convolutions on the way down pad below and to the right only.
        pyramid: every resolution sees the picture itself, shrunk, and adds to the answer, which grows up to full size
            (NCSN++, 2011.13456, app. H).
    """

    down: str | Sequence[str] = "conv"
    up: str | Sequence[str] = "conv"
    end: bool = False
    pyramid: bool = False

    def kinds(self, name: str, changes: int) -> list[str]:
        """Of each change."""
        said = getattr(self, name)
        kinds = [said] * changes if isinstance(said, str) else list(said)
        if len(kinds) != changes or not set(kinds) <= set(CHANGES):
            raise ValueError(f"{name} is {said!r}; give {changes} of {', '.join(CHANGES)}, one for each change of resolution.")
        return kinds


@dataclass(frozen=True)
class Control:
    """What is added on the way up: to what was kept on the way down, in order, and to the middle (ControlNet, 2302.05543)."""

    kept: Sequence[Tensor]
    middle: Tensor


class _Stage(nn.Module):
    """One residual block, and attention where the resolution has it."""

    def __init__(self, block: ResidualBlock, attention: Mixer | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, context, mask)


class _Stages(nn.Module):
    """The stages of one resolution, one after the other; their outputs are what the way up meets again."""

    def __init__(self, stages: Sequence[_Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def __iter__(self) -> Iterator[_Stage]:
        return (s for s in self.stages if isinstance(s, _Stage))


class Tail(nn.Module):
    """norm, SiLU, conv: what a resolution answers, (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.norm, self.leave = norm(channels), zero(nn.Conv2d(channels, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.silu(self.norm(x)))


@dataclass(frozen=True)
class Told:
    """What every stage is told: embeddings (B, 1 or h, 1 or w, E) by resolution, tokens and their mask."""

    embs: Sequence[Tensor]
    context: Tensor | None
    mask: Tensor | None


class WayDown(nn.Module):
    """The first half of a U-Net, down to the middle; see `UNet` for the arguments."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        head_width: int | None,
        dropout: float,
        classes: int | None,
        tokens: int | None,
        time: str,
        patch: int,
        scalars: Sequence[str],
        norm: Norm,
        reading: Reading | None,
        attending: Attending = Attending(),
        resampling: Resampling = Resampling(),
        waves: Waves | None = None,
        scales: tuple[float, float] = (1.0, 1.0),
        null: bool = True,
        emb: int | None = None,
        middle: int = 2,
    ) -> None:
        super().__init__()
        if patch < 1:
            raise ValueError(f"patch is {patch}; give the side of a patch in pixels, 1 for none.")
        emb = emb or 4 * widths[0]
        self.reading, self.attending, self.resampling, self.scales = reading, attending, resampling, scales
        self.level = LevelEmbedding(emb, widths[0], guidance=None if reading is None else reading.guidance, waves=waves)
        if reading is None:
            self.conditions: Conditions | TextConditions = Conditions(emb, classes, tokens, scalars, waves, null)
        else:
            self.conditions = TextConditions(emb, classes, reading.added)
        self.patch, self.factor = patch, patch * 2 ** (len(widths) - 1)
        self.context = None if tokens is None else emb

        self.widths, self.blocks = tuple(widths), blocks
        self.attends, self.head_width = tuple(attention), head_width
        self._of_blocks = (emb, dropout, time, norm)
        changes = resampling.kinds("down", len(widths) - 1)
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.kept_widths, now = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        for i, width in enumerate(widths):
            group = []
            for k in range(blocks):
                group.append(self.stage(now, width, i, k))
                now = width
                self.kept_widths.append(now)
            self.down.append(_Stages(group))
            last = i == len(widths) - 1
            self.shrink.append(nn.Identity() if last else self._change(now, changes[i], up=False))
            if not last:
                self.kept_widths.append(now)
        # made in this order: that of the draws is part of what a seed means
        self.middle = _Stages([self.stage(now, now, None, k, attends=k == 0) for k in range(middle)])
        self.shrunk = Filtered(up=False) if resampling.pyramid else None
        self.sights = nn.ModuleList(nn.Conv2d(channels * patch**2, w, 1) for w in widths[:-1] if resampling.pyramid)

    def stage(self, channels: int, out: int, level: int | None, k: int, attends: bool = True, up: bool = False) -> _Stage:
        """The k-th stage at a resolution, on the way down or up, or in the middle."""
        scale = self.scales[1 if level is None else 0]
        block = ResidualBlock(channels, out, *self._of_blocks, scale=scale)
        return _Stage(block, self._mixer(level, out, k, up) if attends else None)

    def _change(self, channels: int, kind: str, up: bool) -> nn.Module:
        """To the next resolution, `channels` of them before and after."""
        if kind == "conv":
            return Grow(channels, folds=False) if up else Shrink(channels, self.resampling.end)
        resample = Filtered(up) if kind == "filtered" else Repeat() if up else Average()
        return ResidualBlock(channels, channels, *self._of_blocks, self.scales[0], resample, project=kind != "residual")

    def _mixer(self, level: int | None, channels: int, k: int, up: bool) -> Mixer | None:
        if self.reading is not None:
            return self.reading.in_the_middle(channels) if level is None else self.reading.at(level, channels, k, up)
        attending = self.attending
        if level not in self.attends if level is not None else not attending.middle:
            return None
        heads = 1 if self.head_width is None else max(channels // self.head_width, 1)
        norm, scale = (attending.middle_norm, self.scales[1]) if level is None else (attending.norm, self.scales[0])
        return SpatialAttention(channels, heads, self.context, norm, scale)

    def tell(self, z: Tensor, level: Tensor, cond: Cond) -> Told:
        """The level and the conditions, as stages hear of them."""
        if level.ndim > 1:
            # one embedding per pixel, (B, 1 or H, 1 or W, E); coarser resolutions average the embeddings
            emb = _shrunk(self.level(level.mean(1)), self.patch)
        else:
            emb = self.level(level, self._guidance(cond))[:, None, None]
        mask = None
        if isinstance(self.conditions, TextConditions):
            left = {n: v for n, v in (cond or {}).items() if n != "guidance" or self.reading is None or not self.reading.guidance}
            vector, context, mask = self.conditions(left, len(z))
        else:
            vector, context = self.conditions(cond, len(z), z.device)
        emb = F.silu(emb if vector is None else emb + vector[:, None, None])
        embs = [emb]
        for _ in self.down[1:]:
            embs.append(_shrunk(embs[-1], 2))
        return Told(embs, context, mask)

    def _guidance(self, cond: Cond) -> Tensor | None:
        if self.reading is None or self.reading.guidance is None:
            return None
        if cond is None or "guidance" not in cond:
            raise ValueError("this network is told the strength of guidance; give the condition 'guidance', (B,).")
        return strength_waves(cond["guidance"], self.reading.guidance)

    def descend(self, h: Tensor, told: Told, picture: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """What is kept for the way up, the first being h itself, and the state in the middle; `picture` is what h was made of,
        for those that see it again."""
        kept = [h]
        for i, (group, shrink) in enumerate(zip(self.down, self.shrink, strict=True)):
            assert isinstance(group, _Stages)
            for stage in group:
                h = stage(h, told.embs[i], told.context, told.mask)
                kept.append(h)
            if i < len(self.down) - 1:
                h = shrink(h, told.embs[i + 1]) if isinstance(shrink, ResidualBlock) else shrink(h)
                if self.shrunk is not None and picture is not None:
                    picture = self.shrunk(picture)
                    h = h + self.sights[i](picture)
                kept.append(h)
        for stage in self.middle:
            h = stage(h, told.embs[-1], told.context, told.mask)
        return kept, h


class UNet(WayDown):
    """A U-Net on (B, channels, H, W) (DDPM, 2006.11239; ADM, 2105.05233).

    Args:
        channels: of the input.
        width: channels at full resolution.
        multipliers: of width, one per resolution; each further one halves H and W.
        blocks: residual blocks per resolution.
        attention: resolutions with self-attention (and cross-attention if tokens are given), 0 the full one. The middle
            always has it.
        head_width: features per attention head; None for one head.
        dropout: in residual blocks.
        classes: number of labels for cond["label"]; None for no labels.
        tokens: features of cond["tokens"]; None for no cross-attention.
        time: how the level enters, "scale_shift" or "add".
        out_channels: `channels` by default.
        patch: pictures are read and answered in patches of so many pixels a side, each with all of its pixels as channels, so
            that full resolution costs one convolution in and one out ("simple diffusion", 2301.11093, sec. 3.3).
        scalars: names of further conditions (B,), such as "span" or "guidance"; see `Conditions`.
        widths: channels of each resolution, in place of `width` and `multipliers`.
        norm: makes the norms of residual blocks and of the last one.
        reading: transformers that read text, in place of `attention`; conditions are then those of `TextConditions`, and pictures
            may be of any size.
        attending, resampling: where they are not as in our recipes; see there.
        waves: of the level before its network; `width` cosines and sines by default.
        scales: what sums of residual blocks and attention are divided by, on the ways down and up and in the middle.
        null: False for published networks without a learned null condition.
        emb: features of the level's embedding, 4 * width by default.
        centred: pictures are given in [0, 1] and read as 2 z - 1.
        over_level: the answer is divided by the level, as a score by sigma.
        middle: residual blocks in the middle, of which the first is the one followed by attention.

    Whatever stands in cond["concat"], (B, C', H, W), is read as further channels behind those of z; `channels` counts both.

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
        head_width: int | None = 64,
        dropout: float = 0.0,
        classes: int | None = None,
        tokens: int | None = None,
        time: str = "scale_shift",
        out_channels: int | None = None,
        patch: int = 1,
        scalars: Sequence[str] = (),
        widths: Sequence[int] | None = None,
        norm: Norm = group_norm,
        reading: Reading | None = None,
        attending: Attending = Attending(),
        resampling: Resampling = Resampling(),
        waves: Waves | None = None,
        scales: tuple[float, float] = (1.0, 1.0),
        null: bool = True,
        emb: int | None = None,
        centred: bool = False,
        over_level: bool = False,
        middle: int = 2,
    ) -> None:
        widths = [m * width for m in multipliers] if widths is None else list(widths)
        super().__init__(
            channels, widths, blocks, attention, head_width, dropout, classes, tokens, time, patch, scalars, norm, reading,
            attending, resampling, waves, scales, null, emb, middle,
        )  # fmt: skip
        self.centred, self.over_level = centred, over_level
        out_channels = (out_channels or channels) * patch**2
        kept, now = list(self.kept_widths), widths[-1]
        changes = resampling.kinds("up", len(widths) - 1)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for i, out in reversed(list(enumerate(widths))):
            group = []
            for k in range(blocks + 1):
                group.append(self.stage(now + kept.pop(), out, i, k, k == blocks or not attending.once, up=True))
                now = out
            self.up.append(_Stages(group))
            self.grow.append(nn.Identity() if i == 0 else self._change(now, changes[i - 1], up=True))
        self.norm = norm(now)
        self.leave = zero(nn.Conv2d(now, out_channels, 3, padding=1))
        self.grown = Filtered(up=True) if resampling.pyramid else None
        self.tails = nn.ModuleList(Tail(w, out_channels, norm) for w in reversed(widths[1:]) if resampling.pyramid)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, channels, H, W); level (B,) or broadcastable to z; (B, out_channels, H, W)."""
        return self.answer(z, level, cond)

    def answer(self, z: Tensor, level: Tensor, cond: Cond = None, control: Control | None = None) -> Tensor:
        """`forward`, with something added on the way up."""
        if z.ndim != 4:
            raise ValueError(
                f"states are {tuple(z.shape)}, and a U-Net reads pictures (B, C, H, W); shape data so, or use networks.MLP for "
                "rows of numbers, or a network of your own (docs/training.md)."
            )
        if self.reading is None and (z.shape[-2] % self.factor or z.shape[-1] % self.factor):
            raise ValueError(
                f"pictures are {z.shape[-2]} x {z.shape[-1]}, and this U-Net shrinks them {self.factor} times; "
                f"make the sides multiples of {self.factor}."
            )
        z, cond = joined(z, cond)
        if z.shape[1] * self.patch**2 != self.enter.in_channels:
            reads = self.enter.in_channels // self.patch**2
            raise ValueError(f"pictures are of {z.shape[1]} channels, and this U-Net reads {reads}; build it with channels=.")
        told = self.tell(z, level, cond)
        picture = F.pixel_unshuffle(2 * z - 1 if self.centred else z, self.patch)
        kept, h = self.descend(self.enter(picture), told, picture)
        answer: Tensor | None = None
        if control is not None:
            kept = [a + b for a, b in zip(kept, control.kept, strict=True)]
            h = h + control.middle
        for i, (group, grow) in enumerate(zip(self.up, self.grow, strict=True)):
            assert isinstance(group, _Stages)
            finer = len(told.embs) - 2 - i
            for stage in group:
                h = stage(torch.cat([h, kept.pop()], dim=1), told.embs[finer + 1], told.context, told.mask)
            if self.grown is not None and i < len(self.up) - 1:
                answer = self.grown(self.tails[i](h) if answer is None else answer + self.tails[i](h))
            if isinstance(grow, ResidualBlock):
                h = grow(h, told.embs[finer])
            elif i < len(self.up) - 1:
                # to the size that was kept: a side of 5 was shrunk to 3
                h = grow(h, kept[-1].shape[-2:])
        last = self.leave(F.silu(self.norm(h)))
        out = F.pixel_shuffle(last if answer is None else last + answer, self.patch)
        return out / _over(level, out) if self.over_level else out


def joined(z: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
    """z with the channels of cond["concat"] behind its own, and the other conditions."""
    if cond is None or "concat" not in cond:
        return z, cond
    further = cond["concat"].to(z.dtype)
    return torch.cat([z, further], dim=1), {name: value for name, value in cond.items() if name != "concat"}


def strength_waves(guidance: Tensor, features: int) -> Tensor:
    """The strength w (B,) of guidance -> (B, features): sines, then cosines, of 1000 (w - 1), as in latent consistency models
    (2310.04378), whose w is ours less 1. What has two axes is such an embedding already."""
    if guidance.ndim == 2:
        return guidance
    half = features // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=guidance.device, dtype=torch.float32) / (half - 1))
    angle = 1000 * (guidance.float() - 1)[:, None] * rates
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, features % 2))


def _over(level: Tensor, out: Tensor) -> Tensor:
    """The level (B,), or per element, as `out` is divided by it; known elements, at 0, have a finite answer too."""
    return level.reshape(-1, *[1] * (out.ndim - level.ndim), *level.shape[1:]).to(out.dtype).clamp(min=1e-20)


def _shrunk(emb: Tensor, factor: int) -> Tensor:
    """Embeddings (B, h, w, E) averaged over squares of pixels along the axes that vary."""
    window = [factor if n > 1 else 1 for n in emb.shape[1:3]]
    return emb if window == [1, 1] else F.avg_pool2d(emb.permute(0, 3, 1, 2), window).permute(0, 2, 3, 1)
