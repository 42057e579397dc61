"""Bounds of every process, with their decoders: never below an entropy that is known, and it where the belief is exact."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import langevin as lv
from langevin import bayesian_flow as bfn
from langevin import oracles, schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.process import Product
from langevin.core.space import Centred
from langevin.embedded import Embedded, Logits
from langevin.interpolants import Interpolant
from langevin.kernels import Chain, ordinal_rates
from langevin.objectives import ELBO
from langevin.tasks.elbo import elbo, variational_bound
from tests.rows import alternating

P = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
ENTROPY = float(-(P * P.log()).sum())


def drawn(count, shape=(1,), seed=5):
    return torch.searchsorted(P.cumsum(0), Noise.of(seed, count).uniform(shape)).clamp(max=2)


class Prior(nn.Module):
    """log p of independent categories: with the state's evidence the exact belief."""

    def forward(self, z, level, cond=None, mask=None):
        return P.log().float().expand(*(z.shape[:-1] if z.ndim > 2 else z.shape), 3)


def categorical(schedule, **kind):
    return oracles.enumerated(Categorical(3, schedule, **kind), P)


def near(found, truth, extra=0.0):
    """Within four standard errors, which are small."""
    error = float(found.nats.std()) / len(found.nats) ** 0.5
    assert error < 0.03 * max(1.0, abs(truth))
    assert -float(found.nats.mean()) == pytest.approx(truth, abs=4 * error + extra)


@pytest.mark.parametrize(
    "leaf",
    [
        bfn.discrete(3, 2.0),
        Embedded(torch.tensor([-0.7, 0.1, 0.9]), schedules.bayesian_flow(0.3)),
        Embedded(torch.tensor([-0.7, 0.1, 0.9]), schedules.cosine()),  # to the floor of a schedule that has no noise at 0
        Embedded(1.5 * torch.eye(3), schedules.vp_linear()),
    ],
    ids=["discrete", "discretised", "cosine", "words"],
)
def test_the_bound_of_points_is_the_entropy_where_the_belief_is_exact(leaf):
    model = Denoiser(Prior(), leaf, Logits(), shape=(2, 3) if leaf.vectors else (2,))
    x = drawn(6000, (2,))
    found, how = variational_bound(model, Batch(x), draws=8)
    cross = -float(P.log()[x].sum(1).mean())  # of these samples
    assert "continuous" in how and found.elements == 2 and found.evaluations == 16
    assert -float(found.nats.mean()) == pytest.approx(cross, abs=4 * float((found.nats - P.log()[x].sum(1)).std()) / 6000**0.5)
    # padding costs nothing
    mask = torch.tensor([[True, False]]).expand(len(x), 2)
    half, _ = variational_bound(model, Batch(x, None, mask), draws=8)
    near(half, -float(P.log()[x[:, 0]].mean()), 0.01)


def test_a_belief_without_probabilities_has_a_decoder_of_the_state():
    # the exact mean of points, with no word about which: at the floor the state tells
    leaf = Embedded(torch.tensor([-0.7, 0.1, 0.9]), schedules.cosine())
    exact = oracles.Mixture(leaf, leaf.embed(torch.arange(3)[:, None]), P)
    near(variational_bound(exact, Batch(drawn(4000)), draws=32)[0], ENTROPY, 0.03)


def test_one_gaussian_leaf_is_bounded_as_elbo_has_it():
    process, n = Gaussian(schedules.vp_linear()), 4000
    model = oracles.gaussian(process, torch.zeros(4), 0.25 * torch.eye(4))
    x = 0.5 * Noise.of(3, n).normal((4,), torch.float64)
    found, ours = variational_bound(model, Batch(x), draws=64)[0], elbo(model, x, draws=64)
    error = float((found.nats - ours.nats).std()) / n**0.5
    assert float((found.nats - ours.nats).mean()) == pytest.approx(0, abs=4 * error) and error < 0.06
    near(found, 2 * math.log(2 * math.pi * math.e / 4), 0.05)  # 2.90 nats, the entropy of N(0, I / 4) in four dimensions
    grid = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    pair = oracles.Mixture(process, grid[:, None], torch.tensor([0.2, 0.8], dtype=torch.float64))
    sign = torch.where(Noise.of(0, n).uniform((1,)) < 0.8, 1.0, -1.0).double()
    exact = -float(sign.eq(1).double().mean() * math.log(0.8) + sign.eq(-1).double().mean() * math.log(0.2))
    near(variational_bound(pair, Batch(sign), values={"": grid}, draws=8)[0], exact, 0.01)


