"""The two laws of every process: bridge after marginal is marginal, exactly; and what follows from them."""

import itertools
import math

import pytest
import torch

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.categorical import Categorical, LowRank
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior, GaussianPosterior
from langevin.core.process import Product
from langevin.core.sample import sample
from langevin.core.space import Centred, SymmetricEdges
from langevin.kernels import ordinal_rates
from tests.rows import CATEGORICAL, SCHEDULES, Fixed, f64

PAIRS = [(1.0, 0.6), (0.8, 0.2), (0.5, 0.49), (0.3, 0.0)]
ETAS = [0.0, 0.3, 1.0]


# Gaussian


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", ETAS)
def test_gaussian_bridge_after_marginal_is_marginal(name, eta):
    process = Gaussian(SCHEDULES[name]).requires_grad_(False)
    x = torch.full((1, 1), 1.7, dtype=torch.float64)
    for t, s in PAIRS:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)

        def step(z, noise, t=t, s=s):
            return process.bridge(z, GaussianPosterior(x), t, s, Fixed(noise, 1), eta)

        mean = step(alpha_t * x, 0.0)
        gain = step(alpha_t * x + 1, 0.0) - mean
        deviation = step(alpha_t * x, 1.0) - mean
        assert float(mean) == pytest.approx(float(alpha_s * 1.7), abs=1e-10)
        assert float(gain**2 * sigma_t**2 + deviation**2) == pytest.approx(float(sigma_s**2), rel=1e-9, abs=1e-12)


def test_gaussian_bridge_at_eta_1_is_bayes():
    # q(z_s | z_t, x) of the Markov chain: z_t = (a_t / a_s) z_s + noise of variance s_t^2 - (a_t/a_s)^2 s_s^2
    process = Gaussian(schedules.vp_linear())
    t, s, x, z = 0.7, 0.4, 0.3, -0.9
    (a_t, s_t), (a_s, s_s) = ([float(v) for v in process.schedule(u)] for u in (t, s))
    ratio, noise = a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2
    variance = 1 / (1 / s_s**2 + ratio**2 / noise)
    mean = variance * (a_s * x / s_s**2 + ratio * z / noise)
    state, belief = torch.full((1, 1), z, dtype=torch.float64), GaussianPosterior(torch.full((1, 1), x, dtype=torch.float64))
    low, high = (float(process.bridge(state, belief, t, s, Fixed(v, 1), 1.0)) for v in (0.0, 1.0))
    assert low == pytest.approx(mean, abs=1e-12) and (high - low) ** 2 == pytest.approx(variance, rel=1e-12)


def test_prior_is_the_marginal_at_1():
    for name in ("cosine", "ve", "flow"):
        process = Gaussian(SCHEDULES[name])
        noise = Noise.of(0, 3)
        assert torch.allclose(process.prior((4,), noise), process.marginal(torch.zeros(3, 4), 1.0, noise), rtol=1e-6)


def test_levels_per_element():
    process = Gaussian(schedules.cosine())
    x, noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), Noise.of(0, 2)
    t = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.2, 0.9]])
    z = process.marginal(x, expand(t, x), noise)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(z[i, j], process.marginal(x, float(t[i, j]), noise)[i, j])
    assert z[0, 0] == x[0, 0]
    down = process.bridge(z, GaussianPosterior(x), expand(t, x), expand(t * 0.5, x), noise, eta=1.0)
    assert down[0, 0] == x[0, 0]  # what is known stays known


def test_gaussian_kl_is_that_of_the_two_bridges():
    process = Gaussian(schedules.vp_linear())
    x, guess, z = (torch.full((1, 1), v, dtype=torch.float64) for v in (0.3, -0.4, 0.1))
    t, s = 0.6, 0.5

    def law(belief):
        low, high = (process.bridge(z, GaussianPosterior(belief), t, s, Fixed(v, 1), 1.0) for v in (0.0, 1.0))
        return torch.distributions.Normal(low, high - low)

    expected = torch.distributions.kl_divergence(law(x), law(guess))
    assert float(process.kl(x, GaussianPosterior(guess), z, t, s)) == pytest.approx(float(expected), rel=1e-9)


