"""Losses, weights and densities against what they must integrate to."""

import math

import pytest
import torch

from langevin import oracles as oracle
from langevin import schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.process import Product
from langevin.core.space import Centred, SymmetricEdges
from langevin.objectives import ELBO, Denoising
from langevin.objectives.base import draw_levels, drop_conditions
from langevin.objectives.coupling import OptimalTransport
from langevin.objectives.levels import LEVELS, Importance, LossAware, Uniform, stratified
from langevin.objectives.weights import Weight, by_lam, edm, elbo, min_snr, score_matching, sigmoid
from tests.rows import CATEGORICAL


class Says(torch.nn.Module):
    """A network that says what an exact denoiser believes, in the terms of a prediction."""

    def __init__(self, exact, prediction, bias=0.0):
        super().__init__()
        self.exact, self.prediction, self.bias = exact, prediction, bias

    def outputs(self, z, t):
        leaf = self.exact.process.leaves()[""]
        belief = self.exact(z, t)
        if isinstance(leaf, Categorical):
            return belief.logits.to(torch.float64) + self.bias
        return self.prediction.output(leaf, belief.mean + self.bias, z, t)


class Believing(Denoiser):
    """A denoiser with exact beliefs, for objectives that ask for the network's output."""

    def __init__(self, exact, prediction, bias=0.0):
        super().__init__(torch.nn.Identity(), exact.process, prediction, exact.shape)
        self.says = Says(exact, self.predictions[""], bias)

    def outputs(self, z, t, cond, mask):
        return {"": self.says.outputs(z[""], t[""])}


class Leaning(Believing):
    """Of the category that the state is in, so much more than is believed without it."""

    def __init__(self, exact, by):
        super().__init__(exact, "logits")
        self.by = by

    def outputs(self, z, t, cond, mask):
        return {"": self.says.outputs(z[""], t[""]) + self.by * torch.nn.functional.one_hot(z[""], 3)}


SCHEDULE = schedules.vp_linear()
C, N = 0.7, 40_000
NORMAL = oracle.gaussian(Gaussian(SCHEDULE), torch.zeros(1), torch.tensor([[C]]))
DATA = C**0.5 * Noise.of(9, N).normal((1,), torch.float64)


@pytest.mark.parametrize("scale", ["vp", "flow", "ve"])
def test_elbo_integrates_to_the_mutual_information_whatever_the_schedule(scale):
    # 1/2 integral of mmse d SNR = I(x; z), which for a normal is 1/2 ln(1 + c SNR) (Guo, Shamai, Verdu). Between fixed ends
    # the bound does not depend on the path (VDM, section 5.1), so a learned schedule can only lower its variance.
    schedule = schedules.learned(6.0, -6.0, scale)
    exact = oracle.gaussian(Gaussian(schedule), torch.zeros(1), torch.tensor([[C]]))
    loss = Denoising("elbo")(Believing(exact, "v"), Batch(DATA), Noise.of(0, N)).total
    low, high = (0.5 * math.log1p(C * math.exp(lam)) for lam in (-6.0, 6.0))
    assert float(loss.detach()) == pytest.approx(high - low, rel=0.03)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in schedule.parameters())


def test_discrete_elbo_approaches_it_from_above():
    floor, top = SCHEDULE.lam(SCHEDULE.floor).exp(), SCHEDULE.lam(1.0).exp()
    information = float(0.5 * (torch.log1p(C * floor) - torch.log1p(C * top)))
    values = [float(ELBO(n)(Believing(NORMAL, "v"), Batch(DATA), Noise.of(0, N)).total) for n in (20, 40, 80, 160)]
    assert values == sorted(values, reverse=True)
    gaps = [v - information for v in values]
    assert all(g > 0 for g in gaps) and gaps[-1] < 0.2 * gaps[0]


@pytest.mark.parametrize(
    "weight", [elbo(), min_snr(5.0), edm(0.5), sigmoid(1.0), score_matching(1.5), by_lam(lambda lam: torch.exp(-(lam**2) / 8))]
)
@pytest.mark.parametrize("levels", ["uniform", "logit_normal"])
def test_a_weight_means_the_same_for_every_prediction(weight: Weight, levels):
    model = {p: Believing(NORMAL, p, bias=0.1) for p in ("x0", "eps", "v", "velocity", "score", "edm")}
    objective = Denoising(weight, levels)
    losses = [float(objective(m, Batch(DATA[:512]), Noise.of(0, 512)).total) for m in model.values()]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 2.0, 3.0])
