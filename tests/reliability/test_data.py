"""Data that is broken, hostile, or changes while it is read; workers that must not outlive their parent."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zlib
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.core.batch import Batch
from langevin.data import Arrays, InOrder, Order, Pictures, Shards, Stream, cached, encoder_hash, loader
from langevin.data.decode import picture_of
from langevin.data.scan import alone, stamp_of
from langevin.recipes import Recipe, recipe
from langevin.recipes.starting import start


def png(width, height):
    """A PNG that is all header: it says its size, and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture
def album(tmp_path):
    """Six pictures that are whole, and one of every kind that is not."""
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / f"{k}.png")
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    Image.fromarray(np.full((9, 9), 51400, np.uint16)).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "0.png").read_bytes()
    jpeg = io.BytesIO()
    Image.open(tmp_path / "1.png").save(jpeg, "JPEG")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (tmp_path / "lies.jpg").write_text("hello")
    (tmp_path / "long.png").write_bytes(png(30_000, 10))
    (tmp_path / "vast.png").write_bytes(png(30_000, 30_000))
    (tmp_path / "bomb.png").write_bytes(png(19_000, 5_000))
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "link.png")
    for p in tmp_path.iterdir():
        if p.suffix in (".png", ".jpg", ".gif"):
            p.with_suffix(".txt").write_text(f"this is {p.stem}")
    (tmp_path / "2.txt").unlink()
    return tmp_path


BROKEN = {
    "empty.png": "empty",
    "cut.png": "damaged",
    "cut.jpg": "damaged",
    "lies.jpg": "damaged",
    "long.png": "a side above 20,000",
    "vast.png": "above 64,000,000 pixels",
    "bomb.png": "above 64,000,000 pixels",
    "pipe.png": "no plain file",
    "link.png": "the link leads nowhere",
}


def test_every_broken_picture_is_named_before_training(album):
    with pytest.raises(ValueError, match=r"9 of 15 pictures cannot be used") as caught:
        Pictures(album, 8)
    for name, why in BROKEN.items():
        assert f"{name}: " in str(caught.value) and why in str(caught.value).split(f"{name}: ")[1].split("\n")[0]
    with pytest.raises(ValueError, match=r"2\.png: no caption: 2\.txt is missing"):
        Pictures(album, 8, captions="txt")


def test_what_may_be_skipped_has_a_quota(album):
    with pytest.raises(
        ValueError, match=r"pass broken='skip' \(--data.broken skip\) and, .*max_skipped=0.6 \(--data.max-skipped"
    ):
        Pictures(album, 8)
    with pytest.raises(ValueError, match=r"more than max_skipped = 0.01 .* pass max_skipped=0.6"):
        Pictures(album, 8, broken="skip")
    with pytest.warns(UserWarning, match=r"9 of 15 pictures cannot be used and are left out"):
        data = Pictures(album, 8, broken="skip", max_skipped=0.6, split="all")
    assert [p.name for p in data.paths] == ["0.png", "1.png", "2.png", "deep.png", "moving.gif", "print.jpg"]
    x = data.batch(torch.arange(6)).x
    assert (x[3] == 51400 / 257 / 127.5 - 1).all()  # 16 bits
    assert x[4, :, 4, 4].tolist() == [1, -1, -1]  # the first frame
    assert x[5, 0].min() > 0.9 and x[5, 1:].max() < -0.9  # CMYK red
    with pytest.warns(UserWarning):
        again = Pictures(album, 8, broken="skip", max_skipped=0.6, split="all")
    assert torch.equal(again.batch(torch.arange(6)).x, x) and again.digest() == data.digest()


def test_a_picture_that_is_asked_for_by_name_is_upright_and_in_its_own_greys(tmp_path):
    greys = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held on its side
    Image.fromarray(greys).save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(picture_of(tmp_path / "deep.png", "L"), greys)
    assert np.array_equal(picture_of(tmp_path / "turned.png", "L"), np.rot90(greys, -1))