def test_velocity_is_the_derivative_of_the_deterministic_bridge():
    for name in ("cosine", "flow", "ve", "sub_vp"):
        process = Gaussian(SCHEDULES[name])
        z, belief = torch.full((1, 1), 0.8, dtype=torch.float64), GaussianPosterior(torch.full((1, 1), 0.2, dtype=torch.float64))
        h = 1e-6
        step = process.bridge(z, belief, 0.5, 0.5 - h, Fixed(0.0, 1), 0.0)
        assert float((z - step) / h) == pytest.approx(float(process.velocity(belief, z, 0.5)), rel=1e-4)


def test_score_is_the_gradient_of_the_log_density():
    process = Gaussian(schedules.cosine())
    exact = oracle.mixture(process, torch.tensor([[1.0, 0.5], [-1.0, 0.2]]), 0.3)
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for t in (0.1, 0.5, 0.9):
        gradient = torch.autograd.grad(exact.log_prob(z, t).sum(), z)[0]
        assert torch.allclose(process.score(exact(z, t), z, t), gradient, atol=1e-10)


def test_spaces_keep_their_constraint():
    noise = Noise.of(0, 200)
    centred = Gaussian(schedules.cosine(), Centred())
    x = Centred().project(Noise.of(1, 200).normal((5, 3)))
    z = centred.marginal(x, 0.5, noise)
    assert z.mean(1).abs().max() < 1e-6
    e = centred.noise(x, noise)
    assert float(e.square().sum((1, 2)).mean()) == pytest.approx(12, abs=4 * (2 * 12 / 200) ** 0.5)
    mask = torch.ones(200, 5, dtype=torch.bool)
    mask[:, 3:] = False
    padded = centred.marginal(Centred().project(x, mask), 0.5, noise, mask)
    assert (padded[:, 3:] == 0).all() and padded.sum(1).abs().max() < 1e-5
    edges = Gaussian(schedules.cosine(), SymmetricEdges()).noise(torch.zeros(200, 4, 4), noise)
    assert torch.equal(edges, edges.transpose(1, 2)) and (edges.diagonal(dim1=1, dim2=2) == 0).all()
    bonds = Categorical(3, schedules.keep_linear(), space=SymmetricEdges()).prior((4, 4), noise)
    assert torch.equal(bonds, bonds.transpose(1, 2))


# Categorical, by enumeration


