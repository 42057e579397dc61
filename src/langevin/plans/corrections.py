"""Row kinds that correct a state at its level by Langevin dynamics."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import StateRow
from langevin.plans.moves import Shown, refuse_scoreless

_STEADY = 8


def _ratio(leaf: Gaussian, z: Tensor, score: Tensor, alpha: float, sigma: float, mask: Tensor | None) -> Tensor:
    """|n|^2 / |s|^2 of each sample, steadied: n is worth the number of its elements, and both have eight further elements, at
    which data is normal of unit variance."""
    across = tuple(range(1, z.ndim))
    real = leaf.space.real(z, mask)
    count = z[0].numel() if real is None else real.expand_as(z).sum(across, keepdim=True)
    return (count + _STEADY) / (score.double().square().sum(across, keepdim=True) + _STEADY / (alpha**2 + sigma**2))


@dataclass(frozen=True, kw_only=True)
class Langevin(Shown, StateRow):
    """One step of Langevin dynamics at one level (2011.13456, alg. 4 and 5): z + e s + sqrt(2 e) n, s the score.

    Args:
        start, stop: the level.
        snr: r; the step size is e = 2 alpha^2 (r |n| / |s|)^2 with the norms of each sample, so that a sample does not
            depend on its batch (the published code takes means over the batch). In few dimensions a score is often near 0, and
            steps that are longer there spoil the law: both norms therefore count eight further elements of normal data.
        size: the step size itself, in units of sigma^2, instead of r (annealed Langevin, 1907.05600, alg. 1).
        shown: the level the network is told, and the score computed at, where a peer tells it another than the state's.
        together: the norms are means over the batch, as in the published code.
        factor: in place of alpha^2 in the step size; the published one is 1 - beta_i, of a table of betas.
    """

    start: float
    stop: float
    snr: float = 0.16
    size: float | None = None
    shown: float | None = None
    together: bool = False
    factor: float | None = None

    def problem(self, evaluations: int) -> str | None:
        if self.start != self.stop or not 0 < self.start <= 1:
            return f"is a Langevin step from {self.start:g} to {self.stop:g}; it stays at one level above 0"
        return None

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        alpha, sigma = (float(v) for v in leaf.schedule(self.at(leaf, z, noise)))
        score = (belief.mean * alpha - z) / sigma**2
        fresh = leaf.noise(z, noise, mask)
        if self.size is not None:
            size: Any = self.size * sigma**2
        else:
            if self.together:
                across = tuple(range(1, z.ndim))
                means = [u.double().square().sum(across).sqrt().mean().square() for u in (fresh, score)]
                ratio = means[0] / means[1]
            else:
                ratio = _ratio(leaf, z, score, alpha, sigma, mask)
            unit = (max(alpha, 1e-4) * self.snr) ** 2 if self.factor is None else self.factor * self.snr**2
            size = (2 * unit * ratio).to(z.dtype)
        return z + size * score + (2 * size) ** 0.5 * fresh


LEAST_SIGNAL = 1e-8
"""alpha below which a step that divides by it is nothing but rounding."""


@dataclass(frozen=True, kw_only=True)
class Split(StateRow):
    """A Langevin correction and a step down by splitting, both by one score (S4; GDSS, 2202.02514, app. B): half of the linear
    part of the reverse equation, the whole drift of the score, the other half.

    The linear part from t to s multiplies by alpha_s / alpha_t and adds noise of variance (alpha_s sigma_t / alpha_t)^2 -
    sigma_s^2, exactly. (The published code adds 1 - alpha_t^2 / alpha_s^2 for a variance-preserving process, the forward
    kernel's, which is less by terms of second order.)

    Args:
        snr: of the correction, as of `Langevin`; 0 leaves it out.
        scale: of the correction's noise.
    """

    start: float
    stop: float
    snr: float = 0.2
    scale: float = 1.0

    def problem(self, evaluations: int) -> str | None:
        if not 0 < self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall, and end above 0"
        return None

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)
        if not float(leaf.schedule(self.start)[0]) > LEAST_SIGNAL:
            raise ValueError(
                f"splitting multiplies by alpha_s / alpha_t, which is infinite from level {self.start:g}, where nothing of the "
                "data is left; use a schedule that leaves some, such as vp_linear, or another plan."
            )

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        middle = torch.tensor((self.start + self.stop) / 2, dtype=torch.float64)
        (alpha_t, sigma_t), (alpha, sigma), (alpha_s, sigma_s) = (leaf.schedule(u) for u in (self.start, middle, self.stop))
        score = (belief.mean * float(alpha_t) - z) / float(sigma_t) ** 2
        if self.snr:
            fresh = leaf.noise(z, noise.at("correction"), mask)
            ratio = _ratio(leaf, z, score, float(alpha_t), float(sigma_t), mask)
            size = (2 * (max(float(alpha_t), 1e-4) * self.snr) ** 2 * ratio).to(z.dtype)
            z = z + size * score + self.scale * (2 * size) ** 0.5 * fresh
        alpha_rate, sigma_rate = leaf.schedule.rates(middle)
        squared = 2 * sigma * sigma_rate - 2 * alpha_rate / alpha * sigma**2  # g^2 half way
        half = [(alpha_t, sigma_t, alpha, sigma, "first"), (alpha, sigma, alpha_s, sigma_s, "second")]
        for k, (a, b, c, d, part) in enumerate(half):
            spread = float(((c * b / a) ** 2 - d**2).clamp(min=0).sqrt())
            z = z * float(c / a) + spread * leaf.noise(z, noise.at(part), mask)
            if k == 0:
                z = z + float(squared) * (self.start - self.stop) * score
        return z
