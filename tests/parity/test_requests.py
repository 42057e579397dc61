"""Requests to loaded models: what they read, classes, pictures in batches, defaults, hints, and records that draw again."""

import json
import shutil
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin import adapters
from langevin.cli import main
from langevin.pictures import read_record, save_png
from langevin.plans import Renoise
from langevin.tasks.feature_cache import FirstBlock, Taylor
from langevin.tasks.recorded import request_of
from langevin.text.conditioning import Request, Side
from langevin.zoo import adapting, schedulers
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


@pytest.mark.parametrize(
    ("family", "name", "norm"), [("sd1", "txt2img_sampler", ""), ("sd1", "txt2img_sampler", "sample"), ("sdxl", "txt2img", "")]
)
def test_a_guidance_leads_away_from_what_the_model_does(goldens: Goldens, family: str, name: str, norm: str) -> None:
    """As a number does, to the bit: in the network's output, by the family's norm, from the negative prompt."""
    model = lv.load(goldens.case(family, name).dir / "pipeline")
    model = model.but(defaults=replace(model.defaults, norm=norm))
    for asked in ({"negative": "a dog"}, {}):
        asked = {"prompt": "a cat", "size": (32, 32), "steps": 2, **asked}
        number = model.run(**asked, guidance=3.0, rescale=0.5).latents
        assert torch.equal(model.run(**asked, guidance=lv.CFG(3.0, rescale=0.5)).latents, number)
        assert not torch.equal(model.run(**asked, guidance=lv.CFG(3.0, interval=(0.0, 0.1))).latents, number)


@pytest.mark.parametrize(("family", "name"), [("flux", "dev_pipeline"), ("flux", "schnell_pipeline"), ("lcm", "lcm_pipeline")])
def test_a_model_that_is_told_its_guidance_leads_away_from_nothing(goldens: Goldens, family: str, name: str) -> None:
    model = lv.load(goldens.case(family, name).dir / "pipeline")
    asked: dict[str, Any] = {"prompt": "a cat", "size": (32, 32), "steps": 2}
    for guidance in (None, 2.0):
        with pytest.raises(ValueError, match=r"negative is 'a dog', and this model is told its guidance, which leads away from"):
            model.run(**asked, negative="a dog", guidance=guidance)
    # but by a guidance, which knows what it leads away from: from the prompt itself nowhere
    plain = model.run(**asked).latents
    same = model.run(**asked, negative="a cat", guidance=lv.CFG(4.0)).latents
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)
    made = [model.run(**asked, guidance=lv.CFG(4.0), **more).latents for more in ({}, {"negative": ""}, {"negative": "a dog"})]
    assert torch.equal(made[0], made[1]) and not torch.allclose(made[1], made[2], atol=1e-3)
    assert not torch.allclose(made[0], plain, atol=1e-3)


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
    classes = json.loads((unet / "config.json").read_text())["num_class_embeds"]
    assert model.defaults.classes == classes
    plan = model.plan(3)
    start = torch.cos(torch.arange(3 * 16 * 16.0)).reshape(1, 3, 16, 16)
    drawn = {k: model.run(label=k, steps=3, seed=4, start=start).latents for k in (0, classes - 1)}
    for k, ours in drawn.items():
        by_hand = lv.sample(model.denoiser, plan, 1, seed=4, start=start, cond={"label": torch.tensor([k])})
        assert torch.equal(ours, by_hand)
    assert not torch.allclose(drawn[0], drawn[classes - 1], atol=1e-2)
    with pytest.raises(ValueError, match=f"label is {classes}; there are {classes}, counted from 0"):
        model.run(label=classes, steps=3)
    with pytest.raises(ValueError, match=f"give label= from 0 to {classes - 1}"):
        model.run(steps=3)


