"""Distillation in steps: what a perfect student is told is what it says, in closed form on Gaussians."""

import copy

import pytest
import torch

import langevin as lv
from langevin import adapters, plans, schedules
from langevin.config import TrainConfig
from langevin.core import prediction
from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser
from langevin.core.posterior import GaussianPosterior
from langevin.objectives.consistency import Consistency
from langevin.objectives.guidance_distillation import GuidanceDistillation
from langevin.objectives.latent_consistency import LatentConsistency, Published
from langevin.objectives.leaps import aim, belief, follow, guided
from langevin.objectives.progressive import Progressive, thinned
from langevin.objectives.teachers import begin_from
from langevin.training import Trainer
from tests.rows import GAUSSIAN_PREDICTIONS

STEPS = 8


class Normals(BaseDenoiser):
    """The exact belief for data N(mean[label], variance); N(0, wide) where the label is dropped."""

    def __init__(self, process, means=(0.0,), variance=0.3, wide=1.1):
        super().__init__()
        self.process, self.shape = process, (2,)
        self.means, self.variance, self.wide = torch.tensor(means, dtype=torch.float64), variance, wide

    def forward(self, z, t, cond, mask):
        z, t = z[""], t[""]
        label = torch.zeros(len(z), dtype=torch.int64) if cond is None else cond["label"]
        out = (cond or {}).get("drop", torch.zeros(len(z), dtype=torch.bool))
        mean = torch.where(out, 0.0, self.means[label])[:, None]
        variance = torch.tensor([self.variance, self.wide], dtype=torch.float64)[out.long()][:, None]
        alpha, sigma = self.process.schedule(t)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return GaussianPosterior(mean + gain * (z - alpha * mean))


class Gains(torch.nn.Module):
    """x^ = gain[level] z, a number for each level k / (2 STEPS)."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(2 * STEPS + 1, dtype=torch.float64))

    def forward(self, z, level, cond=None, mask=None):
        return self.gain[(level * 2 * STEPS).round().long()][:, None] * z


def batch(count=64, seed=3, classes=1, dtype=torch.float64):
    noise = lv.Noise.of(seed, count)
    return Batch(noise.at("x").normal((2,), dtype), {"label": torch.arange(count) % classes})


def mlp(process, kind="velocity", scalars=(), seed=0, classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = lv.networks.MLP(2, 16, 2, classes=classes, scalars=scalars).double()
        for p in net.parameters():
            p.data.add_(0.1 * torch.randn_like(p))  # nothing begins at 0
    return lv.Denoiser(net, process, kind, shape=(2,))


# Progressive distillation


@pytest.mark.parametrize("schedule", ["cosine", "flow", "vp_linear", "ve", "edm", "trigonometric"])
def test_one_step_with_the_aim_is_two_steps_of_the_teacher(schedule):
    process = lv.Gaussian(getattr(schedules, schedule)())
    teacher, noise = Normals(process), lv.Noise.of(1, 500)
    levels = noise.at("levels").uniform((3,)).sort(1, descending=True).values
    levels[:50, 2], levels[:25, 0] = 0.0, 1.0
    t, u, s = levels[:, :1], levels[:, 1:2], levels[:, 2:]
    z = noise.normal((2,), torch.float64) * process.schedule.sigma(t).clamp(min=1)
    landed = follow(teacher, follow(teacher, z, t, u, None), u, s, None)
    again = process.land(z, aim(process, z, landed, t, s), t, s)
    torch.testing.assert_close(again, landed, rtol=1e-15, atol=1e-15)


def gain_of_leaps(process, teacher_gain, stride):
    """Gains with which a step over `stride` of the finest levels is `stride` steps of the teacher, by the bridge's numbers."""
    out = torch.zeros(2 * STEPS + 1, dtype=torch.float64)
    for k in range(stride, 2 * STEPS + 1, stride):
        factor = 1.0
        for i in range(k, k - stride, -1):
            x_part, z_part, _ = process.bridge_numbers(i / (2 * STEPS), (i - 1) / (2 * STEPS), 0.0)
            factor *= x_part * teacher_gain(i / (2 * STEPS)) + z_part
        x_part, z_part, _ = process.bridge_numbers(k / (2 * STEPS), (k - stride) / (2 * STEPS), 0.0)
        out[k] = (factor - z_part) / x_part
    return out


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("weighting", ["truncated", "v"])
def test_each_stage_has_the_closed_form_student_and_the_last_is_the_teachers_whole_run(weighting, decay):
    process = lv.Gaussian(schedules.cosine())
    teacher = Normals(process)

    def teacher_gain(t):
        alpha, sigma = (float(v) for v in process.schedule(t))
        return alpha * 0.3 / (alpha**2 * 0.3 + sigma**2)

    student = lv.Denoiser(Gains(), process, prediction.x0("t"), shape=(2,))
    objective = Progressive(teacher, STEPS, weighting=weighting, decay=decay)
    assert objective.stages == 4
    objective.prepare(student)
    for stage in range(4):
        objective.begin(student, 100 * stage, stage / 4)
        assert int(objective.stage) == stage
        student.net.gain.data.fill_(0.1)
        wrong = objective(student, batch(), lv.Noise.of(stage, 64)).total
        assert float(wrong.detach()) > 1e-4
        student.net.gain.data.copy_(gain_of_leaps(process, teacher_gain, 2 ** (stage + 1)))
        loss = objective(student, batch(), lv.Noise.of(stage, 64)).total
        (slope,) = torch.autograd.grad(loss, student.net.gain)
        assert float(loss.detach()) < 1e-20 and float(slope.abs().max()) < 1e-9
        for _ in range(60 if decay else 1):
            objective.end(student)
    start = lv.Noise.of(7, 100).normal((2,), torch.float64)
    short = lv.sample(student, plans.ddim(1), 100, start=start)
    long = lv.sample(teacher, plans.ddim(2 * STEPS), 100, start=start)
    torch.testing.assert_close(short, long, rtol=1e-10, atol=1e-10)


