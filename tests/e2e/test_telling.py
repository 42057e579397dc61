"""What the command line tells of work that is long, and remembers of what was asked of it."""

import io
import json
import re

import pytest
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
