"""Rows that go up, depend on the state, or choose their own steps; noise along a path; plans as values."""

import math

import pytest
import torch

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise, Path
from langevin.core.plan import Plan, Row
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample, trajectory
from langevin.plans import grids
from langevin.plans.corrections import Langevin
from langevin.plans.moves import Renoise
from tests.rows import CATEGORICAL

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)


def exact(schedule=None, std=0.3):
    return oracle.mixture(Gaussian(schedule or schedules.vp_linear()), MEANS.float(), std)


@pytest.mark.parametrize("schedule", ["vp_linear", "flow", "edm", "sub_vp"])
def test_renoise_carries_the_marginal(schedule):
    process = Gaussian(getattr(schedules, schedule)())
    x = torch.full((200_000, 1), 0.8, dtype=torch.float64)
    z = process.renoise(process.marginal(x, 0.2, Noise.of(0, len(x))), 0.2, 0.6, Noise.of(1, len(x)))
    alpha, sigma = (float(v) for v in process.schedule(0.6))
    assert float(z.mean()) == pytest.approx(alpha * 0.8, abs=5 * sigma / len(x) ** 0.5)
    assert float(z.std()) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_renoise_of_categories_is_the_kernel(name):
    process = CATEGORICAL[name]
    x = torch.zeros(1, 1, dtype=torch.int64)
    early = process.marginal_probs(x, 0.3)[0, 0]
    late = torch.zeros(process.states, dtype=torch.float64)
    for state, p in enumerate(early):  # Qbar_s Q_{t|s} = Qbar_t
        since = process._alpha(0.3, x)
        keep = process._keep(process._alpha(0.7, x), since)
        late += p * process.kernel.push(process.one_hot(torch.tensor([[state]])), keep, since)[0, 0]
    assert torch.allclose(late, process.marginal_probs(x, 0.7)[0, 0], atol=1e-10)
    z = process.renoise(torch.zeros(20_000, 1, dtype=torch.int64), 0.0, 0.7, Noise.of(0, 20_000))
    share = torch.bincount(z[:, 0], minlength=process.states) / 20_000
    assert (share - process.marginal_probs(x, 0.7)[0, 0]).abs().max() < 0.015


# Predictors of score SDEs


def published(kind, schedule, t, s):
    """(factor of z, factor of the score, deviation) as 2011.13456 has them: eq. 46 to 48 of tables, eq. 6 of the SDE."""
    if kind == "vp table":
        alpha = [float(schedule(u)[0]) for u in (t, s)]
        beta = 1 - (alpha[0] / alpha[1]) ** 2
        return 2 - math.sqrt(1 - beta), beta, math.sqrt(beta)
    if kind == "ve table":
        sigma = [float(schedule(u)[1]) for u in (t, s)]
        return 1, sigma[0] ** 2 - sigma[1] ** 2, math.sqrt(sigma[0] ** 2 - sigma[1] ** 2)
    low, high = 0.1, 20.0
    beta, total = low + t * (high - low), low * t + (high - low) * t**2 / 2
    if kind == "vp":
        square, drift = beta, -beta / 2
    elif kind == "sub_vp":
        square, drift = beta * (1 - math.exp(-2 * total)), -beta / 2
    else:  # the kernel with which sigma(0) is 0 has the published diffusion
        square, drift = (0.01 * (50 / 0.01) ** t * math.sqrt(2 * math.log(50 / 0.01))) ** 2, 0.0
    return 1 - drift * (t - s), square * (t - s), math.sqrt(square * (t - s))


@pytest.mark.parametrize(
    ("kind", "predictor", "schedule"),
    [
        ("vp table", "reverse_diffusion", schedules.betas("linear")),
        ("ve table", "reverse_diffusion", schedules.ve(levels=1000)),
        ("vp", "euler_maruyama", schedules.vp_linear()),
        ("sub_vp", "euler_maruyama", schedules.sub_vp()),
        ("ve", "euler_maruyama", schedules.ve()),
    ],
)
def test_predictors_are_the_published_steps(kind, predictor, schedule):
    plan = plans.predictor_corrector(1000, corrections=0, predictor=predictor).on(schedule)
    for row in (plan.rows[0], plan.rows[500], plan.rows[-2]):
        alpha, sigma = (float(v) for v in schedule(row.start))
        factor, of_score, deviation = published(kind, schedule, row.start, row.stop)
        assert row.c == pytest.approx(deviation, rel=1e-6)
        assert row.mix[0] == pytest.approx(of_score * alpha / sigma**2, rel=1e-6)
        assert row.a == pytest.approx(factor - of_score / sigma**2, rel=1e-6, abs=1e-9)
    # the last is the belief
    assert plan.rows[-1] == plans.ddpm(1000).on(schedule).rows[-1]