def test_denoising_score_matching_is_explicit_score_matching_and_what_noise_hides(power):
    """Vincent (2011): matching the score of the noise given x is matching that of q(z_t), up to what no model can say: here
    sigma^(power-2) times the variance of e given z, alpha^2 c / (alpha^2 c + sigma^2)."""
    t = torch.linspace(0.2, 0.8, 2001, dtype=torch.float64)
    alpha, sigma = SCHEDULE(t)
    hidden = sigma ** (power - 2) * alpha**2 * C / (alpha**2 * C + sigma**2)
    for bias in (0.0, 0.4):
        model = Believing(NORMAL, "score", bias)
        found = float(Denoising(score_matching(power), "uniform:margin=0.2")(model, Batch(DATA), Noise.of(0, N)).total)
        explicit = (
            sigma**power * (alpha * bias / sigma**2) ** 2
        )  # the score of a belief that is off by the bias, less the true one
        assert found == pytest.approx(float((hidden + explicit).mean()), rel=0.02)
    same = {0.0: "score", 2.0: "eps"}.get(power)
    if same is not None:  # the plain error of what a network says
        plain = Denoising("simple", "uniform:margin=0.2")(Believing(NORMAL, same, 0.4), Batch(DATA), Noise.of(0, N)).total
        assert float(plain) == pytest.approx(found, rel=1e-9)


def test_min_snr_is_the_papers_table():
    t = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    snr, gamma, process = SCHEDULE.lam(t).exp(), 5.0, Gaussian(SCHEDULE)
    capped = snr.clamp(max=gamma)
    for name, expected in (("eps", capped / snr), ("x0", capped), ("v", capped / (snr + 1))):
        prediction = Denoiser(torch.nn.Identity(), process, name).predictions[""]
        factor = min_snr(gamma).on(SCHEDULE, t) * prediction.eps_per_output(process, t) ** 2
        assert torch.allclose(factor, expected, rtol=1e-9)


@pytest.mark.parametrize("weight", [elbo(), min_snr(), sigmoid()])
def test_the_density_is_divided_out(weight):
    # weights per unit of t or lam give one loss whatever levels are drawn from
    model, values = Believing(NORMAL, "v", bias=0.3), []
    tame = Weight("tame", lambda s, t: weight.on(s, t) * torch.sin(math.pi * t) ** 2, weight.measure)
    for levels in (Uniform(), LEVELS["logit_normal"](0.0, 1.0), LEVELS["beta"](1.5, 2.0), Importance(lambda t: 1 + t)):
        values.append(float(Denoising(tame, levels)(model, Batch(DATA), Noise.of(0, N)).total))
    assert values == pytest.approx([values[0]] * 4, rel=0.03)


ENDS = {"beta": (2.0, 3.0), "uniform_log_snr": (-8.0, 5.0)}


@pytest.mark.parametrize("name", [*LEVELS, "importance"])
def test_densities_integrate_to_one_and_match_their_quantiles(name):
    density = Importance(lambda t: 1 + t) if name == "importance" else LEVELS[name](*ENDS.get(name, ()))
    middle = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    p = density.density(middle, SCHEDULE)
    assert float(p.mean()) == pytest.approx(1, abs=2e-3)
    u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    t = density.quantile(u, SCHEDULE)
    mass = torch.stack([p[middle < value].sum() / 20_000 for value in t])
    assert (mass - u).abs().max() < 2e-3 and (t.diff() > 0).all()


def test_levels_are_stratified():
    u = stratified(Noise.of(0, 64)).sort().values
    assert ((u * 64).floor() == torch.arange(64)).all()
    two = [stratified(Noise.of(0, 64).at(name)).argsort() for name in ("a", "b")]
    assert not torch.equal(*two)


