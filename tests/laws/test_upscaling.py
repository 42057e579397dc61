"""Upscalers: exact where data is normal, noise in small pictures forgets them, tiles leave no trace."""

import pytest
import torch
import torch.nn.functional as F

from langevin import plans, schedules, tasks
from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.data import Lowered, digits
from langevin.guidance import Tiles
from langevin.networks import Upscaling
from langevin.objectives import Denoising
from langevin.recipes import config as c
from langevin.recipes import recipe
from langevin.recipes.build import build
from tests.laws.leaping import normal

COSINE = Gaussian(schedules.cosine())
SIDE, FACTOR = 4, 2
PLACE = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
COVARIANCE = 0.7 ** torch.cdist(PLACE, PLACE, 1)
LOWER = F.avg_pool2d(torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE), FACTOR).flatten(1).T


class Exact(BaseDenoiser):
    """E[x | z_t, y_s] of x ~ N(0, COVARIANCE), y_s its small copy with noise of level s: what an upscaler is to learn."""

    def __init__(self):
        super().__init__()
        self.process, self.shape = COSINE, (1, SIDE, SIDE)

    def forward(self, z, t, cond, mask):
        (alpha, sigma), (a, s) = COSINE.schedule(t[""].reshape(-1)[0]), COSINE.schedule(cond["augment"][0])
        seen = torch.cat([alpha * torch.eye(SIDE**2), a * LOWER]).double()
        noise = torch.diag(torch.cat([(sigma**2).expand(SIDE**2), (s**2).expand(len(LOWER))])).double()
        gain = COVARIANCE @ seen.T @ torch.linalg.pinv(seen @ COVARIANCE @ seen.T + noise, rtol=1e-12, hermitian=True)
        both = torch.cat([z[""].flatten(1), cond["low"].flatten(1)], 1)
        return GaussianPosterior((both @ gain.T).reshape(z[""].shape))


def white(count, size):
    """Whose moments are those of a standard normal, to rounding."""
    z = normal(count, size)
    z = z - z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T


@pytest.mark.parametrize("level", [0.3, 1.0])
def test_samples_have_the_posterior_that_their_noise_leaves(level):
    """Averaged over the noise y is given: N(gain a y, C - gain a D C + s^2 gain gain^T), gain that of y_s."""
    count, (a, s) = 3000, (float(v) for v in COSINE.schedule(level))
    low = normal(1, 1, 2, 2, seed=2)
    x = tasks.upscale(
        Exact(), plans.trig(12), low.expand(count, 1, 2, 2), FACTOR, noise=level,
        start=white(count, 16).reshape(count, 1, SIDE, SIDE),
    ).flatten(1)  # fmt: skip
    gain = a * COVARIANCE @ LOWER.T @ torch.linalg.inv(a**2 * LOWER @ COVARIANCE @ LOWER.T + s**2 * torch.eye(4))
    mean = gain @ (a * low.flatten())
    covariance = COVARIANCE - a * gain @ LOWER @ COVARIANCE + s**2 * gain @ gain.T
    if level == 1:  # nothing is left of the small picture
        assert torch.allclose(mean, torch.zeros(16).double()) and torch.allclose(covariance, COVARIANCE)
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diag() / count).sqrt()).all()
    assert float((torch.cov(x.T) - covariance).norm() / covariance.norm()) < 0.08


def test_without_noise_samples_have_the_posterior_and_the_small_picture():
    count, low = 400, normal(1, 1, 2, 2, seed=2)
    start = white(count, 16).reshape(count, 1, SIDE, SIDE)
    x = tasks.upscale(Exact(), plans.trig(12), low.expand(count, 1, 2, 2), FACTOR, start=start)
    assert float((F.avg_pool2d(x, FACTOR) - low).abs().max()) < 1e-4
    gain = COVARIANCE @ LOWER.T @ torch.linalg.inv(LOWER @ COVARIANCE @ LOWER.T)
    flat, covariance = x.flatten(1), COVARIANCE - gain @ LOWER @ COVARIANCE
    assert float((flat.mean(0) - gain @ low.flatten()).norm() / (gain @ low.flatten()).norm()) < 0.01
    assert float((torch.cov(flat.T) - covariance).norm() / covariance.norm()) < 0.02


