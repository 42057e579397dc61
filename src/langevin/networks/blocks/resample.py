"""How resolutions change: to half the sides and back.

Shape suffixes: B batch, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import at_least_single


class Shrink(nn.Conv2d):
    """(B, C, H, W) -> (B, C, H/2, W/2) by a convolution of size 3 that takes every second pixel.

    Args:
        end: pads one pixel below and to the right (DDPM, 2006.11239, as written in TensorFlow), and not one on each side.
    """

    def __init__(self, channels: int, end: bool = False, bias: bool = True) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if end else 1, bias=bias)
        self.end = end

    def prepared(self, input: Tensor) -> Tensor:
        """What the convolution is done on; low-rank adapters of it are told the same."""
        return F.pad(input, (0, 1, 0, 1)) if self.end else input

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.prepared(input))


class Average(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2), means over squares of four pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class Repeat(nn.Module):
    """(B, C, H, W) -> (B, C, 2 H, 2 W), each pixel four times."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Grow(nn.Conv2d):
    """(B, C, H, W) -> (B, out, 2 H, 2 W): each pixel four times, then a convolution of size 3.

    Of the nine pixels that the convolution meets only four differ, so their weights are added up beforehand: a transposed
    convolution of size 4, at 4 / 9 of the products, and the grown picture is never in memory.
    """

    def __init__(self, channels: int, out: int | None = None, bias: bool = True) -> None:
        super().__init__(channels, channels if out is None else out, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        weight = at_least_single(self.weight)
        sums = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        kernel = torch.einsum("ai,bj,ocij->coab", sums, sums, weight).to(self.weight.dtype)
        return F.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


class Folded(nn.Module):
    """(B, C, H, W) -> (B, out, H/2, W/2): a convolution, beside means over the C * 4 / out numbers that become each of the new
    channels (DC-AE, 2410.10733, sec. 3.2).

    Args:
        strided: the convolution takes every second pixel; else squares of four pixels become channels of one.
        shortcut: False for the convolution alone.
    """

    def __init__(self, channels: int, out: int, strided: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        if out % 4 or (shortcut and 4 * channels % out):
            raise ValueError(f"{channels} channels become {out} on half the sides; make {out} a multiple of 4 that divides.")
        self.out_channels, self.strided, self.shortcut = out, strided, shortcut
        self.conv = nn.Conv2d(channels, out if strided else out // 4, 3, 2 if strided else 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x) if self.strided else F.pixel_unshuffle(self.conv(x), 2)
        if not self.shortcut:
            return h
        return h + F.pixel_unshuffle(x, 2).unflatten(1, (self.out_channels, -1)).mean(2)


class Unfolded(nn.Module):
    """(B, C, H, W) -> (B, out, 2 H, 2 W): a convolution, beside copies of each of the C numbers (DC-AE, 2410.10733, sec. 3.2).

    Args:
        repeated: pixels are repeated before the convolution; else its channels become squares of four pixels.
        shortcut: False for the convolution alone.
    """

    def __init__(self, channels: int, out: int, repeated: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        if shortcut and 4 * out % channels:
            raise ValueError(f"{channels} channels become {out} on twice the sides; make {channels} a divisor of {4 * out}.")
        self.out_channels, self.repeated, self.copies = out, repeated, 4 * out // channels if shortcut else 0
        self.conv = Grow(channels, out) if repeated else nn.Conv2d(channels, 4 * out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x) if self.repeated else F.pixel_shuffle(self.conv(x), 2)
        return h + F.pixel_shuffle(x.repeat_interleave(self.copies, dim=1), 2) if self.copies else h


class Filtered(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2), or (B, C, 2 H, 2 W) if `up`, through the filter (1, 3, 3, 1) along both axes, which lets
    little alias (StyleGAN 2, 1912.04958, app. B; NCSN++). What is outside is 0."""

    kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        self.up = up
        self.register_buffer("kernel", (4 * kernel if up else kernel)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        if self.up:
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)
