"""Edits of a generator through inversion, on normal data whose mean is said by the prompt: everything is known in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import plans, schedules
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import GaussianPosterior
from langevin.core.sample import sample
from langevin.tasks.generate import Defaults, Generator
from langevin.text.conditioning import Conditioner

SHAPE = (3, 4, 4)
PROCESS = Gaussian(schedules.betas("linear"))


def mean_of(word: str) -> Tensor:
    """(1, 48), where the data of a prompt lies."""
    return 0.2 * torch.cos(torch.arange(48.0) * (1 + sum(map(ord, word)) % 11))[None]


class Means(Conditioner):
    """Tokens are the mean; a mask, which is no state of a text, tells prompts from what they are led away from."""

    options = frozenset({"loud"})

    def forward(self, request):
        def told(words, mask):
            return {"tokens": torch.cat([mean_of(w) for w in words]), "tokens_mask": torch.full((len(words), 1), mask)}

        against = request.negative or [""] * len(request.prompts)
        return told(request.prompts, True), told(against, False) if request.guided else None


class Normal(BaseDenoiser):
    """Data N(tokens, .25). It keeps the masks that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.process, self.shape = PROCESS, SHAPE
        self.masks: Any = []

    def forward(self, z, t, cond, mask):
        alpha, sigma = PROCESS.schedule(t[""])
        assert cond is not None
        self.masks.append(cond["tokens_mask"].flatten().tolist())
        centre = cond["tokens"].reshape(z[""].shape)
        gain = (alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)).to(z[""])
        return GaussianPosterior(centre + gain * (z[""] - alpha.to(centre) * centre))


def make() -> Generator:
    return Generator(
        Normal(), lambda steps, start=1.0, tokens=None: plans.ddim(steps), None, Means(), Defaults((4, 4), 4, 3.0, multiple=1)
    )


PICTURE = 0.6 * torch.sin(torch.arange(48.0)).reshape(1, *SHAPE)


