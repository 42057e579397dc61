"""What can be done with the codes of pictures: sums of them, and ways between them."""

from typing import Unpack

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser
from langevin.tasks.edit import slerp
from langevin.tasks.likelihood import Carrying, decode, encode, one_condition


def shifted(
    denoiser: BaseDenoiser, picture: Tensor, plus: Tensor, minus: Tensor, weight: float = 1.0, **how: Unpack[Carrying]
) -> Tensor:
    """`picture` (B, *shape) with what tells `plus` (N, *shape) from `minus` (M, *shape): weight times the difference of their
    mean codes is added to its code, which then is brought back to its length, where noise lies.

    Args:
        how: codes are found; see `tasks.likelihood.encode`. Conditions are those of the pictures and belong to none of this.

    Raises:
        ValueError: if shapes differ, or for another process than one Gaussian process.
    """
    if not picture.shape[1:] == plus.shape[1:] == minus.shape[1:]:
        raise ValueError(
            f"samples have shapes {tuple(picture.shape[1:])}, {tuple(plus.shape[1:])}, {tuple(minus.shape[1:])}; give one shape."
        )
    codes = encode(denoiser, torch.cat([picture, plus, minus]), **how)
    code, one, other = codes.split([len(picture), len(plus), len(minus)])
    moved = code + weight * (one.mean(0) - other.mean(0))
    axes = tuple(range(1, code.ndim))
    length, now = (v.double().square().sum(axes, keepdim=True).sqrt().to(v) for v in (code, moved))
    return decode(denoiser, moved * length / now.clamp(min=1e-12), **how)


def gallery(denoiser: BaseDenoiser, a: Tensor, b: Tensor, count: int = 8, **how: Unpack[Carrying]) -> Tensor:
    """Ways (B, count, *shape) from pictures a to pictures b, (B, *shape) each, along great circles between their codes; the ends
    are the pictures themselves, to the tolerance. Conditions are one for all ways, (1, ...) each.

    Raises:
        ValueError: if count is below 2, conditions are several, or for another process than one Gaussian process.
    """
    if count < 2 or a.shape != b.shape:
        raise ValueError(f"count is {count} for pictures {tuple(a.shape)} and {tuple(b.shape)}; give at least 2, and one shape.")
    ends, ways = (one_condition(how, many * len(a)) for many in (2, count))
    first, last = encode(denoiser, torch.cat([a, b]), **ends).chunk(2)
    share = torch.linspace(0, 1, count, dtype=torch.float64, device=a.device).repeat(len(a)).reshape(-1, *[1] * (a.ndim - 1))
    codes = slerp(first.repeat_interleave(count, 0), last.repeat_interleave(count, 0), share)
    return decode(denoiser, codes, **ways).unflatten(0, (len(a), count))
