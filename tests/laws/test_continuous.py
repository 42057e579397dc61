"""Consistency in continuous time: no tangent at the exact function, and the gradient that discrete training tends to."""

import math
from itertools import pairwise
from types import MethodType

import pytest
import torch

from langevin import networks, oracles, schedules
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.data import Arrays
from langevin.objectives import Batch
from langevin.objectives.consistency import Consistency
from langevin.objectives.continuous import ContinuousConsistency
from langevin.training import Trainer
from tests.laws.leaping import C, Crossed, Nothing, normal, square

TRIG = Gaussian(schedules.trigonometric())
ORACLE = oracles.gaussian(TRIG, torch.zeros(1), torch.tensor([[C]]))


class Exact(Denoiser):
    """F = (cos z - f) / sin with f(z, t) = z sqrt(c / (cos^2 c + sin^2)), the end of the flow; `gain` bends f."""

    def __init__(self):
        super().__init__(Nothing(), TRIG, "v", (1,))
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def outputs(self, z, t, cond, mask):
        alpha, sigma = TRIG.schedule.alpha(t[""]), TRIG.schedule.sigma(t[""])
        ends = z[""] * (C / (alpha**2 * C + sigma**2)).sqrt()
        return {"": (alpha * z[""] - (1 + (self.gain - 1) * sigma) * ends) / sigma}


def levels(count):
    return Noise.of(1, count).uniform((1,)) * 0.98 + 0.01


def test_at_the_exact_function_there_is_no_tangent():
    t, z = levels(200), normal(200, 1)
    objective = ContinuousConsistency(ORACLE, warmup=0)
    v = objective.direction(TRIG, z, z, z, t, None, None)
    said, g = objective.tangent(Exact(), z, t, v, None, None)
    assert float(g.abs().max()) < 1e-8
    assert torch.allclose(said, Exact().outputs({"": z}, {"": t}, None, None)[""].detach(), atol=1e-14)
    # g is cos(phi) df/dphi, of other functions too
    model = Exact()
    model.gain.data += 0.3

    def f(z, t):
        return model(z, t).mean

    _, rate = torch.func.jvp(f, (z, t), (v, torch.full_like(t, 2 / math.pi)))
    _, g = objective.tangent(model, z, t, v, None, None)
    assert torch.allclose(g, TRIG.schedule.alpha(t) * rate.detach(), atol=1e-10)
    assert float(g.abs().max()) > 0.05


def test_the_warm_up_leaves_out_what_moves_with_the_network():
    objective = ContinuousConsistency(ORACLE, warmup=0.5)
    t, z, model = levels(20), normal(20, 1), Exact()
    model.gain.data += 0.3
    v = objective.direction(TRIG, z, z, z, t, None, None)
    g = []
    for done in (0.0, 0.25, 0.5, 0.8):
        objective.begin(model, 0, done)
        g.append(objective.tangent(model, z, t, v, None, None)[1])
    said = model.outputs({"": z}, {"": t}, None, None)[""].detach()
    assert torch.allclose(g[0], -(TRIG.schedule.alpha(t) ** 2) * (said - v), atol=1e-13)
    assert torch.allclose(g[1], (g[0] + g[2]) / 2, atol=1e-13) and torch.equal(g[2], g[3])


@pytest.mark.parametrize("teacher", [None, ORACLE], ids=["training", "distillation"])
def test_the_exact_function_is_stationary(teacher):
    for shift, least in ((0.0, True), (0.1, False)):
        model = Exact()
        model.gain.data += shift
        objective = ContinuousConsistency(teacher, warmup=0, normalise=None, adaptive=False, coupling=Crossed())
        objective.levels.quantile = lambda u, schedule: levels(30)[:, 0].repeat_interleave(4)
        objective(model, square(30), Noise.of(0, 120)).total.backward()
        assert (abs(float(model.gain.grad)) < 1e-12) is least


