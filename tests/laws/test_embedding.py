"""Diffusion-LM: words as learned points, rounding, clamping, the exact bound, and control by gradient."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from langevin import bayesian_flow, objectives, oracles, plans, schedules
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample, trajectory
from langevin.embedded import Embedded, Logits
from langevin.guidance import Clamp, Control
from langevin.networks import JointTransformer, VectorPort
from langevin.objectives import Regression
from langevin.tasks import bleu, least_risk
from langevin.training import Model
from tests.rows import EMBEDDED, Fixed, f64


def test_the_sqrt_schedule_and_the_published_table():
    # 2000 levels, offset 1e-4: the published code builds betas from ratios and so loses the first factor
    right, published = schedules.sqrt(), schedules.sqrt(published=True)
    first = f64(1 / 2000)
    assert float(right.alpha(first) ** 2) == pytest.approx(1 - math.sqrt(1 / 2000 + 1e-4), abs=1e-12)
    assert [round(float(s.alpha(first) ** 2), 4) for s in (right, published)] == [0.9755, 0.9854]
    assert [round(float(s.sigma(first)), 3) for s in (right, published)] == [0.157, 0.121]
    # every other level differs by that factor alone, up to the last, where the formula is below 0 and the code cuts beta at .999
    at = torch.arange(1, 2000, dtype=torch.float64) / 2000
    assert torch.allclose(published.alpha(at) ** 2 * 0.99, right.alpha(at) ** 2, rtol=1e-12)
    before, last = f64(1999 / 2000), f64(1.0)
    assert float(right.alpha(last)) == 0
    assert float(published.alpha(last) ** 2 / published.alpha(before) ** 2) == pytest.approx(0.001, rel=1e-9)


def words(categories=5, width=3, std=0.1, schedule=None, learned=True, scale=1.0):
    table = Noise.of(0, categories).normal((width,)) * scale
    return Embedded(table, schedule or schedules.sqrt(), std, learned)


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_bridge_after_marginal_is_marginal(name, eta):
    leaf, ids = EMBEDDED[name], torch.tensor([[2]])
    point = leaf.embed(ids)
    for t, s in [(1.0, 0.6), (0.8, 0.2), (0.3, 0.0)]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = leaf.schedule(t), leaf.schedule(s)

        def step(z, noise, t=t, s=s):
            return leaf.bridge(z, GaussianPosterior(point), t, s, Fixed(noise, 1), eta)

        mean = step(alpha_t * point, 0.0)
        gain, deviation = step(alpha_t * point + 1, 0.0) - mean, step(alpha_t * point, 1.0) - mean
        assert torch.allclose(mean, alpha_s * point, atol=1e-10)
        total = gain**2 * sigma_t**2 + deviation**2
        assert torch.allclose(total, (sigma_s**2).expand_as(total), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EMBEDDED)
def test_levels_may_differ_by_id_and_divergences_count_by_id(name):
    leaf, noise = EMBEDDED[name], Noise.of(0, 2)
    ids, t = torch.tensor([[2, 0], [1, 1]]), f64(0.7, 0.2).reshape(1, 2)
    z = leaf.marginal(ids, t, noise)
    for k in range(2):
        assert torch.equal(z[:, k], leaf.marginal(ids, float(t[0, k]), noise)[:, k])
    # the evidence is the logarithm of the marginal's density, up to a constant: its gradient in z is that of the densities
    state = leaf.marginal(ids, 0.5, noise).requires_grad_()
    alpha, sigma = leaf.schedule(0.5)
    spread = (sigma**2 + alpha**2 * leaf.std**2).sqrt()
    value = torch.distributions.Normal(alpha * leaf.table, spread).log_prob(
        state[..., None, :] if leaf.vectors else state[..., None]
    )
    value = value.sum(-1) if leaf.vectors else value
    ours = leaf.evidence(state, 0.5)
    assert torch.allclose(ours - ours[..., :1], value - value[..., :1], atol=1e-9)
    belief = GaussianPosterior(leaf.embed(ids) + 0.3)
    gain = leaf.schedule.lam(0.2).exp() - leaf.schedule.lam(0.5).exp()
    each = 0.5 * float(gain) * 0.09 * (leaf.table.shape[1] if leaf.vectors else 1)
    assert torch.allclose(leaf.kl(ids, belief, state, 0.5, 0.2), torch.full((2, 2), each, dtype=torch.float64))


def test_rounding_is_tied_to_the_table():
    leaf = words()
    x0 = Noise.of(1, 4).normal((7, 3))
    logits = torch.nn.functional.linear(x0, leaf.table)  # bias free
    assert torch.equal(leaf.log_probs(x0), torch.log_softmax(logits, -1))
    assert torch.equal(leaf.round(x0), logits.argmax(-1))
    assert [n for n, _ in leaf.named_parameters()] == ["table"]
    # argmax p(w | x0) is not the nearest neighbour where norms differ
    apart = Embedded(torch.tensor([[1.0, 0.0], [5.0, 0.0]]), schedules.sqrt())
    assert int(apart.round(torch.tensor([1.0, 0.0]))) == 1 and int(apart.nearest(torch.tensor([1.0, 0.0]))) == 0


def test_clamping_is_to_the_nearest_and_idempotent():
    leaf = words(20, 4)
    x0 = 2 * Noise.of(1, 6).normal((9, 4))
    nearest = torch.cdist(x0.reshape(-1, 4), leaf.table.detach()).argmin(-1).reshape(6, 9)
    assert torch.equal(leaf.nearest(x0), nearest)
    once = leaf.clamp(x0)
    assert torch.equal(leaf.clamp(once), once) and torch.equal(once, leaf.embed(nearest))
    numbers = Embedded(torch.tensor([-0.5, 0.0, 0.75]), schedules.sqrt())
    assert torch.equal(numbers.clamp(torch.tensor([-9.0, -0.2, 0.5])), torch.tensor([-0.5, 0.0, 0.75]))


def strings(leaf, table):
    """The exact denoiser of a table of probabilities over strings of points."""
    ids = torch.tensor(list(itertools.product(*(range(k) for k in table.shape))))
    return oracles.Mixture(leaf, leaf.embed(ids), table.flatten())


TABLE = torch.tensor([[0.4, 0.05, 0.0], [0.0, 0.1, 0.15], [0.1, 0.0, 0.2]], dtype=torch.float64)


@pytest.mark.parametrize("form", ["ddpm", "consistency"])  # the posterior of the step, and the fresh marginal of the paper
def test_both_forms_of_sampling_round_to_the_table_as_steps_grow(form):
    leaf = Embedded(3.0 * torch.eye(3), schedules.sqrt())
    exact, n = strings(leaf, TABLE), 4000
    far = []
    for steps in (4, 16, 64):
        z = sample(exact, getattr(plans, form)(steps), n)
        far.append(float((z - leaf.clamp(z)).square().sum(-1).mean()))
    ids = leaf.round(z)  # pyright: ignore
    share = torch.bincount(3 * ids[:, 0] + ids[:, 1], minlength=9) / n
    assert far[0] > 10 * far[1] and far[1] >= far[2] and far[2] < 1e-4
    assert float(share[TABLE.flatten() == 0].sum()) == 0
    assert torch.equal(ids, leaf.nearest(z))  # pyright: ignore
    # the posterior's steps are those of the reversed process; a fresh marginal about a mean is not, and prefers what is likely
    worst = float((share - TABLE.flatten()).abs().max())
    assert worst < 0.035 if form == "ddpm" else worst > 0.05 and share[0] > 0.45


def test_clamped_sampling_ends_on_points():
    leaf = Embedded(3.0 * torch.eye(3), schedules.sqrt())
    z = sample(strings(leaf, TABLE), plans.ddpm(4), 50, guidance=Clamp())
    assert torch.equal(leaf.clamp(z), z)
    late = Clamp(below=0.3)(strings(leaf, TABLE))
    state = Noise.of(0, 2).normal((2, 3))
    assert torch.equal(late(state, 0.5).mean, strings(leaf, TABLE)(state, 0.5).mean)
    assert torch.equal(late(state, 0.2).mean, leaf.clamp(late(state, 0.2).mean))


# the loss


class Line(nn.Module):
    """x^ = a z, whatever the level."""

    def __init__(self, a=0.8):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, z, level, cond=None, mask=None):
        return self.a.to(z.dtype) * z


def test_the_bound_is_that_of_enumeration():
    # D = 1, K = 4, x^ = a z: the chain is linear and Gaussian, so its joint law has a closed form for each word
    schedule, steps, s0, a = schedules.sqrt(5, published=True), 5, 0.2, 0.8
    table = f64(-1.5, -0.2, 0.4, 1.1)[:, None]
    leaf = Embedded(table, schedule, s0, learned=True)
    model = Denoiser(Line(a), leaf, "x0")
    alpha = [1.0] + [float(schedule.alpha(f64(i / steps))) for i in range(1, steps + 1)]
    var = [0.0] + [float(schedule.sigma(f64(i / steps))) ** 2 for i in range(1, steps + 1)]
    total = 0.0
    q_nodes, q_weights = np.polynomial.hermite_e.hermegauss(80)
    q_weights = q_weights / q_weights.sum()
    for w in range(4):
        m, m2 = float(table[w]), float(table[w]) ** 2 + s0**2  # moments of x0
        bound = 0.5 * alpha[-1] ** 2 * m2 / var[-1]
        for i in range(1, steps + 1):
            square = (1 - a * alpha[i]) ** 2 * m2 + a**2 * var[i]  # E (x0 - a z_i)^2
            if i == 1:
                bound += square / (2 * s0**2) + math.log(2 * math.pi * s0**2) / 2
                continue
            # KL of two bridges of one variance v: (difference of means)^2 / 2 v, from Bayes' rule on z_i = r z_{i-1} + noise
            r = alpha[i] / alpha[i - 1]
            noise = var[i] - r**2 * var[i - 1]
            v = 1 / (1 / var[i - 1] + r**2 / noise)
            bound += (v * alpha[i - 1] / var[i - 1]) ** 2 * square / (2 * v)
        bound += -0.5 - math.log(2 * math.pi * s0**2) / 2
        x0 = m + s0 * torch.tensor(q_nodes)
        bound += float((torch.tensor(q_weights) * -torch.log_softmax(x0[:, None] * table[:, 0], -1)[:, w]).sum())
        total += bound / 4
    # ours, by quadrature over words, x0, noise and levels
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(40.0), torch.arange(40.0), torch.arange(5.0)).long()
    ids, level = grid[:, :1], (grid[:, 3:] + 1).double() / steps
    x0, e = table[ids] + s0 * nodes[grid[:, 1], None, None], nodes[grid[:, 2], None, None]
    terms = objectives.Embedding("bound").terms(model, ids, x0, e, level)
    ours = torch.stack(list(terms.values())).sum(0)[:, 0] * weights[grid[:, 1]] * weights[grid[:, 2]] / 20
    assert float(ours.detach().sum()) == pytest.approx(total, abs=1e-6)
    # and the objective is their mean over draws
    n = 20_000
    loss = objectives.Embedding("bound")(model, Batch((Noise.of(1, n).uniform((1,)) * 4).long()), Noise.of(0, n))
    assert float(loss.total.detach()) == pytest.approx(total, rel=0.05)


@torch.no_grad()
def test_the_terms_of_the_simple_form():
    leaf = words(6, 4, 0.3)
    model, n = Denoiser(Line(), leaf, "x0"), 8
    ids = (Noise.of(2, n).uniform((5,)) * 6).long()
    loss = objectives.Embedding()(model, Batch(ids), Noise.of(0, n))
    noise = Noise.of(0, n)
    x0 = leaf.start(ids, noise)
    assert float(x0.sub(leaf.embed(ids)).std()) == pytest.approx(0.3, rel=0.1)
    t = loss.levels[""].reshape(n, 1, 1)
    z = leaf.mix(x0, noise.at("noise").normal((5, 4)), t)
    mse = (x0 - 0.8 * z).square().mean()  # no level of these is the first
    assert (t > 1 / 2000).all()
    rounding = torch.nn.functional.cross_entropy((x0 @ leaf.table.T).flatten(0, 1), ids.flatten())
    assert float(loss.total.detach()) == pytest.approx(float((mse + rounding).detach()), rel=1e-5)
    assert float(loss.logs["prior"]) == 0  # alpha is 0 at the end of the right schedule
    old = Denoiser(Line(), words(6, 4, 0.3, schedules.sqrt(published=True)), "x0")
    assert float(objectives.Embedding()(old, Batch(ids), noise).logs["prior"]) > 0
    # at the first level the target is the point, not x0
    first = objectives.Embedding(steps=1)(model, Batch(ids), Noise.of(0, n))
    mse = (leaf.embed(ids) - 0.8 * z).square().mean()
    assert float(first.logs["denoising"]) == pytest.approx(float(mse), rel=1e-5)


class Says(nn.Module):
    """The same for every sample."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, z, level, cond=None, mask=None):
        return self.said.expand(len(z), *self.said.shape)


