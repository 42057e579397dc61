"""Data: the digits are scikit-learn's, every source reads what was written, caches hold what the encoder made."""

import errno
import io
import json
import re
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.data.lowered import Lowered
from langevin.data.mnist import read_idx
from langevin.data.pictures import buckets
from langevin.recipes.build import build
from langevin.recipes.evaluation import evaluate

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


def test_captions_beside_pictures_and_in_one_file(album):
    for k, p in enumerate(sorted(album.glob("*.[pj]*g"))):
        p.with_suffix(".txt").write_text(f" number {k}\n")
    beside = lv.data.Pictures(album, 8, split="all", captions="txt")
    assert beside.captions == [f"number {k}" for k in range(6)]
    lines = [json.dumps({"file": p.name, "text": f"number {k}"}) for k, p in enumerate(beside.paths)]
    (album / "captions.jsonl").write_text("\n".join(reversed(lines)))
    listed = lv.data.Pictures(album, 8, split="all", captions="captions.jsonl")
    assert listed.captions == beside.captions and listed.digest() == beside.digest()
    train = listed.part("train")
    assert train.captions == [listed.captions[listed.paths.index(p)] for p in train.paths]  # pyright: ignore
    (album / "captions.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match="no caption: the captions file has no line for it"):
        lv.data.Pictures(album, 8, captions="captions.jsonl")
    for bad in ("[1]", '{"file": 3, "text": "x"}', lines[0] + "\n" + lines[0], "{"):
        (album / "captions.jsonl").write_text(bad)
        with pytest.raises(ValueError, match=r"captions\.jsonl line \d"):
            lv.data.Pictures(album, 8, captions="captions.jsonl")


def test_buckets_have_the_nearest_aspect(tmp_path):
    sizes = buckets(64, 8)
    assert all(h % 8 == w % 8 == 0 and 0.25 <= h / w <= 4 and abs(h * w / 64**2 - 1) < 0.15 for h, w in sizes)
    for size, step in ((8, 8), (32, 32), (16, 8), (12, 4)):  # steps as long as the side
        assert (size, size) in buckets(size, step) and min(min(s) for s in buckets(size, step)) >= step
    assert (64, 64) in sizes and (32, 128) in sizes and {(w, h) for h, w in sizes} == set(sizes)
    wanted = {
        "square": (64, 64),
        "wide": (32, 128),
        "panorama": (32, 128),
        "tall": (128, 32),
        "photo": (80, 48),
        "turned": (48, 80),
    }
    for name, (w, h) in {
        "square": (50, 50), "wide": (400, 100), "panorama": (900, 100), "tall": (20, 80), "photo": (60, 100), "turned": (60, 100),
    }.items():  # fmt: skip
        ramp = np.linspace(0, 255, w)[None, :, None].repeat(h, 0).repeat(3, 2).astype(np.uint8)
        exif = Image.Exif()
        if name == "turned":
            exif[0x0112] = 6
        Image.fromarray(ramp).save(tmp_path / f"{name}.png", exif=exif)
    data = lv.data.Pictures(tmp_path, 64, split="all", aspect=True)
    assert data.shape == (3, 64, 64)
    for k, path in enumerate(data.paths):
        assert data.batch(torch.tensor([k])).x.shape[2:] == wanted[path.stem], path  # pyright: ignore
    place = [p.stem for p in data.paths].index("turned")
    x = data.batch(torch.tensor([place])).x[0, 0]  # pyright: ignore
    assert float((x - x.mean(1, keepdim=True)).abs().max()) < 0.01 and bool(
        (x.mean(1).diff() > 0).all()
    )  # the ramp runs down now
    with pytest.raises(ValueError, match="mixes 5 shapes"):
        data.batch(torch.arange(6))
    steps = list(islice(lv.data.loader(data, lv.data.Order(0, 6, 2, data.groups)), 5))
    assert sorted(len(s.batch.x) for (s,) in steps) == [1, 1, 1, 1, 2]
    assert data.part("all", aspect=False).batch(torch.arange(6)).x.shape == (6, 3, 64, 64)  # pyright: ignore
    with pytest.raises(ValueError, match="make size a multiple of bucket_step"):
        lv.data.Pictures(tmp_path, 60, aspect=True)


def test_pictures_flip_in_training_only(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{k}.png")
    plain, flipped = (lv.data.Pictures(tmp_path, 8, split="all", flip=f) for f in (False, True))
    plan = lv.data.Order(0, 6, 6)
    before, after = (torch.cat([s.batch.x for (s,) in islice(lv.data.loader(d, plan), 20)]) for d in (plain, flipped))  # pyright: ignore
    turned = (before != after).flatten(1).any(1)
    assert torch.equal(torch.where(turned[:, None, None, None], before.flip(-1), before), after)
    assert abs(float(turned.float().mean()) - 0.5) < 4 * 0.5 / 120**0.5
    assert torch.equal(flipped.batch(torch.arange(6)).x, plain.batch(torch.arange(6)).x)  # pyright: ignore
    # what is made of two pictures, or of one twice, is flipped as one
    for source in (Lowered(flipped, 2), lv.data.Pairs(flipped, flipped)):
        seen = [s.batch for (s,) in islice(lv.data.loader(source, plan), 20)]
        assert torch.equal(torch.cat([b.x for b in seen]), after)  # pyright: ignore
        if isinstance(source, Lowered):
            assert all(torch.equal(b.cond["low"], torch.nn.functional.avg_pool2d(b.x, 2)) for b in seen)  # pyright: ignore
        else:
            assert all(torch.equal(b.source, b.x) for b in seen)  # pyright: ignore
    with pytest.raises(ValueError, match="flip is True for the samples and False for their beginnings"):
        lv.data.Pairs(flipped, plain)


def test_arrays_in_files_are_not_loaded(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), np.uint8)
    np.save(tmp_path / "x.npy", grey)
    np.save(tmp_path / "y.npy", np.arange(50))
    data = lv.data.Arrays(tmp_path / "x.npy", {"label": tmp_path / "y.npy"})
    index = torch.tensor([3, 49])
    assert torch.equal(data.batch(index).x, torch.from_numpy(grey[[3, 49]]).float() / 127.5 - 1)
    assert data.batch(index).cond["label"].tolist() == [3, 49]  # pyright: ignore
    first, rest = data.split(40)
    assert len(rest) == 10 and first.digest() == lv.data.Arrays(grey[:40], {"label": np.arange(40)}).digest()
    with (tmp_path / "x.npy").open("r+b") as file:  # the file is what is read
        file.seek(-16, 2)
        file.write(bytes(16))
    assert (data.batch(torch.tensor([49])).x == -1).all() and (rest.batch(torch.tensor([9])).x == -1).all()


def bundle(folder, count=30, per=10):
    """Shards as WebDataset writes them; sample k is grey k, class k % 3."""
    for first in range(0, count, per):
        with tarfile.open(folder / f"{first // per:03}.tar", "w") as file:
            for k in range(first, first + per):
                picture, embedding = io.BytesIO(), io.BytesIO()
                Image.new("L", (10, 10), k).save(picture, "PNG")
                np.save(embedding, np.full(3, k, np.float32))
                said = json.dumps({"caption": f"grey {k}"}).encode()
                members = {"png": picture.getvalue(), "cls": b"%d" % (k % 3), "json": said, "text.npy": embedding.getvalue()}
                for end, data in members.items():
                    info = tarfile.TarInfo(f"{'part' if k % 2 else 'long' * 40}/{k:06}.{end}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    return sorted(folder.glob("*.tar"))


def greys(batch):
    """Which samples of `bundle` these are; everything in the batch agrees about it."""
    known = ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert torch.equal(batch.cond["label"], known % 3) and torch.equal(batch.cond["text"], known[:, None].float().expand(-1, 3))
    return known.tolist()


def test_shards_are_read_in_any_order(tmp_path):
    bundle(tmp_path)
    data = lv.data.Shards(tmp_path, 10, 1, split="all")
    assert len(data) == 30 and data.shape == (1, 10, 10) and data.captions == [f"grey {k}" for k in range(30)]
    assert greys(data.batch(torch.tensor([29, 0, 13]))) == [29, 0, 13]
    train, test = (data.part(s) for s in ("train", "test"))
    both = [greys(part.batch(torch.arange(len(part)))) for part in (train, test)]
    assert sorted(both[0] + both[1]) == list(range(30)) and both[1] == [int(c.split()[1]) for c in test.captions]  # pyright: ignore
    reading = [k for (s,) in islice(lv.data.loader(data, lv.data.Order(0, 30, 10), workers=2), 3) for k in greys(s.batch)]
    assert sorted(reading) == list(range(30))


@pytest.mark.parametrize("pipe", [False, True])
def test_a_stream_is_a_function_of_seed_and_place(pipe, tmp_path):
    urls = [f"pipe:cat {p}" if pipe else str(p) for p in bundle(tmp_path)]

    def stream(**options):
        return lv.data.Stream(urls, **{"seed": 1, "size": 10, "channels": 1, "buffer": 7, **options})

    assert stream().shape == (1, 10, 10)
    reading = stream().take(0, 90)
    whole = greys(reading)
    for epoch in range(3):
        assert sorted(whole[30 * epoch : 30 * epoch + 30]) == list(range(30))
    assert whole[:30] != whole[30:60] != sorted(whole[30:60])
    assert greys(stream(seed=2).take(0, 30)) != whole[:30]
    for place in (0, 17, 30, 65, 89):  # begun anywhere, with and without knowing how long an epoch is
        assert greys(stream().take(place, 1)) == greys(stream(samples=30).take(place, 1)) == [whole[place]]
    assert greys(stream(seed=0, buffer=1).take(0, 10)) in [list(range(k, k + 10)) for k in (0, 10, 20)]
    one = stream()
    assert (
        greys(one.take(40, 5)) == whole[40:45] and greys(one.take(50, 5)) == whole[50:55] and greys(one.take(3, 5)) == whole[3:8]
    )


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_processes_and_workers_share_out_a_stream(world, workers, tmp_path):
    urls = [str(p) for p in bundle(tmp_path)]

    def stream():
        return lv.data.Stream(urls, 1, 10, 1, buffer=7)

    whole = greys(stream().take(0, 72))
    ranks = [
        list(islice(lv.data.loader(stream(), lv.data.InOrder(0, 12), 2, 2, r, world, workers), 4)) for r in range(world)
    ]  # fmt: skip
    seen = [k for step in range(4) for rank in ranks for piece in rank[step] for k in greys(piece.batch)]
    assert seen == whole[24:]


def test_caches_hold_what_the_encoder_made(tmp_path):
    for k in range(12):
        Image.new("RGB", (8, 8) if k % 2 else (8, 32), (20 * k, 0, 0)).save(tmp_path / f"{k:02}.png")
        (tmp_path / f"{k:02}.txt").write_text("x" * (k + 1))
    data = lv.data.Pictures(tmp_path, 16, split="all", aspect=True, captions="txt", flip=False)
    latents = lv.data.cached(data, lambda x: torch.nn.functional.avg_pool2d(x, 4), tmp_path / "latents", "pool", batch=5)
    lengths = lv.data.cached(
        latents,
        lambda texts: {"length": torch.tensor([len(t) for t in texts]), "caption": torch.ones(len(texts), 4, 2)},
        tmp_path / "text", "length", batch=5, what="text",
    )  # fmt: skip
    assert lengths.shape == (3, 4, 4) and torch.equal(lengths.groups, data.groups) and lengths.captions == data.captions  # pyright: ignore
    seen = []
    for (s,) in islice(lv.data.loader(lengths, lv.data.Order(0, 12, 4, lengths.groups)), 4):
        which = s.batch.cond["length"] - 1  # pyright: ignore
        pooled = torch.nn.functional.avg_pool2d(data.batch(which).x, 4)  # pyright: ignore
        assert torch.equal(s.batch.x, pooled.half().float()) and s.batch.cond["caption"].shape == (len(which), 4, 2)  # pyright: ignore
        seen += which.tolist()
    assert sorted(seen) == list(range(12))
    with pytest.raises(ValueError, match="flips pictures at random"):
        lv.data.cached(lv.data.Pictures(tmp_path, 16, flip=True), torch.clone, tmp_path / "x", "e")


def test_a_whole_cache_is_only_read_and_one_is_made_without_locks(tmp_path, monkeypatch, capsys):
    import fcntl

    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    data = lv.data.Arrays(torch.arange(12.0).reshape(6, 2))
    monkeypatch.setattr(fcntl, "flock", none)
    made = lv.data.cached(data, torch.neg, tmp_path / "c", "neg")
    assert "cannot be locked here; let one process make it" in capsys.readouterr().err
    (tmp_path / "c" / "lock").unlink()
    again = lv.data.cached(data, lambda x: pytest.fail("it is made"), tmp_path / "c", "neg")
    index = torch.arange(6)
    assert torch.equal(again.batch(index).x, -data.x) and again.digest() == made.digest()  # pyright: ignore
    assert not (tmp_path / "c" / "lock").exists() and capsys.readouterr().err == ""  # so that a read-only disk will do
    with pytest.raises(ValueError, match="is stale"):
        lv.data.cached(data, torch.neg, tmp_path / "c", "other")


def test_hugging_face_data_sets():
    datasets = pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")

    def picture(k):
        file = io.BytesIO()
        Image.new("L", (9, 6), 20 * k).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2), "text": datasets.Value("string")})
    columns = {
        "image": [picture(k) for k in range(8)],
        "label": [k % 2 for k in range(8)],
        "text": [f"grey {k}" for k in range(8)],
    }
    rows = datasets.Dataset(pyarrow.table(columns, schema=kinds.arrow_schema), fingerprint="greys")
    data = lv.data.HFDataset(rows, caption="text", size=4, channels=1)
    batch = data.batch(torch.tensor([5, 2]))
    assert torch.allclose(batch.x[:, 0, 0, 0], torch.tensor([100.0, 40.0]) / 127.5 - 1)  # pyright: ignore
    assert batch.cond["label"].tolist() == [1, 0] and data.captions[5] == "grey 5"  # pyright: ignore
    assert len(list(islice(lv.data.loader(data, lv.data.Order(0, 8, 4), workers=1), 3))) == 3
    with pytest.raises(ValueError, match="label is 'class', which the data set lacks; it has image, label, text"):
        lv.data.HFDataset(rows, label="class")