@pytest.mark.parametrize("teacher", [None, oracles.gaussian(TRIG, torch.zeros(3), torch.eye(3) * C)], ids=["training", "teacher"])
def test_the_gradient_is_the_limit_of_that_of_ever_finer_ladders(teacher, monkeypatch):
    """Discrete pairs t, t - delta with weight cot(phi) / delta phi, for a network of any weights."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # levels are shown in float32; here differences are taken
    torch.manual_seed(0)
    model = Denoiser(networks.MLP(3, 16, 2).double(), TRIG, "v", (3,))
    for p in model.parameters():
        p.data.add_(0.05 * normal(1, *p.shape)[0])
    batch, noise, t = Batch(C**0.5 * normal(16, 3)), Noise.of(0, 16), Noise.of(2, 16).uniform((1,)) * 0.8 + 0.1

    def gradient(objective):
        model.zero_grad(set_to_none=True)
        objective(model, batch, noise).total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    continuous = ContinuousConsistency(teacher, warmup=0, normalise=None, adaptive=False)
    continuous.levels.quantile = lambda u, schedule: t[:, 0]
    limit, errors = gradient(continuous), []
    for delta in (1e-5, 1e-6, 1e-7):
        discrete = Consistency(teacher, decay=None, order=2)
        discrete.levels = MethodType(lambda self, process, noise, like, d=delta: (t, t - d, torch.zeros_like(t)), discrete)
        phi = math.pi / 2 * t
        discrete.weight = MethodType(lambda self, p, t, u, s, d=delta, phi=phi: 1 / phi.tan() / (math.pi / 2 * d), discrete)
        errors.append(float((gradient(discrete) - limit).norm() / limit.norm()))
    assert errors[2] < 1e-3
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([10, 10], rel=0.05)


def test_tangents_are_normalised_sample_by_sample():
    model, batch, noise = Exact(), square(5), Noise.of(0, 20)
    model.gain.data += 0.5
    plain, bounded = (ContinuousConsistency(warmup=0, normalise=c, adaptive=False) for c in (None, 0.1))
    squares = [objective(model, batch, noise).each[""].detach() for objective in (plain, bounded)]
    root = squares[0].sqrt()
    assert torch.allclose(squares[1].sqrt(), root / (root + 0.1), atol=1e-12)


def test_the_learned_weight_makes_losses_of_all_levels_equal():
    # exp(w) L - w is least at w = -log L, where each level's loss counts 1
    objective = ContinuousConsistency(warmup=0, knots=4).double()
    assert objective.weight(torch.tensor([0.3, 1.0]).double()).abs().max() == 0
    with torch.no_grad():
        objective.log_weight.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0, 5.0]))
    line = objective.weight(torch.tensor([0.0, 0.125, 0.25, 0.5, 0.9, 1.0]).double())
    assert torch.allclose(line, torch.tensor([0.0, 0.5, 1.0, -1.0, 3.8, 5.0]).double(), atol=1e-12)
    model, batch = Exact(), square(50)
    model.gain.data += 0.5
    optimiser = torch.optim.Adam([objective.log_weight], lr=0.05)
    objective.levels.quantile = lambda u, schedule: torch.full((200,), 0.5, dtype=torch.float64)
    for _ in range(400):
        optimiser.zero_grad()
        loss = objective(model, batch, Noise.of(0, 200))
        loss.total.backward()
        optimiser.step()
    assert float(objective.weight(torch.tensor([0.5]).double()).detach()) == pytest.approx(
        -math.log(float(loss.each[""].mean())), abs=0.02
    )


def learning(out=None, resume=False):
    torch.manual_seed(0)
    model = Denoiser(networks.MLP(2, 32, 2), TRIG, "v", (2,))
    config = TrainConfig(steps=8, batch=16, lr=1e-2, save_every=100)
    return Trainer(model, Arrays(0.5 * normal(64, 2).float()), ContinuousConsistency(warmup=0.5), config, out, resume)


def test_a_run_resumes_to_the_bit(tmp_path):
    whole = learning()
    whole.run(progress=False)
    part = learning(tmp_path)
    for _ in range(3):
        part.update()
    part.save()
    part.close()
    last = learning(tmp_path, resume=True)
    last.run(progress=False)
    for one, other in ((whole.denoiser, last.denoiser), (whole.objective, last.objective)):
        there = other.state_dict()
        assert all(torch.equal(v, there[n]) for n, v in one.state_dict().items())
    assert float(whole.objective.log_weight.detach().abs().max()) > 0


def test_refusals():
    with pytest.raises(ValueError, match="'v' on schedule 'trigonometric'"):
        ContinuousConsistency().prepare(Denoiser(networks.MLP(2, 8, 1), Gaussian(schedules.cosine()), "v"))
    with pytest.raises(ValueError, match="warmup is 1"):
        ContinuousConsistency(warmup=1.0)
    with pytest.raises(ValueError, match="normalise is 0"):
        ContinuousConsistency(normalise=0.0)