def test_a_split_without_samples_says_of_how_many_and_what_share(tmp_path):
    for k in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    with pytest.raises(
        FileNotFoundError, match=r"the test split of 3 pictures in .* is empty: held_out is 0\.001; .*--data.held-out"
    ):
        Pictures(tmp_path, 8, held_out=0.001, split="test")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read(album):
    (album / "0.png").chmod(0)
    with pytest.raises(ValueError, match=r"0\.png: not allowed to read it"):
        Pictures(album, 8)


def test_a_picture_that_breaks_after_the_scan(tmp_path):
    for k in range(4):
        Image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / f"{k}.png")
    data = Pictures(tmp_path, 8, split="all", keep=3 * 8 * 8)
    data.batch(torch.tensor([0]))
    for k in (0, 1):
        (tmp_path / f"{k}.png").write_bytes(b"")
    data.batch(torch.tensor([0]))  # kept
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"1.png was whole when it was scanned and cannot be read any more: empty") as caught:
            list(islice(loader(data, Order(0, 4, 4), workers=workers), 1))
        assert "\n" not in str(caught.value)


def test_a_scan_is_remembered_only_for_files_that_stayed(tmp_path):
    for k in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    memory = tmp_path / "scan.json"
    Pictures(tmp_path, 8, split="all", scan_file=memory)
    stat = (tmp_path / "0.png").stat()
    (tmp_path / "0.png").write_bytes(bytes(stat.st_size))
    os.utime(tmp_path / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # unchanged, as far as one can see without reading
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 3") as caught:
        Pictures(tmp_path, 8, scan_file=memory)
    assert "1.png: empty" in str(caught.value)
    for damaged in ("", "[]", '{"0.png": 3}', '{"0.png": [1, 2, 3, "x"]}'):
        memory.write_text(damaged)
        with pytest.raises(ValueError, match=r"2 of 3"):
            Pictures(tmp_path, 8, scan_file=memory)


class Failing(Arrays):
    def batch(self, index):
        if 7 in index:
            raise KeyError("lost")
        return super().batch(index)


class Slow(Arrays):
    def batch(self, index):
        time.sleep(0.2)
        return super().batch(index)


def test_a_failing_worker_says_what_and_where():
    data = Failing(torch.arange(8)[:, None])
    with pytest.raises(ChildProcessError, match=r"^reading step \d failed in a worker: 'lost'$"):
        list(islice(loader(data, Order(0, 8, 4), workers=1), 2))


def test_workers_leave_it_to_their_parent_when_to_stop():
    data = Arrays(torch.arange(64)[:, None])
    reading = loader(data, Order(0, 64, 4), workers=2)
    begun = [next(reading), next(reading)]  # one of each: both are at work
    for child in active_children():  # as a launcher's killpg does
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)  # pyright: ignore
    read = [*begun, *islice(reading, 6)]  # further than was read ahead
    alone = list(islice(loader(data, Order(0, 64, 4)), 8))
    assert all(torch.equal(a[0].batch.x, b[0].batch.x) for a, b in zip(read, alone, strict=True))


