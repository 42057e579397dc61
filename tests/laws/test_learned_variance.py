"""Networks that say the variance of steps: the table of Improved DDPM's equation 15, the peer's steps, guidance and training."""

import math

import pytest
import torch

import langevin as lv
from langevin import plans, schedules
from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.objectives import Denoising
from langevin.plans.grids import given
from langevin.plans.moves import LearnedVariance
from langevin.variances import RangedPosterior, WithVariance

# three noise levels by hand: betas 0.1, 0.2, 0.5, so alpha-bar 0.9, 0.72, 0.36
BETAS = [0.1, 0.2, 0.5]
BARS = [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.5]


def by_hand() -> schedules.Table:
    return schedules.table(torch.tensor(BETAS, dtype=torch.float64))


def spread(process: Gaussian, belief: GaussianPosterior, start: float, stop: float) -> torch.Tensor:
    """The deviation of the row's step, by its noise."""
    z, noise = torch.zeros_like(belief.mean), Noise.of(3, len(belief.mean))
    row = LearnedVariance(start=start, stop=stop)
    x_weight, _, _ = process.bridge_numbers(start, stop, 1.0)
    return (row.move(process, z, belief, noise, None) - belief.mean * x_weight) / process.noise(z, noise)


@pytest.mark.parametrize("v", [0.0, 0.25, 0.7, 1.0])
def test_steps_have_the_variance_of_the_table(v: float):
    process, between = Gaussian(by_hand()), torch.full((2, 3), v, dtype=torch.float64)
    belief = RangedPosterior(torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), between=between)
    # one step: beta_t and (1 - bar_{t-1}) / (1 - bar_t) beta_t
    for k in (1, 2):
        beta, small = BETAS[k], (1 - BARS[k - 1]) / (1 - BARS[k]) * BETAS[k]
        expected = math.exp(0.5 * (v * math.log(beta) + (1 - v) * math.log(small)))
        assert spread(process, belief, (k + 1) / 3, k / 3) == pytest.approx(torch.full((2, 3), expected), rel=1e-6)
    # two steps at once: beta = 1 - bar_3 / bar_1 = 0.6, and (1 - 0.9) / (1 - 0.36) of it
    expected = math.exp(0.5 * (v * math.log(0.6) + (1 - v) * math.log(0.1 / 0.64 * 0.6)))
    assert spread(process, belief, 1.0, 1 / 3) == pytest.approx(torch.full((2, 3), expected), rel=1e-6)


class Says(torch.nn.Module):
    """A network of twice the channels, which says what depends on all it is shown."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(2 * channels, channels, 1, 1, generator=g) * 0.5)

    def forward(self, z, level, cond=None, mask=None):
        return torch.nn.functional.conv2d(z, self.weight) + level.reshape(-1, 1, 1, 1) / 1000


def test_a_belief_has_the_first_half_as_mean_and_the_second_between():
    process, net, z = Gaussian(schedules.betas()), Says(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        said = net(z, torch.full((2,), 500.0))
        plain = Denoiser(always(said[:, :3]), process, "eps")(z, 0.5)
        used = Denoiser(net, process, WithVariance("eps"))(z, 0.5)
        unused = Denoiser(net, process, WithVariance("eps", used=False))(z, 0.5)
    assert torch.equal(used.mean, plain.mean) and torch.equal(unused.mean, plain.mean)
    assert isinstance(used, RangedPosterior) and torch.equal(used.between, (said[:, 3:] + 1) / 2)
    assert unused == GaussianPosterior(unused.mean) and used.with_params(z).between is used.between


def always(said: torch.Tensor) -> torch.nn.Module:
    """A network that always says the same."""

    class Fixed(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return said

    return Fixed()


@pytest.mark.parametrize("steps", [1000, 250, 10])
def test_steps_are_the_peers(steps: int, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers")
    ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    peer = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    peer.set_timesteps(steps)
    # in float64: 1 - alpha-bar of the first levels has four digits in the peer's own float32
    peer.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    peer.one = torch.ones((), dtype=torch.float64)
    process, net = Gaussian(schedules.betas()), Says()
    model = Denoiser(net, process, WithVariance(lv.predictions.eps(level="index")))
    levels = [(int(i) + 1) / 1000 for i in peer.timesteps] + [0.0]
    plan = plans.ddpm(steps, "belief", given(levels)).on(process.schedule)
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    noise = Noise.of(0, 2)
    monkeypatch.setattr(ddpm, "randn_tensor", lambda *_, **__: process.noise(z, noise))
    for k in {0, 1, steps // 2, steps - 2, steps - 1}:
        row, timestep = plan.rows[k], peer.timesteps[k]
        with torch.no_grad():
            theirs = peer.step(net(z, timestep.float().expand(2)), timestep, z).prev_sample
            ours = row.move(process, z, model(z, row.start), noise, None)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max())), k


def test_guidance_keeps_the_variance_of_the_condition():
    class Told(Says):
        def forward(self, z, level, cond=None, mask=None):
            heard = cond["label"] * ~cond.get("drop", torch.zeros(len(z), dtype=torch.bool))
            return super().forward(z, level) + heard.float().reshape(-1, 1, 1, 1)

    model = Denoiser(Told(), Gaussian(schedules.betas()), WithVariance("eps"))
    z, cond = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)), {"label": torch.tensor([1, 2])}
    with torch.no_grad():
        guided, told = lv.CFG(3.0)(model)(z, 0.5, cond), model(z, 0.5, cond)
    assert torch.allclose(guided.between, told.between) and not torch.allclose(guided.mean, told.mean)


def test_training_teaches_the_mean_and_leaves_the_rest():
    process, x = Gaussian(schedules.betas()), torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    net, half = Says(), Says()
    loss = Denoising()(Denoiser(net, process, WithVariance("eps")), Batch(x), Noise.of(0, 4)).total
    loss.backward()
    assert (net.weight.grad[3:] == 0).all() and (net.weight.grad[:3] != 0).any()

    class Mean(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return half(z, level)[:, :3]

    assert torch.equal(loss, Denoising()(Denoiser(Mean(), process, "eps"), Batch(x), Noise.of(0, 4)).total)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="prediction is 'velocity'"):
        WithVariance("velocity")
    process, z = Gaussian(schedules.betas()), torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"returned \(1, 3, 4, 4\) for states \(1, 3, 4, 4\); return \(1, 6, 4, 4\)"):
        Denoiser(always(z), process, WithVariance("eps"))(z, 0.5)
    with pytest.raises(ValueError, match="has no variance"):
        lv.sample(Denoiser(Says(), process, WithVariance("eps", used=False), (3, 4, 4)), plans.ddpm(2, "belief"), 1)
