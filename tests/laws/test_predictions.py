"""Every prediction is invertible, and its target is what its belief is recovered from."""

import pytest
import torch

from langevin import oracles as oracle
from langevin import schedules
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.prediction import PREDICTIONS, CategoricalPrediction
from tests.rows import CATEGORICAL, GAUSSIAN_PREDICTIONS, SCHEDULES


@pytest.mark.parametrize("name", GAUSSIAN_PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_round_trip(name, schedule):
    process, prediction = Gaussian(SCHEDULES[schedule]), GAUSSIAN_PREDICTIONS[name]
    g = torch.Generator().manual_seed(0)
    x, e = (torch.randn(3, 4, dtype=torch.float64, generator=g) for _ in range(2))
    for t in (expand(0.4, x), expand(torch.tensor([0.1, 0.5, 0.9]), x), expand(torch.rand(3, 4, generator=g) * 0.9 + 0.05, x)):
        z = process.mix(x, e, t)
        target = prediction.target(process, x, e, t)
        assert torch.allclose(prediction.posterior(process, target, z, t).mean, x, atol=1e-7)
        assert torch.allclose(prediction.output(process, x, z, t), target, rtol=1e-6, atol=1e-7)
        # an error in the output, seen as an error in the noise
        off = prediction.posterior(process, target + 1e-3, z, t).mean
        alpha, sigma = process.schedule(t)
        e_off = (z - alpha * off) / sigma
        assert torch.allclose((e_off - e).abs() / 1e-3, prediction.eps_per_output(process, t).expand(3, 4), rtol=1e-4)


@pytest.mark.parametrize("name", GAUSSIAN_PREDICTIONS)
def test_known_elements_are_believed(name):
    process, prediction = Gaussian(schedules.vp_linear()), GAUSSIAN_PREDICTIONS[name]
    z = torch.tensor([[0.3, -0.2]])
    belief = prediction.posterior(process, torch.full_like(z, 5.0), z, expand(torch.tensor([[0.0, 0.5]]), z)).mean
    assert float(belief[0, 0]) == pytest.approx(0.3, abs=1e-6)
    assert belief.isfinite().all()


def test_edm_is_the_papers_preconditioning():
    process, prediction, sd = Gaussian(schedules.edm()), PREDICTIONS["edm"](), 0.5
    for sigma in (0.01, 0.5, 20.0):
        t = torch.tensor(sigma / 80, dtype=torch.float64)
        c_skip, c_out, c_in = (float(c) for c in prediction.coefficients(process.schedule, t))
        assert c_skip == pytest.approx(sd**2 / (sigma**2 + sd**2))
        assert c_out == pytest.approx(sigma * sd / (sigma**2 + sd**2) ** 0.5)
        assert c_in == pytest.approx(1 / (sigma**2 + sd**2) ** 0.5)
        assert float(prediction.label(process, t)) == pytest.approx(torch.tensor(sigma).log().item() / 4, rel=1e-6)
    # the network sees inputs of unit variance
    x = 0.5 * Noise.of(0, 4000).normal((4,), torch.float64)
    z = process.marginal(x, 0.01, Noise.of(1, 4000))
    assert float(prediction.input(process, z, expand(0.01, z)).std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_logits_leave_their_own_position_out(name):
    # the oracle's logits with the evidence are Bayes' rule, by enumeration over all strings
    process = CATEGORICAL[name]
    table = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
    exact = oracle.enumerated(process, table)
    z = process.marginal(torch.tensor([[0, 1], [2, 2], [1, 0]]), 0.5, Noise.of(0, 3))
    evidence = process.evidence(z, 0.5).exp()  # (B, 2, K)
    joint = table * evidence[:, 0, :, None] * evidence[:, 1, None, :]
    joint = joint / joint.sum((1, 2), keepdim=True)
    expected = torch.stack([joint.sum(2), joint.sum(1)], 1)
    belief = exact(z, 0.5)
    assert torch.allclose(belief.probs, expected, atol=1e-10)
    without_own = torch.stack([(table * evidence[:, 1, None, :]).sum(2), (table * evidence[:, 0, :, None]).sum(1)], 1)
    expected_loo = without_own / without_own.sum(-1, keepdim=True)
    assert torch.allclose(torch.softmax(belief.logits, -1), expected_loo, atol=1e-10)


def test_masked_substitution_carries_over():
    process = CATEGORICAL["mask"]
    net = torch.nn.Module()
    z, t = torch.tensor([[0, 3, 2]]), torch.tensor([[0.5]])
    for name in ("subs", "logits"):
        prediction = PREDICTIONS[name]()
        assert isinstance(prediction, CategoricalPrediction)
        out = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))
        probs = prediction.posterior(process, out, z, expand(t, z)).probs
        assert torch.equal(probs[0, 0], torch.tensor([1.0, 0, 0])) and torch.equal(probs[0, 2], torch.tensor([0, 0, 1.0]))
        assert torch.allclose(probs[0, 1], torch.softmax(out[0, 1], -1), atol=1e-6)
    assert Denoiser(net, process, "subs").predictions[""].name == "subs"
