"""Exponential moving average of weights."""

import copy

import torch
from torch import nn


class Ema:
    """A slow copy of a model, towards which samples are drawn.

    After update k (counted from 1) average += (1 - d) (weights - average), d = min(decay, (1 + k) / (10 + k)): short at
    first, so that the initial weights are forgotten.

    Args:
        model: what to average. decay: per update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = list(self.model.parameters())
        weights = [w.to(a.dtype) for a, w in zip(averages, model.parameters(), strict=True)]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
