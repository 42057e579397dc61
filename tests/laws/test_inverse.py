"""Inverse problems on normal data, where the posterior is known: which methods are exact, and how far off the others are."""

import re
from pathlib import Path

import pytest
import torch

from langevin import oracles, plans, schedules, tasks
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Row
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample
from langevin.guidance import DPS, ByLevels, Known, Moments, Observed, PiGDM, Replaced, inverse, operators
from langevin.plans.inverse import Restored
from tests.laws.leaping import normal

D, N = 6, 2000
COSINE = Gaussian(schedules.cosine())
INDEX = torch.arange(D, dtype=torch.float64)
COVARIANCE = 0.8 ** (INDEX[:, None] - INDEX).abs()
MEAN = torch.linspace(-0.5, 0.5, D, dtype=torch.float64)
MODEL = oracles.gaussian(COSINE, MEAN, COVARIANCE)
MARK = torch.tensor([True, False, True, False, False, False])
ROWS = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, -1, 0.5]], dtype=torch.float64) / 2
MASK, MATRIX = operators.inpaint(MARK), operators.matrix(ROWS)
Y = {MASK: torch.tensor([[0.5, 0, 0.7, 0, 0, 0]]).double(), MATRIX: torch.tensor([[1.2, -0.4]]).double()}
OPERATORS = {"mask": MASK, "matrix": MATRIX}


def dense(op, dtype=torch.float64):
    size = int(torch.tensor(op.shape).prod())
    return op(torch.eye(size, dtype=dtype).reshape(size, *op.shape)).reshape(size, -1).T


def posterior(op, std, covariance=COVARIANCE, mean=MEAN):
    a, y = dense(op), Y[op][0]
    within = a @ covariance @ a.T + std**2 * torch.eye(len(a))
    gain = covariance @ a.T @ torch.linalg.pinv(within, rtol=1e-10)
    return mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance


def white(seed=0):
    """N states at level 1 whose moments are exactly those of standard normal noise."""
    z = normal(N, D, seed=seed)
    z = z - z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T


def errors(method, op, std, plan=None):
    """Of mean (in units of how far the measurement moves it) and covariance (Frobenius), relative."""
    way = tasks.METHODS[method]
    y = Y[op].expand(N, -1)
    by = way.make(op, y, std, Noise.of(1, N))
    x = sample(MODEL, plan or way.plan(), N, start=white(), guidance=by, seed=5)
    mean, covariance = posterior(op, std)
    off = (x.mean(0) - mean).norm() / (mean - MEAN).norm()
    return float(off), float((torch.cov(x.T) - covariance).norm() / covariance.norm())


PICTURE_OPERATORS = {
    "inpaint": operators.inpaint(normal(1, 4, 6, seed=3) > 0, (2, 4, 6)),
    "super-resolution": operators.super_resolution((2, 4, 6), 2),
    "blur": operators.blur((2, 4, 6), 0.8),
    "colourise": operators.colourise((3, 4, 2)),
    "sense": operators.sense((2, 3, 3), 7),
    "matrix": operators.matrix(normal(5, 12), (3, 2, 2)),
}


@pytest.mark.parametrize("name", PICTURE_OPERATORS)
def test_operators_are_what_their_decompositions_say(name):
    op = PICTURE_OPERATORS[name]
    s, a = op.singular("this"), dense(op)
    x, y = normal(3, *op.shape), normal(3, *op.measured, seed=1)
    assert torch.allclose(op(x), s.fore(s.values * s.right(x)), atol=1e-12)
    assert torch.allclose((op(x) * y).flatten(1).sum(1), (x * op.transposed(y)).flatten(1).sum(1), atol=1e-12)
    derived = operators.Operator(name, op.shape, op.measured, op.forward)
    assert torch.allclose(derived.transposed(y), op.transposed(y), atol=1e-12)
    c = normal(3, len(s.values), seed=2)
    assert torch.allclose(s.right(s.back(c)), c, atol=1e-12) and torch.allclose(s.left(s.fore(c)), c, atol=1e-12)
    inverse_of = torch.linalg.pinv(a, rtol=1e-6)
    assert torch.allclose(op.inverse(y).flatten(1), y.flatten(1) @ inverse_of.T, atol=1e-8)
    assert torch.allclose(op.project(x).flatten(1), x.flatten(1) @ (inverse_of @ a).T, atol=1e-8)
    within = 0.3 * a @ a.T + 0.2 * torch.eye(len(a))
    assert torch.allclose(op.whitened(y, 0.3, 0.2).flatten(1), y.flatten(1) @ torch.linalg.inv(within) @ a, atol=1e-10)


