"""Image-to-image at a noise level, and DDIM's inversion, on normal data of variance .25 and the published linear table."""

import pytest
import torch

from langevin import oracles, plans, schedules, tasks
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample
from langevin.guidance import CFG
from langevin.networks import UNet
from langevin.tasks.likelihood import between
from tests.laws.leaping import normal

LINEAR = Gaussian(schedules.betas("linear"))
MODEL = oracles.gaussian(LINEAR, torch.zeros(1), torch.tensor([[0.25]]))


@pytest.mark.parametrize(("steps", "off"), [(10, 0.453), (20, 0.256), (50, 0.111), (100, 0.057), (250, 0.0235), (1000, 0.0060)])
def test_the_explicit_round_trip_is_off_by_what_was_measured_and_the_exact_one_by_rounding(steps, off):
    x = normal(2, 1)

    def error(z):
        return float((sample(MODEL, plans.ddim(steps), 2, start=z) - x).norm() / x.norm())

    published = error(sample(MODEL, plans.inversion(steps, exact=False, floor=False), 2, start=x))
    assert published == pytest.approx(off, abs=6e-4)
    # asking about clean data at the lowest level there is loses no more
    assert error(tasks.invert(MODEL, x, steps, exact=False)) < published
    if steps <= 100:
        assert error(tasks.invert(MODEL, x, steps)) < 1e-12


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_exact_inversion_to_pure_noise(name):
    index = torch.arange(4.0).double()
    model = oracles.gaussian(Gaussian(getattr(schedules, name)()), index / 4, 0.7 ** (index[:, None] - index).abs())
    x = normal(6, 4)
    z = tasks.invert(model, x, 12)
    assert torch.allclose(sample(model, plans.ddim(12), 6, start=z), x, atol=1e-9)
    two = oracles.mixture(Gaussian(getattr(schedules, name)()), torch.tensor([[1.0, 0], [-1, 1]]).double(), 0.4)
    x = 0.5 * normal(6, 2)
    assert torch.allclose(sample(two, plans.ddim(30), 6, start=tasks.invert(two, x, 30)), x, atol=1e-6)


@pytest.mark.parametrize("plan", ["ddim:200", "dpmpp:40", "trig:40", "heun:40:grid=angle", "unipc:40"])
def test_strength_is_a_noise_level_under_every_plan(plan):
    """What is left of the picture by the flow is alpha sqrt(c) / sqrt(alpha^2 c + sigma^2)."""
    for strength in (0.25, 0.5):
        up, down = (
            tasks.image_to_image(MODEL, plans.parse(plan), s * torch.ones(3, 1).double(), strength, seed=1) for s in (1, -1)
        )
        alpha, sigma = (float(v) for v in LINEAR.schedule(strength))
        left = alpha * 0.5 / (alpha**2 * 0.25 + sigma**2) ** 0.5
        assert torch.allclose((up - down) / 2, torch.tensor(left).double(), atol=0.02 * left + 0.005)
        assert plans.begin(plans.parse(plan), strength).on(LINEAR.schedule).rows[0].start == strength


def test_strength_nothing_is_the_picture_and_the_model_is_not_asked():
    class Silent(type(MODEL)):
        def forward(self, *args):
            raise AssertionError

    silent = Silent(LINEAR, torch.zeros(1), torch.tensor([[0.25]]))
    x = normal(3, 1)
    assert tasks.image_to_image(silent, plans.ddim(5), x, 0.0) is x
    with pytest.raises(ValueError, match="strength is 1"):
        tasks.image_to_image(MODEL, plans.ddim(5), x, 1.2)
    with pytest.raises(ValueError, match="written out from level 1"):
        tasks.image_to_image(MODEL, plans.ddim(5).on(LINEAR.schedule), x, 0.5)
    assert torch.equal(tasks.image_to_image(MODEL, plans.ddim(5), x.float(), 1.0), sample(MODEL, plans.ddim(5), 3))


def test_a_change_of_class_keeps_what_the_classes_share():
    """Two classes that differ by a shift: the picture moves by it."""
    points = torch.tensor([[0.5, 0.0], [-0.5, 0.0]]).double()
    model = oracles.mixture(Gaussian(schedules.cosine()), points, 0.2, label=torch.tensor([0, 1]))
    x = points[:1] + 0.2 * normal(7, 2)
    cond = {"label": torch.zeros(7, dtype=torch.int64)}
    moved = tasks.change(model, x, cond, {"label": 1 - cond["label"]}, 60)
    assert torch.allclose(moved, x - torch.tensor([1.0, 0.0]), atol=1e-6)
    assert torch.allclose(tasks.change(model, x, cond, cond, 20), x, atol=1e-8)


