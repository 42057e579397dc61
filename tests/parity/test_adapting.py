"""Loaded models with adapters and learned words: what the peer draws, strengths that switch, requests that share weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import langevin as lv
from langevin import adapters
from langevin.cli import main
from langevin.header import read_header
from langevin.tasks import memory
from langevin.tensors import save
from langevin.zoo import adapting, lora
from langevin.zoo.budget import Ladder, fit
from langevin.zoo.detect import detect
from langevin.zoo.embeddings import write_embedding
from langevin.zoo.load import ladder
from tests.parity.goldens import Goldens

ASKED: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 5, "size": (32, 32)}


@pytest.fixture
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


def _adapters(
    folder: Path, path: Path, seed: int, layout: str = "peft", denoiser: str = "*attention*", text: bool = True
) -> Path:
    """A file with adapters of denoiser and text encoder, drawn at random."""
    where = adapting.targets(lv.load(folder))
    generator = torch.Generator().manual_seed(seed)
    for part, pattern in (("unet", denoiser), *((("text_encoder", "*"),) if text else ())):
        adapters.lora(where[part].net, 2 + seed, 3.0, pattern, seed=seed)
        for adapter in adapters.adapted(where[part].net).values():
            nn.init.normal_(adapter.up.weight, std=0.5, generator=generator)
    return lora.save_lora(where, path, layout)


def _picture(model: Any, **more: Any) -> Tensor:
    return model.run(**{**ASKED, **more}).tensor


def test_adapters_switch_and_add_up(folder: Path, tmp_path: Path) -> None:
    one = _adapters(folder, tmp_path / "one.safetensors", 0)
    two = _adapters(folder, tmp_path / "two.v2.safetensors", 1, "kohya", "*conv1*")
    model = lv.load(folder)
    plain = _picture(model)
    layers = adapting.add_lora(model, one, 0.7)
    assert set(layers) == {"unet", "text_encoder"} and all(layers.values())
    adapting.add_lora(model, two, 0.4)
    both = _picture(model)
    adapting.set_strengths(model, {"one": 0.0, "two_v2": 0.0})
    assert torch.equal(_picture(model), plain)
    alone = lv.load(folder)
    adapting.add_lora(alone, two, 0.4, "other")
    adapting.set_strengths(model, {"two_v2": 0.4})
    torch.testing.assert_close(_picture(model), _picture(alone), rtol=0, atol=1e-5)
    adapting.set_strengths(model, {"one": 0.7})
    assert torch.equal(_picture(model), both)
    assert float((both - plain).abs().max()) > 0.05
    exact = lv.load(folder, dtype=torch.float64)
    adapting.add_lora(exact, one, 0.7)
    adapting.add_lora(exact, two, 0.4)
    beside = _picture(exact)
    for name in ("one", "two_v2"):
        adapting.merge(model, name)
        adapting.merge(exact, name)
    torch.testing.assert_close(_picture(exact), beside, rtol=0, atol=1e-6)  # pictures are float32
    # samplers that begin at signal .07 multiply what float32 rounds: no more is asked than of adapters beside the weights
    rounding = float((both - beside).abs().max())
    torch.testing.assert_close(_picture(model), both, rtol=0, atol=max(1e-4, rounding))
    with pytest.raises(ValueError, match="no adapters named 'one'"):
        adapting.set_strengths(model, {"one": 1.0})


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    one = _adapters(folder, tmp_path / "one.safetensors", 0)
    word = write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": _vectors(folder, 2)})
    model = lv.load(folder)
    adapting.add_lora(model, one, 0.5)
    adapting.add_word(model, word)
    out = tmp_path / "cat.png"
    command = ["generate", str(folder), "a <toy> cat", "--steps", "2", "--seed", "5", "--size", "32x32", "--out", str(out)]
    main([*command, "--lora", f"{one}:0.5", "--word", str(word)])
    assert _off(out, _picture(model, prompt="a <toy> cat")) <= 1


def _off(path: Path, ours: Tensor) -> float:
    """The largest difference between a file and a picture, in grey levels of 255."""
    with Image.open(path) as image:
        drawn = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(32, 32, 3).permute(2, 0, 1)
    return float((drawn.float() - (ours[0] + 1) * 127.5).abs().max())


def _plan(folder: Path, device: str, step: int) -> Ladder:
    """The plan that ends at this step of the ladder."""
    plan = fit(detect(folder), fit(detect(folder), 10**15, device, (32, 32)).needs[step] or 0, device, (32, 32))
    assert plan.taken == step
    return plan


def _rounded(model: Any, stages: list[Any]) -> int:
    """How many weights in bfloat16 have moved by more than rounding: each is what the last stage has in float32, but for one
    rounding, by at most 1/256, at each stage."""
    moved = 0
    for part, (net, _) in model.parts.items():
        exact = [stage.parts[part][0].state_dict() for stage in stages]
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                off = 1.01 / 256 * sum(state[name].abs() for state in exact) + 1e-6
                assert bool(((value.float() - exact[-1][name]).abs() <= off).all()), f"{part} {name}"
                moved += bool(((value.float() - exact[0][name]).abs() > 2 * off).any())
    return moved


# two evaluations of the network as it is: strong guidance and samplers' first steps multiply what bfloat16 rounds
PLAIN: dict[str, Any] = {"plan": "ddim:2", "steps": None, "guidance": 1.0}


@pytest.mark.parametrize("way", ["turns", "int8"])
def test_adapters_are_merged_before_a_budget_arranges_the_weights(folder: Path, tmp_path: Path, way: str) -> None:
    if way == "int8":
        pytest.importorskip("torchao")
    plan = _plan(folder, "cuda", 3) if way == "turns" else _plan(folder, "cpu", 4)
    one = _adapters(folder, tmp_path / "one.safetensors", 0)
    files = {one: 0.8, _adapters(folder, tmp_path / "two.safetensors", 1, "kohya", "*conv1*"): 0.5}
    stages = [lv.load(folder, lora=dict(list(files.items())[:k])) for k in range(3)]
    model = lv.load(folder, lora=files, budget=plan, device="cpu")
    ours = _picture(model)
    by_hand = lv.load(folder, dtype=torch.bfloat16)
    for file, strength in files.items():
        adapting.add_lora(by_hand, file, strength)
        adapting.merge(by_hand, file.stem)
    assert _rounded(by_hand, stages) > 20
    by_hand = memory.tiled(by_hand, plan.tile or 0)
    assert torch.equal(ours, _picture(memory.in_int8(by_hand) if way == "int8" else by_hand))
    plain, _, adapted = (_picture(stage, **PLAIN) for stage in stages)
    assert float((_picture(model, **PLAIN) - adapted).std()) < 0.3 * float((plain - adapted).std())
    # what came later would not travel with the layers, or would be rounded with the weights
    with pytest.raises(ValueError, match=r"loaded in a budget, where its .* (in turn|in int8); say load\(\.\.\., lora="):
        adapting.add_lora(model, one)
    assert torch.equal(_picture(model), ours)


def test_adapters_and_words_in_a_budget_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao")
    files = {_adapters(folder, tmp_path / f"{seed}.safetensors", seed): 0.8 - 0.3 * seed for seed in (0, 1)}
    word = write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": _vectors(folder, 2)})
    plan = _plan(folder, "cpu", 4)
    command = ["generate", str(folder), "a <toy> cat", "--steps", "2", "--seed", "5", "--size", "32x32", "--device", "cpu"]
    command += ["--lora", *(f"{file}:{strength}" for file, strength in files.items()), "--word", str(word)]
    main([*command, "--budget", str(plan.budget), "--out", str(tmp_path / "cat.png")])
    assert "-> 5. int8" in capsys.readouterr().out
    model = lv.load(folder, lora=files, budget=plan)
    adapting.add_word(model, word)
    assert _off(tmp_path / "cat.png", _picture(model, prompt="a <toy> cat")) <= 1


def test_a_budget_without_a_device_plans_for_the_cpu(folder: Path) -> None:
    least = fit(detect(folder), 10**15, "cuda").needs[4] or 0
    with pytest.raises(ValueError, match="with every step of the ladder"):
        lv.load(folder, budget=least)  # where layers take turns it would do
    assert ladder(folder, 10**15).needs == ladder(folder, 10**15, device="cpu").needs
    with pytest.raises(ValueError, match=r"lora is .*; give files with their strengths"):
        lv.load(folder, lora="style.safetensors")  # pyright: ignore
    with pytest.raises(ValueError, match="lora is added to whole models"):
        lv.load(folder / "unet", lora={"style.safetensors": 1.0})


@pytest.fixture
def controlled(goldens: Goldens) -> Path:
    return goldens.case("controlnet", "pipeline").dir / "pipeline"


def _without(folder: Path, to: Path) -> Path:
    """The pipeline before a ControlNet was put into it."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("controlnet*"))
    index = json.loads((to / "model_index.json").read_text())
    del index["controlnet"]
    (to / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    return to


HINT = torch.sin(torch.arange(3 * 32 * 32.0)).reshape(3, 32, 32)


def test_a_controlnet_of_its_own_is_the_one_that_came_in_the_pipeline(controlled: Path, tmp_path: Path) -> None:
    plain = _without(controlled, tmp_path / "plain")
    published, model = lv.load(controlled), lv.load(plain)
    uncontrolled = _picture(model)
    with pytest.raises(
        ValueError, match=r"control has 1 hints for 0 networks; add a ControlNet by add_control.*--controlnet FOLDER"
    ):
        _picture(model, control=HINT)
    made = adapting.add_control(model, controlled / "controlnet")
    ours = _picture(made, control=HINT)
    assert torch.equal(ours, _picture(published, control=HINT)) and not torch.allclose(ours, uncontrolled, atol=0.01)
    assert torch.equal(_picture(model), uncontrolled) and list(made.parts) == list(published.parts)
    # several add up, each by its scale and told its own hint
    both = adapting.add_control(made, controlled / "controlnet")
    assert [name for name in both.parts if name.startswith("control")] == ["controlnet", "controlnet_1"]
    halves = _picture(both, control=[HINT, HINT], control_scale=[0.25, 0.75])
    torch.testing.assert_close(halves, ours, rtol=0, atol=1e-4)
    one = _picture(both, control=[HINT, -HINT], control_scale=[1.0, 0.0])
    torch.testing.assert_close(one, ours, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"control has 1 hints for 2 networks; give one each by control= \(--control PICTURE"):
        _picture(both, control=HINT)


def test_what_is_no_controlnet_of_the_model_is_refused(controlled: Path, goldens: Goldens) -> None:
    model = lv.load(controlled)
    with pytest.raises(ValueError, match="is no ControlNet but a UNet"):
        adapting.add_control(model, controlled / "unet")
    xl = goldens.case("sdxl", "txt2img").dir / "pipeline"
    own, theirs = (json.loads((f / "config.json").read_text()) for f in (xl / "unet", controlled / "controlnet"))
    # drawn by other seeds the two differ in their widths already, which are looked at first
    what = r"width of the text \d+" if own["block_out_channels"] == theirs["block_out_channels"] else r"widths \([\d, ]+\)"
    with pytest.raises(ValueError, match=rf"made for another model, of {what}; this one has"):
        adapting.add_control(lv.load(xl), controlled / "controlnet")
    with pytest.raises(ValueError, match="beside a U-Net, and the model's network is a"):
        adapting.add_control(lv.load(goldens.case("pixart", "sigma_pipeline").dir / "pipeline"), controlled / "controlnet")


def test_a_controlnet_in_a_budget(controlled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = _without(controlled, tmp_path / "plain")
    control = controlled / "controlnet"
    size = sum(entry.size for file in control.glob("*.safetensors") for entry in read_header(file).entries)
    more, without = ladder(plain, 10**15, controlnet=control).needs[0], ladder(plain, 10**15).needs[0]
    assert more is not None and without is not None and abs(more - without - size) < 0.05 * size
    turns = _plan(plain, "cuda", 3)
    model = lv.load(plain, controlnet=control, budget=turns, device="cpu")
    by_hand = memory.tiled(adapting.add_control(lv.load(plain, dtype=torch.bfloat16), control), turns.tile or 0)
    assert torch.equal(_picture(model, control=HINT), _picture(by_hand, control=HINT))
    assert memory.arranged(by_hand) is None
    with pytest.raises(ValueError, match=r"in turn; say load\(\.\.\., controlnet="):
        adapting.add_control(model, control)

    Image.fromarray(((HINT + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "hint.png")
    command = ["generate", str(plain), "a red cat", "--steps", "2", "--seed", "5", "--size", "32x32", "--device", "cpu"]
    main([*command, "--controlnet", str(control), "--control", str(tmp_path / "hint.png"), "--out", str(tmp_path / "cat.png")])
    with Image.open(tmp_path / "hint.png") as hint:
        ours = _picture(lv.load(controlled), control=hint.convert("RGB"))
    assert _off(tmp_path / "cat.png", ours) <= 1
    with pytest.raises(SystemExit):
        main([*command, "--controlnet", str(control)])
    assert "controlnet follows the hints that control names" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_the_peer_draws_the_same_with_the_same_files(folder: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    # the peer finds no layers of text encoders with transformers 5; ours are held to it in test_lora
    files = {name: _adapters(folder, tmp_path / f"{name}.safetensors", k, text=False) for k, name in enumerate("ab")}
    strengths = {"a": 0.7, "b": -0.4}
    model = lv.load(folder, reference=True)
    for name, file in files.items():
        adapting.add_lora(model, file, strengths[name], name)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for name, file in files.items():
        pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=name)
    pipe.set_adapters(list(files), [strengths[name] for name in files])
    _same_picture(pipe, model, "a red cat")


def _vectors(folder: Path, count: int) -> Tensor:
    width = json.loads((folder / "text_encoder" / "config.json").read_text())["hidden_size"]
    return torch.randn(count, width, generator=torch.Generator().manual_seed(4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [1, 3])
def test_the_peer_reads_a_learned_word_the_same(folder: Path, tmp_path: Path, count: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    path = write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": _vectors(folder, count)})
    model = lv.load(folder, reference=True)
    before = _picture(model, prompt="a red cat")
    assert adapting.add_word(model, path) == "<toy>"
    assert torch.equal(_picture(model, prompt="a red cat"), before)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion(str(path))
    _same_picture(pipe, model, "a <toy> red cat")


def _same_picture(pipe: Any, model: Any, prompt: str) -> None:
    size, steps, w = 32, 3, 3.0
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, model.codec.channels, size // model.codec.factor, size // model.codec.factor, generator=generator)
    with torch.no_grad():
        theirs = pipe(
            prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=w, latents=latents, output_type="pt"
        ).images
    first = float(pipe.scheduler.init_noise_sigma)
    begin = model.plan(steps).on(model.denoiser.process.schedule).rows[0].start
    alpha = float(model.denoiser.process.schedule(begin)[0])
    ours = model.run(prompt, size=(size, size), steps=steps, guidance=w, start=latents * (first * alpha if first != 1 else 1.0))
    assert float(((ours.tensor + 1) / 2 - theirs).abs().max()) < 2e-4


def test_words_are_read_where_they_stand(folder: Path, tmp_path: Path) -> None:
    model = lv.load(folder)
    side = adapting.sides(model)["text_encoder"]
    rows = side.table.num_embeddings
    path = write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": _vectors(folder, 2)})
    adapting.add_word(model, path, "<toy>")
    adapting.add_word(model, path, "<toy>s")
    plain = side.tokenizer.plain
    assert plain("<toy>") == [rows, rows + 1] and plain("<toy>s") == [rows + 2, rows + 3]
    assert plain("a <toy> cat") == [*plain("a "), rows, rows + 1, *plain(" cat")]
    assert plain("a cat") == lv.load(folder).conditioner.side.tokenizer.plain("a cat")
    with pytest.raises(ValueError, match="'<toy>'; choose one"):
        adapting.add_word(model, path, "<toy>")
    narrow = save(tmp_path / "narrow.safetensors", {"<other>": torch.ones(1, 3)})
    with pytest.raises(ValueError, match="learned for another model"):
        adapting.add_word(model, narrow)


def test_sdxl_learns_a_word_for_each_encoder(goldens: Goldens, tmp_path: Path) -> None:
    folder = goldens.case("sdxl", "txt2img").dir / "pipeline"
    model = lv.load(folder)
    found = adapting.sides(model)
    vectors = {part: torch.randn(1, side.width, generator=torch.Generator().manual_seed(2)) for part, side in found.items()}
    path = write_embedding(tmp_path / "toy.safetensors", "<toy>", vectors)
    before = _picture(model)
    adapting.add_word(model, path, "<toy>")
    assert torch.equal(_picture(model), before)
    for part, side in found.items():
        assert torch.equal(side.vectors("<toy>"), vectors[part])
    # the place that is pooled is still the text's end
    ids = torch.tensor([side.tokenizer.frame(side.tokenizer.plain("a <toy>"), 8)])
    said = side.encoder(ids)
    at = ids[0].tolist().index(side.tokenizer.after[-1])
    torch.testing.assert_close(said.pooled[0], side.encoder.project(said.last[0, at]))


def test_a_damaged_file_of_adapters_adds_nothing(folder: Path, tmp_path: Path) -> None:
    model = lv.load(folder)
    shutil.copy(_adapters(folder, tmp_path / "one.safetensors", 0), tmp_path / "copy.safetensors")
    from langevin.tensors import load

    odd = {n.replace("attn1", "attn9"): v for n, v in load(tmp_path / "copy.safetensors").items()}
    with pytest.raises(ValueError, match="which the unet does not have; the nearest is"):
        adapting.add_lora(model, save(tmp_path / "odd.safetensors", odd))
    assert not any("lora" in name for name, _ in model.denoiser.named_modules())