def test_weights_are_an_error_of_v_and_the_larger_of_those_of_x_and_noise():
    # 2202.00512, eq. 9 to 11: two beliefs about one state differ in x, in noise and in v
    process = lv.Gaussian(schedules.cosine())
    z, x, y = (lv.Noise.of(k, 200).normal((1,), torch.float64) for k in range(3))
    t = (torch.arange(200, dtype=torch.float64)[:, None] + 1) / 201
    off = {}
    for name in ("x0", "eps", "v"):
        said = GAUSSIAN_PREDICTIONS[name]
        off[name] = (said.output(process, x, z, t) - said.output(process, y, z, t)).square()
    student = lv.Denoiser(Gains(), process, prediction.x0("t"), shape=(2,))
    each = {}
    for weighting, error in (("v", off["v"]), ("truncated", torch.maximum(off["x0"], off["eps"]))):
        objective = Progressive(Normals(process), STEPS, weighting=weighting)
        torch.testing.assert_close(objective.weight(process, t, t, t) * off["x0"], error, rtol=1e-9, atol=1e-12)
        objective.prepare(student)
        found = objective(student, batch(), lv.Noise.of(0, 64))
        each[weighting] = found.each[""] / objective.weight(process, found.levels[""], t, t)
    torch.testing.assert_close(each["v"], each["truncated"], rtol=1e-9, atol=1e-12)  # and are what the loss is multiplied by


def test_the_grids_of_stages_are_nested_and_known_to_plans():
    process = lv.Gaussian(schedules.edm())
    objective = Progressive(Normals(process), 4, grid="karras")
    finest = plans.grids.karras()(process.schedule, 8)
    for stage in range(3):
        objective.stage.fill_(stage)
        t, u, s = objective.levels(process, lv.Noise.of(0, 200), torch.zeros(200, 2))
        kept = thinned("karras", 8)(process.schedule, 4 >> stage)
        assert set(t.flatten().tolist()) == set(kept[:-1]) and set(s.flatten().tolist()) == set(kept[1:])
        assert set(u.flatten().tolist()) == set(finest[2**stage :: 2 ** (stage + 1)])


def test_the_variant_of_the_consistency_models_code():
    # alpha = 1: two Euler steps t, t2, t3, target x_t - t (x_t3 - x_t) / (t3 - t)
    process = lv.Gaussian(schedules.edm())
    teacher, grid = Normals(process), plans.grids.karras()(process.schedule, 8)
    z = 5 * lv.Noise.of(0, 50).normal((2,), torch.float64)
    t, u, s = (torch.full((50, 1), v, dtype=torch.float64) for v in grid[2:5])
    a, b, c = (process.schedule.sigma(v) for v in (t, u, s))
    middle = z + (z - belief(teacher, z, t, None, None)) / a * (b - a)
    landed = middle + (middle - belief(teacher, middle, u, None, None)) / b * (c - b)
    ours = aim(process, z, follow(teacher, follow(teacher, z, t, u, None), u, s, None), t, s)
    torch.testing.assert_close(ours, z - a * (landed - z) / (c - a), rtol=1e-10, atol=1e-10)


def test_predictions_of_noise_are_refused():
    process = lv.Gaussian(schedules.cosine())
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match="use 'v', 'velocity', 'x0' or 'edm'"):
            Progressive(Normals(process), 4).prepare(mlp(lv.Gaussian(schedules.vp_linear()), kind))
    with pytest.raises(ValueError, match="steps is 6 for 3 stages"):
        Progressive(Normals(process), 6, stages=3)


