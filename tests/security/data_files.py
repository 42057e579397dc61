"""Files of data and of what goes beside models, damaged: every reader answers, or refuses in one sentence that names the file.

Each fuzzer makes whole files, and mutants of three kinds: of bytes, of the fields that say how much follows, and of a form that
parses. Shards are in tar, rows in .npy and .csv, molecules as SMILES, captions in JSONL, graphs in JSON.
"""

import csv
import io
import json
import random
import shutil
import struct
import tarfile
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from langevin import adapters
from langevin.core.tree import leaves
from langevin.data import Arrays, Pictures, Shards, Stream
from langevin.data.cache import cached
from langevin.data.graphs import read_graphs
from langevin.data.molecules import read_molecules
from langevin.data.table import table
from langevin.pictures import save_png
from langevin.record import read_record
from langevin.text.tokens import Tokenizer
from langevin.zoo.embeddings import read_embedding
from tests.security.mutants import mutated, quiet, rearranged

SHARES = {"shards": 0.05, "arrays": 0.05, "rows": 0.05, "smiles": 0.03, "captions": 0.03, "graphs": 0.1, "tokenizer": 0.03,
          "adapter": 0.08, "record": 0.03, "memory": 0.03, "cache": 0.02}  # fmt: skip
NAMES = [
    "../../../etc/cron.d/x.npy", "/etc/passwd", "a/../../b.npy", "C:\\x.npy", "\\\\host\\share\\x.npy", "x\0y.npy", "x" * 4000,
    "con.npy", "a\nb.npy", "\udcff.npy", ".npy", "", "..", "a//b.npy", "\u202e.npy", "000.npy",
]  # fmt: skip
KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE,
         tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"]  # fmt: skip
SIZES = [0, 1, 511, 513, 2**20, 2**33 - 1, 2**40, -1]
WHOLE = [0, 1, -1, 2, 7, 2**31, 2**63 - 1, 2**63, 10**30, 1.5, 1e308, True, "2", None]

RECORDS = [b"19 path=../etc/shad\n", b"12 size=-99\n", b"9999 path=x\n", b"-5 a=b\n", b"20 size=99999999999\n", b"5 a=\n",
           b"22 GNU.sparse.major=1\n", b"11 path=\0\0\n"]  # fmt: skip


def packed(name, data=b"", kind=tarfile.REGTYPE, size=None, link="", form=tarfile.GNU_FORMAT):
    """A member of a tar, whose header may say another size than it has."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data) if size is None else size, link
    return bytes(info.tobuf(form, "utf-8", "surrogateescape")) + data + bytes(-len(data) % 512)


def npy(shape, descr="<f4", body=b"", head=None, version=1):
    """An .npy file whose header says whatever it is told."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() if head is None else head
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes((version, 0)) + length + text + body


def odd_npy(rng):
    """Headers that lie."""
    kind = rng.randrange(5)
    if kind == 0:
        return mutated(rng, npy((2, 2), body=struct.pack("<4f", 1, 2, 3, 4)))
    if kind == 1:
        return npy(tuple(rng.choice(WHOLE) for _ in range(rng.choice([0, 1, 2, 3, 70]))), body=bytes(16))
    if kind == 2:
        word = rng.choice(
            ["|O", "<U9", "<M8[s]", ">f8", "<c8", "|b1", "|V9", "<f16", "<u8", "|S99999999999", "O,O", [("a", "|O")], 7]
        )
        return npy((2,), word, bytes(16))
    if kind == 3:
        made = rng.choice(
            [b"[" * 5000, b"{" * 90, b"(" * 300, b"-" * 9000, b"{'descr': " + b"9" * 8000, b"__import__('os').system('x')"]
        )
        return npy((), head=made, body=bytes(8), version=rng.choice([1, 2]))
    values = rng.choice([[1e308, -1e308], [float("nan"), 1], [float("inf"), 0], [0, 0]])
    return npy((2, 1), "<f8", struct.pack("<2d", *values))


