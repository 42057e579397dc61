"""What a request may say: every option is read, or refused by name; and as many of each as there are pictures."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from langevin.config import PEERS
from langevin.guidance import CFG
from langevin.tasks.asked import TEXT
from langevin.tasks.generate import DEFAULTS
from langevin.tasks.variation import Varied
from langevin.text.conditioning import CLIPPrompt, FluxPrompt, LanguagePrompt, SD3Prompt, SDXLPrompt, Side, T5Prompt
from tests.laws.test_generate import SIZE, make


def _side() -> Side:
    encoder = nn.Identity()
    encoder.width = 4  # pyright: ignore
    return Side(encoder, cast(Any, SimpleNamespace(words={})))


FLUX = FluxPrompt(_side(), _side())
ALL = {
    "clip": CLIPPrompt(_side()), "sdxl": SDXLPrompt([_side(), _side()]), "refiner": SDXLPrompt([_side()], scored=True),
    "sd3": SD3Prompt([_side(), _side()], None), "flux": FLUX, "redux": Varied(FLUX, nn.Identity(), nn.Identity()),
    "pixart": T5Prompt(_side()), "language": LanguagePrompt(_side(), 300),
}  # fmt: skip
SAID: dict[str, Any] = {"weighted": True, "long": True, "clip_skip": 1, "length": 7}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ({"strenght": 0.3}, "strength"),
        ({"guidance_scale": 1.0}, "guidance"),
        ({"num_inference_steps": 7}, "steps"),
        ({"negative_prompt": "blurred"}, "negative"),
        ({"generator": None}, "seed"),
        ({"wieghted": True}, "weighted"),
    ],
)
def test_an_unknown_name_is_refused_with_ours(name, asked, near):
    with pytest.raises(ValueError, match=f"the model has no option '{min(asked)}'; did you mean '{near}'"):
        make(conditioner=ALL[name]).run("a cat", **asked)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("option", SAID)
def test_what_a_family_does_not_read_of_text_is_refused(name, option):
    conditioner = ALL[name]
    if option in conditioner.reads:
        return
    with pytest.raises(ValueError, match=rf"{option} is {SAID[option]}, which this model does not read; the nearest .*'\w+'"):
        make(conditioner=conditioner).run("a cat", **{option: SAID[option]})


def test_each_family_says_what_it_reads():
    reads = {name: conditioner.reads for name, conditioner in ALL.items()}
    clip = {"clip_skip", "weighted", "long"}
    assert reads["clip"] == reads["sdxl"] == reads["refiner"] == clip
    assert reads["sd3"] == {"clip_skip", "weighted", "length"} and reads["language"] == {"length"}
    assert reads["flux"] == reads["redux"] == reads["pixart"] == {"weighted", "length"}
    assert set().union(*reads.values()) == set(TEXT) == set(SAID)
    assert "aesthetic_score" in ALL["refiner"].options and "target_size" not in ALL["refiner"].options
    with pytest.raises(ValueError, match=r"no option 'aesthetic_score'; did you mean"):
        make(conditioner=ALL["sdxl"]).run("a cat", aesthetic_score=5.0)
    options = set(DEFAULTS).union(*(conditioner.options for conditioner in ALL.values()))
    assert set(PEERS.values()) <= options and not set(PEERS) & options


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({}, {"control_scale": 0.5}, "control_scale is 0.5, and the model is under no ControlNet"),
        ({}, {"paste": False}, "paste is False, and no mask says what is painted anew; give mask= as well, or leave it out"),
        ({}, {"rescale": 0.5, "guidance": 1.0}, "rescale is 0.5, of guidance by a number above 1, and guidance is 1"),
        ({}, {"rescale": 0.5, "guidance": CFG(2.0)}, "rescale is 0.5, .*, and guidance is an object, which rescales by itself"),
        ({}, {"negative": "blurred", "guidance": 1}, "negative is 'blurred', and guidance is 1, which leads away from nothing"),
        ({"conditioner": ALL["sdxl"]}, {"negative_crop": (1, 2), "guidance": 1}, r"negative_crop is \(1, 2\), and guidance is 1"),
        ({"conditioner": None}, {"guidance": 3.0}, "guidance is 3, and this model has no condition to strengthen; leave it out"),
        ({}, {"noise_level": 50}, "noise_level is 50, which models read that enlarge"),
        ({"conditioner": None}, {"negative": "blurred"}, "reads no text"),
        ({"conditioner": None}, {"weighted": True}, "weighted is True, which this model does not read"),
        ({"conditioner": None}, {"crop": (0, 0)}, "the model has no option 'crop'; did you mean"),
        ({"conditioner": FLUX}, {"length": 0}, "length is 0; it is the most tokens"),
    ],
)
def test_what_other_models_read_is_refused(changes, asked, words):
    with pytest.raises(ValueError, match=words):
        make(**changes).run(None if "conditioner" in changes and changes["conditioner"] is None else "cat", **asked)


def _picture(k: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.sin(torch.arange(3.0 * size[0] * size[1]) * (1 + k / 3)).reshape(1, 3, size[1], size[0])


def _hole(k: int) -> Tensor:
    hole = torch.zeros(1, 12, 16)
    hole[:, 2 * k : 6, 4:12] = 1
    return hole


BATCHES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    # what is asked at once, and picture by picture
    "prompts": (["cat", "dog"], {"count": 2}, lambda k: (["cat", "dog"][k // 2], {})),
    "negatives, one for each prompt": (
        ["cat", "dog"], {"count": 2, "negative": ["a", "b"]}, lambda k: (["cat", "dog"][k // 2], {"negative": "ab"[k // 2]})),
    "negatives, one for each picture": ("cat", {"count": 2, "negative": ["a", "b"]}, lambda k: ("cat", {"negative": "ab"[k]})),
    "images under one prompt": (
        "cat", {"image": [_picture(0), _picture(1)], "strength": 0.6},
        lambda k: ("cat", {"image": _picture(k), "strength": 0.6})),
    "images, one for each prompt": (
        ["cat", "dog"], {"count": 2, "image": torch.cat([_picture(0), _picture(1)]), "strength": 0.6},
        lambda k: (["cat", "dog"][k // 2], {"image": _picture(k // 2), "strength": 0.6})),
    "images, one for each picture": (
        "cat", {"count": 2, "image": [_picture(0), _picture(1)], "strength": 0.6},
        lambda k: ("cat", {"image": _picture(k), "strength": 0.6})),
    "images of two sizes": (
        "cat", {"image": [_picture(0), _picture(1, (8, 8))], "strength": 0.6, "size": SIZE},
        lambda k: ("cat", {"image": _picture(k, (SIZE, (8, 8))[k]), "strength": 0.6, "size": SIZE})),
    "masks": (
        "cat", {"image": _picture(0), "mask": [_hole(0), _hole(1)]}, lambda k: ("cat", {"image": _picture(0), "mask": _hole(k)})),
    "masks and images": (
        "cat", {"image": [_picture(0), _picture(1)], "mask": torch.stack([_hole(0), _hole(1)]), "count": 2},
        lambda k: ("cat", {"image": _picture(k // 2), "mask": _hole(k // 2)})),
    "strength nothing": (
        "cat", {"image": [_picture(0), _picture(1)], "strength": 0}, lambda k: ("cat", {"image": _picture(k), "strength": 0})),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHES)
def test_picture_k_of_many_is_picture_k_alone(name):
    prompt, asked, alone = BATCHES[name]
    if name == "masks and images":
        prompt = ["cat", "cat"]
    model = make()
    whole = model.run(prompt, seed=3, first_id=5, **asked)
    assert len(whole.tensor) == (4 if isinstance(prompt, list) else 2)
    for k, picture in enumerate(whole.tensor):
        own, options = alone(k)
        one = model.run(own, seed=3, first_id=5 + k, **options)
        assert torch.allclose(picture, one.tensor[0], atol=1e-5)
        assert whole.info[k] == one.info[0]
    # however few are in one call
    net: Any = model.denoiser.net
    for batch in (1, 3):
        net.asked.clear()
        parts = model.run(prompt, seed=3, first_id=5, batch=batch, **asked)
        assert torch.allclose(parts.tensor, whole.tensor, atol=1e-5) and torch.allclose(parts.latents, whole.latents, atol=1e-5)
        assert parts.info == whole.info and all(len(z) <= 2 * batch for z in net.asked)


def test_a_start_is_split_with_its_pictures():
    model, start = make(), torch.cos(torch.arange(3 * 4 * 6 * 8.0)).reshape(3, 4, 6, 8)
    whole = model.run("cat", count=3, start=start).tensor
    assert torch.allclose(model.run("cat", count=3, start=start, batch=2).tensor, whole, atol=1e-5)
    with pytest.raises(ValueError, match="start has 3 states for 2 pictures"):
        model.run("cat", count=2, start=start)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"image": torch.cat([_picture(0)] * 2), "strength": 0.5, "count": 4}, "image has 2 for 4 pictures; give one, one for"),
        ({"image": [_picture(0), _picture(1, (8, 8))], "strength": 0.5}, r"pictures of 8 x 8 and 16 x 12 pixels; give size="),
        ({"image": [], "strength": 0.5}, "a list of pictures is empty"),
        ({"image": _picture(0), "mask": [_hole(0)] * 3, "count": 2}, "mask has 3 for 2 pictures"),
        ({"negative": ["a"] * 3, "count": 2}, "negative has 3 for 2 pictures"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1, "count": 2, "cache": lambda d: d}, "batch is 1; give at least 1, and leave it out with a cache"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        make().run("cat", **asked)


def test_an_empty_list_of_prompts_is_refused():
    with pytest.raises(ValueError, match="list of prompts or labels is empty"):
        make().run([])
