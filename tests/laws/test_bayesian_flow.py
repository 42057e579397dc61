"""Bayesian flow networks: their updates, flow laws and bounds are those of a Gaussian process, in numbers."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn

from langevin import bayesian_flow as bfn
from langevin import objectives, plans, schedules
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior, lerp
from langevin.core.sample import sample, trajectory
from langevin.core.space import SymmetricEdges
from langevin.embedded import Embedded, Logits
from langevin.guidance import ClassifierGuidance
from langevin.plans.bayesian_flow import BayesUpdate
from tests.rows import Fixed, f64

S1, VAR = 0.02, 0.49  # the setting of the table: x ~ N(0, 0.49), sigma_1 = 0.02


def mmse(process, t):
    """E (x - x^)^2 for x ~ N(0, VAR) under the exact belief."""
    return VAR / (1 + VAR * process.schedule.lam(t).exp())


def test_a_bayesian_update_is_the_bridge_at_eta_1():
    process, x, n = bfn.continuous(S1), 0.37, 5
    for i in range(1, n + 1):
        t, s = 1 - (i - 1) / n, 1 - i / n
        rho, alpha = S1 ** (-2 * (i - 1) / n), S1 ** (-2 * i / n) * (1 - S1 ** (2 / n))
        g, g_next = (1 - S1 ** (2 * j / n) for j in (i - 1, i))
        mu = 0.2 if g else 0.0
        z = f64(mu / g**0.5 if g else 0.0)[None]  # at g = 0 any z says mu = 0
        mean, moved = (float(process.bridge(z, GaussianPosterior(f64(x)[None]), t, s, Fixed(v, 1))) for v in (0.0, 1.0))
        # mu <- (rho mu + alpha y) / (rho + alpha), y ~ N(x, 1 / alpha)
        assert mean == pytest.approx((rho * mu + alpha * x) / (rho + alpha) / g_next**0.5, abs=1e-12)
        assert moved - mean == pytest.approx(alpha**0.5 / (rho + alpha) / g_next**0.5, rel=1e-10)
        assert rho + alpha == pytest.approx(S1 ** (-2 * i / n), rel=1e-12)


def test_sequential_updates_reproduce_the_flow_law():
    # mean and variance of mu, and the accuracy, carried through the updates in closed form
    n, x, mean, variance, rho = 50, 0.37, 0.0, 0.0, 1.0
    for i in range(1, n + 1):
        alpha = S1 ** (-2 * i / n) * (1 - S1 ** (2 / n))
        mean, variance = (rho * mean + alpha * x) / (rho + alpha), (rho**2 * variance + alpha) / (rho + alpha) ** 2
        rho += alpha
        alpha_s, sigma_s = (float(v) for v in bfn.continuous(S1).schedule(1 - i / n))
        g = alpha_s**2
        assert (mean, variance) == pytest.approx((g * x, g * (1 - g)), abs=1e-13)
        assert sigma_s**2 == pytest.approx(1 - g, abs=1e-14)
    assert rho == pytest.approx(S1**-2, rel=1e-12)


def test_the_continuous_bound_is_the_information():
    # I-MMSE: L_inf = 1/2 ln(1 + c (sigma_1^-2 - 1)); Gauss-Legendre in t
    process = bfn.continuous(S1)
    nodes, weights = (torch.tensor(v) for v in __import__("numpy").polynomial.legendre.leggauss(200))
    t = (nodes + 1) / 2
    x = mmse(process, t).sqrt()
    rate = objectives.BayesianFlow.rate(process, x, GaussianPosterior(torch.zeros_like(x)), t)
    published = -math.log(S1) * S1 ** (-2 * (1 - t)) * x**2
    exact = 0.5 * math.log(1 + VAR * (S1**-2 - 1))
    assert torch.allclose(rate, published, rtol=1e-13)
    assert float((weights / 2 * rate).sum()) == pytest.approx(exact, abs=1e-13)


def test_the_bound_over_n_steps_falls_to_it_as_1_over_n():
    process, bounds = bfn.continuous(S1), {}
    for n in (10, 20, 40, 100, 1000):
        t = 1 - torch.arange(n, dtype=torch.float64) / n
        x = mmse(process, t).sqrt()
        bounds[n] = float(process.kl(x, GaussianPosterior(torch.zeros_like(x)), x, t, (t - 1 / n).clamp(min=0)).sum())
    assert list(bounds.values()) == pytest.approx([5.232, 4.288, 3.899, 3.688, 3.569], abs=5e-4)
    exact = 0.5 * math.log(1 + VAR * (S1**-2 - 1))
    assert exact == pytest.approx(3.5556, abs=5e-5)
    assert 1000 * (bounds[1000] - exact) == pytest.approx(100 * (bounds[100] - exact), rel=0.03)


class Shrink(nn.Module):
    """The exact belief about x ~ N(0, VAR), told lam."""

    def forward(self, z, level, cond=None, mask=None):
        lam = level.double().reshape(-1, *[1] * (z.ndim - 1))
        alpha = torch.sigmoid(lam).sqrt()
        return (z * alpha * VAR / (alpha**2 * VAR + 1 - alpha**2)).to(z.dtype)


def test_the_objective_is_the_weighted_loss_and_estimates_the_bounds():
    process = bfn.continuous(S1)
    from langevin.core.prediction import x0

    model, n = Denoiser(Shrink(), process, x0("lam")), 40_000
    x = VAR**0.5 * Noise.of(7, n).normal((1,))
    noise = Noise.of(3, n)
    ours = objectives.BayesianFlow()(model, Batch(x), noise)
    other = objectives.Denoising(weight="elbo")(model, Batch(x), noise)
    assert float(ours.total) == pytest.approx(float(other.total), rel=1e-5)
    chain = objectives.BayesianFlow(10)(model, Batch(x), noise)
    for said, true in ((ours, 3.55556), (chain, 5.23206)):
        each = said.each[""]
        assert abs(float(said.total) - true) < 4 * float(each.std()) / n**0.5
    assert float(objectives.ELBO(10)(model, Batch(x), noise).total) == pytest.approx(5.232, abs=0.1)


# categories

P = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
ENTROPY = float(-(P * P.log()).sum())


class Prior(nn.Module):
    """log p: with the state's evidence, the exact belief about one independent category."""

    def __init__(self, p=P):
        super().__init__()
        self.p = p

    def forward(self, z, level, cond=None, mask=None):
        shape = z.shape[:-1] if z.ndim > 2 else z.shape
        return self.p.log().float().expand(*shape, len(self.p))


