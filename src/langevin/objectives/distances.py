"""Distances d(a, b) between beliefs, (B, *shape) each -> (B,): what objectives that compare two of them minimise."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from langevin import spec

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


class Frozen(nn.Module):
    """A distance that is a network: it goes where the objective goes, learns nothing, and is in no checkpoint.

    What it was is told by its repr, which a resumed run compares. It computes in the precision of its own weights, under autocast
    as well: the beliefs that are compared are often so near each other that half precision would see no difference.
    """

    def __init__(self, distance: nn.Module) -> None:
        super().__init__()
        self._distance = (distance.eval().requires_grad_(False),)  # a tuple, whose modules are nobody's parts

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        (distance,) = self._distance
        weight = next(distance.parameters(), a)
        with torch.autocast(a.device.type, enabled=False):
            return distance(a.to(weight.dtype), b.to(weight.dtype))

    def _apply(self, *args: Any, **kwargs: Any) -> "Frozen":
        self._distance[0]._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._distance[0])


def named(distance: str | Distance) -> Distance:
    """A distance by name, with its options ("huber:c=0.01"), or the one given; one that is a network is `Frozen`.

    Raises:
        ValueError: for an unknown name or option.
    """
    if isinstance(distance, str):
        if distance.partition(":")[0] in ("lpips", "classifier"):
            raise ValueError(f"distance is {distance!r}, which recipes know by name; here give the distance itself, such as "
                             "langevin.evaluate.lpips(FILE).")  # fmt: skip
        return spec.parse(distance, DISTANCES, "distance")
    return Frozen(distance) if isinstance(distance, nn.Module) and not isinstance(distance, Frozen) else distance