@pytest.mark.parametrize("spread", ["shared", "elements"])
@pytest.mark.parametrize("leaf", [words(learned=False), bayesian_flow.discretised(5)], ids=["vectors", "numbers"])
def test_denoising_compares_points_with_points_and_categories_with_ids(leaf, spread):
    ids, objective, noise = torch.tensor([[2, 0, 4]] * 8), objectives.Denoising(spread=spread), Noise.of(0, 8)

    def loss(said, prediction):
        return objective(Denoiser(Says(said), leaf, prediction), Batch(ids), noise)

    points = leaf.embed(ids[0])
    # data lies about its points, by std in every direction
    assert float(loss(points, "x0").total) == pytest.approx(leaf.std**2, abs=0.4 * leaf.std**2)
    assert float(loss(points + 1, "x0").total) == pytest.approx(1 + leaf.std**2, abs=leaf.std)
    unsure, right = torch.zeros(3, 5), 30.0 * nn.functional.one_hot(ids[0], 5)
    assert float(loss(unsure, Logits(evidence=False)).total) == pytest.approx(math.log(5))
    assert float(loss(right, Logits(evidence=False)).total) < 1e-6
    assert float(loss(unsure, Logits()).total) < math.log(5)  # what the state says is not lost
    found = loss(unsure, Logits(evidence=False))
    assert found.levels[""].shape == found.each[""].shape == ((8,) if spread == "shared" else (24,))


