"""Whatever a file holds, reading it ends well or in one sentence of ours: no other exception, no hang, no memory to speak of."""

import gzip
import hashlib
import json
import random
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import langevin as lv
from langevin import plans, tensors
from langevin.data import Pictures, mnist
from langevin.data.mnist import read_idx
from langevin.inspection import describe
from langevin.recipes import RECIPES, recipe
from langevin.recipes.opening import read_recipe
from langevin.training.checkpoint import load_latest, read
from tests.field.test_complaints import trainer
from tests.reliability.keeping import save
from tests.security import data_files
from tests.security.mutants import mutated, quiet, rearranged
from tests.soaking import Soak

COUNT = 20_000
SHARES = {"tensors": 0.25, "manifest": 0.15, "plan": 0.2, "recipe": 0.15, "pictures": 0.15, "idx": 0.1}


def share(name, count):
    return range(int(SHARES[name] * count))


def fuzz_tensors(tmp_path, count, seed):
    rng, path = random.Random(seed), tmp_path / "a.safetensors"
    good = [
        safetensors.torch.save({"w": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.bfloat16), "s": torch.tensor(1)}),
        safetensors.torch.save({"w": torch.ones(5, dtype=torch.uint8)}, {"format": "pt"}), safetensors.torch.save({}),
    ]  # fmt: skip
    for _ in share("tensors", count):
        whole = rng.choice(good)
        length = int.from_bytes(whole[:8], "little")
        if rng.random() < 0.3:
            data = mutated(rng, whole)
        else:  # a header that is as long as it says
            head = (rearranged if rng.random() < 0.5 else mutated)(rng, whole[8 : 8 + length])
            data = struct.pack("<Q", len(head)) + head + whole[8 + length :]
        path.write_bytes(data)
        with quiet():
            tensors.load(path)
        with quiet():
            describe(path)
        try:
            theirs = safetensors.torch.load(data)
        except Exception:  # what the library refuses, we refuse
            with pytest.raises(ValueError, match=r"a\.safetensors"):
                tensors.load(path)
        else:
            assert len(theirs) >= 0  # it may be laxer than we are: names that stand twice


def fuzz_manifest(tmp_path, count, seed):
    rng = random.Random(seed)
    path = save(tmp_path, 20, {"model": {"w": torch.ones(3, 4), "b": torch.ones(2)}, "empty": {}}, {"note": 1.5}, shard_bytes=30)
    file = path / "manifest.json"
    whole = file.read_bytes()
    for _ in share("manifest", count):
        if rng.random() < 0.4:
            data = mutated(rng, whole)
        else:  # a digest that agrees: what a careful attacker would write
            fields = json.loads(rearranged(rng, whole))
            fields = fields if isinstance(fields, dict) else {"format": 2}
            fields.pop("digest", None)
            digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
            data = json.dumps({**fields, "digest": digest}).encode()
        file.write_bytes(data)
        with quiet():
            found = read(path)
            assert found.step == 20 and all(v.numel() <= 12 for p in found.tensors.values() for v in p.values())
        with quiet():
            describe(path, check=True)


def fuzz_plan(tmp_path, count, seed):
    rng = random.Random(seed)
    schedule = lv.schedules.cosine()
    good = [plans.parse(word).on(schedule).to_json().encode() for word in ("dpmpp:3", "ddpm:2", "heun:2", "trig:3")]
    file = tmp_path / "plan.json"
    for _ in share("plan", count):
        data = (rearranged if rng.random() < 0.6 else mutated)(rng, rng.choice(good))
        with quiet():
            lv.Plan.from_json(data.decode(errors="surrogateescape"))
        file.write_bytes(data)
        with quiet():
            str(plans.parse(str(file)))


def fuzz_recipe(tmp_path, count, seed):
    rng = random.Random(seed)
    good = [recipe(name).model_dump_json().encode() for name in RECIPES]
    file = tmp_path / "recipe.json"
    for _ in share("recipe", count):
        file.write_bytes((rearranged if rng.random() < 0.5 else mutated)(rng, rng.choice(good)))
        with quiet():
            read_recipe(tmp_path)
        with quiet():
            describe(tmp_path)


def fuzz_pictures(tmp_path, count, seed):
    rng = random.Random(seed)
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    good = []
    kinds = ["RGB.png", "P.png", "I;16.png", "RGB.jpg", "CMYK.jpg", "L.gif", "RGB.webp", "RGBA.png", "RGB.bmp", "1.png"]
    for k, (mode, suffix) in enumerate(kind.split(".") for kind in kinds):
        path = tmp_path / f"good{k}.{suffix}"
        base = Image.fromarray(noise)
        made = Image.fromarray(noise[..., 0].astype(np.uint16)) if mode == "I;16" else base.convert("RGB").convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        made.save(path, **({"exif": exif} if suffix in ("jpg", "png", "webp") else {}))
        good.append((path.read_bytes(), suffix))
        path.unlink()
    left = len(share("pictures", count))
    while left > 0:
        folder = tmp_path / f"album{left}"
        folder.mkdir()
        for k in range(min(left, 100)):
            data, suffix = rng.choice(good)
            (folder / f"{k}.{rng.choice([suffix, 'png'])}").write_bytes(mutated(rng, data))
        left -= 100
        with warnings.catch_warnings(), quiet(seconds=30):
            warnings.simplefilter("ignore", UserWarning)
            album = Pictures(folder, 8, broken="skip", max_skipped=1.0, split="all")
            # what the scan let through can be read
            x = album.batch(torch.arange(len(album))).x
            assert isinstance(x, torch.Tensor) and x.abs().max() <= 1