def test_centred_points_have_the_density_of_their_subspace():
    schedule, v = schedules.vp_linear(), 0.4

    class Shrink(BaseDenoiser):
        process, shape = Gaussian(schedule, Centred()), (3, 2)

        def forward(self, z, t, cond, mask):
            alpha, sigma = schedule(t[""])
            return lv.core.posterior.GaussianPosterior(z[""] * (alpha * v / (alpha**2 * v + sigma**2)))

    model: Any = Shrink()
    x = model.process.noise(torch.zeros(3000, 3, 2, dtype=torch.float64), Noise.of(1, 3000)) * v**0.5
    near(variational_bound(model, Batch(x), draws=32)[0], 4 / 2 * math.log(2 * math.pi * math.e * v), 0.05)


class Independent(BaseDenoiser):
    """Leaves that know nothing of each other."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.process = parts, Product({n: p.process for n, p in parts.items()})
        self.shape = {n: p.shape for n, p in parts.items()}

    def forward(self, z, t, cond, mask):
        return {n: p.believe({"": z[n]}, {"": t[n]}, None, None) for n, p in self.parts.items()}


def test_a_product_of_independent_leaves_is_the_sum_of_them():
    n = 3000
    parts = {
        "x": oracles.gaussian(Gaussian(schedules.cosine()), torch.zeros(2), 0.25 * torch.eye(2)),
        "kind": Denoiser(Prior(), bfn.discrete(3, 2.0), Logits(), shape=(1, 3)),
        "label": categorical(schedules.keep_linear(), limit="mask"),
    }
    x = {"x": 0.5 * Noise.of(3, n).normal((2,), torch.float64), "kind": drawn(n), "label": drawn(n, seed=8)}
    found, how = variational_bound(Independent(parts), Batch(x), draws=20)
    each = {k: variational_bound(Independent({k: p}), Batch({k: x[k]}), draws=20)[0].nats for k, p in parts.items()}
    assert "100 steps" in how and found.elements == 4
    apart = found.nats - torch.stack(list(each.values())).sum(0)
    assert abs(float(apart.mean())) < 4 * float(apart.std()) / n**0.5 and float(apart.std()) / n**0.5 < 0.02
    assert -float(each["label"].mean()) == pytest.approx(-float(P.log()[x["label"]].mean()), abs=0.05)
    assert -float(each["kind"].mean()) > ENTROPY  # 100 steps of one normal law each


def test_labels_without_an_axis_have_their_bound():
    class Bare(nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return {"label": P.log().float().expand(len(z["label"]), 3)}

    process = Product({"label": Categorical(3, schedules.keep_cosine(), "uniform")})
    model = Denoiser(Bare(), process, {"label": "logits"}, shape={"label": ()})
    x = drawn(4000)[:, 0]
    near(variational_bound(model, Batch({"label": x}), draws=20)[0], -float(P.log()[x].mean()), 0.02)


def test_a_chain_has_its_own_steps_and_as_many_draws_meet_each_once():
    steps, n = 12, 500
    model = categorical(schedules.keep_linear(), kernel=alternating(steps))
    x = drawn(n)
    found, how = variational_bound(model, Batch(x), draws=steps)
    assert f"of {steps} steps" in how
    # the same states by hand: sum over all steps of KL_i, and the prior's
    leaf: Any = model.process.leaves()[""]
    noise = Noise.of(0, n)
    total = leaf.prior_kl(x)[:, 0]
    for k in range(steps):
        t, s = (torch.full((n, 1), i / steps, dtype=torch.float64) for i in (k + 1, k))
        z = leaf.marginal(x, t, noise.at(f"draw {k}").at("noise").at(""))
        total = total + leaf.kl(x, model(z, t), z, t, s)[:, 0]
    assert torch.allclose(-found.nats, total, atol=1e-9)
    # one category: reversed steps are exact, whatever their number, but for where the chain ends
    many, _ = variational_bound(model, Batch(drawn(6000)), draws=steps)
    left = float(leaf.prior_kl(torch.arange(3)) @ P)
    marginal = P @ leaf.kernel.products[-1]
    near(many, ENTROPY + float((marginal * (marginal / leaf.kernel.limit).log()).sum()), 0.02)
    assert left >= 0 and isinstance(leaf.kernel, Chain)


def test_steps_that_go_to_data_need_no_decoder():
    short = categorical(schedules.clipped(schedules.keep_linear(), 0.1), rates=ordinal_rates(3, 0.8))
    leaf: Any = short.process.leaves()[""]
    x = drawn(6000)
    found, how = variational_bound(short, Batch(x), draws=24)
    marginal = P @ leaf.kernel.push(torch.eye(3, dtype=torch.float64), leaf.schedule.alpha(torch.ones(1).double()))
    excess = float((marginal * (marginal / leaf.kernel.limit).log()).sum())
    assert "100 steps" in how
    near(found, ENTROPY + excess, 0.02)


class Line(nn.Module):
    def forward(self, z, level, cond=None, mask=None):
        return 0.8 * z


def test_words_have_the_bound_of_diffusion_lm_over_the_schedules_own_steps():
    # against the objective, which is that of enumeration (test_embedding): its mean over levels, and over ids
    from langevin import objectives

    leaf = Embedded(torch.tensor([-1.5, -0.2, 0.4, 1.1])[:, None].double(), schedules.sqrt(5), 0.2, learned=True)
    model, n = Denoiser(Line(), leaf, "x0"), 8000
    ids = (Noise.of(1, n).uniform((3,)) * 4).long()
    found, how = variational_bound(model, Batch(ids), draws=8)
    with torch.no_grad():
        many = [objectives.Embedding("bound")(model, Batch(ids), Noise.of(s, n)).total for s in range(12)]
    assert "5 steps" in how and found.evaluations == 16 and found.elements == 3
    assert -float(found.nats.mean()) == pytest.approx(3 * float(torch.stack(many).mean()), rel=0.02)
    assert -float(found.nats.mean()) > 3 * math.log(4)  # never below the entropy
    assert not model.training or model.train() is model


def test_what_has_no_bound_is_refused():
    x = torch.zeros(2, 2, dtype=torch.float64)
    words = Embedded(torch.eye(3), schedules.sqrt(), 0.1)
    law, ids = torch.tensor([0.5, 0.3, 0.2]), torch.zeros(2, 1, dtype=torch.int64)
    guessed = [oracles.enumerated(Categorical(3, schedules.keep_linear(), to), law) for to in ("mask", "uniform")]
    for asked, said in (
        (lambda: variational_bound(oracles.Mixture(Interpolant(schedules.flow()), x), Batch(x)), "interpolant"),
        (
            lambda: variational_bound(
                Independent({"a": Denoiser(Line(), words, "x0", shape=(1, 3))}), Batch({"a": torch.zeros(2, 1).long()})
            ),
            "std is 0.1",
        ),
        (lambda: variational_bound(oracles.Mixture(Gaussian(schedules.cosine()), x), Batch(x), draws=0), "draws is 0"),
        (
            lambda: variational_bound(
                oracles.Mixture(Gaussian(schedules.cosine()), x), Batch(x), values={"image": torch.zeros(2)}
            ),
            "'image'",
        ),
        (lambda: variational_bound(guessed[0], Batch(ids)), "is a Mixture, .*give a Denoiser, without guidance"),
        (lambda: variational_bound(guessed[1], Batch(ids)), "is a Mixture, .*give a Denoiser, without guidance"),
        (lambda: ELBO(4)(Denoiser(Line(), words, "x0"), Batch(torch.zeros(2, 3).long()), Noise.of(0, 2)), "Embedding objective"),
    ):
        with pytest.raises(ValueError, match=said):
            asked()