# Latent consistency


class Walker(BaseDenoiser):
    """Where the guided teacher's DDIM steps, down a grid of `original` levels, end: the perfect student."""

    def __init__(self, teacher, original, w=None):
        super().__init__()
        self.teacher, self.process, self.original, self.w, self.shape = teacher, teacher.process, original, w, (2,)

    def forward(self, z, t, cond, mask):
        z, t, given = z[""], t[""], dict(cond or {})
        w = given.pop("guidance", self.w)
        for i in range(self.original, 0, -1):
            level, below = (torch.full_like(t, j / self.original) for j in (i, i - 1))
            z = torch.where(t >= level - 1e-9, follow(self.teacher, z, level, below, given, mask, w), z)
        return GaussianPosterior(z)


@pytest.mark.parametrize("w", [2.5, (1.0, 6.0)])
def test_the_end_of_the_guided_teachers_steps_is_the_fixed_point(w):
    teacher = Normals(lv.Gaussian(schedules.cosine()), (-1.0, 2.0))
    objective = LatentConsistency(teacher, w, original=10, decay=None, distance="squared")
    right, wrong = Walker(teacher, 10, 2.5), Walker(teacher, 10, 1.0)
    objective.prepare(right)
    data, noise = batch(classes=2), lv.Noise.of(0, 64)
    assert float(objective(right, data, noise).total) < 1e-20
    if isinstance(w, float):
        assert float(objective(wrong, data, noise).total) > 1e-3


