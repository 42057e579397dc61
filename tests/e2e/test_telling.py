"""What the command line tells of work that is long, of a folder that training in Python left, and of what there is to choose."""

import io
import json
import re
from contextlib import suppress

import pytest
import torch

import langevin as lv
from langevin.cli import main
from langevin.recipes import comparison
from langevin.recipes.distillation import student
from langevin.recipes.opening import read_recipe

QUICK = ["--train.batch", "4", "--train.steps", "1", "--network.width", "8", "--sample.plan", "ddim:2"]


def test_no_evaluation_is_remembered(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "two-moons", *QUICK, "--out", str(out)]
    main([*command, "--samples", "0"])
    main(["train", "two-moons", "--out", str(out), "--resume"])
    assert not (out / "metrics.json").exists() and read_recipe(out).evaluation.at_end == 0
    assert student(read_recipe(out), out, "shortcut").evaluation.at_end == 1000  # of itself, not of its teacher
    capsys.readouterr()
    main(["train", "two-moons", "--out", str(out), "--resume", "--samples", "20"])
    assert "measuring 20 samples of each kind" in (said := capsys.readouterr().out) and "--samples N takes fewer" in said
    assert json.loads((out / "metrics.json").read_text())["protocol"]["samples"] == 20
    assert read_recipe(out).evaluation.at_end == 20


def test_an_evaluation_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    out, shown = tmp_path / "run", io.StringIO()
    main(["train", "digits", *QUICK, "--network.blocks", "1", "--network.head-width", "8", "--samples", "0", "--out", str(out)])
    capsys.readouterr()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["evaluate", str(out), "--small", "--count", "30", "--metrics", "labels", "--json", "--device", "cpu"])
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "training the judge" in plain and "800/800" in plain
    assert "drawing" in plain and "30/30" in plain and "2 evaluations" in plain
    assert json.loads(capsys.readouterr().out)["protocol"]["samples"] == 30  # which bars leave alone


def test_what_fit_left_says_what_it_is_and_how_it_is_opened(tmp_path, capsys):
    made = tmp_path / "mine"

    def model():
        torch.manual_seed(0)
        return lv.Denoiser(lv.networks.MLP(2, 8, 1), lv.Gaussian(lv.schedules.flow()), "velocity", shape=(2,))

    data, trained = lv.data.Arrays(torch.randn(64, 2, generator=torch.Generator().manual_seed(0))), model()
    lv.fit(trained, data, out=made, steps=3, batch=8, progress=False)
    for more in ((), ("--verify",)):
        main(["inspect", str(made), *more])
        said = capsys.readouterr().out
        assert said.startswith("mine: what lv.fit left in Python, without a recipe") and "data 64 samples of (2,)" in said
        assert "newest checkpoint of 1, out of 3 steps" in said and ("every hash agrees" in said) == bool(more)
    # as it says
    again = model()
    exec(next(line for line in said.splitlines() if "averaged weights" in line).partition(" has its")[0].strip(),
         {"lv": lv, "denoiser": again})  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))
    assert f"lv.fit(denoiser, data, out={json.dumps(str(made))}, resume=True)" in said
    for file, command in (("tuning.json", "langevin generate draws with"), ("regressor.json", "--steer PATH is steered by it")):
        (made / file).write_text("{}")
        main(["inspect", str(made)])
        other = capsys.readouterr().out
        assert command in other and "lv.fit" not in other
        (made / file).unlink()


ROW = {"guidance": 1.5, "milliseconds": 12.3, "evaluations": 20, "intended_label": 0.9512, "fd_ratio": 1.23456, "recall": 0.5123}
TUNED, FEW = "tuned-2-w1-12345678.json", "consistency:2:grid=uniform"
LONG = [("teacher", "dpmpp:20"), ("teacher, learned plan", f"runs/x/{TUNED}"), ("student", FEW)]


@pytest.mark.parametrize("more", [{}, {"cost": 0.1234, "straightness": 0.01234}], ids=["table", "paragraphs"])
def test_the_table_at_the_end_of_a_distillation_cuts_no_word(more, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    comparison._show([{"who": who, "plan": plan, **ROW, **more} for who, plan in LONG])
    said = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines())
    words = " ".join(said.split())
    for word in ("teacher", TUNED, FEW, "intended", "95.1%", "recall", "0.5123", *map(str, more)):
        assert word in words, word
    assert comparison.READ.keys() == comparison.NAMES.keys()  # and each number is said which way to read
    assert all(f"{comparison.NAMES[n]}: {said}" in words for n, said in comparison.READ.items() if n in {**ROW, **more})


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "digits", "--help"]], ids=" ".join)
def test_the_help_names_the_kinds_of_parts(words, capsys):
    with suppress(SystemExit):
        main(words)
    said = " ".join(capsys.readouterr().out.split())
    assert "network unet, dit, mlp, vectors, sequence, graph, autoencoder objective denoising, " in said
    assert "process gaussian, interpolant, categorical, " in said and "belief, embedded, graph, graph-scores, " in said
