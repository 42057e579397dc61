"""Leaping models against closed forms: consistency models, shortcut models and mean flows on normal data."""

import math
from dataclasses import replace
from types import MethodType

import pytest
import torch
from scipy import stats

from langevin import networks, oracles, plans, predictions, schedules
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.core.flow_map import FlowMap
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample
from langevin.data import Arrays
from langevin.networks.blocks import attention
from langevin.objectives import Batch, Denoising
from langevin.objectives.base import drop_conditions
from langevin.objectives.consistency import Consistency, doubling, growing, improved, slowing
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.coupling import Coupling, Independent, partners
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.leaps import aim, follow
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.mean_flow import MeanFlow, velocity
from langevin.objectives.shortcut import Shortcut
from langevin.objectives.teachers import drawn
from langevin.recipes import teaching
from langevin.recipes.distillation import STUDENTS
from langevin.recipes.objectives import ConsistencyConfig
from langevin.training import Trainer
from tests.laws.leaping import C, Crossed, ExactFlow, Nothing, normal, square
from tests.rows import GAUSSIAN_PREDICTIONS, SCHEDULES

EDM = Gaussian(schedules.edm())
FLOW = Gaussian(schedules.flow())
ORACLE = oracles.gaussian(EDM, torch.zeros(1), torch.tensor([[C]]))


def factors(steps, order):
    """By which f* = 1 at data is multiplied on each interval of the ladder, from data up, by the library's own step."""
    ladder = Consistency(steps=steps).ladder(EDM)
    t, u = ladder[1:, None], ladder[:-1, None]
    return ladder, follow(ORACLE, torch.ones_like(t), t, u, None, order=order)[:, 0]


# Consistency models


