"""The command line where it cannot write, where another writes already, where it is stopped, and where it is told nonsense."""

import errno
import math
import os
import re
import signal
import sys
import tempfile
import time

import pytest

import langevin as lv
from langevin import files
from langevin.cli import main
from langevin.files import DiskFull, Unwritable, best_effort, writable, write
from langevin.recipes import comparison, starting
from langevin.recipes.config.tuning import Tuning
from langevin.training.lock import Lock

QUICK = ["--train.steps", "2", "--train.batch", "4"]


def refused(args, capsys, code=2):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    said = capsys.readouterr().err
    assert end.value.code == code and said.startswith("langevin: ") and said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "moons"
    main(["train", "two-moons", *QUICK, "--samples", "0", "--out", str(out)])
    return out


# Places that cannot be written


WRITING = {
    "sample": ["sample", "RUN", "--out", "OUT.png"],
    "generate": ["generate", "nowhere", "a cat", "--out", "OUT.png"],
    "previews": ["generate", "nowhere", "a cat", "--previews", "OUT"],
    "train": ["train", "two-moons", "--out", "OUT"],
    "distill": ["distill", "RUN", "--to", "shortcut", "--out", "OUT"],
    "finetune": ["finetune", "nowhere", "nothing", "--method", "lora", "--prompt", "a cat", "--out", "OUT"],
    "tune": ["tune", "RUN", "--steps", "2", "--out", "OUT.json"],
    "likelihood": ["likelihood", "RUN", "--each", "OUT.npy"],
    "data": ["data", "emoji", "--out", "OUT"],
    "plan": ["plan", "show", "ddim:3", "--plot", "OUT.png"],
    "convert": ["convert", "nowhere.ckpt", "OUT.safetensors"],
}


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_what_cannot_be_written_is_refused_before_anything_is_done(command, code, run, tmp_path, monkeypatch, capsys):
    real = tempfile.TemporaryFile

    def full(dir):
        if tmp_path not in (dir, *dir.parents):
            return real(dir=dir)
        raise OSError(code, os.strerror(code), str(tmp_path))

    def begun(*args, **kwargs):
        raise AssertionError("work was begun")

    for place in ("recipes.opening.open_run", "recipes.starting.start", "zoo.load.load", "recipes.tuning.tune"):
        monkeypatch.setattr(f"langevin.{place}", begun)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    out = tmp_path / "new" / "out"
    said = refused([word.replace("RUN", str(run)).replace("OUT", str(out)) for word in WRITING[command]], capsys)
    if code == errno.ENOSPC:
        assert f"no space is left to write {out}" in said and "free some" in said
    else:
        assert f"{out}" in said and f"cannot be written ({os.strerror(code)}); make it writable, or name another place" in said
    assert list(tmp_path.iterdir()) == []


def test_the_usual_places_are_looked_at_as_well(run, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.chdir(tmp_path)
    for args, path in (
        (["train", "two-moons"], "runs/two-moons"), (["tune", run, "--steps", "2"], run / "plans" / "tuned-2.json"),
        (["ema", run, "--sigma-rel", "0.1"], run / "weights" / "sigma_rel-0.1.safetensors"),
    ):  # fmt: skip
        assert refused(args, capsys).startswith(f"langevin: {path} cannot be written (Read-only")
    assert list(tmp_path.iterdir()) == []


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("before")
    was = (sorted(tmp_path.iterdir()), (tmp_path / "file").read_text())
    for place in (tmp_path, tmp_path / "a.png", tmp_path / "new" / "newer" / "a.png", tmp_path / "file"):
        writable(place, "out")
    assert (sorted(tmp_path.iterdir()), (tmp_path / "file").read_text()) == was
    with pytest.raises(ValueError, match=r"out is .*a\.png, and .*file is no directory; give one that is"):
        writable(tmp_path / "file" / "a.png", "out")


def test_a_file_in_the_place_of_a_folder_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "file").write_text("words")
    said = refused(["sample", run, "--out", tmp_path / "file" / "a.png"], capsys)
    assert f"and {tmp_path / 'file'} is no directory; give one that is" in said


def test_no_path_is_none(tmp_path, monkeypatch, run, capsys):
    monkeypatch.chdir(tmp_path)
    for args in (["train", "two-moons", "--out", ""], ["train", "two-moons", "--out="], ["sample", run, "--out", ""]):
        assert "out is ''; name what to write" in refused(args, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EISDIR])
