"""Targets whose denoiser is known in closed form: mixtures of Gaussians of one common, isotropic standard deviation.

The only error left in a sample is then the solver's. There are several, of different widths, scales and dimensions, so that
plans are not fitted to one. Data has no units; levels are (alpha, sigma) of z = alpha x + sigma e.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

import langevin as lv

LARGE = 100  # components above which a network call is computed in float32, four times faster; see sampler_checks.py


class Mixture:
    """p(x) = sum_k w_k N(c_k, std^2 I), with classes of components and classifier-free guidance where it has them.

    Args:
        name: what it is called.
        centres: (K, D), c_k.
        weights: (K,), w_k up to a factor.
        std: of every component.
        shape: shape of one sample as samplers see it; D numbers.
        labels: (K,) class of each component.
        guidance: w of classifier-free guidance, 1 is unguided (2207.12598); None takes no class.
    """

    def __init__(
        self,
        name: str,
        centres: Tensor,
        weights: Tensor,
        std: float,
        shape: tuple[int, ...],
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> None:
        self.name, self.centres, self.std, self.shape = name, centres.double(), float(std), shape
        self.log_weights = (weights / weights.sum()).double().log()
        self.labels, self.guidance = labels, guidance
        self._squares = self.centres.square().sum(1)
        self._cast: dict[torch.dtype, Tensor] = {}

    def draw(self, count: int, generator: torch.Generator, classes: Tensor | None = None) -> Tensor:
        """Exact samples (count, D), float64; sample i from class classes[i] where classes (count,) are given."""
        weights = self.log_weights.exp()
        if classes is None:
            which = torch.multinomial(weights, count, replacement=True, generator=generator)
        else:
            assert self.labels is not None
            which = torch.multinomial(weights * (self.labels[None] == classes[:, None]), 1, generator=generator)[:, 0]
        noise = torch.randn(count, self.centres.shape[1], generator=generator, dtype=torch.float64)
        return self.centres[which] + self.std * noise

    def eps_x0(
        self, z: Tensor, alpha: Tensor, sigma: Tensor, classes: Tensor | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """E[e | z] and E[x | z] for z (B, D) at levels () or (B, 1); finite at sigma = 0 and at alpha = 0."""
        centre = self._mean_centre(z, alpha, sigma, classes, dtype)
        variance = alpha**2 * self.std**2 + sigma**2
        rest = z - alpha * centre
        return sigma / variance * rest, centre + alpha * self.std**2 / variance * rest

    def _mean_centre(self, z: Tensor, alpha: Tensor, sigma: Tensor, classes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """sum_k p(k | z) c_k, guided where the target is; the sums are made in `dtype`."""
        centres = self._cast.setdefault(dtype, self.centres.to(dtype))
        variance = alpha**2 * self.std**2 + sigma**2
        # -|z - alpha c|^2 / (2 variance) without the part that all k share
        scaled, bias = (z * (alpha / variance)).to(dtype), self.log_weights - (0.5 * alpha**2 / variance) * self._squares
        logits = torch.addmm(bias.to(dtype).expand(len(z), -1), scaled, centres.T)
        mean = torch.softmax(logits, 1) @ centres
        if self.guidance is not None:
            assert self.labels is not None and classes is not None
            inside = logits.masked_fill(self.labels[None] != classes[:, None], -torch.inf)
            mean = mean + self.guidance * (torch.softmax(inside, 1) @ centres - mean)
        return mean.double()


class Network:
    """The "network" handed to samplers: exact, and it counts its calls (one a batch, guidance included).

    Args:
        target: what it knows.
        classes: (B,) the class of each sample of a guided target; other batches go round them again.

    Attributes:
        nfe: calls made while sampling. setup_nfe: calls made before, by plans that look at the network first.
    """

    def __init__(self, target: Mixture, classes: Tensor | None = None) -> None:
        self.target, self.classes, self.nfe, self.setup_nfe = target, classes, 0, 0
        self.dtype = torch.float32 if len(target.centres) > LARGE else torch.float64

    def _both(self, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        self.nfe += 1
        flat = z.reshape(len(z), -1).double()
        classes = None if self.classes is None else self.classes[torch.arange(len(z)) % len(self.classes)]
        eps, x0 = self.target.eps_x0(flat, _column(alpha), _column(sigma), classes, self.dtype)
        return eps.to(z.dtype).view_as(z), x0.to(z.dtype).view_as(z)

    def eps(self, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[e | z], of z's shape; the level is a number or one per sample."""
        return self._both(z, alpha, sigma)[0]

    def x0(self, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[x | z]."""
        return self._both(z, alpha, sigma)[1]

    def velocity(self, z: Tensor, t: Tensor | float) -> Tensor:
        """dz/dt = E[e - x | z] of rectified flow, z = (1 - t) x + t e."""
        eps, x0 = self._both(z, 1 - torch.as_tensor(t, dtype=torch.float64), t)
        return eps - x0


def _column(level: Tensor | float) -> Tensor:
    level = torch.as_tensor(level, dtype=torch.float64)
    return level.reshape(-1, 1) if level.numel() > 1 else level.reshape(())


def gmm2d() -> Mixture:
    """Eight Gaussians of std 0.1 on two rings in the plane, jittered, with weights 1 to 3."""
    generator = torch.Generator().manual_seed(7)
    angle = torch.arange(8) * (2 * math.pi / 8)
    radius = torch.tensor([1.0, 0.55] * 4)
    ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).double()
    centres = ring + 0.08 * torch.randn(8, 2, generator=generator, dtype=torch.float64)
    return Mixture("gmm2d", centres, torch.tensor([1.0, 2, 1, 3, 1, 1, 2, 1]), 0.1, (2, 1, 1))


def _digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits (1797, 64) in [-1, 1] and their labels, in the order in which they were published."""
    data = lv.data.digits("all")
    assert isinstance(data.x, Tensor) and data.cond is not None
    published = torch.from_numpy(np.random.default_rng(0).permutation(len(data.x))).argsort()  # undoes the split's order
    return data.x[published].reshape(-1, 64).double(), data.cond["label"][published]


def digits() -> Mixture:
    """A Gaussian of std 0.05 on every handwritten digit: 64 dimensions, 1,797 components."""
    centres, _ = _digits()
    return Mixture("digits", centres, torch.ones(len(centres)), 0.05, (1, 8, 8))


def digits_cfg3() -> Mixture:
    """`digits` under classifier-free guidance w = 3, classes 0 to 9: a field that is no mixture's own."""
    centres, labels = _digits()
    return Mixture("digits_cfg3", centres, torch.ones(len(centres)), 0.05, (1, 8, 8), labels, 3.0)


def moons() -> Mixture:
    """64 Gaussians of std 0.05 along two interleaved half circles of radius 1, centred."""
    angle = torch.linspace(0, math.pi, 32, dtype=torch.float64)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    centres = torch.cat([upper, lower]) - torch.tensor([0.5, 0.25], dtype=torch.float64)
    return Mixture("moons", centres, torch.ones(64), 0.05, (2, 1, 1))


def wide() -> Mixture:
    """20 Gaussians of std 0.3 at centres N(0, I) in 16 dimensions (seed 16), with weights 1 to 5."""
    centres = torch.randn(20, 16, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    return Mixture("wide", centres, 1 + torch.arange(20) % 5, 0.3, (16, 1, 1))


def tight() -> Mixture:
    """25 Gaussians of std 0.02 on a square grid over [-2, 2]^2: modes fifty standard deviations apart."""
    side = torch.linspace(-2, 2, 5, dtype=torch.float64)
    return Mixture("tight", torch.cartesian_prod(side, side), torch.ones(25), 0.02, (2, 1, 1))


TARGETS: dict[str, Callable[[], Mixture]] = {
    "gmm2d": gmm2d, "digits": digits, "digits_cfg3": digits_cfg3, "moons": moons, "wide": wide, "tight": tight,
}  # fmt: skip


@cache
def get(name: str) -> Mixture:
    """The target of that name."""
    return TARGETS[name]()
