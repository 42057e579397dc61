"""Guidances that hold strong guidance in check: their formulas, what they leave alone, and what they do to samples."""

import math

import pytest
import torch

import langevin as lv
from langevin import oracles, plans, schedules
from langevin.core.denoiser import BaseDenoiser
from langevin.core.prediction import named
from langevin.core.tree import leaves, tree
from langevin.guidance import APG, CFG, AutoGuidance, CFGZero
from langevin.guidance.means import with_mean
from tests.laws.test_guidance import Batches

FLOW = lv.Gaussian(schedules.flow())
MEANS, LABEL = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.2, 0.4], [0.3, -1.2, -0.7]], dtype=torch.float64), torch.tensor([0, 1, 1])
EXACT = oracles.mixture(FLOW, MEANS, 0.3, label=LABEL)
Z = lv.Noise.of(0, 6).normal((3,), torch.float64)
COND = {"label": torch.tensor([0, 1, 0, 1, 0, 1])}
VELOCITY = named("velocity")


def halves(t):
    """The exact means with and without the condition."""
    return EXACT(Z, t, COND).mean, EXACT(Z, t).mean


def dot(a, b):
    return (a * b).sum(1, keepdim=True)


# Adaptive projected guidance


def test_projected_guidance_is_the_papers_formula():
    c, n = halves(0.6)
    for w, parallel, longest in ((4.0, 0.0, math.inf), (4.0, 0.3, 0.2), (0.0, 0.0, 0.5)):
        d = c - n
        d = d * torch.minimum(torch.ones(6, 1, dtype=torch.float64), longest / d.norm(dim=1, keepdim=True))
        along = dot(d, c) / dot(c, c) * c
        expected = c + (w - 1) * (d - along + parallel * along)
        assert torch.allclose(APG(w, parallel, longest)(EXACT)(Z, 0.6, COND).mean, expected, atol=1e-12)
    assert torch.allclose(APG(3.0, 1.0)(EXACT)(Z, 0.6, COND).mean, CFG(3.0)(EXACT)(Z, 0.6, COND).mean, atol=1e-12)


def test_a_projected_step_is_across_the_mean_and_no_longer_than_asked():
    c, _ = halves(0.6)
    moved = APG(9.0, 0.0, 0.1)(EXACT)(Z, 0.6, COND).mean - c
    assert float(dot(moved, c).abs().max()) < 1e-12 and float(moved.norm(dim=1).max()) <= 0.8 + 1e-12
    assert float((CFG(9.0)(EXACT)(Z, 0.6, COND).mean - c).norm(dim=1).max()) > 1


def test_each_sample_is_projected_by_itself_and_known_elements_are_no_direction():
    whole = APG(5.0, 0.2, 0.3)(EXACT)(Z, 0.5, COND).mean
    parts = [APG(5.0, 0.2, 0.3)(EXACT)(Z[k : k + 1], 0.5, {"label": COND["label"][k : k + 1]}).mean for k in range(6)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)
    t = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)  # the first number is known
    c, n = EXACT(Z, t, COND).mean, EXACT(Z, t).mean
    found = APG(5.0)(EXACT)(Z, t, COND).mean
    assert torch.equal(found[:, 0], c[:, 0]) and float(dot((found - c)[:, 1:], c[:, 1:]).abs().max()) < 1e-12
    assert float((found - c).abs().max()) > 1e-3 and torch.allclose(c[:, 0], n[:, 0])


def test_projected_samples_keep_the_length_that_strong_guidance_loses():
    # the modes are as far from 0 as each other; classifier-free guidance leaves them outwards, which is along the mean
    model = oracles.mixture(FLOW, torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64), 0.3,
                            label=torch.tensor([0, 1, 1]))  # fmt: skip
    away = {}
    for name, guidance in (("none", None), ("cfg", CFG(8.0)), ("apg", APG(8.0))):
        x = lv.sample(model, plans.euler(20), 400, seed=0, cond={"label": torch.zeros(400, dtype=torch.int64)}, guidance=guidance)
        away[name] = float(x.norm(dim=1).mean())
    assert abs(away["apg"] - away["none"]) < 0.5 * abs(away["cfg"] - away["none"]) and away["cfg"] > away["none"] + 0.1


# CFG-Zero*