def test_points_collapse_without_the_rounding_term_and_not_with_it():
    spread = {}
    for rounding in (0.0, 1.0):
        leaf = words(8, 4)
        net = JointTransformer({"": VectorPort(16, 4, 4)}, 16, 1, 2)
        model = Denoiser(net, leaf, "x0")
        objective = objectives.Embedding(rounding=rounding)
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        first = float(leaf.table.detach().var(0).sum())
        for step in range(250):
            ids = (Noise.of(1, 32, 32 * step).uniform((4,)) * 8).long()
            optimiser.zero_grad()
            objective(model, Batch(ids), Noise.of(2, 32, 32 * step)).total.backward()
            optimiser.step()
        spread[rounding] = float(leaf.table.detach().var(0).sum()) / first
    assert spread[0.0] < 0.05 < 1 < spread[1.0]


# control


def test_control_finds_the_closed_form_minimiser():
    # -log p(c | x) = x' A x / 2 - b' x: the minimiser of that + pull |x - mu|^2 / sigma^2 solves
    # (A + 2 pull / sigma^2) x = b + 2 pull mu / sigma^2
    process = Gaussian(schedules.cosine())
    exact = oracles.mixture(process, torch.tensor([[1.0, 0.5], [-1.0, 0.2]]), 0.3)
    a, b = torch.tensor([[2.0, 0.4], [0.4, 1.0]]), torch.tensor([0.3, -0.8])

    def log_prob(x, t, cond):
        return -0.5 * torch.einsum("bi,ij,bj->b", x, a, x) + x @ b

    sigma, pull, mu = 0.4, 0.05, Noise.of(1, 3).normal((2,))
    control = Control(log_prob, steps=400, rate=0.5, pull=pull)(exact)
    moved = control.moved(mu + sigma, mu, sigma, 0.5, None, None)  # pyright: ignore
    weight = 2 * pull / sigma**2
    expected = torch.linalg.solve(a + weight * torch.eye(2), (b + weight * mu).T).T
    assert torch.allclose(moved, expected, atol=1e-4)
    # in the published code each step is the first of a new optimiser, which goes `rate` along the sign
    signs = Control(log_prob, steps=3, rate=0.01, pull=pull, renewed=True)(exact)
    shift = signs.moved(mu, mu, sigma, 0.5, None, None) - mu  # pyright: ignore
    assert torch.allclose(shift.abs() / 0.01, (shift.abs() / 0.01).round(), atol=1e-3) and shift.abs().max() <= 0.0301
    kept = Control(log_prob, above=0.6)(exact).moved(mu, mu, sigma, 0.5, None, None)  # pyright: ignore
    assert torch.equal(kept, mu)


