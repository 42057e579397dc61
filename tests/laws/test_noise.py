"""Noise is a function of (seed, sample id, step, purpose), and it is good noise."""

import numpy as np
import pytest
import torch
from scipy import stats

from langevin import plans, schedules
from langevin.core import posterior
from langevin.core.categorical import Categorical
from langevin.core.noise import GOLDEN, Noise, _mix
from langevin.sampling import named


def test_bits_are_splitmix64():
    # the published sequence for state 1234567 (Vigna's reference code)
    state = torch.tensor(1234567)
    words = [w % 2**64 for w in _mix(state + torch.arange(1, 6) * GOLDEN).tolist()]
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


class Close(Noise):
    """Noise whose Gumbels favour the second of all categories over the first in the ninth digit."""

    def __new__(cls):
        return object.__new__(cls)

    def __init__(self):
        Noise.__init__(self, 0, torch.arange(1))

    def at(self, purpose, step=None):
        return self

    def gumbel(self, shape=()):
        drawn = torch.zeros(1, *shape, dtype=torch.float64)
        drawn[..., 0], drawn[..., 1] = 30.0, 30.0 + 1e-9
        return drawn


ROWS = {
    "confidence": plans.confidence(1), "first_hitting": plans.first_hitting(1), "remask": plans.remask(1),
    "tau_leaping": plans.tau_leaping(1), "flow_jumps": plans.flow_jumps(1), "defog": plans.defog(1),
}  # fmt: skip


def test_categories_are_drawn_in_float64_by_whatever_draws_them():
    # 2409.02908: in float32 both are 30, and the first one wins
    even, process, blank = torch.zeros(1, 1, 3), Categorical(3, schedules.keep_linear(), "mask"), torch.tensor([[3]])
    belief = posterior.CategoricalPosterior(even)
    assert posterior.draw(even, Close()).item() == belief.sample(Close()).item() == 1
    assert process.bridge(blank, belief, 1.0, 0.0, Close()).item() == 1
    for name, plan in ROWS.items():
        (row,) = plan.on(process.schedule).rows
        assert row.move(process, blank, belief, Close(), None).item() == 1, name  # pyright: ignore


def test_seeds_and_ids_of_each_sample_are_those_drawn_alone():
    seeds, ids = [3, -12, 2**80 + 5, 3], [0, 7, -(2**63), 2**63 - 2]
    several = named(seeds, ids, 4).at("bridge/x", step=5)
    for k, (seed, own) in enumerate(zip(seeds, ids, strict=True)):
        alone = Noise.of(seed, 1, own).at("bridge/x", step=5)
        assert torch.equal(several.normal((3,))[k], alone.normal((3,))[0])
    many = named([3] * 12, 4, 12)  # more than are mixed one by one
    assert torch.equal(many.uniform((2,)), Noise.of(3, 1, 4).uniform((2,)).expand(12, 2))
    assert torch.equal(named(3, [4, 5, 6], 3).uniform(), Noise.of(3, 3, 4).uniform())
    assert torch.equal(named(np.int64(3), np.int64(4), 3).uniform(), Noise.of(3, 3, 4).uniform())


@pytest.mark.parametrize(
    ("seed", "first_id", "said"),
    [
        ([1, 2], 0, "seed has 2 entries for 3 samples; give one for all, or one each"),
        (1.5, 0, "seed is 1.5; give an integer, or a list"),
        (0, [1, 2.5, 3], r"first_id is \[1, 2.5, 3\]; give an integer"),
        (0, 2**63 - 2, "ids are integers from"),
    ],
)
def test_what_names_no_samples_is_refused(seed, first_id, said):
    with pytest.raises(ValueError, match=said):
        named(seed, first_id, 3)
