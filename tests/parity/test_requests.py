"""Requests to loaded models: what they read, classes, pictures in batches, defaults, hints, and records that draw again."""

import json
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin as lv
from langevin.plans import Renoise
from langevin.text.conditioning import Request
from langevin.zoo import schedulers
from tests.parity.goldens import Goldens

PICTURE = torch.sin(torch.arange(3 * 32 * 32.0)).reshape(3, 32, 32)


def test_flux_reads_weights_and_its_pooled_state_does_not_see_them(goldens: Goldens) -> None:
    read = lv.load(goldens.case("flux", "dev_pipeline").dir / "pipeline").conditioner
    plain, _ = read(Request(["a red cat"], length=16))
    ones, _ = read(Request(["(a red cat:1.0)"], length=16, weighted=True))
    assert all(torch.equal(plain[name], ones[name]) for name in ("tokens", "pooled"))
    weighed, _ = read(Request(["a (red:1.5) cat"], length=16, weighted=True))
    assert torch.equal(weighed["pooled"], plain["pooled"])
    assert not torch.allclose(weighed["tokens"], plain["tokens"], atol=1e-3)
    literal, _ = read(Request(["a (red:1.5) cat"], length=16))
    assert not torch.allclose(literal["pooled"], plain["pooled"], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "name", "asked"),
    [
        ("sd1", "txt2img_pndm", {"length": 7}),
        ("flux", "dev_pipeline", {"long": True}),
        ("flux", "dev_pipeline", {"clip_skip": 2}),
        ("pixart", "alpha_pipeline", {"long": True}),
        ("pixart", "alpha_pipeline", {"clip_skip": 2}),
        ("sd3", "sd3_pipeline", {"long": True}),
    ],
)
def test_what_a_published_family_does_not_read_is_refused(goldens: Goldens, family: str, name: str, asked: dict) -> None:
    model = lv.load(goldens.case(family, name).dir / "pipeline")
    with pytest.raises(ValueError, match=rf"{min(asked)} is .*, which this model does not read; the nearest that it reads is"):
        model.run("a cat", **asked)


def _pipeline(to: Path, kind: str, scheduler: Path, **parts: Path) -> Path:
    """A published folder of a network and a scheduler."""
    to.mkdir()
    for name, part in parts.items():
        shutil.copytree(part, to / name)
    shutil.copytree(scheduler, to / "scheduler")
    index = {"_class_name": kind, **{name: ["diffusers", "UNet2DModel"] for name in parts}}
    (to / "model_index.json").write_text(json.dumps(index))
    return to


@pytest.mark.parametrize("kind", ["DDPMPipeline", "DDIMPipeline"])
def test_a_u_net_of_classes_draws_each_class(goldens: Goldens, tmp_path: Path, kind: str) -> None:
    scheduler = goldens.case("ddpm", "ddim_pipeline").dir / "pipeline" / "scheduler"
    unet = goldens.case("adm", "class_conditional").dir / "unet"
    model = lv.load(_pipeline(tmp_path / "adm", kind, scheduler, unet=unet))
    assert model.defaults.classes == 11
    plan = model.plan(3)
    start = torch.cos(torch.arange(3 * 16 * 16.0)).reshape(1, 3, 16, 16)
    drawn = {k: model.run(label=k, steps=3, seed=4, start=start).latents for k in (0, 10)}
    for k, ours in drawn.items():
        by_hand = lv.sample(model.denoiser, plan, 1, seed=4, start=start, cond={"label": torch.tensor([k])})
        assert torch.equal(ours, by_hand)
    assert not torch.allclose(drawn[0], drawn[10], atol=1e-2)
    with pytest.raises(ValueError, match="label is 11; there are 11, counted from 0"):
        model.run(label=11, steps=3)
    with pytest.raises(ValueError, match="give label= from 0 to 10"):
        model.run(steps=3)


@pytest.mark.parametrize("name", ["lcm", "tcd", "edm_euler", "edm_dpmpp", "consistency"])
def test_samplers_of_few_steps_begin_at_a_picture(goldens: Goldens, name: str) -> None:
    where = goldens.case("adm", "consistency_pipeline").dir / "pipeline" if name == "consistency" else None
    folder = where or goldens.case("schedulers", name).dir
    found = schedulers.read(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()))
    schedule = found.process.schedule
    whole = [row for row in found.plan(4).on(schedule).rows if not isinstance(row, Renoise)]
    below = [row for row in found.plan(4, start=0.3).on(schedule).rows if not isinstance(row, Renoise)]
    assert len(below) == len(whole) == 4 and abs(below[0].start - 0.3) < 1e-12
    assert all(0 < later.start < row.start for row, later in pairwise(below))
    if name == "lcm":  # on the part of the schedule below, the boundary's weights those of the levels that are told
        for row, other in zip(below, whole, strict=True):
            assert abs(row.start - 0.3 * other.start) < 1e-12
            assert abs(row.a - 0.25 / ((10 * (row.start * 1000 - 1)) ** 2 + 0.25)) < 1e-12
    lowest = {"tcd": 0.001, "lcm": None}.get(name, 1e-5)
    if lowest is not None:
        with pytest.raises(ValueError, match=r"start is .*begin"):
            found.plan(4, start=lowest).on(schedule)


def test_a_latent_consistency_model_begins_at_a_picture(goldens: Goldens) -> None:
    model = lv.load(goldens.case("lcm", "lcm_pipeline").dir / "pipeline")
    asked: dict[str, Any] = {"image": PICTURE, "strength": 0.5, "seed": 3}
    ours, other = model.run("a cat", steps=4, **asked), model.run("a cat", plan="lcm:4", **asked)
    assert torch.allclose(ours.latents, other.latents, atol=1e-2)  # which has no boundary
    assert not torch.allclose(ours.latents, model.run("a cat", steps=4, seed=3, size=(32, 32)).latents, atol=0.1)


@pytest.mark.parametrize(
    ("change", "few"),
    [
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, True),  # SDXL turbo
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, True),  # Stable Diffusion turbo
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "leading"}, False),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "use_karras_sigmas": True}, False),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "v_prediction"}, False),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, False),
    ],
)
@pytest.mark.parametrize(("family", "name"), [("sdxl", "txt2img"), ("sd1", "txt2img_sampler")])
def test_turbo_models_take_one_step_without_guidance(
    goldens: Goldens, tmp_path: Path, family: str, name: str, change: dict[str, Any], few: bool
) -> None:
    folder = shutil.copytree(goldens.case(family, name).dir / "pipeline", tmp_path / "model")
    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**table, "steps_offset": 1, **change}))
    defaults = lv.load(folder).defaults
    assert (defaults.steps, defaults.guidance) == ((1, 1.0) if few else (50, {"sdxl": 5.0, "sd1": 7.5}[family]))


def test_guidance_of_nothing_is_said_to_be_the_negative_alone(goldens: Goldens) -> None:
    model = lv.load(goldens.case("sd1", "txt2img_sampler").dir / "pipeline")
    asked: dict[str, Any] = {"steps": 1, "size": (32, 32), "seed": 1}
    with pytest.warns(UserWarning, match="guidance is 0, which draws the negative prompt alone here; 1 is none"):
        ours = model.run("a cat", negative="a dog", guidance=0, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negative = model.run("a dog", guidance=1, **asked)
    assert torch.allclose(ours.latents, negative.latents, atol=1e-4)
