"""Editing: what is known stays, and on normal data the rest is what the algorithm's matrices say."""

import re
from pathlib import Path

import pytest
import torch

from langevin import guidance, oracles, plans, schedules, tasks
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.sample import sample
from langevin.guidance import CFG, operators
from langevin.plans import grids
from langevin.tasks import likelihood
from langevin.tasks.elbo import elbo
from tests.laws.leaping import C, ExactFlow, normal

COSINE = Gaussian(schedules.cosine())
PICTURES = oracles.mixture(COSINE, normal(5, 3, 4, 4), 0.2, label=torch.tensor([0, 0, 1, 1, 1]))
PLANS = {
    "consistency": plans.consistency(3),
    "ddim": plans.ddim(4),
    "ddpm": plans.ddpm(6),
    "dpmpp": plans.dpmpp(5),
    "heun": plans.heun(3),
    "trig": plans.trig(5),
    "adams": plans.adams_bashforth(5, grid=grids.uniform(start=0.99)),
    "unipc": plans.unipc(5),
    "ancestral": plans.euler_ancestral(5),
}
PICTURE, MARK = normal(4, 3, 4, 4, seed=1), normal(4, 3, 4, 4, seed=2) > 0
START = {"start": normal(4, 3, 4, 4, seed=3)}


@pytest.mark.parametrize("name", PLANS)
def test_what_is_known_stays_under_any_plan(name):
    plan, weights = PLANS[name], torch.tensor([0.2989, 0.587, 0.114]).double()[:, None, None]
    x = tasks.inpaint(PICTURES, plan, PICTURE, MARK, **START)
    assert torch.equal(x[MARK], PICTURE[MARK]) and not bool((x[~MARK] == PICTURE[~MARK]).any())
    low = PICTURE[..., ::2, ::2]
    x = tasks.super_resolve(PICTURES, plan, low, 2, **START)
    assert torch.allclose(x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)), low, atol=1e-14)
    grey = PICTURE[:, :1]
    x = tasks.colourise(PICTURES, plan, grey, **START)
    assert torch.allclose((x * weights).sum(1, keepdim=True), grey, atol=1e-14)


@pytest.mark.parametrize("name", ["consistency", "ddim", "ddpm", "dpmpp", "unipc", "ancestral"])
def test_plans_that_end_on_beliefs_need_no_last_repair(name):
    known = guidance.super_resolve(PICTURE[..., ::2, ::2], 2)
    x = sample(PICTURES, PLANS[name], 4, guidance=known, **START)
    assert torch.allclose(known.keep(x), x, atol=1e-12)


def dense(project, *shape):
    """The matrix of a linear map."""
    size = int(torch.tensor(shape).prod())
    return project(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, size)


def completed(first):
    """An orthonormal basis, rows, whose first vector is along `first`."""
    q, r = torch.linalg.qr(torch.cat([first[:, None], torch.eye(len(first), dtype=torch.float64)], 1))
    return (q * r.diagonal().sign()[: len(first)]).T


def test_projectors_are_those_of_the_published_bases():
    luma = completed(torch.tensor([0.2989, 0.587, 0.114]).double())
    kept = torch.outer(luma[0], luma[0])
    assert torch.allclose(dense(guidance.colourise(torch.zeros(1, 1, 1, 1)).project, 3, 1, 1), kept, atol=1e-14)
    patch = completed(torch.ones(4, dtype=torch.float64))
    assert torch.allclose(patch[0], torch.full((4,), 0.5).double())  # ones / p
    kept = torch.outer(patch[0], patch[0])
    assert torch.allclose(dense(guidance.super_resolve(torch.zeros(1, 1, 1, 1), 2).project, 1, 2, 2), kept, atol=1e-14)
    for known, shape in (
        (guidance.colourise(torch.zeros(1, 1, 2, 2)), (3, 2, 2)),
        (guidance.super_resolve(torch.zeros(1, 2, 2, 2), 2), (2, 4, 4)),
        (guidance.inpaint(torch.zeros(1, 3, 2, 2), torch.tensor([True, False])), (3, 2, 2)),
    ):
        p = dense(known.project, *shape)
        assert torch.allclose(p, p.T, atol=1e-15) and torch.allclose(p @ p, p, atol=1e-14)


