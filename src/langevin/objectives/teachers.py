"""What distillations have in common: a teacher that stands still, a student that begins as it, strengths of guidance, weights."""

import math

import torch
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise

WEIGHTINGS = ("truncated", "v")


def frozen(teacher: BaseDenoiser) -> BaseDenoiser:
    """The teacher, no longer trained and without dropout. A student that begins as it has to be a copy."""
    if not isinstance(teacher, BaseDenoiser):
        raise ValueError(f"teacher is a {type(teacher).__name__}; give a denoiser, learned, guided or exact.")
    return teacher.requires_grad_(False).eval()


def check_guided(teacher: BaseDenoiser | None, guidance: float) -> float:
    """The strength of a teacher's guidance.

    Raises:
        ValueError: for any but 1 where there is no teacher.
    """
    if teacher is None and guidance != 1:
        raise ValueError(f"guidance is {guidance:g}, of a teacher, and there is none; leave it at 1, or learn from a teacher.")
    return guidance


@torch.no_grad()
def begin_from(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Give the student the teacher's weights.

    Returns:
        Names of the weights it has beyond those, such as the embeddings of new conditions; they stay as they are.

    Raises:
        ValueError: if a weight of the teacher has no place, or another shape, in the student; nothing is changed then.
    """
    own, given = student.state_dict(), teacher.state_dict()
    for name, value in given.items():
        if name not in own or own[name].shape != value.shape:
            there = tuple(own[name].shape) if name in own else "none"
            raise ValueError(f"the teacher's {name} is {tuple(value.shape)}, the student's {there}; build the same network.")
    student.load_state_dict(given, strict=False)
    return [name for name in own if name not in given]


def strengths(w: float | tuple[float, float]) -> tuple[float, float]:
    """(least, most) of a range of strengths of guidance, or of one strength.

    Raises:
        ValueError: if they are not finite, or out of order.
    """
    low, high = (float(w), float(w)) if isinstance(w, (int, float)) else (float(v) for v in w)
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"w is {w}; give one strength, or the least and the most, 1 for no guidance.")
    return low, high


def drawn(w: tuple[float, float], noise: Noise, like: Tensor) -> Tensor:
    """A strength for each sample, uniform over the range, (B,), in the dtype of `like`."""
    return (w[0] + (w[1] - w[0]) * noise.at("guidance").uniform(())).to(like.device, like.dtype)


def check_weighting(weighting: str) -> str:
    """The name of a weighting. Raises ValueError for another."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(WEIGHTINGS)}.")
    return weighting


def signal_weight(weighting: str, process: Gaussian, t: Tensor) -> Tensor:
    """What a squared error of x counts: "truncated" is max(SNR, 1), "v" is SNR + 1, an error of v (2202.00512, eq. 10 and 11).

    Both stay above 0 where there is no signal: a student of one step has no other level to learn at.
    """
    snr = process.schedule.lam(t).exp()
    return snr + 1 if weighting == "v" else snr.clamp(min=1.0)
