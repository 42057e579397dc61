"""A 3 x 3 convolution of pictures by 4 products where the plain one takes 9, where that is faster on a CPU.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, 1509.09308, section 4.1): from 4 x 4 pixels d and a filter w come the 2 x 2 pixels

    y = A [(G w G') * (B d B')] A'          (* element by element, ' the transpose)

so that over channels each of the 16 places is one product of matrices, and four pixels take 16 multiplications instead of 36.
Before and after, few numbers of one size are summed: in float32 the error is two to three times that of a plain convolution, some
1e-6 of the largest value. Larger tiles save more and lose digits, and half precision would lose them too: neither is used.

It is done where no gradient is asked for; shapes and the order in memory alone decide, never a timing, so that samples repeat
their bits.

Shape suffixes: B batch, C channels in, K channels out, H W height and width, T tiles of 2 x 2 pixels.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from langevin.networks.linear import linear, plain

# what it costs to transform a number of the picture and the one that comes out (channels side by side in memory, or apart), and a
# number of the filter, in multiply-adds of a plain convolution in the same time, of which 5 of 9 are saved: measured by
# bench/convolution.py
SIDE_BY_SIDE, APART, FILTER = 57, 93, 40
# how much of the pictures is transformed at a time: so many numbers, and no fewer tiles than products are quick with
SLICE, LEAST_TILES = 2**19, 256
# channels out whose filters are transformed at a time where tiles are few, so that they stay in the cache
TOGETHER = 128


@lru_cache
def _transforms() -> tuple[Tensor, Tensor]:
    """G for both axes at once (16, 9), and A (4, 16)."""
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    a = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    return torch.kron(g, g), torch.kron(a, a)


def filters(weight: Tensor) -> Tensor:
    """G w G' of filters (K, C, 3, 3), as (16, K, C)."""
    return (_transforms()[0] @ weight.reshape(-1, 9).t()).view(16, *weight.shape[:2])


@dataclass(frozen=True)
class Slice:
    """Rows `first` to `last` of tiles, of some of the pictures."""

    pictures: slice
    first: int
    last: int