def tables(process, t, s):
    """(Qbar_t, Qbar_s, Q_{t|s}) as matrices."""
    eye = torch.eye(process.states, dtype=torch.float64)
    keep_t, keep_s = (process.schedule.alpha(f64(u)) for u in (t, s))
    return process.kernel.push(eye, keep_t), process.kernel.push(eye, keep_s), process.kernel.push(eye, keep_t / keep_s, keep_s)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_kernels_are_a_markov_chain(name):
    process = CATEGORICAL[name]
    for t, s in [(0.9, 0.6), (0.5, 0.2)]:
        q_t, q_s, q_ts = tables(process, t, s)
        for q in (q_t, q_s, q_ts):
            assert torch.allclose(q.sum(1), torch.ones(process.states, dtype=torch.float64), atol=1e-12) and (q >= 0).all()
        assert torch.allclose(q_s @ q_ts, q_t, atol=1e-12)
        every = torch.arange(process.states)[None]
        column = process.kernel.column(every, process.schedule.alpha(f64(t))[..., None])[0]
        assert torch.allclose(column.T, q_t, atol=1e-12)
    end = process.kernel.push(torch.eye(process.states, dtype=torch.float64), f64(0.0))
    assert torch.allclose(end, process.kernel.limit.expand_as(end), atol=1e-12)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_categorical_bridge_is_bayes_by_enumeration(name):
    process = CATEGORICAL[name]
    for t, s in [(0.9, 0.6), (0.5, 0.2), (0.4, 0.0)]:
        q_t, q_s, q_ts = tables(process, t, s)
        for x, z in itertools.product(range(process.categories), range(process.states)):
            if q_t[x, z] == 0:
                continue
            bayes = q_s[x] * q_ts[:, z] / q_t[x, z]
            truth = torch.nn.functional.one_hot(torch.tensor([x]), process.categories)
            ours = process.bridge_probs(torch.tensor([z]), truth, t, s)[0]
            assert torch.allclose(ours, bayes, atol=1e-12)


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize("eta", ETAS)
def test_categorical_bridge_after_marginal_is_marginal(name, eta):
    process = CATEGORICAL[name]
    if eta != 1 and not isinstance(process.kernel, LowRank):
        with pytest.raises(ValueError, match="only its Bayes bridge"):
            process.bridge_probs(torch.tensor([0]), torch.ones(1, 3) / 3, 0.5, 0.2, eta)
        return
    for t, s in [(1.0, 0.7), (0.9, 0.6), (0.5, 0.2), (0.4, 0.0)]:
        for x in range(process.categories):
            at_t, at_s = (process.marginal_probs(torch.tensor([x]), u)[0] for u in (t, s))
            truth = torch.nn.functional.one_hot(torch.tensor([x]), process.categories)
            moved = sum(at_t[z] * process.bridge_probs(torch.tensor([z]), truth, t, s, eta)[0]
                        for z in range(process.states) if at_t[z] > 0)  # fmt: skip
            assert torch.allclose(moved, at_s, atol=1e-12)


def test_bridge_over_a_belief_is_the_mixture_over_x():
    process = CATEGORICAL["marginal"]
    p, z = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64), torch.tensor([1])
    for eta in ETAS:
        parts = [process.bridge_probs(z, torch.eye(3)[[k]], 0.7, 0.3, eta) * p[0, k] for k in range(3)]
        assert torch.allclose(process.bridge_probs(z, p, 0.7, 0.3, eta), sum(parts), atol=1e-12)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_draws_follow_their_probabilities(name):
    process, n = CATEGORICAL[name], 40_000
    noise, x = Noise.of(0, n), torch.full((n,), 1)
    z = process.marginal(x, 0.6, noise.at("marginal"))
    belief = CategoricalPosterior(torch.tensor([0.1, 0.7, -0.4]).expand(n, 3))
    state = torch.full((n,), int(z[0]))
    down = process.bridge(state, belief, 0.6, 0.3, noise.at("bridge"))
    cases = [
        (z, process.marginal_probs(x[:1], 0.6)[0]),
        (process.prior((), noise.at("prior")), process.kernel.limit),
        (down, process.bridge_probs(state[:1], belief.probs[:1], 0.6, 0.3)[0]),
    ]
    for drawn, probs in cases:
        share = torch.bincount(drawn, minlength=process.states).double() / n
        assert (share - probs).abs().max() < 4 * (0.25 / n) ** 0.5


@pytest.mark.parametrize("name", CATEGORICAL)
def test_categorical_kl_against_monte_carlo(name):
    process, n = CATEGORICAL[name], 200_000
    x, z = torch.tensor([0]), process.marginal(torch.tensor([0]), 0.7, Noise.of(3, 1))
    belief = CategoricalPosterior(torch.tensor([[0.2, 0.4, 0.1]]), process.evidence(z, 0.7))
    q = process.bridge_probs(z, torch.eye(3)[[0]], 0.7, 0.4)[0]
    p = process.bridge_probs(z, belief.probs, 0.7, 0.4)[0]
    drawn = torch.multinomial(q, n, replacement=True, generator=torch.Generator().manual_seed(0))
    ratio = (q[drawn] / p[drawn]).log()
    error = 4 * float(ratio.std()) / n**0.5 + 1e-9
    assert float(process.kl(x, belief, z, 0.7, 0.4)) == pytest.approx(float(ratio.mean()), abs=error)


