"""Where the probability flow ends: one adaptive Dormand-Prince integration per sample, in float64.

In the angle phi = arctan(sigma / alpha), with z scaled to alpha^2 + sigma^2 = 1, every schedule follows one smooth field,

    dz/dphi = cos(phi) E[e | z] - sin(phi) E[x | z],

from the schedule's largest noise down to phi = 0. Three ends are kept, since samplers stop in different places:

    zero     the flow carried to noise 0: the true answer
    denoise  the flow carried to the schedule's smallest ratio, then replaced by E[x | z]
    stop     the flow carried to the schedule's smallest ratio, divided by alpha
"""

import hashlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality.noise import Noise
from quality.targets import Mixture
from torch import Tensor

ENDS = ("zero", "denoise", "stop")

# Dormand and Prince (1980), the 5(4) pair: stages, their places, and the difference of the two results
STAGES: list[list[float]] = [
    [],
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
PLACES = [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1]
DIFFERENCE = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]


def endpoints(
    target: Mixture, noise: Noise, start: Tensor, classes: Tensor | None = None, tol: float = 1e-9, keep: bool = True
) -> dict[str, Tensor]:
    """The three ends, each (B, D) float64, of the starts (B, D) given at the schedule's own scale.

    Args:
        tol: error allowed per step, RMS over coordinates.
        keep: read and write the cache in the system's temporary directory.
    """
    path = _cached(target, noise, start, classes, tol)
    if keep and path.exists():
        with np.load(path, allow_pickle=False) as file:
            return {end: torch.from_numpy(file[end]) for end in ENDS}
    low = math.atan(noise.ratio_min)
    z = start / math.hypot(noise.alpha, noise.sigma)
    near = _integrate(target, z, math.atan(noise.ratio_max), low, classes, tol)
    alpha, sigma = (torch.tensor(v, dtype=torch.float64) for v in (math.cos(low), math.sin(low)))
    ends = {
        "zero": _integrate(target, near, low, 0.0, classes, tol),
        "denoise": target.eps_x0(near, alpha, sigma, classes)[1],
        "stop": near / alpha,
    }
    if keep:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npz")  # a reader never meets half a file
        arrays: dict[str, Any] = {end: value.numpy() for end, value in ends.items()}
        np.savez(part, **arrays)
        part.replace(path)
    return ends


def _cached(target: Mixture, noise: Noise, start: Tensor, classes: Tensor | None, tol: float) -> Path:
    digest = hashlib.sha256(repr((target.name, target.std, target.guidance, noise, tol)).encode())
    for tensor in (start, target.centres, target.log_weights, *(() if classes is None else (classes,))):
        digest.update(tensor.contiguous().numpy().tobytes())
    return Path(tempfile.gettempdir()) / "langevin_bench_references" / f"{digest.hexdigest()[:24]}.npz"


def _field(target: Mixture, z: Tensor, angle: Tensor, classes: Tensor | None) -> Tensor:
    alpha, sigma = angle.cos()[:, None], angle.sin()[:, None]
    eps, x0 = target.eps_x0(z, alpha, sigma, classes)
    return alpha * eps - sigma * x0


def _integrate(target: Mixture, z: Tensor, begin: float, end: float, classes: Tensor | None, tol: float) -> Tensor:
    """z at angle `end` <= `begin`; every sample has its own steps."""
    count, z = len(z), z.clone()
    angle = torch.full((count,), begin, dtype=torch.float64)
    step = torch.full((count,), (end - begin) / 50, dtype=torch.float64)
    slope = _field(target, z, angle, classes)
    live = torch.arange(count)
    while len(live):
        state, at, own = z[live], angle[live], None if classes is None else classes[live]
        h = torch.maximum(step[live], end - at)
        slopes, moved = [slope[live]], state
        for i in range(1, 7):
            moved = state + h[:, None] * _mix(STAGES[i], slopes)
            slopes.append(_field(target, moved, at + PLACES[i] * h, own))
        error = (h[:, None] * _mix(DIFFERENCE, slopes)).square().mean(1).sqrt() / tol
        good = error <= 1
        accepted = live[good]
        z[accepted], angle[accepted], slope[accepted] = moved[good], (at + h)[good], slopes[6][good]
        step[live] = h * (0.9 * error.clamp(min=1e-8) ** -0.2).clamp(0.2, 5)
        live = live[(angle[live] - end).abs() >= 1e-14]
    return z


def _mix(weights: list[float], slopes: list[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros((), dtype=torch.float64))


def rk4(target: Mixture, noise: Noise, start: Tensor, classes: Tensor | None = None, steps: int = 2000) -> Tensor:
    """The end "stop" by other means: classical Runge-Kutta on z / alpha, in equal steps of the log-ratio; not for rf."""
    high, low = math.log(noise.ratio_max), math.log(noise.ratio_min)
    y, h = start / noise.alpha, (low - high) / steps
    one = torch.ones((), dtype=torch.float64)

    def field(y: Tensor, log_ratio: float) -> Tensor:
        ratio = torch.tensor(log_ratio, dtype=torch.float64).exp()
        return ratio * target.eps_x0(y, one, ratio, classes)[0]

    for i in range(steps):
        u = high + i * h
        a = field(y, u)
        b = field(y + h / 2 * a, u + h / 2)
        c = field(y + h / 2 * b, u + h / 2)
        d = field(y + h * c, u + h)
        y = y + h / 6 * (a + 2 * b + 2 * c + d)
    return y