@pytest.mark.parametrize("name", ["consistency", "ddim", "heun", "unipc"])
@pytest.mark.parametrize("model", ["denoiser", "leaps"])
def test_measurements_of_every_kind_are_kept_to_rounding(name, model):
    # restore's method "known" is the same guidance for any measurement whose singular values are known
    denoiser, shape = (PICTURES if model == "denoiser" else ExactFlow(COSINE, shape=(3, 4, 4))), (3, 4, 4)
    for op in (operators.inpaint(MARK[0]), operators.super_resolution(shape, 2), operators.colourise(shape),
               operators.sense(shape, 12), operators.matrix(normal(10, 48, seed=8), shape)):  # fmt: skip
        y = op(PICTURE)
        made = tasks.restore(denoiser, op, y, method="known", plan=PLANS[name], count=2, seed=6)
        near = 1e-11 if made.samples.dtype == torch.float64 else 2e-6
        assert torch.allclose(op(made.samples.flatten(0, 1).double()), y.repeat(2, *[1] * (y.ndim - 1)), atol=near)
        assert float(made.std.max()) > 0.01  # and no more than that is known
    by_hand = tasks.super_resolve(denoiser, PLANS[name], PICTURE[..., ::2, ::2], 2, seed=6)
    small = operators.super_resolution(shape, 2)
    assert torch.allclose(
        tasks.restore(denoiser, small, PICTURE[..., ::2, ::2], method="known", plan=PLANS[name], seed=6).samples[0], by_hand
    )
    with pytest.raises(ValueError, match="keeps a measurement as it is, noise and all"):
        tasks.restore(denoiser, small, PICTURE[..., ::2, ::2], 0.1, method="known")


MEAN = torch.tensor([0.3, -0.2, 0.5, 0.1]).double()
ROOT = normal(4, 4, seed=4) * 0.4
NORMAL = oracles.gaussian(COSINE, MEAN, ROOT @ ROOT.T + 0.1 * torch.eye(4, dtype=torch.float64))
KNOWN4 = torch.tensor([True, False, True, False])


def gain(t):
    """x^ = m + K (z - alpha m)."""
    alpha, sigma = COSINE.schedule(t)
    return alpha * NORMAL.covariance @ torch.linalg.inv(alpha**2 * NORMAL.covariance + sigma**2 * torch.eye(4)), alpha, sigma


def test_editing_by_a_consistency_plan_is_the_published_algorithm():
    """On normal data, with its matrices: believe, project in the basis, add noise, again."""
    y, z, seed = normal(6, 4, seed=5), normal(6, 4, seed=6), 3
    basis, marked = torch.eye(4, dtype=torch.float64), KNOWN4.double()  # A = identity for inpainting
    by_hand, noise = z, Noise.of(seed, 6)
    for i, (t, s) in enumerate(((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0))):
        k, alpha, _ = gain(t)
        x = MEAN + (by_hand - alpha * MEAN) @ k.T
        x = ((y @ basis.T) * marked + (x @ basis.T) * (1 - marked)) @ basis
        alpha, sigma = COSINE.schedule(s)
        e = noise.at("bridge", step=2 * i + 1).at("").normal((4,), torch.float64)
        by_hand = alpha * x + sigma * e
    x = tasks.inpaint(NORMAL, plans.consistency(3), y, KNOWN4, start=z, seed=seed)
    assert torch.allclose(x, by_hand, atol=1e-12)


def test_editing_by_ddim_is_the_product_of_its_matrices():
    y, z = normal(6, 4, seed=5), normal(6, 4, seed=6)
    free, by_hand = torch.diag((~KNOWN4).double()), z
    levels = [1.0, 0.75, 0.5, 0.25, 0.0]
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        k, alpha, sigma = gain(t)
        x = (MEAN + (by_hand - alpha * MEAN) @ k.T) @ free + y * KNOWN4
        alpha_s, sigma_s = COSINE.schedule(s)
        by_hand = alpha_s * x + sigma_s / sigma * (by_hand - alpha * x)
    assert torch.allclose(tasks.inpaint(NORMAL, plans.ddim(4), y, KNOWN4, start=z), by_hand, atol=1e-12)