def test_averages_that_are_kept_are_those_of_the_small_picture():
    """A network that knows them is not changed; one that does not ends at them, seen by tiles as well."""
    count, low = 50, normal(1, 1, 2, 2, seed=2).expand(50, 1, 2, 2)
    start = white(count, 16).reshape(count, 1, SIDE, SIDE)
    free, kept = (tasks.upscale(Exact(), plans.trig(12), low, FACTOR, start=start, keep=k) for k in (False, True))
    assert torch.allclose(free, kept, atol=1e-3)
    assert torch.allclose(F.avg_pool2d(kept, FACTOR), low, atol=1e-12)
    small = normal(2, 1, 12, 10, seed=1)
    for tiles in (None, Tiles(8, 4)):
        free, kept = (tasks.upscale(Local(1), plans.ddim(4), small, 2, seed=3, tiles=tiles, keep=k) for k in (False, True))
        assert torch.allclose(F.avg_pool2d(kept, 2), small.float(), atol=1e-6)
        assert (F.avg_pool2d(free, 2) - small).abs().max() > 0.1


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_flow_of_an_upscaler_is_the_linear_map_to_its_posterior(level):
    # no draws: on normal data samples are A start + b, and A A^T is the conditional covariance, that of the data at level 1
    low = normal(1, 1, 2, 2, seed=2)
    start = torch.cat([torch.zeros(1, 16), torch.eye(16)]).double().reshape(17, 1, SIDE, SIDE)

    ends = tasks.upscale(Exact(), plans.trig(160), low.expand(17, 1, 2, 2), FACTOR, noise=level, start=start).flatten(1)
    origin, found = ends[0], (ends[1:] - ends[0]).T
    gain = COVARIANCE @ LOWER.T @ torch.linalg.inv(LOWER @ COVARIANCE @ LOWER.T) * (level == 0)
    assert torch.allclose(found @ found.T, COVARIANCE - gain @ LOWER @ COVARIANCE, rtol=0, atol=1e-6)
    assert torch.allclose(origin, gain @ low.flatten(), rtol=0, atol=1e-6)


class Heard(torch.nn.Module):
    """Remembers its conditions."""

    def forward(self, z, level, cond=None, mask=None):
        self.cond = cond
        return z


def test_training_gives_small_pictures_noise_and_says_how_much():
    n = 4000
    x, low = normal(n, 1, 4, 4).float(), normal(n, 1, 2, 2, seed=1).float()
    net = Heard()
    model = Denoiser(net, COSINE, "v", shape=(1, 4, 4))
    Denoising(augment=0.8)(model, Batch(x, {"low": low}), Noise.of(0, n))
    level, seen = net.cond["augment"].double(), net.cond["low"].double()
    assert float(level.min()) >= 0 and float(level.max()) == pytest.approx(0.8, abs=1e-3)
    assert float(level.mean()) == pytest.approx(0.4, abs=0.01)
    alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in COSINE.schedule(level))
    e = (seen - alpha * low.double()) / sigma.clamp(min=1e-6)
    strong = level > 0.05
    assert float(e[strong].std()) == pytest.approx(1, abs=0.02) and abs(float(e[strong].mean())) < 0.02
    # the noise is its own, not that of the state
    assert abs(float((e[strong] * low[strong]).mean())) < 0.02
    with pytest.raises(ValueError, match="no small pictures"):
        Denoising(augment=0.8)(model, Batch(x), Noise.of(0, n))


def test_the_network_reads_the_small_picture_grown_beside_the_state():
    net = Heard()
    low, z = normal(2, 1, 3, 3), normal(2, 1, 6, 6)
    drop = torch.tensor([False, True])
    Upscaling(net)(z, torch.ones(2), {"low": low, "augment": torch.tensor([0.5, 0.2]), "drop": drop})
    expected = F.interpolate(low, size=(6, 6), mode="bicubic", align_corners=False)
    assert torch.equal(net.cond["concat"][0], expected[0]) and not net.cond["concat"][1].any()
    assert net.cond["augment"].tolist() == pytest.approx([500, 200])
    Upscaling(net)(z, torch.ones(2))
    assert not net.cond["concat"].any()


# Tiles


