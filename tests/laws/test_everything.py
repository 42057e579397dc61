"""bench/everything.py asks for what there is, makes every table that a bar reads, and loses nothing of a part that fails."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest

from langevin.cli import commands, main, training
from tests.benches import BENCH, bench

FOLDERS = {"DATA": Path("there/data"), "RUNS": Path("there/runs"), "RESULTS": Path("there/results")}


everything, bars, few_steps = bench("everything"), bench("bars"), bench("few_steps")
COMMANDS = [(name, command) for name, part in everything.PARTS.items() for command in part.commands]


class Understood(Exception):
    pass


@pytest.mark.parametrize("name, command", COMMANDS)
def test_every_command_is_understood_by_what_it_starts(name, command, monkeypatch):
    def stop(*args, **kwargs):
        raise Understood

    _, *words = everything.words(command, FOLDERS)
    if words[0] != "-m":
        real = argparse.ArgumentParser.parse_args

        def parse_args(self, *args, **kwargs):
            real(self, *args, **kwargs)
            raise Understood

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.syspath_prepend(str(BENCH))
        with pytest.raises(Understood):
            runpy.run_path(words[0], run_name="__main__")
    else:
        monkeypatch.setattr(training, "trained", stop)
        monkeypatch.setitem(commands.COMMANDS, "data", stop)
        with pytest.raises(Understood):
            main(words[2:])


def test_every_table_that_a_bar_reads_is_written():
    told = " ".join(command for _, command in COMMANDS)
    for bar in bars.BARS:
        for number in (bar.value, bar.beside):
            if number is not None and number.file != "few_steps.csv":  # it is told the folder
                assert f"RESULTS/{number.file}" in told
    asked = {of["method"] for bar in bars.BARS if (of := bar.value.of).get("problem") in ("digits", "mnist")}
    assert all(f'"{method}"' in told or f" {method}" in told for method in asked - {"teacher"})


def test_every_plan_that_a_bar_reads_is_judged():
    # of the teacher those that are named, whatever plan its recipe has
    for bar in bars.BARS:
        for number in (bar.value, bar.beside):
            if number is not None and number.of.get("problem") in few_steps.PICTURES:
                method, plan = number.of["method"], number.of["plan"]
                assert plan in (few_steps.TAUGHT if method == "teacher" else few_steps.PICTURES[number.of["problem"]][method][2])


def test_folders_are_put_where_their_names_stand_alone():
    _, *words = everything.words('train x --data.path DATA/a.csv --out RUNS/x --text "no DATA here"', FOLDERS)
    paths = [str(Path("there/data/a.csv")), "--out", str(Path("there/runs/x"))]
    assert words == ["-m", "langevin", "train", "x", "--data.path", *paths, "--text", "no DATA here"]


def test_what_is_done_is_not_done_again_and_a_failure_stops_no_other(tmp_path, monkeypatch, capfd):
    counted = tmp_path / "count.py"
    counted.write_text("import sys; open(sys.argv[1], 'a').write('x'); sys.exit(int(sys.argv[2]))")
    monkeypatch.setattr(everything, "BENCH", tmp_path)
    (tmp_path / "bars.py").write_text("")
    parts = {"bad": ("count.py RESULTS/bad 3", "count.py RESULTS/after 0"), "good": ("count.py RESULTS/good 0",)}
    monkeypatch.setattr(everything, "PARTS", {name: everything.Part(1, commands) for name, commands in parts.items()})
    monkeypatch.setattr(sys, "argv", ["everything.py", "--data", str(tmp_path), "--work", str(tmp_path / "work")])
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            everything.main()
        assert stopped.value.code == 1
    results = tmp_path / "work" / "results"
    assert (results / "bad").read_text() == "xx" and (results / "good").read_text() == "x"
    assert not (results / "after").exists()  # what stands on a command that failed is not begun
    assert "exit status 3" in capfd.readouterr().out