def test_the_named_operators_measure_what_they_say():
    x = normal(2, 3, 8, 8)
    low = operators.super_resolution((3, 8, 8), 4)(x)
    assert torch.allclose(low, x.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)), atol=1e-14)
    grey = operators.colourise((3, 8, 8))(x)
    assert torch.allclose(grey, (x * torch.tensor([0.2989, 0.587, 0.114]).double()[:, None, None]).sum(1, keepdim=True))
    blurred = operators.blur((3, 8, 8), 1.0)
    assert torch.allclose(blurred(torch.ones(1, 3, 8, 8).double()), torch.ones(1, 3, 8, 8).double(), atol=1e-12)
    spot = torch.zeros(1, 3, 32, 32).double()
    spot[..., 16, 16] = 1
    seen = operators.blur((3, 32, 32), 1.5)(spot)[0, 0]
    at = torch.arange(32.0).double() - 16
    assert float((seen.sum(0) * at**2).sum()) == pytest.approx(1.5**2, rel=0.05)  # a Gaussian cut at 5 pixels
    scipy = pytest.importorskip("scipy.fft")
    for n in (7, 12):
        u = normal(3, n)
        assert torch.allclose(operators.dct(u), torch.from_numpy(scipy.dct(u.numpy(), norm="ortho")), atol=1e-12)
        assert torch.allclose(operators.inverse_dct(operators.dct(u)), u, atol=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_moments_and_levels_are_bayes_rule(name, std, t):
    """E[x | z_t, y], with y a further measurement beside z_t."""
    op, z = OPERATORS[name], normal(5, D)
    alpha, sigma = COSINE.schedule(t)
    given = COVARIANCE - COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(D)) @ COVARIANCE * alpha**2
    a, x = dense(op), MODEL(z, t).mean
    gain = given @ a.T @ torch.linalg.pinv(a @ given @ a.T + std**2 * torch.eye(len(a)), rtol=1e-10)
    exact = x + (Y[op] - x @ a.T) @ gain.T
    assert torch.allclose(Moments(operator=op, y=Y[op], std=std, iterations=D)(MODEL)(z, t).mean, exact, atol=1e-9)
    if name == "mask":
        assert torch.allclose(ByLevels(operator=op, y=Y[op], std=std)(MODEL)(z, t).mean, exact, atol=1e-9)


def test_levels_that_a_model_can_be_asked_at_are_left_as_they_are_without_a_search(monkeypatch):
    level, asked = torch.tensor(0.9999, dtype=torch.float64), COSINE.schedule.invert
    top = float(inverse.visible(COSINE, level, MEAN))
    alpha, sigma = COSINE.schedule(top)
    assert top < 0.9999 and float(alpha / sigma) == pytest.approx(1e-3)
    mixed = torch.tensor([[0.2], [1.0]], dtype=torch.float64)
    assert inverse.visible(COSINE, mixed, MEAN).tolist() == [[0.2], [top]]
    searches: list[object] = []
    monkeypatch.setattr(COSINE.schedule, "invert", lambda lam: (searches.append(lam), asked(lam))[1])
    for t in (level * 0.9, mixed * 0.9, torch.tensor(0.0, dtype=torch.float64)):
        assert inverse.visible(COSINE, t, MEAN) is t
    assert not searches


def test_pseudo_inverse_guidance_is_exact_where_data_is_white():
    model = oracles.gaussian(COSINE, MEAN, 0.5 * torch.eye(D, dtype=torch.float64))
    plain = operators.Operator("plain", MATRIX.shape, MATRIX.measured, MATRIX.forward)
    z = normal(5, D)
    exact = Moments(operator=MATRIX, y=Y[MATRIX], std=0.3)(model)(z, 0.6).mean
    for op in (MATRIX, plain):  # by singular values, or by iterations
        assert torch.allclose(PiGDM(operator=op, y=Y[MATRIX], std=0.3, variance=0.5)(model)(z, 0.6).mean, exact, atol=1e-9)
    # the paper's r^2 is that of unit variance
    assert not torch.allclose(PiGDM(operator=MATRIX, y=Y[MATRIX], std=0.3)(model)(z, 0.6).mean, exact, atol=1e-3)


