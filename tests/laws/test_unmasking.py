"""Samplers of categories that depend on the state: the laws they keep, and the orders and counts they promise."""

import itertools

import pytest
import torch

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Plan
from langevin.core.posterior import CategoricalPosterior
from langevin.core.sample import plans_for, sample, trajectory
from langevin.core.space import SymmetricEdges
from langevin.plans import defog, unmasking
from langevin.plans.unmasking import Remask, Reveal, TauLeap, confidence, first_hitting, remask, tau_leaping
from tests.rows import CATEGORICAL, f64

PAIR = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
TRIPLE = torch.softmax(2 * torch.sin(torch.arange(27, dtype=torch.float64) ** 2), 0).reshape(3, 3, 3)
MASKED = Categorical(3, schedules.keep_linear(), "mask")
COSINE = Categorical(3, schedules.keep_cosine(), "mask")
PLANS = {
    "tau_leaping": tau_leaping(6),
    "remask": remask(6, strength=0.7),
    "first_hitting": first_hitting(3),
    **{f"confidence {order}": confidence(3, order, noise=0.5) for order in unmasking.ORDERS},
}


def distance(a, b):
    """Total variation."""
    return float((a - b).abs().sum() / 2)


def sampled(exact, plan, table, count=20_000, **options):
    """Total variation between samples and the table (K, ..., K)."""
    z = sample(exact, plan, count, seed=1, **options)
    share = torch.zeros_like(table).index_put_(tuple(z.T), torch.full((count,), 1 / count, dtype=torch.float64), True)
    return distance(share, table)


def states(leaf, tokens):
    return torch.tensor(list(itertools.product(range(leaf.states), repeat=tokens)))


def pushed(exact, row, z, p):
    """The law (S^D,) after a row, by enumeration of the states z (S^D, D) it may start from."""
    to = row.probs(exact.process, z, exact(z, row.start))
    assert float(to.min()) >= 0 and torch.allclose(to.sum(-1), f64(1.0))
    for i in range(z.shape[1]):
        p = p[:, None] * to[:, i][:, z[:, i]] if i == 0 else p * to[:, i][:, z[:, i]]
    return p.sum(0)


def law(exact, plan):
    """The law of a plan's samples over all states, exactly."""
    z = states(exact.process, exact.shape[0])
    p = exact.process.kernel.limit[z].prod(1)
    for row in plan.on(exact.process.schedule).rows:
        p = pushed(exact, row, z, p)
    return p


def level_law(leaf, table, t):
    """q(z_t) over all states, exactly."""
    x = torch.tensor(list(itertools.product(*(range(k) for k in table.shape))))
    q, z = leaf.marginal_probs(x, t), states(leaf, table.ndim)
    for_each = torch.stack([q[:, i][:, z[:, i]] for i in range(table.ndim)])
    return table.flatten() @ for_each.prod(0)


def drawn(exact, plan):
    """Total variation between samples of a plan and its law."""
    expected = law(exact, plan).reshape([exact.process.states] * exact.shape[0])
    return sampled(exact, plan, expected)


def error(exact, plan, table):
    return distance(law(exact, plan), level_law(exact.process, table, 0.0))


# the laws


@pytest.mark.parametrize("process", [MASKED, COSINE], ids=["linear", "cosine"])
def test_first_hitting_samples_the_law_with_one_evaluation_a_token(process):
    assert first_hitting(3).on(process.schedule).nfe == 3
    exact = oracle.enumerated(process, TRIPLE)
    assert sampled(exact, first_hitting(3), TRIPLE) < 0.02


def test_first_hitting_given_tokens_samples_the_law_of_the_rest():
    given, known = torch.ones(10_000, 3, dtype=torch.int64), torch.tensor([False, True, False]).expand(10_000, 3)
    conditional = torch.zeros_like(TRIPLE)
    conditional[:, 1] = TRIPLE[:, 1] / TRIPLE[:, 1].sum()
    # more rows than masks change nothing
    exact = oracle.enumerated(MASKED, TRIPLE)
    assert sampled(exact, first_hitting(3), conditional, 10_000, given=given, known=known) < 0.02


