"""Flows between two distributions: rectified flow, stochastic interpolants, couplings, transport and likelihood.

One model is exact throughout: y ~ N(0, 1) flowing to x ~ N(m, s^2), whose velocity along z = alpha x + sigma y + gamma e is
v = m' + (V'/V) (z - m_t), m_t = alpha m, V^2 = alpha^2 s^2 + sigma^2 + gamma^2. All maps are affine and all losses quadratic,
so that points at plus and minus one standard deviation stand for the normal laws, and means over them are exact.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.prediction import velocity
from langevin.core.sample import sample
from langevin.data import Arrays, Order, Pairs, Prior, Unpaired, loader
from langevin.interpolants import GAMMAS, Interpolant
from langevin.networks import MLP
from langevin.objectives import Denoising, InterFlow
from langevin.objectives.adversarial import Adversarial
from langevin.objectives.coupling import Entropic, Independent, OptimalTransport, Paired, partners
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.levels import LevelDensity, Steps
from langevin.objectives.mean_flow import MeanFlow
from langevin.tasks.likelihood import log_likelihood
from langevin.tasks.reflow import distillation, pairs, reflow
from langevin.tasks.transport import transport
from langevin.training import fit

M, S = 2.0, 0.5
SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
NODES = 2000


class Exact(torch.nn.Module):
    """The velocity of the flow, elementwise; scaled by `factor`."""

    def __init__(self, process, m=M, s=S, factor=1.0):
        super().__init__()
        self.of, self.m, self.s, self.factor = [process], m, s, factor  # in a list: the process is the denoiser's

    def forward(self, z, level, cond=None, mask=None):
        (process,) = self.of
        t = level.double()[:, None]
        with torch.no_grad():
            (a, b), (a_rate, b_rate) = process.schedule(t), process.schedule.rates(t)
            g, g_rate = process.gamma(t) if isinstance(process, Interpolant) else (0.0, 0.0)
            slope = (a * a_rate * self.s**2 + b * b_rate + g * g_rate) / (a**2 * self.s**2 + b**2 + g**2)
        return (self.factor * (a_rate * self.m + slope * (z - a * self.m))).to(z.dtype)


class Straight(torch.nn.Module):
    """The velocity where x = m + s y: the flow after one reflow."""

    def forward(self, z, level, cond=None, mask=None):
        t = level.double()[:, None]
        y = (z - (1 - t) * M) / ((1 - t) * S + t)
        return y - (M + S * y)


class Nodes(LevelDensity):
    """Levels at the middles of equal cells, four in each."""

    def __init__(self, nodes=NODES):
        super().__init__()
        self.t = ((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes).repeat_interleave(4)

    def quantile(self, u, schedule):
        return self.t

    def density(self, t, schedule):
        return torch.ones_like(t)


def exact(process, m=M, s=S, factor=1.0):
    return Denoiser(Exact(process, m, s, factor), process, velocity("t"), shape=(1,))


def design(m=M, s=S, nodes=NODES):
    """Independent ends at plus and minus one standard deviation, for each of the nodes."""
    return Batch(m + s * SIGNS[:, :1].repeat(nodes, 1), source=SIGNS[:, 1:].repeat(nodes, 1))


def loss(objective, model, batch=None):
    return objective(model, batch or design(), Noise.of(0, 4 * NODES)).total.detach()


def two(flow):
    """Mean and standard deviation of the ends of a flow begun at N(0, 1)."""
    low, high = flow(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))[:, 0].tolist()
    return (low + high) / 2, (high - low) / 2


def energy(schedule, m=M, s=S):
    """int E |v|^2 dt = int m'^2 + V'^2, by the midpoint rule."""
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    with torch.no_grad():
        (a, b), (a_rate, b_rate) = schedule(t), schedule.rates(t)
    rate = (a * a_rate * s**2 + b * b_rate) ** 2 / (a**2 * s**2 + b**2)
    return float(((a_rate * m) ** 2 + rate).mean())


LINE = Gaussian(schedules.flow())
STARTS = Arrays(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))


# Rectified flow


@pytest.mark.parametrize("steps, std", [(1, 0.0), (2, 0.2), (4, 0.3405), (8, 0.4148), (16, 0.4557), (32, 0.4774)])
def test_euler_steps_of_a_rectified_flow_have_the_known_spread(steps, std):
    for process in (LINE, Interpolant(schedules.flow())):
        plan = plans.parse(f"euler:{steps}:grid=uniform")
        mean, found = two(lambda y, p=process, plan=plan: sample(exact(p), plan, 2, start=y))
        assert mean == pytest.approx(M, abs=1e-9) and found == pytest.approx(std, abs=6e-5)


def test_the_loss_floor_is_pi_s_over_2():
    for s in (0.5, 1.0, 2.0):
        floor = loss(Denoising(levels=Nodes()), exact(LINE, M, s), design(s=s))
        assert float(floor) == pytest.approx(math.pi * s / 2, abs=1e-6)


def test_one_reflow_makes_the_flow_straight_and_one_step_exact():
    plan = plans.parse("midpoint:400:grid=uniform")
    first = transport(exact(LINE), plan, STARTS)
    # energy less the cost of transport: V V' = (1 + s^2) t - s^2 makes int V'^2 = 1 + s^2 - pi s / 2, of which (1 - s)^2 is cost;
    # chords of 400 steps leave out 1.6e-6
    assert first.straightness == pytest.approx(S * (2 - math.pi / 2), abs=2e-6)
    assert first.cost == pytest.approx(M**2 + (1 - S) ** 2, abs=1e-6)  # of M^2 + 1 + S^2 where ends are independent
    x, y = design().x, design().source
    assert float((x - y).square().mean()) == pytest.approx(M**2 + 1 + S**2, abs=1e-9)

    straight = Denoiser(Straight(), LINE, velocity("t"), shape=(1,))
    paired = Pairs(Arrays(first.ends), Arrays(first.begins))
    rows = paired.batch(torch.arange(2).repeat(2 * NODES))
    assert float(loss(Denoising(levels=Nodes(), coupling=Paired()), straight, rows)) < 1e-9  # nothing is left to be learned
    again = transport(straight, plan, STARTS)
    assert again.straightness == pytest.approx(0, abs=1e-12) and again.cost == pytest.approx(first.cost, abs=1e-6)
    assert two(lambda y: sample(straight, plans.parse("euler:1:grid=uniform"), 2, start=y)) == pytest.approx((M, S), abs=1e-9)


def test_distillation_asks_for_the_levels_that_euler_visits():
    for k in (1, 3, 4):
        assert distillation(k).levels.count == k
        drawn = Steps(k).quantile((torch.arange(1200, dtype=torch.float64) + 0.5) / 1200, LINE.schedule)
        visited = sorted(plans.parse(f"euler:{k}:grid=uniform").on(LINE.schedule).levels[:-1])
        levels, counts = drawn.unique(return_counts=True)
        assert levels.tolist() == pytest.approx(visited, abs=1e-12) and (counts == 1200 // k).all()


def test_a_distance_compares_the_ends_that_are_believed_in():
    model = pairing()[0].double()
    batch = Batch(
        torch.linspace(-1, 2, 80).sin().reshape(40, 2).double(), source=torch.linspace(5, 9, 80).cos().reshape(40, 2).double()
    )
    plain, squared = (distillation(4, d)(model, batch, Noise.of(0, 40)) for d in (None, "squared"))
    t = plain.levels[""]
    assert torch.equal(t, squared.levels[""]) and len(t.unique()) == 4
    # an end that is believed in is off by t times as much as its velocity
    torch.testing.assert_close(squared.each[""], t.square() * plain.each[""])
    torch.testing.assert_close(squared.total, squared.each[""].mean())

    def odd(a, b):
        return (a - 2 * b).flatten(1).sum(1)

    z = LINE.mix(batch.x, batch.source, t[:, None])
    torch.testing.assert_close(
        distillation(4, odd)(model, batch, Noise.of(0, 40)).each[""], odd(model(z, t).mean, batch.x).detach()
    )
    for wrong in ({"weight": "elbo"}, {"spread": "elements"}):
        with pytest.raises(ValueError, match="distance compares whole beliefs"):
            Denoising(distance="squared", **wrong)
    with pytest.raises(ValueError, match="samples are padded to one size"):
        Denoising(distance="squared")(model, Batch(batch.x, mask=torch.ones(40, 2, dtype=torch.bool)), Noise.of(0, 40))
    masked = Denoiser(MLP(2, 8, 1), Categorical(3, schedules.keep_linear(), "mask"), "logits")
    with pytest.raises(ValueError, match="distance compares beliefs of one Gaussian process"):
        Denoising(distance="squared")(masked, batch, Noise.of(0, 40))


def pairing():
    torch.manual_seed(0)
    model = Denoiser(MLP(2, 8, 1), LINE, "velocity", shape=(2,)).eval()
    return model, plans.parse("heun:3:grid=uniform"), Prior(LINE, (2,), 50, seed=3)


def dying(folder: str) -> None:
    """Make pairs, and die without a word in the fourth block."""
    model, plan, starts = pairing()
    calls, forward = [0], model.net.forward

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 3 * 5 + 2:
            os._exit(9)
        return forward(*args, **kwargs)

    model.net.forward = call
    pairs(model, plan, starts, folder, batch=8)


def test_pairs_made_after_a_kill_are_the_same_to_the_bit(tmp_path):
    model, plan, starts = pairing()
    whole = pairs(model, plan, starts, tmp_path / "whole", batch=8)
    program = f"from tests.laws.test_flows import dying; dying({str(tmp_path / 'killed')!r})"
    child = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert child.returncode == 9
    again = pairs(model, plan, starts, tmp_path / "killed", batch=8)
    index = torch.tensor([49, 0, 17])
    one, other = whole.batch(index), again.batch(index)
    assert torch.equal(one.x, other.x) and torch.equal(one.source, other.source) and whole.digest() == again.digest()
    for file in (tmp_path / "whole").glob("*.npy"):
        assert file.read_bytes() == (tmp_path / "killed" / file.name).read_bytes()
    # sample k is the one that langevin.sample makes under the seed
    assert torch.allclose(sample(model, plan, 50, seed=3)[index], one.x, atol=1e-6)
    with pytest.raises(ValueError, match="stale"):
        pairs(model, plans.parse("heun:4:grid=uniform"), starts, tmp_path / "whole", batch=8)
    with pytest.raises(ValueError, match="adds noise"):
        pairs(model, plans.ddim(4, eta=1.0), starts, tmp_path / "other")


def test_conditions_ride_with_pairs(tmp_path):
    class Labelled(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return -cond["label"][:, None].expand(z.shape).to(z.dtype)

    labels = torch.arange(6)
    starts = Prior(LINE, (2,), 6, cond={"label": labels})
    made = pairs(Denoiser(Labelled(), LINE, "velocity"), plans.parse("euler:2:grid=uniform"), starts, tmp_path, batch=4)
    batch = made.batch(labels.flip(0))
    assert torch.equal(batch.cond["label"], labels.flip(0))
    assert torch.allclose(batch.x - batch.source, labels.flip(0)[:, None].float().expand(6, 2), atol=1e-5)


def test_reflow_goes_on_where_it_was(tmp_path):
    def begin():
        torch.manual_seed(0)
        return Denoiser(MLP(2, 8, 1), LINE, "velocity", shape=(2,))

    settings = {"steps": 3, "batch": 8, "progress": False}
    plan, starts = plans.parse("euler:2:grid=uniform"), Prior(LINE, (2,), 16)
    whole = reflow(begin(), plan, starts, tmp_path / "whole", rounds=2, **settings).state_dict()
    reflow(begin(), plan, starts, tmp_path / "cut", rounds=1, **settings)
    again = reflow(begin(), plan, starts, tmp_path / "cut", rounds=2, **settings).state_dict()
    assert all(torch.equal(whole[name], value) for name, value in again.items())


# Interpolants


def test_equal_normals_on_the_trigonometric_path_do_not_move():
    process = Interpolant(schedules.trigonometric())
    still, batch = exact(process, 0.0, 1.0), design(0.0, 1.0)
    assert float(loss(InterFlow(Nodes()), still, batch)) == pytest.approx(0, abs=1e-15)
    start = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    assert torch.allclose(sample(still, plans.parse("heun:5:grid=uniform"), 2, start=start), start, atol=1e-12)
    # v = 0 is the minimum: any other velocity c z costs c^2
    moving = Denoiser(torch.nn.Linear(1, 1, bias=False).double(), process, velocity("t"), shape=(1,))
    weight = moving.net.weight
    moving.net.forward = lambda z, level, cond, mask: z * weight[0, 0]
    for c in (0.5, -1.0):
        weight.data.fill_(c)
        assert float(loss(InterFlow(Nodes()), moving, batch)) == pytest.approx(c**2, abs=1e-9)


# int m'^2 + V'^2 in closed form, by int sin^2 cos^2 / (s^2 cos^2 + sin^2) = pi / (4 (1 + s)^2) over a quarter, and as above
ENERGIES = {"trigonometric": math.pi**2 / 8 * (M**2 + (1 - S) ** 2), "flow": M**2 + 1 + S**2 - math.pi * S / 2}


@pytest.mark.parametrize("name", ENERGIES)
def test_the_least_loss_is_minus_the_energy_of_the_path(name):
    schedule, least = getattr(schedules, name)(), ENERGIES[name]
    assert least == pytest.approx({"trigonometric": 5.2432, "flow": 4.4646}[name], abs=5e-5)
    process = Interpolant(schedule)
    assert float(loss(InterFlow(Nodes()), exact(process))) == pytest.approx(-least, abs=1e-6)
    assert energy(schedule) == pytest.approx(least, abs=1e-6)
    # the flow is the map of optimal transport on any path, m + s y
    ends = two(lambda y: sample(exact(process), plans.parse("midpoint:200:grid=uniform"), 2, start=y))
    assert ends == pytest.approx((M, S), abs=1e-4)
    for factor in (0.9, 1.1):
        assert float(loss(InterFlow(Nodes()), exact(process, factor=factor))) > -least + 0.01


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_the_quadratic_loss_is_the_regression_less_the_energy_of_paths(noise):
    process = Interpolant(schedules.trigonometric(), noise, "sine")
    model, batch = exact(process, 1.0, 0.7, factor=0.8), design()

    def both(model):
        regression = Denoising(levels=Nodes())(model, batch, Noise.of(0, 4 * NODES).at("same")).total
        return float(regression), float(InterFlow(Nodes())(model, batch, Noise.of(0, 4 * NODES).at("same")).total)

    still = exact(process, factor=0.0)  # its regression is the energy of the paths
    # each objective draws its own noise on the way, so with noise the two agree as means do
    (one, quadratic), (paths, nothing) = both(model), both(still)
    assert nothing == 0 and quadratic == pytest.approx(one - paths, abs=1e-9 if noise == 0 else 0.15)


def test_beta_levels_reweight_unless_they_are_divided_out():
    model = exact(Interpolant(schedules.flow()))
    unbiased, weighted = (float(loss(InterFlow("beta:a=2,b=1", unbiased=u), model)) for u in (True, False))
    assert unbiased == pytest.approx(-4.4646, rel=0.02)
    t = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    squares = M**2 + (t - (1 - t) * S**2) ** 2 / ((1 - t) ** 2 * S**2 + t**2)
    assert weighted == pytest.approx(-float((2 * t * squares).mean()), rel=0.01) and weighted < -4.6


def test_a_learned_path_climbs_to_that_of_least_energy():
    def learned(path, updates, lr=0.05):
        schedule = schedules.learned_path("flow", 4)
        model, objective = exact(Interpolant(schedule)), InterFlow(Nodes(100), path=path)
        adam, batch = torch.optim.Adam(schedule.parameters(), lr=lr), design(nodes=100)
        for k in range(updates):
            adam.zero_grad()
            objective(model, batch, Noise.of(k, 400)).total.backward()
            adam.step()
        return schedule

    straight = M**2 + (1 - S) ** 2
    best = learned("ascent", 150)
    assert straight < energy(best) < 1.01 * straight
    assert [tuple(v.tolist()) for v in best(torch.tensor([0.0, 1.0]))] == [(1.0, 0.0), (0.0, 1.0)]  # its ends are fixed
    # joint minimisation, the source's wording, walks away from it
    assert energy(learned("descent", 30)) > energy(schedules.flow()) + 0.1


def test_a_path_learned_with_its_network_loses_energy():
    noise = Noise.of(0, 4000)
    data, source = Arrays(noise.at("x").normal((1,)) * S + M), Arrays(noise.at("y").normal((1,)))
    torch.manual_seed(0)
    schedule = schedules.learned_path("flow", 8)
    model = Denoiser(MLP(1, 32, 2), Interpolant(schedule), "velocity")
    fit(model, Unpaired(data, source), objective=InterFlow(), steps=600, batch=512, lr=6e-3, warmup=20, ema=0.98, progress=False)
    # 4.4646 at first; optimal transport has 4.25, and the best path of so many modes 4.2688
    assert 4.25 < energy(schedule) < 1.01 * 4.25


@pytest.mark.parametrize("shape", list(GAMMAS))
def test_noise_on_the_way_is_noise_on_the_ends(shape):
    process = Interpolant(schedules.trigonometric(), 0.8, shape)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x, y = SIGNS[:1].repeat(19, 1)[:, :1] * 1.3, SIGNS[:1].repeat(19, 1)[:, :1] * -0.4
    noise, level = Noise.of(0, 19), t[:, None]
    e = process.noise(x, noise)
    ends = process.ends(x, y, level, noise)
    gamma, rate = process.gamma(level)
    (a, b), (a_rate, b_rate) = process.schedule(level), process.schedule.rates(level)
    assert torch.allclose(process.mix(*ends, level), a * x + b * y + gamma * e, atol=1e-12)
    assert torch.allclose(a_rate * ends[0] + b_rate * ends[1], a_rate * x + b_rate * y + rate * e, atol=1e-11)
    h = 1e-6
    assert torch.allclose((process.gamma(level + h)[0] - process.gamma(level - h)[0]) / (2 * h), rate, atol=1e-7)


def test_the_bridge_has_the_target_of_schroedinger_bridge_matching():
    # in the paper's time r = 1 - t: u = (1 - 2r) / (2 r (1 - r)) (z - mu) + x1 - x0 (2302.00482); dz/dt = -u
    process, r = Interpolant(schedules.flow(), 0.6), 0.3
    x, y = torch.full((5, 1), 1.3, dtype=torch.float64), torch.full((5, 1), -0.4, dtype=torch.float64)
    ends = process.ends(x, y, torch.tensor(1 - r), Noise.of(0, 5))
    z, mu = process.mix(*ends, 1 - r), r * x + (1 - r) * y
    u = (1 - 2 * r) / (2 * r * (1 - r)) * (z - mu) + x - y
    assert torch.allclose(velocity().target(process, *ends, torch.tensor(1 - r, dtype=torch.float64)), -u, atol=1e-12)


@pytest.mark.parametrize("shape", ["bridge", "sine"])
def test_noise_on_the_way_leaves_the_ends_as_they_are(shape):
    process = Interpolant(schedules.flow(), 1.0, shape)
    ends = two(lambda y: sample(exact(process), plans.parse("midpoint:400:grid=uniform"), 2, start=y))
    assert ends == pytest.approx((M, S), abs=2e-3)


@pytest.mark.parametrize("plan", ["trig:20", "adams_bashforth:40", "adaptive", "ddim:400"])
@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.trigonometric()])
def test_plans_of_every_basis_follow_an_interpolant(plan, schedule):
    # any velocity is a belief, so what is written for noise and data holds for data and data, noise on the way or none
    for noise in (0.0, 0.5):
        model = exact(Interpolant(schedule, noise, "sine"))
        assert two(lambda y, m=model: sample(m, plans.parse(plan), 2, start=y)) == pytest.approx((M, S), abs=6e-3)


def test_lipman_paths_have_his_velocity():
    # u(x, t) = (x1 - (1 - sig) x) / (1 - (1 - sig) t) in the paper's time, 2210.02747, eq. 21
    sig, r = 0.1, 0.4
    process = Gaussian(schedules.lipman(sig))
    x, e = SIGNS[:, :1] * 1.3, SIGNS[:, 1:]
    z = process.mix(x, e, 1 - r)
    assert torch.allclose(z, r * x + (1 - (1 - sig) * r) * e, atol=1e-12)
    u = (x - (1 - sig) * z) / (1 - (1 - sig) * r)
    assert torch.allclose(velocity().target(process, x, e, torch.tensor(1 - r, dtype=torch.float64)), -u, atol=1e-12)


def test_what_an_interpolant_cannot_do_is_refused():
    process = Interpolant(schedules.flow())
    model, heun = exact(process), plans.parse("heun:4:grid=uniform")
    with pytest.raises(ValueError, match="start="):
        sample(model, heun, 2)
    start = torch.zeros(2, 1, dtype=torch.float64)
    for plan in (plans.ddim(4, eta=0.5), plans.ddpm(4), plans.ddpm(4, "belief"), plans.predictor_corrector(4)):
        with pytest.raises(ValueError, match="deterministic plan"):
            sample(model, plan, 2, start=start)
    noise = Noise.of(0, 2)
    for refused in (
        lambda: process.bridge(start, model(start, 0.5), 0.5, 0.2, noise, eta=1.0),
        lambda: process.renoise(start, 0.2, 0.5, noise),
        lambda: process.score(model(start, 0.5), start, 0.5),
        lambda: Denoising()(model, Batch(start), noise),
        lambda: Denoising()(exact(LINE), Batch(start, source=start[:, :0]), noise),
        lambda: Denoising(coupling=Paired())(exact(LINE), Batch(start), noise),
        lambda: Denoising()(exact(Interpolant(schedules.learned_path())), Batch(start, source=start), noise),
        lambda: MeanFlow().prepare(exact(Interpolant(schedules.flow(), noise=0.5))),
        lambda: Adversarial(model).prepare(model),
        lambda: DistributionMatching(model).prepare(model),
        lambda: InterFlow()(Denoiser(torch.nn.Identity(), process, "v"), Batch(start, source=start), noise),
        lambda: log_likelihood(model, start),
        lambda: Interpolant(schedules.flow(), noise=-1.0),
    ):
        with pytest.raises(ValueError):
            refused()


# Couplings


def normals(count, draw):
    """x ~ N((2, 0), I/4) and e ~ N(0, I), in the plane."""
    noise = Noise.of(draw, count)
    x, e = (noise.at(name).normal((2,), torch.float64) for name in "xe")
    return 0.5 * x + torch.tensor([M, 0.0]), e


@pytest.mark.parametrize("count, cost", [(8, 5.19), (32, 4.77), (128, 4.59), (512, 4.54)])
def test_the_cost_of_minibatch_plans_falls_to_the_distance(count, cost):
    # W2^2 = M^2 + 2 (1 - S)^2 = 4.5, and independent ends cost 6.5
    found = []
    for draw in range(max(5, 4096 // count)):
        x, e = normals(count, draw)
        y = OptimalTransport()(x, e)
        assert torch.equal(y[y[:, 0].argsort()], e[e[:, 0].argsort()])  # every row once, so marginals are exact
        # less what the batch's means are off by, whose expectation is 0 and whose variance is most of the cost's
        drift = 2 * M * (x.mean(0) - e.mean(0) - torch.tensor([M, 0.0]))[0]
        found.append((x - y).square().sum(1).mean() - drift)
    found = torch.stack(found)
    assert float(found.mean()) == pytest.approx(cost, abs=0.01 + 4 * float(found.std()) / len(found) ** 0.5)
    assert float(found.mean()) > 4.5


def test_entropic_plans_have_both_marginals():
    x, e = normals(64, 0)
    for reg in (0.02, 0.5, 50.0):
        plan = Entropic(reg).plan(x, e).exp()
        assert torch.allclose(plan.sum(1), torch.full((64,), 1 / 64, dtype=torch.float64), rtol=1e-12, atol=0)
        assert torch.allclose(plan.sum(0), torch.full((64,), 1 / 64, dtype=torch.float64), rtol=1e-3, atol=0)


def test_entropic_partners_are_drawn_from_the_rows_of_the_plan():
    x, e = normals(16, 0)
    coupling, draws = Entropic(0.5), 2000
    share, seen = 16 * coupling.plan(x, e).exp(), torch.zeros(16, 16, dtype=torch.float64)
    coupling.plan = lambda *_: (share / 16).log()  # made once
    for draw in range(draws):
        y = coupling(x, e, noise=Noise.of(draw, 16))
        seen += (y[:, None] == e).all(-1)  # every x meets one e
    assert (seen.sum(1) == draws).all()
    assert ((seen / draws - share).abs() <= 5 * (share * (1 - share) / draws).sqrt() + 1e-3).all()


def test_entropic_plans_lie_between_the_assignment_and_independence():
    x, e = normals(64, 0)
    reg, cost = 0.02, torch.cdist(x, e) ** 2
    sharp, blunt = Entropic(reg, tolerance=1e-2).plan(x, e).exp(), Entropic(1e5).plan(x, e).exp()
    least = float((x - OptimalTransport()(x, e)).square().sum(1).mean())
    assert least - 1e-2 < float((sharp * cost).sum()) < least + reg * math.log(64)  # entropies differ by log 64 at most
    assert torch.allclose(blunt, torch.full_like(blunt, 1 / 64**2), rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_entropic_plan_of_normals_is_the_static_schroedinger_bridge(sigma):
    # between N(0, 1) and N(0, s^2) with a Brownian motion of volatility sigma the ends have the covariance
    # (sqrt(4 s^2 + sigma^4) - sigma^2) / 2 (2006.02572, theorem 1); on 400 quantiles, whose law is all but normal
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    y = torch.special.ndtri(u)[:, None]
    plan = Entropic(2 * sigma**2, tolerance=1e-6).plan(S * y, y).exp()
    found = float((S * y).T @ plan @ y) / float(y.square().mean())
    assert found == pytest.approx((math.sqrt(4 * S**2 + sigma**4) - sigma**2) / 2, rel=0.01)


@pytest.mark.parametrize("coupling", [OptimalTransport(), Entropic(0.1)])
def test_couplings_stay_within_classes(coupling):
    x, e = normals(30, 1)
    label = torch.arange(30) % 3
    y = coupling(x, e, label, Noise.of(0, 30))
    for k in range(3):
        assert (torch.cdist(y[label == k], e[label == k]).amin(1) == 0).all()


def test_a_source_takes_the_place_of_noise():
    x, e = normals(16, 0)
    drawn = partners(Paired(), LINE, Batch(x, source=e), Noise.of(0, 16))
    assert torch.equal(drawn, e)
    plan = partners(OptimalTransport(), Interpolant(schedules.flow()), Batch(x, source=e), Noise.of(0, 16))
    assert torch.equal(plan, OptimalTransport()(x, e))


# Data


def test_unpaired_sources_are_read_in_orders_of_their_own():
    data, source = Arrays(torch.arange(12.0)[:, None]), Arrays(torch.arange(8.0)[:, None])
    both = Unpaired(data, source)

    def read(**options):
        steps = loader(both, Order(5, 12, 4), **options)
        return [[(piece.batch.x, piece.batch.source) for piece in next(steps)] for _ in range(6)]

    whole = [torch.cat(part) for part in zip(*(pair for step in read() for pair in step), strict=True)]
    for first, size in ((0, 12), (12, 12)):
        assert whole[0][first : first + size, 0].sort().values.tolist() == list(range(12))
    for first in (0, 8, 16):
        assert whole[1][first : first + 8, 0].sort().values.tolist() == list(range(8))
    cut = [torch.cat(part) for part in zip(*(pair for step in read(accumulate=2) for pair in step), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    # of equal sizes, and still no row meets its own number each time
    twins = Unpaired(data, Arrays(torch.arange(12.0)[:, None]))
    met = next(loader(twins, Order(5, 12, 12)))[0].batch
    assert not torch.equal(met.x, met.source)
    for refused in (lambda: Pairs(data, source), lambda: Unpaired(data, Arrays(torch.zeros(3, 2)))):
        with pytest.raises(ValueError):
            refused()


def test_the_prior_as_data_is_where_samples_begin():
    process = Gaussian(schedules.vp_linear())
    model, plan = Denoiser(MLP(3, 8, 1), process, "v", shape=(3,)).eval(), plans.ddim(5)
    starts = Prior(process, (3,), 9, seed=4)
    index = torch.tensor([6, 7, 8])
    again = sample(model, plan, 3, start=starts.batch(index).x)
    assert torch.equal(sample(model, plan, 3, seed=4, first_id=6), again)


def test_a_trained_interpolant_carries_one_data_set_to_the_other():
    noise = Noise.of(0, 4000)
    data = Arrays(noise.at("x").normal((1,)) * S + M)
    source = Arrays(noise.at("y").normal((1,)) * 1.5 - 1)
    torch.manual_seed(0)
    model = Denoiser(MLP(1, 32, 2), Interpolant(schedules.flow()), "velocity")
    fit(model, Unpaired(data, source), objective=Denoising(), steps=400, batch=256, lr=3e-3, warmup=20, ema=0.98, progress=False)
    moved = transport(model, plans.parse("heun:10:grid=uniform"), Arrays(source.x[:2000]))
    assert float(moved.ends.mean()) == pytest.approx(M, abs=0.1) and float(moved.ends.std()) == pytest.approx(S, abs=0.1)
    # in one dimension the flow is monotone: m + s (y + 1) / 1.5
    map_error = moved.ends - (M + S * (moved.begins + 1) / 1.5)
    assert float(map_error.square().mean().sqrt()) < 0.15


# Likelihood


def test_the_likelihood_of_a_normal_is_its_density():
    x = torch.tensor([[0.3, 2.0], [2.4, -1.0], [M, M]], dtype=torch.float64)
    model = Denoiser(Exact(LINE), LINE, velocity("t"), shape=(2,))
    truth = torch.distributions.Normal(torch.tensor(M, dtype=torch.float64), S).log_prob(x).sum(1)
    for probes in (None, 1):  # the Jacobian is diagonal, where one probe is exact
        found, z = log_likelihood(model, x, steps=100, probes=probes)
        assert torch.allclose(found, truth, atol=1e-6)
        assert torch.allclose(z, (x - M) / S, atol=1e-6)


def test_the_likelihood_of_a_correlated_normal_from_its_belief():
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    mean, low = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.05
    model = oracles.gaussian(LINE, mean, covariance)
    x = torch.tensor([[0.2, -0.7], [1.5, 0.1]], dtype=torch.float64)
    there = (1 - low) ** 2 * covariance + low**2 * torch.eye(2, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal((1 - low) * mean, there).log_prob(x)
    found, _ = log_likelihood(model, x, steps=100, low=low)
    assert torch.allclose(found, truth, atol=1e-6)
    many, _ = log_likelihood(model, x, steps=10, low=low, probes=200)
    assert torch.allclose(many, log_likelihood(model, x, steps=10, low=low)[0], atol=0.15)
    assert not torch.allclose(log_likelihood(model, x, steps=10, low=low, probes=1)[0], truth, atol=1e-3)


@pytest.mark.parametrize("coupling", [OptimalTransport(), Entropic(0.5)])
def test_noise_stays_with_samples_of_its_size(coupling):
    # a set of two nodes cannot take the noise of a set of three, nor one leaf the noise that another's plan gave away
    leaf, x = Gaussian(schedules.flow()), torch.zeros(8, 3, 2)
    mask = torch.arange(3) < torch.tensor([2, 3])[torch.arange(8) % 2][:, None]
    e = partners(Independent(), leaf, Batch(x, None, mask), Noise.of(0, 8))
    assert not e[~mask].any() and bool(e[mask].all())
    with pytest.raises(ValueError, match="another's size"):
        partners(coupling, leaf, Batch(x, None, mask), Noise.of(0, 8))
    with pytest.raises(ValueError, match="leaf 'a' by itself"):
        partners(coupling, leaf, Batch({"a": x, "b": x}), Noise.of(0, 8), "a")
