"""What a command writes never joins what it reads, nor what another call left."""

import numpy as np
import pytest
from PIL import Image

from langevin import pictures as pictures_of
from langevin.cli import main
from langevin.recipes.config.tuning import Tuning
from langevin.recipes.tuning import tune
from tests.reliability.test_hostile import refused

TINY = ["--network.width", "8", "--network.blocks", "1", "--network.head-width", "8"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", *TINY, "--train.steps", "1", "--train.batch", "4", "--samples", "0", "--out", str(out)])
    return out


@pytest.fixture
def pictures(tmp_path):
    for k in range(4):
        (tmp_path / "pictures" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 60 * k, np.uint8)).save(tmp_path / "pictures" / str(k % 2) / f"{k}.png")
    return tmp_path / "pictures"


def test_no_run_begins_within_its_data(pictures, tmp_path, digits, capsys):
    """Its previews and samples would be read as data where it goes on, which it is then not allowed to."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("to be or not to be\n" * 50)
    here = sorted(p for p in tmp_path.rglob("*"))
    for args, folder in (
        (["train", "images", "--data.folder", pictures], pictures),
        (["train", "transfer", "--data.target.folder", pictures, "--data.source.folder", texts], texts),
        (["train", "shakespeare", "--data.path", texts], texts),
        (["augment", digits, pictures], pictures),
    ):
        for out in (folder, folder / "run"):
            said = refused([*args, "--out", out], capsys)
            assert f"out is {out}, within {folder}, all of which is read as data; name a place outside of it." in said
    with pytest.raises(ValueError, match="all of which is read as data"):
        tune(Tuning(origin="nowhere", data=str(pictures), prompt="a digit"), pictures / "run")
    assert sorted(p for p in tmp_path.rglob("*")) == here


def test_a_folder_of_samples_holds_those_of_one_call(digits, tmp_path, capsys):
    out = tmp_path / "samples"
    out.mkdir()  # an empty one is as good as none
    main(["sample", str(digits), "--plan", "ddim:1", "--count", "3", "--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["000000.png", "000001.png", "000002.png"]
    capsys.readouterr()
    said = refused(["sample", digits, "--plan", "ddim:1", "--count", "2", "--out", out], capsys)
    assert f"{out} exists, and holds something already; name a folder that does not." in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_of_samples_is_there_whole_or_not_at_all(digits, tmp_path, monkeypatch):
    real, made = pictures_of.save_png, []

    def stopped(*args):
        made.append(real(*args))
        if len(made) == 2:
            raise KeyboardInterrupt
        return made[-1]

    monkeypatch.setattr(pictures_of, "save_png", stopped)
    with pytest.raises(SystemExit) as end:
        main(["sample", str(digits), "--plan", "ddim:1", "--count", "3", "--out", str(tmp_path / "samples")])
    assert end.value.code == 130 and len(made) == 2 and list(tmp_path.iterdir()) == []