def test_rows_of_hugging_face_data_sets_are_split_scanned_and_read_by_recipes(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")

    def picture(k):
        file = io.BytesIO()
        Image.new("L", (9, 6), 6 * k).save(file, "PNG")
        return {"bytes": file.getvalue()[: 30 if k in (3, 20) else None], "path": None}

    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    rows = {"image": [picture(k) for k in range(40)], "label": [k % 2 for k in range(40)]}
    table = pyarrow.table(rows, schema=kinds.arrow_schema)
    datasets.Dataset(table, fingerprint="greys").save_to_disk(str(tmp_path / "set"))
    memory, shape = tmp_path / "scan.json", {"size": 4, "channels": 1}
    with pytest.raises(ValueError, match=r"2 of 40 rows cannot be used") as caught:
        lv.data.HFDataset(tmp_path / "set", scan_file=memory, **shape)
    assert "row 3: damaged" in str(caught.value) and "row 20: damaged" in str(caught.value)
    looked = []
    monkeypatch.setattr("langevin.data.hugging_face.measure", looked.append)
    skips = {"broken": "skip", "max_skipped": 0.05, "held_out": 0.3}
    with pytest.warns(UserWarning, match="2 of 40 rows cannot be used and are left out"):
        train = lv.data.HFDataset(tmp_path / "set", scan_file=memory, split="train", **shape, **skips)
    assert not looked  # what is unchanged is remembered
    test = train.part("test")
    assert sorted(train.rows + test.rows) == [k for k in range(40) if k not in (3, 20)] and 4 < len(test) < 20
    for part in (train, test):
        batch = part.batch(torch.arange(len(part)))
        assert ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [6 * row for row in part.rows]  # pyright: ignore
        assert batch.cond["label"].tolist() == [row % 2 for row in part.rows]  # pyright: ignore
    base = lv.recipe("images")
    data = {"kind": "hugging_face", "folder": str(tmp_path / "set"), "label": "label", **shape, **skips}
    with pytest.warns(UserWarning):
        run = build(type(base).model_validate({**base.model_dump(), "data": data}), scan=memory)
    assert (run.facts.shape, run.facts.classes, run.test.rows) == ((1, 4, 4), 2, test.rows) and not looked
    lv.data.HFDataset(datasets.Dataset(table, fingerprint="other"), scan_file=memory, **shape)
    assert len(looked) == 40  # another data set


def test_recipes_read_every_kind(tmp_path, album):
    bundle(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((20, 1, 8, 8), np.float32))
    np.save(tmp_path / "y.npy", np.arange(20) % 4)
    base = lv.recipe("images")
    for data, shape, classes in [
        ({"kind": "shards", "folder": str(tmp_path), "size": 8, "channels": 1, "flip": True, "held_out": 0.3}, (1, 8, 8), 3),
        ({"kind": "arrays", "x": str(tmp_path / "x.npy"), "label": str(tmp_path / "y.npy"), "test": 5}, (1, 8, 8), 4),
        ({"kind": "images", "folder": str(album), "size": 16, "aspect": True, "held_out": 0.8}, (3, 16, 16), None),
        (
            {
                "kind": "stream",
                "urls": [str(tmp_path / "001.tar")],
                "buffer": 4,
                "test": str(tmp_path / "002.tar"),
                "size": 8,
                "channels": 1,
                "classes": 3,
            },
            (1, 8, 8),
            3,
        ),
        (
            {
                "kind": "stream",
                "urls": [f"pipe:cat {tmp_path}/000.tar", str(tmp_path / "001.tar")],
                "size": 8,
                "test": str(tmp_path / "002.tar"),
            },
            (3, 8, 8),
            None,
        ),
    ]:
        run = build(type(base).model_validate({**base.model_dump(), "data": data}))
        assert (run.facts.shape, run.facts.classes) == (shape, classes)
        for source in (run.train, run.test):
            assert source.batch(torch.arange(len(source))).x.shape[1:] == shape
        if data["kind"] == "stream":  # of which the first samples are what evaluation compares with
            assert len(run.train) == 10 * len(data["urls"]) and ("label" in run.train.cond) == ("classes" in data)
        else:
            assert (run.reading.groups is not None) if data["kind"] == "images" else (run.reading is run.train)
    with pytest.raises(ValueError, match=r"data.classes is 2, and data.test has the label 2; give as many as there are"):
        few = {"kind": "stream", "urls": [str(tmp_path / "000.tar")], "test": str(tmp_path / "001.tar"), "classes": 2}
        build(type(base).model_validate({**base.model_dump(), "data": few}))
    one = {"kind": "arrays", "x": str(tmp_path / "x.npy"), "test": 1}  # found after training otherwise
    with pytest.raises(
        ValueError, match=r"data.test holds out 1 of this data's samples, and evaluation takes at least 2; raise it"
    ):
        build(type(base).model_validate({**base.model_dump(), "data": one}))
    with pytest.raises(ValueError, match=r"data.test is 20 of 20 rows"):
        build(
            type(base).model_validate({**base.model_dump(), "data": {"kind": "arrays", "x": str(tmp_path / "x.npy"), "test": 20}})
        )


def test_captions_of_shards_are_read_to_the_end(tmp_path):
    bundle(tmp_path)
    base = lv.recipe("emoji").model_dump() | {"codec": {}}
    base["network"]["transformer"] = 0  # it has labels too
    data = {"kind": "shards", "folder": str(tmp_path), "size": 8, "held_out": 0.3}
    run = build(type(lv.recipe("emoji")).model_validate({**base, "data": data}))
    assert run.train is run.reading and set(run.train.batch(torch.arange(2)).cond) == {"ids", "label", "text"}
    other = run.train.part("test")
    assert torch.equal(other.batch(torch.arange(2)).cond["ids"], run.test.batch(torch.arange(2)).cond["ids"])


def test_captions_of_a_stream_are_read_as_it_passes(tmp_path):
    paths = bundle(tmp_path)
    base = lv.recipe("emoji").model_dump() | {"codec": {}}
    data = {"kind": "stream", "urls": [f"pipe:cat {p}" for p in paths[:2]], "test": str(paths[2]), "size": 10, "channels": 1}
    base["network"]["transformer"] = 0
    run = build(type(lv.recipe("emoji")).model_validate({**base, "data": data}))
    batch = run.reading.take(20, 20)
    words = run.facts.vocabulary
    assert words is not None and set(batch.cond) == {"ids", "text"}
    grey = ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    assert torch.equal(batch.cond["ids"], words.ids([f"grey {k}" for k in grey])) and set(grey) == set(range(20))
    assert torch.equal(run.train.cond["ids"][:4], run.reading.take(0, 4).cond["ids"])


def test_a_run_on_a_stream_is_judged_by_its_first_samples(tmp_path):
    paths = bundle(tmp_path, 90, 30)
    base = lv.recipe("images").model_dump()
    data = {"kind": "stream", "urls": [str(p) for p in paths[:2]], "test": str(paths[2]), "size": 8, "channels": 1}
    small = {**base["network"], "width": 8, "blocks": 1, "multipliers": (1,), "attention": ()}
    run = build(type(lv.recipe("images")).model_validate({**base, "data": data, "network": small}))
    found = evaluate(run, count=8, small=True, plan="ddim:1")
    assert found.protocol.train is not None and (found.protocol.train.name, found.protocol.train.size) == (
        "train, the first 60 of the stream", 60
    )  # fmt: skip
    assert found.protocol.train.hash == run.reading.first(60).digest()
    assert {"fd", "fd_real", "nearest"} <= set(found.metrics)


def test_the_pages_cache_runs_as_written_and_is_made_once():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "class Axes" in c)
    space: dict[str, Any] = {}
    exec(compile(code, "data.md", "exec"), space)
    digits, vae, latents = space["digits"], space["vae"], space["latents"]
    index = torch.tensor([5, 0, 700])
    kept = latents.batch(index)
    assert torch.allclose(vae.decode(kept.x), digits.x[index], atol=1e-5)  # the encoder loses nothing, and so does the cache
    assert torch.equal(kept.cond["label"], digits.cond["label"][index]) and latents.shape == (4, 4, 4)
    every = latents.batch(torch.arange(len(latents))).x.movedim(1, -1).flatten(0, 2)
    assert torch.allclose(every.T.cov(), torch.eye(4), atol=1e-2)  # as processes want data
    assert space["x"].shape == (8, 1, 8, 8)

    def again(x):
        raise AssertionError("what is kept was made again")

    key = lv.data.encoder_hash(vae)
    other = lv.data.cached(digits, again, space["folder"], key=key, dtype="float32")
    assert torch.equal(other.batch(index).x, kept.x) and other.digest() == latents.digest()
