"""Published models fine-tuned: the loss falls, only what is meant to moves, and others read what comes out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin as lv
from langevin.adapters import merge
from langevin.cli import main
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.objectives import Loss, Objective
from langevin.objectives.consistency import Consistency
from langevin.recipes.config.tuning import METHODS, Tuning
from langevin.recipes.tuning import Tuned, begin, keep, tune
from langevin.tensors import load, save
from langevin.training.trainer import Trainer
from langevin.zoo import adapting
from tests.parity.goldens import Goldens

# the reference model's autoencoder is random, and its latents smaller than those of a trained one
pytestmark = pytest.mark.filterwarnings("ignore:the data has mean .*:UserWarning")
ASKED: dict[str, Any] = {"steps": 2, "seed": 5, "size": (32, 32)}
# the reference model's guidance, and the first steps of samplers that other seeds draw for it, multiply what float32 rounds
PLAIN: dict[str, Any] = {"steps": None, "plan": "ddim:2", "guidance": 1.0}


@pytest.fixture(scope="module")
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toys")
    for k in range(3):
        a = np.full((32, 32, 3), 40, np.uint8)
        a[8:24, 8 : 20 + k] = (220, 60, 30)
        Image.fromarray(a).save(place / f"{k}.png")
        (place / f"{k}.txt").write_text(f"a red square number {k}")
    return place


def _settings(method: str, folder: Path, toys: Path, steps: int, lr: float, batch: int = 3, **more: Any) -> Tuning:
    usual: dict[str, Any] = dict(METHODS[method])
    train = usual.pop("train").model_copy(update={"steps": steps, "lr": lr, "batch": batch})
    said = {
        "full": {"captions": "txt"},
        "lora": {"captions": "txt"},
        "lcm": {"captions": "txt"},
        "consistency": {"captions": "txt"},
        "textual-inversion": {"begin": "red"},
    }.get(method, {})
    return Tuning(
        **{**usual, **said, "method": method, "origin": str(folder), "data": str(toys), "size": 32, "train": train, **more}
    )


class Again(Objective):
    """A model's own objective on everything, at the same levels and noise whenever it is asked: what is learned is measured."""

    def __init__(self, tuned: Tuned, ids: int) -> None:
        super().__init__()
        self.inner, index = tuned.objective, torch.arange(ids) % len(tuned.source)
        self.given = tuned.source.batch(index), Noise.of(3, ids)

    def prepare(self, model: Denoiser) -> None:
        self.inner.prepare(model)

    def forward(self, model: Denoiser, batch: Any, noise: Any) -> Loss:
        return self.inner(model, *self.given)


def _loss(tuned: Tuned, ids: int) -> float:
    """The loss on everything, at the same levels and noise each time."""
    again: Any = Again(tuned, ids)
    with torch.no_grad():
        return float(again(tuned.denoiser.eval(), None, None).total)


def _trained(cfg: Tuning, out: Path, ids: int = 12, again: bool = False) -> tuple[Tuned, float, float]:
    """A model, and its loss at so many noises before and after; learned on the same ones or on its own."""
    tuned = begin(cfg, out, say=lambda line: None)
    before = _loss(tuned, ids)
    objective = Again(tuned, ids) if again else tuned.objective
    Trainer(tuned.denoiser, tuned.source, objective, cfg.train).run(progress=False)
    return tuned, before, _loss(tuned, ids)


def _same(ours: Any, folder: Path, but: str | None = None) -> None:
    """Every published part is what the folder has, but the one."""
    plain = lv.load(folder)
    for part, (net, _) in ours.parts.items():
        if part == but:
            continue
        theirs = plain.parts[part][0].state_dict()
        held = {n.replace("token.table.", "token."): v for n, v in net.state_dict().items() if ".lora." not in n}
        held = {n: v for n, v in held.items() if n != "token.learned"}
        assert set(held) == set(theirs)
        assert all(torch.equal(v, theirs[n]) for n, v in held.items()), part


def _picture(model: Any, prompt: str, **more: Any) -> Tensor:
    return model.run(prompt, **{**ASKED, **more}).tensor


