"""Discrete flows by conditional rates: the laws they keep, at any number of further jumps, and the bridge they are for a mask."""

import pytest
import torch

from langevin import oracles as oracle
from langevin import schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.sample import sample
from langevin.core.space import SymmetricEdges
from langevin.guidance import ClassifierGuidance
from langevin.plans import ddpm, tilted
from langevin.plans.rates import DISTORTIONS, ConditionalJump, defog
from tests.laws.test_unmasking import COSINE, PAIR, distance, drawn, error, law, level_law, pushed, states
from tests.rows import f64

MARGINAL = Categorical(3, schedules.keep_cosine(), torch.tensor([0.6, 0.3, 0.1]))
UNIFORM = Categorical(3, schedules.keep_linear())
MISSING = Categorical(3, schedules.keep_linear(), torch.tensor([0.7, 0.3, 0.0]))  # noise never makes one of them
LIMITS = {"marginal": MARGINAL, "uniform": UNIFORM, "mask": COSINE, "missing": MISSING}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("eta", [0.0, 3.0])
def test_rates_make_the_marginals(name, eta):
    # Kolmogorov's equation: a short step takes the exact law of one level to that of the next, but for terms of second order
    process = LIMITS[name]
    exact, z = oracle.enumerated(process, PAIR), states(process, 2)
    for t in (0.8, 0.3):
        misses = []
        for h in (2e-3, 1e-3):
            after = pushed(exact, ConditionalJump(start=t, stop=t - h, eta=eta), z, level_law(process, PAIR, t))
            misses.append(distance(after, level_law(process, PAIR, t - h)) / h)
        moved = distance(level_law(process, PAIR, t), level_law(process, PAIR, t - 1e-3)) / 1e-3
        assert misses[1] < 0.02 * moved and misses[1] < 0.6 * misses[0]


def test_a_pull_towards_the_belief_does_not_keep_them():
    z, exact = states(UNIFORM, 2), oracle.enumerated(UNIFORM, PAIR)
    after = pushed(exact, ConditionalJump(start=0.5, stop=0.499, omega=1.0), z, level_law(UNIFORM, PAIR, 0.5))
    missed = distance(after, level_law(UNIFORM, PAIR, 0.499)) / 1e-3
    assert missed > 0.1
    sharp = law(exact, defog(64, omega=1.0)).reshape(3, 3)
    assert float(sharp.max()) > float(PAIR.max()) + 0.02  # likely data becomes likelier


def test_of_a_mask_they_are_the_bridge():
    z, exact = states(COSINE, 2), oracle.enumerated(COSINE, PAIR)
    for t, s in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        belief = exact(z, t)
        bridge = COSINE.bridge_probs(z, belief.probs, f64(t)[0], f64(s)[0])
        assert torch.allclose(ConditionalJump(start=t, stop=s).probs(COSINE, z, belief), bridge, atol=1e-12)


@pytest.mark.parametrize("name", ["marginal", "uniform"])
def test_the_error_falls_as_one_over_steps(name):
    exact = oracle.enumerated(LIMITS[name], PAIR)
    coarse, fine = (error(exact, defog(n), PAIR) for n in (32, 64))
    assert 0.45 * coarse < fine < 0.6 * coarse and fine < 0.01
    assert drawn(exact, defog(6, eta=1.0)) < 0.02  # samples are those of the law that the tables make


def test_alpha_is_the_clock():
    for name, distortion in DISTORTIONS.items():
        levels = defog(4, distortion=name).on(MARGINAL.schedule).levels
        alpha = [float(MARGINAL.schedule.alpha(f64(t)[0])) for t in levels]
        assert alpha == pytest.approx([distortion(i / 4) for i in range(5)], abs=1e-9)
    with pytest.raises(ValueError, match="eta is -1"):
        defog(4, eta=-1)


def test_tilted_steps_draw_the_tilted_law():
    # with log p(c | z_t) known, one category is drawn from p(x) exp(w), but for an error of order 1/n
    table, w = f64(0.5, 0.3, 0.2), f64(0.2, -0.7, 1.1)
    process = Categorical(3, schedules.keep_cosine(), torch.tensor([0.2, 0.5, 0.3]))
    exact = oracle.enumerated(process, table)
    expected = table * w.exp() / (table * w.exp()).sum()

    def log_prob(z, t, cond):
        # linear in the one-hot state
        told = torch.stack([exact(torch.full((1, 1), k), float(t)).probs[0, 0] for k in range(3)])
        return (z.double() * (told @ w.exp()).log()).sum((1, 2))

    def missed(steps):
        guided = ClassifierGuidance(log_prob, of="state")(exact)
        p = process.kernel.limit * (torch.stack([exact(torch.full((1, 1), k), 1.0).probs[0, 0] for k in range(3)]) @ w.exp())
        p, z = p / p.sum(), torch.arange(3)[:, None]
        for row in tilted(steps).on(process.schedule).rows:
            p = p @ row.probs(process, z, guided(z, row.start))[:, 0]
        return distance(p, expected)

    assert missed(64) < 0.01 and 0.4 * missed(32) < missed(64) < 0.6 * missed(32)
    with pytest.raises(ValueError, match=r"plans\.tilted"):
        sample(exact, ddpm(4), 2, guidance=ClassifierGuidance(log_prob, of="state"))
    # the strength of a sum over samples does not depend on how many there are
    together = sample(exact, tilted(4), 6, guidance=ClassifierGuidance(log_prob, of="state"))
    assert torch.equal(together[:2], sample(exact, tilted(4), 2, guidance=ClassifierGuidance(log_prob, of="state")))


def test_gradients_of_edges_are_those_of_both_tellings():
    edges = Categorical(2, schedules.keep_linear(), space=SymmetricEdges())

    class Even(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return torch.zeros(*z.shape, 2)

    denoiser = Denoiser(Even(), edges, "logits", shape=(3, 3))
    mask, z = torch.tensor([[True, True, False]]), torch.zeros(1, 3, 3, dtype=torch.int64)

    def log_prob(z, t, cond, mask):
        return z[:, 0, 1, 1] + z[:, 1, 2, 1]  # one telling of an edge, and an edge of padding

    tilt = ClassifierGuidance(log_prob, of="state", padded=True)(denoiser)(z, 0.5, None, mask).tilt
    assert tilt[0, 0, 1].tolist() == tilt[0, 1, 0].tolist() == [0.0, 1.0] and float(tilt.sum()) == 2