@pytest.mark.parametrize("name", ["lcm", "tcd", "edm_euler", "edm_dpmpp", "consistency"])
def test_samplers_of_few_steps_begin_at_a_picture(goldens: Goldens, name: str) -> None:
    where = goldens.case("adm", "consistency_pipeline").dir / "pipeline" if name == "consistency" else None
    folder = where or goldens.case("schedulers", name).dir
    found = schedulers.read(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()))
    schedule = found.process.schedule
    whole: list[Any] = [row for row in found.plan(4).on(schedule).rows if not isinstance(row, Renoise)]
    below: list[Any] = [row for row in found.plan(4, start=0.3).on(schedule).rows if not isinstance(row, Renoise)]
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


# Hints


def _controlled(goldens: Goldens) -> Any:
    return lv.load(goldens.case("controlnet", "pipeline").dir / "pipeline")


def test_guessing_leaves_the_other_half_to_the_plain_network(goldens: Goldens) -> None:
    model = _controlled(goldens)
    net, said = model.denoiser.net, []
    asked: dict[str, Any] = {"control": PICTURE, "steps": 1, "seed": 5, "size": (32, 32), "guidance": 3.0}
    answer = net.answer
    net.answer = lambda *given: said.append((given, answer(*given))) or said[-1][1]
    guessed = model.run("a red cat", guess=True, **asked)
    (z, level, cond, control), out = said[0]
    null = {name: value[1:] for name, value in cond.items()}
    assert torch.equal(out[1:], answer(z, level, cond)[1:]) and torch.allclose(out[1:], answer(z[1:], level[1:], null), atol=1e-5)
    # the other half is under the hints, coarse ones ten times the fine
    plain = model.run("a red cat", **asked)
    full = said[1][0][3]
    for i, (ours, theirs) in enumerate(zip([*control.kept, control.middle], [*full.kept, full.middle], strict=True)):
        assert torch.allclose(ours[:1], theirs[:1] * 10 ** (i / len(control.kept) - 1), atol=1e-5)
        assert not ours[1:].any()
    assert not torch.allclose(guessed.tensor, plain.tensor, atol=1e-2)
    with pytest.raises(ValueError, match=r"guess leaves hints out .* give guidance as a number"):
        model.run("a red cat", guess=True, **{**asked, "guidance": lv.CFG(2.0)})


def test_hints_count_between_two_levels(goldens: Goldens) -> None:
    model = _controlled(goldens)
    bare, levels = model.but(controls=(), controlled=None), []
    model.controls[0].register_forward_hook(lambda net, given, out: levels.append(float(given[1][0])))
    asked: dict[str, Any] = {"seed": 5, "size": (32, 32), "plan": "ddim:4", "guidance": 3.0}
    whole = model.run("a red cat", control=PICTURE, **asked)
    all_levels = list(levels)
    levels.clear()
    assert torch.equal(model.run("a red cat", control=PICTURE, control_levels=(1, 0), **asked).tensor, whole.tensor)
    levels.clear()
    early = model.run("a red cat", control=PICTURE, control_levels=(1, 0.5), **asked)
    assert levels == all_levels[:3] and not torch.allclose(early.tensor, whole.tensor, atol=1e-2)  # at 1, 3/4 and 1/2
    levels.clear()
    never = model.run("a red cat", control=PICTURE, control_levels=(0.7, 0.6), **asked)
    assert not levels and torch.equal(never.tensor, bare.run("a red cat", **asked).tensor)
    for wrong in ((0, 1), (1.5, 0), (0.5, 0.5)):
        with pytest.raises(ValueError, match="control_levels is"):
            model.run("a red cat", control=PICTURE, control_levels=wrong, **asked)


def test_each_picture_may_have_its_hint(goldens: Goldens) -> None:
    model = _controlled(goldens)
    asked: dict[str, Any] = {"seed": 5, "size": (32, 32), "steps": 2}
    both = model.run("a red cat", control=torch.stack([PICTURE, -PICTURE]), **asked)
    for k, hint in enumerate((PICTURE, -PICTURE)):
        one = model.run("a red cat", control=hint, first_id=k, **asked)
        assert torch.allclose(both.tensor[k], one.tensor[0], atol=1e-4)
        assert both.info[k]["control"] == one.info[0]["control"]
    assert both.info[0]["control"] != both.info[1]["control"]


