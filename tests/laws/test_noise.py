"""Noise is a function of (seed, sample id, step, purpose), and it is good noise."""

import numpy as np
import torch
from scipy import stats

from langevin.core.noise import _GOLDEN, Noise, _mix


def test_bits_are_splitmix64():
    # the published sequence for state 1234567 (Vigna's reference code)
    state = torch.tensor(1234567)
    words = [w % 2**64 for w in _mix(state + torch.arange(1, 6) * _GOLDEN).tolist()]
    assert words == [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_a_sample_has_its_noise_in_any_batch():
    for draw in ("normal", "uniform", "gumbel"):
        full = getattr(Noise.of(7, 8).at("bridge", step=3), draw)((3, 5))
        for ids in ([4], [4, 1, 6]):
            part = getattr(Noise(7, torch.tensor(ids)).at("bridge", step=3), draw)((3, 5))
            assert torch.equal(part, full[ids])


def test_every_name_matters():
    base = Noise.of(0, 2)
    variants = [base, Noise.of(1, 2), Noise.of(0, 2, first=2), base.at("a"), base.at("b"), base.at("a", step=1)]
    draws = torch.stack([v.normal((1000,)).flatten() for v in variants]).double()
    correlation = torch.corrcoef(draws) - torch.eye(len(variants))
    assert correlation.abs().max() < 4 / 2000**0.5 * 1.2
    assert Noise.of(-5, 1).normal((2,)).isfinite().all() and Noise.of(2**80, 1).normal((2,)).isfinite().all()


def test_distributions():
    noise = Noise.of(3, 50)
    assert stats.kstest(noise.normal((4000,), torch.float64).flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniform((4000,)).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(noise.gumbel((4000,)).flatten().numpy(), "gumbel_r").pvalue > 1e-3
    pairs = noise.normal((2, 2000), torch.float64)
    assert abs(np.corrcoef(pairs[:, 0].flatten(), pairs[:, 1].flatten())[0, 1]) < 4 / 100000**0.5


def test_gumbel_reaches_beyond_float32():
    # float32 uniforms stop at 1 - 2^-24, so their Gumbels stop at 16.6; 2 million draws pass that with probability 0.1,
    # but their resolution near the top shows already: all values above 10 are distinct
    values = Noise.of(0, 20).gumbel((100_000,)).flatten()
    top = values[values > 10]
    assert len(top) > 50 and len(top.unique()) == len(top)
    uniform = Noise.of(0, 20).uniform((100_000,))
    assert float(uniform.min()) > 0 and float(uniform.max()) < 1