@pytest.mark.parametrize(
    ("order", "table"),
    [
        (1, {18: 0.8461, 40: 0.9297, 80: 0.9647, 150: 0.9811, 1280: 0.9978}),
        (2, {18: 1.0553, 40: 1.0098, 80: 1.0023, 150: 1.0006}),
    ],
)
def test_what_distillation_learns_on_normal_data(order, table):
    for steps, ratio in table.items():
        ladder, each = factors(steps, order)
        exact = math.sqrt(C / (C + 80.0**2))
        assert ladder[0] == 0 and ladder[-1] == 1 and len(ladder) == steps + 1
        assert float(each.prod()) / exact == pytest.approx(ratio, abs=5.1e-5)
    # above the floor, below which there is one interval whatever the ladder, the error falls with the order of the step
    exact = math.sqrt((C + 0.002**2) / (C + 80.0**2))
    errors = [abs(math.log(float(factors(n, order)[1][1:].prod()) / exact)) for n in (320, 640)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_euler_is_the_expected_move_of_training():
    # E[x + t_n e | x + t_(n+1) e = z] = z (c + t_n t_(n+1)) / (c + t_(n+1)^2), and `move` is linear in x and e
    for steps in (18, 150):
        ladder, euler = factors(steps, 1)
        t, u = ladder[1:, None], ladder[:-1, None]
        sigma, below = 80 * t, 80 * u
        z = torch.ones_like(t)
        x, e = z * C / (C + sigma**2), z * sigma / (C + sigma**2)
        moved = Consistency(steps=steps).move(Denoiser(Nothing(), EDM), z, x, e, t, u, None, None)
        assert torch.allclose(moved[:, 0], euler, atol=1e-14)
        assert torch.allclose(euler, ((C + sigma * below) / (C + sigma**2))[:, 0], atol=1e-14)


class Gains(Denoiser):
    """f(z, t) = g(t) z with a parameter for each level of a ladder."""

    def __init__(self, ladder, gains):
        super().__init__(Nothing(), EDM, shape=(1,))
        self.ladder, self.gains = ladder, torch.nn.Parameter(gains.clone())

    def forward(self, z, t, cond, mask):
        index = torch.searchsorted(self.ladder, t[""].reshape(-1).contiguous())
        assert torch.equal(self.ladder[index], t[""].reshape(-1))
        return GaussianPosterior(self.gains[index][:, None] * z[""])


@pytest.mark.parametrize("teacher", [None, ORACLE], ids=["training", "distillation"])
def test_training_and_distillation_by_euler_have_one_minimiser(teacher):
    objective = Consistency(teacher, steps=18, decay=None, order=1, coupling=Crossed())
    ladder, euler = factors(18, 1)

    def each(self, process, noise, like):
        t, u = (v.repeat_interleave(4)[:, None] for v in (ladder[1:], ladder[:-1]))
        return t, u, torch.zeros_like(t)

    objective.levels = MethodType(each, objective)
    minimiser = torch.cat([torch.ones(1, dtype=torch.float64), euler.cumprod(0)])
    bent = minimiser * (1 + 0.01 * torch.arange(19))
    for gains, least in ((minimiser, True), (bent, False)):
        model = Gains(ladder, gains)
        objective(model, square(18), Noise.of(0, 72)).total.backward()
        slopes = model.gains.grad[1:] / (C + (80 * ladder[1:]) ** 2)  # of each level, by its second moment
        assert model.gains.grad[0] == 0
        assert bool((slopes.abs() < 1e-15).all()) if least else bool((slopes.abs() > 1e-10).all())


@pytest.mark.parametrize("schedule", ["cosine", "flow", "edm", "vp_linear"])
def test_at_level_0_the_belief_is_the_state_to_the_bit(schedule):
    process, z = Gaussian(SCHEDULES[schedule]), normal(5, 3).float()
    without = ("eps", "score") if float(process.schedule.alpha(torch.ones(()))) == 0 else ()
    for name in [n for n in GAUSSIAN_PREDICTIONS if n not in (*without, *(("velocity",) if schedule == "cosine" else ()))]:
        model = Denoiser(networks.MLP(3, 16, 1), process, GAUSSIAN_PREDICTIONS[name], (3,))
        assert torch.equal(model(z, 0.0).mean, z) and torch.equal(model(z, torch.zeros(5)).mean, z), name


def test_how_many_steps_and_how_slowly():
    assert (growing(0.0), growing(1.0)) == (2, 151)
    counts = [growing(k / 1000) for k in range(1001)]
    assert counts == sorted(counts)
    paper = [math.ceil(math.sqrt(k / 1000 * (151**2 - 4) + 4) - 1) + 1 for k in range(1001)]
    assert counts == paper
    # iCT counts points, one more than intervals
    total = 8000
    stage = total // (math.floor(math.log2(1280 / 10)) + 1)
    points = [min(10 * 2 ** (k // stage), 1280) + 1 for k in range(total)]
    assert [doubling(k / total) + 1 for k in range(total)] == points
    assert sorted(set(points)) == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert doubling(1.0) == 1280
    assert len(improved().ladder(EDM)) == 11


def test_decay_of_the_slow_copy_is_the_papers_unless_asked_for_the_codes():
    # ! the published code divides by N(k) - 1
    assert slowing(0.0) == pytest.approx(0.9, abs=1e-12)
    assert slowing(0.0, as_published_code=True) == pytest.approx(0.81, abs=1e-12)
    assert slowing(1.0) == pytest.approx(math.exp(2 * math.log(0.9) / 151), abs=1e-12)


def test_recipes_reach_the_published_schedules_of_consistency_training():
    def made(**settings):
        return teaching.objective(ConsistencyConfig(**settings), EDM)

    grown = made(schedule="growing", steps=150, decay=0.9)
    code = made(schedule="growing", steps=150, decay=0.9, as_published_code=True)
    doubled, fixed = made(schedule="doubling", steps=160), made(steps=40, decay=0.5)
    for done in (0.0, 0.3, 1.0):
        assert grown.steps(done) == growing(done) and code.steps(done) == growing(done)
        assert grown.decay(done) == slowing(done) and code.decay(done) == slowing(done, as_published_code=True)
        assert doubled.steps(done) == doubling(done, last=160) and doubled.decay == 0.95
    assert (fixed.steps, fixed.decay) == (40, 0.5) and grown.paced and doubled.paced and not fixed.paced
    assert "growing(150)" in grown.extra_repr()
    for settings, said in (({"as_published_code": True}, "has not"), ({"improved": True, "schedule": "growing"}, "steps double")):
        with pytest.raises(ValueError, match=said):
            made(**settings)
    with pytest.raises(ValueError, match="without a teacher"):
        teaching.objective(ConsistencyConfig(improved=True), EDM, mean_velocity(networks.MLP(1, 8, 1, scalars=["span"])))


def test_levels_of_improved_training_follow_the_normal_law():
    objective = Consistency(steps=40, density="lognormal", weighting="inverse", decay=None)
    ladder = objective.ladder(EDM)
    count = 200_000
    t, u, s = objective.levels(EDM, Noise.of(0, count), torch.zeros(count, 1))
    assert bool((s == 0).all())
    index = torch.searchsorted(ladder, t[:, 0])
    assert torch.equal(ladder[index - 1], u[:, 0])
    met = torch.bincount(index - 1, minlength=40).double() / count
    sigma = 80 * ladder[1:]
    shares = torch.erf((sigma.log() + 1.1) / (2 * math.sqrt(2))).diff()
    shares = shares * met[1:].sum() / shares.sum()
    assert bool(((met[1:] - shares).abs() < 4 * (shares / count).sqrt() + 4e-4 * shares).all())
    # the median of sigma is exp(-1.1) = .33
    middle = torch.searchsorted(met.cumsum(0), 0.5)
    assert 80 * float(ladder[middle]) < math.exp(-1.1) < 80 * float(ladder[middle + 1])
    weights = objective.weight(EDM, t, u, s)
    assert torch.allclose(weights, 1 / (80 * (t - u)))


def test_distances_are_the_papers():
    # iCT: sqrt(|d|^2 + c^2) - c of the whole, c = 0.00054 sqrt(D); LCM: the mean of sqrt(d^2 + 0.001^2) - 0.001
    a, b = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 3072**-0.5)
    c = 0.00054 * 3072**0.5
    assert float(improved().distance(a, b)) == pytest.approx(math.sqrt(1 + c**2) - c, rel=1e-6)
    assert float(improved().distance(a, 1e-3 * b)) == pytest.approx(1e-6 / (math.sqrt(1e-6 + c**2) + c), rel=1e-3)
    each = math.sqrt(1 / 3072 + 1e-6) - 1e-3
    assert float(LatentConsistency(ORACLE).distance(a, b)) == pytest.approx(each, rel=1e-5)


# Flow maps


@pytest.mark.parametrize("name", ["cosine", "flow", "edm", "vp_linear", "flow shifted"])
def test_a_leap_to_where_one_stands_moves_nothing(name):
    process = Gaussian(SCHEDULES[name])
    model = FlowMap(networks.MLP(3, 16, 1, scalars=["span"]), process, "v", (3,))
    z = normal(6, 3).float()
    for t in (torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]), 0.7):
        assert torch.equal(model.jump(z, t, t), z)


@pytest.mark.parametrize("name", ["cosine", "flow", "edm", "trigonometric"])
def test_leaps_of_the_exact_flow_join(name):
    process = Gaussian(SCHEDULES[name])
    model = ExactFlow(process)
    z, (t, u, s) = normal(50, 1), Noise.of(1, 50).uniform((3,)).sort(1, descending=True).values.unbind(1)
    direct = model.jump(z, t, s)
    assert torch.allclose(model.jump(model.jump(z, t, u), u, s), direct, atol=1e-11)
    # and end where the flow's law says
    moments = (C * process.schedule.alpha(s) ** 2 + process.schedule.sigma(s) ** 2) / (
        C * process.schedule.alpha(t) ** 2 + process.schedule.sigma(t) ** 2
    )
    assert torch.allclose(direct, z * moments.sqrt()[:, None], atol=1e-11)


@pytest.mark.parametrize("name", ["cosine", "flow", "edm", "sub_vp", "trigonometric"])
def test_aim_is_the_inverse_of_land(name):
    process = Gaussian(SCHEDULES[name])
    levels = Noise.of(2, 40).uniform((2,)).sort(1, descending=True).values[..., None]
    z, x = normal(40, 5), normal(40, 5, seed=1)
    t, s = levels[:, 0], levels[:, 1] * 0.9
    assert torch.allclose(aim(process, z, process.land(z, x, t, s), t, s), x, rtol=1e-9, atol=1e-8)
    landed = process.mix(x, normal(40, 5, seed=2), s)
    assert torch.allclose(process.land(z, aim(process, z, landed, t, s), t, s), landed, atol=1e-9)


def mean_velocity(net):
    return FlowMap(net, FLOW, "velocity", (3,))


def test_on_straight_paths_a_leap_is_the_mean_velocity_times_its_length():
    model = mean_velocity(networks.MLP(3, 16, 1, scalars=["span"]).double())
    for p in model.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0])
    z, t, s = normal(4, 3), torch.tensor([0.9, 0.5, 1.0, 0.3]), torch.tensor([0.1, 0.4, 0.0, 0.3])
    u = velocity(model, z, t.double()[:, None], s.double()[:, None], None)
    assert torch.allclose(model.jump(z, t, s), z - (t - s).double()[:, None] * u, atol=1e-12)


