"""Data: the digits are scikit-learn's, every source reads what was written, caches hold what the encoder made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.data.mnist import read_idx

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    ours, theirs = lv.data.digits("all", categories=17), load_digits()
    place = np.random.default_rng(0).permutation(1797)
    assert np.array_equal(ours.x[:, 0].numpy(), theirs.images[place].astype(int))  # pyright: ignore
    assert np.array_equal(ours.cond["label"].numpy(), theirs.target[place])  # pyright: ignore
    train, test = lv.data.digits("train"), lv.data.digits("test")
    assert (len(train), len(test)) == (1500, 297) and train.digest() != test.digest()
    assert float(train.x.min()) == -1 and float(train.x.max()) == 1  # pyright: ignore


@pytest.mark.skipif(not (SHARED / "t10k-images-idx3-ubyte.gz").exists(), reason="no MNIST files beside the project")
def test_mnist_files():
    train, test = lv.data.mnist(SHARED), lv.data.mnist(SHARED, "test")
    assert (len(train), len(test)) == (9000, 1000) and train.shape == (1, 28, 28)
    assert train.cond["label"][:5].tolist() == [7, 2, 1, 0, 4]  # pyright: ignore


def test_idx_files_that_lie(tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    for data in (b"", b"\0\0\x0d\x01\0\0\0\x01x", b"\0\0\x08\x01\0\0\0\x05abc"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="images-idx3-ubyte"):
            read_idx(path)


@pytest.fixture
def album(tmp_path):
    for k, size in enumerate([(20, 30), (8, 8), (31, 9)]):
        Image.new("RGB", size, (50 * k, 100, 200)).save(tmp_path / f"{k}.png")
    Image.new("L", (9, 9), 128).save(tmp_path / "grey.jpg")
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("CMYK", (9, 9)).save(tmp_path / "print.jpg")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_pictures_of_every_kind(album):
    data = lv.data.Pictures(album, 8, split="all")
    batch = data.batch(torch.arange(len(data)))
    assert len(data) == 6 and batch.x.shape == (6, 3, 8, 8) and batch.cond is None  # pyright: ignore
    clear = data.paths.index(album / "clear.png")
    assert (batch.x[clear] == 1).all()  # pyright: ignore  # transparent is white


def test_classes_by_folder_and_a_split_that_stays(tmp_path):
    for k in range(40):
        side = tmp_path / "cat" if k % 2 else tmp_path / "dog"
        side.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, k, k)).save(side / f"{k}.png")
    train, test = (lv.data.Pictures(tmp_path, 8, held_out=0.3, split=s) for s in ("train", "test"))
    assert train.classes == ["cat", "dog"] and not set(train.paths) & set(test.paths)
    assert len(train) + len(test) == 40 and 4 < len(test) < 20
    batch = train.batch(torch.arange(len(train)))
    assert all((p.parent.name == "dog") == bool(y) for p, y in zip(train.paths, batch.cond["label"], strict=True))  # pyright: ignore
    before = set(test.paths)
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "new.png")
    assert before <= set(lv.data.Pictures(tmp_path, 8, held_out=0.3, split="test").paths)
