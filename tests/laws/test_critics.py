"""Distillation by critics and by matching distributions: gradients in closed form, kept apart; one checkpoint for all players."""

import pytest
import torch

import langevin as lv
from langevin import schedules
from langevin.config import TrainConfig
from langevin.core import prediction
from langevin.objectives.adversarial import Adversarial, check_levels, inner_levels
from langevin.objectives.critics import Critic, hinge, penalty
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.levels import Uniform
from langevin.objectives.progressive import Progressive
from langevin.training import Trainer
from tests.laws.test_distillation import Normals, batch, mlp

COUNT = 64


class Table(torch.nn.Module):
    """x^ is a parameter, one row for each sample of the batch."""

    def __init__(self, x):
        super().__init__()
        self.x = torch.nn.Parameter(x.clone())

    def forward(self, z, level, cond=None, mask=None):
        return self.x + 0 * z


def table(process, seed=4):
    x = lv.Noise.of(seed, COUNT).normal((2,), torch.float64)
    return lv.Denoiser(Table(x), process, prediction.x0(), shape=(2,))


def adversarial(process, **settings):
    return Adversarial(mlp(process, seed=1), classes=2, **settings)


def constant(objective, student):
    """The objective with a critic that says 0 of everything."""
    objective.prepare(student)
    objective.double()
    for head in objective.nets["critic"].heads:
        for part in (head.leave, head.label):
            for p in part.parameters():
                p.data.zero_()
    return objective


def slopes(total, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()), retain_graph=True)])


# Critics


def test_hinge_at_equilibrium_is_2_and_never_less():
    zeros = [torch.zeros(COUNT, 3), torch.zeros(COUNT, 1)]
    assert torch.equal(hinge(zeros, zeros), torch.full((COUNT,), 2.0))
    scores = [3 * lv.Noise.of(0, COUNT).normal((5,))]  # real and made of one law: whatever the critic says, it loses 2 or more
    assert bool((hinge(scores, scores) >= 2 - 1e-6).all())
    assert float(hinge([torch.full((1, 1), 1.0)], [torch.full((1, 1), -1.0)])) == 0.0


def test_the_penalty_of_a_linear_critic_is_its_squared_norm():
    w, v = torch.tensor([3.0, -4.0]), torch.tensor([1.0, 2.0, 2.0])
    features = [lv.Noise.of(0, COUNT).normal((7, 2)), lv.Noise.of(1, COUNT).normal((1, 3))]
    found = penalty(lambda f: [f[0] @ w, f[1] @ v], features)
    torch.testing.assert_close(found, torch.full((COUNT,), (25.0 + 9.0) / 2))


def test_the_heads_read_the_main_blocks():
    process, nets = lv.Gaussian(schedules.flow()), lv.networks
    unet = nets.UNet(1, 32, (1, 2), blocks=1, attention=())
    cases = [
        (nets.MLP(2, 16, 3), (2,), [f"layers.{i}" for i in range(3)]),
        (nets.DiT(1, 8, 2, 32, 2, 2), (1, 8, 8), [f"joint.trunk.{i}" for i in range(2)]),
        (unet, (1, 8, 8), ["down.0.stages.0", "down.1.stages.0", "middle.stages.1", "up.1.stages.0"]),
    ]
    for net, shape, names in cases:
        teacher = lv.Denoiser(net, process, "velocity")
        critic = Critic(teacher, shape)
        assert critic.names == names if net is not unet else set(names) <= set(critic.names)
        z = lv.Noise.of(0, 3).normal(shape)
        scores = critic(critic.read(teacher, z, torch.tensor([0.2, 0.5, 0.9]), None), None)
        assert all(s.shape[0] == 3 for s in scores) and len(scores) == len(critic.names)
        # of positions: patches of tokens, pixels of maps
        assert scores[0].shape[1] == {2: 1}.get(len(shape) + 1, 16 if net is cases[1][0] else 64)
    assert Critic(lv.Denoiser(unet, process), (1, 8, 8), at="middle.stages.*").names == ["middle.stages.0", "middle.stages.1"]
    with pytest.raises(ValueError, match="finds no module"):
        Critic(lv.Denoiser(unet, process), (1, 8, 8), at="nothing.*")
    with pytest.raises(ValueError, match="reads the network of a learned Denoiser"):
        Critic(Normals(process), (2,))


