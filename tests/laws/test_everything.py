"""bench/everything.py asks for what there is, makes every table that a bar reads, and loses nothing of a part that fails."""

import argparse
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langevin import plans
from langevin.cli import commands, distilling, main, training
from langevin.recipes import recipe
from tests.benches import BENCH, bench

FOLDERS = {"DATA": Path("there/data"), "RUNS": Path("there/runs"), "RESULTS": Path("there/results")}


everything, bars, few_steps = bench("everything"), bench("bars"), bench("few_steps")
COMMANDS = [(name, command) for name, part in everything.PARTS.items() for command in part.commands]


class Understood(Exception):
    pass


def with_teachers(folder):
    """RUNS with recipes of what is distilled."""
    for name, at in (("digits", "digits"), ("mnist", "mnist/run")):
        taught = recipe(name).model_dump()
        if name == "mnist":
            taught["data"]["folder"] = str(FOLDERS["DATA"])
        (folder / at).mkdir(parents=True)
        (folder / at / "recipe.json").write_text(type(recipe(name)).model_validate(taught).model_dump_json())
    return {**FOLDERS, "RUNS": folder}


@pytest.mark.parametrize("name, command", COMMANDS)
def test_every_command_is_understood_by_what_it_starts(name, command, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise Understood

    _, *words = everything.words(command, with_teachers(tmp_path))
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
        monkeypatch.setattr(distilling, "trained", stop)
        monkeypatch.setitem(commands.COMMANDS, "data", stop)
        with pytest.raises(Understood):
            main(words[2:])


def test_what_two_processes_train_is_what_the_bench_would_have(monkeypatch, tmp_path):
    """So that it is judged where it is found, and every bar on the time of two is measured."""
    began = []
    folders = with_teachers(tmp_path)

    def stop(asked, out, *rest):
        began.append((asked, Path(out)))
        raise Understood

    for module in (training, distilling):
        monkeypatch.setattr(module, "trained", stop)
    for _, command in COMMANDS:
        if "--processes 2 --samples 0" in command:
            with pytest.raises(Understood):
                main(everything.words(command, folders)[3:])
    made = set()
    for asked, out in began:
        problem = out.parent.name.removeprefix("few-")
        (method,) = [m for m in few_steps.PICTURES[problem] if m.replace(" ", "-") == out.name]
        base, changes, _ = few_steps.PICTURES[problem][method]
        teacher = folders["RUNS"] / ("mnist/run" if problem == "mnist" else "digits")
        wanted = few_steps.recipe_of(base, changes, teacher).model_dump()
        found = asked.recipe.model_dump()
        apart = ("about", "expects", "sample", "evaluation")
        assert asked.processes == 2 and {n: v for n, v in found.items() if n not in apart} == {
            n: v for n, v in wanted.items() if n not in apart
        }
        made.add((problem, method))
    timed = {(of["problem"], of["method"]) for bar in bars.BARS if (of := bar.value.of).get("processes") == "2"}
    assert timed == made


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
                judged = few_steps.TAUGHT if method == "teacher" else few_steps.PICTURES[number.of["problem"]][method][2]
                assert plan in [few_steps.strength(said)[2] for said in judged]


def test_every_plan_by_which_a_bar_judges_graphs_is_drawn_by_for_its_recipe():
    graphs = bench("graphs")
    asked = {(of["run"], of["plan"]) for bar in bars.BARS if (of := bar.value.of) and bar.value.file == "graphs.csv"}
    assert {"community", "community-gdss", "community-edp"} <= {run for run, _ in asked}
    for run, plan in asked:
        made = recipe(run)
        assert plan in (made.sample.plan, *graphs.OTHERS[made.process.kind])
        plans.parse(plan)


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


def test_a_stop_waits_for_what_saves_and_is_told_in_a_line(tmp_path):
    (tmp_path / "bars.py").write_text("")
    (tmp_path / "slow.py").write_text(
        "import sys, time\ntry:\n    print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(1)\n"
        "    open(sys.argv[1], 'w').write('saved')\n"
    )
    script = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background would have ignored
        f"sys.path.insert(0, {str(BENCH)!r}); import everything as e\n"
        f"e.BENCH, e.PARTS = Path({str(tmp_path)!r}), {{'slow': e.Part(1, ('slow.py RESULTS/x',))}}\n"
        f"sys.argv = ['everything.py', '--data', {str(tmp_path)!r}, '--work', {str(tmp_path / 'work')!r}]\n"
        "e.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "work" / "logs" / "slow.log"
    try:
        for _ in range(600):
            if log.exists() and "begun" in log.read_text():
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and errors == "" and "stopped in slow after 0 minutes; the same command goes on" in told
    assert (tmp_path / "work" / "results" / "x").read_text() == "saved"


def test_a_bench_whose_table_cannot_be_written_says_so_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.syspath_prepend(str(BENCH))
    for name in sorted(path.stem for path in BENCH.glob("*.py") if '"--out"' in path.read_text()):
        assert "parsed(" in (BENCH / f"{name}.py").read_text(), name
    parsed = bench("rows").parsed
    for out, why in (("file/x.csv", "is no directory"), ("folder", "is a folder; name a file")):
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", type=Path, default=tmp_path / out)
        monkeypatch.setattr(sys, "argv", ["bench.py"])
        with pytest.raises(SystemExit):
            parsed(parser)
        assert why in capsys.readouterr().err
    parser.set_defaults(out=tmp_path / "new" / "x.csv")
    assert parsed(parser).out.parent.is_dir()
