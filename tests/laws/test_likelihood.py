"""Likelihoods by the probability flow, codes, bounds: against densities that are known."""

import math
from typing import Any

import pytest
import torch

import langevin as lv
from langevin import oracles, schedules
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.interpolants import Interpolant
from langevin.tasks.edit import slerp
from langevin.tasks.elbo import elbo
from langevin.tasks.likelihood import LogProb, between, decode, dequantised, encode, log_prob, standard_normal
from tests.rows import SCHEDULES

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.8, 0.35], [0.35, 0.5]], dtype=torch.float64)
TIGHT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def law(process, t):
    """q(z_t) of the normal data above."""
    alpha, sigma = process.schedule(t)
    noise = sigma**2 * torch.eye(2, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(alpha * MEAN, alpha**2 * COVARIANCE + noise)


def points(process, count=6):
    return law(process, process.schedule.floor).loc + Noise.of(0, count).normal((2,), torch.float64)


@pytest.mark.parametrize("name", ["vp_linear", "sub_vp", "ve", "flow"])
def test_the_flow_of_a_correlated_normal_has_its_density(name):
    process = Gaussian(SCHEDULES[name])
    model, x = oracles.gaussian(process, MEAN, COVARIANCE), points(process)
    truth = law(process, process.schedule.floor).log_prob(x)
    found = lv.log_prob(model, x, log_prior=law(process, 1.0).log_prob, **TIGHT)
    assert float((found.nats - truth).abs().max()) < 1.6e-11
    assert found.error.eq(0).all() and found.elements == 2  # so few elements have the exact trace


def test_a_schedule_that_keeps_noise_at_level_0_has_its_density_there():
    process = Gaussian(schedules.bayesian_flow(0.02))
    model, x = oracles.gaussian(process, MEAN, COVARIANCE), points(process)
    assert process.schedule.floor == 0
    found = lv.log_prob(model, x, **TIGHT)
    assert float((found.nats - law(process, 0.0).log_prob(x)).abs().max()) < 1e-10
    with pytest.raises(ValueError, match="low is 0"):
        lv.log_prob(oracles.gaussian(Gaussian(schedules.cosine()), MEAN, COVARIANCE), x, low=0.0)


def test_a_likelihood_does_not_depend_on_its_batch():
    process = Gaussian(schedules.vp_linear())
    model = oracles.mixture(process, torch.tensor([[1.0, 0.5], [-1.0, 0.2]], dtype=torch.float64), 0.3)
    x = torch.tensor([[0.9, 0.6], [-1.1, 0.1], [0.2, 0.4]], dtype=torch.float64)
    many, alone = (log_prob(model, part, rtol=1e-4, atol=1e-4).nats for part in (x, x[2:]))
    assert torch.allclose(many[2:], alone, atol=1e-12)
    # the density of a mixture, with the noise of the floor in it
    assert torch.allclose(many, model.log_prob(x, process.schedule.floor), atol=2e-3)


def test_fixed_solvers_converge_at_their_order():
    process = Gaussian(schedules.vp_linear())
    model, x = oracles.gaussian(process, MEAN, COVARIANCE), points(process)
    truth = law(process, process.schedule.floor).log_prob(x)
    for solver, order in (("heun", 2), ("rk4", 4)):
        errors = [
            float((log_prob(model, x, solver=solver, steps=n, log_prior=law(process, 1.0).log_prob).nats - truth).abs().max())
            for n in (8, 16)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5)


def test_what_the_standard_prior_costs():
    # vp_linear leaves 0.0066 of the data at level 1: with N(0, I) for the prior the likelihood misses that
    process = Gaussian(schedules.vp_linear())
    model, x = oracles.gaussian(process, MEAN, COVARIANCE), points(process, 200)
    exact = log_prob(model, x, solver="rk4", steps=10, log_prior=law(process, 1.0).log_prob)
    plain = log_prob(model, x, solver="rk4", steps=10)
    missed = plain.nats - exact.nats
    assert exact.latent is not None
    expected = standard_normal(float(process.schedule(1.0)[1]))(exact.latent) - law(process, 1.0).log_prob(exact.latent)
    assert torch.allclose(missed, expected, atol=1e-9)
    assert 1e-4 < float(missed.abs().mean()) < 1e-2


def test_rademacher_probes():
    process = Gaussian(schedules.vp_linear())
    apart = oracles.gaussian(process, MEAN, torch.diag(torch.diag(COVARIANCE)))
    x = points(process)
    exact, one = (log_prob(apart, x, solver="rk4", steps=8, probes=n) for n in (0, 1))
    assert torch.allclose(exact.nats, one.nats, atol=1e-9)  # exact where the Jacobian is diagonal
    assert one.error.isnan().all()
    model = oracles.gaussian(process, MEAN, COVARIANCE)
    exact, many = (log_prob(model, x, solver="rk4", steps=8, probes=n) for n in (0, 60))
    assert ((many.nats - exact.nats).abs() < 4.5 * many.error).all() and (many.error > 1e-3).all()
    # the error bar is of the size of the error: over other seeds the estimates spread as it says
    again = torch.stack([log_prob(model, x, solver="rk4", steps=4, probes=4, seed=s).nats for s in range(24)])
    said = log_prob(model, x, solver="rk4", steps=4, probes=60).error * (60 / 4) ** 0.5
    assert torch.allclose(again.std(0) / said, torch.ones_like(said), atol=0.6)
    # a probe is named by its sample
    part = log_prob(model, x[2:4], solver="rk4", steps=8, probes=60, first_id=2)
    assert torch.allclose(part.nats, many.nats[2:4], atol=1e-12)
    wide = oracles.gaussian(process, torch.zeros(40), torch.eye(40))
    assert log_prob(wide, torch.zeros(2, 40, dtype=torch.float64), solver="rk4", steps=2).error.shape == (2,)


def test_bits_per_dimension():
    uniform = LogProb(torch.tensor([-12 * math.log(2.0)]), torch.zeros(1), 12, None, 0)  # density 1/2 on [-1, 1]
    assert float(uniform.bits(2 / 256)) == pytest.approx(8.0)
    flat = LogProb(torch.tensor([0.0]), torch.zeros(1), 12, None, 0)
    assert float(flat.bits(2 / 256)) == pytest.approx(7.0) and float(flat.bits(1 / 256)) == pytest.approx(8.0)
    assert float(flat.bits(2 / 17)) == pytest.approx(3.087, abs=1e-3)
    x = torch.arange(17.0).reshape(1, 17) / 8 - 1
    spread = dequantised(x.expand(4000, 17), 1 / 8, Noise.of(0, 4000))
    assert torch.equal(((spread + 1) * 8).round(), ((x + 1) * 8).expand(4000, 17))
    assert float((spread - x).std()) == pytest.approx(1 / 8 / 12**0.5, rel=0.01)


def test_codes_carry_data_there_and_back():
    process = Gaussian(schedules.cosine())
    model = oracles.mixture(process, torch.tensor([[1.0, 0.5], [-1.0, 0.2]], dtype=torch.float64), 0.3)
    x = torch.tensor([[0.9, 0.6], [-1.1, 0.1], [0.2, 0.4]], dtype=torch.float64)
    code = encode(model, x, rtol=1e-7, atol=1e-7)
    assert torch.allclose(decode(model, code, rtol=1e-7, atol=1e-7), x, atol=1e-6)
    # the code of normal data is the data, whitened along the flow: alpha and sigma turn one into the other
    normal = oracles.gaussian(process, MEAN, torch.eye(2, dtype=torch.float64) * 0.25)
    alpha, sigma = process.schedule(process.schedule.floor)
    expected = (x - alpha * MEAN) / (alpha**2 * 0.25 + sigma**2).sqrt()
    assert torch.allclose(encode(normal, x, rtol=1e-7, atol=1e-7), expected, atol=1e-6)
    # a way between two pictures begins and ends at them; between, its codes are on the great circle
    way = between(model, x[0], x[1], 5, rtol=1e-7, atol=1e-7)
    assert torch.allclose(way[[0, -1]], x[:2], atol=1e-5)
    middle = slerp(code[:1], code[1:2], torch.tensor([[0.5]], dtype=torch.float64))
    assert torch.allclose(encode(model, way[2:3], rtol=1e-7, atol=1e-7), middle, atol=1e-5)


class _Halfway(torch.nn.Module):
    """A belief that is wrong: half of the exact one."""

    def __init__(self, exact):
        super().__init__()
        self.of, self.process, self.shape, self.leaps, self.spread = exact, exact.process, exact.shape, False, None

    def forward(self, z, t, cond=None, mask=None):
        return GaussianPosterior(self.of(z, t).mean / 2)


def test_the_bound_is_what_it_integrates_to():
    # scalar data N(0, c): 1/2 int mmse dSNR = 1/2 ln((1 + c SNR_max) / (1 + c SNR_min)); prior and decoder in closed form
    process, c, n = Gaussian(schedules.vp_linear()), 0.7, 6000
    model = oracles.gaussian(process, torch.zeros(1), torch.tensor([[c]]))
    x = c**0.5 * Noise.of(3, n).normal((1,), torch.float64)
    found = elbo(model, x, draws=16)
    high, low = (float(process.schedule.lam(t).exp()) for t in (process.schedule.floor, 1.0))
    decoder = 0.5 * math.log(2 * math.pi * math.e / high)
    expected = 0.5 * c * low + 0.5 * math.log((1 + c * high) / (1 + c * low)) + decoder
    error = float(found.nats.std()) / n**0.5
    assert -float(found.nats.mean()) == pytest.approx(expected, abs=4 * error)
    # above the entropy by the decoder's own noise, 1/2 ln(1 + 1 / (c SNR_max)), and what the prior forgets
    entropy = 0.5 * math.log(2 * math.pi * math.e * c)
    assert 0 < expected - entropy < 2e-3
    # a worse model has a worse bound, by the integral of its excess error
    worse = elbo(_Halfway(model), x, draws=16)  # pyright: ignore
    assert float((worse.nats - found.nats).mean()) < -0.3


def test_the_bound_on_values_is_on_their_probability():
    # two values, +1 and -1, with probabilities 0.8 and 0.2: the exact denoiser's bound meets the entropy
    process, n = Gaussian(schedules.vp_linear()), 4000
    grid = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    model = oracles.Mixture(process, grid[:, None], torch.tensor([0.2, 0.8], dtype=torch.float64))
    x = torch.where(Noise.of(0, n).uniform((1,)) < 0.8, 1.0, -1.0).double()
    found = elbo(model, x, values=grid, draws=16)
    exact = -float(x.eq(1).double().mean() * math.log(0.8) + x.eq(-1).double().mean() * math.log(0.2))
    assert -float(found.nats.mean()) == pytest.approx(exact, abs=4 * float(found.nats.std()) / n**0.5 + 1e-3)
    with pytest.raises(ValueError, match="not on the grid"):
        elbo(model, x + 0.1, values=grid)


def test_refusals():
    model = oracles.gaussian(Gaussian(schedules.cosine()), MEAN, COVARIANCE)
    x = torch.zeros(2, 2, dtype=torch.float64)
    for refused, words in (
        (lambda: log_prob(model, x, solver="euler"), "take at least 1 of"),
        (lambda: log_prob(model, x, low=0.0), "0/0"),
        (lambda: log_prob(model, x, rtol=1e-7, atol=1e-7, most=10), "most is 10"),
        (lambda: between(model, x[0], x[1], 1), "two ends"),
        (lambda: log_prob(model, x, rtol=0.0), "rtol is 0.0; give a tolerance above 0"),
        # of which no step would be small enough: it went on for as long as it may
        (lambda: encode(model, x, atol=0.0), "atol is 0.0; give a tolerance above 0"),
        (lambda: between(model, x[0], x[1], 2, rtol=math.nan), "rtol is nan; give a tolerance above 0"),
        (lambda: elbo(model, x, draws=0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            refused()
    joined = oracles.Mixture(Interpolant(schedules.flow()), x)
    with pytest.raises(ValueError, match="log_prior"):
        log_prob(joined, x, low=0.1)


# Anomalies


def test_strangeness_is_the_error_of_denoising():
    """Of N(m, c) in each number: x^ = m + k (z - alpha m), so the error is (1 - k alpha) (x - m) - k sigma e."""
    from langevin.tasks import strangeness

    process, mean, c = Gaussian(schedules.cosine()), 0.4, 0.3
    model = oracles.gaussian(process, torch.full((3,), mean), c * torch.eye(3))
    x = torch.tensor([[0.4, 0.4, 0.4], [1.4, 0.4, 0.4], [3.4, 0.4, -2.6]]).double()
    lam = 0.5
    alpha, sigma = (float(v) for v in process.schedule(process.schedule.invert(lam)))
    k = alpha * c / (alpha**2 * c + sigma**2)
    found = strangeness(model, x.repeat_interleave(2000, 0), lams=(lam,), draws=2).reshape(3, 2000)
    expected = math.exp(lam) * ((1 - k * alpha) ** 2 * (x - mean).square().mean(1) + (k * sigma) ** 2)
    assert ((found.mean(1) / expected - 1).abs() < 0.06).all()
    assert torch.equal(strangeness(model, x[1:], first_id=1), strangeness(model, x)[1:])
    with pytest.raises(ValueError, match="lams is"):
        strangeness(model, x, lams=())


def test_one_number_is_the_condition_of_all_samples():
    from langevin.tasks import strangeness

    model = oracles.mixture(Gaussian(schedules.cosine()), torch.tensor([[1.0], [-1.0]]), 0.3, label=torch.tensor([0, 1]))
    x = torch.tensor([[0.8], [-0.7], [0.1]])
    for score in (strangeness, lambda *a, **k: elbo(*a, **k).nats, lambda *a, **k: log_prob(*a, **k).nats):
        one, each, other = (score(model, x, cond={"label": said}) for said in (1, torch.ones(3).long(), torch.zeros(3).long()))
        assert torch.equal(one, each) and not torch.allclose(one, other, atol=0.1)


def test_auroc_counts_pairs():
    from langevin.tasks import auroc

    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0, 2.0])
    outlier = torch.tensor([True, False, True, False, False, False])
    pairs = [(3, 1), (3, 2), (3, 0), (3, 2), (2, 1), (2, 2), (2, 0), (2, 2)]
    assert auroc(scores, outlier) == pytest.approx(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / 8)
    with pytest.raises(ValueError, match="no outliers"):
        auroc(scores, outlier & False)