def test_adapters_are_learned_and_leave_as_a_file(folder: Path, toys: Path, tmp_path: Path) -> None:
    # so many noises, learned and measured, that random weights are taught as much whichever way they were drawn
    tuned, before, after = _trained(_settings("lora", folder, toys, 50, 2e-2, 16, rank=4, alpha=2.0, text=True), tmp_path, ids=96)
    assert after < 0.9 * before
    _same(tuned.model, folder)
    file = keep(tuned, tmp_path)
    names = set(load(file))
    assert any(".attn2.to_k.lora_A" in n for n in names) and any(n.startswith("text_encoder.") for n in names)
    model = lv.load(folder)
    plain = _picture(model, "a red square number 1")
    adapting.add_lora(model, file)
    ours = _picture(tuned.model, "a red square number 1")
    torch.testing.assert_close(_picture(model, "a red square number 1"), ours, rtol=0, atol=2e-5)
    assert float((plain - ours).abs().max()) > 0.05


def test_adapters_for_a_few_steps_are_learned_from_the_model_as_it_is(folder: Path, toys: Path, tmp_path: Path) -> None:
    """LCM-LoRA (2311.05556): the teacher stands still, and what is learned is a delta on any fine-tune of the base."""
    # what the student is to say is what it says itself a step on: at other noises that need not fall in a few steps
    tuned, before, after = _trained(_settings("lcm", folder, toys, 15, 1e-2, rank=4, alpha=4.0), tmp_path, again=True)
    assert after < 0.8 * before
    _same(tuned.model, folder)
    objective: Any = tuned.objective
    teacher, base = objective.nets["teacher"].net.net, lv.load(folder)
    assert all(torch.equal(v, base.denoiser.net.state_dict()[n]) for n, v in teacher.state_dict().items())
    file = keep(tuned, tmp_path)
    names = set(load(file))
    assert any(".attn2.to_k.lora_A" in n for n in names) and any(".conv1.lora_A" in n for n in names)
    asked = {**ASKED, "steps": None, "plan": "lcm:2", "guidance": 1.0}
    ours = tuned.model.run("a red square number 1", **asked).tensor
    plain = base.run("a red square number 1", **asked).tensor
    assert float((ours - plain).abs().max()) > 0.05
    other = lv.load(folder)
    with torch.no_grad():
        for p in other.denoiser.net.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    alone = [{n: v.clone() for n, v in m.denoiser.net.state_dict().items()} for m in (base, other)]
    for model in (base, other):
        adapting.add_lora(model, file)
    torch.testing.assert_close(base.run("a red square number 1", **asked).tensor, ours, rtol=0, atol=2e-5)
    for model in (base, other):
        merge(model.denoiser.net, "lora")
    moved = 0
    for name, value in other.denoiser.net.state_dict().items():
        delta = base.denoiser.net.state_dict()[name] - alone[0][name]
        moved += bool(delta.abs().max() > 1e-4)
        torch.testing.assert_close(value, alone[1][name] + delta, rtol=0, atol=1e-6)
    assert moved > 20


@pytest.mark.parametrize("method, order", [("lcm", 1), ("consistency", 2)])
def test_without_guidance_a_few_steps_are_consistency_distillation(
    method: str, order: int, folder: Path, toys: Path, tmp_path: Path
) -> None:
    def losses(**asked: Any) -> tuple[Tensor, Tensor]:
        tuned = begin(_settings(method, folder, toys, 1, 1e-3, rank=2, **asked), tmp_path, say=lambda line: None)
        with torch.no_grad():  # a student that is no longer its teacher
            for p in tuned.denoiser.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        batch, noise = tuned.source.batch(torch.arange(12) % 3), Noise.of(3, 12)
        objective: Any = tuned.objective
        process: Any = tuned.denoiser.process
        plain = Consistency(objective.nets["teacher"], 50, None, order=order, grid="uniform", distance="huber")
        # the plan that it is drawn by goes through levels that were learned
        learned = objective.ladder(process).numpy()
        starts = [row.start for row in lv.plans.parse("lcm:4").on(process.schedule).rows]
        assert all(np.isclose(learned, start, rtol=0, atol=1e-9).any() for start in starts)
        with torch.no_grad():
            return objective(tuned.denoiser.eval(), batch, noise).each[""], plain(tuned.denoiser, batch, noise).each[""]

    ours, plain = losses(guidance=1.0)
    assert torch.equal(ours, plain) and float(ours.min()) > 0
    # as it stands the model guides by its own strength
    own, _ = losses()
    asked, _ = losses(guidance=lv.load(folder).defaults.guidance)
    assert torch.equal(own, asked) and not torch.allclose(own, plain)