def test_a_classifier_of_noisy_points_learns_the_log_odds():
    # an attribute that two words have with probabilities of their own: the cross-entropy is least at log p(y | z) / p(not y | z)
    leaf, chance = Embedded(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]), schedules.cosine()), torch.tensor([0.9, 0.2])
    n = 20_000
    ids = (Noise.of(1, n).uniform((1,)) < 0.3).long()
    y = (Noise.of(2, n).uniform(()) < chance[ids[:, 0]]).float()

    class Exact(nn.Module):
        def __init__(self, off):
            super().__init__()
            self.off = off

        def forward(self, z, level, cond=None, mask=None):
            belief = torch.softmax(leaf.evidence(z, level[..., None] / 1000) + torch.tensor([0.7, 0.3]).log(), -1)
            p = (belief * chance).sum(-1)
            return torch.logit(p) + self.off

    found = {}
    for off in (-0.3, 0.0, 0.3):
        objective = Regression(leaf, ["y"], loss="logistic")
        found[off] = float(objective(Model(Exact(off)), Batch(ids, {"y": y}), Noise.of(3, n)).total)
    assert found[0.0] + 0.002 < min(found[-0.3], found[0.3])
    assert found[0.3] + found[-0.3] - 2 * found[0.0] < 0.05  # and flat there
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        Regression(leaf, ["y"], loss="hinge")


