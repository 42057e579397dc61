"""Image-to-image at a noise level, and DDIM's inversion, on normal data of variance .25 and the published linear table."""

import pytest
import torch

from langevin import oracles, plans, schedules, tasks
from langevin.core.gaussian import Gaussian
from langevin.core.sample import sample
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
