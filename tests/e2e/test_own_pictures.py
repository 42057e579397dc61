"""A folder of one's own: classes by folders and their names, what is left out of them, and what is said before the first step."""

import shlex
import warnings

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.data import Pictures

SMALL = ["--data.size", "8", "--train.batch", "4", "--network.width", "8", "--samples", "0", "--device", "cpu"]


@pytest.fixture
def album(tmp_path):
    for k, name in enumerate(("disc", "square")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (8, 8), (90 * k, 10 * i, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_hidden_folders_are_no_classes(album):
    (album / ".thumbs").mkdir()
    Image.new("RGB", (8, 8)).save(album / ".thumbs" / "a.png")
    Image.new("RGB", (8, 8)).save(album / ".cover.png")
    data = Pictures(album, 8, split="all")
    assert data.classes == ["disc", "square"]
    assert len(data) == 24


def test_a_picture_beside_the_classes_is_said(album):
    Image.new("RGB", (8, 8)).save(album / "cover.png")
    with pytest.warns(UserWarning, match=r"2 folders and 1 pictures beside them \(cover.png\), so there are no classes"):
        assert Pictures(album, 8, split="all").classes is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Pictures(album, 8, split="all", labels=False).classes is None


def test_classes_have_their_names(album, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "images", "--data.folder", str(album), *SMALL, "--train.steps", "2", "--out", str(out)])
    said = capsys.readouterr().err
    assert "classes: 0 disc, 1 square" in said
    assert "the rate rises for 6400 samples of the run's 8 and hardly comes near" in said
    main(["inspect", str(out)])
    assert "classes 0 disc, 1 square" in capsys.readouterr().out
    pages = []
    for label in ("square", "1"):
        main(["sample", str(out), "--out", str(tmp_path / f"{label}.npy"), "--label", label, "--count", "2", "--device", "cpu"])
        pages.append((tmp_path / f"{label}.npy").read_bytes())
    assert pages[0] == pages[1]
    run = lv.open_run(out)
    assert run.facts.label("disc") == 0
    with pytest.raises(ValueError, match=r"label is 'dics'; classes of this run are told by one of disc, square, or its number"):
        run.facts.label("dics")


def test_what_is_to_continue_keeps_the_flags_that_no_file_holds(album, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        main(["train", "images", "--data.folder", str(album), *SMALL, "--train.steps", "50", "--train.hours", "1e-9",
              "--out", str(out)])  # fmt: skip
    assert f"continue with: langevin train images --out {out} --resume --device cpu --samples 0" in capsys.readouterr().err


def test_what_is_to_continue_can_be_pasted_where_names_have_spaces_and_a_student_was_told_not_to_tune(tmp_path, capsys):
    out, fast, short = tmp_path / "my runs" / "zdjęcia", tmp_path / "a fast one", ["--train.batch", "4", "--samples", "0"]
    main(["train", "digits", *short, "--train.steps", "1", "--network.width", "8", "--sample.plan", "ddim:2", "--out", str(out)])
    with pytest.raises(SystemExit):
        main(["distill", str(out), "--to", "consistency", "--steps", "2", *short, "--train.steps", "9", "--train.hours", "1e-9",
              "--no-tune", "--out", str(fast)])  # fmt: skip
    said = capsys.readouterr().err.rpartition("continue with: ")[2].strip()
    assert shlex.split(said) == [
        "langevin", "distill", str(out), "--to", "consistency", "--steps", "2", "--out", str(fast), "--resume", "--no-tune",
        "--samples", "0",
    ]  # fmt: skip
    main([*shlex.split(said)[1:], "--train.hours", "None"])
    assert (fast / "checkpoints" / "step-00000009").is_dir() and not list(out.glob("plans/*"))


class TheirNet(torch.nn.Module):
    """As networks are called elsewhere."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, t, y=None):
        return self.layer(x)


def test_a_network_that_is_called_otherwise_is_refused_in_words():
    model = lv.Denoiser(TheirNet(), lv.Gaussian(lv.schedules.cosine()), "v", shape=(2,))
    said = r"net is called as net\(z, level, cond, mask\), and TheirNet.forward takes \(x, t, y=None\); wrap it"
    with pytest.raises(ValueError, match=said):
        lv.sample(model, lv.plans.ddim(2), 1)
    with pytest.raises(ValueError, match=said):
        lv.fit(model, lv.data.Arrays(torch.zeros(4, 2)), steps=1, batch=2, progress=False)


def test_one_number_stands_for_all_samples():
    process = lv.Gaussian(lv.schedules.cosine())
    model = lv.Denoiser(lv.networks.MLP(2, 16, 1, classes=3), process, "v", shape=(2,))
    drawn = [lv.sample(model, lv.plans.ddim(2), 3, cond={"label": label}) for label in (1, torch.tensor([1, 1, 1]))]
    assert torch.equal(*drawn)
