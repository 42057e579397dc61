"""Norms."""

import math
from collections.abc import Callable

from torch import nn

Norm = Callable[[int], nn.GroupNorm]
"""Makes the norm of so many channels."""


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with up to `groups` groups of at least 4 channels: a channel alone in its group would lose any constant
    added to it, and with it the level."""
    return nn.GroupNorm(math.gcd(groups, max(channels // 4, 1)), channels, eps=1e-6)


def fixed_groups(groups: int, eps: float) -> Norm:
    """Norms of so many groups, whatever the channels: those of published networks."""
    return lambda channels: nn.GroupNorm(groups, channels, eps=eps)
