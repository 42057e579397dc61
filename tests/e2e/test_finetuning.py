"""Fine-tuning from the command line: a run that begins with another's weights, adapters that leave and come back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from langevin.cli import main
from langevin.inspection import describe
from langevin.recipes import Recipe, recipe
from langevin.recipes.opening import open_run, read_recipe
from langevin.recipes.starting import start
from langevin.tensors import load, save
from langevin.training import load_latest

NARROW = ["--network.width", "8", "--network.head_width", "8"]
LORA = {"rank": 2, "targets": "*.query|*.conv1", "dropout": 0.2}


def small(steps: int, finetune: dict[str, object] | None = None, **train: object) -> Recipe:
    """The digits in a moment."""
    return Recipe.model_validate(
        {**recipe("digits").model_dump(), "train": {"steps": steps, "batch": 4, "warmup": 0, **train},
         "network": {"kind": "unet", "width": 8, "head_width": 8}, "sample": {"plan": "ddim:2"}, "finetune": finetune or {}}
    )  # fmt: skip


def trained(asked: Recipe, out: Path) -> Path:
    start(asked, out)[1].run(progress=False)
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return trained(small(30, lr=0.01), tmp_path_factory.mktemp("runs") / "base")


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> Path:
    return trained(small(12, {"origin": str(base), "lora": LORA}, lr=0.1, ema=0.0), tmp_path_factory.mktemp("runs") / "tuned")


def drawn(tmp_path: Path, *args: str) -> np.ndarray:
    out = tmp_path / "drawn.npy"
    main(["sample", *args, "--count", "4", "--out", str(out)])
    return np.load(out)


def saved(run: Path, part: str) -> dict[str, torch.Tensor]:
    found = load_latest(run / "checkpoints")
    assert found is not None
    return dict(found.tensors[part])


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[n]) for n, v in a.items())


def test_adapters_alone_are_trained_on_the_averaged_weights(base, tuned):
    began, now = open_run(base).denoiser.state_dict(), saved(tuned, "model")
    assert same(began, {n: v for n, v in now.items() if ".lora." not in n})
    averaged = {n for n in saved(tuned, "ema") if n not in dict(open_run(base).denoiser.named_buffers())}
    assert averaged == {n for n in now if ".lora." in n} and averaged
    assert all(bool((now[n] != 0).any()) for n in averaged)


def test_exported_adapters_make_the_tuned_model_of_the_first(base, tuned, tmp_path):
    file = tmp_path / "style.safetensors"
    main(["lora", str(tuned), "--out", str(file)])
    plain, wanted = drawn(tmp_path, str(base)), drawn(tmp_path, str(tuned))
    assert np.abs(wanted - plain).max() > 0.01
    assert np.abs(drawn(tmp_path, str(base), "--lora", str(file)) - wanted).max() < 1e-4
    assert np.array_equal(drawn(tmp_path, str(base), "--lora", f"{file}:0"), plain)
    # two files add up, each with its strength
    assert np.abs(drawn(tmp_path, str(base), "--lora", f"{file}:0.25", f"{tmp_path}/../{tmp_path.name}/style.safetensors:0.75")
                  - wanted).max() < 1e-4  # fmt: skip


def test_a_card_says_which_weights_were_judged(base, tuned, tmp_path, capsys):
    file = tmp_path / "style.safetensors"
    main(["lora", str(tuned), "--out", str(file)])
    capsys.readouterr()
    main(
        [
            "evaluate",
            str(base),
            "--small",
            "--count",
            "20",
            "--lora",
            f"{file}:0.5",
            "--metrics",
            "fd",
            "--features",
            "pca",
            "--json",
        ]
    )
    said = json.loads(capsys.readouterr().out)["protocol"]["weights"]
    assert said.startswith("EMA 0.999 with adapters style.safetensors at 0.5, ")


def test_what_is_frozen_stays_and_the_rest_goes_on(base, tmp_path):
    out = trained(small(2, {"origin": str(base), "freeze": "net.enter.*|*.query.*"}), tmp_path / "run")
    began, now = open_run(base).denoiser.state_dict(), saved(out, "model")
    left = {n for n in now if torch.equal(now[n], began[n])}
    frozen = {n for n in now if n.startswith("net.enter.") or ".query." in n}
    assert frozen and frozen <= left and not frozen & saved(out, "ema").keys()
    assert "net.leave.weight" not in left


def test_a_run_is_finetuned_with_one_flag(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    moons = ["train", "two-moons", "--train.steps", "2", "--train.batch", "4", "--samples", "20", "--data.count", "200"]
    main([*moons, "--out", str(first)])
    main([*moons, "--from", str(first), "--finetune.lora.rank", "1", "--out", str(second)])
    assert read_recipe(second).finetune.origin == str(first)
    main(["train", "two-moons", "--samples", "20", "--out", str(second), "--resume"])  # nothing has to be said again
    began, now = open_run(first).denoiser.state_dict(), open_run(second).denoiser.state_dict()
    assert same(began, {n: v for n, v in now.items() if ".lora." not in n}) and len(now) > len(began)


def test_a_run_says_where_it_began(base, tuned):
    assert f'fine-tuned {{"origin": "{base}"' in describe(tuned) and "fine-tuned" not in describe(base)


def test_an_interrupted_run_ends_to_the_bit_where_one_that_was_not_does(base, tmp_path):
    recipe = small(6, {"origin": str(base), "lora": {"rank": 2, "targets": "*.conv1|*.query", "dropout": 0.3}})
    _, whole = start(recipe, tmp_path / "whole")
    whole.run(progress=False)
    _, first = start(recipe, tmp_path / "cut")
    first.close()  # nothing but the recipe is there yet
    _, first = start(recipe, tmp_path / "cut", resume=True)
    for _ in range(3):
        first.update()
    first.save()
    first.close()
    moved = tmp_path / "moved"
    base.rename(moved)  # the run has everything by now
    try:
        _, second = start(recipe, tmp_path / "cut", resume=True)
        second.run(progress=False)
    finally:
        moved.rename(base)
    for part in ("model", "ema", "optimiser"):
        assert same(saved(tmp_path / "whole", part), saved(tmp_path / "cut", part)), part
    logs = [(json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()) for n in ("whole", "cut")]
    one, other = ([{k: v for k, v in line.items() if k != "samples_per_second"} for line in log] for log in logs)
    # losses by level are means since the last line, from before the cut as well
    assert one == other and sum(k.startswith("levels/") for k in one[-1]) > 3


def test_an_origin_that_changed_before_the_first_checkpoint_is_refused(base, tmp_path):
    file = tmp_path / "w.safetensors"
    weights = dict(open_run(base).denoiser.state_dict())
    save(file, weights)
    recipe = small(3, {"origin": str(file)})
    start(recipe, tmp_path / "run")[1].close()
    save(file, {n: v + 1 for n, v in weights.items()})
    with pytest.raises(ValueError, match="holds other weights than those that the run"):
        start(recipe, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"finetune.origin is .* was begun with"):
        start(small(3, {"origin": str(base)}), tmp_path / "run", resume=True)


def test_adapters_of_a_run_are_merged_where_it_is_an_origin(tuned, tmp_path):
    out = trained(small(1, {"origin": str(tuned)}, lr=1e-9), tmp_path / "next")
    assert np.abs(drawn(tmp_path, str(out)) - drawn(tmp_path, str(tuned))).max() < 1e-3
    assert not any(".lora." in n for n in saved(out, "model"))


REFUSED = {
    ("train", "digits", "--from", "BASE", "--network.width", "16"): "of shape (32, 8) there and of shape (64, 16) here",
    ("train", "digits", *NARROW, "--from", "BASE", "--network.blocks", "1"): "there and absent here",
    ("train", "digits", *NARROW, "--from", "nowhere"): "nowhere",
    ("train", "digits", *NARROW, "--from", "BASE", "--finetune.freeze", "*.qury"): "'*.qury' matches no parameter",
    (
        "train",
        "digits",
        *NARROW,
        "--from",
        "BASE",
        "--finetune.lora.rank",
        "2",
        "--finetune.lora.targets",
        "conv9",
    ): "matches no linear",
    ("train", "digits", *NARROW, "--finetune.lora.rank", "2"): "adapters need trained weights; say --from RUN",
    ("lora", "BASE", "--out", "x.safetensors"): "has no adapters; train them with",
    ("lora", "BASE", "--out", "x.png"): "write a .safetensors",
    ("sample", "BASE", "--out", "x.png", "--lora", "a.safetensors:much"): "give FILE.safetensors",
    ("sample", "BASE", "--out", "x.png", "--lora", "a.safetensors"): "a.safetensors",
    ("sample", "BASE", "--out", "x.png", "--weights", "ODD"): "does not fit this model: net.",
}


@pytest.mark.parametrize("args", REFUSED, ids=lambda a: " ".join(a[-2:]))
def test_what_does_not_fit_is_said_in_one_sentence(args, base, tmp_path, capsys):
    odd = tmp_path / "odd.safetensors"
    save(odd, {"a": torch.zeros(2)})
    there = {"BASE": str(base), "ODD": str(odd)}
    out = ["--out", str(tmp_path / "new")] if args[0] == "train" else []
    with pytest.raises(SystemExit) as end:
        main([there.get(a, a) for a in args] + out)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and REFUSED[args] in printed and printed.count("\n") == 1


def test_files_of_weights_are_read_whole(base, tmp_path):
    file = save(tmp_path / "w.safetensors", dict(open_run(base).denoiser.state_dict()))
    assert np.array_equal(drawn(tmp_path, str(base), "--weights", str(file)), drawn(tmp_path, str(base)))
    assert same(load(file), open_run(base, weights=file).denoiser.state_dict())