@pytest.mark.parametrize("to", ["lcm", "consistency"])
def test_distilling_a_published_model_is_fine_tuning_it_so(
    to: str, folder: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "few"
    command = ["distill", str(folder), str(toys), "--to", to]
    more = ["--captions", "txt", "--size", "32", "--rank", "2", "--train.steps", "1", "--train.batch", "2", "--out", str(out)]
    main([*command, *more])
    file = out / "lora.safetensors"
    assert f"--lora {file} --plan lcm:4 --guidance 1" in capsys.readouterr().out
    assert json.loads((out / "tuning.json").read_text())["method"] == to
    few = ["--lora", str(file), "--plan", "lcm:4", "--guidance", "1", "--out", str(tmp_path / "drawn.png")]
    main(["generate", str(folder), "a red square", "--size", "32x32", *few])
    assert (tmp_path / "drawn.png").exists()
    capsys.readouterr()
    plain = ["finetune", *command[1:3], "--method", "lora", *more[:2], "--guidance", "3"]
    refused = {
        f"to is 'dmd', and {folder} is no run": ["distill", str(folder), str(toys), "--to", "dmd"],
        f"steps is 4, and {to} learns them all; say --plan lcm:4": [*command, "--steps", "4"],
        f"text is True, and {to}'s teacher": [*command, *more[:2], "--text"],
        "prompt and captions are None": command,
        "guidance is 3, which lcm and consistency alone learn": plain,
    }
    for said, args in refused.items():
        with pytest.raises(SystemExit):
            main(args)
        assert said in capsys.readouterr().err, said


def test_a_network_with_guidance_within_is_no_teacher(goldens: Goldens, toys: Path, tmp_path: Path) -> None:
    told = goldens.case("lcm", "lcm_pipeline").dir / "pipeline"
    with pytest.raises(ValueError, match="whose network has its guidance within; give the model it was distilled from"):
        begin(_settings("lcm", told, toys, 1, 1e-3), tmp_path, say=lambda line: None)


@pytest.mark.parametrize("method", ["lora", "lcm"])
@pytest.mark.filterwarnings("ignore")
def test_the_peer_draws_with_learned_adapters(method: str, folder: Path, toys: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from tests.parity.test_adapting import _same_picture

    tuned, _, _ = _trained(_settings(method, folder, toys, 8, 2e-2, rank=4, alpha=2.0), tmp_path)
    file = keep(tuned, tmp_path)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(tmp_path), weight_name=file.name)
    model = lv.load(folder, reference=True)
    adapting.add_lora(model, file)
    _same_picture(pipe, model, "a red square number 1")


def test_all_weights_are_learned_and_leave_as_a_folder(folder: Path, toys: Path, tmp_path: Path) -> None:
    tuned, before, after = _trained(_settings("full", folder, toys, 30, 2e-3, drop=0.1), tmp_path)
    assert after < 0.9 * before
    _same(tuned.model, folder, but="unet")
    made = lv.load(keep(tuned, tmp_path))
    for part, (net, _) in tuned.model.parts.items():
        states = net.state_dict(), made.parts[part][0].state_dict()
        assert set(states[0]) == set(states[1]) and all(torch.equal(v, states[1][n]) for n, v in states[0].items()), part
    ours = _picture(tuned.model, "a red square number 1", **PLAIN)
    torch.testing.assert_close(_picture(made, "a red square number 1", **PLAIN), ours, rtol=0, atol=1e-5)
    theirs = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*") if p.is_file()} == theirs


def test_weights_of_half_precision_are_trained_in_float32(folder: Path, toys: Path, tmp_path: Path) -> None:
    """In bfloat16 a weight of .05 does not move by less than 2e-4: an update of 1e-5 would be rounded away."""
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    for file in half.rglob("*.safetensors"):
        save(file, {n: v.bfloat16() if v.is_floating_point() else v for n, v in load(file).items()}, {"format": "pt"})
    tuned = begin(_settings("full", half, toys, 4, 1e-5), tmp_path / "run", say=lambda line: None)
    before = {n: p.detach().clone() for n, p in tuned.denoiser.net.named_parameters()}
    Trainer(tuned.denoiser, tuned.source, tuned.objective, tuned.cfg.train).run(progress=False)
    moved = torch.cat([(p.detach() - before[n]).abs().flatten() for n, p in tuned.denoiser.net.named_parameters()])
    assert (moved > 0).float().mean() > 0.9 and float(moved.max()) < 5e-5


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_names_a_safety_checker_opens_in_the_peer(folder: Path, toys: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    index = json.loads((named / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (named / "model_index.json").write_text(json.dumps(index))
    tuned = begin(_settings("full", named, toys, 1, 1e-3), tmp_path / "run", say=lambda line: None)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(keep(tuned, tmp_path)))
    assert pipe.safety_checker is None


def test_a_word_is_learned_and_nothing_else(folder: Path, toys: Path, tmp_path: Path) -> None:
    cfg = _settings("textual-inversion", folder, toys, 20, 0.1, word="<toy>", vectors=2)
    tuned = begin(cfg, tmp_path, say=lambda line: None)
    vectors = list(tuned.words.values())
    again: Any = Again(tuned, len(tuned.source))

    def values() -> list[Tensor]:
        return [v.detach().clone() for v in vectors]

    def loss() -> Tensor:
        return again(tuned.denoiser, None, None).total

    def search() -> float:
        """How low L-BFGS brings the loss from here."""
        of = torch.optim.LBFGS(vectors, max_iter=12, line_search_fn="strong_wolfe")

        def gradient() -> Tensor:
            of.zero_grad()
            total = loss()
            total.backward()
            return total

        of.step(gradient)
        return loss().item()

    def put(values: list[Tensor]) -> None:
        with torch.no_grad():
            for vector, value in zip(vectors, values, strict=True):
                vector.copy_(value)

    first, before = values(), loss().item()
    Trainer(tuned.denoiser, tuned.source, again, cfg.train).run(progress=False)
    learned, after = values(), loss().item()
    put(first)
    found = search()
    put(learned)
    # how much a word can say to random weights differs from one drawing to the next
    assert found < before and after < before - (before - found) / 3
    _same(tuned.model, folder)
    file = keep(tuned, tmp_path)
    assert file.name == "toy.safetensors" and set(load(file)) == {"<toy>"}
    side = adapting.sides(lv.load(folder))["text_encoder"]
    assert load(file)["<toy>"].shape == (2, side.width)
    assert not torch.equal(load(file)["<toy>"][:1], side.vectors("red").mean(0, keepdim=True))
    model = lv.load(folder)
    adapting.add_word(model, file)
    for prompt in ("a <toy> cat", "a cat"):
        assert torch.equal(_picture(model, prompt), _picture(tuned.model, prompt))


def test_what_the_model_knew_of_the_kind_is_preserved(folder: Path, toys: Path, tmp_path: Path) -> None:
    """DreamBooth: with its own pictures beside it the model stays closer to what it drew of the kind, and learns the thing."""
    moved: dict[float, float] = {}
    plain = _picture(lv.load(folder), "a square")
    for weight in (0.0, 4.0):
        cfg = _settings(
            "dreambooth", folder, toys, 30, 2e-3, prompt="a photo of sks square", prior="a square", prior_count=4, prior_steps=2,
            prior_weight=weight,
        )  # fmt: skip
        tuned, _, _ = _trained(cfg, tmp_path)
        index = torch.arange(12)
        batch, noise = tuned.source.batch(index), Noise.of(3, 12)
        with torch.no_grad():
            moved[weight] = float(tuned.objective(tuned.denoiser, batch, noise).logs["prior"])
            new = float(tuned.objective(tuned.denoiser, batch, noise).logs["new"])
        fresh = begin(cfg, tmp_path)
        with torch.no_grad():
            assert new < 0.9 * float(fresh.objective(fresh.denoiser, batch, noise).logs["new"])
        assert float((_picture(tuned.model, "a square") - plain).abs().max()) > 0
    assert moved[4.0] < moved[0.0]
    assert len(list((tmp_path / "prior").glob("*.png"))) == 4  # drawn once
    with pytest.raises(ValueError, match=r"prior is 'a circle' but the pictures in .* were drawn with 'a square'"):
        begin(cfg.model_copy(update={"prior": "a circle"}), tmp_path)


def test_from_the_command_line(folder: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["finetune", str(folder), str(toys), "--method", "lora", "--prompt", "a red square", "--size", "32", "--rank", "2"]
    command += ["--train.steps", "4", "--train.save_every", "2", "--out", str(out)]
    main([*command, "--train.lr", "1e-2"])
    assert f"--lora {out / 'lora.safetensors'}" in capsys.readouterr().out
    assert all((out / name).exists() for name in ("before.png", "after.png", "loss.png", "log.jsonl", "lora.safetensors"))
    refused = {
        "already holds a run": command,
        "rank is 3 but the run": [*command[:-4], "--rank", "3", "--resume", "--out", str(out)],
        "prior is None": ["finetune", str(folder), str(toys), "--method", "dreambooth", "--prompt", "a square"],
        "prompt and captions are None": ["finetune", str(folder), str(toys), "--method", "lora"],
        "matches no layer": [*command, "--targets", "*.to_w", "--out", str(tmp_path / "other")],
        "did you mean 'lora'": ["finetune", str(folder), str(toys), "--method", "lorra"],
        "draws no pictures of texts": ["finetune", str(folder / "unet"), *command[2:], "--out", str(tmp_path / "third")],
    }
    for said, args in refused.items():
        with pytest.raises(SystemExit):
            main(args)
        assert said in capsys.readouterr().err, said
    assert not (tmp_path / "third").exists()


def test_the_origin_is_read_in_the_variant_that_is_asked(
    folder: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = shutil.copytree(folder, tmp_path / "half")
    for file in list(half.rglob("*.safetensors")):
        tensors = {n: v.half() if v.is_floating_point() else v for n, v in load(file).items()}
        save(file.with_name(f"{file.stem}.fp16.safetensors"), tensors)
        file.unlink()
    out = tmp_path / "run"
    command = ["finetune", str(half), str(toys), "--method", "lora", "--prompt", "a red square", "--size", "32", "--rank", "2"]
    main([*command, "--train.steps", "1", "--train.save_every", "1", "--variant", "fp16", "--out", str(out)])
    assert f"--variant fp16 --lora {out / 'lora.safetensors'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--variant", "fp61", "--out", str(tmp_path / "other")])
    assert "variant is 'fp61', of which no part" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "lcm"])
def test_an_interrupted_run_ends_to_the_bit_where_one_that_was_not_does(
    method: str, folder: Path, toys: Path, tmp_path: Path
) -> None:
    cfg = _settings(method, folder, toys, 4, 1e-2, rank=2)
    whole = tune(cfg, tmp_path / "whole", say=lambda line: None, progress=False)
    tuned = begin(cfg, tmp_path / "cut")
    first = Trainer(tuned.denoiser, tuned.source, tuned.objective, cfg.train, tmp_path / "cut")
    for _ in range(2):
        first.update()
    first.save()
    first.close()
    cut = tune(cfg, tmp_path / "cut", resume=True, say=lambda line: None, progress=False)
    assert whole is not None and cut is not None
    one, other = load(whole), load(cut)
    assert set(one) == set(other) and all(torch.equal(v, other[n]) for n, v in one.items())


def test_fine_tuning_holds_nothing_out(tmp_path: Path):
    cfg = Tuning(origin="none", data="none", prompt="a toy", train=TrainConfig(valid_every=3))
    with pytest.raises(ValueError, match=r"train.valid_every is 3, and fine-tuning holds no pictures out; leave it out"):
        tune(cfg, tmp_path / "run")
