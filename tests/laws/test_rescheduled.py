"""A teacher on another schedule: its belief is that of the exact denoiser there, and all that follows from it."""

import pytest
import torch

import langevin as lv
from langevin import networks, oracles, schedules
from langevin.core.flow_map import FlowMap
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.interpolants import Interpolant
from langevin.objectives import Batch, MeanFlow, Shortcut
from langevin.objectives.base import drop_conditions
from langevin.objectives.consistency import Consistency
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.guidance_distillation import GuidanceDistillation
from langevin.objectives.rescheduled import Rescheduled
from tests.laws.leaping import C, Crossed, ExactFlow, normal, square
from tests.laws.test_continuous import TRIG, Exact, levels
from tests.laws.test_leaps import MeanVelocity

NAMES = ("vp_linear", "ve", "edm", "flow", "trigonometric")
FLOW, VE = Gaussian(schedules.flow()), Gaussian(schedules.ve())


def made(name):
    return Gaussian(getattr(schedules, name)())


@pytest.mark.parametrize("new", NAMES)
@pytest.mark.parametrize("old", NAMES)
def test_a_belief_is_that_of_the_exact_denoiser_on_the_new_schedule(old, new):
    points, label = normal(6, 3), torch.arange(6) % 2
    old, new = made(old), made(new)
    teacher, exact = (oracles.Mixture(p, points, std=0.2, label=label) for p in (old, new))
    moved = Rescheduled(teacher, new)
    noise = Noise.of(1, 300)
    t = noise.uniform(())
    known = new.schedule.lam(t) > old.schedule.lam(1.0)  # noisier than that no level of the teacher is
    t = torch.where(known, t, 0.1)
    t[:4] = 0.0
    x, cond = points[torch.arange(300) % 6], {"label": label[torch.arange(300) % 6], "drop": torch.arange(300) % 3 == 0}
    z = new.marginal(x, t[:, None], noise)
    theirs, ours = moved(z, t, cond), exact(z, t, cond)
    assert float((theirs.mean - ours.mean).abs().max()) < 1e-12
    assert float((theirs.variance - ours.variance).abs().max()) < 1e-12
    # at levels of their own for each number, and at one for all
    each = torch.where(known[:, None], noise.at("each").uniform((3,)) * t.max(), 0.1)
    each = torch.where(new.schedule.lam(each) > old.schedule.lam(1.0), each, 0.1)
    for level in (each, 0.1):
        z = new.marginal(x, torch.as_tensor(level, dtype=torch.float64), noise)
        assert float((moved(z, level, cond).mean - exact(z, level, cond).mean).abs().max()) < 1e-12


def test_beyond_its_noisiest_level_a_teacher_is_asked_there():
    teacher = oracles.gaussian(VE, torch.zeros(2), C * torch.eye(2))
    z = normal(5, 2)
    said, sigma = Rescheduled(teacher, FLOW)(z, 1.0).mean, VE.schedule.sigma(torch.ones(1).double())
    assert torch.allclose(said, teacher(z * (1 + sigma**2).sqrt(), 1.0).mean, rtol=1e-12)
    assert torch.equal(Rescheduled(teacher, FLOW)(z, 0.0).mean, z)


def test_leaps_are_told_where_to_land_in_levels_of_their_own():
    flow_map, moved = ExactFlow(VE), Rescheduled(ExactFlow(VE), FLOW)
    own = ExactFlow(FLOW)
    t, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.9, 0.5, 0.3], [0.2, 0.1, 0.0]))
    z = normal(3, 1)
    assert moved.leaps and flow_map.leaps
    assert torch.allclose(moved(z, t, {"to": s}).mean, own(z, t, {"to": s}).mean, atol=1e-10)


@pytest.mark.parametrize("name", ["ve", "vp_linear", "edm", "flow"])
def test_with_a_teacher_on_any_schedule_the_exact_function_has_no_tangent(name):
    teacher = Rescheduled(oracles.gaussian(made(name), torch.zeros(1), torch.tensor([[C]])), TRIG)
    t, z = levels(200), normal(200, 1)
    inner = TRIG.schedule.lam(t)[:, 0] > made(name).schedule.lam(1.0)
    t, z = t[inner], z[inner]
    objective = ContinuousConsistency(teacher, warmup=0)
    v = objective.direction(TRIG, z, z, z, t, None, None)
    assert len(t) > 150 and float(objective.tangent(Exact(), z, t, v, None, None)[1].abs().max()) < 1e-8