# Plans


class Told(torch.nn.Module):
    """Keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.spans, self.weight = [], torch.nn.Parameter(torch.zeros(()))

    def forward(self, z, level, cond=None, mask=None):
        self.spans.append(float(cond["span"][0]))
        return z * 0.3 + self.weight


def test_one_step_plans_leap_and_multistep_plans_ask_a_denoiser():
    levels = [1.0, 0.75, 0.5, 0.25, 0.0]
    for plan, spans in (
        (plans.ddim(4), [250.0] * 4),
        (plans.consistency(4), [1000 * t for t in levels[:-1]]),
        (plans.euler(4, grid="uniform"), [250.0] * 4),
        (plans.ddim(4, eta=0.5), [0.0] * 4),
        (plans.dpmpp(4, grid="uniform"), [0.0] * 4),
        (plans.heun(4, grid="uniform"), None),
    ):
        net = Told()
        model = FlowMap(net, FLOW, "velocity", (3,))
        sample(model, plan, 2)
        assert net.spans == spans if spans is not None else set(net.spans) == {0.0}


def test_a_plan_of_leaps_is_the_leaps():
    model = mean_velocity(networks.MLP(3, 16, 1, scalars=["span"]))
    for p in model.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0].float())
    z = normal(4, 3).float()
    by_hand = z
    for t, s in ((1.0, 0.5), (0.5, 0.0)):
        by_hand = model.jump(by_hand, t, s).detach()
    assert torch.allclose(sample(model, plans.ddim(2), 4, start=z), by_hand, atol=1e-6)
    # the exact flow needs one leap, or any number of them
    exact = ExactFlow(Gaussian(schedules.cosine()))
    z = normal(8, 1)
    ends = [sample(exact, plans.ddim(n), 8, start=z) for n in (1, 2, 7)]
    assert torch.allclose(ends[0], z * math.sqrt(C), atol=1e-9)
    assert all(torch.allclose(end, ends[0], atol=1e-9) for end in ends)


def test_a_step_that_lands_elsewhere_asks_a_denoiser():
    """Euler's step in t is where a belief lands on the straight path alone, and this one is shifted."""
    process, z = Gaussian(schedules.flow(shift=3.0)), normal(8, 1)
    plan, oracle = plans.adams_bashforth(4, order=1), oracles.gaussian(process, torch.zeros(1), torch.tensor([[C]]))
    assert torch.allclose(sample(ExactFlow(process), plan, 8, start=z), sample(oracle, plan, 8, start=z), atol=1e-12)