def test_tau_leaping_of_a_mask_is_the_bridge():
    z, exact = states(COSINE, 3), oracle.enumerated(COSINE, TRIPLE)
    for t, s in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        belief = exact(z, t)
        bridge = COSINE.bridge_probs(z, belief.probs, f64(t)[0], f64(s)[0])
        assert torch.allclose(TauLeap(start=t, stop=s).probs(COSINE, z, belief), bridge, atol=1e-12)


@pytest.mark.parametrize("limit", ["mask", "uniform", "marginal"])
def test_tau_leaping_converges(limit):
    exact = oracle.enumerated(CATEGORICAL[limit], PAIR)
    errors = [error(exact, tau_leaping(n), PAIR) for n in (10, 30, 100)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01
    assert drawn(exact, tau_leaping(4)) < 0.02


@pytest.mark.parametrize("limit", ["uniform", "marginal"])
@pytest.mark.parametrize("t", [0.8, 0.3])
def test_a_leap_errs_by_the_square_of_its_length(limit, t):
    # from the exact law at t: the rates and their integrals are right, so the error of one step is of second order
    process = CATEGORICAL[limit]
    exact, start = oracle.enumerated(process, PAIR), level_law(process, PAIR, t)
    errors = []
    for h in (0.02, 0.01, 0.005):
        after = pushed(exact, TauLeap(start=t, stop=t - h), states(process, 2), start)
        errors.append(distance(after, level_law(process, PAIR, t - h)))
    assert 3.4 < errors[0] / errors[1] < 4.6 and 3.4 < errors[1] / errors[2] < 4.6


@pytest.mark.parametrize("limit", ["uniform", "marginal"])
def test_hazards_of_a_leap_are_the_integrals_of_the_rates(limit):
    process = CATEGORICAL[limit]
    z, t, s = torch.arange(3)[:, None], 0.8, 0.4
    p = f64(0.5, 0.2, 0.3).expand(3, 1, 3)
    u = torch.linspace(s, t, 2001, dtype=torch.float64)
    alpha, (slope, _) = process.schedule.alpha(u), process.schedule.rates(u)
    q = torch.stack([process.kernel.push(torch.eye(3, dtype=torch.float64), a) for a in alpha[:, None]])  # [u, x, state]
    # 2205.14987, sec. 4.2: the reverse rate from z to y is R(y, z) sum_x p(x) q(y | x) / q(z | x)
    ratio = torch.einsum("x,uxy,uxz->uzy", p[0, 0], q, 1 / q)
    rate = (-slope / alpha)[:, None, None] * process.kernel.limit[None, :, None] * ratio
    hazard = torch.trapezoid(rate, u, dim=0) * (1 - torch.eye(3, dtype=torch.float64))
    total = hazard.sum(1, keepdim=True)
    expected = (1 - torch.exp(-total)) * hazard / total + torch.exp(-total) * torch.eye(3, dtype=torch.float64)
    got = TauLeap(start=t, stop=s).probs(process, z, CategoricalPosterior(p.log()))
    assert torch.allclose(got[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7, 1.0])
def test_remasking_keeps_the_marginals(strength):
    # one token, or independent ones: every step ends at the exact marginal
    product = f64(0.5, 0.3, 0.2)[:, None] * f64(0.1, 0.2, 0.7)
    for process, table in ((COSINE, f64(0.5, 0.3, 0.2)), (MASKED, product)):
        exact = oracle.enumerated(process, table)
        p = level_law(process, table, 1.0)
        for row in remask(7, strength).on(process.schedule).rows:
            p = pushed(exact, row, states(process, table.ndim), p)
            assert torch.allclose(p, level_law(process, table, row.stop), atol=1e-12)
    # tokens that depend on each other: the law in the limit of many steps
    exact = oracle.enumerated(MASKED, PAIR)
    errors = [error(exact, remask(n, strength), PAIR) for n in (10, 40, 160)]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] and errors[2] < 0.012
    assert drawn(exact, remask(4, strength)) < 0.02