def test_a_program_ends_while_its_workers_read_ahead():
    program = (
        "import torch\nfrom langevin.data import Arrays, Order, loader\n"
        "reading = loader(Arrays(torch.arange(64)[:, None]), Order(0, 64, 4), workers=1)\nnext(reading)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)  # Python's own SIGTERM at exit would not end them


def test_a_program_ends_when_what_read_ahead_was_collected_as_garbage():
    # in a ring the queue may be collected before it has told the worker to stop
    program = (
        "import gc, torch\nfrom langevin.data import Arrays, Order, loader\n"
        "reading = loader(Arrays(torch.arange(64)[:, None]), Order(0, 64, 4), workers=1)\nnext(reading)\n"
        "ring = [reading]\nring.append(ring)\ndel reading, ring\ngc.collect()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_run_that_has_ended_has_no_workers(tmp_path):
    data = Arrays(torch.randn(16, 2))
    model = lv.Denoiser(lv.networks.MLP(2, 8, 1), lv.Gaussian(lv.schedules.cosine()), "v")
    lv.fit(model, data, steps=2, batch=4, workers=1, out=tmp_path / "run", progress=False)
    assert not active_children()


def test_a_program_ends_when_one_of_its_workers_was_killed():
    program = """
import os, signal, torch
from multiprocessing import active_children
from langevin.data import Arrays, Order, loader
reading = loader(Arrays(torch.arange(64)[:, None]), Order(0, 64, 4), workers=2)
next(reading), next(reading)
os.kill(active_children()[0].pid, signal.SIGKILL)
try:
    for _ in reading:
        pass
except ChildProcessError as error:
    kept = error  # and with it the frames of its traceback
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert "a data worker died" in done.stdout


def test_workers_die_with_their_parent():
    program = (
        "import torch, sys\n"
        "from tests.reliability.test_data import Slow, Order, loader\n"
        "for _ in loader(Slow(torch.arange(64)[:, None]), Order(0, 64, 4), workers=2):\n"
        "    from multiprocessing import active_children\n"
        "    print(*[c.pid for c in active_children()], flush=True)\n"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root, env=env) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]  # pyright: ignore
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 2
    for _ in range(150):
        if not any(alive(pid) for pid in children):
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived their parent by 15 seconds")


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# Arrays


def test_files_that_are_no_arrays(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    np.save(tmp_path / "cut.npy", np.zeros((100, 10)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    (tmp_path / "text.npy").write_text("hello")
    for name in ("objects.npy", "many.npz", "cut.npy", "text.npy"):
        with pytest.raises(ValueError, match="cannot be read as one array of numbers"):
            Arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone\.npy does not exist"):
        Arrays(tmp_path / "gone.npy")


# Shards


def shard(path, *members, end=True):
    """A tar of (name or TarInfo, bytes)."""
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    if not end:
        path.write_bytes(path.read_bytes().rstrip(b"\0"))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def array(*values):
    file = io.BytesIO()
    np.save(file, np.array(values, np.float32))
    return file.getvalue()


X = array(1.0, 2.0)
TRAPS = {
    "up": [("../a.npy", X)],
    "inside up": [("a/../../b.npy", X)],
    "absolute": [("/etc/a.npy", X)],
    "drive": [("C:/a.npy", X)],
    "unc": [("\\\\host\\a.npy", X)],
    "long": [("a" * 2000 + ".npy", X)],
    "line": [("a\nb.npy", X)],
    "symlink": [(special("a.npy", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "hard link": [(special("a.npy", tarfile.LNKTYPE, "/etc/passwd"), b"")],
    "device": [(special("a.npy", tarfile.CHRTYPE), b"")],
    "fifo": [(special("a.npy", tarfile.FIFOTYPE), b"")],
    "twice": [("a.npy", X), ("a.npy", X)],
    "apart": [("a.npy", X), ("b.npy", X), ("a.cls", b"1")],
    "two xs": [("a.npy", X), ("a.png", X)],
    "no x": [("a.cls", b"1")],
    "objects": [("a.npy", (lambda f: (np.save(f, np.array([{}]), allow_pickle=True), f.getvalue())[1])(io.BytesIO()))],
    "no picture": [("a.png", b"hello")],
    "bomb": [("a.png", png(30_000, 30_000))],
    "label": [("a.npy", X), ("a.cls", b"cat")],
    "shapes": [("a.npy", X), ("b.npy", array(1.0))],
}


def read_all(path, how):
    if how == "shards":
        data = Shards(path, 8, split="all")
        return data.batch(torch.arange(len(data)))
    return Stream(str(path) if how == "file" else f"pipe:cat {path}", 0, 8, buffer=1).take(0, 2)


@pytest.mark.parametrize("how", ["shards", "file", "pipe"])
@pytest.mark.parametrize("name", TRAPS)
def test_shards_that_trap(name, how, tmp_path):
    path = shard(tmp_path / "s.tar", *TRAPS[name])
    with pytest.raises(ValueError, match=r"s\.tar") as caught:
        read_all(path, how)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_shards_that_are_cut_or_lie(tmp_path):
    members = [(f"{k}.npy", X) for k in range(4)]
    whole = shard(tmp_path / "s.tar", *members).read_bytes()
    cases = {
        "header": whole[: 2 * 1024 + 100],
        "between members": whole[: 2 * 1024],
        "body": whole[: 2 * 1024 + 600],
        "checksum": whole[:2048] + b"x" + whole[2049:],
        "text": b"hello" * 1000,
        "gzip": b"\x1f\x8b" + bytes(600),
        "nothing": b"",
        "joined": whole + whole,
    }
    info = tarfile.TarInfo("big.npy")
    info.size = 1 << 40
    cases["size"] = bytes(info.tobuf(tarfile.GNU_FORMAT)) + whole
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 30
    cases["extended header"] = bytes(pax.tobuf(tarfile.GNU_FORMAT)) + whole
    path = tmp_path / "s.tar"
    for data in cases.values():
        path.write_bytes(data)
        for read in (lambda: Shards(path, 8, split="all"), lambda: Stream(str(path)).take(0, 9)):
            with pytest.raises(ValueError, match=r"s\.tar"):
                read()


def test_a_command_that_fails_is_no_end_of_data(tmp_path):
    path = shard(tmp_path / "s.tar", *[(f"{k}.npy", X) for k in range(4)])
    for command in (f"pipe:cat {path}; exit 3", f"pipe:head -c 2048 {path}; exit 3", "pipe:exit 3"):
        with pytest.raises(ValueError, match=r"ended with status 3"):
            Stream(command, buffer=1).take(0, 9)
    assert Stream(f"pipe:cat {path}").take(0, 9).x.shape == (9, 2)  # pyright: ignore
    with pytest.raises(ValueError, match=r"samples is 5, and 4 were read"):
        Stream(str(path), samples=5).take(0, 9)
    with pytest.raises(ValueError, match=r"give a path, or a command"):
        Stream("https://example.org/s.tar").take(0, 1)


def picture(k):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 1), np.uint8)[:, :, 0]).save(file, "PNG")
    return file.getvalue()


def torn(folder, count=24, per=8, bad=(2, 9, 10)):
    """Shards of grey pictures, some of them cut short."""
    for first in range(0, count, per):
        members = [(f"{k:03}.png", picture(k)[: 40 if k in bad else None]) for k in range(first, first + per)]
        shard(folder / f"{first // per}.tar", *members)
    return sorted(folder.glob("*.tar"))


UNREADABLE = {
    "001": ({"png": b""}, "empty"),
    "002": ({"png": b"hello"}, "damaged, or no picture"),
    "003": ({"png": png(30_000, 30_000)}, "above 64,000,000 pixels"),
    "004": ({"npy": X[:-1]}, "it holds 7 bytes where its header says"),
    "005": ({"npy": X, "cls": b"cat"}, "its cls is no integer"),
    "006": ({"npy": X, "text.npy": b"x"}, "damaged, or no .npy file"),
    "007": ({"npy": X, "txt": b" "}, "its caption is empty"),
    "008": ({"npy": X, "png": png(8, 8)}, "it has npy and png; there must be one"),
    "009": ({"cls": b"1"}, "it has neither picture nor npy"),
}


def test_every_broken_sample_of_shards_is_named_before_training(tmp_path):
    whole = {"000": {"npy": X, "cls": b"1", "txt": b"one"}, "010": {"npy": array(3.0, 4.0), "cls": b"0", "txt": b"two"}}
    every = sorted({**whole, **{key: members for key, (members, _) in UNREADABLE.items()}}.items())
    shard(tmp_path / "s.tar", *[(f"{key}.{end}", data) for key, members in every for end, data in members.items()])
    with pytest.raises(ValueError, match="9 of 11 samples cannot be used; mend them or pass broken='skip'") as caught:
        Shards(tmp_path)
    for key, (_, why) in UNREADABLE.items():
        assert f"\n  {key} in {tmp_path}/s.tar: {why}" in str(caught.value)
    with pytest.raises(ValueError, match=r"more than max_skipped = 0.5 lets go; mend them, or pass max_skipped=0.82"):
        Shards(tmp_path, broken="skip", max_skipped=0.5)
    with pytest.warns(UserWarning, match="9 of 11 samples cannot be used and are left out"):
        data = Shards(tmp_path, split="all", broken="skip", max_skipped=0.9)
    batch = data.batch(torch.arange(2))
    assert batch.x.tolist() == [[1, 2], [3, 4]] and batch.cond["label"].tolist() == [1, 0] and data.captions == ["one", "two"]  # pyright: ignore


def test_an_unchanged_shard_is_not_opened_again(tmp_path, monkeypatch):
    paths, memory = torn(tmp_path), tmp_path / "scan.json"
    options = {"size": 8, "channels": 1, "split": "all", "broken": "skip", "max_skipped": 0.2, "scan_file": memory}
    with pytest.warns(UserWarning):
        first = Shards(tmp_path, **options)
    assert len(first) == 21
    opened = []

    def recorded(real):
        def call(path, *rest, **options):
            if path.suffix == ".tar":
                opened.append(path.name)
            return real(path, *rest, **options)

        return call

    monkeypatch.setattr(Path, "open", recorded(Path.open))
    monkeypatch.setattr(Path, "read_bytes", recorded(Path.read_bytes))
    with pytest.warns(UserWarning, match="3 of 24"):
        second = Shards(tmp_path, **options)
    assert not opened
    index = torch.tensor([20, 0, 7])
    assert torch.equal(first.batch(index).x, second.batch(index).x) and second.shape == (1, 8, 8)
    shard(paths[1], *[(f"{k:03}.png", picture(k)) for k in range(8, 16)])
    opened.clear()
    with pytest.warns(UserWarning, match="1 of 24"):
        assert len(Shards(tmp_path, **options)) == 23 and set(opened) == {"1.tar"}
    before = memory.read_bytes()
    wrong = before.replace(b'"000.png", 512', b'"000.png", -1')
    assert wrong != before
    for damaged in (b"", b"[]", b'{"a": 1}', before[:-9], wrong, before.replace(b'"000"', b"000"[:1])):
        memory.write_bytes(damaged)
        with pytest.warns(UserWarning, match="1 of 24"):
            assert torch.equal(Shards(tmp_path, **options).batch(index).x, first.batch(torch.tensor([18, 0, 7])).x)


def test_of_two_processes_one_scans_and_the_other_waits(tmp_path, monkeypatch):
    for k in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    memory, looks = tmp_path / "scan.json", []
    monkeypatch.setattr("langevin.data.scan.measure", lambda path: looks.append(path) or (8, 8))
    with alone(memory):  # the first of them is at work
        other = threading.Thread(target=Pictures, args=(tmp_path, 8), kwargs={"split": "all", "scan_file": memory})
        other.start()
        other.join(0.3)
        assert other.is_alive() and not looks
        lines = {f"{k}.png": [*(stamp_of(tmp_path / f"{k}.png") or ()), 8, 8] for k in range(3)}
        memory.write_text(json.dumps(lines))
    other.join()
    assert not looks  # it found what the first had found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_scanned_all_the_same(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    tmp_path.chmod(0o500)
    try:
        assert len(Pictures(tmp_path, 8, split="all", scan_file=tmp_path / "scan.json")) == 1
    finally:
        tmp_path.chmod(0o700)


def test_an_unreadable_sample_of_a_stream_is_replaced_by_the_next_whole_one(tmp_path):
    paths = [str(p) for p in torn(tmp_path)]

    def stream(**options):
        shared = {"seed": 1, "size": 8, "channels": 1, "buffer": 5, "broken": "skip", "max_skipped": 0.2}
        return Stream(paths, **{**shared, **options})

    with pytest.raises(ValueError, match=r"cannot be read: damaged"):
        stream(broken="fail").take(0, 24)
    known = {picture(k): k for k in range(24)}
    order = [known.get(s.members["png"].data) for s in islice(stream()._from(0), 60)]  # None for those that are cut
    assert sum(k is None for k in order[:24]) == 3
    wanted = [next(k for k in order[place:] if k is not None) for place in range(48)]
    with pytest.warns(
        UserWarning, match=r"cannot be read \(damaged, or no picture\); the next whole sample stands in its place"
    ) as said:
        whole = stream().take(0, 48).x
    assert len(said) == 3  # each once
    for place, k in enumerate(wanted):
        raw = np.asarray(Image.open(io.BytesIO(picture(k))))
        assert torch.equal(((whole[place, 0] + 1) * 127.5).round().byte(), torch.from_numpy(raw.copy()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in (0, 7, 23, 24, 40):  # begun anywhere, in any pieces
            one = stream()
            assert torch.equal(torch.cat([one.take(place, 3).x, one.take(place + 3, 5).x]), whole[place : place + 8])
        ranks = [islice(loader(stream(), InOrder(0, 12), 0, 2, r, 2, 2), 4) for r in range(2)]
        assert torch.equal(torch.cat([p.batch.x for pieces in zip(*ranks, strict=True) for r in pieces for p in r]), whole)
        with pytest.raises(ValueError, match=r"3 samples cannot be read, more than max_skipped = 0.1 of 24 lets go"):
            stream(max_skipped=0.1, samples=24).take(0, 24)
        shard(tmp_path / "none.tar", *[(f"{k}.png", b"x") for k in range(3)])
        with pytest.raises(ValueError, match=r"none of the 3 samples can be read"):
            Stream(str(tmp_path / "none.tar"), size=8, broken="skip", max_skipped=1).take(0, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["stream", "shards"])
def test_a_run_that_skips_is_killed_and_ends_at_the_same_bytes(kind, tmp_path):
    paths = torn(tmp_path)
    if kind == "stream":
        shard(tmp_path / "held.shard", *[(f"{k}.png", picture(100 + k)) for k in range(3)])
        data = {"kind": kind, "urls": [f"pipe:cat {p}" for p in paths], "test": str(tmp_path / "held.shard"), "buffer": 5}
    else:
        data = {"kind": kind, "folder": str(tmp_path), "held_out": 0.3}
    base = recipe("images").model_dump()
    base["data"] = {**data, "size": 8, "channels": 1, "flip": True, "broken": "skip", "max_skipped": 0.2}
    base["network"] |= {"width": 8, "blocks": 1, "multipliers": (1,), "attention": (), "dropout": 0.1}
    base["train"] |= {"steps": 9, "batch": 4, "save_every": 3, "workers": 0}
    asked = Recipe.model_validate(base)

    def train(out, resume, kill=None):
        _, trainer = start(asked, out, resume)
        trainer.hooks[:] = [] if kill is None else [(kill, lambda *_: os.kill(os.getpid(), signal.SIGKILL))]
        trainer.run(progress=False)

    train(tmp_path / "whole", False)
    child = os.fork()
    if child == 0:
        train(tmp_path / "killed", False, kill=7)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    train(tmp_path / "killed", True)

    def final(out):
        return {p.name: p.read_bytes() for p in (out / "checkpoints" / "step-00000009").iterdir()}

    assert final(tmp_path / "killed") == final(tmp_path / "whole")
    assert (tmp_path / "killed" / "scan.json").exists()


# Caches


def encode(x):
    return x * 0.1


def test_a_cache_killed_anywhere_is_completed_to_the_same(tmp_path):
    data = Arrays(torch.randn(37, 3, generator=torch.Generator().manual_seed(0)))
    reference = cached(data, encode, tmp_path / "whole", "e", batch=4)
    calls = []

    def dying(x):
        calls.append(len(x))
        if len(calls) in (2, 3, 6):
            raise KeyboardInterrupt
        return encode(x)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            cached(data, dying, tmp_path / "cut", "e", batch=4)
        for path in (tmp_path / "cut").glob("*.npy"):
            with path.open("ab") as file:  # a block that was being written
                file.write(b"torn")
    made = cached(data, dying, tmp_path / "cut", "e", batch=4)
    assert len(calls) == 10 + 3  # only the blocks that died were asked for again
    assert (tmp_path / "cut" / "x-0.npy").read_bytes() == (tmp_path / "whole" / "x-0.npy").read_bytes()
    assert torch.equal(made.batch(torch.arange(37)).x, reference.batch(torch.arange(37)).x)
    assert torch.equal(made.batch(torch.arange(37)).x, encode(data.x).half().float())
    cached(data, dying, tmp_path / "cut", "e", batch=4)
    assert len(calls) == 13


def test_a_stale_or_damaged_cache_is_never_used(tmp_path):
    data = Arrays(torch.ones(8, 3))
    folder = tmp_path / "cache"
    cached(data, encode, folder, "e")
    for words, args, options in [
        ("its source is", (Arrays(torch.zeros(8, 3)), encode, folder, "e"), {}),
        ("its encoder is e, and f", (data, encode, folder, "f"), {}),
        ("its dtype is float16, and float32", (data, encode, folder, "e"), {"dtype": "float32"}),
    ]:
        with pytest.raises(ValueError, match=words):
            cached(*args, **options)
    (folder / "x-0.npy").write_bytes((folder / "x-0.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"not what manifest\.json says; delete"):
        cached(data, encode, folder, "e")
    for damage in ("", "{}", "[]", (folder / "manifest.json").read_text().replace('"x"', '"../x"').replace('"": [', '"../x": [')):
        (folder / "manifest.json").write_text(damage)
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            cached(data, encode, folder, "e")
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert encoder_hash(one) == encoder_hash(one) != encoder_hash(other)


def test_what_is_not_finite_is_never_kept(tmp_path):
    data = Arrays(torch.arange(8.0)[:, None])
    with pytest.raises(ValueError, match=r"not finite in float16 for sample 5; look at it"):
        cached(data, lambda x: torch.where(x == 5, torch.nan, x), tmp_path / "a", "e", batch=4)
    with pytest.raises(ValueError, match=r"not finite in float16 for sample 7; keep it as float32"):
        cached(data, lambda x: torch.where(x == 7, 1e5, x), tmp_path / "b", "e", batch=4)
    made = cached(data, lambda x: torch.where(x == 7, 1e5, x), tmp_path / "c", "e", "float32")
    assert made.batch(torch.tensor([7])) == Batch(torch.tensor([[1e5]]))
    with pytest.raises(ValueError, match=r"rows must have one shape"):
        cached(data, lambda x: x.repeat(1, int(x[0]) + 1), tmp_path / "d", "e", batch=4)
    with pytest.raises(ValueError, match=r"the source has no captions"):
        cached(data, encode, tmp_path / "e", "e", what="text")


def test_a_stream_needs_a_sample_for_every_pass(tmp_path):
    path = shard(tmp_path / "s.tar", *[(f"{k}.npy", X) for k in range(4)])
    with pytest.raises(ValueError, match=r"batch is 2 for 1 processes of 3 passes"):
        loader(Stream(str(path)), InOrder(0, 2), accumulate=3)


def test_an_interpreter_that_stumbles_once_is_asked_again(monkeypatch):
    """The parser of CPython before 3.11.9 raises SystemError where garbage is collected at the wrong moment (gh-106905)."""
    import io

    from langevin.data import decode

    file, calls, real = io.BytesIO(), [], np.lib.format.read_array_header_1_0
    np.save(file, np.arange(6).reshape(2, 3))

    def stumbling(f):
        calls.append(f.tell())
        if len(calls) == 1:
            f.read()
            raise SystemError("AST constructor recursion depth mismatch")
        return real(f)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", stumbling)
    assert np.array_equal(decode.read_npy(file.getvalue()), np.arange(6).reshape(2, 3)) and calls == [8, 8]
    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", lambda f: (_ for _ in ()).throw(SystemError()))
    with pytest.raises(decode.Unreadable, match="SystemError"):
        decode.read_npy(file.getvalue())