def test_known_elements_stay():
    model = FlowMap(networks.MLP(3, 16, 1, scalars=["span"]), FLOW, "velocity", (3,))
    given, known = normal(4, 3).float(), normal(4, 3, seed=1) > 0
    for plan in (plans.ddim(3), plans.consistency(3), plans.dpmpp(3)):
        z = sample(model, plan, 4, given=given, known=known)
        assert torch.equal(z[known], given[known]) and bool((z[~known] != given[~known]).all())


# Mean flows


def exact_velocity(z, t, s, c=C):
    """(z_t - z_s) / (t - s) along the exact flow of N(0, c), with its limit, the velocity, at s = t."""
    v_t, v_s = (((1 - r) ** 2 * c + r**2).sqrt() for r in (t, s))
    close = (t - s).abs() < 1e-12
    slope = (t - (1 - t) * c) / v_t**2
    return z * torch.where(close, slope, (1 - v_s / v_t) / torch.where(close, 1.0, t - s))


class MeanVelocity(FlowMap):
    """u on normal data, times a gain."""

    def __init__(self):
        super().__init__(Nothing(), FLOW, "velocity", (1,))
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def outputs(self, z, t, cond, mask):
        s = t[""] if "to" not in (cond or {}) else cond["to"].reshape(t[""].shape)
        return {"": self.gain * exact_velocity(z[""], t[""], s)}


def test_the_identity_of_mean_flows():
    # u = v - (t - s) du/dt along the exact flow
    t, s = Noise.of(3, 200).uniform((2,)).sort(1, descending=True).values.split(1, 1)
    z, model = normal(200, 1), MeanVelocity()
    v = exact_velocity(z, t, t)
    u, rate = MeanFlow().tangent(model, z, t, s, v, None, None)
    assert float((u - (v - (t - s) * rate)).detach().abs().max()) < 1e-8


class Padded(torch.nn.Module):
    """A network of sets that says `junk` of padding."""

    def __init__(self, junk):
        super().__init__()
        self.junk, self.w = junk, torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, z, t, cond, mask):
        return torch.where(mask[..., None], self.w * z + 0.2, self.junk * self.w)


@pytest.mark.parametrize("name", ["mean flow", "continuous"])
def test_what_is_said_of_padding_costs_nothing(name):
    mask = torch.arange(5) < torch.tensor([[3], [5], [2]])
    batch = Batch(Noise.of(1, 3).normal((5, 2), torch.float64) * mask[..., None], mask=mask)

    def found(junk):
        if name == "mean flow":
            model, objective = FlowMap(Padded(junk), FLOW, "velocity"), MeanFlow()
        else:
            model, objective = Denoiser(Padded(junk), Gaussian(schedules.trigonometric()), "v"), ContinuousConsistency()
        loss = objective(model, batch, Noise.of(2, 3))
        loss.total.backward()
        return loss.each[""], model.net.w.grad

    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found(0.0), found(9.0), strict=True))