def odd_shard(rng, good):
    """A shard with something in it that must not be there, or that does not fit."""
    parts = [packed(*rng.choice(good)) for _ in range(rng.randrange(3))]
    kind = rng.randrange(6)
    if kind == 0:
        parts.append(
            packed(rng.choice(NAMES), npy((2,), body=bytes(8)), form=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        )
    elif kind == 1:
        parts.append(packed("x.npy", kind=rng.choice(KINDS), link=rng.choice(["/etc/passwd", "../..", "000.npy"])))
    elif kind == 2:
        parts.append(packed("x.npy", bytes(rng.choice([0, 8, 512])), size=rng.choice(SIZES)))
    elif kind == 3:
        said = b"".join(rng.choice(RECORDS) for _ in range(rng.choice([1, 2, 2000])))
        parts += [packed("x", said, tarfile.XHDTYPE), packed(*good[0])]
    elif kind == 4:
        body = [odd_npy(rng), b"[" * 9000, b'{"label": 1e999}', b"9" * 5000, b"\xff\xfe", b'{"caption": 3, "label": -1}', b""]
        parts.append(packed("007." + rng.choice(["npy", "png", "json", "cls", "txt"]), rng.choice(body)))
    whole = b"".join([*parts, *(packed(*one) for one in good), bytes(1024)])
    return mutated(rng, whole) if kind == 5 else whole


def fuzz_shards(tmp_path, count, seed):
    rng, path = random.Random(seed), tmp_path / "a.tar"
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    array = npy((2,), body=struct.pack("<2f", 1, 2))
    good = [("000.npy", array), ("000.cls", b"1"), ("001.npy", array), ("001.json", b'{"label": 2, "caption": "two"}'),
            ("sub/a.npy", array), ("sub/a.vec.npy", array), ("sub/a.txt", b"three"), ("sub/a.cls", b"0")]  # fmt: skip
    drawn = [(f"{k}.png", picture.getvalue()) for k in range(2)]
    before = sorted(tmp_path.iterdir())
    for _ in range(int(SHARES["shards"] * count)):
        path.write_bytes(odd_shard(rng, rng.choice([good, drawn])))
        # a reason for each broken sample, a line each
        with warnings.catch_warnings(), quiet(names="a.tar"):
            warnings.simplefilter("ignore", UserWarning)
            data = Shards(path, 8, split="all", broken="skip", max_skipped=1.0, progress=False)
            data.batch(torch.arange(len(data)))
        with warnings.catch_warnings(), quiet(names="a.tar"):
            warnings.simplefilter("ignore", UserWarning)
            Stream(str(path), 0, 8, buffer=2).take(0, 4)
    path.unlink(missing_ok=True)
    assert sorted(tmp_path.iterdir()) == before  # nothing was written anywhere


def fuzz_arrays(tmp_path, count, seed):
    rng, path, labels = random.Random(seed), tmp_path / "a.npy", tmp_path / "labels.npy"
    np.save(tmp_path / "x.npy", np.random.default_rng(seed).normal(size=(20, 2)))
    for _ in range(int(SHARES["arrays"] * count)):
        path.write_bytes(odd_npy(rng))
        with quiet(names="a.npy"):
            data = Arrays(path)
            data.batch(torch.arange(len(data))[:2])
        labels.write_bytes(odd_npy(rng))
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("error")
            train, _ = table(rng.choice([path, tmp_path / "x.npy"]), rng.choice([None, str(labels)]), held_out=0.5)
            assert bool(train.x.isfinite().all())  # pyright: ignore


def fuzz_rows(tmp_path, count, seed):
    rng, path = random.Random(seed), tmp_path / "a.csv"
    cells = [
        "1",
        "-2.5",
        "1e308",
        "-1e308",
        "nan",
        "inf",
        "",
        "9" * 400,
        "1_0",
        "x" * 200,
        "\0",
        '"',
        "1e-320",
        " 3 ",
        "0x10",
        "\u0661",
    ]
    for _ in range(int(SHARES["rows"] * count)):
        file = io.StringIO()
        rows = [[str(rng.randrange(99)), str(rng.random()), rng.choice("ab")] for _ in range(12)]
        if rng.random() < 0.6:
            rng.choice(rows)[rng.randrange(3)] = rng.choice(cells)
        csv.writer(file).writerows([["a", "b", "class"], *rows])
        data = file.getvalue().encode()
        path.write_bytes(mutated(rng, data) if rng.random() < 0.5 else data)
        with warnings.catch_warnings(), quiet(names="a.csv"):
            warnings.simplefilter("error")
            train, _ = table(path, rng.choice([None, "class"]), rng.choice([(), ("a", "b")]), held_out=0.5)
            assert bool(train.x.isfinite().all())  # pyright: ignore


def fuzz_smiles(tmp_path, count, seed):
    pytest.importorskip("rdkit")
    rng, path = random.Random(seed), tmp_path / "a.smi"
    path.write_text("CCO\nCCN\n")
    read_molecules(path, properties=("logp", "rings"))  # a library's own size is not the file's
    good = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C[N+](C)(C)C", "N#CC", "C1CC1", "CS(=O)(=O)C"]
    odd = [
        "[" * 500,
        "(" * 500,
        "C(" * 400 + "C" + ")" * 400,
        "C" * 5000,
        "%99" * 100,
        "[999999999999C]",
        "[C+999999]",
        "*",
        "[Og]",
        "C.C",
        "[2H]",
        "C~C",
        "\0",
        "c1cccc1",
        "[CH99]",
        "->",
        "C%(99999)C%(99999)",
        "\ud800",
    ]
    for _ in range(int(SHARES["smiles"] * count)):
        lines = [f"{rng.choice(good)}\t{rng.random()}" for _ in range(6)]
        lines += [f"{rng.choice(odd)}\t1" for _ in range(rng.randrange(3))] + ["CCO\t2", "CCN\t3"]
        rng.shuffle(lines)
        data = "\n".join([rng.choice(["smiles\tvalue", "", "# x\tvalue"]), *lines]).encode("utf-8", "surrogatepass")
        path.write_bytes(mutated(rng, data) if rng.random() < 0.5 else data)
        with quiet(seconds=4, names="a.smi"):
            made = read_molecules(path, properties=rng.choice([(), (), ("value",), ("logp", "rings")]))
            assert made.size <= 4096 and made.marginals()["edges"].isfinite().all()


def fuzz_captions(tmp_path, count, seed):
    rng, album = random.Random(seed), tmp_path / "album"
    album.mkdir()
    for k in range(3):
        Image.new("RGB", (8, 8)).save(album / f"{k}.png")
    good = b"".join(json.dumps({"file": f"{k}.png", "text": f"picture {k}"}).encode() + b"\n" for k in range(3))
    for _ in range(int(SHARES["captions"] * count)):
        lines = good.splitlines()
        lines[rng.randrange(3)] = rearranged(rng, lines[0])
        (album / "captions.jsonl").write_bytes(mutated(rng, good) if rng.random() < 0.5 else b"\n".join(lines))
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore", UserWarning)
            data = Pictures(album, 8, captions="captions.jsonl", broken="skip", max_skipped=1.0, split="all")
            assert all(isinstance(text, str) and text for text in data.captions or ())


def fuzz_graphs(tmp_path, count, seed):
    rng, path = random.Random(seed), tmp_path / "a.json"
    good = json.dumps([{"n": 3, "edges": [[0, 1], [1, 2]], "nodes": [0, 1, 0], "kinds": [1, 2]}, {"n": 2, "edges": [[0, 1]]}])
    for _ in range(int(SHARES["graphs"] * count)):
        data = (rearranged if rng.random() < 0.6 else mutated)(rng, good.encode())
        if rng.random() < 0.3:
            tree = json.loads(good)
            one = rng.choice(tree)
            one[rng.choice(["n", "edges", "nodes", "kinds"])] = rng.choice(
                [*WHOLE, [*WHOLE], [[0, 10**30]], [[0, -1]], [[0]], [10**9] * 3, [-(2**63)]]
            )
            data = json.dumps(tree).encode()
        path.write_bytes(data)
        with quiet(names="a.json"):
            graphs = read_graphs(path)
            assert graphs.size <= 10_000 and max(graphs.categories.values()) <= 10_000
            graphs.marginals()
            if graphs.size < 100:
                graphs.batch(torch.arange(len(graphs)))


def fuzz_tokenizer(tmp_path, count, seed):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer as Made
    from tokenizers import models, pre_tokenizers

    rng = random.Random(seed)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "b": 3, "ab</w>": 4, "a</w>": 5, "b</w>": 6}
    made = Made(models.BPE({**words, "ab": 7}, [("a", "b")], unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    settings = {
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "tokenizer_class": "CLIPTokenizer",
    }
    files = {
        "tokenizer.json": made.to_str().encode(),
        "vocab.json": json.dumps(words).encode(),
        "merges.txt": b"#version: 0.2\na b</w>\n",
        "tokenizer_config.json": json.dumps(settings).encode(),
        "special_tokens_map.json": b'{"unk_token": {"content": "a"}}',
    }
    folder = tmp_path / "tokenizer"
    for _ in range(int(SHARES["tokenizer"] * count)):
        folder.mkdir()
        left_out = rng.choice([(), ("tokenizer.json",), ("vocab.json",)])
        for name, data in files.items():
            if name not in left_out:
                if rng.random() < 0.4:
                    data = rearranged(rng, data) if name.endswith("json") and rng.random() < 0.6 else mutated(rng, data)
                (folder / name).write_bytes(data)
        with quiet(names=folder):
            read = Tokenizer(folder)
            assert 0 < read.length <= 2**16
            read(["ab a"])
        shutil.rmtree(folder)


def fuzz_adapter(tmp_path, count, seed):
    rng, net, path = random.Random(seed), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), tmp_path / "a.safetensors"
    adapters.lora(net, rank=2)
    adapters.save_adapters(net, path)
    adapters.merge(net)
    tensors = safetensors.torch.load(path.read_bytes())
    with safetensors.safe_open(path, "pt") as file:
        said = dict(file.metadata())
    word = {"<word>": torch.ones(2, 4)}
    for _ in range(int(SHARES["adapter"] * count)):
        held, told = {n: v.clone() for n, v in tensors.items()}, dict(said)
        if rng.random() < 0.5:
            told["layers"] = (rearranged if rng.random() < 0.7 else mutated)(rng, told["layers"].encode()).decode(
                errors="replace"
            )
        if rng.random() < 0.3:
            held[rng.choice([*held, "x", ""])] = rng.choice(
                [torch.zeros(0), torch.ones(2, 9), torch.full((2, 4), torch.nan), torch.ones(())]
            )
        if rng.random() < 0.2:
            held.pop(rng.choice([*held]))
        data = safetensors.torch.save(held, told)
        path.write_bytes(mutated(rng, data) if rng.random() < 0.2 else data)
        with warnings.catch_warnings(), quiet(length=4000, names="a.safetensors"):
            warnings.simplefilter("ignore", UserWarning)
            adapters.load_adapters(net, path, name="x")
            adapters.merge(net, "x")
        held = {
            rng.choice(["<word>", "emb_params", "clip_l", "clip_g", "\0"]): rng.choice([*held.values(), *word.values()]).clone()
            for _ in range(2)
        }
        path.write_bytes(mutated(rng, safetensors.torch.save(held)) if rng.random() < 0.2 else safetensors.torch.save(held))
        with quiet(names="a.safetensors"):
            assert read_embedding(path).ndim == 2


def fuzz_record(tmp_path, count, seed):
    rng, path = random.Random(seed), tmp_path / "a.png"
    save_png(Image.new("RGB", (4, 4)), path, {"prompt": "a cat", "seed": 3, "size": [4, 4], "loaded": {"revision": None}})
    whole = path.read_bytes()
    with Image.open(path) as image:
        record = image.info["langevin"].encode()
    for _ in range(int(SHARES["record"] * count)):
        if rng.random() < 0.5:
            path.write_bytes(mutated(rng, whole))
        else:
            from PIL.PngImagePlugin import PngInfo

            note = PngInfo()
            text = (rearranged if rng.random() < 0.6 else mutated)(rng, record).decode("latin-1")
            note.add_text("langevin", text, zip=rng.random() < 0.5)
            Image.new("RGB", (4, 4)).save(path, pnginfo=note)
        with quiet(names="a.png"):
            assert isinstance(read_record(path), dict)


def fuzz_cache(tmp_path, count, seed):
    rng, folder, data = random.Random(seed), tmp_path / "cache", Arrays(torch.arange(12.0).reshape(4, 3))
    cached(data, lambda x: 2 * x, folder, "e")
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(int(SHARES["cache"] * count)):
        for name, content in good.items():
            (folder / name).write_bytes(content)
        if rng.random() < 0.6:
            (folder / "manifest.json").write_bytes((rearranged if rng.random() < 0.7 else mutated)(rng, good["manifest.json"]))
        if rng.random() < 0.4:
            (folder / "x-0.npy").write_bytes(odd_npy(rng) if rng.random() < 0.5 else mutated(rng, good["x-0.npy"][:128]))
        with quiet(names=folder, length=7000):
            found = cached(data, lambda x: 2 * x, folder, "e")
            assert len(found) == 4 and all(len(v) == 4 for v in leaves(found.batch(torch.arange(4)).x).values())
    shutil.rmtree(folder)


def fuzz_memory(tmp_path, count, seed):
    """What readers noted for themselves: a damaged note counts as none."""
    rng, path, note = random.Random(seed), tmp_path / "a.tar", tmp_path / "scan.json"
    array = npy((2,), body=struct.pack("<2f", 1, 2))
    path.write_bytes(b"".join([packed("0.npy", array), packed("1.npy", array), bytes(1024)]))
    given = {"size": 8, "split": "all", "scan_file": note, "progress": False}
    whole = Shards(path, **given).batch(torch.arange(2)).x
    good = note.read_bytes()
    for _ in range(int(SHARES["memory"] * count)):
        note.write_bytes((rearranged if rng.random() < 0.7 else mutated)(rng, good))
        with quiet():
            found = Shards(path, **given)
            if len(found) == 2:
                assert torch.equal(found.batch(torch.arange(2)).x, whole)  # pyright: ignore


FUZZ = [
    fuzz_shards,
    fuzz_arrays,
    fuzz_rows,
    fuzz_smiles,
    fuzz_captions,
    fuzz_graphs,
    fuzz_tokenizer,
    fuzz_adapter,
    fuzz_record,
    fuzz_memory,
    fuzz_cache,
]
assert {fuzz.__name__ for fuzz in FUZZ} == {f"fuzz_{name}" for name in SHARES}