def test_the_exact_mean_velocity_is_what_a_teacher_on_another_schedule_teaches():
    # not a stationary point on average over data: every single error is 0
    teacher = Rescheduled(oracles.gaussian(Gaussian(schedules.cosine()), torch.zeros(1), torch.tensor([[C]])), FLOW)
    for improved in (True, False):
        loss = MeanFlow(improved=improved, equal=0.5, power=0, teacher=teacher)(MeanVelocity(), square(50), Noise.of(0, 200))
        assert float(loss.each[""].max()) < 1e-15
    assert float(MeanFlow(equal=0.5, power=0)(MeanVelocity(), square(50), Noise.of(0, 200)).each[""].max()) > 0.1


def test_a_teacher_guides_a_mean_flow_and_leaves_dropped_samples_alone():
    label = torch.tensor([0, 1])
    teacher = oracles.Mixture(FLOW, torch.tensor([[-1.0], [2.0]]).double(), std=0.3, label=label)
    model = FlowMap(networks.MLP(1, 8, 1, classes=2, scalars=("span",)).double(), FLOW, "velocity", (1,))
    objective = MeanFlow(equal=0.999999, power=0, omega=3.0, drop=0.4, teacher=teacher)
    noise, x = Noise.of(5, 400), normal(400, 1)
    batch = Batch(x, {"label": torch.arange(400) % 2})
    t, _ = objective.levels(noise, x)
    z = FLOW.mix(x, FLOW.noise(x, noise.at("noise")), t)
    cond = drop_conditions(batch.cond, noise, 0.4)
    null, told = (teacher(z, t, c).mean for c in ({**cond, "drop": torch.ones(400, dtype=torch.bool)}, cond))
    v = (z - (null + 3.0 * (told - null))) / t  # e - x
    said = model.outputs({"": z}, {"": t}, {**cond, "to": t[:, 0]}, None)[""]
    loss = objective(model, batch, noise)
    assert torch.allclose(loss.each[""], (said - v).square()[:, 0].detach(), rtol=1e-9)
    with pytest.raises(ValueError, match=r"kappa is 0\.5"):
        MeanFlow(kappa=0.5, drop=0.1, teacher=teacher)


def test_a_shortcut_model_learns_the_flow_from_its_teachers_beliefs():
    teacher = Rescheduled(oracles.gaussian(TRIG, torch.zeros(1), torch.tensor([[C]])), FLOW)
    batch, noise, model = square(50), Noise.of(0, 200), ExactFlow(FLOW)
    taught, alone = (Shortcut(teacher=t, coupling=Crossed()).flow(model, batch, noise).each[""] for t in (teacher, None))
    assert float(taught.max()) < 1e-12 and float(alone.max()) > 0.1


def test_a_teacher_of_other_levels_is_refused_with_the_remedy():
    teacher = oracles.gaussian(VE, torch.zeros(2), torch.eye(2))
    plain = lv.Denoiser(networks.MLP(2, 8, 1), FLOW, "velocity", (2,))
    leaping = FlowMap(networks.MLP(2, 8, 1, scalars=("span",)), FLOW, "velocity", (2,))
    angle = lv.Denoiser(networks.MLP(2, 8, 1), TRIG, "v", (2,))
    for objective, model in (
        (Consistency(teacher), plain), (MeanFlow(teacher=teacher), leaping), (Shortcut(teacher=teacher), leaping),
        (ContinuousConsistency(teacher), angle), (GuidanceDistillation(teacher), plain),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"give langevin.objectives.rescheduled.Rescheduled\(teacher, model.process\)"):
            objective.prepare(model)
        objective.nets["teacher"] = Rescheduled(teacher, model.process)
        objective.prepare(model)
    with pytest.raises(ValueError, match="no schedule leads from one to the other"):
        Rescheduled(teacher, Interpolant(schedules.flow()))