def off(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def test_the_same_prompt_draws_the_picture_again_to_the_error_that_is_told():
    model = make()
    for steps, exact, most in ((8, True, 2e-6), (8, False, 0.7), (64, False, 0.1)):
        found = model.invert(PICTURE, "a cat", steps=steps, exact=exact, guidance=1.0)
        again = model.run("a cat", **found.options).latents
        assert torch.equal(found.latents, PICTURE)
        assert off(again, PICTURE) == pytest.approx(float(found.missed), abs=1e-6) and float(found.missed) < most
        assert exact or float(found.missed) > 1e-3
    # the noise is the library's own, of the same denoiser
    cond = {"tokens": mean_of("a cat"), "tokens_mask": torch.ones(1, 1, dtype=torch.bool)}
    noise = sample(model.denoiser, plans.inversion(64, exact=False), 1, start=PICTURE, cond=cond)
    assert torch.equal(found.noise, noise)


def test_another_prompt_moves_the_picture_by_what_the_prompts_differ_in():
    model = make()
    made = model.edit(PICTURE, "a cat", "a tree", steps=8, guidance=1.0)
    moved = PICTURE + (mean_of("a tree") - mean_of("a cat")).reshape(1, *SHAPE)
    assert torch.allclose(made.latents, moved, atol=2e-3)  # a little of the mean is left at level 1
    (record,) = made.info
    assert record["prompt"] == "a tree" and record["edited"]["from"] == "a cat" and record["edited"]["missed"] < 2e-6
    assert len(record["edited"]["image"]) == 64 and "start" in record["unsaid"]


def test_guidance_is_led_back_by_null_conditions_and_masks_stay_as_they_are():
    model = make()
    how = {"steps": 4, "guidance": 3.0}
    found = model.invert(PICTURE, "a cat", iterations=40, rate=0.2, **how)
    net: Any = model.denoiser
    net.masks.clear()
    again = model.run("a cat", **found.options).latents
    assert off(again, PICTURE) == pytest.approx(float(found.missed), abs=1e-5) and float(found.missed) < 0.02
    assert all(mask == [True, False] for mask in net.masks)
    left = model.invert(PICTURE, "a cat", iterations=0, **how)
    assert float(left.missed) > 0.3 and left.guidance == 3.0
    same = model.edit(PICTURE, "a cat", "a cat", iterations=40, rate=0.2, **how)
    assert torch.equal(same.latents, again)
    # the model's own guidance where none is said
    own: Any = model.invert(PICTURE, "a cat", steps=2, iterations=1).guidance
    assert own.w == 3.0


def test_pictures_are_each_what_they_are_alone():
    model, other = make(), -PICTURE.flip(2)
    both = model.edit([PICTURE, other], ["a cat", "a dog"], ["a tree", "a car"], steps=4, guidance=2.0, iterations=5, rate=0.2)
    for k, (x, source, target) in enumerate(((PICTURE, "a cat", "a tree"), (other, "a dog", "a car"))):
        alone = model.edit(x, source, target, steps=4, guidance=2.0, iterations=5, rate=0.2, first_id=k)
        assert torch.allclose(both.latents[k], alone.latents[0], atol=1e-4)
        assert both.info[k]["edited"]["from"] == source and both.info[k]["id"] == alone.info[0]["id"] == k
    # one prompt for both
    found = model.invert([PICTURE, other], "a cat", steps=4, guidance=1.0)
    assert off(model.run("a cat", **found.options).latents, torch.cat([PICTURE, other])) < 1e-5
    assert len(model.edit([PICTURE, other], "a cat", "a tree", steps=2, guidance=1.0).tensor) == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"strength": 0.5}, "strength says how a picture is drawn, and this one is there; leave it out"),
        ({"plan": "dpmpp:5"}, "plan says how a picture is drawn"),
        ({"guidance": plans.ddim(2)}, "classifier-free guidance of one strength, a number"),
        ({"iterations": -1}, "iterations is -1; give how often"),
        (
            {"iterations": 9, "guidance": 1.0},
            "iterations is 9, of null conditions that .* away from, and guidance is 1;",
        ),
        ({"rate": 0.1, "guidance": 1.0}, "rate is 0.1, of null conditions .*, and guidance is 1; leave it out"),
        ({"rate": 0.1, "iterations": 0}, "rate is 0.1, of null conditions .*, and iterations is 0; leave it out"),
        ({"negative": "a dog", "guidance": 1.0}, "negative is 'a dog', and guidance is 1, which leads away from nothing"),
        ({"guidance_scale": 2.0}, "no option 'guidance_scale'; did you mean 'guidance'"),
        ({"loud": 3, "negative": ["a", "b"]}, "negative has 2"),
    ],
)
def test_what_does_not_fit_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        make().invert(PICTURE, "a cat", **asked)
    told = make().but(defaults=Defaults((4, 4), 4, 3.0, multiple=1, told=True))
    with pytest.raises(ValueError, match=r"iterations is 9, of null .*, and this model is told its guidance; leave it out"):
        told.invert(PICTURE, "a cat", iterations=9)


def test_models_that_noise_alone_does_not_bring_back_are_refused():
    with pytest.raises(ValueError, match=r"reads further pictures \('inpaint'\) beside its state"):
        make().but(takes="inpaint").invert(PICTURE, "a cat")
    classes = make().but(conditioner=None, defaults=Defaults((4, 4), 4, 3.0, multiple=1, classes=5))
    with pytest.raises(ValueError, match=r"guidance is 3, and the null of a model of classes .*give guidance=1, or iterations=0"):
        classes.edit(PICTURE, 1, 2)


def test_a_step_is_undone_where_the_network_says_the_noise_and_hardly_hears_the_state():
    """eps = b + z / 5: the fixed point in x^ runs away where alpha is small, and the other form of the step is taken."""

    class Deaf(BaseDenoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process, self.shape = PROCESS, SHAPE

        def forward(self, z, t, cond, mask):
            assert cond is not None
            alpha, sigma = (v.to(z[""]) for v in PROCESS.schedule(t[""]))
            hears = cond["gain"].reshape(-1, 1, 1, 1) * z[""].roll(1, -1)
            return GaussianPosterior((z[""] - sigma * (0.3 + hears)) / alpha)

    model, cond = Deaf(), {"gain": torch.tensor([0.2])}
    noise = sample(model, plans.inversion(6), 1, start=PICTURE, cond=cond)
    assert off(sample(model, plans.ddim(6), 1, start=noise, cond=cond), PICTURE) < 1e-4
    # beside one that runs away, which is no reason to stop or to lose the other
    both = {"gain": torch.tensor([0.2, 1e9])}
    noises = sample(model, plans.inversion(6), 2, start=PICTURE.expand(2, -1, -1, -1), cond=both)
    assert off(sample(model, plans.ddim(6), 1, start=noises[:1], cond=cond), PICTURE) < 1e-4
    assert torch.allclose(noises[:1], noise, atol=1e-4)
