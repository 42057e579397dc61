"""Categories in continuous time: bounds that are the entropy, jump rates that move the marginals, D3PM's kernels and heads."""

import math

import numpy as np
import pytest
import torch

from langevin import heads, kernels, plans, schedules
from langevin import oracles as oracle
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical, General
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.sample import sample
from langevin.data import Arrays
from langevin.objectives import ELBO, Denoising, hybrid
from langevin.objectives.jumps import flow, log_ratios, score_entropy
from langevin.plans.jumps import FlowJump, flow_jumps, hazards
from langevin.plans.unmasking import TauLeap
from langevin.recipes.config import CategoricalConfig
from langevin.recipes.processes import leaf, shares
from tests.laws.test_unmasking import PAIR, TRIPLE, distance, law, level_law, pushed, sampled, states
from tests.rows import f64

LIMITS = {"mask": "mask", "uniform": "uniform", "marginal": torch.tensor([0.6, 0.3, 0.1])}
SCHEDULES = {"linear": schedules.keep_linear(), "cosine": schedules.keep_cosine()}


def entropy(p):
    return float(-torch.special.xlogy(p, p).sum())


def integral(f, count=60, power=2):
    """Of f over t in (0, 1), by Gauss-Legendre in u = t^(1 / power): bounds may rise like a logarithm towards data."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    u, w = (nodes + 1) / 2, weights / 2
    return sum(float(f(x**power)) * power * x ** (power - 1) * y for x, y in zip(u, w, strict=True))


def mean_over_states(process, table, t, term):
    """E over x and z_t of the sum over positions of term(x, z, belief, t), exactly; the belief is the exact one."""
    exact = oracle.enumerated(process, table)
    x = states(Categorical(table.shape[0], process.schedule), table.ndim)
    z = states(process, table.ndim)
    pairs_x, pairs_z = x.repeat_interleave(len(z), 0), z.repeat(len(x), 1)
    level = f64(t).reshape(1, 1)
    q = process.marginal_probs(pairs_x, level).gather(-1, pairs_z[..., None])[..., 0].prod(1)
    weight = q * table.flatten().repeat_interleave(len(z))
    met = weight > 0
    each = term(pairs_x[met], pairs_z[met], exact(pairs_z[met], level), level.repeat(int(met.sum()), 1))
    return (weight[met] * each.sum(1)).sum()


def cross_entropy(x, z, belief, t):
    return -belief.log_probs.double().gather(-1, x[..., None])[..., 0]


def masked_bound(process):
    def term(x, z, belief, t):
        rate = -process.schedule.rates(t)[0] / (1 - process.schedule.alpha(t))
        return rate * cross_entropy(x, z, belief, t) * (z == process.categories)

    return term


# bounds


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("limit", LIMITS)
def test_score_entropy_integrates_to_the_entropy(limit, schedule):
    # the reversal of a Markov chain is a Markov chain, so the bound of its exact rates is no bound but the entropy (SEDD)
    process = Categorical(3, SCHEDULES[schedule], LIMITS[limit])

    def at(t):
        return mean_over_states(
            process, PAIR, t, lambda x, z, b, s: score_entropy(process, x, z, log_ratios(process, b, z, s), s)
        )

    assert integral(at) == pytest.approx(entropy(PAIR), abs=1e-9 if limit == "mask" else 2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_a_mask_all_bounds_are_one(schedule):
    process = Categorical(3, SCHEDULES[schedule], "mask")
    for t in (0.1, 0.5, 0.97):
        values = [
            float(mean_over_states(process, PAIR, t, term))
            for term in (
                masked_bound(process),
                lambda x, z, b, s: score_entropy(process, x, z, log_ratios(process, b, z, s), s),
                lambda x, z, b, s: flow(process, x, z, b, s),
            )
        ]
        assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_the_masked_bound_counts_masks():
    # NELBO = sum over sets of masks of Beta(k, D - k + 1) CE = H, whatever the schedule (MDLM, MD4)
    total, x = 0.0, states(Categorical(3, SCHEDULES["linear"]), 3)
    process = Categorical(3, SCHEDULES["linear"], "mask")
    exact = oracle.enumerated(process, TRIPLE)
    for mask in torch.cartesian_prod(*[torch.tensor([False, True])] * 3):
        if k := int(mask.sum()):
            z = torch.where(mask, 3, x)
            ce = (cross_entropy(x, z, exact(z, 0.5), 0.5) * mask).sum(1)
            total += math.gamma(k) * math.gamma(3 - k + 1) / math.gamma(4) * float((TRIPLE.flatten() * ce).sum())
    assert total == pytest.approx(entropy(TRIPLE), abs=2e-15)
    for schedule in SCHEDULES.values():
        masked = Categorical(3, schedule, "mask")
        found = integral(lambda t, m=masked: mean_over_states(m, TRIPLE, t, masked_bound(m)), 40, 1)
        assert found == pytest.approx(total, abs=1e-14)


def test_a_predictor_that_knows_single_tokens_has_the_sum_of_their_entropies():
    process = Categorical(3, SCHEDULES["linear"], "mask")
    margins = [PAIR.sum(1 - d) for d in range(2)]
    alone = torch.stack(margins).log()

    def term(x, z, belief, t):
        return masked_bound(process)(x, z, CategoricalPosterior(alone.expand(*z.shape, 3), belief.evidence), t)

    assert integral(lambda t: mean_over_states(process, PAIR, t, term), 20, 1) == pytest.approx(
        sum(entropy(m) for m in margins), abs=1e-10
    )


def test_the_bound_of_flow_matching_is_above_the_entropy_where_its_paths_remember():
    # a token may have jumped already or not yet, which the state alone does not tell, unless jumps leave a mask
    found = {}
    for limit in ("uniform", "marginal"):
        process = Categorical(3, SCHEDULES["linear"], LIMITS[limit])
        found[limit] = integral(lambda t, p=process: mean_over_states(p, PAIR, t, lambda x, z, b, s: flow(p, x, z, b, s)), 40, 2)
    assert all(value > entropy(PAIR) + 0.01 for value in found.values())


@pytest.mark.parametrize("limit", LIMITS)
def test_losses_are_these_bounds(limit):
    # the objective, by sampling, beside the integral
    from tests.laws.test_objectives import Believing

    process = Categorical(3, SCHEDULES["cosine"], LIMITS[limit])
    exact, n = oracle.enumerated(process, PAIR), 10_000
    flat = torch.multinomial(PAIR.flatten(), n, True, generator=torch.Generator().manual_seed(0))
    data = Batch(torch.stack([flat // 3, flat % 3], 1))
    for weight in ("elbo", "flow"):

        def term(x, z, b, s, w=weight):
            return flow(process, x, z, b, s) if w == "flow" else score_entropy(process, x, z, log_ratios(process, b, z, s), s)

        loss = Denoising(weight)(Believing(exact, "logits"), data, Noise.of(0, n)).total
        assert 2 * float(loss) == pytest.approx(integral(lambda t, f=term: mean_over_states(process, PAIR, t, f)), rel=0.05)


def test_a_ratio_that_is_exact_is_the_belief_that_is():
    # SEDD's network says the ratios; the belief, and so every plan, follows from them
    for limit in LIMITS.values():
        process = Categorical(3, SCHEDULES["linear"], limit)
        exact, z, t = oracle.enumerated(process, PAIR), states(process, 2), f64(0.4).reshape(1, 1)
        belief, said = exact(z, t), heads.ratio()
        log_s = log_ratios(process, belief, z, t)
        alpha = process.schedule.alpha(t)
        shown = log_s - (alpha.log() - (1 - alpha).log())[..., None] if process.masked else log_s
        found = said.posterior(process, shown, z, t)
        assert torch.allclose(found.probs, belief.probs, atol=1e-10)
        assert torch.allclose(said.log_ratio(process, shown, z, t)[z < 3], log_s[z < 3], atol=1e-12)


# jumps


@pytest.mark.parametrize("corrector", [0.0, 0.7])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("limit", LIMITS)
def test_rates_move_the_marginals(limit, schedule, corrector):
    # Kolmogorov's equation, every state of two tokens; t falls towards data
    process = Categorical(3, SCHEDULES[schedule], LIMITS[limit])
    exact, z = oracle.enumerated(process, PAIR), states(process, 2)
    for t in (0.85, 0.4):
        at = f64(t)[0].requires_grad_()
        q = torch.autograd.functional.jacobian(lambda s: level_law(process, PAIR, s), at)
        (slope, _), alpha = process.schedule.rates(f64(t)[0]), process.schedule.alpha(f64(t)[0])
        toward, back = (1 + corrector) * -slope / (1 - alpha), corrector * -slope / alpha
        rate = hazards(process, z, exact(z, t), float(toward), float(back))
        p, flux = level_law(process, PAIR, t), torch.zeros(len(z), dtype=torch.float64)
        for i in range(2):
            other = torch.arange(2) != i
            same = (z[:, None, other] == z[None, :, other]).all(-1)
            to = rate[:, i][:, z[:, i]] * same
            flux += p @ to - p * to.sum(1)
        assert (flux + q).abs().max() < 6e-12


@pytest.mark.parametrize("limit, corrector", [("mask", 0.0), ("uniform", 0.5), ("marginal", 0.5)])
def test_flow_jumps_sample_the_law(limit, corrector):
    exact = oracle.enumerated(Categorical(3, SCHEDULES["linear"], LIMITS[limit]), PAIR)
    errors = [distance(law(exact, flow_jumps(n, corrector)), level_law(exact.process, PAIR, 0.0)) for n in (8, 32, 128)]
    assert errors[0] > 2 * errors[1] > 2 * errors[2] and errors[2] < 0.007
    expected = law(exact, flow_jumps(3, corrector)).reshape([3 + (limit == "mask")] * 2)
    assert sampled(exact, flow_jumps(3, corrector), expected, 3000) < 0.04


def test_flow_jumps_err_by_the_square_of_a_step():
    for limit in LIMITS.values():
        process = Categorical(3, SCHEDULES["cosine"], limit)
        exact, start, errors = oracle.enumerated(process, PAIR), level_law(process, PAIR, 0.6), []
        for h in (0.02, 0.01):
            after = pushed(exact, FlowJump(start=0.6, stop=0.6 - h, corrector=0.4), states(process, 2), start)
            errors.append(distance(after, level_law(process, PAIR, 0.6 - h)))
        assert 3.4 < errors[0] / errors[1] < 4.6


def test_without_a_corrector_a_mask_is_left_once():
    process = Categorical(3, SCHEDULES["linear"], "mask")
    z, exact = states(process, 2), oracle.enumerated(process, PAIR)
    for t, s in ((1.0, 0.6), (0.6, 0.3)):
        leap, jump = (kind(start=t, stop=s).probs(process, z, exact(z, t)) for kind in (TauLeap, FlowJump))
        assert torch.allclose(leap, jump, atol=1e-12)
    back = FlowJump(start=0.6, stop=0.3, corrector=1.0).probs(process, torch.tensor([[0, 3]]), exact(torch.tensor([[0, 3]]), 0.6))
    assert float(back[0, 0, 3]) == pytest.approx(1 - math.exp(-math.log(0.7 / 0.4)))


@pytest.mark.parametrize("case, message", [
    (lambda: flow_jumps(4, corrector=-1.0), "corrector is -1.0; give"),
    (lambda: sample(oracle.enumerated(Categorical(3, SCHEDULES["linear"], rates=kernels.ordinal_rates(3)), PAIR), flow_jumps(2)),
     "low-rank kernels.*use ddpm"),
], ids=["strength", "kernel"])  # fmt: skip
def test_what_has_no_such_jumps_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        case()
    assert plans.parse("flow_jumps:8:corrector=0.5").name == "flow_jumps(8, corrector=0.5)"


# D3PM


@pytest.mark.parametrize("limit", LIMITS)
def test_low_rank_products_are_products(limit):
    process = Categorical(3, schedules.keep_betas("cosine"), LIMITS[limit])
    alphas = process.schedule.alpha(torch.linspace(0, 1, 9, dtype=torch.float64))
    eye, pi = torch.eye(process.states, dtype=torch.float64), process.kernel.limit
    product = eye
    for before, after in zip(alphas, alphas[1:], strict=False):
        keep = after / before
        product = product @ (keep * eye + (1 - keep) * pi)
        assert torch.allclose(process.kernel.push(eye, after), product, atol=1e-12)
        assert torch.allclose(process.kernel.column(torch.arange(process.states), after).T, product, atol=1e-12)


def test_the_discretised_gaussian_spans_its_own_values():
    # official code takes 255 whatever K: at K = 16 nothing would ever move
    ours, theirs = (kernels.discretised_gaussian(16, 1, 0.02, 0.02, reference=r).steps[0] for r in (False, True))
    assert torch.allclose(ours.diagonal()[3:-3], f64(0.532), atol=2e-4)
    assert float(theirs.diagonal().min()) == pytest.approx(1.0, abs=1e-6)
    chain = kernels.discretised_gaussian(17, 100)
    assert torch.allclose(chain.steps.sum(2), f64(1.0)) and torch.allclose(chain.steps, chain.steps.transpose(1, 2), atol=1e-15)
    assert torch.allclose(chain.products[-1], f64(1 / 17), atol=2e-3)
    k, b = 17, 0.01
    apart = (torch.arange(k)[:, None] - torch.arange(k)).double()
    weight = torch.exp(-4 * apart**2 / ((k - 1) ** 2 * b))
    total = torch.exp(-4 * torch.arange(1 - k, k).double() ** 2 / ((k - 1) ** 2 * b)).sum()
    off = apart != 0
    assert torch.allclose(chain.steps[0][off], (weight / total)[off], atol=1e-15)
    assert torch.equal(kernels.discretised_gaussian(256, 3).steps, kernels.discretised_gaussian(256, 3, reference=True).steps)


def test_large_matrices_of_rates_are_small_ones():
    places = Noise.of(3, 12).normal((4,), torch.float64)
    rates = kernels.nearest_neighbour_rates(places, 4)
    assert torch.equal(rates, rates.T) and torch.allclose(rates.sum(1), torch.zeros(12, dtype=torch.float64), atol=1e-15)
    dense, squared, v = General(rates), kernels.Squared(rates), torch.softmax(places @ places.T, 1)
    for keep in (0.999, 0.7, 0.05, 1e-4):
        at = f64(keep)
        exact = torch.linalg.matrix_exp(-math.log(keep) * rates)
        assert torch.allclose(squared.push(v, at), v @ exact, atol=1e-10) and torch.allclose(
            dense.push(v, at), v @ exact, atol=1e-10
        )
        assert torch.allclose(squared.column(torch.arange(12), at), exact.T, atol=1e-10)
    assert torch.allclose(squared.limit, f64(1 / 12), atol=1e-9)


def test_large_matrices_are_carried_to_a_device_once_and_waited_for_once():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    squared = kernels.Squared(kernels.nearest_neighbour_rates(Noise.of(3, 12).normal((4,), torch.float64), 4))
    keep = torch.linspace(0.001, 0.999, 8, dtype=torch.float64)[:, None, None]
    z = torch.arange(8)[:, None]
    first = squared.column(z, keep)
    there = squared.on(z.device)
    with Reads() as reads:
        assert torch.equal(squared.column(z, keep), first)
    assert reads.count <= 2 < len(squared.powers)  # those of one_hot, and none for each digit
    assert all(a is b for a, b in zip(there[1], squared.on(z.device)[1], strict=True)) and len(there[1]) == len(squared.powers)


def test_mutual_information_falls_evenly():
    p = f64(0.5, 0.2, 0.15, 0.1, 0.05)
    for limit in (None, f64(0.3, 0.3, 0.2, 0.1, 0.1)):
        schedule = schedules.mutual_information(p, limit)
        process = Categorical(5, schedule, "uniform" if limit is None else limit)
        for t in (0.1, 0.37, 0.8):
            joint = p[:, None] * process.marginal_probs(torch.arange(5)[:, None], f64(t).reshape(1, 1))[:, 0]
            apart = entropy(p) + entropy(joint.sum(0)) - entropy(joint)
            assert 1 - apart / entropy(p) == pytest.approx(t, abs=1e-3)
    # of a mask the information is the keep-probability itself, for every law of the data
    masked = Categorical(5, schedules.keep_linear(), "mask")
    joint = p[:, None] * masked.marginal_probs(torch.arange(5)[:, None], f64(0.3).reshape(1, 1))[:, 0]
    assert (entropy(p) + entropy(joint.sum(0)) - entropy(joint)) / entropy(p) == pytest.approx(0.7, abs=1e-12)


def test_the_logistic_head_cuts_a_logistic_into_bins():
    process = Categorical(9, schedules.keep_linear())
    z, t = torch.arange(9)[:, None], f64(0.5).reshape(1, 1)
    out = Noise.of(1, 9).normal((1, 2), torch.float64)
    head = heads.logistic()
    mass = head.log_masses(process, out, z).exp()
    location = torch.tanh(out[..., 0] + 2 * z / 8 - 1)
    inverse, half = torch.exp(2 - out[..., 1]), 1 / 8
    whole = torch.sigmoid(inverse * (1 + half - location)) - torch.sigmoid(inverse * (-1 - half - location))
    assert torch.allclose(mass.sum(-1), whole, atol=1e-12)  # neighbouring bins share their borders
    belief = head.posterior(process, out, z, t)
    assert torch.allclose(torch.softmax(belief.logits, -1), mass / mass.sum(-1, keepdim=True), atol=1e-12)
    sharp = torch.stack([out[..., 0], out[..., 1] - 7], -1)
    assert head.log_masses(process, sharp, z).isfinite().all()  # bins far from the location keep their digits
    with pytest.raises(ValueError, match="a mask has none"):
        head.check(Categorical(9, schedules.keep_linear(), "mask"), "")


def test_the_residual_head_adds_the_state():
    process = Categorical(3, schedules.keep_linear(), "mask")
    z, out = torch.tensor([[1, 3]]), Noise.of(1, 1).normal((2, 3), torch.float64)
    found = heads.residual().posterior(process, out, z, f64(0.5).reshape(1, 1)).logits
    assert torch.allclose(found, out + torch.tensor([[[0, 1, 0], [0, 0, 0]]]))


class Fixed(torch.nn.Module):
    def forward(self, z, level, cond=None, mask=None):
        return f64(1.0, 0.2, -0.5).expand(*z.shape, 3)


def test_lambda_stands_beside_the_sum_of_the_bound():
    # published code adds lambda CE to the mean over T steps, which is lambda T CE beside the bound
    model, x = Denoiser(Fixed(), Categorical(3, schedules.keep_linear()), "logits"), torch.tensor([[0, 1]]).expand(64, 2)
    plain, mixed = (f(model, Batch(x), Noise.of(0, 64)) for f in (ELBO(50), hybrid(50, 0.01)))
    assert float(mixed.total - plain.total) == pytest.approx(0.5 * float(mixed.logs["cross_entropy"]), rel=1e-5)
    # beliefs that leave the state's own evidence out have another cross-entropy: a named slip of the published code
    text = hybrid(50, 0.01, "text")(model, Batch(x), Noise.of(0, 64))
    assert float(text.logs["cross_entropy"]) == pytest.approx(
        -float(torch.log_softmax(f64(1.0, 0.2, -0.5), 0)[:2].mean()), rel=1e-6
    )
    assert float(text.logs["cross_entropy"]) > float(mixed.logs["cross_entropy"])


@pytest.mark.parametrize("limit", ["uniform", "mask"])
def test_the_image_code_ends_in_what_the_network_says_and_forgets_the_state(limit):
    # published: p(x | z_1) is softmax(h), whatever z_1; by default what z_1 says of its own position counts there as everywhere
    model = Denoiser(Fixed(), Categorical(3, schedules.keep_linear(), limit), "logits")
    x, noise = torch.tensor([[0, 1, 2]]).expand(500, 3), Noise.of(0, 500)
    said = -torch.log_softmax(f64(1.0, 0.2, -0.5), 0)
    first, second = (torch.full((500,), k) for k in (0, 1))
    found = {form: ELBO(10, form=form).terms(model, Batch(x), first, noise)[0][""] for form in ("exact", "images")}
    assert torch.allclose(found["images"], said.expand(500, 3), atol=1e-6)
    z = model.process.marginal(x, f64(0.1).reshape(1, 1), noise.at("noise").at(""))  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(found["exact"], cross_entropy(x, z, model(z, 0.1), 0.1), atol=1e-6)
    assert float(found["exact"].mean()) < 0.5 * float(found["images"].mean())  # nine of ten states are still the data
    after = [ELBO(10, form=form).terms(model, Batch(x), second, noise)[0][""] for form in ("exact", "images")]
    assert torch.equal(*after)  # no other step differs


def test_the_published_end_of_d3pm_is_the_likeliest():
    from langevin.core.sample import trajectory

    exact = oracle.enumerated(Categorical(3, schedules.keep_cosine(), "uniform"), TRIPLE)
    pairs = list(zip(*(trajectory(exact, plans.ddpm(4, end=end), 200) for end in ("draw", "likeliest")), strict=True))
    assert all(torch.equal(a.z, b.z) for a, b in pairs[:-1]) and not torch.equal(pairs[-1][0].z, pairs[-1][1].z)
    belief = exact(pairs[-2][1].z, 0.25)
    assert torch.equal(pairs[-1][1].z, belief.probs.argmax(-1))
    points = oracle.gaussian(Gaussian(schedules.cosine()), torch.zeros(2), torch.eye(2))
    assert torch.allclose(sample(points, plans.ddpm(4, end="likeliest"), 8), sample(points, plans.ddpm(4), 8), atol=1e-6)
    for wrong, said in (({"end": "mean"}, "end is 'mean'"), ({"end": "likeliest", "variance": "large"}, "small one only")):
        with pytest.raises(ValueError, match=said):
            plans.ddpm(4, **wrong)


def test_the_squared_cosine_of_digress():
    # alphas_bar = cos^2(pi/2 (i / T + s) / (1 + s)), over its first
    i, s = torch.arange(500, dtype=torch.float64), 0.008
    bar = torch.cos(0.5 * math.pi * (i / 500 + s) / (1 + s)) ** 2
    found = schedules.keep_cosine(s, 2)
    assert torch.allclose(found.alpha(i / 500), bar / bar[0], atol=1e-12) and float(found.alpha(f64(1.0))) == 0
    assert leaf(CategoricalConfig(schedule="keep_cosine:offset=0.008,power=2"))[0].schedule.alpha(f64(0.5)) == found.alpha(
        f64(0.5)
    )
    with pytest.raises(ValueError, match="power is 0"):
        schedules.keep_cosine(power=0)
    # the published program has T + 1 betas, of T + 2 places over T + 2: its level i is our (i + 1) / (T + 1), and its samples end
    # at level 0, of which 8.7e-5 is noise. Ours go one step further, to data
    place = torch.linspace(0, 502, 502, dtype=torch.float64) / 502
    wide = torch.cos(0.5 * math.pi * (place + s) / (1 + s)) ** 2
    betas = 1 - wide[1:] / wide[:-1]
    levels = (1 - betas.clamp(max=0.9999)).cumprod(0)
    assert len(levels) == 501 and float(betas[0]) == pytest.approx(8.7e-5, rel=0.01)
    assert torch.allclose(levels[:500], found.alpha(torch.arange(1, 501, dtype=torch.float64) / 501), atol=1e-12)
    ends = plans.ddpm(501).on(found).levels
    assert ends[-2] == pytest.approx(1 / 501, abs=1e-12) and ends[-1] == 0 and float(found.alpha(f64(0.0))) == 1
    # where a schedule keeps noise at level 0, as that table does, samples are of the data all the same
    for limit in LIMITS.values():
        noisy = Categorical(3, schedules.clipped(schedules.keep_cosine(s, 2), 0.1), limit)
        z, belief = torch.arange(noisy.states)[:, None], f64(0.7, 0.1, 0.2).expand(noisy.states, 1, 3)
        assert float(noisy.schedule.alpha(f64(0.0))) == pytest.approx(0.9)
        said = belief if not noisy.masked else torch.where(z[..., None] == 3, belief, torch.eye(4)[z, :3].double())
        assert torch.allclose(noisy.bridge_probs(z, said, 0.3, 0.0)[..., :3], said, atol=1e-12)


# by name


def test_recipes_name_kernels_and_heads(tmp_path):
    rows = tmp_path / "rows.npy"
    np.save(rows, Noise.of(3, 12).normal((4,), torch.float64).numpy())
    made, _ = leaf(CategoricalConfig(categories=12, limit="uniform", kernel=f"neighbours:count=4,embeddings={rows}"))
    expected = General(kernels.nearest_neighbour_rates(Noise.of(3, 12).normal((4,), torch.float64), 4))
    some = torch.eye(12, dtype=torch.float64)
    assert torch.allclose(made.kernel.push(some, f64(0.4)), expected.push(some, f64(0.4)), atol=1e-12)  # pyright: ignore
    made, predicted = leaf(CategoricalConfig(categories=17, limit="uniform", kernel="gaussian:steps=10", prediction="residual"))
    assert isinstance(made, Categorical) and isinstance(made.kernel, kernels.Chain) and len(made.kernel.steps) == 10
    assert isinstance(predicted, heads.Residual)
    made, _ = leaf(CategoricalConfig(categories=5, limit="uniform", kernel="ordinal:width=0.2"))
    assert isinstance(made.kernel, General) and torch.equal(made.kernel.limit, General(kernels.ordinal_rates(5, 0.2)).limit)
    near, _ = leaf(CategoricalConfig(categories=17, limit="uniform", kernel="neighbours:count=4"))
    jumps = near.kernel.push(torch.eye(17, dtype=torch.float64), f64(0.999)) > 5e-5  # pyright: ignore
    apart = (torch.arange(17)[:, None] - torch.arange(17)).abs()
    assert bool((jumps == (apart <= 2))[4:-4, 4:-4].all())  # four neighbours in value, and itself
    large, _ = leaf(CategoricalConfig(categories=17, limit="uniform", kernel="neighbours:count=4,squared=true"))
    assert isinstance(large.kernel, kernels.Squared)  # pyright: ignore
    at = f64(0.3)
    eye = torch.eye(17, dtype=torch.float64)
    assert torch.allclose(large.kernel.push(eye, at), near.kernel.push(eye, at), atol=1e-9)  # pyright: ignore
    cfg = CategoricalConfig(categories=4, limit="marginal")
    share = shares(cfg, Arrays(torch.tensor([[0, 1], [1, 1], [2, 1], [1, 0]])))
    assert share is not None and share == pytest.approx((0.25, 0.625, 0.125, 0.0), abs=1e-3) and min(share) > 0
    made, _ = leaf(cfg, share)
    assert isinstance(made, Categorical)
    assert torch.allclose(made.kernel.limit, torch.tensor(share, dtype=torch.float64))
    assert shares(CategoricalConfig(), None) is None
    informed = CategoricalConfig(categories=4, limit="uniform", schedule="mutual_information")
    known = shares(informed, Arrays(torch.tensor([[0, 1], [1, 1], [2, 1], [1, 0]])))
    assert known == share  # which the schedule is made from: what is known of x falls evenly
    p = torch.tensor(share, dtype=torch.float64)
    for changed in ({}, {"limit": "marginal"}, {"kernel": "ordinal:width=0.4"}, {"kernel": "neighbours:count=2,squared=true"}):
        made, _ = leaf(informed.model_copy(update=changed), share)
        joint = p[:, None] * made.marginal_probs(torch.arange(4)[:, None], f64(0.4).reshape(1, 1))[:, 0]  # pyright: ignore
        left = entropy(p) + entropy(joint.sum(0)) - entropy(joint)
        assert 1 - left / entropy(p) == pytest.approx(0.4, abs=2e-3)
    masked, _ = leaf(informed.model_copy(update={"limit": "mask"}))
    assert float(masked.schedule.alpha(f64(0.3))) == pytest.approx(0.7)
    for wrong, message in (
        (informed, "shares of categories are not known"),
        (informed.model_copy(update={"kernel": "neighbours:embeddings=" + str(rows)}), "a row for each"),
        (cfg, "shares of categories are not known"),
        (cfg.model_copy(update={"kernel": "gaussian"}), "takes limit"),
    ):
        with pytest.raises(ValueError, match=message):
            leaf(wrong)