def test_loss_aware_levels_settle_and_change_nothing_but_the_variance():
    model, density = Believing(NORMAL, "x0", bias=1.0), LossAware(cells=10, history=100)
    rising = Weight("rising", lambda s, t: (1 + 9 * t) * torch.exp(-s.lam(t)), "t")  # 1 + 9 t on the error of x
    objective, seen, losses = Denoising(rising, density), [], []
    for k in range(80):
        noise = Noise.of(0, 256, first=256 * k)
        loss = objective(model, Batch(DATA[:256]), noise)
        objective.observe(loss.levels, loss.each)
        losses.append(float(loss.total))
        seen.append(density.get_buffer("mass").clone())
    late = torch.stack(seen[50:])
    assert (late.std(0) / late.mean(0)).max() < 0.35  # it does not swing between two answers
    assert (late.mean(0) - 0.1).abs().max() > 0.02  # and is not the uniform one
    evenly = Denoising(rising)
    plain = sum(float(evenly(model, Batch(DATA[:256]), Noise.of(1, 256, first=256 * k)).total) for k in range(60)) / 60
    assert sum(losses[50:]) / 30 == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("prediction", ["v", "x0", "velocity", "score", "edm"])
def test_given_leaves_cost_nothing_and_break_no_gradient(prediction):
    smooth = schedules.vp_linear()
    product = Product({"a": Gaussian(smooth), "b": CATEGORICAL["mask"]})

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(3))

        def forward(self, z, level, cond=None, mask=None):
            return {"a": z["a"] * self.w[0] + self.w[1], "b": self.w.expand(len(z["b"]), 3)}

    net = Net()
    model = Denoiser(net, product, {"a": prediction, "b": "logits"})
    x = {"a": Noise.of(3, 64).normal((2,)), "b": torch.zeros(64, dtype=torch.int64)}
    loss = Denoising("elbo", spread="independent", clean=0.9)(model, Batch(x), Noise.of(0, 64)).total
    loss.backward()
    assert loss.isfinite() and net.w.grad is not None and net.w.grad.isfinite().all() and (net.w.grad != 0).any()


def test_loss_aware_levels_follow_the_loss():
    density = LossAware(cells=10, history=4)
    middle = (torch.arange(10, dtype=torch.float64) + 0.5) / 10
    for _ in range(4):
        density.observe(middle, 1 + 9 * middle)
    p = density.density(middle, SCHEDULE)
    assert torch.allclose(p / p[0], (1 + 9 * middle) / (1 + 9 * middle[0]), rtol=0.01)
    # weighted by 1/p the loss has no variance: importance sampling at its optimum
    assert float(((1 + 9 * middle) / p).std() / (1 + 9 * middle).mean()) < 0.01
    assert torch.equal(density.state_dict()["mass"], density.get_buffer("mass"))


