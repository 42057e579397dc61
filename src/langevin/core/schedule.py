"""Schedules: t -> (alpha, sigma), continuous on [0, 1], with alpha(0) = 1 and sigma(0) = 0.

    z = alpha(t) x + sigma(t) e,   lam(t) = log(alpha^2 / sigma^2), strictly decreasing ("log-SNR").

Each schedule keeps one constraint, its `scale`:
    "vp"    alpha^2 + sigma^2 = 1     (DDPM, cosine, Stable Diffusion)
    "flow"  alpha + sigma = 1         (flow matching; also keep-probabilities of categories, sigma = 1 - alpha)
    "ve"    alpha = 1                 (NCSN, EDM)
    "other"                           (sub-VP)
Given lam and the scale, (alpha, sigma) follow; that is how shifts and learned schedules are written.
A categorical process reads alpha alone, as the probability that a token is kept.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from langevin.core.levels import Level
from langevin.core.messages import one_line

Curve = Callable[[Tensor], Tensor]


class Schedule(nn.Module, ABC):
    """A path from data to noise. Subclasses give `alpha` and `sigma`; the rest follows from them.

    Attributes:
        scale: the constraint between alpha and sigma (see the module).
        floor: the lowest level a grid in lam visits before its last step to 0.
    """

    scale: str = "other"
    floor: float = 1e-3

    @property
    def learned(self) -> bool:
        """Whether it has parameters, so that its numbers may change."""
        return next(self.parameters(), None) is not None

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal, in float64, shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise, in float64, shape of t."""

    def forward(self, t: Level) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return self.alpha(t), self.sigma(t)

    def lam(self, t: Level) -> Tensor:
        """log(alpha^2 / sigma^2); +inf where sigma = 0, -inf where alpha = 0."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def rates(self, t: Level) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt), by forward differentiation of the formulas above."""
        t = torch.as_tensor(t, dtype=torch.float64)
        one = torch.ones_like(t)
        return torch.func.jvp(self.alpha, (t,), (one,))[1], torch.func.jvp(self.sigma, (t,), (one,))[1]

    def lam_rate(self, t: Level) -> Tensor:
        """d lam / dt (negative)."""
        alpha, sigma = self(t)
        alpha_rate, sigma_rate = self.rates(t)
        return 2 * (alpha_rate / alpha - sigma_rate / sigma)

    def invert(self, lam: Level) -> Tensor:
        """The level at which lam(t) = lam, by bisection to float64 resolution; clamped to [0, 1]."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(64):
            middle = (low + high) / 2
            above = self.lam(middle) > lam
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def check(self) -> None:
        """Refuse what is no path from data to noise, by a look at 33 levels; it may stop short of either end."""
        t = torch.linspace(0, 1, 33, dtype=torch.float64, device="cpu")
        alpha, sigma, lam = (v.detach() for v in (*self(t), self.lam(t)))
        one = {"vp": alpha**2 + sigma**2, "flow": alpha + sigma, "ve": alpha, "other": torch.ones_like(t)}.get(self.scale)
        for right, what in (
            (one is not None, f"is of scale {self.scale!r}, which is none of 'vp', 'flow', 've' and 'other'"),
            (bool(((alpha >= 0) & (sigma >= 0)).all()), "has an alpha or sigma that is negative or no number"),
            (bool((lam[1:] <= lam[:-1] + 1e-6).all() and lam[0] > lam[-1]), "has an alpha / sigma that does not fall with t"),
            (bool(alpha[0] >= sigma[0]), "has more noise than data at t = 0"),
            (one is not None and bool(((one - 1).abs() < 1e-3).all()), f"is said to be of scale {self.scale!r} and is not"),
        ):
            if not right:
                raise ValueError(f"schedule {one_line(self)} {what}; t goes from 0, data, to 1, noise.")

    @property
    def lam_range(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that grids in lam visit: from sigma/alpha of 1000 at most, where data is forgotten."""
        return max(float(self.lam(1.0)), -2 * math.log(1000)), float(self.lam(self.floor))


class Formula(Schedule):
    """A schedule given by a formula for alpha; sigma follows from the scale unless it is given."""

    def __init__(self, name: str, alpha: Curve, sigma: Curve | None, scale: str, floor: float = 1e-3) -> None:
        super().__init__()
        if sigma is None and scale not in ("vp", "flow"):
            raise ValueError(f"scale is {scale!r}; give sigma as well, or use scale 'vp' or 'flow'.")
        self.name, self.scale, self.floor = name, scale, floor
        self._alpha, self._sigma = alpha, sigma

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t.double())

    def sigma(self, t: Tensor) -> Tensor:
        if self._sigma is not None:
            return self._sigma(t.double())
        alpha = self.alpha(t)
        return 1 - alpha if self.scale == "flow" else ((1 - alpha) * (1 + alpha)).clamp(min=0).sqrt()

    def extra_repr(self) -> str:
        return self.name


class Table(Schedule):
    """Published noise levels at t = 1/T, ..., 1, with (1, 0) at t = 0, and a straight line of alpha between.

    For scale "vp" pass the alphas (sqrt of the published cumulative products); for "ve" the sigmas, between which
    log sigma is linear (sigma itself below the first node). Nodes are met exactly.
    """

    def __init__(self, name: str, nodes: Tensor, scale: str) -> None:
        super().__init__()
        if scale not in ("vp", "ve"):
            raise ValueError(f"scale is {scale!r}; tables are 'vp' (alphas) or 've' (sigmas).")
        self.name, self.scale, self.size = name, scale, len(nodes)
        self.floor = 1 / len(nodes)
        nodes = nodes.double()
        # 1 - alpha rather than alpha, so that sigma^2 = u (2 - u) keeps its digits where alpha is near 1
        self._nodes = torch.cat([nodes.new_zeros(1), 1 - nodes if scale == "vp" else nodes])

    def _at(self, t: Tensor) -> Tensor:
        nodes = self._nodes.to(t.device)
        place = t.double().clamp(0, 1) * self.size
        # a level k/T must meet node k although k/T*T may miss k by one ulp
        place = torch.where((place - place.round()).abs() < 1e-9, place.round() + (place - place.detach()), place)
        left = place.detach().floor().clamp(max=self.size - 1).long()
        part = place - left
        a, b = nodes[left], nodes[left + 1]
        if self.scale == "vp":
            return a + part * (b - a)
        return torch.where(left > 0, a.clamp(min=1e-300) ** (1 - part) * b**part, part * b)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self._at(t) if self.scale == "vp" else torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        u = self._at(t)
        return (u * (2 - u)).sqrt() if self.scale == "vp" else u

    def extra_repr(self) -> str:
        return f"{self.name}, {self.size} levels"
