"""Autoencoders: pictures to latents and back.

One assembler serves them all: convolutions in, residual blocks of each resolution and a change to the next, a middle,
convolutions out. What differs is the `Style` of the blocks, and what lies between the halves: a Gaussian, a codebook, or nothing.

Shape suffixes: B batch, C channels, H W height and width of pictures, h w of latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from langevin.networks.blocks import (
    Folded,
    Grow,
    Multiscale,
    ResidualBlock,
    RootMeanSquare,
    Shrink,
    SpatialAttention,
    Unfolded,
    fixed_groups,
    relu,
    silu,
)
from langevin.networks.blocks.light import GatedConvolution

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"silu": silu, "relu": relu}


class Edge(nn.Conv2d):
    """A convolution of size 3 at one end of a half, and what is done before, beside and after it."""

    def __init__(
        self,
        channels: int,
        out: int,
        before: Activation | None = None,
        beside: Activation | None = None,
        after: Activation | None = None,
    ) -> None:
        super().__init__(channels, out, 3, padding=1)
        self.before, self.beside, self.after = before, beside, after

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.before is None else self.before(input)
        h = super().forward(x)
        h = h if self.beside is None else h + self.beside(x)
        return h if self.after is None else self.after(h)


class Normed(nn.Module):
    """A norm and an activation."""

    def __init__(self, norm: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x))


class Style(Protocol):
    """What the blocks of a half are. `level` counts resolutions, 0 the full one.

    Attributes:
        rounds_up: half of an odd side is the larger half.
    """

    rounds_up: ClassVar[bool]

    def enter(self, channels: int, out: int, encodes: bool) -> nn.Module:
        """From pictures, or latents, to the first block."""
        ...

    def block(self, channels: int, out: int, level: int) -> nn.Module: ...

    def shrink(self, channels: int, following: int) -> nn.Module:
        """To half the sides; `out_channels` may be those of this resolution or of the following one."""
        ...

    def grow(self, channels: int, following: int) -> nn.Module:
        """To twice the sides."""
        ...

    def middle(self, channels: int) -> Sequence[nn.Module]:
        """At the coarsest resolution, of either half."""
        ...

    def last(self, channels: int, encodes: bool) -> nn.Module:
        """Before the half is left."""
        ...

    def leave(self, channels: int, out: int, encodes: bool) -> nn.Module:
        """From the last block to latents, or pictures."""
        ...


@dataclass(frozen=True)
class Plain:
    """Residual blocks with group norm, and attention of one head in the middle (VQGAN, 2012.09841; latent diffusion, 2112.10752).

    Args:
        groups: of norms. attention: whether the middle attends.
    """

    groups: int = 32
    attention: bool = True
    rounds_up: ClassVar[bool] = False

    def enter(self, channels: int, out: int, encodes: bool) -> nn.Module:
        return nn.Conv2d(channels, out, 3, padding=1)

    def block(self, channels: int, out: int, level: int) -> nn.Module:
        return ResidualBlock(channels, out, None, norm=fixed_groups(self.groups, 1e-6))

    def shrink(self, channels: int, following: int) -> nn.Module:
        return Shrink(channels, end=True)

    def grow(self, channels: int, following: int) -> nn.Module:
        return Grow(channels)

    def middle(self, channels: int) -> Sequence[nn.Module]:
        first, second = self.block(channels, channels, -1), self.block(channels, channels, -1)
        if not self.attention:
            return [first, second]
        return [first, SpatialAttention(channels, 1, None, fixed_groups(self.groups, 1e-6)), second]

    def last(self, channels: int, encodes: bool) -> nn.Module:
        return Normed(fixed_groups(self.groups, 1e-6)(channels), silu)

    def leave(self, channels: int, out: int, encodes: bool) -> nn.Module:
        return nn.Conv2d(channels, out, 3, padding=1)


class TinyBlock(nn.Module):
    """relu(x + three convolutions of it with ReLU between) (TAESD, github.com/madebyollin/taesd)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.convs
        return relu(third(relu(second(relu(first(x))))) + x)


