"""Discrete flows by conditional rates: the laws they keep, at any number of further jumps, and the bridge they are for a mask."""

import pytest
import torch

from langevin import oracles as oracle
from langevin import schedules
from langevin.core.categorical import Categorical
from langevin.plans.rates import DISTORTIONS, FlowJump, defog
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
            after = pushed(exact, FlowJump(start=t, stop=t - h, eta=eta), z, level_law(process, PAIR, t))
            misses.append(distance(after, level_law(process, PAIR, t - h)) / h)
        moved = distance(level_law(process, PAIR, t), level_law(process, PAIR, t - 1e-3)) / 1e-3
        assert misses[1] < 0.02 * moved and misses[1] < 0.6 * misses[0]


def test_a_pull_towards_the_belief_does_not_keep_them():
    z, exact = states(UNIFORM, 2), oracle.enumerated(UNIFORM, PAIR)
    after = pushed(exact, FlowJump(start=0.5, stop=0.499, omega=1.0), z, level_law(UNIFORM, PAIR, 0.5))
    missed = distance(after, level_law(UNIFORM, PAIR, 0.499)) / 1e-3
    assert missed > 0.1
    sharp = law(exact, defog(64, omega=1.0)).reshape(3, 3)
    assert float(sharp.max()) > float(PAIR.max()) + 0.02  # likely data becomes likelier


def test_of_a_mask_they_are_the_bridge():
    z, exact = states(COSINE, 2), oracle.enumerated(COSINE, PAIR)
    for t, s in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        belief = exact(z, t)
        bridge = COSINE.bridge_probs(z, belief.probs, f64(t)[0], f64(s)[0])
        assert torch.allclose(FlowJump(start=t, stop=s).probs(COSINE, z, belief), bridge, atol=1e-12)


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
