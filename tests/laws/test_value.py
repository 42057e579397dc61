"""Values of clean data tilt beliefs: exactly on normal data and on independent categories, and by how much not elsewhere."""

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.sample import sample
from langevin.guidance import Moments, Value
from tests.laws.leaping import normal
from tests.laws.test_inverse import COSINE, MATRIX, MEAN, MODEL, ROWS, D, N, Y, posterior, white


def likelihood(x, cond):
    return -0.5 * ((Y[MATRIX] - x @ ROWS.T) ** 2).sum(1) / 0.3**2


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_a_quadratic_value_with_the_covariance_is_bayes_rule(t):
    z = normal(4, D)
    exact = Moments(operator=MATRIX, y=Y[MATRIX], std=0.3)(MODEL)(z, t).mean
    assert torch.allclose(Value(likelihood)(MODEL)(z, t).mean, exact, atol=1e-9)
    assert not torch.allclose(Value(likelihood, covariance="none")(MODEL)(z, t).mean, exact, atol=1e-2)
    assert torch.equal(Value(likelihood, 0.0)(MODEL)(z, t).mean, MODEL(z, t).mean)
    # a linear value shifts by V b
    b = torch.arange(6.0).double()
    plain = Value(lambda x, c: x @ b, covariance="none")(MODEL)(z, t).mean
    assert torch.allclose(Value(lambda x, c: x @ b)(MODEL)(z, t).mean, plain, atol=1e-12)


def test_samples_are_of_the_closed_posterior_and_the_plain_form_is_off():
    mean, covariance = posterior(MATRIX, 0.3)
    off = {}
    for form in ("full", "none"):
        g = Value(likelihood, covariance=form)
        plan = plans.trig(16) if form == "full" else plans.ddpm(250)
        x = sample(MODEL, plan, N, start=white(), guidance=g, seed=5)
        off[form] = (
            float((x.mean(0) - mean).norm() / (mean - MEAN).norm()),
            float((torch.cov(x.T) - covariance).norm() / covariance.norm()),
        )
    assert off["full"][0] < 0.003 and off["full"][1] < 0.01
    assert off["none"] == pytest.approx((0.167, 0.166), abs=0.05)


@pytest.mark.parametrize("limit", ["mask", "uniform"])
def test_independent_categories_are_tilted_exactly(limit):
    process, p, f = Categorical(3, schedules.keep_linear(), limit), torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, -1.0, 1.2])
    exact, tilted = oracles.enumerated(process, p), p * f.exp()
    guided = Value(lambda probs, c: (probs * f.double()).sum((1, 2)))(exact)
    z = torch.tensor([[0], [1], [2]])
    expected = exact(z, 0.7).probs * f.exp()
    assert torch.allclose(guided(z, 0.7).probs, expected / expected.sum(-1, keepdim=True), atol=1e-8)
    n = 20000
    found = torch.bincount(sample(guided, plans.ddpm(20), n, seed=1)[:, 0], minlength=3) / n
    assert torch.allclose(found, tilted / tilted.sum(), atol=0.014)


def test_refusals():
    assert COSINE is MODEL.process
    with pytest.raises(ValueError, match="covariance is 'x'"):
        Value(likelihood, covariance="x")
