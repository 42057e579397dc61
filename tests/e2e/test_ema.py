"""Averages of any width, from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from langevin.cli import main
from langevin.recipes import Recipe, recipe
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start
from langevin.tensors import load, metadata
from langevin.training import load_latest


def trained(out: Path, *averages: str) -> dict[str, torch.Tensor]:
    """A run of 64 steps; its last stored average."""
    asked = Recipe.model_validate(
        {**recipe("two-moons").model_dump(), "network": {"kind": "mlp", "width": 8, "depth": 1},
         "train": {"steps": 64, "batch": 8, "lr": 0.01, "save_every": 4, "averages": averages},
         "data": {"kind": "moons", "count": 200}, "sample": {"plan": "ddim:4"}}
    )  # fmt: skip
    start(asked, out)[1].run(progress=False)
    found = load_latest(out / "checkpoints")
    assert found is not None
    return dict(found.tensors[f"ema.{len(averages)}" if averages else "ema"])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "moons"
    trained(out, "power:sigma_rel=0.05", "power:sigma_rel=0.1")
    return out


def test_another_width_is_the_average_that_would_have_been_kept(run, tmp_path, capsys):
    wanted = trained(tmp_path / "other", "power:sigma_rel=0.07")  # the same training, which averages do not touch
    file = tmp_path / "a.safetensors"
    main(["ema", str(run), "--sigma-rel", "0.07", "--out", str(file)])
    said = capsys.readouterr().out
    found, last = load(file), open_run(run).denoiser.state_dict()
    assert found.keys() == last.keys()
    moved = max(float((last[n] - v).abs().max()) for n, v in wanted.items())
    error = max(float((found[n] - v).abs().max()) for n, v in wanted.items())
    assert error < 0.01 * moved
    record = json.loads(metadata(file)["record"])
    assert record["samples"] == 512 and record["misfit"] < 0.01 and f"misfit {record['misfit']:.2g}" in said


def test_a_width_that_was_stored_comes_back_and_is_sampled_and_judged(run, tmp_path, capsys):
    main(["ema", str(run), "--sigma-rel", "0.1"])
    file = run / "weights" / "sigma_rel-0.1.safetensors"
    kept = load_latest(run / "checkpoints").tensors["ema.2"]  # pyright: ignore
    assert all(torch.allclose(load(file)[n], v, rtol=1e-5, atol=1e-7) for n, v in kept.items())
    drawn = []
    for options in ([], ["--weights", str(file)]):
        main(["sample", str(run), "--count", "5", "--out", str(tmp_path / "x.npy"), *options])
        drawn.append(np.load(tmp_path / "x.npy"))
    assert not np.array_equal(*drawn)
    capsys.readouterr()
    main(["evaluate", str(run), "--small", "--count", "20", "--weights", str(file), "--json"])
    card = json.loads(capsys.readouterr().out)["protocol"]["weights"]
    assert card.startswith("weights sigma_rel-0.1.safetensors (power:sigma_rel=0.1 at 512 samples), ")
    main(["ema", str(run), "--sigma-rel", "0.1", "--at", "256"])
    half = run / "weights" / "sigma_rel-0.1-at-256.safetensors"
    assert json.loads(metadata(half)["record"])["samples"] == 256


def test_every_average_of_a_run_and_its_last_weights_are_taken_by_name(run, tmp_path, capsys):
    found = load_latest(run / "checkpoints")
    assert found is not None
    parts = {None: "ema", "ema": "ema", "last": "model", "ema.1": "ema.1", "power:sigma_rel=0.1": "ema.2"}
    for name, part in parts.items():
        opened = open_run(run, name)
        assert all(
            torch.equal(v, found.tensors[part][n]) for n, v in opened.denoiser.state_dict().items() if n in found.tensors[part]
        )
    assert open_run(run, "ema.2").weights == "power:sigma_rel=0.1" and open_run(run, "last").weights == "last, of step 64"
    drawn = []
    for name in ("ema.1", "last"):
        main(["sample", str(run), "--count", "5", "--out", str(tmp_path / "x.npy"), "--weights", name])
        drawn.append(np.load(tmp_path / "x.npy"))
    assert not np.array_equal(*drawn)
    with pytest.raises(SystemExit):
        main(["sample", str(run), "--out", str(tmp_path / "x.npy"), "--weights", "ema.3"])
    assert "it has ema, last, power:sigma_rel=0.05, power:sigma_rel=0.1." in capsys.readouterr().err


def test_what_cannot_be_made_is_said(run, tmp_path, capsys):
    bare = tmp_path / "bare"
    trained(bare)
    for args, message in {
        (str(bare), "--sigma-rel", "0.1"): "train with --train.averages power:sigma_rel=0.05 power:sigma_rel=0.1",
        (str(run), "--sigma-rel", "0.4"): "sigma_rel is 0.4",
        (str(run), "--sigma-rel", "0.1", "--at", "3"): "no snapshots up to 3 samples",
        (str(run), "--sigma-rel", "0.1", "--out", "a.png"): "write a .safetensors",
    }.items():
        with pytest.raises(SystemExit):
            main(["ema", *args])
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1


def asked(words: list[str]) -> list[str]:
    """What to ask ``--help`` of: a recipe, a method of finetuning, or the command itself."""
    if words[0] == "train":
        return words[:2]
    if words[0] == "finetune":
        return [*words[:3], *words[words.index("--method") :][:2]]
    return words[:1]


@pytest.mark.parametrize("page", ["ema.md", "finetuning.md"])
def test_the_flags_of_the_pages_exist(page, capsys):
    text = (Path(__file__).parents[2] / "docs" / page).read_text().replace("\\\n", " ")
    lines = [line.split("  #")[0].split() for line in re.findall(r"^    langevin (.+)$", text, re.M)]
    assert len(lines) >= 4
    for words in lines:
        with pytest.raises(SystemExit):
            main([*asked(words), "--help"])
        helped = capsys.readouterr().out
        for flag in filter(lambda w: w.startswith("--"), words):
            assert re.search(rf"{flag.replace('_', '[-_]')}\b", helped), (words, flag)


def test_samples_are_led_away_from_an_earlier_average(run, tmp_path, capsys):
    main(["ema", str(run), "--sigma-rel", "0.1", "--at", "256", "--out", str(tmp_path / "early.safetensors")])
    weaker = ["--weaker", str(tmp_path / "early.safetensors")]
    drawn = {}
    for name, flags in {"plain": [], "1": [*weaker, "--apart", "1"], "2": weaker, "3": [*weaker, "--apart", "3"]}.items():
        main(["sample", str(run), "--count", "5", "--plan", "ddim:1", "--out", str(tmp_path / "x.npy"), *flags])
        drawn[name] = np.load(tmp_path / "x.npy")
    assert np.array_equal(drawn["plain"], drawn["1"]) and not np.allclose(drawn["plain"], drawn["2"])
    # one step ends in the belief, which is linear in the strength
    assert np.allclose(drawn["3"] - drawn["2"], drawn["2"] - drawn["plain"], atol=1e-5)
    main(["sample", str(run), "--count", "5", "--plan", "ddim:1", "--out", str(tmp_path / "x.png"), *weaker])
    capsys.readouterr()
    main(["inspect", str(tmp_path / "x.png")])
    said = capsys.readouterr().out
    assert f"--weaker={tmp_path}/early.safetensors --apart=2.0" in said and "--steer" not in said
    with pytest.raises(SystemExit):
        main(["sample", str(run), "--out", str(tmp_path / "x.npy"), *weaker, "--steer", str(run)])
    assert "steer and weaker are both guidance" in capsys.readouterr().err
