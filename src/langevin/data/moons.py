"""Two moons: the plane's smallest hard case."""

import math

import torch

from langevin.core.noise import Noise
from langevin.data.arrays import Arrays


def two_moons(count: int = 10_000, std: float = 0.05, seed: int = 0) -> Arrays:
    """Points x (N, 2), two half circles with noise, scaled to about unit variance; cond["label"] says which moon."""
    noise = Noise.of(seed, count)
    label = (torch.arange(count) % 2).long()
    angle = math.pi * noise.at("angle").uniform(()).float()
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    x = torch.where(label[:, None] == 0, upper, lower) + std * noise.at("noise").normal((2,))
    return Arrays((x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5]), {"label": label})
