"""Complaints about samplers, in miniature: each names the thread, or the measured fault of a peer, that we do not have.

The faults are those found in November 2026 by running diffusers 0.42.1, k-diffusion 0.1.1 and azula 0.11.1 on exact scores.
Where a fault is a table, our profile of the peer has it, and the two are held side by side.
"""

import dataclasses
import functools
import inspect
import math

import pytest
import torch

import langevin as lv
from langevin import plans, schedules
from langevin.core.batch import Batch
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row
from langevin.objectives import Denoising
from langevin.plans import grids
from langevin.plans.analysis import terminal_moments
from langevin.plans.bayesian_flow import Settle
from langevin.plans.corrections import Langevin
from langevin.plans.profiles import diffusers, k_diffusion, sd3
from langevin.plans.profiles.solvers import NAMED

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
CATEGORIES = ("confidence", "defog", "first_hitting", "flow_jumps", "remask", "tau_leaping", "tilted")
MEASURED = ("ddnm", "ddrm")  # which read a measurement of the data

# plan -> its documented evaluations at n steps; a new plan joins by its row
ONE_A_STEP = [
    "adams_bashforth", "confidence", "consistency", "controlled", "ddim", "ddnm", "ddpm", "ddrm", "default", "defog", "deis",
    "diffusers", "dpm_solver_multistep", "dpmpp", "euler", "euler_ancestral", "first_hitting", "flow_jumps",
    "k_diffusion", "lcm", "lms",
    "multistep", "plms", "remask", "sa_solver", "sd3", "splitting", "tau_leaping", "tilted", "trajectory", "trig", "trig_sde",
    "unipc",
]  # fmt: skip
TWO_A_STEP = ["dpm_2", "dpm_solver", "dpmpp_single", "edm", "edm_stochastic", "heun"]  # and one for the last
EVALUATIONS = {
    **dict.fromkeys(ONE_A_STEP, lambda n: n),
    **dict.fromkeys(TWO_A_STEP, lambda n: 2 * n - 1),
    "midpoint": lambda n: 2 * n,
    "heun3": lambda n: 3 * n,
    "rk4": lambda n: 4 * n - 3,
    "pndm": lambda n: n + 3 * min(3, n - 1),
    "annealed_langevin": lambda n: 100 * n + 1,
    "predictor_corrector": lambda n: 2 * n,
    "score_sde": lambda n: 2 * n,
    "restart": lambda n: 2 * n - 1 + (16 if n > 1 else 0),
    "bayesian_flow": lambda n: n + 1,
    "repaint": lambda n: n + 9 * 10 * ((n - 1) // 10),
}
SCHEDULE = {"edm": schedules.edm(), "sd3": schedules.flow()}

# every way to draw noise
STOCHASTIC = {
    "ddim": plans.ddim(6, eta=0.5),
    "ddpm": plans.ddpm(6),
    "ddpm large": plans.ddpm(6, "large"),
    "ddpm belief": plans.ddpm(6, "belief"),
    "euler_ancestral": plans.euler_ancestral(6),
    "dpmpp sde": plans.dpmpp(6, sde=True),
    "dpmpp_single sde": plans.dpmpp_single(4, sde=True),
    "sa_solver": plans.sa_solver(6),
    "trig_sde": plans.trig_sde(6),
    "edm_stochastic": plans.edm_stochastic(6, grid=grids.karras(start=0.9)),
    "restart": plans.restart(4),
    "predictor_corrector": plans.predictor_corrector(4),
    "score_sde": plans.score_sde(4),
    "annealed_langevin": plans.annealed_langevin(3, per_level=3),
    "consistency": plans.consistency(3),
    "lcm": plans.lcm(3),
    "trajectory": plans.trajectory(4, gamma=0.5),
    "diffusers": diffusers(6, "sde_dpmpp_2m", "karras"),
    "k_diffusion": k_diffusion(6, "euler_ancestral"),
}


def exact(schedule, std=0.2):
    return lv.oracles.mixture(Gaussian(schedule), MEANS, std)


# Tables


def test_diffusers_12771_cosine_betas_with_karras_levels_under_every_plan():
    # there: duplicate integer timesteps, and an index that drifts; here a level is never looked up
    model = exact(schedules.betas("cosine"))
    for name, make in plans.PLANS.items():
        if "grid" not in inspect.signature(make).parameters or name in (*CATEGORIES, *MEASURED):
            continue
        options = {"per_level": 2} if name == "annealed_langevin" else {}
        plan = make(5, grid="karras", **options).on(model.process.schedule)
        steps = list(lv.trajectory(model, plan, 4))
        assert steps[-1].z.isfinite().all() and steps[-1].nfe == plan.nfe, name
        if all(isinstance(row, Row) for row in plan.rows):
            assert plan.nfe == EVALUATIONS[name](5)
            assert all(a > b for a, b in zip(plan.levels[:-1], plan.levels[1:], strict=True)), name


# adaptive ones are one row, of as many steps as it needs
@pytest.mark.parametrize("name", [n for n in plans.PLANS if n not in ("adaptive", "dpm_adaptive")])
def test_diffusers_4122_and_6477_as_many_steps_as_asked_and_none_of_size_zero(name):
    schedule = SCHEDULE.get(name, schedules.betas("scaled_linear"))
    for n in (1, 2, 3, 4, 5, 10, 20, 50, 100):
        if n > {"lcm": 50, "annealed_langevin": 5}.get(name, 100):
            continue
        plan = plans.PLANS[name](n).on(schedule)
        assert plan.nfe == EVALUATIONS[name](n), n
        assert plan.rows[-1].stop == 0 and all(
            row.start != row.stop for row in plan.rows if not isinstance(row, (Langevin, Settle))
        )
        if all(isinstance(row, Row) for row in plan.rows):
            assert plan.levels.count(0.0) == 1, n
            assert all(a > b for a, b in zip(plan.levels[:-1], plan.levels[1:], strict=True)), n
            # the network is told the level that the state is at
            assert name == "diffusers" or all(row.shown is None for row in plan.rows if isinstance(row, Row))


def test_diffusers_13243_a_shift_in_the_schedule_or_in_the_grid_is_one_shift():
    once = schedules.flow(shift=3.0)
    in_schedule = once.sigma(torch.tensor(plans.ddim(28).on(once).levels, dtype=torch.float64))
    in_grid = torch.tensor(plans.ddim(28, grid="shifted;shift=3").on(schedules.flow()).levels, dtype=torch.float64)
    assert torch.allclose(in_schedule, in_grid, atol=1e-12)
    assert float(in_grid[-2]) == pytest.approx(3 * (1 / 28) / (1 + 2 / 28))
    lowest = sd3(28, reference=False).on(schedules.flow()).levels[-2]
    assert lowest == pytest.approx(3 * 0.001 / (1 + 2 * 0.001))


def test_diffusers_8683_the_same_settings_in_two_programs_differ_at_a_named_row():
    schedule = schedules.betas("scaled_linear")
    one, other = (draft.on(schedule) for draft in (diffusers(20, "heun", "karras"), k_diffusion(20, "heun")))
    assert one.levels == pytest.approx(other.levels, abs=1e-9)  # the grids are one
    said = plans.compare(one, other)
    assert said.startswith("row 1, ") and one.rows[1].shown is not None  # one of them tells a fractional timestep
    assert plans.compare(diffusers(20, "euler").on(schedule), k_diffusion(20, "euler").on(schedule)).startswith("row 0, stop")
    assert plans.compare(one, one) == "the same"


# Noise


@pytest.mark.parametrize("name", STOCHASTIC)
def test_k_diffusion_25_a_sample_alone_is_the_sample_in_its_batch(name):
    model = exact(schedules.betas("scaled_linear"))
    start = 14.0 * Noise.of(3, 5).normal((2,)) * 0.07
    whole = lv.sample(model, STOCHASTIC[name], 5, seed=4, start=start)
    assert float((whole - lv.sample(model, STOCHASTIC[name], 5, seed=5, start=start)).abs().max()) > 1e-3  # it draws
    for k in (0, 3):
        alone = lv.sample(model, STOCHASTIC[name], 1, seed=4, first_id=k, start=start[k : k + 1])
        assert torch.allclose(alone, whole[k : k + 1], atol=1e-5)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_k_diffusion_25_the_last_step_adds_no_noise(name):
    model = exact(schedules.betas("scaled_linear"))
    steps = list(lv.trajectory(model, STOCHASTIC[name], 4, seed=0, start=Noise.of(3, 4).normal((2,))))
    last, clean = steps[-1].z, steps[-1].belief.mean
    plan = STOCHASTIC[name].on(model.process.schedule)
    assert plan.rows[-1].stop == 0
    number = model.process.numbers(plan)[-1]
    assert number is None or number.c == 0
    if plan.history == 1 and not plan.rows[-1].anchored:
        assert torch.allclose(last, clean, atol=1e-4)  # what the denoiser said, and nothing more


@pytest.mark.parametrize("name", STOCHASTIC)
def test_comfyui_4518_no_plan_touches_the_global_generator(name):
    model, start = exact(schedules.betas("scaled_linear")), Noise.of(3, 2).normal((2,))
    torch.manual_seed(1)
    a = lv.sample(model, STOCHASTIC[name], 2, start=start)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(lv.sample(model, STOCHASTIC[name], 2, start=start), a)
    assert torch.equal(torch.random.get_rng_state(), before)


@functools.cache
def learned():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = lv.networks.MLP(2, 32, 2, classes=3)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return lv.Denoiser(net, Gaussian(schedules.cosine()), "v", shape=(2,))


def test_diffusers_612_the_third_image_of_four_has_a_name_of_its_own():
    label = torch.tensor([0, 1, 2, 0])
    for plan in (plans.default(12), plans.ddpm(12)):
        four = lv.sample(learned(), plan, 4, seed=33, cond={"label": label})
        third = lv.sample(learned(), plan, 1, seed=33, first_id=2, cond={"label": label[2:3]})
        assert torch.allclose(third, four[2:3], atol=1e-5)


def test_diffusers_2659_another_batch_size_is_no_other_picture():
    for plan in (plans.default(12), plans.euler_ancestral(12), plans.dpmpp(12, sde=True)):
        seven = lv.sample(learned(), plan, 7, seed=0)
        parts = [lv.sample(learned(), plan, n, seed=0, first_id=first) for first, n in ((0, 2), (2, 4), (6, 1))]
        assert torch.allclose(torch.cat(parts), seven, atol=1e-4)


# Levels


class Listening(torch.nn.Module):
    """A network that keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, z, level, cond=None, mask=None):
        self.seen.append((z, level))
        return z * 0


def test_onetrainer_615_training_and_sampling_show_the_levels_of_one_schedule():
    # a shift in one and not in the other is a network asked at levels it was not taught
    shifted = schedules.flow(shift=3.0)
    model = lv.Denoiser(Listening(), Gaussian(shifted), "velocity", shape=(20_000,))
    label = model.predictions[""].label
    lv.sample(model, plans.euler(6), 1)
    levels = [row.level for row in plans.euler(6).on(shifted).rows]
    assert [float(said) for _, said in model.net.seen] == pytest.approx(
        [float(label(model.process, torch.tensor(t, dtype=torch.float64))) for t in levels]
    )
    model.net.seen.clear()
    with torch.no_grad():
        Denoising()(model, Batch(torch.zeros(8, 20_000)), Noise.of(0, 8))
    ((z, said),) = model.net.seen
    # clean data 0 leaves sigma(t) e, whose width tells the level, shift and all
    told = label(model.process, shifted.invert(2 * ((1 - z.std(1).double()) / z.std(1).double()).log()))
    assert torch.allclose(told, said, rtol=0.03)  # without the shift they are up to a factor 3 apart
    assert float(said.max() / said.min()) > 10


# Faults of the peers, measured on exact flows


@functools.cache
def flow_of(name):
    """(denoiser, starts from the exact marginal, where the exact flow takes them)."""
    schedule = {"sd": schedules.betas("scaled_linear"), "cosine": schedules.betas("cosine"), "flow": schedules.flow()}[name]
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    model, n = lv.oracles.mixture(Gaussian(schedule), ring, 0.1), 128
    x = ring[torch.arange(n) % 8] + 0.1 * Noise.of(1, n).normal((2,), torch.float64)
    start = model.process.mix(x, Noise.of(2, n).normal((2,), torch.float64), 1.0)
    return model, start, lv.sample(model, plans.trig(200, 4), n, start=start)


def error(name, plan):
    model, start, end = flow_of(name)
    return float((lv.sample(model, plan, len(start), start=start) - end).square().mean().sqrt())


def test_fault_1_a_grid_that_leaps_to_clean_data_from_afar():
    # "linspace" leaves timestep 0 out: first order at any number of steps, .037 at 50 evaluations
    schedule = schedules.betas("scaled_linear")
    assert float(schedule.sigma(torch.tensor(diffusers(20).on(schedule).rows[-1].start))) > 0.2
    assert error("sd", diffusers(50)) > 0.02
    for steps in (20, 50):
        assert float(schedule.sigma(torch.tensor(plans.dpmpp(steps).on(schedule).rows[-1].start))) < 0.03
    assert error("sd", plans.default(50)) < 1e-3


def test_fault_2_the_last_step_is_not_eulers():
    # one Euler step from sigma_min to 0 costs .004 there, whatever was spent before it
    assert error("sd", diffusers(50, "dpmpp_2m", "karras")) == pytest.approx(
        error("sd", diffusers(100, "dpmpp_2m", "karras")), rel=0.1
    )
    assert error("sd", plans.default(50)) < 0.02 * error("sd", diffusers(50, "dpmpp_2m", "karras"))


def test_fault_4_third_order_is_third_order():
    grid = grids.log_snr(1.0, 0.05)
    lacking, whole = (
        plans.order(make, schedules.vp_linear(), (40, 80, 160))
        for make in (lambda n: NAMED["dpmpp_3m"].draft(n, grid), lambda n: plans.dpmpp(n, 3, grid=grid))
    )
    assert lacking < 2.7 < 2.9 < whole


def test_fault_5_deis_on_a_flow_spends_every_evaluation_and_leaves_no_noise():
    # there the last sigma is repeated: the last evaluation does nothing, and noise of 1/n stays
    grid = grids.quadratic(start=0.999)  # noise predictions say nothing at pure noise
    for steps in (10, 20, 40):
        plan = plans.deis(steps, order=2, grid=grid).on(schedules.flow())
        assert plan.nfe == steps and plan.levels[-1] == 0 and plan.rows[-1].start > 0
    errors = [error("flow", plans.deis(n, order=2, grid=grid)) for n in (10, 40)]
    assert errors[0] < 0.03 and errors[1] < errors[0] / 5  # better than first order


@pytest.mark.parametrize("steps", [7, 15, 300])
def test_fault_6_the_state_is_where_the_network_is_told(steps):
    schedule = schedules.betas("scaled_linear")
    ours, theirs = (d.on(schedule) for d in (plans.ddim(steps, grid="trailing"), diffusers(steps, "ddim", "trailing")))
    assert any(row.shown is not None for row in theirs.rows if isinstance(row, Row)) and theirs.levels[-1] > 0
    assert all(row.shown is None and row.level == row.start for row in ours.rows if isinstance(row, Row))
    assert ours.levels[-1] == 0


def test_fault_6_more_steps_are_better():
    assert error("sd", diffusers(400, "ddim", "trailing")) > error("sd", diffusers(200, "ddim", "trailing"))
    assert error("sd", plans.ddim(400, grid="trailing")) < 0.8 * error("sd", plans.ddim(200, grid="trailing"))


def test_fault_7_no_floor_from_rounded_timesteps():
    # 100 evaluations, compared at the last level above 0; the same weights, told the state's own levels
    model, start, _ = flow_of("sd")
    rows = diffusers(100, "unipc_3", "karras").on(model.process.schedule).rows[:-1]
    stop = rows[-1].stop
    at = lv.sample(model, plans.trig(200, 4, grid=grids.angle(0.5, 0.75, 1.0, stop)), len(start), start=start)

    def off(plan):
        return float((lv.sample(model, plan, len(start), start=start) - at).square().mean().sqrt())

    shipped = off(Plan(name="shipped", basis="x0", order=3, rows=rows))
    told = off(Plan(name="told", basis="x0", order=3, rows=tuple(dataclasses.replace(r, shown=None) for r in rows)))
    assert shipped > 5e-5 and told < shipped / 5
    assert off(plans.unipc(99, 3, final=0, grid=grids.karras(stop=stop))) < shipped / 5


def test_fault_7_a_flow_begins_at_pure_noise():
    # there at t = .999, with noise made for 1
    for draft in (plans.dpmpp(20), plans.unipc(20), plans.default(20), plans.euler(20), plans.ddim(20)):
        assert draft.on(schedules.flow()).levels[0] == 1.0


def test_fault_8_cosine_tables_with_large_sigmas():
    # there: assertions, index errors, NaN, and errors of 1,400 to 2.7 at 5 to 20 steps of Heun
    model, start, _ = flow_of("cosine")
    for draft in (plans.unipc(5, grid="karras"), plans.deis(5, grid="karras"), plans.dpm_2(5), plans.euler_ancestral(5)):
        assert lv.sample(model, draft, 8, start=start[:8]).isfinite().all()
    assert lv.sample(model, plans.ddim(5, eta=1.0), 8, start=start[:8]).isfinite().all()
    assert error("cosine", plans.default(10)) < 0.05 and error("cosine", plans.default(20)) < 0.005
    assert error("cosine", plans.heun(10)) < 0.1


def test_fault_9_noise_is_made_for_the_level_a_plan_begins_at():
    # there "leading" begins at T - T/n + 1 with noise made for T
    schedule = schedules.betas("scaled_linear")
    for name, make in plans.PLANS.items():
        if name == "diffusers":  # which has that grid to be the peer's
            continue
        assert make().on(SCHEDULE.get(name, schedule)).rows[0].start == 1.0, name
    with pytest.raises(ValueError, match="data is still visible"):
        lv.sample(exact(schedule), plans.ddim(2, grid="leading"), 1)


def test_fault_10_no_evaluation_is_spent_where_nothing_happens():
    # FlowMatchEuler's own grid has its last evaluation at t = .001
    schedule = schedules.flow()
    assert sd3(5, shift=1.0).on(schedule).levels[-2] == pytest.approx(0.001)
    for draft in (plans.default(5), plans.ddim(5), plans.heun(5)):
        assert draft.on(schedule).levels[-2] > 0.02
    worse = error("flow", sd3(5, shift=1.0))
    assert error("flow", plans.ddim(5)) < 0.9 * worse and error("flow", plans.default(5)) < 0.6 * worse


def test_fault_10_fresh_noise_converges():
    # there the stochastic mode stays at .66 of the width of a mode, from 50 steps to 100; here the width is an exact number
    flow = schedules.flow()
    variances = [terminal_moments(plans.ddpm(n).on(flow), flow, 0.0, 0.01, (0.0, 1.0))[1] for n in (50, 100, 200, 400)]
    missing = [1 - v**0.5 / 0.1 for v in variances]
    assert all(0 < after < 0.6 * before for before, after in zip(missing[:-1], missing[1:], strict=True)) and missing[-1] < 0.05
