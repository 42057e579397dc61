"""Distances d(a, b) between beliefs, (B, *shape) each -> (B,): what objectives that compare two of them minimise."""

import math
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def squared() -> Distance:
    """Mean squared difference."""
    return lambda a, b: (a - b).square().flatten(1).mean(1)


def absolute() -> Distance:
    """Mean absolute difference."""
    return lambda a, b: (a - b).abs().flatten(1).mean(1)


def pseudo_huber(c: float | None = None) -> Distance:
    """sqrt(|a - b|^2 + c^2) - c of the whole difference, c = 0.00054 sqrt(D) by default (iCT, 2310.14189, eq. 8), D numbers in
    a sample. A square near 0, a norm far from it."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        difference = (a - b).flatten(1)
        least = 0.00054 * math.sqrt(difference.shape[1]) if c is None else c
        return (difference.square().sum(1) + least**2).sqrt() - least

    return distance


def huber(c: float = 0.001) -> Distance:
    """Mean of sqrt((a - b)^2 + c^2) - c, element by element (LCM's published loss)."""
    return lambda a, b: (((a - b).square() + c**2).sqrt() - c).flatten(1).mean(1)


DISTANCES: dict[str, Callable[..., Distance]] = {
    "squared": squared, "absolute": absolute, "pseudo_huber": pseudo_huber, "huber": huber,
}  # fmt: skip
