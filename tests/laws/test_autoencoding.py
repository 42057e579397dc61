"""Training of autoencoders: the loss term by term, what it is minimised by, and how near pictures come."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from langevin import data
from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.evaluate import psnr, ssim
from langevin.networks import PatchCritic
from langevin.networks.autoencoder import Autoencoder, GaussianCode, Half, Plain
from langevin.objectives import Autoencoding
from langevin.objectives.autoencoding import divergence
from langevin.objectives.critics import hinge
from langevin.training import Model, TrainConfig, Trainer


def seeded(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """x (B, D) -> encode @ x, with the same logvar for all, -> decode @ z."""

    def __init__(self, encode, decode, logvar=None):
        super().__init__()
        self.there, self.back, self.logvar = nn.Parameter(encode), nn.Parameter(decode), logvar

    def encode(self, x):
        mean = x @ self.there.T
        return GaussianCode(mean, None if self.logvar is None else self.logvar.expand_as(mean))

    def decode(self, z):
        return z @ self.back.T


def small():
    torch.manual_seed(0)
    one, two = (Half(Plain(4, attention=False), [8, 8], [n, n]) for n in (1, 2))
    return Autoencoder(one, two, 3, 1, gaussian=True)


def test_the_divergence_is_that_of_torch():
    mean, logvar = seeded(0, 5, 3, 2, 2), seeded(1, 5, 3, 2, 2)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(divergence(mean, logvar), expected)


@pytest.mark.parametrize("distance", ["absolute", "squared", "huber"])
def test_the_loss_of_an_invertible_autoencoder_is_its_divergence_alone(distance):
    a = seeded(2, 6, 6)
    model, x = Model(Linear(a, torch.linalg.inv(a), torch.full((6,), -60.0, dtype=torch.float64))), seeded(3, 7, 6)
    for kl in (0.0, 0.3):
        loss = Autoencoding(distance, kl)(model, Batch(x), Noise.of(0, 7)).total
        alone = kl / 6 * divergence(x @ a.T, torch.full((7, 6), -60.0, dtype=torch.float64)).mean()
        torch.testing.assert_close(loss, alone, rtol=1e-9, atol=1e-11)


def test_under_the_true_posterior_the_loss_is_the_evidence():
    # x = W z + s e with orthogonal columns: the posterior of z has a diagonal covariance (probabilistic PCA)
    s, w = 0.6, torch.linalg.qr(seeded(4, 5, 2)).Q * torch.tensor([2.0, 0.7], dtype=torch.float64)
    variance = s**2 / (w.square().sum(0) + s**2)
    net = Linear(variance[:, None] * w.T / s**2, w, variance.log())
    x, draws = seeded(5, 5), 200_000
    batch, logs = Batch(x.expand(draws, 5)), []
    objective = Autoencoding("squared", 2 * s**2)
    for seed in range(4):
        total = objective(Model(net), batch, Noise.of(seed, draws)).total
        logs.append(float(-total.detach() * 5 / (2 * s**2) - 2.5 * math.log(2 * math.pi * s**2)))
    evidence = MultivariateNormal(torch.zeros(5, dtype=torch.float64), w @ w.T + s**2 * torch.eye(5)).log_prob(x)
    assert np.mean(logs) == pytest.approx(float(evidence), abs=0.006)
    # any other posterior is a bound
    wrong = Linear(variance[:, None] * w.T / s**2, w, variance.log() + 0.5)
    total = objective(Model(wrong), batch, Noise.of(0, draws)).total.detach()
    assert float(-total * 5 / (2 * s**2) - 2.5 * math.log(2 * math.pi * s**2)) < float(evidence) - 0.1


def test_the_loss_is_a_function_of_data_and_ids():
    model, x, objective = Model(small().double()), seeded(6, 8, 1, 8, 8), Autoencoding(kl=0.1)
    whole = objective(model, Batch(x), Noise.of(3, 8)).total
    halves = [objective(model, Batch(x[k : k + 4]), Noise.of(3, 4, k)).total for k in (0, 4)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


def test_a_linear_autoencoder_learns_the_principal_subspace():
    spectrum = torch.tensor([4.0, 2.0, 1.0, 0.3, 0.1, 0.05], dtype=torch.float64)
    turn = torch.linalg.qr(seeded(7, 6, 6)).Q
    x = seeded(8, 2000, 6) * spectrum.sqrt() @ turn.T
    x = (x - x.mean(0)).float()
    net = Linear(0.3 * seeded(9, 2, 6).float(), 0.3 * seeded(10, 6, 2).float())
    config = TrainConfig(steps=500, batch=200, lr=2e-2, ema=0.9, weight_decay=0.0)
    Trainer(Model(net), data.Arrays(x), Autoencoding("squared", kl=0.0), config).run(progress=False)
    values, axes = torch.linalg.eigh(x.double().T.cov(correction=0))
    with torch.no_grad():
        left = (x - net.decode(net.encode(x).mean)).square().mean()
    assert float(left) == pytest.approx(float(values[:4].sum()) / 6, rel=0.02)  # of two numbers, no more can be kept
    kept = torch.linalg.qr(net.back.detach().double()).Q
    assert torch.linalg.svdvals(kept.T @ axes[:, 4:]).min() > 0.995


def test_critic_and_autoencoder_have_gradients_of_their_own():
    net, critic, x, noise = small(), PatchCritic(1, 8), seeded(11, 4, 1, 8, 8).float(), Noise.of(0, 4)
    objective, plain = Autoencoding(kl=0.1, adversarial=0.5, critic=critic, after=0.5), Autoencoding(kl=0.1)
    model = Model(net)
    objective.begin(model, 0, 0.4)
    early = objective(model, Batch(x), noise)
    assert "loss/critic" not in early.logs and torch.equal(early.total, plain(model, Batch(x), noise).total)
    objective.begin(model, 0, 0.5)
    own, theirs = list(net.parameters()), list(critic.parameters())
    found = torch.autograd.grad(objective(model, Batch(x), noise).total, [*own, *theirs], allow_unused=True)
    code = net.encode(x)
    again = net.decode(code.mean + (0.5 * code.logvar).exp() * noise.at("code").normal(tuple(code.mean.shape[1:])))
    generator = plain(model, Batch(x), noise).total - 0.5 * critic(again).mean()
    for a, b in zip(found, torch.autograd.grad(generator, own, allow_unused=True), strict=False):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-6)
    learns = hinge([critic(x)], [critic(again.detach())]).mean()
    for a, b in zip(found[len(own) :], torch.autograd.grad(learns, theirs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_run_with_a_critic_goes_on_to_the_bit(tmp_path):
    x, config = data.Arrays(seeded(12, 40, 1, 8, 8).float()), TrainConfig(steps=6, batch=8, lr=1e-3)

    def begin(out, resume=False):
        torch.manual_seed(1)
        critic = PatchCritic(1, 8)
        return Trainer(Model(small()), x, Autoencoding(adversarial=0.3, critic=critic, after=0.4), config, out, resume)

    whole = begin(tmp_path / "whole")
    whole.run(progress=False)
    half = begin(tmp_path / "half")
    for _ in range(3):
        half.update()
    half.save()
    half.close()
    rest = begin(tmp_path / "half", resume=True)
    assert rest.step == 3
    rest.run(progress=False)
    for a, b in ((whole.denoiser, rest.denoiser), (whole.objective, rest.objective)):
        other = b.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def test_what_cannot_be_trained_says_so():
    for fields, said in (
        ({"kl": -1.0}, "none is negative"),
        ({"adversarial": 0.5}, "weighs nothing"),
        ({"distance_of_features": lambda a, b: a}, "give both"),
        ({"distance": "cosine"}, "distance"),
    ):
        with pytest.raises(ValueError, match=said):
            Autoencoding(**fields)
    half = Half(Plain(4, attention=False), [8, 8], [1, 1])
    book = Autoencoder(half, half, 3, 1, codes=8)
    with pytest.raises(ValueError, match="codebook"):
        Trainer(Model(book), data.Arrays(torch.zeros(4, 1, 8, 8)), Autoencoding(), TrainConfig(steps=1, batch=2))


def test_peak_signal_to_noise_is_decibels_of_the_range():
    x = seeded(13, 3, 1, 8, 8)
    torch.testing.assert_close(psnr(x, x + 0.02), torch.full((3,), 40.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="twice the same"):
        psnr(x, x[:2])


@pytest.mark.parametrize("side", [20, 7])
def test_structural_similarity_is_the_formula_with_a_filter_of_scipy(side):
    a = seeded(14, 2, 3, side, side + 1).clamp(-1, 1)
    b = (a + 0.3 * seeded(15, 2, 3, side, side + 1)).clamp(-1, 1)
    radius = min(5, (side - 1) // 2)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    line /= line.sum()

    def blur(x):
        out = correlate1d(correlate1d(x.numpy(), line, axis=-1), line, axis=-2)
        return out[..., radius : out.shape[-2] - radius, radius : out.shape[-1] - radius]

    ma, mb = blur(a), blur(b)
    va, vb, both = blur(a**2) - ma**2, blur(b**2) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.02**2, 0.06**2
    value = (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    np.testing.assert_allclose(ssim(a, b).numpy(), value.mean((1, 2, 3)), rtol=1e-10)
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