class Local(BaseDenoiser):
    """Beliefs that look `reach` pixels around, at the small picture too, with zeros outside of what they see."""

    def __init__(self, reach):
        super().__init__()
        self.process, self.shape, self.reach = COSINE, (1, 8, 8), reach
        self.kernel = normal(1, 2, 2 * reach + 1, 2 * reach + 1, seed=3)

    def forward(self, z, t, cond, mask):
        state = z[""]
        low = cond["low"].repeat_interleave(2, -1).repeat_interleave(2, -2)
        seen = torch.cat([state, low], 1)
        return GaussianPosterior(
            F.conv2d(seen, self.kernel.to(seen), padding=self.reach).tanh() * 0.5 + 0.1 * float(t[""].flatten()[0])
        )


@pytest.mark.parametrize(("height", "width"), [(24, 20), (16, 32), (8, 10), (6, 40)])
def test_weights_of_tiles_sum_to_one(height, width):
    for tiles in (Tiles(8, 4), Tiles(8, 0), Tiles(12, 10), Tiles(100, 4)):
        for side in (height, width):
            total = torch.zeros(side).double()
            for begin, weight in tiles.along(side):
                assert bool((weight >= 0).all())
                total[begin : begin + len(weight)] += weight
            assert torch.allclose(total, torch.ones(side).double(), atol=1e-14)


def test_tiles_of_a_local_network_leave_no_seam():
    z, low = normal(2, 1, 24, 20), normal(2, 1, 12, 10, seed=1)
    whole = Local(1)(z, 0.4, {"low": low}).mean
    assert torch.allclose(Tiles(8, 4)(Local(1))(z, 0.4, {"low": low}).mean, whole, atol=1e-13)
    # one that sees more than a quarter of the overlap is told apart
    assert not torch.allclose(Tiles(8, 4)(Local(2))(z, 0.4, {"low": low}).mean, Local(2)(z, 0.4, {"low": low}).mean, atol=1e-6)
    made = [tasks.upscale(Local(1), plans.ddim(4), low, 2, seed=3, tiles=t) for t in (None, Tiles(8, 4))]
    assert torch.allclose(*made, atol=1e-5)  # states are float32
    with pytest.raises(ValueError, match="multiples of the factor"):
        Tiles(8, 3)(Local(1))(z, 0.4, {"low": low})
    with pytest.raises(ValueError, match="overlap is 8"):
        Tiles(8, 8)


def test_a_cascade_is_its_stages_and_gives_noise_to_what_was_drawn():
    heard = []

    class Told(Local):
        def forward(self, z, t, cond, mask):
            heard.append(float(cond["augment"][0]))
            return super().forward(z, t, cond, mask)

    stages = [tasks.Stage(Told(1), plans.ddim(1), 2) for _ in range(3)]
    low = normal(2, 1, 3, 3)
    made = tasks.cascade(stages, low, seed=4)
    assert [tuple(x.shape[-2:]) for x in made] == [(6, 6), (12, 12), (24, 24)]
    assert heard == [0.0, pytest.approx(0.1), pytest.approx(0.1)]
    assert torch.equal(made[0], tasks.upscale(Local(1), plans.ddim(1), low, 2, seed=4))
    heard.clear()
    drawn = tasks.cascade(stages[:1], low, real=False, seed=4)[0]
    assert heard == [pytest.approx(0.1)]
    # samples of a model took the noise of these ids already, which what is drawn from them must not depend on
    assert not torch.allclose(drawn, tasks.upscale(Local(1), plans.ddim(1), low, 2, noise=0.1, seed=4), atol=0.1)


def test_a_run_learns_from_small_copies_of_its_pictures():
    run = build(recipe("digits-4to8"))
    assert (run.facts.shape, run.facts.factor, run.facts.classes) == ((1, 8, 8), 2, None)
    batch = run.test.batch(torch.arange(3))
    assert torch.equal(batch.x, digits("test").batch(torch.arange(3)).x)
    assert torch.allclose(batch.cond["low"], F.avg_pool2d(batch.x, 2)) and set(batch.cond) == {"low"}
    with pytest.raises(ValueError, match="factor is 3"):
        Lowered(digits(), 3)
    with pytest.raises(ValueError, match="network is 'dit'"):
        build(recipe("digits-4to8").model_copy(update={"network": c.DiTConfig()}))