def test_remasking_remasks_as_much_as_it_says():
    exact, z = oracle.enumerated(MASKED, PAIR), torch.tensor([[0, 3]])
    for strength in (0.0, 0.5, 1.0):
        # at t = 0.4, s = 0.2: alpha 0.6 and 0.8, so rho is at most 1/3
        to = Remask(start=0.4, stop=0.2, strength=strength).probs(MASKED, z, exact(z, 0.4))[0]
        assert float(to[0, 3]) == pytest.approx(strength / 3) and float(to[0, 0]) == pytest.approx(1 - strength / 3)
        assert float(to[1, 3]) == pytest.approx(1 - (0.8 - (1 - strength / 3) * 0.6) / 0.4)
    none = Remask(start=0.4, stop=0.2, strength=0.0).probs(MASKED, z, exact(z, 0.4))
    assert torch.allclose(none, MASKED.bridge_probs(z, exact(z, 0.4).probs, f64(0.4)[0], f64(0.2)[0]))


@pytest.mark.parametrize("order", ["entropy", "margin", "random"])
def test_an_order_that_ignores_the_draw_samples_the_law_one_token_a_row(order):
    assert sampled(oracle.enumerated(MASKED, PAIR), confidence(2, order), PAIR) < 0.02


def test_the_surest_draw_first_is_not_ancestral_unless_noise_decides():
    exact = oracle.enumerated(MASKED, PAIR)
    assert sampled(exact, confidence(2), PAIR) > 0.04
    assert sampled(exact, confidence(2, noise=1e6), PAIR) < 0.02


# orders and counts


def greedy(table, order):
    """Decode one token at a time from a joint table, by hand: the position the order prefers, its likeliest token."""
    x: list[int | None] = [None] * table.ndim
    for _ in range(table.ndim):
        best = None
        for i in (i for i, value in enumerate(x) if value is None):
            at = [[k if j == i else slice(None) if v is None else v for j, v in enumerate(x)] for k in range(table.shape[i])]
            p = torch.stack([table[tuple(index)].sum() for index in at])
            p = (p / p.sum()).sort(descending=True)
            score = {
                "confidence": p.values[0],
                "entropy": (p.values * p.values.log()).sum(),
                "margin": p.values[0] - p.values[1],
            }[order]
            if best is None or score > best[0]:
                best = score, i, int(p.indices[0])
        assert best is not None
        x[best[1]] = best[2]
    return x


@pytest.mark.parametrize("order", ["confidence", "entropy", "margin"])
def test_temperature_zero_is_greedy_decoding(order):
    for seed in range(4):
        table = torch.softmax(2 * torch.sin(seed + torch.arange(27, dtype=torch.float64) ** 2), 0).reshape(3, 3, 3)
        z = sample(oracle.enumerated(MASKED, table), confidence(3, order, temperature=0.0), 3)
        assert z.tolist() == [greedy(table, order)] * 3


def test_temperature_tempers_the_tokens():
    p = f64(0.5, 0.3, 0.2)
    for temperature in (0.5, 1.0, 2.0):
        plan = confidence(1, temperature=temperature)
        assert sampled(oracle.enumerated(MASKED, p), plan, torch.softmax(p.log() / temperature, 0)) < 0.015


class Blind(BaseDenoiser):
    """Believes the same of every position, and remembers the levels it was told."""

    process: Categorical

    def __init__(self, process, shape):
        super().__init__()
        self.process, self.shape, self.levels = process, shape, []

    def forward(self, z, t, cond, mask):
        self.levels.append(t[""])
        logits = torch.arange(self.process.categories, dtype=torch.float64).expand(*z[""].shape, -1)
        return CategoricalPosterior(logits, self.process.evidence(z[""], t[""]))


def masks(denoiser, plan, count=2, **options):
    """Masks left in each sample after each row."""
    return torch.stack([(s.z == denoiser.process.categories).sum(1) for s in trajectory(denoiser, plan, count, **options)])