@dataclass(frozen=True)
class Tiny:
    """Convolutions and ReLU alone, as small as it goes: TAESD and its kin, which know the latents of a larger autoencoder."""

    rounds_up: ClassVar[bool] = True

    def enter(self, channels: int, out: int, encodes: bool) -> nn.Module:
        return Edge(channels, out, before=_to_unit) if encodes else Edge(channels, out, before=_bounded, after=relu)

    def block(self, channels: int, out: int, level: int) -> nn.Module:
        if channels != out:
            raise ValueError(f"widths are {channels} and {out}; a tiny autoencoder has one width at all resolutions of a half.")
        return TinyBlock(channels)

    def shrink(self, channels: int, following: int) -> nn.Module:
        return Shrink(channels, bias=False)

    def grow(self, channels: int, following: int) -> nn.Module:
        return Grow(channels, bias=False)

    def middle(self, channels: int) -> Sequence[nn.Module]:
        return []

    def last(self, channels: int, encodes: bool) -> nn.Module:
        return nn.Identity()

    def leave(self, channels: int, out: int, encodes: bool) -> nn.Module:
        return Edge(channels, out, after=None if encodes else _from_unit)


def _to_unit(x: Tensor) -> Tensor:
    """Pictures are in [0, 1] inside."""
    return (x + 1) / 2


def _from_unit(x: Tensor) -> Tensor:
    return 2 * x - 1


def _bounded(z: Tensor) -> Tensor:
    """Latents, none of which is further from 0 than 3."""
    return 3 * torch.tanh(z / 3)


