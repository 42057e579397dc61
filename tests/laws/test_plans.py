"""Every plan: the order it declares, the evaluations it documents, one step, and the laws it samples."""

import functools
import math

import pytest
import torch

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row
from langevin.core.process import Product
from langevin.core.sample import plans_for, sample, trajectory
from langevin.plans import grids
from langevin.plans.analysis import terminal_moments
from langevin.plans.integrals import Integrals
from langevin.plans.trig_sde import of_beliefs
from tests.rows import DETERMINISTIC, NEEDS_SIGNAL, PLANS, SCHEDULES, STOCHASTIC

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)


class Counting(torch.nn.Module):
    """Counts calls of a denoiser, and the batch it is called with."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.calls = denoiser, 0
        self.process, self.shape = denoiser.process, denoiser.shape

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.denoiser(*args, **kwargs)


def slope(steps, errors):
    x, y = torch.tensor([math.log(n) for n in steps]), torch.tensor([math.log(e) for e in errors])
    return -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


# Where order is measured: exact flows of a mixture, on grids that stop before the leap to clean data. A multistep plan
# begins with a step of low order, whose error is that of x^ at the noisiest level: it fades as alpha^2, so the start is noisy.
LOG_SNR, ANGLE = grids.log_snr(1.0, 0.05), grids.angle(0.5, 0.75, 1.0, 0.05)
SETTINGS = {
    "heun eps": ("vp_linear", grids.log_snr(0.9, 0.05)),
    "heun velocity": ("flow", grids.uniform(0.98, 0.1)),
    "midpoint velocity": ("flow", grids.uniform(0.98, 0.1)),
    "heun3 velocity": ("flow", grids.uniform(0.98, 0.1)),
    "rk4 velocity": ("flow", grids.uniform(0.98, 0.1)),
    "rk4 eps": ("vp_linear", grids.log_snr(0.9, 0.05)),
    "adams_bashforth 3": ("vp_linear", grids.uniform(1.0, 0.1)),
    "deis 2": ("vp_linear", grids.uniform(1.0, 0.1)),
    "deis 3": ("vp_linear", grids.uniform(1.0, 0.1)),
    "plms 2": ("vp_linear", grids.uniform(1.0, 0.1)),
    "plms 4": ("vp_linear", grids.uniform(1.0, 0.1)),
    "pndm": ("vp_linear", grids.uniform(0.9, 0.1)),
    "deis 3 sigma": ("vp_linear", grids.karras(7, 1.0, 0.05)),
    "lms": ("vp_linear", grids.karras(7, 1.0, 0.05)),
    "trig 2": ("vp_linear", ANGLE),
    "trig 3": ("vp_linear", ANGLE),
    "ddim": ("cosine", grids.uniform(0.95, 0.1)),
    "euler": ("cosine", grids.uniform(0.95, 0.1)),
}


@functools.cache
def flow_of(schedule, start, stop):
    """64 states at `start` and where the exact flow takes them; a fine plan of order 5, the same for all that ask."""
    exact = oracle.mixture(Gaussian(SCHEDULES[schedule]), MEANS, 0.5)
    begin = Noise.of(0, 64).normal((2,), torch.float64)
    fine = plans.trig(1000, 4, grid=grids.angle(0.5, 0.75, start, stop))
    return exact, begin, sample(exact, fine, 64, start=begin)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name):
    make, order, _ = PLANS[name]
    schedule, grid = SETTINGS.get(name, ("vp_linear", LOG_SNR))
    levels = grid(SCHEDULES[schedule], 1)
    exact, start, reference = flow_of(schedule, levels[0], levels[-1])
    steps = {"unipc 3": (60, 120, 240), "rk4 velocity": (24, 48, 96)}.get(name, (40, 80, 160))
    errors = [float((sample(exact, make(n, grid), 64, start=start) - reference).square().mean().sqrt()) for n in steps]
    # the interior of trig 3 is of order 4; its first steps, of order 3, rule only in the end
    assert order - 0.2 <= slope(steps, errors) <= order + (1.0 if name == "trig 3" else 0.2)
    assert make(3, grid).on(SCHEDULES[schedule]).order == order


@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order_of_stochastic_plans(name):
    # for normal data the mean and the variance after n steps are exact numbers, without sampling error
    make, declared, _ = PLANS[name]
    assert make(3, LOG_SNR).on(SCHEDULES["vp_linear"]).order == declared
    reached = plans.order(lambda n: make(n, LOG_SNR), schedules.vp_linear(), (160, 320, 640))
    assert declared - 0.2 <= reached <= declared + (1 if "sa_solver" in name or "trig" in name else 0.2)  # a corrector may gain


def test_tau_acts_within_its_window_alone():
    schedule = schedules.vp_linear()
    plan, still, whole = (
        plans.sa_solver(20, low=low, high=high, tau=tau).on(schedule)
        for low, high, tau in ((0.1, 2.0, 0.7), (0.0, 9.0, 0.0), (0.0, 1e9, 0.7))
    )
    within = [0.1 <= math.exp(-float(schedule.lam(row.start)) / 2) <= 2 for row in plan.rows]
    assert 0 < sum(within) < len(within)
    for row, calm, wild, noisy in zip(plan.rows, still.rows, whole.rows, within, strict=True):
        assert row == (wild if noisy else calm)
    assert plans.parse("sa_solver:20:low=0.1,high=2,tau=0.7").on(schedule) == plan


def test_below_its_lowest_noise_trig_sde_is_trig():
    # noise above, in each step; from where both meet the rows are trig's, folded into beliefs
    schedule, start = schedules.vp_linear(), Noise.of(3, 64).normal((2,), torch.float64)
    exact = oracle.mixture(Gaussian(schedule), MEANS, 0.3)
    plan, levels = plans.trig_sde(12, low=1.0).on(schedule), grids.angle(0.5, 0.73)(schedule, 12)
    drawn = {row.start for row in plan.rows if row.eta}
    assert drawn == {t for t in levels[:-1] if math.exp(-float(schedule.lam(t)) / 2) > 1} and 1 < len(drawn) < 12
    tail = plans.trig(12 - len(drawn), 2, grid=grids.given(levels[len(drawn) :])).on(schedule)
    folded = Plan(name="folded", basis="x0", order=1, rows=tuple(of_beliefs(tail, exact.process)))
    ends = [sample(exact, p, 64, start=start) for p in (tail, folded)]
    assert torch.allclose(*ends, atol=1e-9)
    kept = of_beliefs(tail, exact.process, evaluated=True)
    assert list(plan.rows[-len(kept) :]) == kept and kept[0].level is None and plan.nfe == 12
    with pytest.raises(ValueError, match="draws noise"):
        of_beliefs(plans.ddpm(3).on(schedule), exact.process)
    with pytest.raises(ValueError, match="tau is 0"):
        plans.trig_sde(3, tau=0.0)


def test_few_steps_with_fresh_noise_leave_modes_their_width():
    exact = oracle.mixture(Gaussian(schedules.cosine()), MEANS.float(), 0.1)
    found = {}
    for name, plan in {"trig_sde": plans.trig_sde(10), "sde": plans.dpmpp(10, sde=True), "sa": plans.sa_solver(10)}.items():
        z = sample(exact, plan, 4000, seed=1).double()
        found[name] = float((torch.cdist(z, MEANS).amin(1).square().mean() / 2).sqrt()) / 0.1 - 1
        share = torch.bincount(torch.cdist(z, MEANS).argmin(1), minlength=3) / 4000
        assert (share - 1 / 3).abs().max() < 0.03, name
    assert abs(found["trig_sde"]) < 0.1 and min(abs(found["sde"]), abs(found["sa"])) > 0.5


def mean_error(name, steps):
    """How far the mean of samples of normal data is from the data's, by plans that draw noise, in closed form."""
    schedule = schedules.vp_linear()
    (alpha, sigma), (end_alpha, _) = ([float(v) for v in schedule(t)] for t in (1.0, 0.05))
    plan = PLANS[name][0](steps, LOG_SNR).on(schedule)
    return terminal_moments(plan, schedule, 0.7, 0.3, (alpha * 0.7, alpha**2 * 0.3 + sigma**2))[0] - end_alpha * 0.7


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_mean_of_a_linear_problem_is_exact_where_beliefs_are_extrapolated(name):
    if name != "trig_sde":
        assert mean_error(name, 20) == pytest.approx(0, abs=1e-9)
        return
    # its last steps extrapolate v, which is no constant along the mean: of its order
    errors = [abs(mean_error(name, n)) for n in (40, 80, 160)]
    assert errors[0] < 1e-5 and all(4 < a / b < 10 for a, b in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_evaluations_are_as_documented(name, steps):
    make, _, evaluations = PLANS[name]
    schedule = "vp_linear" if any(word in name for word in NEEDS_SIGNAL) else "flow"
    counting = Counting(oracle.mixture(Gaussian(SCHEDULES[schedule]), MEANS, 0.3))
    z = sample(counting, make(steps, "uniform"), 4, seed=0)
    assert counting.calls == evaluations(steps) and z.isfinite().all()
    # one evaluation lands on the belief's mean at pure noise, which is the mean of the data
    if evaluations(steps) == 1:
        assert torch.allclose(z.double(), counting.denoiser(sample_prior(counting, 4), 1.0).mean.double(), atol=1e-4)


def sample_prior(denoiser, count):
    return denoiser.process.prior((2,), Noise.of(0, count).at("prior").at(""))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", grids.GRIDS)
def test_grids_fall_to_zero_without_a_wasted_step(grid, schedule):
    s = SCHEDULES[schedule].requires_grad_(False)
    for steps in (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000):
        if steps > 999 and grid == "linspace":  # it has 999 steps
            continue
        levels = grids.named(grid)(s, steps)
        assert len(levels) == steps + 1 and levels[-1] == 0 and 0 < levels[0] <= 1
        assert all(a > b for a, b in zip(levels[:-1], levels[1:], strict=True)), (steps, levels[:5])
        if grid != "leading":
            assert levels[0] == 1


@pytest.mark.parametrize("schedule", [schedules.bayesian_flow(0.03), schedules.bayesian_flow_categories(3, 3.0)], ids=str)
def test_where_noise_is_left_at_level_0_levels_walk_all_the_way(schedule):
    for steps in (1, 2, 5, 50):
        levels = grids.log_snr()(schedule, steps)
        assert levels[0] == 1 and levels[-1] == 0 and len(levels) == steps + 1
        lam = schedule.lam(torch.tensor(levels[1:], dtype=torch.float64))
        apart = (float(schedule.lam(0.0)) + 2 * math.log(1000)) / steps
        assert torch.allclose(lam, lam[-1] - apart * torch.arange(steps - 1, -1, -1, dtype=torch.float64), atol=1e-6)
    # a step within a step has somewhere to go, and the flow is followed to the law of level 0 at its order
    alpha, sigma = (float(v) for v in schedule(0.0))
    end = alpha * 0.7, alpha**2 * 0.3 + sigma**2
    for recipe, falls in ((plans.dpmpp_single, 3.0), (plans.ddim, 1.7)):
        off = []
        for steps in (20, 40):
            mean, variance = terminal_moments(recipe(steps, grid="log_snr").on(schedule), schedule, 0.7, 0.3, (0.0, 1.0))
            off.append(abs(variance - end[1]) + abs(mean - end[0]))
        assert off[0] < 0.1 and off[0] > falls * off[1], (recipe, off)


def test_karras_grid_is_edms():
    levels = torch.tensor(grids.karras()(schedules.edm(), 18), dtype=torch.float64)
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # 2206.00364, eq. 5
    assert torch.allclose(80 * levels[:-1], sigmas, rtol=1e-9)


def test_published_timesteps():
    assert [round(1000 * t) - 1 for t in grids.trailing()(schedules.betas(), 10)[:-1]] == [999 - 100 * i for i in range(10)]
    assert [round(1000 * t) - 1 for t in grids.leading()(schedules.betas(), 10)[:-1]] == [901 - 100 * i for i in range(10)]


def test_ddim_is_the_papers_formula():
    process, x_hat = Gaussian(schedules.betas("linear")), torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    for eta in (0.0, 0.5, 1.0):
        plan = plans.ddim(10, eta=eta).on(process.schedule)
        number, row = process.numbers(plan)[3], plan.rows[3]
        (a, _), (a_prev, _) = (process.schedule(v) for v in (row.start, row.stop))
        bar, bar_prev = a**2, a_prev**2
        z = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
        eps = (z - bar.sqrt() * x_hat) / (1 - bar).sqrt()
        sigma = eta * ((1 - bar_prev) / (1 - bar)).sqrt() * (1 - bar / bar_prev).sqrt()  # 2010.02502, eq. 16
        expected = bar_prev.sqrt() * x_hat + (1 - bar_prev - sigma**2).sqrt() * eps
        assert torch.allclose(number.a * z + number.w[0] * x_hat, expected, atol=1e-12)
        assert number.c == pytest.approx(float(sigma), abs=1e-12)


def test_ddpm_is_the_papers_posterior():
    process = Gaussian(schedules.betas("linear"))
    plan = plans.ddpm(10).on(process.schedule)
    number, row = process.numbers(plan)[3], plan.rows[3]
    bar, bar_prev = (float(process.schedule(v)[0]) ** 2 for v in (row.start, row.stop))
    beta = 1 - bar / bar_prev
    assert number.w[0] == pytest.approx(bar_prev**0.5 * beta / (1 - bar), rel=1e-9)  # 2006.11239, eq. 7
    assert number.a == pytest.approx((1 - beta) ** 0.5 * (1 - bar_prev) / (1 - bar), rel=1e-9)
    assert number.c**2 == pytest.approx(beta * (1 - bar_prev) / (1 - bar), rel=1e-9)


def test_euler_ancestral_is_k_diffusions_formula():
    process, eta = Gaussian(schedules.ve(0.02, 50)), 0.8
    plan = plans.euler_ancestral(8, eta=eta).on(process.schedule)
    number, row = process.numbers(plan)[2], plan.rows[2]
    s, t = (float(process.schedule(v)[1]) for v in (row.start, row.stop))
    up = min(t, eta * (t**2 * (s**2 - t**2) / s**2) ** 0.5)
    down = (t**2 - up**2) ** 0.5
    assert number.c == pytest.approx(up, rel=1e-9) and number.a == pytest.approx(down / s, rel=1e-9)


def test_dpmpp_2m_is_the_papers_formula():
    process = Gaussian(schedules.vp_linear())
    plan = plans.dpmpp(8, order=2).on(process.schedule)
    number, row, before = process.numbers(plan)[4], plan.rows[4], plan.rows[3]
    lam = [float(process.schedule.lam(v)) / 2 for v in (before.start, row.start, row.stop)]
    (_, sigma_t), (alpha_s, sigma_s) = ([float(v) for v in process.schedule(u)] for u in (row.start, row.stop))
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    scale = -alpha_s * math.expm1(-h)  # 2211.01095, algorithm 2
    assert number.a == pytest.approx(sigma_s / sigma_t, rel=1e-9)
    assert number.w[0] == pytest.approx(scale * (1 + 1 / (2 * r)), rel=1e-9)
    assert number.w[1] == pytest.approx(-scale / (2 * r), rel=1e-9)


@pytest.mark.parametrize("variable", ["lam", "angle", "sigma", "t"])
@pytest.mark.parametrize(("basis", "rate"), [("x0", 1.0), ("x0", 2.0), ("x0", 1.25), ("eps", 1.0), ("v", 1.0), ("velocity", 1.0)])
def test_weights_integrate_polynomials_exactly(basis, rate, variable):
    # sum_j w_j p(tau_j) = the integral of p(tau) over the step, for every cubic p; by a fine trapezoid in log(alpha/sigma)
    if basis == "velocity" and variable != "t":
        pytest.skip("a velocity is integrated over t")
    schedule, d = schedules.vp_linear(), 0.7
    nodes, stop = [0.5, 0.6, 0.72, 0.9], 0.4
    integrals = Integrals(schedule, basis, variable, d)
    weights = integrals.step(nodes[0], stop, nodes, rate)
    t = torch.linspace(nodes[0], stop, 200_001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    u = (alpha / sigma).log()
    tau = {"lam": u, "angle": torch.atan2(sigma, alpha * d), "sigma": sigma / alpha, "t": t}[variable]
    over = {"x0": (rate * u).exp(), "eps": sigma / alpha, "v": torch.atan2(sigma, alpha * d), "velocity": t}[basis]
    at = torch.tensor(integrals.places(nodes), dtype=torch.float64)
    for power in range(4):
        exact = torch.trapezoid(tau**power, over)
        exact = exact / (over[-1] - over[0]) if basis in ("x0", "eps") else exact
        assert float((torch.tensor(weights, dtype=torch.float64) * at**power).sum()) == pytest.approx(float(exact), rel=1e-8)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_plans_sample_the_law(name):
    n = 4000
    if needs := "eps" in name:  # signal at the start, and is refused where there is none
        with pytest.raises(ValueError, match="alpha is 0 at level 1"):
            sample(oracle.mixture(Gaussian(schedules.cosine()), MEANS.float(), 0.3), PLANS[name][0](100, "uniform"), 4)
    exact = oracle.mixture(Gaussian(SCHEDULES["vp_linear"] if needs else schedules.cosine()), MEANS.float(), 0.3)
    z = sample(exact, PLANS[name][0](100, "uniform"), n, seed=1)
    mean, variance = MEANS.mean(0), MEANS.var(0, unbiased=False) + 0.09
    assert ((z.mean(0) - mean).abs() < 4 * (variance / n).sqrt() + 0.01).all()
    assert ((z.var(0) / variance - 1).abs() < 4 * (2 / n) ** 0.5 + 0.03).all()


def test_eulers_grid_suits_the_schedule():
    """Equal steps of t on flows; steps of sigma/alpha, on Karras's grid, where that is moderate."""
    flow, edm = schedules.flow(), schedules.edm()
    for plan in (plans.euler(5), plans.euler_ancestral(5)):
        assert plan.on(flow).levels == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
        assert plan.on(edm).levels == pytest.approx(grids.karras()(edm, 5))
    exact = oracle.mixture(Gaussian(flow), MEANS, 0.3)
    start = torch.randn(200, MEANS.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    end = sample(exact, plans.heun(50, grid="uniform"), 200, start=start)
    off = {name: float((sample(exact, plan, 200, start=start) - end).square().mean().sqrt())
           for name, plan in (("euler", plans.euler(10)), ("karras", plans.euler(10, grid="karras")))}  # fmt: skip
    assert off["euler"] < 0.6 * off["karras"]


def test_a_learned_schedule_samples():
    schedule = schedules.learned()
    exact = oracle.mixture(Gaussian(schedule), MEANS.float(), 0.3)
    for plan in (plans.dpmpp(20), plans.euler(20), plans.heun(10)):
        z = sample(exact, plan, 500, seed=0)
        assert ((z.mean(0) - MEANS.mean(0)).abs() < 0.2).all() and z.std() > 0.5


@pytest.mark.parametrize("limit", ["uniform", "mask", "marginal"])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp 2"])
def test_the_same_plans_sample_categories(name, limit):
    table = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.15]], dtype=torch.float64)
    law = torch.tensor([0.5, 0.3, 0.2]) if limit == "marginal" else limit
    exact = oracle.enumerated(Categorical(3, schedules.keep_linear(), law), table)
    n = 20_000
    z = sample(exact, PLANS[name][0](100, "uniform"), n, seed=1)
    share = torch.zeros(3, 3, dtype=torch.float64).index_put_((z[:, 0], z[:, 1]), torch.ones(n, dtype=torch.float64) / n, True)
    assert float((share - table).abs().sum() / 2) < 0.02


