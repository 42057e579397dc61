"""Editing without training: beliefs keep what is known of the data in part of an orthonormal basis.

With A orthonormal and m marking the coefficients that are known, every belief becomes

    x^  <-  A^T [ m o (A y) + (1 - m) o (A x^) ]  =  x^ + P (y - x^),   P = A^T diag(m) A,

so that only the orthogonal projector P is needed and never the whole basis (consistency models, 2303.01469, alg. 4; for any
other plan it is the range-null decomposition of DDNM, 2212.00490). Under `plans.consistency` this is the published algorithm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.means import with_mean
from langevin.guidance.wrapped import Wrapped

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


@dataclass(frozen=True, eq=False)
class Known:
    """A guidance, under which beliefs have the known part of `value`.

    Put it around others: `lambda d: Known(...)(CFG(2.0)(d))`.

    Args:
        value: P y, the known part of the data, (B, *shape) or (1, *shape) for all samples alike.
        project: P, the orthogonal projector (B, *shape) -> (B, *shape) onto what is known, linear.
    """

    value: Tensor
    project: Callable[[Tensor], Tensor]

    def keep(self, x: Tensor) -> Tensor:
        """x (B, *shape) with what is known put in its place.

        Raises:
            ValueError: if `value` has another shape.
        """
        if self.value.shape[1:] != x.shape[1:] or len(self.value) not in (1, len(x)):
            raise ValueError(
                f"what is known has shape {tuple(self.value.shape)} and the samples {tuple(x.shape)}; give one of that shape for "
                "each sample, or one for all, and put this guidance around others."
            )
        return x - self.project(x) + self.value.to(x)

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: unless the process is one Gaussian process.
        """
        if not isinstance(denoiser.process, Gaussian):
            raise ValueError(f"what is known is projected in one Gaussian process, and this is {denoiser.process}; use given=.")
        return _Keeping(denoiser, self)


class _Keeping(Wrapped):
    guidance: Known
    keeps_leaps = True

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        belief = leaves(self.denoiser(tree(z), tree(t), cond, mask))[""]
        return with_mean(belief, self.guidance.keep(belief.mean))


def inpaint(picture: Any, known: Any) -> Known:
    """Elements that are known; A is the identity.

    Args:
        picture: (B, *shape), read where it is known.
        known: bool, broadcastable to it, True where it is; one for all, or (B, ...). Both may be numpy arrays.
    """
    picture, known = torch.as_tensor(picture), torch.as_tensor(known)
    if known.dtype != torch.bool:
        raise ValueError(f"known is {known.dtype}; give bools, True where the picture is known.")
    mark = known.expand(picture.shape)
    if not bool(picture[mark].isfinite().all()):
        raise ValueError("the picture holds values that are not finite where it is known; mark those as unknown.")

    def project(x: Tensor) -> Tensor:
        return torch.where(mark.to(x.device), x, 0.0)

    return Known(torch.where(mark, picture, 0.0), project)


def super_resolve(low: Tensor, factor: int) -> Known:
    """Averages of patches of `factor` pixels a side; A is a basis of patches whose first vector is constant.

    Args:
        low: (B, C, h, w), the averages; samples are (B, C, h factor, w factor).
    """
    if low.ndim != 4 or factor < 1:
        raise ValueError(f"low has shape {tuple(low.shape)} and factor is {factor}; give (B, C, h, w) and a factor from 1.")

    def grown(x: Tensor) -> Tensor:
        return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)

    return Known(grown(low), lambda x: grown(F.avg_pool2d(x, factor)))


def colourise(grey: Tensor, weights: Sequence[float] = LUMA) -> Known:
    """Grey values, which are weighted sums of colours; A is a basis of colours whose first vector is along the weights.

    Args:
        grey: (B, 1, H, W), sum_c weights_c x_c.
        weights: of the C channels; samples are (B, C, H, W).
    """
    if grey.ndim != 4 or grey.shape[1] != 1:
        raise ValueError(f"grey has shape {tuple(grey.shape)}; give (B, 1, H, W).")
    direction = torch.tensor(list(weights), dtype=torch.float64)
    if not float(direction.square().sum()) > 0:
        raise ValueError(f"weights is {tuple(weights)}; at least one channel has to count.")

    def spread(value: Tensor) -> Tensor:
        along = (direction / direction.square().sum()).to(value)
        return value * along[:, None, None]

    def project(x: Tensor) -> Tensor:
        return spread((x * direction.to(x)[:, None, None]).sum(1, keepdim=True))

    return Known(spread(grey), project)