@pytest.mark.parametrize("improved", [True, False])
def test_the_exact_mean_velocity_is_a_stationary_point(improved):
    objective = MeanFlow(improved=improved, power=0, coupling=Crossed())

    def each(self, noise, like):
        t, s = Noise.of(4, 30).uniform((2,)).sort(1, descending=True).values.repeat_interleave(4, 0).split(1, 1)
        return t, s

    objective.levels = MethodType(each, objective)
    model = MeanVelocity()
    objective(model, square(30), Noise.of(0, 120)).total.backward()
    assert abs(float(model.gain.grad)) < 1e-12
    model.gain.data += 0.1
    model.gain.grad = None
    objective(model, square(30), Noise.of(0, 120)).total.backward()
    assert abs(float(model.gain.grad)) > 1e-3


class Says(FlowMap):
    """A flow map whose network says one number for its condition and another without it."""

    def outputs(self, z, t, cond, mask):
        told = 2.0 + torch.zeros_like(z[""])
        return {"": torch.where(cond["drop"].reshape(-1, 1), -1.0, told) if "drop" in cond else told}


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.5), (0.5, 0.5), (0.4, 0.3)])
def test_guidance_within_mean_flow_mixes_path_and_both_velocities(omega, kappa):
    objective = MeanFlow(improved=False, equal=0.999999, power=0, omega=omega, kappa=kappa, drop=0.4)
    model = Says(
        networks.MLP(1, 8, 1, classes=2, scalars=("span",)), Gaussian(schedules.flow()), predictions.velocity(), shape=(1,)
    )
    noise, x = Noise.of(5, 400), normal(400, 1)
    batch = Batch(x, {"label": torch.zeros(400, dtype=torch.int64)})
    v = partners(Independent(), model.process, batch, noise.at("noise")) - x
    dropped = drop_conditions(batch.cond, noise, 0.4)["drop"].reshape(-1, 1)
    target = torch.where(dropped, v, omega * v + kappa * 2.0 + (1 - omega - kappa) * -1.0)
    said = torch.where(dropped, -1.0, 2.0)
    each = (said - target).square()[:, 0]
    loss = objective(model, batch, noise)
    assert float((loss.each[""] - each).abs().max()) < 1e-9
    # where u is the guided velocity of strength omega / (1 - kappa), it is the mean of its own target
    w, mean = omega / (1 - kappa), 0.7
    u = -1.0 + w * (mean + 1.0)
    assert omega * mean + kappa * u + (1 - omega - kappa) * -1.0 == pytest.approx(u)


def test_one_strength_twice_is_omega_to_the_bit_and_a_range_is_shown_and_used_by_sample():
    batch = Batch(normal(64, 1), {"label": torch.arange(64) % 2})
    noise = Noise.of(3, 64)

    def model(*scalars):
        torch.manual_seed(0)
        net = networks.MLP(1, 8, 1, classes=2, scalars=("span", *scalars)).double()
        for p in net.parameters():
            p.data.add_(0.1 * normal(1, *p.shape)[0])
        return FlowMap(net, FLOW, "velocity", (1,))

    for kappa in (0.0, 0.5):
        fixed, omega = (
            MeanFlow(drop=0.3, kappa=kappa, **k)(model(), batch, noise) for k in ({"w": (3.0, 3.0)}, {"omega": 3 * (1 - kappa)})
        )
        assert torch.equal(fixed.total, omega.total) and torch.equal(fixed.each[""], omega.each[""])
    # sample by sample, a range is the fixed strength that was drawn, where the network is told that strength
    w = drawn((1.0, 5.0), noise, batch.x)
    assert float(w.min()) < 1.5 and float(w.max()) > 4.5
    teller = model("guidance")
    ranged = MeanFlow(drop=0.3, w=(1.0, 5.0))(teller, batch, noise).each[""]
    for k in (0, 7, 30):
        told = replace(batch, cond={**batch.cond, "guidance": w[k].expand(64)})
        one = MeanFlow(drop=0.3, omega=float(w[k]))(teller, told, noise).each[""]
        assert torch.allclose(ranged[k], one[k], rtol=1e-12)
    assert not torch.allclose(ranged, one, rtol=0.01)
    # a teacher is guided so as well
    teacher = oracles.Mixture(FLOW, torch.tensor([[-1.0], [2.0]]).double(), std=0.3, label=torch.tensor([0, 1]))
    taught = MeanFlow(w=(1.0, 5.0), teacher=teacher)(teller, batch, noise).each[""]
    told = replace(batch, cond={**batch.cond, "guidance": w[7].expand(64)})

    class Deaf(type(teacher)):
        def forward(self, z, t, cond, mask):
            return super().forward(z, t, {n: v for n, v in cond.items() if n != "guidance"}, mask)

    deaf = Deaf(FLOW, torch.tensor([[-1.0], [2.0]]).double(), std=0.3, label=torch.tensor([0, 1]))
    one = MeanFlow(omega=float(w[7]), teacher=deaf)(teller, told, noise).each[""]
    assert torch.allclose(taught[7], one[7], rtol=1e-12)