@pytest.mark.parametrize("predictor", ["ancestral", "reverse_diffusion", "euler_maruyama"])
@pytest.mark.parametrize("schedule", ["vp_linear", "sub_vp", "ve"])
def test_predictors_err_as_one_over_their_steps(schedule, predictor):
    """Mean and variance of data N(.7, .5^2), row by row."""
    process, bias = Gaussian(getattr(schedules, schedule)()), []
    for steps in (100, 200):
        mean, var = 0.0, float(process.schedule(1.0)[1]) ** 2
        for row in plans.predictor_corrector(steps, corrections=0, predictor=predictor).on(process.schedule).rows:
            alpha, sigma = (float(v) for v in process.schedule(row.start))
            gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
            w, a, c = process.bridge_numbers(row.start, row.stop, 1.0) if row.a is None else (row.mix[0], row.a, row.c)
            mean, var = (a + w * gain) * mean + w * (1 - gain * alpha) * 0.7, (a + w * gain) ** 2 * var + c**2
        bias.append(abs(mean - 0.7) + abs(var - 0.25))
    assert bias[1] < 0.04 and bias[1] < 0.65 * bias[0]


def test_predictors_that_follow_a_drift_need_signal():
    for predictor in ("reverse_diffusion", "euler_maruyama"):
        with pytest.raises(ValueError, match="no signal at level 1"):
            plans.predictor_corrector(10, predictor=predictor).on(schedules.cosine())
    with pytest.raises(ValueError, match="predictor is 'heun'"):
        plans.predictor_corrector(10, predictor="heun")
    with pytest.raises(ValueError, match="eta is 0"):
        plans.predictor_corrector(10, eta=0.0, predictor="euler_maruyama")


class Same(torch.nn.Module):
    """A network that says what it is shown."""

    def forward(self, z, level, cond=None, mask=None):
        return z


STOCHASTIC = {
    "edm_stochastic": plans.edm_stochastic(40, churn=10, low=0.01, high=1e9, noise=1.0),
    "restart": plans.restart(40),
    "predictor_corrector": plans.predictor_corrector(100, snr=0.1),
    "sa_solver": plans.sa_solver(60),
    "dpmpp_single sde": plans.dpmpp_single(60, 2, True),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_plans_sample_the_law(name):
    n = 4000
    # in 32 dimensions: the published Langevin step divides by the score of a sample, which in 2 may nearly vanish
    points = MEANS.float().repeat(1, 16)
    z = sample(oracle.mixture(Gaussian(schedules.vp_linear()), points, 0.3), STOCHASTIC[name], n, seed=1)[:, :2]
    mean, variance = MEANS.mean(0), MEANS.var(0, unbiased=False) + 0.09
    assert ((z.mean(0) - mean).abs() < 4 * (variance / n).sqrt() + 0.01).all()
    assert ((z.var(0) / variance - 1).abs() < 4 * (2 / n) ** 0.5 + 0.03).all()


def test_langevin_has_the_stationary_variance_of_its_step():
    # z + e s + sqrt(2e) n at the law N(0, C) with step e: Var = C / (1 - e / (2 C)); the data here makes C = 1
    process, n = Gaussian(schedules.vp_linear()), 20_000
    normal = oracle.gaussian(process, torch.zeros(1), torch.ones(1, 1))
    size = 0.2
    rows = [Langevin(start=0.5, stop=0.5, size=size)] * 60
    start = Noise.of(5, n).normal((1,), torch.float64)
    z = sample(normal, Plan(name="l", basis="x0", order=1, rows=tuple(rows)), n, start=start)
    e = size * float(process.schedule(0.5)[1]) ** 2
    assert float(z.var()) == pytest.approx(1 / (1 - e / 2), rel=0.03)


class Wide(BaseDenoiser):
    """The exact belief about data N(0, c I), in so many dimensions that norms are their means."""

    shape = (1000,)

    def __init__(self, schedule, c):
        super().__init__()
        self.process, self.c = Gaussian(schedule), c

    def forward(self, z, t, cond, mask):
        alpha, sigma = (float(v) for v in self.process.schedule(t[""].flatten()[0]))
        return GaussianPosterior(z[""] * (alpha * self.c / (alpha**2 * self.c + sigma**2)))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("name", "r"), [("ve", 0.5), ("ve", 0.16), ("vp", 0.5)])