@pytest.mark.parametrize("process", [MASKED, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 5, 7, 12, 20])
@pytest.mark.parametrize("order", unmasking.ORDERS)
def test_counts_follow_the_schedule(process, steps, order):
    length, left, expected = 12, 12, []
    for level in torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:]:
        left = max(0, min(left - 1, int((length * (1 - process.schedule.alpha(level))).round())))
        expected.append([left, left])
    assert masks(Blind(process, (length,)), confidence(steps, order)).tolist() == expected


def test_given_and_padded_positions_are_not_counted():
    blind = Blind(MASKED, (12,))
    known = torch.tensor([[True] * 4 + [False] * 8, [False] * 12])
    given = torch.ones(2, 12, dtype=torch.int64)
    # eight and twelve to reveal, both spread evenly over four rows
    assert masks(blind, confidence(4), given=given, known=known).T.tolist() == [[6, 4, 2, 0], [9, 6, 3, 0]]
    real = torch.arange(12) < torch.tensor([[8], [12]])
    assert masks(blind, confidence(4), mask=real).T.tolist() == [[6, 4, 2, 0], [9, 6, 3, 0]]
    assert masks(blind, first_hitting(12), mask=real).T.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0], [*range(11, -1, -1)]]


@pytest.mark.parametrize("name", PLANS)
def test_padding_and_given_tokens_stay(name):
    blind, real = Blind(MASKED, (5,)), torch.arange(5) < torch.tensor([[2], [3], [5]])
    start = torch.where(real, 3, torch.tensor([2, 1, 0, 1, 2]))
    z = sample(blind, PLANS[name] if name != "first_hitting" else first_hitting(5), 3, mask=real, start=start)
    assert torch.equal(z[~real], start[~real]) and int(z.max()) < 3
    # the rest does not depend on the padding
    other = sample(blind, PLANS[name] if name != "first_hitting" else first_hitting(5), 3, mask=real)
    assert torch.equal(z[real], other[real])
    given, known = torch.full((3, 5), 2), torch.arange(5).expand(3, 5) == 1
    z = sample(blind, PLANS[name] if name != "first_hitting" else first_hitting(4), 3, given=given, known=known)
    assert (z[:, 1] == 2).all() and int(z.max()) < 3


@pytest.mark.parametrize("plan", [first_hitting(6), confidence(3), tau_leaping(5), remask(5)], ids=str)
def test_edges_stay_symmetric(plan):
    process = Categorical(3, schedules.keep_linear(), "mask", space=SymmetricEdges())
    for step in trajectory(Blind(process, (4, 4)), plan, 5):
        assert torch.equal(step.z, step.z.transpose(1, 2)) and (step.z.diagonal(dim1=1, dim2=2) == 0).all()
    assert int(step.z.max()) < 3


def test_first_hitting_reveals_every_position_with_equal_chances():
    first, second, *_ = [(s.z != 3).double().mean(0) for s in trajectory(Blind(MASKED, (5,)), first_hitting(5), 10_000)]
    assert torch.allclose(first, f64(0.2), atol=0.015) and torch.allclose(second, f64(0.4), atol=0.02)


def test_first_hitting_evaluates_where_tokens_are_revealed():
    for process in (MASKED, COSINE):
        blind = Blind(process, (4,))
        given = torch.zeros(4000, 4, dtype=torch.int64)
        known = torch.arange(4).expand(4000, 4) < (torch.arange(4000) % 2)[:, None]  # every other sample has a known token
        sample(blind, first_hitting(4), 4000, given=given, known=known)
        levels = torch.stack([t.expand(4000, 4)[:, 3] for t in blind.levels])
        assert (levels[:-1] >= levels[1:]).all() and (levels[:-1, ::2] > levels[1:, ::2]).all()
        for n, own in ((4, levels[:, ::2]), (3, levels[:3, 1::2])):
            # the levels of n tokens' masks, sorted: order statistics of n uniforms
            blank = 1 - process.schedule.alpha(own)
            expected = torch.arange(n, 0, -1, dtype=torch.float64) / (n + 1)
            assert torch.allclose(blank.mean(1), expected, atol=0.02)
            assert torch.allclose(blank.var(1), expected * (1 - expected) / (n + 2), atol=0.005)
        assert (levels[3, 1::2] == 0).all()  # nothing left to reveal