def test_strengths_that_say_two_things_or_have_nothing_to_strengthen_are_refused():
    with pytest.raises(ValueError, match="which say one thing"):
        MeanFlow(omega=2.0, w=(1.0, 3.0), drop=0.1)
    with pytest.raises(ValueError, match="no null to guide"):
        MeanFlow(w=(1.0, 3.0))
    model = mean_velocity(networks.MLP(1, 8, 1, scalars=["span", "guidance"]).double())
    with pytest.raises(ValueError, match="the data brings none"):
        MeanFlow(w=(1.0, 3.0), drop=0.1)(model, Batch(normal(4, 1)), Noise.of(0, 4))


class Fixed(LevelDensity):
    def __init__(self, t):
        super().__init__()
        self.t = t

    def quantile(self, u, schedule):
        return self.t

    def density(self, t, schedule):
        return torch.ones_like(t)


class Always(Coupling):
    def __init__(self, e):
        self.e = e

    def __call__(self, x, e, label=None, noise=None):
        return self.e


@pytest.mark.parametrize("improved", [True, False])
def test_without_leaps_a_mean_flow_is_flow_matching(improved):
    model = mean_velocity(networks.MLP(3, 16, 2, scalars=["span"]).double())
    for p in model.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0])
    batch, e, t = Batch(normal(8, 3)), normal(8, 3, seed=1), Noise.of(5, 8).uniform()
    flow = MeanFlow(improved=improved, power=0, coupling=Always(e))
    flow.levels = MethodType(lambda self, noise, like: (t[:, None], t[:, None]), flow)
    losses, gradients = [], []
    for objective in (flow, Denoising(levels=Fixed(t), coupling=Always(e))):
        model.zero_grad(set_to_none=True)
        loss = objective(model, batch, Noise.of(0, 8)).total
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert torch.allclose(*losses, rtol=1e-14)
    assert all(torch.allclose(g, gradients[1][n], rtol=1e-12, atol=1e-15) for n, g in gradients[0].items())


def test_errors_of_a_mean_flow_are_weighed_by_themselves():
    # |error|^2 / (|error|^2 + 0.01)^p of the whole sample, p = 1 (2505.13447, sec. 4.3), whose weight has no gradient
    model = mean_velocity(networks.MLP(3, 16, 2, scalars=["span"]).double())
    for p in model.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0])
    plain, weighed = (MeanFlow(power=p)(model, Batch(normal(40, 3)), Noise.of(0, 40)) for p in (0.0, 1.0))
    squares = 3 * plain.each[""]
    assert float(weighed.total.detach()) == pytest.approx(float((squares / (squares + 0.01)).mean()), rel=1e-9)
    one, x, slope = MeanVelocity(), normal(10, 1), 0.0
    one.gain.data += 0.1
    for k in range(10):
        alone = MeanFlow(power=0.0)(one, Batch(x[k : k + 1]), Noise.of(0, 1, first=k))
        slope += float(torch.autograd.grad(alone.total, one.gain)[0]) / (float(alone.each[""]) + 0.01) / 10
    whole = MeanFlow(power=1.0)(one, Batch(x), Noise.of(0, 10)).total
    assert float(torch.autograd.grad(whole, one.gain)[0]) == pytest.approx(slope, rel=1e-9)


