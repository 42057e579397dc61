"""Exact denoisers agree with each other, and with integration by brute force."""

import pytest
import torch

from langevin import oracles as oracle
from langevin import schedules
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise

PROCESS = Gaussian(schedules.cosine())


def test_mixture_posterior_against_quadrature():
    means, weights, std = torch.tensor([[1.0], [-0.5], [0.2]]), torch.tensor([0.2, 0.5, 0.3]), 0.3
    exact = oracle.mixture(PROCESS, means, std, weights)
    x = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    prior = (weights * torch.exp(-((x[:, None] - means.T) ** 2) / (2 * std**2))).sum(1)
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = (float(c) for c in PROCESS.schedule(t))
        for z in (-1.2, 0.1, 0.8):
            density = prior * torch.exp(-((z - alpha * x) ** 2) / (2 * sigma**2))
            mean = (x * density).sum() / density.sum()
            variance = ((x - mean) ** 2 * density).sum() / density.sum()
            belief = exact(torch.tensor([[z]], dtype=torch.float64), t)
            assert float(belief.mean) == pytest.approx(float(mean), abs=1e-9)
            assert float(belief.variance) == pytest.approx(float(variance), abs=1e-9)


def test_one_component_is_a_normal():
    mean, std = torch.tensor([0.3, -0.7]), 0.4
    one = oracle.mixture(PROCESS, mean[None], std)
    normal = oracle.gaussian(PROCESS, mean, std**2 * torch.eye(2))
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.3, torch.rand(5, generator=torch.Generator().manual_seed(1)), expand(torch.tensor([[0.2, 0.9]]), z)):
        a, b = one(z, t), normal(z, t)
        assert torch.allclose(a.mean, b.mean, atol=1e-10) and torch.allclose(a.variance, b.variance, atol=1e-10)


def test_normal_with_known_elements_is_conditioning():
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    normal = oracle.gaussian(PROCESS, torch.zeros(2), covariance)
    z = torch.tensor([[1.5, -0.3]], dtype=torch.float64)
    belief = normal(z, torch.tensor([[0.0, 1.0]]))  # the first known, the second pure noise
    assert float(belief.mean[0, 1]) == pytest.approx(0.8 * 1.5, abs=1e-9)
    assert float(belief.variance[0, 1]) == pytest.approx(1 - 0.8**2, abs=1e-9)


def test_beliefs_are_calibrated():
    # E[x | z] is the least-squares predictor: its error is orthogonal to functions of z, and its size is the variance
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]])
    exact, n = oracle.mixture(PROCESS, means, 0.3), 50_000
    pick = (Noise.of(0, n).at("pick").uniform(()) * 3).long()
    x = means[pick] + 0.3 * Noise.of(0, n).normal((2,))
    z = PROCESS.marginal(x, 0.5, Noise.of(1, n))
    belief = exact(z, 0.5)
    error = x - belief.mean
    for f in (torch.ones_like(z), z, z.square(), z.sin()):
        product = (error * f).double()
        assert (product.mean(0).abs() < 4.5 * product.std(0) / n**0.5).all()
    excess = (error.square() - belief.variance).double()
    assert (excess.mean(0).abs() < 4.5 * excess.std(0) / n**0.5).all()


def test_a_data_set_is_remembered_at_low_noise_and_averaged_at_high():
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    exact = oracle.dataset(PROCESS, points)
    assert torch.allclose(exact(PROCESS.mix(points, torch.zeros(20, 3), 0.02), 0.02).mean, points, atol=1e-5)
    assert torch.allclose(
        exact(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), 1.0).mean, points.mean(0).expand(4, 3), atol=1e-6
    )


def test_labels_restrict_and_dropping_frees():
    points, label = torch.tensor([[1.0], [-1.0], [3.0]]), torch.tensor([0, 0, 1])
    exact = oracle.dataset(PROCESS, points, label)
    z = torch.zeros(2, 1)
    cond = {"label": torch.tensor([1, 1]), "drop": torch.tensor([False, True])}
    belief = exact(z, 1.0, cond).mean
    assert float(belief[0]) == pytest.approx(3.0) and float(belief[1]) == pytest.approx(1.0)
