"""The first day on the command line: an evaluation that is not wanted, or cannot be; data that is not what it was."""

import numpy as np
import pytest
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
