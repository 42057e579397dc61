"""Files of data with one thing wrong, each by hand: refused in a sentence that names the file, before memory or time is spent.

What is drawn at random is in `data_files`.
"""

import gzip
import json
import os
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from langevin.cli.loading import picture
from langevin.data import Arrays, Shards, Stream, mnist
from langevin.data.graphs import MOST_NODES, read_graphs
from langevin.data.molecules import LONGEST, read_molecules
from langevin.data.table import table
from langevin.recipes.restoring import _read
from langevin.record import read_record
from langevin.text.tokens import Tokenizer
from tests.security.data_files import npy, packed
from tests.security.mutants import quiet
from tests.security.test_fuzz import png

ARRAYS = {
    "objects": (npy((2,), "|O", b"cos\nsystem\n(S'touch owned'\ntR."), "holds Python objects"),
    "records of objects": (npy((1,), [("a", "|O")], bytes(8)), "holds Python objects"),
    "absurd": (npy((2**40, 2**20)), "0 bytes where its header says"),
    "wraps to nothing": (npy((2**62, 4)), "0 bytes where its header says"),
    "beyond any integer": (npy((10**400,)), "where its header says|no .npy file"),
    "negative": (npy((-1, 4), body=bytes(16)), "where its header says"),
    "longer": (npy((1,), body=bytes(400)), "400 bytes where its header says"),
    "nested": (npy((), head=b"[" * 9000), "no .npy file"),
    "code": (npy((), head=b"__import__('os').system('touch owned')"), "no .npy file"),
    "words": (npy((1,), "<U4", bytes(16)), "no numbers that tensors hold"),
    "one number": (npy((), body=bytes(4)), "without a row"),
    "no rows": (npy((0, 3)), "without a row"),
    "an archive": (b"PK\x03\x04" + bytes(60), "no .npy file"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    data, why = ARRAYS[name]
    path.write_bytes(data)
    with quiet(megabytes=20), pytest.raises(ValueError, match=rf"a\.npy cannot be read as one array of numbers \(.*({why})"):
        Arrays(path)
    shard = tmp_path / "a.tar"
    shard.write_bytes(packed("0.npy", data) + bytes(1024))
    if name not in ("one number", "no rows"):  # a sample may be one number, or none
        with quiet(megabytes=20), pytest.raises(ValueError, match=r"a\.tar"):
            Shards(shard, split="all", progress=False)
    assert not (tmp_path / "owned").exists()


def test_column_by_column_is_read_as_it_is_meant(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    assert torch.equal(Arrays(tmp_path / "x.npy").batch(torch.arange(3)).x, torch.from_numpy(x))  # pyright: ignore


TARS = {
    "up": packed("../../evil.npy", b"x"),
    "absolute": packed("/etc/evil.npy", b"x"),
    "drive": packed("C:evil.npy", b"x"),
    "link": packed("a.npy", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "hard link": packed("a.npy", kind=tarfile.LNKTYPE, link="b"),
    "device": packed("a.npy", kind=tarfile.CHRTYPE),
    "pipe": packed("a.npy", kind=tarfile.FIFOTYPE),
    "long name": packed("././@LongLink", b"../" * 40 + b"evil.npy\0", tarfile.GNUTYPE_LONGNAME) + packed("a.npy", b"x"),
    "pax name": packed("x", b"26 path=../../../evil.npy\n", tarfile.XHDTYPE) + packed("a.npy", b"x"),
    "pax size": packed("x", b"21 size=999999999999\n", tarfile.XHDTYPE) + packed("a.npy", b"x"),
    "size": packed("a.npy", size=2**40),
    "negative": packed("a.npy", size=-(2**40)),
}


@pytest.mark.parametrize("name", TARS)
def test_members_of_a_shard(tmp_path, name):
    path = tmp_path / "a.tar"
    path.write_bytes(TARS[name] + bytes(1024))
    for read in (lambda: Shards(path, split="all", progress=False), lambda: Stream(str(path)).take(0, 1)):
        with quiet(megabytes=20), pytest.raises(ValueError, match=r"a\.tar has "):
            read()
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_packed_shard_is_not_unpacked(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(bytes(20_000_000), 9))
    with quiet(megabytes=5), pytest.raises(ValueError, match=r"a\.tar has no tar header at byte 0; damaged, compressed"):
        Shards(path, progress=False)


def test_pictures_and_labels_that_disagree(tmp_path):
    def idx(name, *shape):
        path = tmp_path / name
        path.write_bytes(b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape))))

    for images, labels, why in (
        ((5, 4, 4), (4,), "a label for each"), ((5, 16), (5,), "give pictures"), ((5, 4, 4), (5, 1), "a label for each"),
    ):  # fmt: skip
        idx("a-images-idx3-ubyte", *images)
        idx("a-labels-idx1-ubyte", *labels)
        with pytest.raises(ValueError, match=rf"a-images-idx3-ubyte holds .*{why}"):
            mnist(tmp_path, test=1)
    idx("a-labels-idx1-ubyte", 5)
    idx("b-images-idx3-ubyte", 5, 3, 3)
    idx("b-labels-idx1-ubyte", 5)
    with pytest.raises(ValueError, match=r"b-images-idx3-ubyte has pictures \(3, 3\) and others have \(4, 4\)"):
        mnist(tmp_path, test=1)


def test_tables_of_numbers_that_have_no_mean(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{'-' * (k % 2)}1e308,{k}\n" for k in range(40)))
    with pytest.raises(ValueError, match=r"column 'a' of .*a\.csv has numbers too large for a mean"):
        table(path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)))
    for k, labels in enumerate((np.full(20, np.nan), np.full((20, 2), 1), np.full(20, -1), np.full(20, 1j))):
        np.save(tmp_path / f"y{k}.npy", labels)
        with pytest.raises(ValueError, match=rf"y{k}\.npy holds .*give class numbers"):
            table(tmp_path / "x.npy", str(tmp_path / f"y{k}.npy"))
    for shape in ((20, 0), (20, 2, 2)):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        with pytest.raises(ValueError, match=r"x\.npy holds .*give finite numbers \(N, D\)"):
            table(tmp_path / "x.npy")