def test_published_langevin_steps_rest_at_1_plus_r_squared(name, r, together):
    # target N(0, C), a state of variance V: |s|^2 = D V / C^2, so the step is e = 2 (alpha r |n| / |s|)^2 = 2 (alpha r C)^2 / V,
    # and V = (1 - e / C)^2 V + 2 e has the solution C (1 + (alpha r)^2); here C = 1
    model, t, alpha = Wide(schedules.edm(), 0.75), 0.5 / 80, 1.0
    if name == "vp":
        model, t, alpha = Wide(schedules.vp_linear(), 1.0), 0.2, math.exp(-0.5 * (0.1 * 0.2 + 19.9 * 0.2**2 / 2))
    rows = (Langevin(start=t, stop=t, snr=r, together=together),) * 30
    rest = 1 + (alpha * r) ** 2
    start = Noise.of(6, 60).normal((1000,), torch.float64) * rest**0.5  # where it is to stay
    z = sample(model, Plan(name="l", basis="x0", order=1, rows=rows), len(start), start=start)
    assert float(z.var()) == pytest.approx(rest, rel=4 * (2 / z.numel()) ** 0.5)


def test_annealed_langevin_finds_the_modes():
    plan = plans.annealed_langevin(10, 30, 0.2)
    z = sample(exact(schedules.edm(5.0, 0.05), std=0.1), plan, 600, seed=0)
    nearest = torch.cdist(z.double(), MEANS).min(1)
    # each sample is a denoised one near a mode, and every mode is found
    assert float(nearest.values.median()) < 0.2
    assert torch.bincount(nearest.indices, minlength=3).min() > 120


def test_a_consistency_plan_is_exact_for_a_map_that_jumps():
    # the exact flow map of normal data is linear; as the "belief" of a leaping model it makes every plan exact in law
    process = Gaussian(schedules.vp_linear())

    class Jump(oracle.NormalOracle):
        def forward(self, z, t, cond, mask):
            alpha, sigma = process.schedule(t[""])
            spread = (alpha**2 * 0.25 + sigma**2).sqrt()
            return GaussianPosterior(((z[""] - alpha * 0.7) / spread * 0.5 + 0.7).to(z[""].dtype))

    jump = Jump(process, torch.tensor([0.7]), torch.tensor([[0.25]]))
    for plan in (plans.consistency(1), plans.consistency(4), plans.lcm(4)):
        z = sample(jump, plan, 20_000, seed=0)
        assert plan.on(process.schedule).nfe == sum(row.level is not None for row in plan.on(process.schedule).rows)
        assert float(z.mean()) == pytest.approx(0.7, abs=0.015) and float(z.std()) == pytest.approx(0.5, abs=0.012)


def test_variances_of_the_ancestral_step():
    # "large" is exact for standard normal data, "small" for one point, "belief" for any normal data, in one step or many
    process = Gaussian(schedules.vp_linear())
    grid = grids.uniform(1.0, 0.2)
    for variance, std in (("large", 1.0), ("belief", 1.0), ("belief", 0.4), ("small", 1e-4)):
        normal = oracle.gaussian(process, torch.tensor([0.5]), torch.tensor([[std**2]]))
        alpha, sigma = (float(v) for v in process.schedule(0.2))
        start = process.marginal(0.5 + std * Noise.of(9, 40_000).normal((1,), torch.float64), 1.0, Noise.of(8, 40_000))
        z = sample(normal, plans.ddpm(4, variance, grid), 40_000, start=start)
        assert float(z.var()) == pytest.approx(alpha**2 * std**2 + sigma**2, rel=0.03), (variance, std)
    learned = Denoiser(Same(), process, "x0", shape=(1,))
    with pytest.raises(ValueError, match="no variance"):
        sample(learned, plans.ddpm(2, "belief"), 2)


