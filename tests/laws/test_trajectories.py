"""Consistency trajectories: the exact flow has no loss, and their plan lies between ddim and consistency."""

import math
from types import MethodType

import pytest
import torch

from langevin import networks, oracles, plans, schedules
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.core.flow_map import FlowMap
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.sample import sample
from langevin.data import Arrays
from langevin.objectives import Batch, Denoising
from langevin.objectives.trajectory import Trajectory
from langevin.training import Trainer
from tests.laws.leaping import C, ExactFlow, normal, square
from tests.rows import SCHEDULES

EDM = Gaussian(schedules.edm())


def loss(objective, model, count=400):
    objective.prepare(model)
    return float(objective(model, Batch(C**0.5 * normal(count, 1)), Noise.of(0, count)).total.detach())


@pytest.mark.parametrize("name", ["edm", "flow", "cosine"])
def test_the_exact_flow_has_no_loss(name):
    process = Gaussian(SCHEDULES[name])
    exact = ExactFlow(process)
    assert loss(Trajectory(ExactFlow(process), steps=12, share=0), exact) < 1e-20
    exact.gain.data += 0.1
    assert loss(Trajectory(ExactFlow(process), steps=12, share=0), exact) > 1e-5


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["teacher", "itself"])
def test_what_is_left_of_the_loss_is_the_error_of_the_steps(order, own):
    # a quadratic loss of an error that falls with the order of the step; the slow copy is the exact denoiser as well. Compared
    # where leaps are the same: from 1 to 0 by way of the same level
    losses = []
    for steps in (80, 160):
        teacher = None if own else oracles.gaussian(EDM, torch.zeros(1), torch.tensor([[C]]))
        objective = Trajectory(teacher, steps=steps, longest=steps, order=order, share=0, grid="angle;center=0.5")

        def levels(self, process, noise, like):
            t, u = (float(self.ladder(process)[k * self.steps // 20]) for k in (20, 10))
            return tuple(torch.full((len(like), 1), v, dtype=torch.float64) for v in (t, u, 0.0))

        objective.levels = MethodType(levels, objective)
        losses.append(loss(objective, ExactFlow(EDM), 40))
    assert math.log2(losses[0] / losses[1]) / 2 == pytest.approx(order, abs=0.1)


def test_levels_are_ordered_and_within_reach():
    objective = Trajectory(steps=10, longest=3)
    ladder = objective.ladder(EDM)
    t, u, s = (torch.searchsorted(ladder, v[:, 0]) for v in objective.levels(EDM, Noise.of(0, 20_000), torch.zeros(20_000, 1)))
    assert bool((t > u).all()) and bool((u >= s).all()) and int((t - u).max()) == 3
    met = torch.bincount(t, minlength=11)[1:]
    assert bool(((met / 20_000 - 0.1).abs() < 4 * math.sqrt(0.09 / 20_000)).all())
    for top in (1, 4, 10):  # and the end is uniform below
        ends = torch.bincount(s[t == top], minlength=top).double()
        assert len(ends) == top and bool(((ends / ends.sum() - 1 / top).abs() < 4 / ends.sum().sqrt()).all())


def test_the_teacher_walks_its_ladder_step_by_step():
    teacher = oracles.gaussian(EDM, torch.zeros(1), torch.tensor([[C]]))
    objective = Trajectory(teacher, steps=10, longest=4, order=1)
    ladder, z = objective.ladder(EDM), normal(5, 1)
    top, low = torch.tensor([10, 10, 4, 3, 1]), torch.tensor([9, 6, 0, 1, 0])
    moved = objective.move(ExactFlow(EDM), z, z, z, ladder[top][:, None], ladder[low][:, None], None, None)
    for k in range(5):
        by_hand = z[k : k + 1]
        for i in range(int(top[k]), int(low[k]), -1):
            sigma, below = 80 * ladder[i], 80 * ladder[i - 1]
            by_hand = by_hand * (C + sigma * below) / (C + sigma**2)  # Euler on normal data
        assert torch.allclose(moved[k : k + 1], by_hand, rtol=1e-12)


def test_the_loss_that_is_added_is_a_denoisers():
    torch.manual_seed(0)
    model = FlowMap(networks.MLP(1, 8, 1, scalars=["span"]).double(), EDM, "edm", (1,))
    batch, noise, beside = square(20), Noise.of(0, 80), Denoising("edm", "lognormal_sigma")
    losses = {}
    for share in (0.0, 0.3):
        objective = Trajectory(ExactFlow(EDM), steps=6, denoising=beside, share=share)
        objective.prepare(model)
        losses[share] = objective(model, batch, noise).total.detach()
    alone = beside(model, batch, noise.at("denoising")).total.detach()
    assert torch.allclose(losses[0.3] - losses[0.0], 0.3 * alone, rtol=1e-12)


def learning(out=None, resume=False, teacher=True):
    torch.manual_seed(0)
    model = FlowMap(networks.MLP(2, 32, 2, scalars=["span"]), EDM, "edm", (2,))
    exact = oracles.gaussian(EDM, torch.zeros(2), torch.eye(2) * C) if teacher else None
    config = TrainConfig(steps=8, batch=16, lr=1e-2, save_every=100)
    objective = Trajectory(exact, steps=6, longest=2, decay=0.9)
    return Trainer(model, Arrays(0.5 * normal(64, 2).float()), objective, config, out, resume)


@pytest.mark.parametrize("teacher", [True, False])
def test_a_run_resumes_to_the_bit(teacher, tmp_path):
    whole = learning(teacher=teacher)
    whole.run(progress=False)
    part = learning(tmp_path, teacher=teacher)
    for _ in range(3):
        part.update()
    part.save()
    part.close()
    last = learning(tmp_path, True, teacher)
    last.run(progress=False)
    for one, other in ((whole.denoiser, last.denoiser), (whole.objective, last.objective)):
        there = other.state_dict()
        assert there and all(torch.equal(v, there[n]) for n, v in one.state_dict().items())


# The plan


@pytest.mark.parametrize("name", ["cosine", "flow", "edm", "betas linear"])
def test_the_plan_is_ddim_at_one_end_and_consistency_at_the_other(name):
    schedule = SCHEDULES[name]
    for grid in ("uniform", "karras"):
        assert plans.trajectory(5, 0.0, grid).on(schedule).rows == plans.ddim(5, grid=grid).on(schedule).rows
        assert plans.trajectory(5, 1.0, grid).on(schedule).rows == plans.consistency(5, grid).on(schedule).rows


@pytest.mark.parametrize("name", ["cosine", "flow", "edm"])
def test_the_plan_leaps_to_a_part_of_the_noise_and_draws_the_rest(name):
    schedule, gamma = SCHEDULES[name], 0.6
    plan = plans.trajectory(4, gamma).on(schedule)
    assert plan.nfe == 4
    for row, up in zip(plan.rows[:-1:2], plan.rows[1::2], strict=True):
        low, high = (schedule.lam(t).div(-2).exp() for t in (row.stop, up.stop))
        assert float(low / high) == pytest.approx(math.sqrt(1 - gamma**2), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
def test_an_exact_flow_map_is_exact_in_law_under_any_gamma(gamma):
    process = Gaussian(schedules.trigonometric())
    z = sample(ExactFlow(process), plans.trajectory(3, gamma), 40_000, start=normal(40_000, 1))
    deviation = C**0.5 / math.sqrt(2 * 40_000)
    assert abs(float(z.std()) - C**0.5) < 4 * deviation and abs(float(z.mean())) < 4 * C**0.5 / 200


def test_refusals():
    with pytest.raises(ValueError, match="gamma is 2"):
        plans.trajectory(4, 2.0)
    with pytest.raises(ValueError, match="longest is 9 of 8 steps"):
        Trajectory(steps=8, longest=9)
    with pytest.raises(ValueError, match="guidance is 2, and a teacher that leaps"):
        Trajectory(ExactFlow(EDM), guidance=2.0)
    with pytest.raises(ValueError, match="use a FlowMap"):
        Trajectory().prepare(Denoiser(networks.MLP(2, 8, 1), EDM, "edm"))