@pytest.mark.parametrize("name", [n for n in PLANS if n != "first_hitting"])
@pytest.mark.parametrize("schedule", [schedules.vp_linear(), schedules.learned(scale="flow")], ids=["vp_linear", "learned"])
def test_no_mask_is_left_where_alpha_misses_its_ends(name, schedule):
    blind = Blind(Categorical(3, schedule.requires_grad_(False), "mask"), (3,))
    assert int(sample(blind, PLANS[name], 3000).max()) < 3
    assert int(sample(blind, first_hitting(3), 100).max()) < 3


# values, seeds and refusals


@pytest.mark.parametrize("name", PLANS)
def test_a_sample_is_the_same_in_any_batch(name):
    exact = oracle.enumerated(MASKED, TRIPLE)
    whole = sample(exact, PLANS[name], 8, seed=5)
    assert torch.equal(sample(exact, PLANS[name], 8, seed=5), whole)
    assert not torch.equal(sample(exact, PLANS[name], 8, seed=6), whole)
    for first, count in ((4, 1), (3, 3)):
        assert torch.equal(sample(exact, PLANS[name], count, seed=5, first_id=first), whole[first : first + count])


def test_levels_of_first_hitting_are_the_same_in_any_batch():
    blind = Blind(MASKED, (3,))
    for first, count in ((0, 8), (4, 1), (3, 3)):
        sample(blind, first_hitting(3), count, seed=5, first_id=first)
    whole, alone, three = (torch.cat([t.reshape(-1, 1) for t in blind.levels[i : i + 3]], 1) for i in (0, 3, 6))
    assert torch.equal(alone, whole[4:5]) and torch.equal(three, whole[3:6])


@pytest.mark.parametrize("name", PLANS)
def test_plans_are_values(name):
    plan = PLANS[name].on(MASKED.schedule)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.nfe == len(plan.rows) and plan.levels[0] == 1 and plan.levels[-1] == 0
    exact = oracle.enumerated(MASKED, TRIPLE)
    assert torch.equal(sample(exact, Plan.from_json(plan.to_json()), 4), sample(exact, PLANS[name], 4))