class DeepBlock(nn.Module):
    """x + norm(conv, activation, conv of x)."""

    def __init__(self, channels: int, norm: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


class LightBlock(nn.Module):
    """x + norm(linear attention of x), then the same with a gated convolution (EfficientViT, 2205.14756)."""

    def __init__(self, channels: int, head: int, sizes: Sequence[int], norm: nn.Module) -> None:
        super().__init__()
        self.attention, self.attention_norm = Multiscale(channels, head, sizes), norm
        self.feed, self.feed_norm = GatedConvolution(channels, 4 * channels), RootMeanSquare(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_norm(self.attention(x))
        return x + self.feed_norm(self.feed(x))


@dataclass(frozen=True)
class Deep:
    """Blocks of deep compression autoencoders, with shortcuts around every change of resolution (DC-AE, 2410.10733).

    Args:
        head: features of a head of attention.
        attends: which resolutions attend, from the full one on.
        sizes: of the surroundings that attention sees, for each resolution.
        norms, activations: of each resolution; "root_mean_square" or "batch", "silu" or "relu".
        strided: changes are a strided convolution, and repeated pixels; else squares of pixels become channels, and back.
        shortcut: latents have a shortcut of their own.
        out: the last activation, of the decoder.
        folds: pictures are folded to half the sides on entry, and unfolded at the end: for a half with no blocks at full
            resolution.
    """

    head: int
    attends: Sequence[bool]
    sizes: Sequence[Sequence[int]]
    norms: Sequence[str]
    activations: Sequence[str]
    strided: bool = False
    shortcut: bool = True
    out: str = "relu"
    folds: bool = False
    rounds_up: ClassVar[bool] = False

    def enter(self, channels: int, out: int, encodes: bool) -> nn.Module:
        if encodes and self.folds:
            return Folded(channels, out, self.strided, shortcut=False)
        if encodes or not self.shortcut:
            return Edge(channels, out)
        return Edge(channels, out, beside=_Copies(channels, out))

    def block(self, channels: int, out: int, level: int) -> nn.Module:
        norm = RootMeanSquare(channels) if self.norms[level] == "root_mean_square" else nn.BatchNorm2d(channels)
        if self.attends[level]:
            return LightBlock(channels, self.head, self.sizes[level], norm)
        return DeepBlock(channels, norm, ACTIVATIONS[self.activations[level]])

    def shrink(self, channels: int, following: int) -> nn.Module:
        return Folded(channels, following, self.strided)

    def grow(self, channels: int, following: int) -> nn.Module:
        return Unfolded(channels, following, self.strided)

    def middle(self, channels: int) -> Sequence[nn.Module]:
        return []

    def last(self, channels: int, encodes: bool) -> nn.Module:
        return nn.Identity() if encodes else Normed(RootMeanSquare(channels), ACTIVATIONS[self.out])

    def leave(self, channels: int, out: int, encodes: bool) -> nn.Module:
        if not encodes:
            return Unfolded(channels, out, self.strided, shortcut=False) if self.folds else Edge(channels, out)
        return Edge(channels, out, beside=_Means(channels, out) if self.shortcut else None)


@dataclass(frozen=True)
class _Copies:
    """(B, few, h, w) -> (B, many, h, w), each channel several times."""

    few: int
    many: int

    def __post_init__(self) -> None:
        if self.many % self.few:
            raise ValueError(f"{self.many} channels beside {self.few} latents; make them a multiple, or leave the shortcut out.")

    def __call__(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(self.many // self.few, dim=1)


@dataclass(frozen=True)
class _Means:
    """(B, many, h, w) -> (B, few, h, w), means of neighbouring channels."""

    many: int
    few: int

    def __post_init__(self) -> None:
        _Copies(self.few, self.many)

    def __call__(self, h: Tensor) -> Tensor:
        return h.unflatten(1, (self.few, -1)).mean(2)


@dataclass(frozen=True)
class Half:
    """The shape of an encoder or a decoder.

    Args:
        style: of its blocks.
        widths: channels of each resolution, from the full one on.
        blocks: how many each has.
    """

    style: Style
    widths: Sequence[int]
    blocks: Sequence[int]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"there are {len(self.widths)} widths for {len(self.blocks)} numbers of blocks; give as many of both."
            )


class _Level(nn.Module):
    """The blocks of one resolution, and the change to the next."""

    def __init__(self, blocks: Sequence[nn.Module], change: nn.Module) -> None:
        super().__init__()
        self.blocks, self.change = nn.ModuleList(blocks), change

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.change(x)


class _Coder(nn.Module):
    """One half: pictures (B, C, H, W) to (B, out, h, w) if it `encodes`, or back."""

    def __init__(self, shape: Half, channels: int, out: int, encodes: bool) -> None:
        super().__init__()
        self.encodes, style = encodes, shape.style
        levels = list(enumerate(zip(shape.widths, shape.blocks, strict=True)))
        levels = levels if encodes else levels[::-1]
        now = levels[0][1][0]
        coarsest = shape.widths[-1]
        self.enter = style.enter(channels, now, encodes)
        self.levels = nn.ModuleList()
        for k, (level, (width, count)) in enumerate(levels):
            blocks = []
            for _ in range(count):
                blocks.append(style.block(now, width, level))
                now = width
            change: nn.Module = nn.Identity()
            if k < len(levels) - 1:
                following = levels[k + 1][1][0]
                change = style.shrink(now, following) if encodes else style.grow(now, following)
                now = int(getattr(change, "out_channels", now))
            self.levels.append(_Level(blocks, change))
        self.middle = nn.ModuleList(style.middle(coarsest))
        self.last = style.last(now, encodes)
        self.leave = style.leave(now, out, encodes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        stages = [*self.levels, *self.middle] if self.encodes else [*self.middle, *self.levels]
        for stage in stages:
            x = stage(x)
        return self.leave(self.last(x))


@dataclass(frozen=True)
class GaussianCode:
    """What an encoder says of pictures: Gaussians of mean and logvar (B, C, h, w), or points, whose logvar is None."""

    mean: Tensor
    logvar: Tensor | None = None

    @property
    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """The draw that standard noise (B, C, h, w) makes."""
        return self.mean if self.logvar is None else self.mean + torch.exp(0.5 * self.logvar) * noise


@dataclass(frozen=True)
class Quantised:
    """Latents (B, C, h, w) that stand in the codebook, and where, (B, h, w) int64."""

    latents: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Scale:
    """Between an autoencoder's own latents and those of about unit variance that are diffused.

    (latents - shift) * factor, and if means and standard deviations of channels are given, (latents - mean) / std * factor.

    Args:
        upcast: the autoencoder overflows in float16, and runs in float32 instead.
    """

    factor: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    upcast: bool = False

    def __post_init__(self) -> None:
        if not self.factor:
            raise ValueError("factor is 0; latents must be multiplied by something else.")
        if (self.mean is None) != (self.std is None) or (self.mean and self.shift):
            raise ValueError("give mean and std of channels, both, without a shift; or a shift alone.")

    def shrunk(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents as those that are diffused."""
        if self.mean is not None and self.std is not None:
            return (latents - _channels(self.mean, latents)) * (self.factor / _channels(self.std, latents))
        return (latents - self.shift) * self.factor if self.shift else latents * self.factor

    def grown(self, z: Tensor) -> Tensor:
        """Latents that are diffused as the autoencoder's."""
        if self.mean is not None and self.std is not None:
            return z * (_channels(self.std, z) / self.factor) + _channels(self.mean, z)
        return z / self.factor + self.shift if self.shift else z / self.factor


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1)


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to latents (B, latents, H / factor, W / factor), and back.

    Args:
        encoder, decoder: the halves.
        latents: channels of the latents that the halves speak of.
        channels: of pictures.
        gaussian: the encoder says a variance as well (2112.10752, sec. 3.1).
        project: whether a convolution of size 1 lies behind the encoder, and one before the decoder.
        codes: how many codes a codebook has, each latent being replaced by the nearest before it is decoded (VQ-VAE,
            1711.00937); None for no codebook.
        code_width: channels of latents in the codebook, if not `latents`.
        scale: of the latents; networks do not look at it.

    Attributes:
        factor: pixels along a side that become one latent.
        latents: channels of what `encode` returns.
        shapes, channels, inner: encoder and decoder, channels of pictures in and out, and those that the halves speak of.
    """

    def __init__(
        self,
        encoder: Half,
        decoder: Half,
        latents: int,
        channels: int = 3,
        out_channels: int | None = None,
        gaussian: bool = False,
        project: tuple[bool, bool] = (False, False),
        codes: int | None = None,
        code_width: int | None = None,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        if gaussian and codes is not None:
            raise ValueError("gaussian is True and there are codes; latents are either drawn or looked up.")
        width = code_width or latents
        if width != latents and not all(project):
            raise ValueError(f"code_width is {width} for {latents} latents; project both ways, or leave it out.")
        self.gaussian, self.latents, self.scale = gaussian, width, scale or Scale()
        self.shapes, self.channels, self.inner = (encoder, decoder), (channels, out_channels or channels), latents
        said = 2 if gaussian else 1
        self.encoder = _Coder(encoder, channels, said * latents, True)
        self.behind = nn.Conv2d(said * latents, said * width, 1) if project[0] else nn.Identity()
        self.codebook = (
            None if codes is None else nn.Parameter(nn.init.uniform_(torch.empty(codes, width), -1 / codes, 1 / codes))
        )
        self.before = nn.Conv2d(width, latents, 1) if project[1] else nn.Identity()
        self.decoder = _Coder(decoder, latents, out_channels or channels, False)

    @property
    def factor(self) -> int:
        shape = self.shapes[0]
        folds = isinstance(shape.style, Deep) and shape.style.folds
        return 2 ** (len(shape.widths) - 1 + folds)

    def side(self, pixels: int) -> int:
        """How many latents so many pixels along a side become."""
        return -(-pixels // self.factor) if self.shapes[0].style.rounds_up else pixels // self.factor

    def encode(self, x: Tensor) -> GaussianCode:
        """x (B, C, H, W); latents of the network's own scale.

        Raises:
            ValueError: for sides that are no multiples of `factor`, if changes of resolution have shortcuts.
        """
        if isinstance(self.shapes[0].style, Deep) and (x.shape[-2] % self.factor or x.shape[-1] % self.factor):
            raise ValueError(
                f"pictures are {x.shape[-2]} x {x.shape[-1]}, and this autoencoder folds them to sides {self.factor} times "
                f"shorter; make the sides multiples of {self.factor}."
            )
        said = self.behind(self.encoder(x))
        if not self.gaussian:
            return GaussianCode(said)
        mean, logvar = said.chunk(2, dim=1)
        return GaussianCode(mean, logvar.clamp(-30, 20))

    def quantise(self, latents: Tensor) -> Quantised:
        """The nearest codes; a gradient passes to the latents as if nothing had been done."""
        if self.codebook is None:
            raise ValueError("this autoencoder has no codebook; build it with codes.")
        rows = latents.movedim(1, -1).flatten(0, -2)
        book = self.codebook.detach()
        with torch.no_grad():
            found = [torch.cdist(part.float(), book.float()).argmin(1) for part in rows.split(2**14)]
        indices = torch.cat(found).view(len(latents), *latents.shape[2:])
        taken = self.codebook[indices].movedim(-1, 1)
        if latents.requires_grad and torch.is_grad_enabled():
            taken = taken + (latents - latents.detach())
        return Quantised(taken.contiguous(), indices)

    def decode(self, latents: Tensor, quantise: bool = True) -> Tensor:
        """latents (B, latents, h, w) of the network's own scale; pictures (B, C, H, W) in about [-1, 1].

        Args:
            quantise: look latents up in the codebook first, if there is one.
        """
        if quantise and self.codebook is not None:
            latents = self.quantise(latents).latents
        return self.decoder(self.before(latents))

    def forward(self, x: Tensor) -> Tensor:
        """What is left of pictures."""
        return self.decode(self.encode(x).mode)