def test_masked_bound_is_the_same_for_every_schedule_and_equals_the_entropy():
    table = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
    entropy, n = float(-(table * table.log()).sum()), 40_000
    for schedule in (schedules.keep_linear(), schedules.keep_cosine()):
        exact = oracle.enumerated(Categorical(3, schedule, "mask"), table)
        flat = torch.multinomial(table.flatten(), n, True, generator=torch.Generator().manual_seed(0))
        data = torch.stack([flat // 3, flat % 3], 1)
        loss = Denoising("elbo")(Believing(exact, "subs"), Batch(data), Noise.of(0, n)).total
        assert 2 * float(loss) == pytest.approx(entropy, rel=0.03)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_discrete_bound_by_sampling_equals_the_sum(name):
    process, p, steps, n = CATEGORICAL[name], torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 5, 20_000
    exact = oracle.enumerated(process, p)
    data = torch.multinomial(p, n, True, generator=torch.Generator().manual_seed(0))[:, None]
    sampled = float(ELBO(steps)(Believing(exact, "logits"), Batch(data), Noise.of(0, n)).total)
    # one position: the chain is exact, so the terms between prior and data sum to the entropy
    entropy = float(-(p * p.log()).sum())
    assert sampled == pytest.approx(entropy, abs=0.05)


def test_cross_entropy_and_bound_share_their_optimum():
    # the exact logits minimise both; any other prediction is worse
    table = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
    exact, n = oracle.enumerated(CATEGORICAL["uniform"], table), 20_000
    flat = torch.multinomial(table.flatten(), n, True, generator=torch.Generator().manual_seed(0))
    data = Batch(torch.stack([flat // 3, flat % 3], 1))
    shift = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    for objective in (Denoising("simple"), ELBO(10)):
        best, worse = (float(objective(Believing(exact, "logits", b), data, Noise.of(0, n)).total) for b in (0.0, shift))
        assert best < worse
        # nor is anything gained by leaning to or from the state's own category, which logits leave out of themselves
        leaning = [float(objective(Leaning(exact, by), data, Noise.of(0, n)).total) for by in (0.3, -0.3)]
        assert best < min(leaning)


def test_optimal_transport_is_the_best_pairing_within_classes():
    x, e = (Noise.of(s, 6).normal((2,)) for s in (0, 1))
    paired = OptimalTransport()(x, e)
    import itertools

    costs = [float((x - e[list(p)]).square().sum()) for p in itertools.permutations(range(6))]
    assert float((x - paired).square().sum()) == pytest.approx(min(costs), rel=1e-6)
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    within = OptimalTransport()(x, e, label)
    for c in (0, 1):
        assert {tuple(v) for v in within[label == c].tolist()} == {tuple(v) for v in e[label == c].tolist()}


def test_levels_of_a_product():
    parts = Product({"a": Gaussian(SCHEDULE), "b": CATEGORICAL["mask"]}).leaves()
    x = {"a": torch.zeros(2000, 3), "b": torch.zeros(2000, dtype=torch.int64)}
    shared = draw_levels(Uniform(), parts, x, Noise.of(0, 2000), "shared", 0.0)
    assert torch.equal(shared["a"][:, 0], shared["b"])
    apart = draw_levels(Uniform(), parts, x, Noise.of(0, 2000), "independent", 0.4)
    a, b = apart["a"][:, 0], apart["b"]
    given = ((a == 0) | (b == 0)).double().mean()
    assert float(given) == pytest.approx(0.4, abs=0.05) and not bool(((a == 0) & (b == 0)).any())
    both = (a > 0) & (b > 0)
    assert abs(float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1])) < 0.12
    every = draw_levels(Uniform(), parts, x, Noise.of(0, 2000), "elements", 0.0)
    assert every["a"].shape == (2000, 3) and every["b"].shape == (2000,)


@pytest.mark.parametrize(
    "leaf", [Gaussian(SCHEDULE, SymmetricEdges()), Categorical(2, schedules.keep_linear(), space=SymmetricEdges())]
)
def test_levels_of_elements_are_those_of_the_space(leaf):
    x = leaf.prior((4, 4), Noise.of(0, 4000))
    x = x if isinstance(leaf, Categorical) else x.double()
    t = draw_levels(Uniform(), {"": leaf}, {"": x}, Noise.of(1, 4000), "elements", 0.0)[""]
    assert torch.equal(t, t.transpose(1, 2))  # an edge has one level, and edges have levels of their own
    free = t[:, torch.ones(4, 4, dtype=torch.bool).triu(1)]
    assert float((torch.corrcoef(free.T) - torch.eye(6)).abs().max()) < 4 / 4000**0.5
    assert float((free.mean(0) - 0.5).abs().max()) < 4 * (1 / 12 / 4000) ** 0.5
    z = leaf.marginal(x, t, Noise.of(2, 4000))
    assert torch.equal(leaf.space.project(z), z)


def test_centred_points_have_no_levels_of_their_own():
    with pytest.raises(ValueError, match="centred no more; use 'independent'"):
        draw_levels(Uniform(), {"": Gaussian(SCHEDULE, Centred())}, {"": torch.zeros(2, 3, 3)}, Noise.of(0, 2), "elements", 0.0)


def test_conditions_are_dropped_at_the_rate_asked():
    cond = drop_conditions({"label": torch.zeros(5000, dtype=torch.int64)}, Noise.of(0, 5000), 0.2)
    assert cond is not None and float(cond["drop"].double().mean()) == pytest.approx(0.2, abs=4 * 0.4 / 5000**0.5)
