"""The first day on the command line: an evaluation that is not wanted, or cannot be; data that is not what it was."""

import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from langevin.cli import main

QUICK = ["--train.batch", "4", "--network.width", "8", "--sample.plan", "ddim:2"]


def files(out):
    return {p.name for p in out.iterdir()}


def refused(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", *QUICK, "--train.steps", "2", "--samples", "0", "--out", str(out)])
    return out


def test_no_samples_is_no_evaluation(run):
    assert {"samples.png", "loss.png"} <= files(run) and not {"metrics.json", "closest.png"} & files(run)


def test_too_few_samples_are_refused_before_the_first_step(run, tmp_path, capsys):
    said = refused(["distill", str(run), "--to", "shortcut", "--samples", "2", "--out", str(tmp_path / "student")], capsys)
    assert "metric 'prdc' takes 6 samples, and there are 2; take more" in said
    assert not (tmp_path / "student" / "checkpoints").exists() and not (tmp_path / "student" / "log.jsonl").read_text()


def test_a_run_of_other_pictures_is_not_resumed(tmp_path, capsys):
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()

    def draw(seed):
        for k, grey in enumerate(np.random.default_rng(seed).integers(0, 255, (20, 8, 8), dtype=np.uint8)):
            Image.fromarray(grey).save(folder / f"{k}.png")

    def train(steps, *more):
        main(["train", "images", *QUICK, "--data.folder", str(folder), "--data.size", "8", "--train.schedule", "constant",
              "--train.steps", steps, "--samples", "0", "--out", str(out), *more])  # fmt: skip

    draw(0)
    train("1")
    train("2", "--resume")
    draw(1)
    with pytest.raises(SystemExit):
        train("3", "--resume")
    assert "the data is other than that of the run in" in (said := capsys.readouterr().err) and "--other-data" in said
    train("3", "--resume", "--other-data")
    assert '"step": 3' in (out / "log.jsonl").read_text()


def again(picture, run, out, capsys):
    """The record as inspect tells it, and what the command that it names draws."""
    main(["inspect", str(picture)])
    told = capsys.readouterr().out
    words = shlex.split(re.findall(r"`langevin (.*?)`", told)[0])
    main([{"RUN": str(run), "FILE.png": str(out), "FOLDER": str(out)}.get(word, word) for word in words])
    return told


@pytest.mark.parametrize("more", ["", "--label 3 --seed=-1 --plan heun:3 --weights last --guidance 1.5"])
def test_a_page_of_samples_says_the_command_that_draws_it_again(more, run, tmp_path, capsys):
    page, other = tmp_path / "page.png", tmp_path / "other.png"
    main(["sample", str(run), "--out", str(page), "--count", "3", *more.split()])
    told = again(page, run, other, capsys)
    assert page.read_bytes() == other.read_bytes()
    assert f"run = {run.name}" in told and str(run.parent) not in told  # not where it lies on this machine
    assert ("label = 3" in told) == bool(more) and ("labels = [0, 1, 2]" in told) != bool(more)


def test_pictures_of_a_folder_say_which_of_its_samples_they_are(run, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["sample", str(run), "--out", str(first), "--count", "3"])
    told = again(first / "000002.png", run, second, capsys)
    assert "draws it again as picture 2" in told and "labels = [2]" in told
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in ("000000.png", "000002.png"))


def test_a_plot_of_points_says_it_as_well(tmp_path, capsys):
    run, page = tmp_path / "moons", tmp_path / "page.png"
    main(["train", "two-moons", "--train.batch", "4", "--train.steps", "1", "--samples", "0", "--out", str(run)])
    main(["sample", str(run), "--out", str(page), "--count", "5", "--seed", "7", "--plan", "heun:2"])
    again(page, run, tmp_path / "other.png", capsys)
    assert page.read_bytes() == (tmp_path / "other.png").read_bytes()


def test_what_a_foreign_record_says_is_quoted(tmp_path):
    from langevin.inspection import describe
    from langevin.pictures import save_images

    x = torch.zeros(1, 1, 4, 4)
    page = save_images(x, tmp_path / "x.png", record={"run": "r", "plan": "a; rm b\x1b[2J", "label": {"no": 1}})
    line = describe(page).splitlines()[0]
    assert "'--plan=a; rm b\\x1b[2J'" in line and "label" not in line
    with pytest.raises(ValueError, match="is of a kind that keeps none; write a"):
        save_images(x, tmp_path / "x.jpg", record={})


def test_a_picture_of_samples_is_none_of_generate(run, tmp_path, capsys):
    main(["sample", str(run), "--out", str(tmp_path / "s.png"), "--count", "1"])
    said = refused(["generate", "nowhere", "--again", str(tmp_path / "s.png")], capsys)
    assert "s.png was drawn from a run; langevin inspect tells the langevin sample that draws it again." in said


def test_a_run_and_a_published_model_are_told_apart(run, tmp_path, capsys):
    import langevin as lv

    said = "is a run, and no published model; use langevin sample, or lv.open_run."
    assert f"{run} {said}" in refused(["generate", str(run)], capsys)
    with pytest.raises(ValueError, match=said):
        lv.load(run)
    (tmp_path / "model_index.json").write_text("{}")
    said = refused(["sample", str(tmp_path), "--out", str(tmp_path / "x.png")], capsys)
    assert f"{tmp_path} is a published model, and no run; use langevin generate, or lv.load." in said


MISSING = {
    ("images",): "data/images does not exist; say where the data is, data.folder (--data.folder).",
    ("images", "--data.folder", "phots"): "phots does not exist; say where the data is, data.folder (--data.folder).",
    ("images", "--data.folder", "file.txt"): "file.txt is a file; give a folder of pictures.",
    ("qm9-graph", "--data.path", "nosuch.csv"): "nosuch.csv does not exist; say where the data is, data.path (--data.path).",
    ("community",): "data/community_small.json does not exist; say where the data is, data.path (--data.path).",
    ("text8-like", "--data.path", "nosuch.txt"): "nosuch.txt does not exist; say where the data is, data.path (--data.path).",
}


@pytest.mark.parametrize("args", MISSING, ids=" ".join)
def test_data_that_is_not_there_is_said_not_to_be_and_leaves_nothing_behind(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("words")
    assert refused(["train", *args, "--out", "runs/mine"], capsys) == f"langevin: {MISSING[args]}\n"
    assert {p.name for p in tmp_path.iterdir()} == {"file.txt"}


def test_a_directory_that_was_there_stays(tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    refused(["train", "images", "--data.folder", str(tmp_path / "phots"), "--out", str(out)], capsys)
    assert out.is_dir()


def test_paths_that_are_not_there_in_python(tmp_path):
    import langevin as lv
    from langevin.data.text import files_of

    with pytest.raises(FileNotFoundError, match="phots does not exist; give a folder of pictures"):
        lv.data.Pictures(tmp_path / "phots")
    with pytest.raises(ValueError, match="nosuch does not exist; give a text, or a folder"):
        files_of(tmp_path / "nosuch")