GRAPHS = {
    "nodes": {"n": 10**12, "edges": []}, "more than a batch holds": {"n": MOST_NODES + 1, "edges": []},
    "types": {"n": 2, "edges": [[0, 1]], "nodes": [0, 10**9]}, "kinds": {"n": 2, "edges": [[0, 1]], "kinds": [10**9]},
    "ends": {"n": 2, "edges": [[0, 10**30]]}, "half a node": {"n": 2.5, "edges": []}, "no number": {"n": True, "edges": []},
    "three ends": {"n": 3, "edges": [[0, 1, 2]]}, "a word": {"n": 3, "edges": "ab"}, "nothing": None,
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"n": 2, "edges": [[0, 1]]}, GRAPHS[name]]))
    with quiet(megabytes=20), pytest.raises(ValueError, match=r"a\.json has as graph 1 what is none, or one of more than 10,000"):
        read_graphs(path)


def test_graphs_that_are_none_name_their_file(tmp_path):
    path = tmp_path / "a.json"
    for data, why in (
        (b"[" * 200_000, "nested too deeply"),
        (b'[{"n": 1, "n": 2, "edges": []}]', "stands twice"),
        (b"{}", "no list"),
        (b'[{"n": 2, "edges": [[0, 0]]}]', "take loops out"),
        (b"[]", "no list"),
        (b"\xff", "no UTF-8"),
    ):
        path.write_bytes(data)
        with quiet(), pytest.raises(ValueError, match=rf"a\.json.*{why}"):
            read_graphs(path)


def test_molecules_beyond_measure_are_left_out_before_they_are_read(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "a.smi"
    path.write_text("\n".join(["CCO", "C" * 1_000_000, "[" * 10_000, "C(" * 10_000 + "C" + ")" * 10_000, "CCN"]))
    read_molecules(tmp_path / "a.smi")  # rdkit itself takes room
    with quiet(megabytes=20):
        rows = read_molecules(path).rows
    assert rows.molecules == 2 and dict(rows.left_out) == {f"above {LONGEST:,} letters": 3}


def test_pictures_that_would_be_vast(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(100_000, 100_000, (b"IDAT", b"")))
    with quiet(megabytes=20), pytest.raises(ValueError, match=r"a\.png is no PNG that can be read"):
        read_record(path)
    with quiet(megabytes=20), pytest.raises(ValueError, match=r"a\.png cannot be read \(above 64,000,000 pixels\)"):
        _read(path, (3, 8, 8))
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(above 64,000,000 pixels\); give a PNG"):
        picture(path)
    path.write_bytes(png(9000, 9000, (b"IDAT", b"")))  # below what Pillow bears
    with quiet(megabytes=20), pytest.raises(ValueError, match=r"9000 x 9000 is above 64,000,000 pixels"):
        picture(path)
    # a program that would be run for it
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match=r"b\.png cannot be read \(damaged, or no picture\)"):
        picture(tmp_path / "b.png")
    Image.new("L", (8, 8)).save(path)
    assert picture(path).mode == "RGB" and read_record(path) == {}


def test_tokenizers(tmp_path):
    pytest.importorskip("tokenizers")
    whole = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}
    for file, data, why in (
        ("tokenizer.json", "[" * 100_000, "nested too deeply"), ("tokenizer.json", "[]", "holds no object"),
        ("tokenizer.json", '{"a": 1, "a": 2}', "stands twice"), ("tokenizer.json", '{"version": "9"}', "make no tokenizer"),
        ("tokenizer_config.json", "{", "no JSON"), ("special_tokens_map.json", "3", "holds no object"),
    ):  # fmt: skip
        for name in tmp_path.iterdir():
            name.unlink()
        (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
        (tmp_path / file).write_text(data)
        with quiet(), pytest.raises(ValueError, match=rf"{tmp_path}.*{why}"):
            Tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    for limit, length in ((-5, 512), (0, 512), (10**30, 512), (20, 20), (float("1e308"), 512), ("77", 512)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
        assert Tokenizer(tmp_path).length == length


def test_code_beside_a_tokenizer_is_not_looked_for(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "spiece.model").write_bytes(b"x")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "trust_remote_code": True})
    )
    (tmp_path / "evil.py").write_text(f"import os\nos.system('touch {tmp_path}/owned')\n")
    with pytest.raises(ValueError, match="files that make no tokenizer"):
        Tokenizer(tmp_path)
    assert not (tmp_path / "owned").exists() and not os.path.exists("owned")