# Records


HOLE = torch.zeros(32, 32)
HOLE[8:24, 8:24] = 1
ONE_BY_ONE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nothing": ("sd1", "txt2img_sampler", {}),
    "negative": ("sd1", "txt2img_sampler", {"negative": "a dog"}),
    "an empty negative": ("sdxl", "txt2img", {"negative": ""}),
    "id": ("sd1", "txt2img_sampler", {"first_id": 3}),
    "guidance": ("sd1", "txt2img_sampler", {"guidance": 2.0}),
    "rescale": ("sd1", "txt2img_sampler", {"rescale": 0.7}),
    "plan": ("sd1", "txt2img_sampler", {"plan": "ddim:2:eta=0.5", "steps": None}),
    "clip_skip": ("sd1", "txt2img_sampler", {"clip_skip": 1}),
    "negative_clip_skip": ("sd1", "txt2img_sampler", {"clip_skip": 1, "negative_clip_skip": 0}),
    "weighted": ("sd1", "txt2img_sampler", {"weighted": True}),
    "long": ("sd1", "txt2img_sampler", {"long": True, "negative": "dog " * 90}),
    "length": ("flux", "dev_pipeline", {"length": 7}),
    "strength": ("sd1", "txt2img_sampler", {"image": PICTURE, "strength": 0.5}),
    "strength nothing": ("sd1", "txt2img_sampler", {"image": PICTURE, "strength": 0.0}),
    "paste": ("sd1", "txt2img_sampler", {"image": PICTURE, "mask": HOLE, "paste": False}),
    "noise_level": ("sd_upscaler", "upscale", {"image": PICTURE[:, :16, :16], "noise_level": 90}),
    "control_scale": ("controlnet", "pipeline", {"control": PICTURE, "control_scale": [0.4]}),
    "control_levels": ("controlnet", "pipeline", {"control": PICTURE, "control_levels": (0.9, 0.2)}),
    "guess": ("controlnet", "pipeline", {"control": PICTURE, "guess": True}),
    "sizes": ("sdxl", "txt2img", {"original_size": (64, 20), "crop": (4, 0), "negative_target_size": (16, 16)}),
    "label": ("dit", "pipeline", {"label": 2}),
}
UNLIKE = ("nothing", "strength nothing")


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_record_draws_the_picture_again(goldens: Goldens, tmp_path: Path, name: str) -> None:
    family, case, asked = ONE_BY_ONE[name]
    model = lv.load(goldens.case(family, case).dir / "pipeline")
    given = {key: asked[key] for key in ("image", "mask", "control") if key in asked}
    base: dict[str, Any] = {"seed": 7, "steps": 2}
    base |= {} if family in ("sd_upscaler", "dit") else {"size": (32, 32)}
    base |= {} if family == "dit" else {"prompt": "a (red:1.5) cat"}
    made = model.run(**{**base, **asked})
    record = read_record(save_png(made.images[0], tmp_path / "one.png", made.info[0]))
    again = model.run(**request_of(record), **given)
    assert again.images[0].tobytes() == made.images[0].tobytes() and again.info == made.info
    assert record["dtype"] == "float32" and "unsaid" not in record
    if name not in UNLIKE:  # the option is one that matters
        plain = {key: value for key, value in asked.items() if key in ("image", "mask", "control", "label", "strength")}
        plain |= {"strength": 0.9} if name == "strength" else {"label": 1} if name == "label" else {}
        plain |= {"clip_skip": 1} if name == "negative_clip_skip" else {"negative": "dog " * 90} if name == "long" else {}
        assert model.run(**{**base, **plain}).images[0].tobytes() != made.images[0].tobytes()
    assert all(record[key] for key in given)