def test_uncontrolled_steps_are_those_of_the_usual_plans():
    leaf = Embedded(3.0 * torch.eye(3), schedules.sqrt())
    exact = strings(leaf, TABLE)
    for ours, usual in ((plans.controlled(6), plans.ddpm(6)),):
        pairs = zip(trajectory(exact, ours, 5), trajectory(exact, usual, 5), strict=True)
        assert all(torch.allclose(p.z, q.z, atol=1e-5) for p, q in pairs)
    n = 4000  # fresh marginals: one law with consistency, whatever its draws
    z = [leaf.round(sample(exact, plan, n, seed=s)) for s, plan in enumerate((plans.controlled(8, True), plans.consistency(8)))]
    one, two = (torch.bincount(3 * ids[:, 0] + ids[:, 1], minlength=9) / n for ids in z)
    assert (one - two).abs().max() < 5 * (0.5 / n) ** 0.5


@pytest.mark.parametrize("of", ["state", "belief"])
def test_control_raises_what_it_asks_for(of):
    # "the first word is 2": from 30 % of samples to nearly all
    leaf = Embedded(3.0 * torch.eye(3), schedules.sqrt())
    exact = strings(leaf, TABLE)

    def log_prob(x, t, cond):
        return 3.0 * leaf.log_probs(x)[:, 0, 2]

    plain, helped = (
        float((leaf.round(sample(exact, plans.controlled(40), 300, guidance=g))[:, 0] == 2).float().mean())
        for g in (None, Control(log_prob, rate=0.3, pull=0.001, of=of))
    )
    assert plain < 0.4 and helped > 0.9