def test_the_projection_tells_labels_apart_and_the_seed_makes_the_heads():
    teacher = mlp(lv.Gaussian(schedules.flow()))
    critic, same, other = (Critic(teacher, (2,), classes=2, seed=s).double() for s in (0, 0, 1))
    z, t = torch.ones(3, 2, dtype=torch.float64), torch.full((3, 1), 0.5)
    features = critic.read(teacher, z, t, None)
    dropped = {"label": torch.tensor([0, 1, 1]), "drop": torch.tensor([False, False, True])}
    (a, *_), (b, *_), (null, *_) = critic(features, dropped), same(features, dropped), critic(features, None)
    assert len(set(a.flatten().tolist())) == 3 and torch.equal(a, b) and torch.equal(a[2], null[2])
    assert not torch.equal(a, other(features, dropped)[0])


def test_padded_positions_do_not_count():
    scores, mask = torch.tensor([[0.5, 9.0, 9.0], [0.5, 0.5, 9.0]]), torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
    torch.testing.assert_close(hinge([scores], [-scores], mask), torch.full((2,), 1.0))


# Adversarial distillation


@pytest.mark.parametrize("weighting", ["exponential", "sds"])
def test_under_a_constant_critic_only_the_teacher_teaches(weighting):
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(8, COUNT)
    student = mlp(process, seed=2)
    made = [constant(adversarial(process, distill=d, weighting=weighting), student) for d in (2.5, 1.0, 0.0)]
    five, two, none = (slopes(objective(student, data, noise).total, student) for objective in made)
    torch.testing.assert_close(five, 2.5 * two, rtol=1e-12, atol=1e-14)
    assert float(none.abs().max()) == 0.0 < float(two.abs().max())


@pytest.mark.parametrize("weighting", ["sds", "exponential"])
def test_the_distillation_is_score_distillation(weighting):
    # x^ - x_teacher = sigma / alpha (e_teacher - e), so the gradient in x^ of c |x^ - x_teacher|^2 is sigma^2 (e_teacher - e)
    # with c = alpha sigma / 2, and 2 sigma (e_teacher - e) with c = alpha
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(8, COUNT)
    student = table(process)
    objective = constant(adversarial(process, distill=1.0, weighting=weighting), student)
    x = student.net.x
    (slope,) = torch.autograd.grad(objective(student, data, noise).total, x)
    v = inner_levels(Uniform(), process, noise.at("teacher levels"), x)
    e = process.noise(x, noise.at("teacher noise"))
    alpha, sigma = process.schedule(v)
    z = alpha * x.detach() + sigma * e
    believed = (z - alpha * objective.nets["teacher"](z, v, data.cond).mean) / sigma
    factor = sigma**2 if weighting == "sds" else 2 * sigma
    torch.testing.assert_close(slope * x.numel(), factor * (believed - e), rtol=1e-9, atol=1e-12)


def test_gradients_of_generator_and_critic_do_not_mix():
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(8, COUNT)
    student = mlp(process, seed=2)
    objective = adversarial(process, r1=0.1).double()
    objective.prepare(student)
    critic, teacher = objective.nets["critic"].double(), objective.nets["teacher"]
    t = torch.full((COUNT, 1), 0.4, dtype=torch.float64)
    made = student(data.x, t, data.cond).mean
    judged = critic.generator(teacher, made, t, data.cond).mean()
    critical = critic.own(teacher, data.x, made, t, data.cond, r1=0.1).mean()

    def reached(loss, module):
        grads = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
        return sum(g is not None and bool(g.any()) for g in grads)

    assert reached(judged, critic) == 0 < reached(judged, student)
    assert reached(critical, student) == 0 < reached(critical, critic)
    # so the total's gradient is that of each player's own loss
    total = objective(student, data, noise).total
    apart = objective(student, data, noise)
    torch.testing.assert_close(slopes(total, critic), slopes(apart.total, critic))
    assert not any(p.requires_grad for p in teacher.parameters())
    # the generator climbs: a step along its gradient raises what the critic says
    (slope,) = torch.autograd.grad(judged, made)
    before = critic.generator(teacher, made, t, data.cond).mean()
    assert float(critic.generator(teacher, made - 1e-2 * COUNT * slope, t, data.cond).mean().detach()) < float(before.detach())


def test_the_critics_loss_in_the_total_is_the_hinge_loss():
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(8, COUNT)
    student = mlp(process, seed=2)
    assert float(constant(adversarial(process), student)(student, data, noise).logs["loss/critic"]) == 2.0


# Matching distributions


def matching(process, student, **settings):
    objective = DistributionMatching(mlp(process, seed=1), **settings).double()
    objective.prepare(student)
    return objective.double()


def test_no_gradient_where_fake_and_teacher_agree():
    process, data = lv.Gaussian(schedules.flow()), batch(COUNT, classes=2)
    student = mlp(process, seed=2)
    objective = matching(process, student)
    x = lv.Noise.of(3, COUNT).normal((2,), torch.float64)
    assert float(objective.direction(process, x, lv.Noise.of(1, COUNT), data.cond, None).abs().max()) == 0.0
    assert float(slopes(objective(student, data, lv.Noise.of(1, COUNT)).total, student).abs().max()) == 0.0