def test_the_students_error_falls_with_the_skip():
    # class-conditional Gaussians under guidance: 1000 timesteps, strides of 40, 20 and 10
    teacher, w = Normals(lv.Gaussian(schedules.cosine()), (-1.0, 2.0)), torch.tensor([2.0, 4.0, 8.0]).repeat(20).double()
    z, cond = lv.Noise.of(0, 60).normal((2,), torch.float64), {"label": torch.arange(60) % 2, "guidance": w}
    exact, error = Walker(teacher, 6000)(z, 1.0, cond).mean, []
    for skip in (40, 20, 10):
        error.append(float((Walker(teacher, 1000 // skip)(z, 1.0, cond).mean - exact).abs().mean()))
    assert error[0] > error[1] > error[2] and 1.7 < error[1] / error[2] < 2.3, error


def test_unguided_it_is_consistency_distillation():
    process = lv.Gaussian(schedules.cosine())
    teacher, student = mlp(process, seed=1), mlp(process, seed=2)
    plain = Consistency(teacher, 50, order=1, grid="uniform", distance="huber")
    latent, near = LatentConsistency(teacher, 1.0), LatentConsistency(teacher, (1.0, 1.0 + 1e-9))
    for objective in (plain, latent):
        objective.prepare(student)
    data, noise = batch(classes=2), lv.Noise.of(5, 64)
    assert torch.equal(plain(student, data, noise).total, latent(student, data, noise).total)
    # and a drawn strength of 1 moves as none does
    process, t = student.process, torch.full((64, 1), 0.7, dtype=torch.float64)
    cond = near.conditions(data, noise, data.x)
    moved = near.move(student, data.x, data.x, data.x, t, t - 0.02, cond, None)
    torch.testing.assert_close(moved, follow(teacher, data.x, t, t - 0.02, data.cond), rtol=1e-6, atol=1e-6)


def test_skips_cross_so_many_levels_and_end_at_data():
    process = lv.Gaussian(schedules.cosine())
    t, u, s = LatentConsistency(Normals(process), 1.0, 100, skip=20).levels(process, lv.Noise.of(0, 2000), torch.zeros(2000, 2))
    assert float(t.min()) == 0.01 and float(t.max()) == 1.0 and not bool(s.any())
    torch.testing.assert_close(u, (t - 0.2).clamp(min=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [*GAUSSIAN_PREDICTIONS, "lcm"])
def test_at_level_0_the_belief_is_the_state(kind):
    process = lv.Gaussian(schedules.vp_linear())
    model = mlp(process, Published() if kind == "lcm" else kind)
    z = lv.Noise.of(0, 20).normal((2,), torch.float64)
    assert torch.equal(model(z, torch.zeros(20)).mean, z)


def test_the_published_coefficients():
    process, published = lv.Gaussian(schedules.betas("scaled_linear")), Published()
    model = mlp(process, published)
    z, z_cond = lv.Noise.of(0, 5).normal((2,), torch.float64), None
    for timestep in (0, 1, 19, 499, 999):
        t = torch.full((5, 1), (timestep + 1) / 1000, dtype=torch.float64)
        alpha, sigma = process.schedule(t)
        i, out = 10.0 * timestep, model.outputs({"": z}, {"": t}, z_cond, None)[""]
        skip, scale = 0.25 / (i**2 + 0.25), i / (i**2 + 0.25) ** 0.5
        torch.testing.assert_close(model(z, t).mean, skip * z + scale * (z - sigma * out) / alpha, rtol=1e-12, atol=1e-12)
        # what the network should have said: the belief is then x, where it is anything but the state
        if timestep:
            target = published.target(process, z, 0.5 * z, t)
            mixed = alpha * z + sigma * 0.5 * z
            torch.testing.assert_close(published.posterior(process, target, mixed, t).mean, z, rtol=1e-9, atol=1e-9)
    c_skip, c_out = published.coefficients(torch.tensor(2 / 1000, dtype=torch.float64))
    assert round(float(c_out), 4) == 0.9988 and float(c_skip) < 0.003


def test_low_rank_adapters_alone_are_trained(tmp_path):
    process = lv.Gaussian(schedules.flow())
    teacher = mlp(process, seed=1).float()
    student = mlp(process, scalars=("guidance",), seed=2).float()
    assert begin_from(student, teacher) and all("scalars" in n for n in begin_from(student, teacher))
    adapters.lora(student.net, rank=2)
    before = copy.deepcopy(student.state_dict())
    objective = LatentConsistency(teacher, (1.0, 4.0), original=10)
    config = TrainConfig(steps=20, batch=16, lr=1e-2, warmup=0)
    run = Trainer(student, lv.data.two_moons(64), objective, config)
    for _ in range(20):
        run.update()
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(".lora." in name for name in moved)
    slow = dict(objective.nets["slow"].named_parameters())
    assert any(not torch.equal(p, before[n]) and not torch.equal(p, dict(student.named_parameters())[n]) for n, p in slow.items())
    # the slow copy has adapters of its own, and hooks that read them: other weights, another answer
    z, cond = torch.ones(3, 2), {"label": torch.tensor([0, 1, 0]), "guidance": torch.tensor([1.0, 2.0, 3.0])}
    with torch.no_grad():
        first = objective.nets["slow"](z, 0.5, cond).mean
        for name, p in slow.items():
            if "lora" in name:
                p.zero_()
        bare = objective.nets["slow"](z, 0.5, cond).mean
    assert not torch.equal(first, bare)
    student.load_state_dict(before)
    torch.testing.assert_close(bare, student.eval()(z, 0.5, cond).mean)


# Guidance in one evaluation


def test_the_guided_belief_is_the_fixed_point_of_guidance_distillation():
    class Told(BaseDenoiser):
        def __init__(self, teacher):
            super().__init__()
            self.teacher, self.process = teacher, teacher.process

        def forward(self, z, t, cond, mask):
            given = dict(cond)
            return GaussianPosterior(guided(self.teacher, z[""], t[""], given, mask, given.pop("guidance")))

    teacher = Normals(lv.Gaussian(schedules.cosine()), (-1.0, 2.0))
    data, noise = batch(classes=2), lv.Noise.of(2, 64)
    objective = GuidanceDistillation(teacher, (0.0, 5.0), drop=0.2)
    assert float(objective(Told(teacher), data, noise).total) < 1e-24
    fixed = GuidanceDistillation(teacher, 1.0, drop=0.2)
    assert float(fixed(teacher, data, noise).total) == 0.0
    # and its loss at w is the guided error of a student that is deaf to w: (w - 1)^2 |x_c - x_0|^2
    deaf = GuidanceDistillation(teacher, 3.0)
    loss = deaf(teacher, data, noise)
    t = loss.levels[""].reshape(-1, 1)
    process = teacher.process
    z = process.mix(data.x, process.noise(data.x, noise.at("noise")), t)
    alone = teacher(z, t, {**data.cond, "drop": torch.ones(64, dtype=torch.bool)}).mean
    each = 4 * (teacher(z, t, data.cond).mean - alone).square().mean(1) * process.schedule.lam(t).exp().clamp(min=1)[:, 0]
    torch.testing.assert_close(loss.each[""], each, rtol=1e-10, atol=1e-12)


def test_a_student_of_another_build_is_refused():
    process = lv.Gaussian(schedules.flow())
    with pytest.raises(ValueError, match=r"the teacher's net\.conditions\.label\.weight is \(3, 16\), the student's \(4, 16\)"):
        begin_from(mlp(process, classes=3), mlp(process))
    with pytest.raises(ValueError, match="w is"):
        LatentConsistency(mlp(process), (4.0, 2.0))