def exact(beta=2.0):
    return Denoiser(Prior(), bfn.discrete(3, beta), Logits(), shape=(1, 3))


def exact_process(beta=2.0):
    return bfn.discrete(3, beta)


def test_states_are_the_published_logits():
    k, beta_1, t = 3, 2.0, 0.3
    process, beta = bfn.discrete(k, beta_1), 2.0 * (1 - t) ** 2
    x, e = torch.tensor([[1]]), Noise.of(0, 1).normal((1, k), torch.float64)
    z = process.mix(x, e, t)
    y = beta * (k * torch.nn.functional.one_hot(x, k) - 1) + (beta * k) ** 0.5 * e
    theta = bfn.simplex(process, z, expand(t, z))
    assert torch.allclose(theta, torch.softmax(y, -1), atol=1e-6)
    # a message of accuracy alpha multiplies theta by exp(y) and is the bridge from t to s
    s = 0.1
    alpha = beta_1 * ((1 - s) ** 2 - (1 - t) ** 2)
    point = process.embed(x).double()
    logs = []
    for value in (0.0, 1.0):
        fixed = torch.tensor([[[value, 0.0, 0.0]]])
        moved = process.bridge(z, GaussianPosterior(point), t, s, Fixed(0.0, 1))
        moved = moved + process.bridge_numbers(t, s)[2] * fixed
        message = alpha * (k * torch.nn.functional.one_hot(x, k) - 1) + (alpha * k) ** 0.5 * fixed
        updated = theta * message.exp()
        logs.append((bfn.simplex(process, moved, expand(s, moved)), updated / updated.sum(-1, keepdim=True)))
    for ours, theirs in logs:
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_two_categories_are_one_sigmoid():
    process, t = bfn.discrete(2, 9.0), 0.4
    z = process.mix(torch.tensor([[1]]), Noise.of(0, 1).normal((1, 2)), t)
    y = process.evidence(z, expand(t, z))
    assert torch.allclose(bfn.simplex(process, z, expand(t, z))[..., 1], torch.sigmoid(y[..., 1] - y[..., 0]))