def test_known_words_stay_and_the_rest_follows_them():
    leaf = Embedded(3.0 * torch.eye(3), schedules.sqrt())
    ids = torch.tensor([[1, 0]]).expand(2000, 2)
    known = torch.tensor([True, False])[None, :, None].expand(2000, 2, 3)
    z = sample(strings(leaf, TABLE), plans.ddpm(40), 2000, given=leaf.embed(ids), known=known)
    found = leaf.round(z)
    assert (found[:, 0] == 1).all()
    share = torch.bincount(found[:, 1], minlength=3) / 2000
    assert (share - torch.tensor([0.0, 0.4, 0.6])).abs().max() < 0.05


def test_control_is_not_lost_in_silence():
    exact = strings(Embedded(3.0 * torch.eye(3), schedules.sqrt()), TABLE)
    with pytest.raises(ValueError, match=r"plans\.controlled"):
        sample(exact, plans.ddpm(2), 1, guidance=Control(lambda x, t, cond: x.sum((1, 2))))
    with pytest.raises(ValueError, match="no points"):
        Clamp()(oracles.mixture(Gaussian(schedules.cosine()), torch.zeros(1, 2), 0.3))
    with pytest.raises(ValueError, match="of='state'"):
        both = lambda d: Control(lambda x, t, cond: x.sum((1, 2)), of="belief")(Clamp()(d))  # noqa: E731
        sample(exact, plans.controlled(2), 1, guidance=both)
    with pytest.raises(ValueError, match="std is 0"):
        objectives.Embedding().prepare(Denoiser(Line(), words(std=0.0), "x0"))


def test_least_risk_is_the_one_the_others_agree_with():
    said = ["there is a pub by the river", "there is a pub near the river", "there is a cheap pub near the river", "dogs bark"]
    tokens = [s.split() for s in said]
    assert bleu(tokens[0], tokens[0]) == 1 and bleu(tokens[0], tokens[3]) == 0
    # precisions 6/7, (4 + 1)/(6 + 1), (2 + 1)/(5 + 1), (1 + 1)/(4 + 1), no brevity penalty
    assert bleu(tokens[0], tokens[1]) == pytest.approx((6 / 7 * 5 / 7 * 3 / 6 * 2 / 5) ** 0.25)
    assert bleu(tokens[0][:3], tokens[0], 1) == pytest.approx(math.exp(1 - 7 / 3))
    assert least_risk(tokens) == 1 and least_risk(tokens[:1]) == 0


def test_training_knows_the_shape_of_states():
    from langevin import data, fit

    leaf = words(6, 4, 0.2)
    model = Denoiser(JointTransformer({"": VectorPort(16, 4, 5)}, 16, 1, 2), leaf, "x0")
    ids = (Noise.of(2, 12).uniform((5,)) * 6).long()
    before = leaf.table.detach().clone()
    fit(model, data.Arrays(ids), objective=objectives.Embedding(), steps=2, batch=4, progress=False)
    assert model.shape == (5, 4)
    assert not torch.equal(leaf.table, before)
    drawn = sample(model, plans.ddpm(2), 3)
    assert leaf.round(drawn).shape == (3, 5)


def test_a_network_is_told_which_words_are_known():
    seen = []

    class Listening(nn.Module):
        def __init__(self, port):
            super().__init__()
            self.port = port

        def forward(self, z, level, cond=None, mask=None):
            seen.append(self.port.levels(level))
            return z

    leaf = words(6, 4, 0.2)
    model = Denoiser(Listening(VectorPort(8, 4, 3)), leaf, "x0", shape=(3, 4))
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    known = torch.tensor([True, False, True])[None, :, None].expand(2, 3, 4)
    z = sample(model, plans.ddpm(2), 2, given=leaf.embed(ids), known=known)
    assert torch.equal(seen[0], torch.tensor([[0.0, 1000.0, 0.0]] * 2)) and torch.equal(z[known], leaf.embed(ids)[known])
    objectives.Embedding(spread="elements")(model, Batch(ids), Noise.of(0, 2))
    assert seen[-1].shape == (2, 3) and len(seen[-1].unique()) == 6