class Scaled(BaseDenoiser):
    """An exact model whose velocity without a condition is wrong in length."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.process, self.shape = factor, EXACT.process, EXACT.shape

    def forward(self, z, t, cond, mask):
        belief = EXACT(tree(z), tree(t), cond, mask)
        drop = (cond or {}).get("drop", torch.full((len(z[""]),), cond is None))
        v = VELOCITY.output(FLOW, belief.mean, z[""], t[""])
        v = torch.where(drop[:, None], self.factor * v, v)
        return with_mean(belief, VELOCITY.posterior(FLOW, v, z[""], t[""]).mean)


def test_zero_star_is_the_papers_formula():
    for w in (0.0, 2.5):
        c, n = (VELOCITY.output(FLOW, mean, Z, torch.tensor(0.7, dtype=torch.float64)) for mean in halves(0.7))
        s = dot(c, n) / dot(n, n)
        expected = Z - 0.7 * (s * n + w * (c - s * n))  # x = z - t v on straight paths
        assert torch.allclose(CFGZero(w)(EXACT)(Z, 0.7, COND).mean, expected, atol=1e-10)


def test_the_length_of_the_null_velocity_does_not_count():
    right, wrong = (CFGZero(3.0)(Scaled(f))(Z, 0.7, COND).mean for f in (1.0, 0.6))
    assert torch.allclose(right, wrong, atol=1e-10)
    assert float((CFG(3.0)(Scaled(1.0))(Z, 0.7, COND).mean - CFG(3.0)(Scaled(0.6))(Z, 0.7, COND).mean).abs().max()) > 0.1


def test_nothing_moves_next_to_noise():
    steps = list(lv.trajectory(EXACT, plans.euler(50), 6, seed=3, cond=COND, guidance=CFGZero(3.0, still=0.04)))
    first = next(iter(lv.trajectory(EXACT, plans.euler(50), 6, seed=3, cond=COND, guidance=CFGZero(3.0)))).z
    assert torch.allclose(steps[0].z, steps[1].z, atol=1e-12) and not torch.allclose(steps[1].z, steps[2].z, atol=1e-3)
    assert not torch.allclose(first, steps[0].z, atol=1e-3)
    unguided = list(lv.trajectory(EXACT, plans.euler(50), 6, seed=3, cond=COND, guidance=CFGZero(1.0, still=0.04)))
    assert torch.allclose(unguided[1].z, steps[1].z, atol=1e-12)  # nor without guidance


def test_zero_star_of_a_large_state_is_finite_in_half_precision():
    class Uneven(torch.nn.Module):
        def forward(self, z, level, cond, mask=None):
            return z * torch.where(cond["drop"], 0.6, 0.9).to(z)[:, None] if "drop" in cond else z * 0.9

    model = CFGZero(2.0)(lv.Denoiser(Uneven(), FLOW, "velocity"))
    z, cond = lv.Noise.of(0, 1).normal((200_000,)), {"label": torch.zeros(1, dtype=torch.int64)}
    half, full = (model(state, 0.6, cond).mean.float() for state in (z.half(), z))  # |v|^2 is more than 65504
    assert torch.allclose(half, full, atol=0.02)


def test_known_elements_stay_under_zero_star():
    t = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    found, c = CFGZero(4.0, still=0.6)(EXACT)(Z, t, COND).mean, EXACT(Z, t, COND).mean
    assert torch.equal(found[:, 0], c[:, 0]) and found.isfinite().all()
    assert torch.allclose(found[:, 1:], Z[:, 1:], atol=1e-12)  # still: no velocity, so that the state is the belief


# A weaker model of the same data


def test_autoguidance_follows_the_score_of_p_to_the_w_over_the_weaker_to_the_w_minus_1():
    strong, weak = (oracles.gaussian(FLOW, torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * v)
                    for v in (0.5, 1.0))  # fmt: skip
    t, w = 0.4, 2.0
    mean = AutoGuidance(weak, w)(strong)(Z, t).mean
    score = ((1 - t) * mean - Z) / t**2
    variances = [(1 - t) ** 2 * v + t**2 for v in (0.5, 1.0)]
    assert torch.allclose(score, -w * Z / variances[0] + (w - 1) * Z / variances[1], atol=1e-10)


def test_what_both_models_err_by_is_undone_and_classes_keep_their_shares():
    # data of width .2; the better model takes it for .3, the worse for .4
    true = 0.2
    models = {s: oracles.mixture(FLOW, MEANS, s) for s in (0.3, 0.4)}
    spread, share = {}, {}
    for name, guidance in (("alone", None), ("led", AutoGuidance(models[0.4], 2.0))):
        x = lv.sample(models[0.3], plans.dpmpp(20), 3000, seed=1, guidance=guidance)
        near, which = torch.cdist(x.double(), MEANS).min(1)
        spread[name] = float(near.square().mean().div(3).sqrt())
        share[name] = torch.bincount(which, minlength=3) / 3000
    assert abs(spread["led"] - true) < 0.4 * abs(spread["alone"] - true)
    assert float((share["led"] - 1 / 3).abs().max()) < 0.04


def test_autoguidance_mixes_logits_and_asks_the_weaker_within_its_interval_alone():
    kinds = lv.Categorical(3, schedules.keep_linear(), "uniform")
    one, other = (oracles.enumerated(kinds, torch.tensor(p, dtype=torch.float64)) for p in ([0.7, 0.2, 0.1], [0.5, 0.3, 0.2]))
    z = torch.tensor([[0], [2]])
    both = AutoGuidance(other, 3.0)(one)(z, 0.5)
    assert torch.allclose(both.logits, other(z, 0.5).logits + 3 * (one(z, 0.5).logits - other(z, 0.5).logits))
    heard = Batches(EXACT)
    guided = AutoGuidance(heard, 2.0, (0.3, 0.6))(EXACT)
    for t, calls in ((0.2, 0), (0.5, 1), (0.7, 1)):
        guided(Z, t, COND)
        assert len(heard.sizes) == calls
    assert torch.equal(guided(Z, 0.7, COND).mean, EXACT(Z, 0.7, COND).mean)
    AutoGuidance(heard, 1.0)(EXACT)(Z, 0.5, COND)
    assert len(heard.sizes) == 1


# All


@pytest.mark.parametrize("kind", [APG, CFGZero])
def test_w_1_and_levels_outside_the_interval_are_the_conditional_in_one_call(kind):
    for guidance, t, size in ((kind(1.0), 0.5, 6), (kind(3.0, interval=(0.2, 0.4)), 0.5, 6), (kind(3.0), 0.5, 12)):
        heard = Batches(EXACT)
        found = guidance(heard)(Z, t, COND).mean
        assert heard.sizes == [size]
        assert torch.equal(found, EXACT(Z, t, COND).mean) == (size == 6)


@pytest.mark.parametrize("kind", [APG, CFGZero])
def test_they_lead_away_from_a_named_condition(kind):
    away = {"label": torch.tensor([1])}
    against = EXACT(Z, 0.5, {"label": torch.ones(6, dtype=torch.int64)}).mean
    found = kind(3.0, null=away)(EXACT)(Z, 0.5, {"label": torch.zeros(6, dtype=torch.int64)}).mean
    c = EXACT(Z, 0.5, {"label": torch.zeros(6, dtype=torch.int64)}).mean
    assert float((found - c).abs().max()) > 1e-3 and float((c - against).abs().max()) > 1e-3


@pytest.mark.parametrize("make, message", [
    (lambda: APG(2.0, parallel=1.5), "parallel is 1.5; it is a share"),
    (lambda: APG(2.0, longest=0.0), "longest is 0.0; give a norm above 0"),
    (lambda: APG(math.nan), "w is nan; give a finite strength"),
    (lambda: APG(2.0, interval=(0.5, 0.5)), "interval is"),
    (lambda: CFGZero(2.0, still=1.0), "still is 1.0; it is a share of the way"),
    (lambda: AutoGuidance(EXACT, math.inf), "w is inf"),
    (lambda: AutoGuidance(oracles.mixture(lv.Gaussian(schedules.cosine()), MEANS, 0.3), 2.0)(EXACT),
     "the weaker model's process is .* where the model's is"),
    *((lambda kind=kind: kind(2.0)(oracles.enumerated(lv.Categorical(3, schedules.keep_linear(), "mask"), torch.ones(3) / 3)),
       "and the process is categorical; use CFG, which mixes logits") for kind in (APG, CFGZero)),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_leaves_of_a_product_are_guided_by_themselves():
    parts = {"a": FLOW, "b": lv.Gaussian(schedules.cosine())}

    class Pair(BaseDenoiser):
        def __init__(self):
            super().__init__()
            self.process, self.shape = lv.Product(parts), {"a": (3,), "b": (3,)}

        def forward(self, z, t, cond, mask):
            return {n: oracles.mixture(parts[n], MEANS, 0.3, label=LABEL)(z[n], t[n], cond, mask) for n in z}

    z = {"a": Z, "b": Z + 0.1}
    for kind in (APG, CFGZero):
        found = leaves(kind(3.0)(Pair())(z, 0.5, COND))
        for name, leaf in parts.items():
            alone = kind(3.0)(oracles.mixture(leaf, MEANS, 0.3, label=LABEL))(z[name], 0.5, COND)
            assert torch.allclose(found[name].mean, alone.mean, atol=1e-12)