def test_a_record_tells_what_was_added_and_what_it_cannot_tell(goldens: Goldens, tmp_path: Path) -> None:
    folder = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    model = lv.load(folder, reference=True)
    for name, net in (("style", model.denoiser.net), ("lines", model.conditioner)):
        adapters.lora(net, 2, 3.0, "*attention*" if name == "style" else "*", name=name)
    adapters.set_strengths(model.denoiser.net, {"style": 0.25})
    next(m for m in model.conditioner.modules() if isinstance(m, Side)).learn("<toy>", torch.ones(1, 32))
    asked: dict[str, Any] = {"prompt": "a cat", "size": (32, 32), "steps": 1}
    record = model.run(**asked).info[0]
    assert record["adapters"] == {"style": 0.25, "lines": 1.0} and record["words"] == ["<toy>"]
    assert record["loaded"] == {"reference": True} and record["fingerprint"] and record["sampler"]
    own = model.run(**{**asked, "steps": None}, plan=lv.plans.ddim(1), guidance=lv.CFG(1.0), start=torch.zeros(1, 4, 4, 4))
    assert own.info[0]["unsaid"] == ["guidance", "plan", "start"]
    with pytest.raises(ValueError, match="does not tell guidance and plan and start"):
        request_of(own.info[0])
    controls = [m.run(**asked, control=PICTURE).info[0]["controlnets"] for m in (_controlled(goldens), _controlled(goldens))]
    assert controls[0] == controls[1] and len(controls[0]) == 1
    flux = lv.load(goldens.case("flux", "dev_pipeline").dir / "pipeline")
    caches = {"first_block:threshold=0.2": FirstBlock(0.2), "taylor": Taylor(), "taylor:every=4,order=0": Taylor(4, 0)}
    for word, cache in caches.items():
        assert flux.run("a cat", size=(32, 32), steps=2, cache=cache).info[0]["cache"] == word
        assert adapting.feature_cache(word) == cache


