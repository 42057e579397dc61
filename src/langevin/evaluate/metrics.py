"""Distances between sets of samples. None is a published FID: each is named after the features it uses."""

import torch
from torch import Tensor


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    f = features.double()
    return f.mean(0), torch.cov(f.T)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between the normal fits of features a (N, D) and b (M, D).

    |m_a - m_b|^2 + tr(C_a + C_b) - 2 sum sqrt(eig(C_a C_b)) (1706.08500, eq. 6). Biased upwards for few samples: compare
    it with that of real data against real data of the same sizes.
    """
    for name, f in (("a", a), ("b", b)):
        if f.ndim != 2 or len(f) < 2:
            raise ValueError(f"features {name} have shape {tuple(f.shape)}; give (N, D) with at least 2 samples.")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    # the product of two covariances has real, non-negative eigenvalues; rounding may say otherwise
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * root)


def nearest(samples: Tensor, train: Tensor, chunk: int = 1000) -> Tensor:
    """(N,) Euclidean distance of each sample to the nearest training sample, both (N, *shape) floats."""
    flat = train.flatten(1)
    return torch.cat([torch.cdist(part.flatten(1), flat).amin(1) for part in samples.split(chunk)])


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| for point sets (N, D) and (M, D), 0 if and only if the laws agree."""
    a, b = a.double(), b.double()

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def pca_features(train: Tensor, *sets: Tensor, components: int = 20) -> list[Tensor]:
    """Each set projected on the first principal components of `train` (all (N, *shape)); "FD-PCA" is frechet of these."""
    flat = train.flatten(1).double()
    mean = flat.mean(0)
    components = min(components, flat.shape[1], len(flat) - 1)
    basis = torch.linalg.svd(flat - mean, full_matrices=False)[2][:components].T
    return [(s.flatten(1).double() - mean) @ basis for s in sets]