def fuzz_idx(tmp_path, count, seed):
    rng = random.Random(seed)
    image = b"\0\0\x08\x03" + struct.pack(">3I", 5, 28, 28) + bytes(5 * 784)
    label = b"\0\0\x08\x01" + struct.pack(">I", 5) + bytes(range(5))
    names = {"t10k-images-idx3-ubyte": image, "t10k-labels-idx1-ubyte": label}
    for _ in share("idx", count):
        for name, data in names.items():
            plain, packed = tmp_path / name, tmp_path / f"{name}.gz"
            made = data
            if rng.random() < 0.7:
                head = mutated(rng, data[:16])
                made = head + data[16:] if rng.random() < 0.7 else mutated(rng, data)
            plain.unlink(missing_ok=True)
            packed.unlink(missing_ok=True)
            if rng.random() < 0.5:
                plain.write_bytes(made)
            else:
                squeezed = gzip.compress(made, 1)
                packed.write_bytes(mutated(rng, squeezed) if rng.random() < 0.5 else squeezed)
        with quiet():
            mnist(tmp_path, test=1)


FUZZ = [fuzz_tensors, fuzz_manifest, fuzz_plan, fuzz_recipe, fuzz_pictures, fuzz_idx, *data_files.FUZZ]


@pytest.mark.parametrize("fuzz", FUZZ)
def test_thirty_thousand_inputs(tmp_path, fuzz):
    fuzz(tmp_path, COUNT, seed=0)


@pytest.mark.soak
def test_a_million_inputs(tmp_path, capsys):
    parts = {fuzz.__name__.removeprefix("fuzz_"): fuzz for fuzz in FUZZ}
    shares = {**SHARES, **data_files.SHARES}
    soak = Soak(capsys, "S4", round(50 * COUNT * sum(shares.values())), "mutated files read, or refused in one sentence")
    for seed in range(1, 51):
        for name, fuzz in parts.items():
            own = tmp_path / f"{name}{seed}"
            own.mkdir()
            fuzz(own, COUNT, seed)
            shutil.rmtree(own)
            soak.done(int(shares[name] * COUNT))
    soak.over(", ".join(f"{int(shares[name] * COUNT) * 50:,} {name}" for name in parts))


def test_a_damaged_log_does_not_keep_a_run_from_going_on(tmp_path):
    run = trainer(tmp_path, steps=4)
    run.run(progress=False)
    log = tmp_path / "log.jsonl"
    whole, rng = log.read_bytes(), random.Random(0)
    for _ in range(100):
        log.write_bytes(mutated(rng, whole))
        with quiet():
            trainer(tmp_path, steps=4, resume=True)


# Bombs: small files that would be large


def test_packed_files_take_no_more_than_their_header_says(tmp_path):
    path = tmp_path / "a-images-idx3-ubyte.gz"
    head = b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2)
    path.write_bytes(gzip.compress(head + bytes(300_000_000), 9))
    with quiet(), pytest.raises(ValueError, match="does not hold the values its header says"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 2**31), 9))
    with quiet(), pytest.raises(ValueError, match="does not hold the values its header says"):
        read_idx(path)


def png(width, height, *chunks):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(k, d) for k, d in chunks) + chunk(b"IEND", b"")


def test_picture_bombs_are_refused_before_they_are_unpacked(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "wide.png").write_bytes(png(30_000, 30_000, (b"IDAT", zlib.compress(bytes(10**6), 9))))
    (tmp_path / "text.png").write_bytes(png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)), (b"IDAT", b"")))
    (tmp_path / "exif.jpg").write_bytes(b"\xff\xd8\xff\xe1\xff\xffExif\0\0" + b"II*\0" + b"\xff" * 60_000)
    with quiet(seconds=5), pytest.warns(UserWarning, match="3 of 4 pictures cannot be used and are left out"):
        assert len(Pictures(tmp_path, 8, broken="skip", max_skipped=1.0, split="all")) == 1


def test_headers_that_would_be_large(tmp_path):
    path = tmp_path / "a.safetensors"
    many = b'{"' + b'":{},"'.join(str(k).encode() for k in range(100_000)) + b'":{}}'
    for head in (
        b"{" + b" " * 5_000_000 + b"}",
        b'{"a":' + b"[" * 3_000_000,
        many,
        b'{"__metadata__":{"a":"' + b"x" * 5_000_000 + b'"}}',
    ):
        path.write_bytes(struct.pack("<Q", len(head)) + head)
        with quiet():
            tensors.load(path)
    path.write_bytes(struct.pack("<Q", 2) + b"{}" + b"MZ another file hides here")
    with pytest.raises(ValueError, match="holds 26 bytes of values where its header says 0"):
        tensors.load(path)


# Paths


def test_pipes_links_and_folders_are_not_read(tmp_path):
    import os

    path = save(tmp_path / "kept", 1)
    for kind in ("pipe", "link", "folder"):
        for name in ("manifest.json", "model.safetensors"):
            file, aside = path / name, tmp_path / name
            file.rename(aside)
            if kind == "pipe":
                os.mkfifo(file)  # reading it would wait for ever
            elif kind == "link":
                file.symlink_to(aside)
            else:
                file.mkdir()
            with pytest.raises(ValueError, match=rf"{name}.*(no plain file|a link)"):
                read(path)
            (file.rmdir if kind == "folder" else file.unlink)()
            aside.rename(file)
    assert load_latest(tmp_path / "kept") is not None


def test_awkward_names(tmp_path):
    for name in ("a\0b", "x" * 5000, "../../../../etc/shadow\0"):
        with quiet(length=7000):
            describe(tmp_path / name)
        with quiet(length=7000):
            read(tmp_path / name)
        with quiet(length=7000):
            tensors.load(tmp_path / name)