def test_a_write_that_is_refused_names_what_was_to_be_written(code, tmp_path, monkeypatch, capsys):
    def no(one, other):
        raise OSError(code, os.strerror(code), str(one))

    monkeypatch.setattr(files.os, "replace", no)
    with pytest.raises(Unwritable, match=rf"^{tmp_path}/a\.txt cannot be written \([A-Z][a-z -]+\); make it writable, or name"):
        write(tmp_path / "a.txt", "words")
    with best_effort(tmp_path / "a.txt"):
        write(tmp_path / "a.txt", "words")
    assert capsys.readouterr().err.count("cannot be written") == 1 and list(tmp_path.iterdir()) == []


def test_a_table_of_a_student_is_shown_though_it_cannot_be_kept(run, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise DiskFull(path)

    monkeypatch.setattr(comparison, "write", full)
    main(["distill", str(run), "--to", "shortcut", *QUICK, "--samples", "20", "--out", str(tmp_path / "student")])
    said = capsys.readouterr()
    assert "student" in said.out and "ddim:1" in said.out  # the table
    assert "no space is left to write" in said.err and "all else goes on" in said.err


# Two at work in one directory


def test_a_second_training_is_refused_before_its_data_is_read(tmp_path, monkeypatch, capsys):
    def read(*args, **kwargs):
        raise AssertionError("the data was read")

    out = tmp_path / "mine"
    monkeypatch.setattr(starting, "build", read)
    monkeypatch.setattr("langevin.recipes.tuning.begin", read)
    with Lock(out):
        for args in (["two-moons"], ["two-moons", "--resume"]):
            said = refused(["train", *args, "--out", out], capsys)
            assert f"{out} is being trained by process {os.getpid()} on" in said and "choose another directory" in said
        cfg = Tuning(origin="nowhere", data="nothing", prompt="a cat")
        with pytest.raises(ValueError, match="is being trained by process"):
            lv.recipes.tuning.tune(cfg, out)  # pyright: ignore
        assert [p.name for p in out.iterdir()] == [".lock"]
    with pytest.raises(AssertionError):  # let go of
        starting.start(lv.recipe("two-moons"), out)


# Ctrl-C


@pytest.fixture
def interrupts():
    """SIGINT as a terminal's program hears it; a test in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda *args, **kwargs: signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # put back
    signal.signal(signal.SIGINT, before)


NOTHING = "what was being made is gone, all else is as it was; the same command begins anew."
TRAINED = "the run is trained and saved; to look at it and judge it: langevin"
STOPPED = {
    ("sample", "RUN", "--out", "OUT.png"): ("recipes.opening.open_run", NOTHING),
    ("evaluate", "RUN"): ("recipes.opening.open_run", NOTHING),
    ("likelihood", "RUN"): ("recipes.likelihood.likelihood", NOTHING),
    ("generate", "nowhere", "--out", "OUT.png"): ("zoo.load.load", NOTHING),
    ("tune", "RUN", "--steps", "2", "--out", "OUT.json"): (
        "recipes.sampling.tune_into",
        "is kept beside the plan; the same",
    ),
    ("data", "emoji", "--out", "OUT"): ("data.emoji.emoji", "what was drawn so far stays; the same command goes on."),
    ("train", "two-moons", "--out", "OUT"): ("recipes.starting.build", "no step was made yet; the same command begins again."),
    ("train", "two-moons", *QUICK, "--out", "OUT"): (
        "recipes.report.report",
        f"{TRAINED} train two-moons --out OUT --resume",
    ),
    ("distill", "RUN", "--to", "shortcut", *QUICK, "--samples", "20", "--out", "OUT"): (
        "recipes.comparison.compare",
        f"{TRAINED} distill RUN --to shortcut --out OUT --resume --samples 20",
    ),
}


@pytest.mark.parametrize("args", STOPPED, ids=" ".join)
def test_ctrl_c_is_one_line_that_says_what_was_kept(args, run, tmp_path, monkeypatch, interrupts, capsys):
    def here(text):
        return text.replace("RUN", str(run)).replace("OUT", str(tmp_path / "new"))

    place, said = STOPPED[args]
    monkeypatch.setattr(f"langevin.{place}", interrupts)
    with pytest.raises(SystemExit) as end:
        main([here(arg) for arg in args])
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 130 and last.startswith("langevin: interrupted: ") and here(said) in last
    assert TRAINED in said or not list(tmp_path.iterdir())  # nothing that was not there


def test_what_was_saved_is_named_where_a_training_ends_at_once(tmp_path, monkeypatch, interrupts, capsys):
    """A second Ctrl-C does not wait for the step."""

    def update(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(lv.Trainer, "update", update)
    with pytest.raises(SystemExit) as end:
        main(["train", "two-moons", *QUICK, "--samples", "0", "--out", str(tmp_path / "a")])
    said = capsys.readouterr().err.splitlines()[-1]
    again = f"langevin train two-moons --out {tmp_path / 'a'} --resume --samples 0"
    assert end.value.code == 130 and said.endswith(f"what was saved until then stays; continue with: {again}")


def test_a_stopped_finetuning_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr("langevin.recipes.tuning.tune", lambda *args, **options: None)
    with pytest.raises(SystemExit) as end:
        main(["finetune", "model", "photos", "--method", "lora", "--prompt", "a cat"])
    said = "stopped; continue with: langevin finetune model photos --method lora --prompt 'a cat' --resume\n"
    assert end.value.code == 130 and capsys.readouterr().err == said


def test_ctrl_c_while_a_library_is_imported_is_heard_after_it(tmp_path, monkeypatch, interrupts, capsys):
    """torch hides what goes wrong while it looks for numpy, and then has none."""
    done = tmp_path / "done"
    (tmp_path / "hides_everything.py").write_text(
        "import signal, pathlib\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    raise SystemExit('it was heard within')\n"
        f"pathlib.Path({str(done)!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def work(args):
        import hides_everything  # noqa: F401  # pyright: ignore

        time.sleep(60)

    from langevin.cli import commands

    monkeypatch.setitem(commands.COMMANDS, "sample", work)
    began = time.monotonic()
    refused(["sample"], capsys, 130)
    assert done.exists() and time.monotonic() - began < 30
    sys.modules.pop("hides_everything")


def test_ctrl_c_that_is_ignored_stays_so(run, monkeypatch, capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(["recipes"])
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# Words that cannot be read


UNREAD = {
    "train two-moons --train.batch many": "--train.batch is 'many'; give a whole number, such as 256.",
    "train two-moons --train.batch=many": "--train.batch is 'many'; give a whole number, such as 256.",
    "train two-moons --train.batch": "--train.batch has no value; give a whole number, such as 256.",
    "train two-moons --train.hours soon": "--train.hours is 'soon'; give a number, or None.",
    "train two-moons --train.betas 0.9": "--train.betas is '0.9'; give 2 numbers, such as 0.9 0.99.",
    "train two-moons --train.betas a b": "--train.betas is 'a b'; give 2 numbers, such as 0.9 0.99.",
    "train two-moons --train.schedule cosin": "--train.schedule is 'cosin'; did you mean 'cosine'? There are constant, cosine, ",
    "train two-moons --train.precision x": "--train.precision is 'x'; there are float32, bfloat16, float16, auto.",
    "train two-moons --resume yes": "'yes' stands after --resume, which takes no value; say --resume or --no-resume.",
    "train two-moons --resume=1": "--resume is '1', and takes no value; say --resume or --no-resume.",
    "train two-moons --train.compile yes": "say --train.compile or --train.no-compile.",
    "train two-moons --train.stps 5": "--train.stps is no flag of langevin train two-moons; did you mean --train.steps?",
    "train two-moons --zzzz 5": "--zzzz is no flag of langevin train two-moons; --help shows those that there are.",
    "train digits --network.multipliers 1 b": "--network.multipliers is '1 b'; give whole numbers, such as 1 2.",
    "sample": "run and out are missing; say langevin sample RUN --out OUT.",
    "sample RUN": "out is missing; say langevin sample RUN --out OUT.",
    "sample RUN --out": "--out has no value; give a path.",
    "sample RUN --cuont 3 --out x.png": "--cuont is no flag of langevin sample; did you mean --count?",
    "sample RUN --count 3.5 --out x.png": "--count is '3.5'; give a whole number, or None.",
    "sample RUN more --out x.png": "'more' is one word too many; langevin sample --help shows what it reads.",
    "sample RUN -n 3 --out x.png": "-n is no flag of langevin sample; --help shows those that there are.",
    "tune RUN": "steps is missing; say langevin tune RUN --steps STEPS.",
    "edit": "path and image and source and target are missing; say langevin edit PATH IMAGE SOURCE TARGET.",
    "generate p hello --crop 1": "--crop is '1'; give 2 whole numbers, or None.",
    "generate p hello --size 32x": "size is '32x'; give width and height in pixels, as in 768x512.",
    "data emoji --size large": "--size is 'large'; give a whole number, such as 32.",
    "train moons": "recipe is 'moons'; did you mean 'two-moons'?",
}


@pytest.mark.parametrize("line", UNREAD)
def test_what_cannot_be_read_is_one_sentence(line, run, capsys):
    assert UNREAD[line] in refused([str(run) if word == "RUN" else word for word in line.split()], capsys)


def test_help_is_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["sample", "--help"])
    assert not end.value.code and "--count" in capsys.readouterr().out


# Sizes that make no sense


ABSURD = {
    "plan show ddim:99999999": "steps is 99999999; ask for at most 100000.",
    "sample RUN --plan heun:99999999 --out OUT.png": "steps is 99999999; ask for at most 100000.",
    "train two-moons --sample.plan ddim:99999999 --out OUT": "steps is 99999999; ask for at most 100000.",
    "sample RUN --count 10000000000000 --out OUT.npy": "which takes at least 74,506 GB of memory, and there",
    "sample RUN --count -1 --out OUT.npy": "count is -1; ask for at least 1.",
    "evaluate RUN --small --count 10000000000000": "draw fewer at a time",
    "train two-moons --train.batch 10000000000000 --out OUT": "which takes at least 298,023 GB of memory",
    "train two-moons --train.workers 100000 --out OUT": "--train.workers is 100000; it should be less than or equal to 512.",
    "train two-moons --processes 100000 --out OUT": "processes is 100000; use at most 512 on one machine.",
    "train two-moons --train.clip nan --out OUT": "--train.clip is nan; it should be a finite number.",
    "train two-moons --train.clip inf --out OUT": "--train.clip is inf; it should be a finite number.",
    "train two-moons --sample.guidance nan --out OUT": "--sample.guidance is nan; it should be a finite number.",
    "likelihood RUN --tolerance nan": "tolerance is nan; give a number above 0",
    "likelihood RUN --tolerance -1": "tolerance is -1; give a number above 0",
    "likelihood RUN --solver heun --steps 100000000": "take at most 100000 of",
    "data drawings --size 10000000 --out OUT": "size is 10000000; take 24 pixels a side",
}


@pytest.mark.parametrize("line", ABSURD)
def test_absurd_sizes_are_refused_at_once(line, run, tmp_path, capsys):
    if "drawings" in line:
        pytest.importorskip("rdkit")
    words = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "new")) for word in line.split()]
    assert ABSURD[line] in refused(words, capsys)
    assert not (tmp_path / "new" / "log.jsonl").exists() and not list(tmp_path.glob("new.*"))


@pytest.mark.parametrize("name", sorted(set(lv.plans.PLANS) - {"adaptive", "dpm_adaptive"}))
def test_no_plan_has_steps_without_end(name):
    with pytest.raises(ValueError, match=r"99999999"):
        lv.plans.parse(f"{name}:99999999").on(lv.schedules.cosine())


def small(out=None, **settings):
    net = lv.networks.MLP(width=64, depth=2, classes=2)
    return lv.fit(lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v"), lv.data.two_moons(64), out=out, progress=False,
                  steps=1, workers=0, **settings)  # fmt: skip


def test_settings_of_fit_that_make_no_sense(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for settings, said in (
        ({"out": ""}, "out is ''; name a run directory, or give None"),
        ({"clip": math.nan}, "clip is nan; it should be a finite"),
        ({"lr": math.inf}, "lr is inf; it should be a finite number"),
        ({"batch": 10**13}, "batch is 10000000000000, which takes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(said)):
            small(**settings)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_whose_backward_pass_cannot_be_held_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10_000, "SC_PAGE_SIZE": 4096}.get)  # 41 MB
    said = r"batch is 80000, which takes at least 0\.\d+ GB of memory, and there are 0\.038; take a smaller one, or more passes"
    with pytest.raises(ValueError, match=rf"{said} \(accumulate\)"):
        small(batch=80_000)
    small(batch=80_000, accumulate=40)


@pytest.mark.parametrize("count", [-1, 0, 10**13, 1.5])
def test_counts_of_sample_that_make_no_sense(count):
    denoiser = lv.Denoiser(lv.networks.MLP(width=8, depth=1), lv.Gaussian(lv.schedules.cosine()), "v", shape=(2,))
    with pytest.raises(ValueError, match=f"count is {count}"):
        lv.sample(denoiser, lv.plans.ddim(2), count=count)


def test_memory_that_ends_is_one_sentence(run, monkeypatch, capsys):
    def large(*args, **kwargs):
        said = "can't allocate memory: you tried to allocate 80 bytes. Error code 12 (Cannot allocate memory)"
        raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: {said}\nframe #0")

    monkeypatch.setattr("langevin.recipes.opening.open_run", large)
    said = refused(["evaluate", run], capsys)
    assert "memory does not suffice (can't allocate memory: you tried to allocate 80 bytes" in said and "ask for less at" in said