REFUSED = {
    "steps": (lambda: tau_leaping(0), "steps is 0; ask for at least 1"),
    "steps of confidence": (lambda: confidence(0), "steps is 0"),
    "length": (lambda: first_hitting(0), "length is 0; give"),
    "grid": (lambda: remask(4, grid="even"), "grid is 'even'; "),
    "strength": (lambda: remask(4, strength=1.2), "strength is 1.2; give .* in \\[0, 1\\]"),
    "strength that is no number": (lambda: remask(4, strength=float("nan")), "strength is nan"),
    "order": (lambda: confidence(4, order="best"), "order is 'best'; choose one of confidence"),
    "temperature": (lambda: confidence(4, temperature=-1.0), "temperature is -1.0; give"),
    "noise": (lambda: confidence(4, noise=float("inf")), "noise is inf; give"),
    "a rise": (lambda: Reveal(start=0.2, stop=0.4), "Reveal row goes from 0.2 to 0.4; let levels fall"),
    "general kernel": (lambda: plans_for(CATEGORICAL["skew"], tau_leaping(4)), "low-rank kernels.*General one; use ddpm"),
    "too short": (lambda: sample(Blind(MASKED, (5,)), first_hitting(4), 2), "length is 4 .* 5 masks; use first_hitting\\(5\\)"),
    **{
        f"{name} without masks": (lambda d=d: plans_for(CATEGORICAL["uniform"], d), f"{name[:6]}.* reveals masks.*limit='mask'")
        for name, d in PLANS.items() if name != "tau_leaping"
    },
    **{
        f"{name} on Gaussians": (lambda d=d: plans_for(Gaussian(schedules.cosine()), d), "moves categories.*gaussian; use")
        for name, d in PLANS.items()
    },
    **{  # whose levels are found by what is noised, which under ve is nothing
        f"{name} on ve": (lambda d=d: plans_for(Gaussian(schedules.ve()), d),
                          f"{name} moves categories, and under schedule ve\\(0.01, 50\\) alpha stays 1.*; use a plan")
        for name, d in (("defog", defog(4)), ("first_hitting", first_hitting(4)))
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_misuse_is_refused_in_one_sentence(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


# as many as are sure


class Sure(BaseDenoiser):
    """Believes what a table (L, K) of probabilities says of each position, whatever it sees."""

    def __init__(self, table):
        super().__init__()
        self.process, self.shape, self.table = Categorical(table.shape[1], schedules.keep_linear(), "mask"), (len(table),), table

    def forward(self, z, t, cond, mask):
        return CategoricalPosterior(self.table.log().expand(len(z[""]), -1, -1), self.process.evidence(z[""], t[""]))


SURENESS = f64([0.95, 0.03, 0.02], [0.5, 0.3, 0.2], [0.05, 0.9, 0.05], [0.4, 0.35, 0.25], [0.02, 0.02, 0.96], [0.1, 0.1, 0.8])


def test_what_is_sure_is_revealed_beside_the_schedules_number():
    sure = {}
    for told in ("", "threshold=0.85", "threshold=0.99"):
        states = [s.z[0] for s in trajectory(Sure(SURENESS), plans.parse(f"confidence:6:temperature=0,{told}".rstrip(",")), 1)]
        sure[told] = [(z < 3).nonzero()[:, 0].tolist() for z in states]
    assert sure[""] == sure["threshold=0.99"]  # of which nothing is as sure, one a row
    assert [len(at) for at in sure[""]] == [1, 2, 3, 4, 5, 6]
    assert [len(at) for at in sure["threshold=0.85"]] == [3, 4, 5, 6, 6, 6] and sure["threshold=0.85"][0] == [0, 2, 4]
    # of blocks only within the first that is not finished
    blocks = [s.z[0] for s in trajectory(Sure(SURENESS), confidence(6, temperature=0.0, block=3, threshold=0.85), 1)]
    assert [(z < 3).nonzero()[:, 0].tolist() for z in blocks[:3]] == [[0, 2], [0, 1, 2], [0, 1, 2, 4]]


@pytest.mark.parametrize("order", ["confidence", "entropy"])
def test_a_bound_of_entropy_is_of_all_that_is_revealed_but_the_least_sure(order):
    entropy = torch.special.entr(SURENESS).sum(1)
    ranked = entropy.sort()
    for bound in (0.0, 0.25, 0.6, 1.0, 5.0):
        z = next(iter(trajectory(Sure(SURENESS), confidence(6, order, temperature=0.0, bound=bound), 1))).z[0]
        k = max(k for k in range(1, 7) if float(ranked.values[: k - 1].sum()) <= bound)
        assert set((z < 3).nonzero()[:, 0].tolist()) == set(ranked.indices[:k].tolist())
    # what independent draws lose is no more: the divergence of the pair's law from that of one row
    exact = oracle.enumerated(MASKED, PAIR)
    margins = PAIR.sum(1)[:, None] * PAIR.sum(0)
    lost = float((PAIR * (PAIR / margins).log()).sum())
    least = min(float(torch.special.entr(p).sum()) for p in (PAIR.sum(1), PAIR.sum(0)))
    assert lost <= least
    together, apart = (confidence(2, "entropy", bound=least + step) for step in (1e-9, -1e-3))
    assert sampled(exact, together, margins) < 0.02 and sampled(exact, apart, PAIR) < 0.02


@pytest.mark.parametrize("settings", ["threshold=1", "threshold=-0.1", "bound=-1", "bound=inf"])
def test_what_is_no_probability_and_no_entropy_is_refused(settings):
    with pytest.raises(ValueError, match=settings.split("=")[0]):
        plans.parse(f"confidence:4:{settings}")
