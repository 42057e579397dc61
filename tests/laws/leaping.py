"""What laws of leaping models are held against: the exact flow of normal data, and batches over which squares average exactly."""

import torch

from langevin.core.flow_map import FlowMap
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast, expand
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.objectives import Batch
from langevin.objectives.coupling import Coupling
from langevin.objectives.leaps import aim

C = 0.25
"""Variance of the data, whose mean is 0."""


class Nothing(torch.nn.Module):
    """A network whose denoiser does not ask it."""

    def forward(self, z, level, cond=None, mask=None):
        raise AssertionError("this denoiser knows the answer")


def spread(process, t, c=C):
    """The deviation of z_t."""
    alpha, sigma = process.schedule(t)
    return (alpha**2 * c + sigma**2).sqrt()


class ExactFlow(FlowMap):
    """The flow map of N(0, c), one number after the other: z_s = z_t V_s / V_t. `gain` multiplies what it believes of leaps."""

    def __init__(self, process: Gaussian, c: float = C, prediction="v", shape=(1,)):
        super().__init__(Nothing(), process, prediction, shape)
        self.c, self.gain = c, torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z, t, cond, mask):
        state, level = z[""], t[""]
        alpha, _ = self.leaf.schedule(level)
        x = cast(alpha * self.c / spread(self.leaf, level, self.c) ** 2, state) * state
        if cond is not None and "to" in cond:
            s = expand(cond["to"], state)
            landed = cast(spread(self.leaf, s, self.c) / spread(self.leaf, level, self.c), state) * state
            same = (s == level).expand(state.shape)
            x = torch.where(same, x, aim(self.leaf, state, landed, level, torch.where(s == level, level / 2, s)))
        return GaussianPosterior(self.gain * x)


class Crossed(Coupling):
    """A coupling that replaces noise by +1 and -1: with `square` as data, products of two of x and e average exactly."""

    def __call__(self, x, e, label=None, noise=None):
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=x.dtype).repeat(len(x) // 4).reshape(-1, 1)


def square(repeats: int, c: float = C):
    """(4 repeats, 1): mean 0 and variance c, uncorrelated with the noise of `Crossed`."""
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    return Batch((c**0.5 * signs).repeat(repeats).reshape(-1, 1))


def normal(count: int, *shape: int, seed: int = 0):
    return Noise.of(seed, count).at("test").normal(shape, torch.float64)