def test_what_is_known_goes_around_other_guidance_and_leaping_models():
    cond = {"label": torch.tensor([0, 1, 1, 0])}
    x = tasks.inpaint(PICTURES, plans.ddim(4), PICTURE, MARK, cond=cond, guidance=CFG(2.0), **START)
    assert torch.equal(x[MARK], PICTURE[MARK])
    inside = guidance.inpaint(PICTURE, MARK)
    with pytest.raises(ValueError, match=r"known has shape \(4, 3, 4, 4\) and the samples \(8, 3, 4, 4\)"):
        sample(PICTURES, plans.ddim(2), 4, cond=cond, guidance=lambda d: CFG(2.0)(inside(d)))
    # numbers that do not depend on each other: what is not known is as it would have been
    exact, z = ExactFlow(COSINE, shape=(3,)), normal(5, 3)
    known = torch.tensor([True, False, False])
    x = tasks.inpaint(exact, plans.ddim(2), torch.full((5, 3), 0.7).double(), known, start=z)
    assert torch.equal(x[:, 0], torch.full((5,), 0.7).double())
    assert torch.allclose(x[:, 1:], z[:, 1:] * C**0.5, atol=1e-9)


@pytest.mark.parametrize(("index", "flow", "mean"), [(250, 0.4646, 0.2159), (500, 0.1445, 0.0209), (750, 0.0290, 0.0008)])
def test_how_much_of_a_stroke_is_left(index, flow, mean):
    """On normal data of variance .25 and the linear table: a sqrt(c) / sqrt(a^2 c + s^2) by the flow, its square by a belief."""
    process, level = Gaussian(schedules.betas("linear")), index / 1000
    exact, belief = ExactFlow(process), oracles.gaussian(process, torch.zeros(1), torch.tensor([[C]]))
    x = normal(6, 1)
    for model, factor in ((exact, flow), (belief, mean)):
        plan = plans.ddim(1, grid=grids.uniform(start=level))
        up, down = (tasks.stroke(model, plan, sign * x, seed=1) for sign in (1, -1))
        assert torch.allclose((up - down) / (2 * x), torch.tensor(factor).double(), atol=5.1e-5)
    # the lower the plan begins, the more is left
    low = tasks.stroke(exact, plans.ddim(1, grid=grids.uniform(start=1e-9)), x)
    assert torch.allclose(low, x, atol=1e-3)


def test_a_stroke_begins_where_its_plan_does():
    plan = plans.consistency(2, "uniform;start=0.6")
    noise = Noise.of(2, 4).at("stroke")
    start = COSINE.marginal(PICTURE, torch.tensor(0.6, dtype=torch.float64), noise)
    assert torch.equal(tasks.stroke(PICTURES, plan, PICTURE, seed=2), sample(PICTURES, plan, 4, seed=2, start=start))


def test_the_ends_of_a_way_are_the_samples_of_its_seeds():
    model = oracles.mixture(COSINE, normal(3, 2, 3), 0.3)
    way = tasks.interpolate(model, plans.dpmpp(6), 5, seeds=(3, 8))
    for place, seed in ((0, 3), (-1, 8)):
        assert torch.allclose(way[place], sample(model, plans.dpmpp(6), 1, seed=seed)[0], atol=1e-6)