def test_discrete_bound_and_reconstruction_are_the_entropy_by_quadrature():
    # K = 2: the belief depends on one normal number; Gauss-Hermite in it, Gauss-Legendre in t
    import numpy as np

    p, beta_1 = f64(0.8, 0.2), 3.0
    process = bfn.discrete(2, beta_1)
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(120))
    weights = weights / weights.sum()
    times, shares = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(60))
    times, shares = (times + 1) / 2, shares / 2

    def belief(x, t):
        # e = (n, -n) / sqrt 2 is the part of the noise that says anything
        e = torch.stack([nodes, -nodes], -1)[:, None] / 2**0.5
        z = process.mix(torch.full((len(nodes), 1), x), e.float().double(), t)
        return torch.softmax(p.log() + process.evidence(z, expand(t, z)), -1)[:, 0]

    total = 0.0
    for x in (0, 1):
        one = torch.eye(2, dtype=torch.float64)[x]
        for t, share in zip(times.tolist(), shares.tolist(), strict=True):
            square = ((one - belief(x, t)) ** 2).sum(-1)
            total += float(p[x] * share * 2 * beta_1 * (1 - t) * (weights * square).sum())  # K beta_1 t |e_x - e^|^2
        total += float(p[x] * -(weights * belief(x, 0.0)[:, x].log()).sum())
    assert total == pytest.approx(float(-(p * p.log()).sum()), abs=1e-6)


@pytest.mark.parametrize("steps", [None, 1, 20])
@pytest.mark.parametrize("kind", ["vectors", "numbers"])
def test_bound_and_reconstruction_are_the_entropy(steps, kind):
    # the mixture of the receiver is exact for one category, so every n has the same bound
    if kind == "vectors":
        model = exact()
    else:
        model = Denoiser(Prior(), Embedded(torch.tensor([-0.7, 0.1, 0.9]), schedules.bayesian_flow(0.3)), Logits(), shape=(1,))
    n = 60_000
    x = torch.searchsorted(P.cumsum(0), Noise.of(5, n).uniform((1,))).clamp(max=2)
    loss = objectives.BayesianFlow(steps, reconstruction=True)(model, Batch(x), Noise.of(0, n))
    error = float(loss.each[""].std()) / n**0.5 + 0.5 / n**0.5
    assert abs(float(loss.total) - ENTROPY) < 4 * error and 4 * error < 0.03 * ENTROPY + 0.02
    assert float(loss.logs["nats"] + loss.logs["reconstruction"]) == pytest.approx(float(loss.total), rel=1e-5)


@pytest.mark.parametrize("sampler", ["update", "redraw"])
@pytest.mark.parametrize("steps", [1, 4])
def test_samplers_draw_exactly_whatever_their_steps(sampler, steps):
    n = 20_000
    model = exact()
    x = exact_process().round(sample(model, plans.bayesian_flow(steps, sampler, end="draw"), n))[:, 0]
    share = torch.bincount(x, minlength=3) / n
    assert (share - P).abs().max() < 4 * (0.25 / n) ** 0.5


def test_updates_are_ancestral_steps_and_end_in_the_belief():
    from langevin.core.prediction import x0

    model = Denoiser(Shrink(), bfn.continuous(S1), x0("lam"), shape=(2,))
    steps = list(trajectory(model, plans.bayesian_flow(6), 4))
    ancestral = list(trajectory(model, plans.ddpm(6), 4))
    for ours, other in zip(steps, ancestral, strict=False):
        assert torch.allclose(ours.z, other.z, atol=1e-6)
    assert len(steps) == 7 and steps[-1].nfe == 7 and torch.equal(steps[-1].z, steps[-1].belief.mean)  # pyright: ignore


class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.levels = []

    def forward(self, z, level, cond=None, mask=None):
        self.levels.append(float(level[0]))
        return torch.zeros(*z.shape[:-1], 3)


def test_the_level_shown_is_the_states_own_unless_asked_otherwise():
    # released PharMolixFM shows the first level twice, and never the last but one
    told = []
    for repeated in (False, True):
        net = Told()
        model = Denoiser(net, bfn.discrete(3, 1.0), Logits(level="t"), shape=(1, 3))
        sample(model, plans.bayesian_flow(4, "redraw", repeated=repeated), 1)
        told.append(net.levels)
    assert told[0] == [1.0, 0.75, 0.5, 0.25, 0.0] and told[1] == [1.0, 1.0, 0.75, 0.5, 0.0]


def test_a_redraw_has_the_flow_law_and_no_more_noise():
    # the published code of PharMolixFM has mu with variance (g + 0.01)(1 - g), 0.01 at level 1 where it is 0: ours has
    # mu / sqrt(g) = alpha_s x + sigma_s e of variance 1 - g
    process = bfn.discrete(3, 2.0)
    row = plans.bayesian_flow(2, "redraw", end="mean").on(process.schedule).rows[0]
    x = process.embed(torch.zeros(1, 1, dtype=torch.long))
    alpha, sigma = (float(v) for v in process.schedule(row.stop))
    belief = process.believed(torch.tensor([[[50.0, 0.0, 0.0]]]))
    assert isinstance(row, BayesUpdate)
    row = dataclasses.replace(row, drawn=False)  # so that the one draw left is that of the noise
    low, high = (row.move(process, torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(0)), belief, Fixed(v, 1), None)
                 for v in (0.0, 1.0))  # fmt: skip
    assert torch.allclose(low, alpha * x) and torch.allclose(high - low, torch.full_like(x, sigma))