@pytest.mark.parametrize("schedule", ["vp_linear", "flow", "edm"])
def test_adaptive_steps_keep_their_tolerance(schedule):
    denoiser = exact(getattr(schedules, schedule)())
    start = denoiser.process.prior((2,), Noise.of(0, 64), dtype=torch.float64)
    truth = sample(denoiser, plans.trig(800, 4), 64, start=start)
    errors, evaluations = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        for step in trajectory(denoiser, plans.adaptive(tolerance, tolerance), 64, start=start):
            evaluations.append(step.nfe)
            errors.append(float((step.z - truth).square().mean().sqrt()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 2e-4
    assert evaluations[0] < evaluations[1] < evaluations[2] < 600
    # step sizes are each sample's own, so it is the same in any batch
    alone = sample(denoiser, plans.adaptive(1e-4, 1e-4), 1, start=start[5:6])
    together = sample(denoiser, plans.adaptive(1e-4, 1e-4), 64, start=start)
    assert torch.allclose(alone[0], together[5], atol=1e-9)
    with pytest.raises(ValueError, match="most is 20"):
        sample(denoiser, plans.adaptive(1e-6, 1e-6, most=20), 4)


def test_increments_of_a_path_are_those_of_a_brownian_motion():
    n = 20_000
    coarse, fine = Path(Noise.of(3, n)), Path(Noise.of(3, n))
    nodes = [-6.0, -4.3, -4.1, -1.0, 0.2, 0.3, 2.0]

    def increment(path, a, b):
        return path.between(a, b).normal((1,), torch.float64)[:, 0]

    steps = torch.stack([increment(fine, a, b) for a, b in zip(nodes[:-1], nodes[1:], strict=True)])
    correlation = steps @ steps.T / n
    assert torch.allclose(correlation, torch.eye(len(steps), dtype=torch.float64), atol=0.04)  # independent, unit variance
    # the same path in one step: the sum of the fine increments, up to the cell each end lies in
    whole = increment(coarse, -6.0, 2.0)
    clock = [math.exp(v) for v in nodes]
    sums = sum(s * math.sqrt(b - a) for s, a, b in zip(steps, clock[:-1], clock[1:], strict=True)) / math.sqrt(
        clock[-1] - clock[0]
    )
    assert float((whole * sums).mean()) > 0.99
    # asked twice it answers twice the same: corrector rows rely on it
    assert torch.equal(increment(coarse, -6.0, 2.0), whole)


def test_one_seed_gives_comparable_samples_at_any_number_of_steps():
    def distance(noise):
        few, many = (sample(exact(), plans.dpmpp(n, sde=True), 400, seed=4, noise=noise) for n in (40, 160))
        return float((few - many).square().mean().sqrt())

    assert distance("path") < 0.3 * distance("step")
    z = sample(exact(), plans.ddpm(100), 4000, seed=1, noise="path")
    variance = MEANS.var(0, unbiased=False) + 0.09
    assert ((z.var(0) / variance - 1).abs() < 4 * (2 / 4000) ** 0.5 + 0.03).all()
    alone = sample(exact(), plans.ddpm(20), 1, seed=1, first_id=2, noise="path")
    assert torch.allclose(alone[0], sample(exact(), plans.ddpm(20), 4, seed=1, noise="path")[2], atol=1e-5)
    with pytest.raises(ValueError, match="'step', or along one 'path'"):
        sample(exact(), plans.ddpm(2), 1, noise="tree")


@pytest.mark.parametrize("make", [plans.trig(8), plans.dpmpp(8), plans.heun(8), plans.unipc(8), plans.ddpm(8), plans.rk4(4)])
def test_a_plan_may_begin_in_the_middle(make):
    denoiser = exact()
    whole = make.on(denoiser.process.schedule)
    part = plans.after(whole, 0.5)
    assert part.rows[0].start <= 0.5 < 1 and part.rows[-1] == whole.rows[-1]
    x = MEANS[[0, 1, 2, 0]] + 0.3 * Noise.of(1, 4).normal((2,), torch.float64)
    z = denoiser.process.marginal(x, part.rows[0].start, Noise.of(0, 4))
    out = sample(denoiser, part, 4, start=z)
    # from there the flow ends near the mode that is visible in z
    truth = sample(denoiser, plans.adaptive(1e-5, 1e-5).on(denoiser.process.schedule), 1)
    assert truth.isfinite().all() and torch.cdist(out, MEANS).min(1).values.max() < 1.2
    with pytest.raises(ValueError, match="no row at or below"):
        plans.after(whole, 1e-9)


def test_two_plans_join_where_they_meet():
    schedule = schedules.vp_linear()
    high, low = plans.ddpm(5, grid=grids.uniform(1.0, 0.4)), plans.dpmpp(5, grid=grids.log_snr(0.4, 0.0))
    joined = plans.join(high.on(schedule), low.on(schedule))
    assert joined.nfe == 10 and joined.order == 1 and joined.rows[4].eta == 1 and joined.rows[5].eta == 0
    with pytest.raises(ValueError, match="where the last ended"):
        plans.join(low.on(schedule), high.on(schedule))
    with pytest.raises(ValueError, match="one basis"):
        plans.join(high.on(schedule), plans.lms(3, grid=grids.log_snr(0.4, 0.0)).on(schedule))


EVERY = {
    name: make(length=4) if name == "first_hitting" else make()
    for name, make in plans.PLANS.items()
    if name not in ("annealed_langevin", "predictor_corrector", "ddpm")
}


@pytest.mark.parametrize("name", EVERY)
def test_every_plan_is_printed_and_comes_back_from_json(name):
    own = {"edm": schedules.edm(), "sd3": schedules.flow()}
    plan = EVERY[name].on(own.get(name, schedules.betas("scaled_linear")))
    again = Plan.from_json(plan.to_json())
    assert again == plan and plans.compare(plan, again) == "the same"
    assert len(str(plan).splitlines()) == len(plan.rows) + 2


def test_compare_names_the_first_difference():
    schedule = schedules.cosine()
    one, other = plans.dpmpp(8).on(schedule), plans.dpmpp(8, order=3).on(schedule)
    assert plans.compare(one, other).startswith("row 1, mix:") or plans.compare(one, other).startswith("row 2, mix:")
    assert plans.compare(one, plans.dpmpp(9).on(schedule)).startswith("row 0, stop:")
    assert plans.compare(one, plans.lms(8).on(schedules.vp_linear())) == "basis: 'x0' and 'eps'"


def test_refusals():
    categorical = oracle.enumerated(Categorical(3, schedules.keep_linear()), torch.ones(3, 3) / 9)
    for plan, words in (
        (plans.trig(4), "keeps a v"),
        (plans.ddpm(4, "large"), "writes out the factor"),
        (plans.adaptive(), "keeps a v"),
        (plans.predictor_corrector(4), "follows a score"),
        (plans.lms(4), "categorical"),
    ):
        with pytest.raises(ValueError, match=words):
            sample(categorical, plan, 2)
    with pytest.raises(ValueError, match="stays at one level"):
        Plan(name="p", basis="x0", order=1, rows=(Langevin(start=0.5, stop=0.4),))
    with pytest.raises(ValueError, match="the end lies above"):
        Plan(name="p", basis="x0", order=1, rows=(Renoise(start=0.5, stop=0.4),))
    with pytest.raises(ValueError, match="write it out"):
        Plan(name="p", basis="v", order=1, rows=(Row(level=1.0, start=1.0, stop=0.0),))
    with pytest.raises(ValueError, match="no option 'sede'"):
        plans_with_typo()


def plans_with_typo():
    try:
        sample(exact(), plans.ddim(2), 1, sede=3)  # pyright: ignore
    except TypeError as error:
        raise ValueError(str(error)) from None


@pytest.mark.parametrize("schedule", [schedules.vp_linear(), schedules.ve(0.01, 50)], ids=["vp", "ve"])
@pytest.mark.parametrize("plan", [plans.predictor_corrector(60), plans.splitting(100)], ids=["corrector", "splitting"])
def test_corrections_keep_the_law_in_few_dimensions(schedule, plan):
    # the score of one sample is often near 0 there; a step that is divided by it has no mean (std 2 to 200 instead of 1)
    for size in (1, 2):
        normal = oracle.gaussian(Gaussian(schedule), torch.zeros(size), torch.eye(size))
        z = sample(normal, plan, 3000, seed=1)
        assert 0.9 < float(z.double().std()) < 1.2 and float(z.abs().max()) < 8


def test_paths_give_rows_that_draw_twice_two_draws():
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    normal = oracle.gaussian(Gaussian(schedules.vp_linear()), torch.zeros(2), covariance)
    z = sample(normal, plans.splitting(100, snr=0.0), 6000, seed=1, noise="path")
    assert torch.allclose(torch.cov(z.double().T), covariance.double(), atol=0.08)