class Ends(torch.nn.Module):
    """Says the data, z - t u, of a network that says u; both are shown t itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, level, cond=None, mask=None):
        return z - level.reshape(-1, 1).to(z.dtype) * self.net(z, level, cond, mask)


@pytest.mark.parametrize("improved", [True, False])
def test_a_mean_flow_is_learned_by_what_says_the_data_as_by_what_says_velocities(improved):
    # pixel MeanFlow (2601.22158): one function, one loss, one gradient, whichever of the two the network says
    net = networks.MLP(3, 16, 2, scalars=["span"]).double()
    for p in net.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0])
    shown = FlowMap(net, FLOW, predictions.velocity("t"), (3,))
    said = FlowMap(Ends(net), FLOW, predictions.x0("t"), (3,))
    objective, batch = MeanFlow(improved, power=0.0, mean=1.0, std=0.5), Batch(normal(60, 3))  # levels above 0.05
    losses = [objective(model, batch, Noise.of(0, 60)) for model in (shown, said)]
    assert float(losses[0].levels[""].min()) > 0.05
    assert float(losses[1].total.detach()) == pytest.approx(
        float(losses[0].total.detach()), rel=1e-7
    )  # levels are shown in single precision
    slopes = [torch.autograd.grad(loss.total, list(net.parameters()), allow_unused=True) for loss in losses]
    for one, other in zip(*slopes, strict=True):
        assert one is other is None or torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    # so are the leaps, and what both believe where they stand
    z, plan = normal(5, 3, seed=9), plans.ddim(3, grid="uniform")
    assert torch.allclose(*(sample(m, plan, 5, start=z) for m in (shown, said)), atol=1e-6)
    # below 0.05 an error of the data counts by itself, and not divided by t
    low = MeanFlow(improved, power=0.0, equal=0.999, mean=-6.0, std=0.1)
    errors = [low(model, batch, Noise.of(0, 60)) for model in (shown, said)]
    factor = (errors[0].levels[""] / 0.05).square()
    assert torch.allclose(errors[1].each[""], factor * errors[0].each[""], rtol=1e-4)
    with pytest.raises(ValueError, match="prediction 'velocity', or 'x0'"):
        MeanFlow().prepare(FlowMap(net, FLOW, "v", (3,)))


def test_levels_of_a_mean_flow_are_two_logit_normals_and_three_quarters_are_equal():
    count = 40_000
    t, s = (v[:, 0] for v in MeanFlow().levels(Noise.of(0, count), torch.zeros(count, 1)))
    share = float((t == s).double().mean())
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / count) ** 0.5) and bool((t >= s).all())
    u, v = (torch.special.ndtr(torch.logit(level) + 0.4) for level in (t, s[t > s]))  # N(-0.4, 1) before the sigmoid
    assert stats.kstest((u**2).numpy(), "uniform").pvalue > 1e-3  # the larger of two
    assert stats.kstest((1 - (1 - v) ** 2).numpy(), "uniform").pvalue > 1e-3


NETWORKS = {
    "mlp": lambda: (networks.MLP(3, 16, 2, scalars=["span"]), (3,)),
    "unet": lambda: (
        networks.UNet(2, width=8, multipliers=(1, 2), blocks=1, attention=(0, 1), head_width=4, scalars=["span"]), (2, 4, 4),
    ),
    "dit": lambda: (networks.DiT(2, size=4, patch=2, width=16, depth=2, heads=2, scalars=["span"]), (2, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_derivatives_are_those_of_finite_differences(name, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # levels are shown in float32; here differences are taken
    torch.manual_seed(0)
    net, shape = NETWORKS[name]()
    model = FlowMap(net.double(), FLOW, "velocity", shape)
    for p in model.parameters():
        p.data.add_(0.2 * normal(1, *p.shape)[0])
    z, v = normal(3, *shape), normal(3, *shape, seed=1)
    axes = (-1, *[1] * len(shape))
    t, s = torch.tensor([0.9, 0.6, 0.4]).double().reshape(axes), torch.tensor([0.2, 0.6, 0.1]).double().reshape(axes)
    with torch.no_grad():
        u, rate = MeanFlow().tangent(model, z, t, s, v, None, None)
        assert torch.allclose(u, velocity(model, z, t, s, None), rtol=1e-12)

        def slope(h):
            return (velocity(model, z + h * v, t + h, s, None) - velocity(model, z - h * v, t - h, s, None)) / (2 * h)

        h = 2e-5
        differences = (4 * slope(h) - slope(2 * h)) / 3
    assert float((rate - differences).norm() / differences.norm()) < 1e-6


def test_attention_written_out_is_torchs():
    q, k, v = (normal(2, 3, 5, 4, seed=i) for i in range(3))
    for keep in (None, torch.tensor([[True, True, False, True, False], [True] * 5])[:, None, None]):
        own = attention._attend(q, k, v, keep)
        written, _ = torch.func.jvp(lambda q, keep=keep: attention._attend(q, k, v, keep), (q,), (q,))
        assert torch.allclose(own, written, atol=1e-14)


# Shortcut models


@pytest.mark.parametrize(("halvings", "flow"), [(0, False), (1, False), (2, True)])
def test_a_shortcut_is_two_halves_of_itself(halvings, flow):
    """The smallest pair that is learned is of two steps along the flow, both halves alike."""
    model = mean_velocity(networks.MLP(3, 16, 1, scalars=["span"]).double())
    for p in model.parameters():
        p.data.add_(0.1 * normal(1, *p.shape)[0])
    met = {}

    def distance(own, target):
        met.setdefault("own", own), met.setdefault("target", target)
        return (own - target).square().flatten(1).mean(1)

    objective = Shortcut(finest=3, share=0.5, distance=distance)
    objective.prepare(model)
    for p in objective.nets.parameters():
        p.data.mul_(1.1)  # the copy, not the model, says what the target is
    slow = objective.nets["slow"]
    d = 0.5**halvings
    t = torch.tensor([1.0, 1.0, d, 1.0]).double()[:, None]
    objective.levels = MethodType(lambda self, process, noise, like: (t, t - d / 2, t - d), objective)
    x = normal(8, 3)
    noise = Noise.of(0, 8)
    objective(model, Batch(x), noise)
    leaping = (stratified(noise.at("leaps")) < 0.5).nonzero()[:, 0]  # drawn over the whole batch: four of eight
    x = x[leaping]
    z = FLOW.mix(x, FLOW.noise(x, replace(noise, ids=leaping).at("noise")), t)
    first = velocity(slow, z, t, t if flow else t - d / 2, None)
    between = z - d / 2 * first
    second = velocity(slow, between, t - d / 2, t - d / 2 if flow else t - d, None)
    said = velocity(model, z, t, t - d, None)
    # as beliefs about data, x = z - t u on straight paths
    assert torch.allclose(met["target"], z - t * (first + second) / 2, atol=1e-12)
    assert torch.allclose(met["own"], z - t * said, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 32, 64, 128])
def test_a_shortcut_student_has_learned_the_leaps_it_is_drawn_by(steps):
    objective, plan = STUDENTS["shortcut"](steps)
    learned = Shortcut(finest=objective.finest).levels(FLOW, Noise.of(0, 20_000), torch.zeros(20_000, 1))
    pairs = {(float(t), float(s)) for t, _, s in zip(*(v[:, 0] for v in learned), strict=True)}
    rows = plans.parse(plan).on(schedules.flow()).rows
    assert len(rows) == steps and {(row.start, row.stop) for row in rows} <= pairs


def test_levels_of_shortcuts_are_multiples_of_their_length():
    t, u, s = (v[:, 0] for v in Shortcut(finest=4).levels(FLOW, Noise.of(0, 5000), torch.zeros(5000, 1)))
    d = t - s
    assert torch.equal(d.unique(), torch.tensor([0.125, 0.25, 0.5, 1.0]).double())
    assert torch.equal(u, (t + s) / 2) and torch.equal((t / d).round(), t / d) and float(s.min()) == 0 and float(t.max()) == 1
    for value in d.unique():
        count = int((d == value).sum())
        assert abs(count / 5000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 5000)
        assert len(t[d == value].unique()) == round(1 / float(value))


# Resumption


def learning(kind, out=None, resume=False):
    torch.manual_seed(0)
    scalars = ["span"] if kind == "shortcut" else []
    net = networks.MLP(2, 16, 1, scalars=scalars)
    model = FlowMap(net, FLOW, "velocity", (2,)) if kind == "shortcut" else Denoiser(net, EDM, "edm", (2,))
    teacher = oracles.gaussian(EDM, torch.zeros(2), torch.eye(2) * C)
    objective = {
        "shortcut": lambda: Shortcut(finest=3, decay=0.9),
        "training": lambda: Consistency(None, steps=growing, decay=slowing),
        "distillation": lambda: Consistency(teacher, steps=18, decay=0.9),
    }[kind]()
    data = Arrays(0.5 * normal(64, 2).float())
    config = TrainConfig(steps=8, batch=16, lr=1e-2, save_every=100)
    return Trainer(model, data, objective, config, out, resume)


@pytest.mark.parametrize("kind", ["shortcut", "training", "distillation"])
def test_a_run_with_a_slow_copy_resumes_to_the_bit(kind, tmp_path):
    whole = learning(kind)
    whole.run(progress=False)
    part = learning(kind, tmp_path)
    for _ in range(3):
        part.update()
    part.save()
    part.close()
    last = learning(kind, tmp_path, resume=True)
    assert last.step == 3
    last.run(progress=False)
    for one, other in ((whole.denoiser, last.denoiser), (whole.objective, last.objective)):
        there = other.state_dict()
        assert there and all(torch.equal(v, there[n]) for n, v in one.state_dict().items())
    slow, model = whole.objective.nets["slow"].state_dict(), whole.denoiser.state_dict()
    assert any(not torch.equal(slow[n], model[n]) for n in slow)