def test_slerp_keeps_the_norm_and_divides_the_angle():
    a, b = (v / v.norm(dim=1, keepdim=True) * 7 for v in (normal(6, 50), normal(6, 50, seed=1)))
    whole = torch.arccos((a * b).sum(1) / 49)
    for share in (0.0, 0.2, 0.5, 1.0):
        c = tasks.slerp(a, b, torch.full((6, 1), share).double())
        assert torch.allclose(c.norm(dim=1), torch.full((6,), 7.0).double(), atol=1e-12)
        assert torch.allclose(torch.arccos(((a * c).sum(1) / 49).clamp(-1, 1)), share * whole, atol=1e-6)
    assert torch.allclose(tasks.slerp(a, 2 * a, torch.tensor([[0.5]]).double()), 1.5 * a, atol=1e-9)
    # of independent noise it is close, and a straight line far away
    a, b = normal(400, 3072), normal(400, 3072, seed=1)
    between, line = tasks.slerp(a, b, torch.full((1, 1), 0.5).double()), (a + b) / 2
    assert float(between.norm(dim=1).mean() / 3072**0.5) == pytest.approx(1.0, abs=0.01)
    assert float(line.norm(dim=1).mean() / 3072**0.5) == pytest.approx(0.707, abs=0.01)


def test_denoising_is_the_belief():
    z = normal(6, 4)
    assert torch.allclose(tasks.denoise(NORMAL, z, 0.4), NORMAL(z, 0.4).mean, atol=1e-15)
    exact = ExactFlow(COSINE)
    assert torch.allclose(tasks.denoise(exact, z[:, :1], 0.4), exact.jump(z[:, :1], 0.4, 0.0), atol=1e-15)


def test_refusals():
    with pytest.raises(ValueError, match=r"known is torch\.float"):
        guidance.inpaint(PICTURE, MARK.float())
    with pytest.raises(ValueError, match="not finite where it is known"):
        guidance.inpaint(PICTURE / 0, MARK)
    with pytest.raises(ValueError, match=r"grey has shape \(4, 3, 4, 4\)"):
        guidance.colourise(PICTURE)
    with pytest.raises(ValueError, match="factor is 0"):
        guidance.super_resolve(PICTURE, 0)
    with pytest.raises(ValueError, match="count is 1"):
        tasks.interpolate(PICTURES, plans.ddim(2), 1)


def test_the_page_runs_as_written():
    code = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "editing.md").read_text(), re.S)
    space: dict[str, object] = {}
    exec(compile("\n".join(code), "editing.md", "exec"), space)
    pictures, known, small, large = (space[n] for n in ("pictures", "known", "small", "large"))
    assert torch.equal(space["halves"][known], pictures[:4][known])
    assert torch.allclose(large.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)), small, atol=1e-6)
    assert space["free"].shape == space["clean"].shape == (4, 1, 8, 8) and space["way"].shape == (8, 1, 8, 8)


class Local(torch.nn.Module):
    """A network for pictures of any size."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z, level, cond=None, mask=None):
        return self.inner(z)


def test_edits_take_the_size_of_a_picture_from_the_picture():
    torch.manual_seed(0)
    model, picture = Denoiser(Local(), Gaussian(schedules.cosine()), "v", shape=(1, 16, 16)), torch.zeros(2, 1, 8, 8)
    plan, known = plans.ddim(3), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    made = [
        *(tasks.image_to_image(model, plan, picture, s) for s in (0.5, 1.0)), tasks.inpaint(model, plan, picture, known),
        *(tasks.image_to_image(model, plan, picture, s, shape=(1, 8, 8)) for s in (0.5, 1.0)),
        tasks.super_resolve(model, plan, picture[..., :4, :4], 2), tasks.denoise(model, picture, 0.4),
        tasks.stroke(model, plans.begin(plan, 0.6), picture), tasks.invert(model, picture, 3),
    ]  # fmt: skip
    assert {tuple(x.shape) for x in made} == {(2, 1, 8, 8)}


def test_likelihoods_and_codes_meet_the_precision_of_the_weights():
    torch.manual_seed(0)
    model, x = Denoiser(Local().double(), Gaussian(schedules.cosine()), "v", shape=(1, 4, 4)), torch.randn(2, 1, 4, 4)
    how = {"solver": "rk4", "steps": 4}
    assert torch.equal(likelihood.encode(model, x, **how), likelihood.encode(model, x.double(), **how))
    assert torch.equal(likelihood.log_prob(model, x, **how).nats, likelihood.log_prob(model, x.double(), **how).nats)
    assert torch.equal(elbo(model, x).nats, elbo(model, x.double()).nats)
    assert torch.equal(tasks.strangeness(model, x), tasks.strangeness(model, x.double()))