def test_general_kernel_agrees_with_low_rank():
    rates = torch.full((4, 4), 0.25, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
    low, dense = (Categorical(4, schedules.keep_linear(), **k) for k in ({"limit": "uniform"}, {"rates": rates}))
    z, p = torch.tensor([2]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    assert torch.allclose(low.bridge_probs(z, p, 0.8, 0.3), dense.bridge_probs(z, p, 0.8, 0.3), atol=1e-12)


def test_ordinal_rates_scale_with_the_range():
    # the published constant 255 freezes small K; in units of the range a state of K = 16 does move
    for categories in (8, 16, 64):
        rates = ordinal_rates(categories, 0.1)
        assert torch.allclose(rates, rates.T) and torch.allclose(rates.sum(1), torch.zeros(categories, dtype=torch.float64))
        assert float(-rates.diagonal().mean()) > 0.3
        here = rates[categories // 2]
        assert here[categories // 2 + 1] >= here.topk(3).values[-1]  # nearer values are likelier
        # by how much, the width says in units of the range: at a fixed range of 255 all distances would be alike
        falls = here[categories // 2 + 2] / here[categories // 2 + 1]
        assert float(falls) == pytest.approx(math.exp(-3 / (0.1 * (categories - 1)) ** 2), rel=1e-9)


# The bound, by enumeration


def exact_bound(process, table, steps):
    """(VLB, mean negative log-likelihood of the chain, entropy), nats, for the exact denoiser, all by enumeration."""
    exact, dims = oracle.enumerated(process, table), table.ndim
    states = torch.tensor(list(itertools.product(range(process.states), repeat=dims)))
    data = torch.tensor(list(itertools.product(range(process.categories), repeat=dims)))
    p0 = table.flatten()
    index = {tuple(s): i for i, s in enumerate(states.tolist())}
    bound = float((p0 * process.prior_kl(data).sum(1)).sum())
    law = process.kernel.limit[states].prod(1)
    for i in range(steps, 0, -1):
        t, s = i / steps, (i - 1) / steps
        belief = exact(states, t)
        step = process.bridge_probs(states, belief.probs, t, s)
        transition = torch.stack([torch.stack([step[:, d, b[d]] for d in range(dims)]).prod(0) for b in states.tolist()], 1)
        law = law @ torch.nan_to_num(transition)
        for x, p in zip(data, p0, strict=True):
            forward = process.marginal_probs(x[None], t)[0]
            weight = torch.stack([forward[d, states[:, d]] for d in range(dims)]).prod(0)
            kl = process.kl(x.expand(len(states), -1), belief, states, t, s).sum(1)
            bound += float(p * (weight * torch.where(weight > 0, kl, 0.0)).sum())
    likelihood = torch.stack([law[index[tuple(x)]] for x in data.tolist()])
    entropy = -float((p0 * p0.log()).sum())
    return bound, -float((p0 * likelihood.log()).sum()), entropy


@pytest.mark.parametrize("name", CATEGORICAL)
def test_bound_of_a_tiny_chain(name):
    process = CATEGORICAL[name]
    one = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    bound, likelihood, entropy = exact_bound(process, one, 4)
    # one position: the reverse chain is exact, so the bound is tight up to the prior
    prior = float((one * process.prior_kl(torch.arange(3))).sum())
    assert bound - entropy == pytest.approx(prior, abs=1e-12)
    assert bound >= likelihood - 1e-12
    two = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
    gaps = []
    for steps in (4, 8, 16):
        bound, likelihood, entropy = exact_bound(process, two, steps)
        assert bound >= likelihood - 1e-12 >= entropy - 1e-9
        gaps.append(bound - entropy)
    if name == "mask":
        # under alpha = 1 - t both positions are revealed in one step, and drawn independently, with probability T / T^2: that
        # costs their mutual information, so the gap halves with the step exactly
        information = (two * (two / (two.sum(1, keepdim=True) * two.sum(0))).log()).sum()
        assert gaps == pytest.approx([float(information) / steps for steps in (4, 8, 16)], abs=1e-13)
    else:
        assert gaps[0] > 1.4 * gaps[1] > 1.4 * gaps[2]


@pytest.mark.parametrize("schedule", [schedules.keep_betas("mutual_information", 7), schedules.keep_cosine()], ids=str)
def test_a_step_of_a_mask_costs_the_chance_of_revealing_times_the_surprise(schedule):
    # D3PM, app. A.3: (alpha_s - alpha_t) / (1 - alpha_t) of -log p(x) at a masked token, 1 / i where b_i = 1 / (T - i + 1)
    process, logits = Categorical(3, schedule, "mask"), torch.tensor([[[0.3, -0.2, 0.8]]], dtype=torch.float64)
    surprise = torch.logsumexp(logits, -1) - logits[..., 1]
    for i in range(1, 8):
        t, s = f64(i / 7).reshape(1, 1), f64((i - 1) / 7).reshape(1, 1)
        alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
        chance = 1 / i if i == 1 or "keep_betas" in str(schedule) else float((alpha_s - alpha_t) / (1 - alpha_t))
        for z, cost in ((3, chance * surprise), (1, 0 * surprise)):
            state = torch.tensor([[z]])
            belief = CategoricalPosterior(logits, process.evidence(state, t))
            assert torch.allclose(process.kl(torch.tensor([[1]]), belief, state, t, s), cost, rtol=0, atol=1e-12)


# Products


def test_a_product_is_its_leaves():
    product = Product({"a": Gaussian(schedules.cosine()), "b": CATEGORICAL["mask"]})
    noise = Noise.of(0, 4)
    x = {"a": torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), "b": torch.tensor([[0], [1], [2], [0]])}
    z = product.marginal(x, {"a": 0.3, "b": 0.8}, noise)
    for name, leaf in product.leaves().items():
        assert torch.equal(z[name], leaf.marginal(x[name], {"a": 0.3, "b": 0.8}[name], noise.at(name)))
    belief = {"a": GaussianPosterior(x["a"]), "b": CategoricalPosterior(torch.zeros(4, 1, 3))}
    down = product.bridge(z, belief, {"a": 0.3, "b": 0.8}, {"a": 0.1, "b": 0.4}, noise)
    assert torch.equal(down["b"], CATEGORICAL["mask"].bridge(z["b"], belief["b"], 0.8, 0.4, noise.at("b")))
    assert set(product.kl(x, belief, z, 0.5, 0.25)) == {"a", "b"}


# spaces


class Unruly(torch.nn.Module):
    """A network that knows nothing of spaces: it mixes all elements of a sample."""

    def __init__(self, size):
        super().__init__()
        self.inner = torch.nn.Linear(size, size)

    def forward(self, z, level, cond=None, mask=None):
        return self.inner(z.flatten(1)).reshape(z.shape)


@pytest.mark.parametrize("plan", [plans.ddpm(6), plans.dpmpp(6), plans.predictor_corrector(6), plans.adaptive()], ids=str)
@pytest.mark.parametrize(("space", "shape", "padded"), [
    (Centred(), (4, 3), False), (Centred(), (4, 3), True), (None, (4, 3), True),
    (SymmetricEdges(), (4, 4, 2), False), (SymmetricEdges(), (4, 4, 2), True),
], ids=["centred", "centred, padded", "padded", "edges", "edges, padded"])  # fmt: skip
def test_samples_lie_in_their_space_whatever_the_network_says(space, shape, padded, plan):
    torch.manual_seed(0)
    process = Gaussian(schedules.vp_linear(), space)
    model = Denoiser(Unruly(torch.Size(shape).numel()).double(), process, "v", shape=shape)
    mask = torch.tensor([[True, True, True, False]] * 5) if padded else None
    z = sample(model, plan, 5, seed=2, mask=mask)
    assert torch.allclose(process.space.project(z, mask), z, atol=1e-9) and float(z.abs().max()) > 0.1