# discretised


def test_bins_are_masses_of_a_normal_law_and_the_ends_take_the_tails():
    process = bfn.discretised(16)
    centres = process.table.double()
    mean, deviation = f64(-1.7, 0.05, 0.9)[:, None], f64(0.5, 0.02, 3.0)[:, None]
    law = torch.distributions.Normal(mean[..., None], deviation[..., None])
    edges = (centres[1:] + centres[:-1]) / 2
    below = torch.cat([torch.zeros(3, 1, 1), law.cdf(edges), torch.ones(3, 1, 1)], -1)
    masses = bfn.Bins.log_masses(centres, mean, deviation).exp()
    assert torch.allclose(masses, below.diff(dim=-1), atol=1e-12)
    assert torch.allclose(masses.sum(-1), torch.ones(3, 1, dtype=torch.float64), atol=1e-12)
    # far from the mean a bin still has its share: differences of the upper tail, not of 1 - 1
    far = bfn.Bins.log_masses(centres.float(), torch.tensor([[-0.9]]), torch.tensor([[0.05]]))
    assert far.isfinite().all() and (far.diff(dim=-1)[..., 2:] < 0).all()
    one = float((edges[4] + 0.9) / 0.05)
    assert float(far[0, 0, 5]) == pytest.approx(math.log(0.5 * math.erfc(one / 2**0.5)), rel=0.01)


class Zeros(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, z, level, cond=None, mask=None):
        return torch.zeros(len(z), self.outputs * z.shape[1], *z.shape[2:])


def test_a_discretised_belief_follows_the_state_and_knows_nothing_at_level_1():
    process = bfn.discretised(16)
    model = Denoiser(Zeros(2), process, bfn.Bins(), shape=(2,))
    x = torch.tensor([[3, 12]])
    sharp = model(process.mix(x, torch.zeros(1, 2), 0.0), 0.0)
    assert torch.equal(process.round(sharp.mean), x) and (sharp.variance < 2e-3).all()
    blind = model(torch.tensor([[0.3, -2.0]]), 1.0)
    edge = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(-1 + 2 / 16)))
    assert torch.allclose(blind.probs[..., 0], torch.full((1, 2), edge)) and blind.mean.abs().max() < 1e-6
    loss = objectives.BayesianFlow(5, reconstruction=True)(model, Batch(x), Noise.of(0, 1))
    assert loss.total.isfinite()
    assert sample(model, plans.bayesian_flow(5), 3).shape == (3, 2)


def test_noise_predicted_where_nothing_is_seen_is_no_belief():
    process = bfn.continuous(0.02)
    model = Denoiser(Zeros(1), process, bfn.ClippedNoise(), shape=(2,))
    z = torch.tensor([[0.4, -3.0]])
    assert (model(z, 1.0).mean == 0).all()
    alpha = float(process.schedule(0.5)[0])
    assert torch.allclose(model(z, 0.5).mean, (z / alpha).clamp(-1, 1))
    with pytest.raises(ValueError, match="alpha is 0"):
        Denoiser(Zeros(1), process, "eps")


# guidance on beliefs that have probabilities


def test_beliefs_mix_in_logits_and_classifiers_move_their_mean():
    model = exact()
    z = torch.zeros(2, 1, 3)
    a, b = model(z, 0.5), model(z + 0.3, 0.5)
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(2, 1, 1)
    mixed = lerp(a, b, weight)
    assert torch.allclose(mixed.logits, a.logits + weight.float() * (b.logits - a.logits))
    guided = ClassifierGuidance(lambda z, t, cond: z.flatten(1) @ torch.tensor([1.0, 0.0, -1.0]))(model)
    alpha, sigma = (float(v) for v in exact_process().schedule(0.5))
    step = sigma**2 / alpha * torch.tensor([1.0, 0.0, -1.0])
    assert torch.allclose(guided(z, 0.5).mean, a.mean + step, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="embedded process"):
        Denoiser(Prior(), bfn.continuous(), Logits())
    with pytest.raises(ValueError, match="row of numbers"):
        Denoiser(Prior(), bfn.discrete(3, 1.0), bfn.Bins())
    with pytest.raises(ValueError, match="return logits"):
        Denoiser(Zeros(2), bfn.discrete(3, 1.0), Logits())(torch.zeros(1, 2, 3), 0.5)
    with pytest.raises(ValueError, match="0 to 2"):
        bfn.discrete(3, 1.0).embed(torch.tensor([3]))
    with pytest.raises(ValueError, match="steps is 0"):
        objectives.BayesianFlow(0)
    said = "plan {} keeps noise predictions, but alpha is 0 at level 1 of the process, .*; use dpmpp, or basis"
    for process, shape in ((bfn.continuous(), (4,)), (bfn.discretised(3), (4,)), (bfn.discrete(3, 1.0), (4, 3))):
        for plan in (plans.dpm_2(5), plans.lms(5), plans.dpm_solver(5)):
            with pytest.raises(ValueError, match=said.format(re.escape(plan.name))):
                sample(Denoiser(Prior(), process, "x0", shape=shape), plan, 2)


