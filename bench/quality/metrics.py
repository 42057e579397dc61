"""Errors of endpoints, and distances between sets of samples. All lengths are in the data's own units, per coordinate."""

import torch
from quality.reference import ENDS
from quality.targets import Mixture
from torch import Tensor


def endpoint_errors(x: Tensor, ends: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """For each of the reference's ends: RMS distance per coordinate over all samples (B, D), and the median over samples."""
    out = {}
    for end in ENDS:
        distance = (x - ends[end]).square().mean(1).sqrt()
        out[end] = (distance.square().mean().sqrt().item(), distance.median().item())
    return out


def flipped(target: Mixture, x: Tensor, true: Tensor) -> float:
    """Share of samples that end nearest to another component than the reference does."""
    return (_nearest(target, x)[0] != _nearest(target, true)[0]).double().mean().item()


def spread(target: Mixture, x: Tensor) -> float:
    """RMS distance to the nearest component, per coordinate, over the components' std: 1 where modes have the right width."""
    return (_nearest(target, x)[1].square().mean() / x.shape[1]).sqrt().item() / target.std


def _nearest(target: Mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    distance = torch.cdist(x, target.centres)
    return distance.argmin(1), distance.amin(1)


class Law:
    """Distances from samples to one exact set of samples (N, D).

    Args:
        true: the exact samples.
        projections: directions of the sliced distance, drawn from seed 0.
    """

    def __init__(self, true: Tensor, projections: int = 256) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(true.shape[1], projections, generator=generator, dtype=torch.float64)
        self.true, self.directions = true, torch.nn.functional.normalize(directions, dim=0)
        self.within, self.sorted = _mean_distance(true), (true @ self.directions).sort(0).values

    def energy(self, x: Tensor) -> float:
        """Squared energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| (Szekely and Rizzo 2013), unbiased: it may be below 0."""
        return (2 * torch.cdist(x, self.true).mean() - _mean_distance(x) - self.within).item()

    def sliced_w2(self, x: Tensor) -> float:
        """Sliced Wasserstein-2 distance of as many samples (Bonneel et al. 2015)."""
        return ((x @ self.directions).sort(0).values - self.sorted).square().mean().sqrt().item()


def _mean_distance(x: Tensor) -> Tensor:
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
