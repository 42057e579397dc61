"""What a request may say of its text: every option is read, or refused by name."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from langevin.tasks.asked import PEERS, TEXT
from langevin.tasks.generate import OPTIONS
from langevin.tasks.variation import Varied
from langevin.text.conditioning import CLIPPrompt, FluxPrompt, LanguagePrompt, SD3Prompt, SDXLPrompt, Side, T5Prompt
from tests.laws.test_generate import make


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
    options = set(OPTIONS).union(*(conditioner.options for conditioner in ALL.values()))
    assert set(PEERS.values()) <= options and not set(PEERS) & options


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({}, {"control_scale": 0.5}, "control_scale is 0.5, and the model is under no ControlNet"),
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