def _slices(shape: torch.Size, channels: int) -> Iterator[Slice]:
    """Pictures (B, H, W, .) slice by slice: rows of one, or several whole ones."""
    down, across = (shape[1] + 1) // 2, (shape[2] + 1) // 2
    tiles = max(SLICE // (4 * channels), LEAST_TILES)
    rows = min(max(tiles // across, 1), down)
    whole = max(tiles // (across * down), 1) if rows == down else 1
    for begin in range(0, shape[0], whole):
        for first in range(0, down, rows):
            yield Slice(slice(begin, min(begin + whole, shape[0])), first, min(first + rows, down))


def _tiles(x: Tensor, at: Slice) -> Tensor:
    """B d B' of the tiles (4, 4, b, rows, across, C) of a slice of x (B, H, W, C), beyond which there are zeros."""
    (_, height, width, channels), rows, across = x.shape, at.last - at.first, (x.shape[2] + 1) // 2
    begin, end = max(2 * at.first - 1, 0), min(2 * at.last + 1, height)
    within = x[at.pictures, begin:end]
    above = begin - (2 * at.first - 1)
    d = x.new_empty(len(within), 2 * rows + 2, 2 * across + 2, channels)
    d[:, :above], d[:, above + end - begin :], d[:, :, 0], d[:, :, width + 1 :] = 0, 0, 0, 0
    d[:, above : above + end - begin, 1 : width + 1] = within
    half = x.new_empty(4, len(within), rows, d.shape[2], channels)
    made = x.new_empty(4, 4, len(within), rows, across, channels)
    for out, four in (
        (half, [d[:, k : k + 2 * rows : 2] for k in range(4)]),
        (made.transpose(0, 1), [half[..., k : k + 2 * across : 2, :] for k in range(4)]),
    ):
        torch.sub(four[0], four[2], out=out[0])
        torch.add(four[1], four[2], out=out[1])
        torch.sub(four[2], four[1], out=out[2])
        torch.sub(four[1], four[3], out=out[3])
    return made


Product = Callable[[int, Tensor], Tensor]
"""Numbers (T, C) of a place, 0 to 15, multiplied by its filters (C, K)."""


def convolve(
    x: Tensor, into: int, bias: Tensor | None, filtered: Callable[[slice], Product], together: int | None = None
) -> Tensor:
    """x (B, C, H, W), padded with one pixel of zeros, convolved to (B, K, H, W) in its order in memory, without gradients.

    Args:
        into: K.
        filtered: the product for some of the K.
        together: so many of them at a time, where the tiles are few; None for all.
    """
    last, x = _side_by_side(x), x.permute(0, 2, 3, 1)
    down, across = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    sides = (2 * down, 2 * across)
    out = x.new_empty(len(x), *sides, into) if last else x.new_empty(len(x), into, *sides).permute(0, 2, 3, 1)
    slices = list(_slices(x.shape, max(x.shape[3], into)))
    tiles = x
    width = into if together is None or len(slices) > 1 else together
    for begin in range(0, into, width):
        part = slice(begin, min(begin + width, into))
        product = filtered(part)
        for at in slices:
            if begin == 0 or len(slices) > 1:
                tiles = _tiles(x, at)
            flat = tiles.flatten(0, 1).flatten(1, 3)
            products = x.new_empty(16, flat.shape[1], part.stop - begin)
            for place in range(16):
                products[place] = product(place, flat[place])
            y = (_transforms()[1] @ products.flatten(1)).view(2, 2, *tiles.shape[2:5], -1)
            # the four pixels of a tile beside each other: (2, 2, b, rows, across, K), as y
            to = out[at.pictures, 2 * at.first : 2 * at.last, :, part].unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
            to = to.permute(2, 4, 0, 1, 3, 5)
            to.copy_(y) if bias is None else torch.add(y, bias[part], out=to)
    out = out[:, : x.shape[1], : x.shape[2]].permute(0, 3, 1, 2)
    return out.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def possible(layer: nn.Conv2d) -> bool:
    """Whether the layer is a convolution of size 3 that takes every pixel and is padded by one of zeros."""
    how = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    return how == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _side_by_side(x: Tensor) -> bool:
    """Whether the channels of a pixel stand beside each other in memory."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def pays(x: Tensor, into: int) -> bool:
    """Whether the products that are saved for x (B, C, H, W) and K are worth more than the transforms."""
    tiles = len(x) * (x.shape[2] // 2) * (x.shape[3] // 2)
    picture = SIDE_BY_SIDE if _side_by_side(x) else APART
    return tiles > 0 and picture * (1 / x.shape[1] + 1 / into) + FILTER / tiles < 1


@lru_cache
def allowed() -> bool:
    """Whether to do it at all: unless the environment variable LANGEVIN_CONVOLUTION is "native".

    Raises:
        ValueError: if it is another word than "native" and "winograd".
    """
    asked = os.environ.get("LANGEVIN_CONVOLUTION", "winograd")
    if asked not in ("native", "winograd"):
        raise ValueError(f"LANGEVIN_CONVOLUTION is {asked!r}; set it to 'native' or 'winograd', or leave it out.")
    return asked == "winograd"


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, by `convolve` where that pays: the same parameters, names and initial values."""

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.ndim != 4
            or not plain(input, self.weight)
            or (torch.is_grad_enabled() and any(p.requires_grad for p in (input, *self.parameters())))
            or not possible(self)
            or not pays(input, self.out_channels)
            or not allowed()
        ):
            return super().forward(input)
        return self.by_fewer(input)

    def by_fewer(self, input: Tensor) -> Tensor:
        """`forward` by `convolve`, of what is `possible` and plain, whether it pays or not."""
        return convolve(input, self.out_channels, self.bias, self._filtered, TOGETHER)

    def _filtered(self, part: slice) -> Product:
        made = filters(self.weight[part])
        return lambda place, x: linear(x, made[place])