def test_from_the_command_line_and_again(goldens: Goldens, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    photo, hole, one, two = (tmp_path / f"{name}.png" for name in ("photo", "hole", "one", "two"))
    Image.fromarray(((PICTURE + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(photo)
    Image.fromarray((HOLE * 255).byte().numpy()).save(hole)
    command = ["generate", str(folder), "a (red:1.4) cat", "--seed", "5", "--weighted", "--rescale", "0.5"]
    command += ["--negative", "", "--first-id", "4", "--no-paste", "--device", "cpu", "--plan", "ddim:3:eta=0.5"]
    pictures = ["--image", str(photo), "--mask", str(hole)]
    main([*command, *pictures, "--out", str(one)])
    asked: dict[str, Any] = {"seed": 5, "weighted": True, "rescale": 0.5, "negative": "", "first_id": 4, "paste": False}
    with Image.open(photo) as image, Image.open(hole) as mask:
        ours = lv.load(folder).run("a (red:1.4) cat", plan="ddim:3:eta=0.5", image=image, mask=mask.convert("RGB"), **asked)
    assert _bytes(one) == ours.images[0].tobytes()
    assert {k: v for k, v in read_record(one).items() if k != "mask"} == {k: v for k, v in ours.info[0].items() if k != "mask"}
    capsys.readouterr()
    main(["inspect", str(one)])
    told = capsys.readouterr().out
    assert "prompt = a (red:1.4) cat" in told and "rescale = 0.5" in told and "--again one.png" in told

    main(["generate", str(folder), "--again", str(one), "--device", "cpu", *pictures, "--out", str(two)])
    assert _bytes(two) == _bytes(one) and read_record(two) == read_record(one)
    assert "another picture" not in capsys.readouterr().err
    # flags that are said come first
    main(["generate", str(folder), "a dog", "--again", str(one), "--device", "cpu", *pictures, "--seed", "6", "--out", str(two)])
    assert {k: v for k, v in read_record(two).items() if read_record(one)[k] != v} == {"prompt": "a dog", "seed": 6}
    main(["generate", str(folder), "--again", str(one), "--device", "cpu", *pictures[:3], str(photo), "--out", str(two)])
    assert "mask is another picture than the one that" in capsys.readouterr().err

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["generate", *words, "--device", "cpu", "--out", str(two)])
        return capsys.readouterr().err

    assert "of which its record has the SHA-256 alone; say --image" in refused(str(folder), "--again", str(one))
    other = goldens.case("sd2", "txt2img").dir / "pipeline"
    assert "was drawn by pipeline (" in refused(str(other), "--again", str(one), *pictures)
    assert "no picture (.png) that says how it was made" in refused(str(folder), "--again", str(photo))
    # a picture of anyone's sets no other flag, fetches nothing, and is typed as flags are
    with Image.open(one) as image:
        record = {**read_record(one), "out": str(tmp_path / "else.png"), "loaded": {"controlnet": ["who/knows"]}}
        save_png(image, one, record)
        assert "controlnet who/knows, which is not here" in refused(str(folder), "--again", str(one), *pictures)
        save_png(image, one, {**record, "loaded": {}, "seed": "many", "negative": "\x1b[2J"})
    main(["inspect", str(one)])
    assert r"negative = \x1b[2J" in capsys.readouterr().out
    assert "many" in refused(str(folder), "--again", str(one), *pictures) and not (tmp_path / "else.png").exists()
    main(["inspect", str(photo)])
    assert "does not say how it was made" in capsys.readouterr().out


FLAGS: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("sd1", "txt2img_sampler", ["--batch", "1", "--count", "2"], {"batch": 1, "count": 2}),
    ("flux", "dev_pipeline", ["--length", "7"], {"length": 7}),
    ("sdxl", "txt2img", ["--original-size", "64x20", "--crop", "4", "0"], {"original_size": (64, 20), "crop": (4, 0)}),
    ("sdxl", "txt2img", ["--target-size", "8x8", "--negative-crop", "2", "1"], {"target_size": (8, 8), "negative_crop": (2, 1)}),
    ("controlnet", "pipeline", ["--control", "HINT", "--guess"], {"guess": True}),
    ("controlnet", "pipeline", ["--control", "HINT", "--control-levels", "0.9", "0.3"], {"control_levels": (0.9, 0.3)}),
    ("controlnet", "pipeline", ["--control", "HINT", "--control-scale", "0.3"], {"control_scale": 0.3}),
    ("sd_upscaler", "upscale", ["--image", "HINT", "--noise-level", "90"], {"noise_level": 90}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "words", "asked"), FLAGS, ids=[" ".join(f[2]) for f in FLAGS])
def test_a_flag_is_the_option(goldens: Goldens, tmp_path: Path, family: str, name: str, words: list[str], asked: dict) -> None:
    folder, hint = goldens.case(family, name).dir / "pipeline", tmp_path / "hint.png"
    Image.fromarray(((PICTURE[:, :16, :16] + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(hint)
    common = ["generate", str(folder), "a cat", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "one.png")]
    common += [] if family == "sd_upscaler" else ["--size", "32x32"]
    main([*common, *(str(hint) if word == "HINT" else word for word in words)])
    out = tmp_path / ("one-1.png" if "count" in asked else "one.png")
    with Image.open(hint) as picture:
        given = {"--control": {"control": picture}, "--image": {"image": picture}}.get(words[0], {})
        size = {} if family == "sd_upscaler" else {"size": (32, 32)}
        result = lv.load(folder).run("a cat", steps=1, **size, **given, **asked)
    assert _bytes(out) == result.images[-1].tobytes() and read_record(out) == result.info[-1]


def _bytes(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()
