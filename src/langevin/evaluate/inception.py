"""Inception-v3 as the published FID, KID and Inception score use it: the TensorFlow graph of 2015-12-05 (1512.00567, 1706.08500).

It differs from the network of the same name elsewhere: 1008 classes, averages that leave padding out, a last block with
maximum pooling, and TensorFlow's old resizing. Tensors are named as in pt_inception-2015-12-05-6726825d.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.evaluate.features import colour


class Norm(nn.Module):
    """Normalisation by the means and variances of training. torch's own also counts batches, which files may have or not."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)


class Conv(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, i: int, o: int, size: int | tuple[int, int], stride: int = 1, pad: int | tuple[int, int] = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, size, stride, pad, bias=False)
        self.bn = Norm(o)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, 3x3 twice, and a pooled branch."""

    def __init__(self, i: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(i, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(i, 48, 1), Conv(48, 64, 5, pad=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 64, 1), Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, pad=1)
        self.branch_pool = Conv(i, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(i, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 64, 1), Conv(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17: 7x7 as 1x7 and 7x1, once and twice."""

    def __init__(self, i: int, c: int) -> None:
        super().__init__()

        def wide(i: int, o: int) -> Conv:
            return Conv(i, o, (1, 7), pad=(0, 3))

        def tall(i: int, o: int) -> Conv:
            return Conv(i, o, (7, 1), pad=(3, 0))

        self.branch1x1 = Conv(i, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = Conv(i, c, 1), wide(c, c), tall(c, 192)
        self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3 = Conv(i, c, 1), tall(c, c), wide(c, c)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = tall(c, c), wide(c, 192)
        self.branch_pool = Conv(i, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(i, 192, 1), Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(i, 192, 1), Conv(192, 192, (1, 7), pad=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1), pad=(3, 0)), Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8, with 3x3 split into 1x3 beside 3x1. The last one pools by the maximum, an oddity of the published graph."""

    def __init__(self, i: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1, self.branch3x3_1 = Conv(i, 320, 1), Conv(i, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, (1, 3), pad=(0, 1)), Conv(384, 384, (3, 1), pad=(1, 0))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(i, 448, 1), Conv(448, 384, 3, pad=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, (1, 3), pad=(0, 1)), Conv(384, 384, (3, 1), pad=(1, 0))
        self.branch_pool = Conv(i, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = self.branch_pool(_largest(x) if self.last else _average(x))
        parts = [self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([self.branch1x1(x), *parts, pooled], 1)


def resize_tf(x: Tensor, size: int = 299) -> Tensor:
    """TensorFlow 1's bilinear resizing (align_corners false) of (B, C, H, W): pixel i is read at i H / size, without
    antialiasing and half a pixel off the centres everyone else uses."""
    for axis in (2, 3):
        old = x.shape[axis]
        at = torch.arange(size, device=x.device, dtype=torch.float32) * (old / size)
        low = at.floor().long().clamp(max=old - 1)
        share = (at - low).view(-1, 1) if axis == 2 else at - low
        lower, upper = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=old - 1))
        x = lower + (upper - lower) * share
    return x


class InceptionTF(nn.Module):
    """Pictures (B, 1 or 3, H, W) in [-1, 1] -> 2048 features, averages over the last 8 x 8 maps."""

    UNUSED = ("num_batches_tracked",)
    name, batch = "InceptionTF", 50
    resize = "bilinear to 299 as in TensorFlow 1, no antialiasing"

    def __init__(self) -> None:
        super().__init__()
        self.hash = ""
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, pad=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(768, c) for c in (128, 160, 160, 192))
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, last=False), BlockE(2048, last=True)
        self.fc = nn.Linear(2048, 1008)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "InceptionTF":
        """It comes in one size."""
        return cls()

    def digest(self) -> str:
        return self.hash

    def features(self, x: Tensor) -> Tensor:
        x = (resize_tf(colour(x)) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """(N, 1008)."""
        return self.fc(features.to(self.fc.weight))

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, 1008) on the CPU, without the last layer's bias: so the Inception score was defined by its program."""
        return F.linear(features.to(self.fc.weight), self.fc.weight).double().softmax(1).cpu()