# Through guidance


class Shifted(BaseDenoiser):
    """Data N(c, .25) in each of three numbers, where c is the condition: what guidance pulls away from is linear in the null."""

    def __init__(self):
        super().__init__()
        self.process, self.shape = LINEAR, (3,)

    def forward(self, z, t, cond, mask):
        alpha, sigma = LINEAR.schedule(t[""])
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        return GaussianPosterior(cond["c"] + gain * (z[""] - alpha * cond["c"]))


def test_null_conditions_bring_guided_steps_back_to_the_picture():
    model, x, w = Shifted(), normal(4, 3), 3.0
    cond, null = {"c": 0.5 + normal(4, 3, seed=1)}, {"c": torch.zeros(4, 3).double()}
    found = tasks.invert_through(model, x, cond, null, w, steps=8, iterations=40, rate=0.1)

    def back(cond, guidance):
        return sample(model, plans.ddim(8), 4, start=found.noise, cond=cond, guidance=guidance)

    def off(y):
        return float((y - x).norm() / x.norm())

    assert off(back(cond, None)) < 1e-9  # unguided, the noise is the picture's
    assert off(back(cond, CFG(w, null=null))) > 0.5 and off(back(cond, found.guidance)) < 0.01
    assert torch.allclose(found.missed, (back(cond, found.guidance) - x).norm(dim=1) / x.norm(dim=1), atol=1e-9)
    # the only null that undoes guidance here is the condition itself, where data is decided
    assert torch.allclose(found.guidance.nulls[-2]["c"], cond["c"], atol=0.05)
    # another condition changes the picture the way guidance points
    other = {"c": cond["c"] + 1.0}
    assert float((back(other, found.guidance) - x).mean()) > 1
    alone = tasks.invert_through(model, x[1:2], {"c": cond["c"][1:2]}, {"c": null["c"][1:2]}, w, 8, 40, 0.1)
    assert torch.allclose(alone.guidance.nulls[-1]["c"], found.guidance.nulls[-1]["c"][1:2], atol=1e-9)
    with pytest.raises(ValueError, match="under the same names"):
        tasks.invert_through(model, x, cond, {"d": null["c"]}, w)


def test_labels_as_vectors_are_the_labels():
    net = UNet(1, 8, (1, 2), 1, (), 8, classes=3)
    model = Denoiser(net, LINEAR, "v", shape=(1, 8, 8)).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    z, label = normal(3, 1, 8, 8).float(), torch.tensor([2, 0, 1])
    cond, null = tasks.as_vectors(model, {"label": label})
    with torch.no_grad():
        assert torch.equal(model(z, 0.5, cond).mean, model(z, 0.5, {"label": label}).mean)
        assert torch.equal(model(z, 0.5, null).mean, model(z, 0.5, None).mean)
        one, other = (CFG(2.0, null=n)(model)(z, 0.5, c).mean for n, c in ((null, cond), (None, {"label": label})))
    assert torch.allclose(one, other, atol=1e-6)
    with pytest.raises(ValueError, match="no labels with a learned null"):
        tasks.as_vectors(model, {})


# Codes


def test_codes_shift_a_mean_and_lead_from_one_picture_to_another():
    """Data N(m, c) has the codes (x - m) / sqrt(c), so sums of codes are sums of data, but for their length."""
    mean, c = torch.tensor([0.3, -0.2, 0.1, 0.4]).double(), 0.25
    model = oracles.gaussian(Gaussian(schedules.cosine()), mean, c * torch.eye(4))
    exact = {"rtol": 1e-6, "atol": 1e-6, "low": 1e-4}
    x, plus, minus = normal(2, 4), normal(5, 4, seed=1), normal(3, 4, seed=2)
    moved = tasks.shifted(model, x, plus, minus, 0.7, **exact)
    free = x - mean + 0.7 * (plus.mean(0) - minus.mean(0))
    expected = mean + free * (x - mean).norm(dim=1, keepdim=True) / free.norm(dim=1, keepdim=True)
    assert torch.allclose(moved, expected, atol=2e-3)
    assert torch.allclose(tasks.shifted(model, x, plus, minus, 0.0, **exact), x, atol=1e-4)
    ways = tasks.gallery(model, x, plus[:2], 5, **exact)
    assert torch.allclose(ways[:, 0], x, atol=1e-4) and torch.allclose(ways[:, -1], plus[:2], atol=1e-4)
    assert torch.allclose(ways[1], between(model, x[1], plus[1], 5, **exact), atol=1e-6)