def joint_oracle():
    """Pictures near one of three points, each with its own label: a product whose leaves depend on each other."""
    process = Product({"x": Gaussian(schedules.cosine()), "label": Categorical(3, schedules.keep_linear(), "mask")})
    return oracle.Mixture(process, {"x": MEANS, "label": torch.tensor([0, 1, 2])}, torch.tensor([0.5, 0.3, 0.2]), std=0.05)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp 2"])
def test_one_call_serves_all_leaves_of_a_product(name):
    counting = Counting(joint_oracle())
    z = sample(counting, PLANS[name][0](60, "uniform"), 3000, seed=0)
    assert counting.calls == 60
    nearest = torch.cdist(z["x"].double(), MEANS).argmin(1)
    assert float((nearest == z["label"]).double().mean()) > 0.97  # they agree, though drawn leaf by leaf
    share = torch.bincount(z["label"], minlength=3).double() / 3000
    assert (share - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.04


def test_conditional_directions_by_levels_of_zero():
    exact = joint_oracle()
    label = torch.arange(300) % 3
    z = sample(exact, plans.ddim(40), 300, seed=0, given={"label": label})
    assert torch.equal(z["label"], label) and torch.equal(torch.cdist(z["x"].double(), MEANS).argmin(1), label)
    z = sample(exact, plans.ddpm(40), 300, seed=0, given={"x": MEANS[label].float()})
    assert torch.equal(z["label"], label) and torch.equal(z["x"], MEANS[label].float())
    # per element: one coordinate known exactly singles out the component
    known = torch.tensor([True, False]).expand(300, 2)
    z = sample(exact, plans.dpmpp(40), 300, seed=0, given={"x": MEANS[label].float()}, known={"x": known})
    assert torch.equal(z["x"][:, 0], MEANS[label, 0].float())
    assert float((torch.cdist(z["x"].double(), MEANS).argmin(1) == label).double().mean()) > 0.97


@pytest.mark.parametrize("name", PLANS)
def test_a_sample_is_the_same_in_any_batch(name):
    schedule = "vp_linear" if any(word in name for word in NEEDS_SIGNAL) else "cosine"
    exact = oracle.mixture(Gaussian(SCHEDULES[schedule]), MEANS.float(), 0.3)
    plan = PLANS[name][0](8, "uniform")
    whole = sample(exact, plan, 8, seed=5)
    assert torch.equal(sample(exact, plan, 8, seed=5), whole)
    for first, count in ((4, 1), (3, 3)):
        part = sample(exact, plan, count, seed=5, first_id=first)
        assert torch.allclose(part, whole[first : first + count], atol=1e-5)


def test_trajectory_can_be_watched_and_stopped():
    exact = oracle.mixture(Gaussian(schedules.cosine()), MEANS.float(), 0.3)
    steps = trajectory(exact, plans.ddim(10), 4)
    seen = [next(steps) for _ in range(3)]
    assert [s.row for s in seen] == [0, 1, 2] and seen[2].level == pytest.approx(0.7)
    steps.close()


def test_plans_are_values():
    plan = plans.dpmpp(6, order=3).on(schedules.cosine())
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.nfe == 6 and len(plan.levels) == 7 and "dpmpp(6, order=3)" in str(plan)
    heun = plans.heun(4).on(schedules.edm())
    assert heun.nfe == 7 and len(heun.levels) == 5
    exact = oracle.mixture(Gaussian(schedules.cosine()), MEANS.float(), 0.3)
    assert torch.equal(sample(exact, plan, 2, seed=1), sample(exact, plans.dpmpp(6, order=3), 2, seed=1))
    assert list(plans_for(exact.process, plan)) == [""]


def test_broken_tables_are_refused():
    good = Row(level=1.0, start=1.0, stop=0.0)
    cases = [
        ((), "has no rows"),
        ((Row(level=1.0, start=1.0, stop=1.0),), "levels fall"),
        ((Row(level=1.0, start=1.0, stop=0.5), good), "where the last ended"),
        ((Row(level=1.0, start=1.0, stop=0.5, mix=(0.7,)),), "summing to 1"),
        ((Row(level=1.0, start=1.0, stop=0.5, mix=(0.5, 0.5)),), "made so far"),
        ((Row(level=1.0, start=1.0, stop=0.5, eta=1.5),), "eta lies in"),
    ]
    for rows, message in cases:
        with pytest.raises(ValueError, match=message):
            Plan(name="bad", basis="x0", order=1, rows=rows)
    for text in ("{}", "[]", "nonsense", '{"rows": [{"level": 1}]}', '{"name": "a", "rows": [], "extra": 1}'):
        with pytest.raises(ValueError, match="no saved plan"):
            Plan.from_json(text)
