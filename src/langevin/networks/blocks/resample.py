"""How resolutions change: to half the sides and back.

Shape suffixes: B batch, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shrink(nn.Conv2d):
    """(B, C, H, W) -> (B, C, H/2, W/2) by a convolution of size 3 that takes every second pixel.

    Args:
        end: pads one pixel below and to the right (DDPM, 2006.11239, as written in TensorFlow), and not one on each side.
    """

    def __init__(self, channels: int, end: bool = False) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if end else 1)
        self.end = end

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)) if self.end else input)


class Average(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2), means over squares of four pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class Repeat(nn.Module):
    """(B, C, H, W) -> (B, C, 2 H, 2 W), each pixel four times."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


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
