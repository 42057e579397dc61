"""Norms."""

import math

from torch import nn


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with up to `groups` groups of at least 4 channels: a channel alone in its group would lose any constant
    added to it, and with it the level."""
    return nn.GroupNorm(math.gcd(groups, max(channels // 4, 1)), channels, eps=1e-6)