def test_between_gaussians_the_gradient_is_the_closed_form():
    process, student = lv.Gaussian(schedules.cosine()), table(lv.Gaussian(schedules.cosine()))
    objective = DistributionMatching(Normals(process, (0.5,), 0.3), fake=mlp(process))
    objective.prepare(student)
    objective.nets["fake"] = Normals(process, (-1.0,), 0.8)
    data = batch(COUNT)
    x, noise = student.net.x.detach(), lv.Noise.of(1, COUNT)
    found = objective.direction(process, x, noise, data.cond, None)
    t = inner_levels(Uniform(), process, noise.at("levels"), x)
    alpha, sigma = process.schedule(t)
    z = alpha * x + sigma * process.noise(x, noise.at("noise"))

    def score(mean, variance):
        return -(z - alpha * mean) / (alpha**2 * variance + sigma**2)

    # beliefs differ by sigma^2 / alpha of what scores differ by: the gradient of KL(fake | real) at z
    away = sigma**2 / alpha * (score(-1.0, 0.8) - score(0.5, 0.3))
    real = (z + sigma**2 * score(0.5, 0.3)) / alpha
    expected = away / (x - real).abs().mean(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # on the whole it points from the data's mean to the student's
    assert float(found.mean()) < 0

    # and the total's gradient in the student's samples is that direction
    made = objective.generate(student, data.x, lv.Noise.of(2, COUNT), data.cond, None)
    torch.testing.assert_close(made.detach(), x)


def test_the_totals_gradient_is_the_direction():
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(2, COUNT)
    student = table(process)
    objective = matching(process, student, fake=mlp(process, seed=5))
    (slope,) = torch.autograd.grad(objective(student, data, noise).total, student.net.x)
    x = student.net.x
    away = objective.direction(process, x.detach(), noise.at("matching"), data.cond, None)
    torch.testing.assert_close(slope * x.numel(), away, rtol=1e-9, atol=1e-12)


def test_the_fake_learns_from_samples_alone_and_the_student_every_fifth_time():
    process, data, noise = lv.Gaussian(schedules.flow()), batch(COUNT, classes=2), lv.Noise.of(2, COUNT)
    student = mlp(process, seed=2)
    objective = matching(process, student, fake=mlp(process, seed=5), adversarial=1.0, every=5)
    players = {"student": student, **{n: objective.nets[n] for n in ("fake", "critic", "teacher")}}
    for step in range(7):
        objective.begin(student, step, step / 7)
        for p in (p for player in players.values() for p in player.parameters()):
            p.grad = None
        objective(student, data, noise.at("x", step=step)).total.backward()
        moved = {name for name, player in players.items() if any(p.grad is not None for p in player.parameters())}
        assert moved == {"fake", "critic"} | ({"student"} if step in (0, 5) else set())
    # what the fake is taught does not depend on whose turn it is
    objective.begin(student, 0, 0.0)
    mine = slopes(objective(student, data, noise).total, objective.nets["fake"])
    objective.begin(student, 1, 0.0)
    torch.testing.assert_close(mine, slopes(objective(student, data, noise).total, objective.nets["fake"]))


def test_a_student_of_few_steps_meets_the_states_that_it_makes():
    process, data, noise = lv.Gaussian(schedules.cosine()), batch(COUNT, classes=2), lv.Noise.of(2, COUNT)
    student, levels, met = mlp(process, seed=2), (1.0, 0.7, 0.4), []
    objective = matching(process, student, levels=levels)
    hook = student.register_forward_pre_hook(lambda module, args: met.append((args[0][""], args[1][""])))
    made = objective.generate(student, data.x, noise, data.cond, None)
    hook.remove()
    assert [float(t.max()) for _, t in met[:2]] == [1.0, 0.7] and len(met) == 3
    z, t = met[-1]
    assert set(t.flatten().tolist()) == set(levels)
    # by hand: down the levels, with the same noise
    state = process.prior((2,), noise.at("prior"), None, torch.float64)
    for k, level in enumerate(levels):
        at = (t == level)[:, 0]
        torch.testing.assert_close(z[at], state[at])
        with torch.no_grad():
            x = student(state, level, data.cond).mean
        torch.testing.assert_close(made.detach()[at], x[at])
        if k < 2:
            state = process.mix(x, process.noise(x, noise.at("renoise", step=k + 1)), torch.tensor(levels[k + 1]).double())


class Affine(torch.nn.Module):
    """x^ = scale[label] z + shift[label]."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(2))

    def forward(self, z, level, cond=None, mask=None):
        return self.scale[cond["label"]][:, None] * z + self.shift[cond["label"]][:, None]


class OfNormals(torch.nn.Module):
    """The belief for data N(mean[label], exp(log_variance[label])), which are learned."""

    def __init__(self, process):
        super().__init__()
        self.process, self.mean, self.log_variance = (
            process,
            torch.nn.Parameter(torch.zeros(2)),
            torch.nn.Parameter(torch.zeros(2)),
        )

    def forward(self, z, level, cond=None, mask=None):
        mean, variance = self.mean[cond["label"]][:, None], self.log_variance[cond["label"]].exp()[:, None]
        alpha, sigma = (v[:, None].float() for v in self.process.schedule(level.double()))
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (z - alpha * mean)


def test_trained_among_normals_the_student_has_the_teachers_law():
    process = lv.Gaussian(schedules.cosine())
    student = lv.Denoiser(Affine(), process, prediction.x0("t"), shape=(2,))
    fake = lv.Denoiser(OfNormals(process), process, prediction.x0("t"), shape=(2,))
    objective = DistributionMatching(Normals(process, (-1.0, 2.0), 0.3), fake=fake, every=2, rate=2.0)
    config = TrainConfig(steps=800, batch=256, lr=0.02, warmup=0, weight_decay=0.0, ema=0.99)
    Trainer(student, lv.data.two_moons(512), objective, config).run(progress=False)
    torch.testing.assert_close(student.net.shift.data, torch.tensor([-1.0, 2.0]), rtol=0, atol=0.02)
    torch.testing.assert_close(student.net.scale.data, torch.full((2,), 0.3**0.5), rtol=0, atol=0.05)
    torch.testing.assert_close(fake.net.mean.data, torch.tensor([-1.0, 2.0]), rtol=0, atol=0.05)


# Checkpoints


def objectives():
    process = lv.Gaussian(schedules.flow())
    teacher = mlp(process, seed=1).float()
    return process, {
        "progressive": Progressive(teacher, 4, decay=0.5),
        "latent": LatentConsistency(teacher, (1.0, 3.0), 10),
        "adversarial": Adversarial(teacher, classes=2, r1=0.1, drop=0.2, rate=0.5),
        "matching": DistributionMatching(teacher, (1.0, 0.5), every=3, adversarial=0.1, classes=2, drop=0.2),
    }


def run(kind, out, resume=False):
    process, made = objectives()
    config = TrainConfig(steps=12, batch=12, accumulate=3, save_every=4, log_every=1, lr=1e-3, warmup=0)
    student = mlp(process, scalars=("guidance",) if kind == "latent" else (), seed=2).float()
    return Trainer(student, lv.data.two_moons(100), made[kind], config, out, resume)


def everything(trainer):
    held = trainer.optimiser.state_dict()["state"]
    of_optimiser = {f"{i}.{k}": v for i, state in held.items() for k, v in state.items()}
    return {**trainer.denoiser.state_dict(), **trainer.objective.state_dict(), **of_optimiser, **trainer.ema.tensors()}


@pytest.mark.parametrize("kind", ["progressive", "latent", "adversarial", "matching"])
def test_a_run_of_all_players_resumed_is_the_run(tmp_path, kind):
    whole = run(kind, None)
    for _ in range(12):
        whole.update()
    for stop in (1, 4, 5, 8, 12):  # updates on which a stage begins, and on which it is or is not the student's turn
        part = run(kind, tmp_path, resume=True)
        while part.step < stop:
            part.update()
        part.save()
        part.close()
    here, there = everything(whole), everything(part)
    assert set(here) == set(there) and len(here) > 50
    assert all(torch.equal(value, there[name]) for name, value in here.items())


@pytest.mark.parametrize("lost", ["nets.fake.", "nets.critic.", "nets.teacher."])
def test_a_checkpoint_that_lacks_a_player_is_refused(tmp_path, lost, monkeypatch):
    part = run("matching", tmp_path)
    part.update()
    held = part.objective.state_dict()
    monkeypatch.setattr(part.objective, "state_dict", lambda: {n: v for n, v in held.items() if not n.startswith(lost)})
    part.save()
    part.close()
    with pytest.raises(ValueError, match=rf"disagree on {lost}.*and \d+ more; resume with the same objective"):
        run("matching", tmp_path, resume=True)


def test_bad_settings_are_refused():
    process = lv.Gaussian(schedules.flow())
    for levels in ((), (0.5, 0.7), (1.2,), (1.0, 0.0)):
        with pytest.raises(ValueError, match="give levels that fall"):
            check_levels(levels)
    with pytest.raises(ValueError, match="begins with pure noise"):
        DistributionMatching(mlp(process), levels=(0.8, 0.4))
    with pytest.raises(ValueError, match="rate 0;"):
        Adversarial(mlp(process), rate=0)
