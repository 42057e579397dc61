"""What a command writes never joins what it reads, nor what another call left."""

import numpy as np
import pytest
from PIL import Image

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