class Both(nn.Module):
    """The exact beliefs about a number and a category that are independent of each other."""

    def forward(self, z, level, cond=None, mask=None):
        return {"x": Shrink()(z["x"], level["x"]), "kind": Prior()(z["kind"], level["kind"])}


def test_flows_are_leaves_of_a_product():
    from langevin.core.prediction import x0
    from langevin.core.process import Product

    process = Product({"x": bfn.continuous(S1), "kind": bfn.discrete(3, 2.0)})
    model = Denoiser(Both(), process, {"x": x0("lam"), "kind": Logits()}, shape={"x": (1,), "kind": (1, 3)})
    n = 20_000
    noise = Noise.of(3, n)
    kinds = torch.searchsorted(P.cumsum(0), noise.uniform((1,))).clamp(max=2)
    batch = Batch({"x": VAR**0.5 * Noise.of(7, n).normal((1,)), "kind": kinds})
    loss = objectives.BayesianFlow(reconstruction=True, spread="independent")(model, batch, noise)
    for name, true in (("nats/x", 3.55556), ("nats/kind", ENTROPY - float(loss.logs["reconstruction/kind"]))):
        each = loss.each[name.removeprefix("nats/")]
        assert abs(float(loss.logs[name]) - true) < 4 * float(each.std()) / n**0.5 + 0.01
    drawn = sample(model, plans.bayesian_flow(8, end="draw"), n)
    share = torch.bincount(exact_process().round(drawn["kind"])[:, 0], minlength=3) / n
    assert (share - P).abs().max() < 4 * (0.25 / n) ** 0.5
    # a leaf that is given stays, and the other follows its own law
    given = {"kind": exact_process().embed(kinds[:50])}
    kept = sample(model, plans.bayesian_flow(3), 50, given=given)
    assert torch.equal(kept["kind"], given["kind"])


def test_given_leaves_teach_nothing():
    from langevin.core.prediction import x0
    from langevin.core.process import Product

    process = Product({"x": bfn.continuous(S1), "kind": bfn.discrete(3, 2.0)})
    model = Denoiser(Both(), process, {"x": x0("lam"), "kind": Logits()}, shape={"x": (1,), "kind": (1, 3)})
    batch = Batch({"x": torch.zeros(400, 1), "kind": torch.zeros(400, 1, dtype=torch.int64)})
    loss = objectives.BayesianFlow(clean=0.9)(model, batch, Noise.of(0, 400))
    free = [(loss.levels[name] > 0).float().mean() for name in ("x", "kind")]
    assert all(float(share) == pytest.approx(0.55, abs=0.1) for share in free)
    assert all((loss.each[name][loss.levels[name] == 0] == 0).all() for name in ("x", "kind"))


@pytest.mark.parametrize("sampler", ["update", "redraw"])
def test_drawn_categories_of_edges_are_those_of_a_graph(sampler):
    # what is drawn before each step is one category an edge, so that states stay where graphs are
    class Even(nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return torch.zeros(*z.shape[:-1], 2)

    leaf = Embedded(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), schedules.cosine(), space=SymmetricEdges())
    model = Denoiser(Even(), leaf, Logits(evidence=False), shape=(4, 4, 2))
    mask = (torch.arange(4) < torch.tensor([4, 3])[torch.arange(3000) % 2][:, None]).expand(3000, 4)
    free = torch.ones(4, 4, dtype=torch.bool).triu(1)
    for step in trajectory(model, plans.bayesian_flow(4, sampler, end="draw"), 3000, mask=mask):
        z = step.z
        assert torch.equal(leaf.space.project(z, mask), z)
        each = z[0::2][:, free][..., 0].flatten()
        if sampler == "redraw":  # data of variance 1 keeps it on this schedule
            assert float(each.var()) == pytest.approx(1.0, abs=4 * (2 / len(each)) ** 0.5)