@pytest.mark.parametrize("form", ["step", "clean"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_pseudo_inverse_guidance_by_steps_is_the_papers_algorithm(eta, form):
    """Algorithm 1: a DDIM step of the plain belief, and alpha_t J^T A^+ (y - A x^), whatever the step's length; "clean" pushes
    what is multiplied by alpha_s alone."""
    guided = PiGDM(operator=MATRIX, y=Y[MATRIX], form=form, steps=8, eta=eta)(MODEL)
    pseudo = torch.linalg.pinv(dense(MATRIX))
    for t, s in ((0.875, 0.75), (0.5, 0.375), (0.125, 0.0)):
        z = normal(5, D).requires_grad_()
        x = MODEL(z, t).mean
        (push,) = torch.autograd.grad(x, z, (Y[MATRIX] - x.detach() @ dense(MATRIX).T) @ pseudo.T)
        weight, _, _ = COSINE.bridge_numbers(t, s, eta)
        moved = weight * (guided(z.detach(), t).mean - x.detach())
        expected = COSINE.schedule(torch.tensor(t))[0] * push * (COSINE.schedule(torch.tensor(s))[0] if form == "clean" else 1)
        assert torch.allclose(moved, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_exact_methods_sample_the_posterior(std):
    trig = plans.trig(16)
    for method, op in (("mmps", MASK), ("mmps", MATRIX), ("levels", MASK)):
        mean, covariance = errors(method, op, std, trig)
        assert mean < 0.003 and covariance < 0.01, method


def test_replacement_is_worse_than_repaint_and_repaint_than_moments():
    short = plans.ddpm(60), plans.repaint(60, 6, 5), plans.trig(16)
    off = [errors(m, MASK, 0.0, p)[0] for m, p in zip(("replacement", "repaint", "mmps"), short, strict=True)]
    assert off[0] > 2 * off[1] > 10 * off[2]


# RePaint


def moments_of_repaint(resample, steps=250, jump=10):
    """Mean and variance of the unknown number of a pair, correlation .9, whose other is 1: row by row, no samples."""
    process, rho, known = Gaussian(schedules.betas("linear")), 0.9, 1.0
    plan = plans.repaint(steps, jump, resample).on(process.schedule)
    mean, var = 0.0, 1.0
    numbers = {}
    for row in plan.rows:
        key = (row.start, row.stop)
        (alpha, sigma), (alpha_s, sigma_s) = ([float(v) for v in process.schedule(t)] for t in key)
        if isinstance(row, Row):
            if key not in numbers:
                # belief about the second from (z_1, z_2), both of variance 1 where data has unit variance
                cov = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
                k = alpha * torch.linalg.solve(alpha**2 * cov + sigma**2 * torch.eye(2), cov)[:, 1]
                numbers[key] = (*process.bridge_numbers(*key, row.eta), *k.tolist())
            w, keep, c, k1, k2 = numbers[key]
            # z_1 is alpha + sigma e, drawn anew
            mean, var = (keep + w * k2) * mean + w * k1 * alpha * known, (keep + w * k2) ** 2 * var + (w * k1 * sigma) ** 2 + c**2
        else:
            ratio = alpha_s / alpha
            mean, var = ratio * mean, ratio**2 * var + sigma_s**2 - (ratio * sigma) ** 2
    return mean, var


def published_repaint(resample, steps=250, jump=10):
    """The same moments by the published program: its walk over timesteps, betas of every fourth of 1,000, DDPM's posterior."""
    bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[3::4].tolist()
    before = [1.0, *bar[:-1]]
    left, t, walk = dict.fromkeys(range(0, steps - jump, jump), resample - 1), steps, []
    while t:
        t -= 1
        walk.append(t)
        if left.get(t, 0):
            left[t] -= 1
            walk += range(t + 1, t + jump + 1)
            t += jump
    mean, var = 0.0, 1.0
    for t, s in zip(walk, [*walk[1:], -1], strict=True):
        if s > t:  # x_s = sqrt(1 - beta_s) x_t + sqrt(beta_s) z
            kept = bar[s] / before[s]
            mean, var = kept**0.5 * mean, kept * var + 1 - kept
            continue
        a, v = bar[t], 1 - bar[t]
        # of a pair (x_1, x_2), correlation .9: E[x_2 | z] by the inverse of [[1, .9 a], [.9 a, 1]]
        k1, k2 = (a**0.5 * 0.9 * v / (1 - (0.9 * a) ** 2), a**0.5 * (1 - 0.81 * a) / (1 - (0.9 * a) ** 2))
        w, keep = before[t] ** 0.5 * (1 - a / before[t]) / v, (a / before[t]) ** 0.5 * (1 - before[t]) / v
        fresh = (1 - a / before[t]) * (1 - before[t]) / v
        mean, var = (keep + w * k2) * mean + w * k1 * a**0.5, (keep + w * k2) ** 2 * var + (w * k1) ** 2 * v + fresh
    return mean, var


@pytest.mark.parametrize(
    ("resample", "mean", "var"), [(1, 0.6221, 0.3002), (2, 0.7603, 0.2298), (5, 0.8499, 0.1907), (10, 0.8746, 0.1787)]
)
def test_the_bias_of_repaint_falls_with_resampling_and_does_not_vanish(resample, mean, var):
    """The truth is .9 and .19."""
    found = moments_of_repaint(resample)
    assert found == pytest.approx((mean, var), abs=5.1e-5)
    assert found == pytest.approx(published_repaint(resample), abs=1e-8)
    page = (Path(__file__).parents[2] / "docs" / "inverse.md").read_text()
    assert " / ".join(f"{v:.3f}".lstrip("0") for v in found) in page


def test_repaint_is_its_rows():
    process, n = Gaussian(schedules.betas("linear")), 4000
    model = oracles.gaussian(process, torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    op, y = operators.inpaint(torch.tensor([True, False])), torch.tensor([[1.0, 0.0]]).double()
    start = normal(n, 2)
    plan = plans.repaint(40, 5, 3)
    x = sample(model, plan, n, start=start, guidance=Replaced(operator=op, y=y, noise=Noise.of(3, n)), seed=1)
    mean, var = moments_of_repaint(3, 40, 5)
    assert float(x[:, 1].mean()) == pytest.approx(mean, abs=4 * (var / n) ** 0.5)
    assert float(x[:, 1].var()) == pytest.approx(var, rel=4 * (2 / n) ** 0.5)
    # what is known is pasted at the end; the published code leaves its error
    assert torch.equal(x[:, 0], torch.ones(n).double())
    theirs = sample(model, plan, n, start=start, guidance=Replaced(operator=op, y=y, noise=Noise.of(3, n), paste=False), seed=1)
    assert torch.allclose(theirs[:, 1], x[:, 1], atol=1e-12) and 0.005 < float((theirs[:, 0] - 1).square().mean().sqrt()) < 0.1


def test_repaint_takes_the_published_walk():
    plan = plans.repaint().on(schedules.betas("linear"))
    ups = [r for r in plan.rows if isinstance(r, plans.Renoise)]
    assert (len(plan.rows), plan.nfe, len(ups)) == (4570, 2410, 2160)
    levels = [i / 250 for i in range(251)]
    starts = [round(r.start * 250) - 1 for r, before in zip(plan.rows[1:], plan.rows, strict=False)
              if isinstance(r, plans.Renoise) and not isinstance(before, plans.Renoise)]  # fmt: skip
    assert sorted(set(starts)) == list(range(0, 240, 10)) and all(starts.count(s) == 9 for s in starts)
    visited = {round(level, 9) for r in plan.rows for level in (r.start, r.stop)}
    assert visited == {round(level, 9) for level in levels}
    assert plans.Plan.from_json(plan.to_json()) == plan
    every = plans.repaint(12, 1, 5, clean=True).on(schedules.cosine())
    assert every.nfe == 60 and sum(isinstance(r, plans.Renoise) and r.start == 0 for r in every.rows) == 4
    plain = plans.repaint(50, resample=1).on(schedules.cosine())
    assert plain.rows == plans.ddpm(50).on(schedules.cosine()).rows


# DPS, DDRM, DDNM against their own formulas


def test_dps_under_its_own_plan_is_the_published_algorithm():
    z, t, s, scale = normal(4, D), 0.7, 0.69, 0.8
    a = dense(MATRIX)
    state = z.clone().requires_grad_()
    size = (Y[MATRIX] - MODEL(state, t).mean @ a.T).norm(dim=1)
    (gradient,) = torch.autograd.grad(size.sum(), state)
    noise = Noise.of(0, 4).at("step")
    theirs = COSINE.bridge(z, MODEL(z, t), torch.tensor(t), torch.tensor(s), noise) - scale * gradient
    guided = DPS(operator=MATRIX, y=Y[MATRIX], scale=scale, steps=100)(MODEL)(z, t)
    assert torch.allclose(COSINE.bridge(z, guided, torch.tensor(t), torch.tensor(s), noise), theirs, atol=1e-10)
    # a sample does not depend on its neighbours
    alone = DPS(operator=MATRIX, y=Y[MATRIX], scale=scale, steps=100)(MODEL)(z[:1], t).mean
    assert torch.allclose(alone, guided.mean[:1], atol=1e-13)
    # one norm over the batch, as peers have it
    (gradient,) = torch.autograd.grad((Y[MATRIX] - MODEL(state, t).mean @ a.T).norm(), state)
    theirs = COSINE.bridge(z, MODEL(z, t), torch.tensor(t), torch.tensor(s), noise) - scale * 4**0.5 * gradient
    guided = DPS(operator=MATRIX, y=Y[MATRIX], scale=scale, steps=100, together=True)(MODEL)(z, t)
    assert torch.allclose(COSINE.bridge(z, guided, torch.tensor(t), torch.tensor(s), noise), theirs, atol=1e-10)
    # the other form is Bayes' rule with p(y | x^)
    plain = DPS(operator=MATRIX, y=Y[MATRIX], std=0.5, form="likelihood")(MODEL)(z, t).mean
    state = z.clone().requires_grad_()
    log = -0.5 * ((Y[MATRIX] - MODEL(state, t).mean @ a.T) ** 2).sum() / 0.25
    (gradient,) = torch.autograd.grad(log, state)
    alpha, sigma = COSINE.schedule(t)
    assert torch.allclose(plain, MODEL(z, t).mean + sigma**2 / alpha * gradient, atol=1e-10)


def moved(row, z, x, measurement, seed=0):
    belief = inverse.ObservedPosterior(x, None, measurement)
    return row.move(COSINE, z, belief, Noise.of(seed, len(z)), None)


def test_dps_under_a_plan_of_fewer_steps_pushes_no_further():
    """`restore` tells it the plan's own number; told its default of 1000, each of 50 pushes would be twenty times too long."""
    y, plan = Y[MASK].expand(3, -1), plans.ddpm(50)
    x = tasks.restore(MODEL, MASK, y, 0.3, method="dps", plan=plan, seed=4).samples[0]
    guided = [DPS(operator=MASK, y=y, std=0.3, steps=steps) for steps in (50, 1000)]
    told, default = (sample(MODEL, plan, 3, seed=4, guidance=g) for g in guided)
    assert torch.allclose(x.double(), told.double(), atol=1e-6)
    assert (default - told).abs().max() > 0.1


def test_ddrm_draws_each_coefficient_from_its_own_law():
    """2201.11793, eq. 8, in units of data: three cases by singular value."""
    op = operators.matrix(torch.diag(torch.tensor([0.0, 0.1, 1.0])).double())
    n, t, s, std, eta, eta_b = 20000, 0.6, 0.4, 0.2, 0.7, 0.6
    z, x, y = (torch.tensor([v]).double().expand(n, 3) for v in ([0.3, -0.2, 0.5], [0.1, 0.2, 0.3], [0.0, 0.05, 0.6]))
    row = Restored(start=t, stop=s, eta=eta, eta_b=eta_b)
    out = moved(row, z, x, Observed(operator=op, y=y, std=std))
    (alpha_t, sigma_t), (alpha, sigma) = ([float(v) for v in COSINE.schedule(u)] for u in (t, s))
    noise, keep = sigma / alpha, (1 - eta**2) ** 0.5
    assert 0.2 < noise < 2.0  # so that the second coefficient is quieter in the state than in y, and the third louder
    means = [
        0.1 + keep * noise * (0.3 - alpha_t * 0.1) / sigma_t,
        0.2 + keep * noise * (0.5 - 0.2) / 2.0,
        (1 - eta_b) * 0.3 + eta_b * 0.6,
    ]
    variances = [(eta * noise) ** 2, (eta * noise) ** 2, noise**2 - (std * eta_b) ** 2]
    assert torch.allclose(out.mean(0) / alpha, torch.tensor(means).double(), atol=0.02)
    assert torch.allclose(out.var(0) / alpha**2, torch.tensor(variances).double(), rtol=0.05)


def test_ddnm_weighs_a_noisy_measurement_over_the_whole_trajectory():
    # x ~ N(0, 1), one y for all: its noise is the same in every step, and must not be believed anew in each
    model, one = oracles.gaussian(COSINE, torch.zeros(1).double(), torch.eye(1).double()), operators.matrix(torch.eye(1).double())
    for std, far, narrow in ((0.2, 0.01, 0.25), (0.5, 0.1, 0.15), (1.0, 0.27, 0.15)):
        y = torch.ones(4000, 1, dtype=torch.float64)
        x = sample(model, plans.ddnm(100), 4000, guidance=Observed(operator=one, y=y, std=std), seed=3)
        truth = 1 / (1 + std**2)
        assert abs(float(x.mean()) - truth) < far  # the rule is biased towards y, and its samples are too alike
        assert narrow * (1 - truth) < float(x.var()) < 1 - truth


def test_ddnm_without_noise_keeps_what_is_known():
    # without noise it is the guidance that keeps what is known
    y, z = torch.where(MARK, normal(3, D), 0.0), normal(3, D, seed=1)
    one = sample(MODEL, plans.ddnm(10, 0.5), 3, start=z, guidance=Observed(operator=MASK, y=y), seed=2)
    other = sample(MODEL, plans.ddim(10, 0.5), 3, start=z, guidance=Known(y, MASK.project), seed=2)
    assert torch.allclose(one, other, atol=1e-12)


def test_gmres_solves_each_sample_by_itself():
    m = normal(4, 5, 5) + 3 * torch.eye(5)
    m[3] = torch.diag(torch.tensor([1.0, 2.0, 0, 0, 0]))  # exhausted after two
    b = normal(4, 5, seed=1)
    b[3, 2:] = 0
    x = inverse.solve(lambda v: torch.einsum("bij,bj->bi", m, v), b, 5)
    assert torch.allclose(torch.einsum("bij,bj->bi", m, x), b, atol=1e-9)
    assert torch.equal(inverse.solve(lambda v: v, torch.zeros(2, 3), 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite beside this measurement"):
        inverse.solve(lambda v: v * torch.nan, torch.ones(2, 3), 3)


# The task


def test_intervals_cover_what_they_say():
    n, samples = 400, 99
    x = MEAN + normal(n, D, seed=11) @ torch.linalg.cholesky(COVARIANCE).T
    y = torch.where(MARK, x, 0.0) + 0.3 * torch.where(MARK, normal(n, D, seed=12), 0.0)
    made = tasks.restore(MODEL, MASK, y, 0.3, plan=plans.trig(8), count=samples, seed=3, batch=20000)
    assert made.samples.shape == (samples, n, D) and made.mean.shape == made.std.shape == (n, D)
    assert tasks.coverage(x, made, 0.9) == pytest.approx(0.9, abs=0.025)
    assert tasks.coverage(x, made, 0.5, ~MARK) == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="5 samples do not tell an interval"):
        tasks.Restored(made.samples[:5], y).interval()


@pytest.mark.parametrize("method", list(tasks.METHODS))
def test_samples_do_not_depend_on_their_batch(method):
    y = torch.where(MARK, normal(2, D), 0.0)
    short = {"dps": plans.ddpm(8), "repaint": plans.repaint(8, 2, 2), "replacement": plans.ddpm(8)}.get(method)
    std = 0.0 if method == "known" else 0.1  # which keeps measurements as they are
    whole = tasks.restore(MODEL, MASK, y, std, method=method, plan=short, count=2, seed=4)
    parts = tasks.restore(MODEL, MASK, y, std, method=method, plan=short, count=2, seed=4, batch=3)
    assert torch.allclose(whole.samples, parts.samples, atol=1e-10)
    later = tasks.restore(MODEL, MASK, y, std, method=method, plan=short, count=1, seed=4, first_id=2)
    assert torch.allclose(later.samples[0], whole.samples[1], atol=1e-10)


def test_refusals():
    y = Y[MATRIX]
    for match, call in {
        r"y has shape \(1, 6\)": lambda: Moments(operator=MATRIX, y=Y[MASK]),
        "std is -1": lambda: Moments(operator=MATRIX, y=y, std=-1.0),
        "not finite": lambda: Moments(operator=MATRIX, y=y / 0),
        "form is 'x'": lambda: DPS(operator=MATRIX, y=y, form="x"),
        "divides by the noise": lambda: DPS(operator=MATRIX, y=y, form="likelihood"),
        "tell of elements": lambda: ByLevels(operator=MATRIX, y=y)(MODEL),
        "method is 'x'": lambda: tasks.restore(MODEL, MATRIX, y, method="x"),
        "steps of its own": lambda: tasks.restore(MODEL, MATRIX, y, method="ddrm", plan=plans.ddim(3)),
        "brings none": lambda: sample(MODEL, plans.ddrm(3), 2),
        "2 measurements for 3": lambda: sample(MODEL, plans.ddim(2), 3, guidance=Moments(operator=MATRIX, y=y.expand(2, -1))),
        "jump is 0": lambda: plans.repaint(10, 0),
        "factor is 3": lambda: operators.super_resolution((1, 8, 8), 3),
        "known marks nothing": lambda: operators.inpaint(torch.zeros(3, dtype=torch.bool)),
        "count is 9": lambda: operators.sense((2, 2, 2), 9),
        "measures samples of shape": lambda: MATRIX(normal(2, 3)),
        "and plain has none": lambda: operators.Operator("plain", (6,), (2,), MATRIX.forward).inverse(y),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    assert isinstance(MODEL(normal(1, D), 0.5), GaussianPosterior)


def test_the_page_measures_every_method():
    page = (Path(__file__).parents[2] / "docs" / "inverse.md").read_text()
    (table,) = re.findall(r"^## Which are exact$(.*?)^## ", page, re.S | re.M)
    measured = re.findall(r"^\| (\w+)(?: \"(\w+)\")?", table, re.M)
    assert set(tasks.METHODS) | {"value"} <= {name for name, _ in measured}
    # and every form of one
    assert {("pigdm", form) for form in ("", "step", "clean")} | {("dps", form) for form in ("norm", "likelihood")} <= set(
        measured
    )


def test_the_page_runs_as_written():
    code = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "inverse.md").read_text(), re.S)
    space: dict[str, object] = {}
    exec(compile("\n".join(code), "inverse.md", "exec"), space)
    made = space["restored"]
    assert made.samples.shape == (8, 4, 1, 8, 8)  # pyright: ignore
    # of three molecules one has two nodes of the type that is worth three nats each
    share = (space["drawn"]["types"] == 1).all(1).float().mean()  # pyright: ignore
    assert share > 0.8
    # rods obey the heat equation as far as the posterior has it, which is normal: r ~ N(b, S), seen to be 0 with deviation .02
    twice = torch.eye(16, dtype=torch.float64).diff(n=2, dim=0)
    prior = twice @ space["smooth"].double() @ twice.T  # pyright: ignore
    b, seen = torch.full((14,), 0.05, dtype=torch.float64), torch.linalg.inv(prior + 0.02**2 * torch.eye(14))
    left = prior - prior @ seen @ prior
    exact = float(((0.02**2 * seen @ b).square() + left.diagonal()).mean().sqrt())
    free, obeying = (float(space["residual"](space[name]).square().mean().sqrt()) for name in ("free", "obeying"))  # pyright: ignore
    assert obeying == pytest.approx(exact, rel=0.1) and free > 5 * exact


def test_coverage_of_values_that_tie_is_that_of_ranks():
    # half the pixels are black in all, and samples miss black by less than a grey level
    g = torch.Generator().manual_seed(0)
    black = torch.rand(20, 400, 1, 4, 4, generator=g) < 0.5
    values = torch.rand(20, 400, 1, 4, 4, generator=g) * 2 - 1
    every = torch.where(black, -1 + 1e-4 * torch.randn(values.shape, generator=g).abs(), values)
    truth, made = every[0], tasks.Restored(every[1:], torch.zeros(400, 1))
    truth = torch.where(black[0], -1.0, truth)
    plainly = tasks.coverage(truth, tasks.Restored(torch.where(black[1:], -1.0, every[1:]), made.y), 0.9)
    assert plainly > 0.93
    assert tasks.coverage(truth, made, 0.9, levels=256) == pytest.approx(0.9, abs=0.01)
    # and spread that is too narrow or too wide is told as before
    assert tasks.coverage(truth, tasks.Restored(made.samples * 0.2, made.y), 0.9, levels=256) < 0.8
