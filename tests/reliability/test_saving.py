"""Saving: in the background or not, on a full disk, killed at any call; what is kept and what is never removed."""

import errno
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from langevin import tensors
from langevin.files import write
from langevin.inspection import describe
from langevin.pictures import save_images
from langevin.training import Checkpoints, DiskFull, Patience, load_latest, saving
from langevin.training.checkpoint import read
from tests.field.test_complaints import trainer, weights
from tests.reliability.keeping import SMALL, every_kind, files, same, save
from tests.soaking import Soak

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        save(tmp_path / "kept", step, state={"note": step})
    return tmp_path / "kept"


# R11: in the background


def test_a_save_in_the_background_is_the_same_bytes(tmp_path):
    one, two = Checkpoints(tmp_path / "one", shard_bytes=60), Checkpoints(tmp_path / "two", shard_bytes=60)
    live, state = every_kind(), {"list": [1]}
    for step in (1, 2, 3):
        one.save(step, live, state)
        assert two.save(step, live, state, wait=False) is None
        # what happens to the weights and the state while it is written does not matter
        for part in live.values():
            for name in part:
                part[name] = part[name].clone()
        kept = {p: {n: v.clone() for n, v in d.items()} for p, d in live.items()}
        for part in live.values():
            for value in part.values():
                value.zero_()
        state["list"].append(step)
        assert two.wait() == tmp_path / "two" / f"step-{step:08d}"
        assert same(two.read(two.list()[-1]).tensors, kept)
        live = kept
    assert files(tmp_path / "one") == files(tmp_path / "two")
    two.close()


def slow(monkeypatch, gate):
    real = saving.write_into

    def waiting(*args):
        gate.wait(30)
        return real(*args)

    monkeypatch.setattr(saving, "write_into", waiting)


def test_saves_do_not_overlap_and_buffers_are_used_again(tmp_path, monkeypatch):
    gate = threading.Event()
    slow(monkeypatch, gate)
    kept = Checkpoints(tmp_path)
    kept.save(1, SMALL, {}, wait=False)
    buffers = {k: v.data_ptr() for k, v in kept._buffers.items()}
    assert kept.check() is None  # not there yet, and not waited for
    threading.Timer(0.2, gate.set).start()
    kept.save(2, {p: {n: v + 1 for n, v in d.items()} for p, d in SMALL.items()}, {}, wait=False)
    assert (tmp_path / "step-00000001").is_dir()  # the second waited for the first
    assert {k: v.data_ptr() for k, v in kept._buffers.items()} == buffers
    kept.close()
    assert not kept._buffers
    assert same(read(tmp_path / "step-00000001").tensors, SMALL)  # the buffers were not written over too early
    assert torch.equal(read(tmp_path / "step-00000002").tensors["model"]["w"], SMALL["model"]["w"] + 1)


@pytest.mark.parametrize("how", ["save", "check", "close", "wait", "latest"])
def test_a_failure_in_the_background_is_raised_once_at_the_next_call(folder, monkeypatch, capsys, how):
    kept = Checkpoints(folder)

    def broken(*args):
        raise PermissionError("not here")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_into", broken)
        kept.save(30, SMALL, {}, wait=False)
        kept._thread.join()  # pyright: ignore
    assert "the checkpoint of step 30 was not written: not here" in capsys.readouterr().err
    call = {"save": lambda: kept.save(40, SMALL, {})}.get(how, getattr(kept, how))
    with pytest.raises(PermissionError, match="not here"):
        call()
    assert [p.name for p in folder.iterdir() if "partial" in p.name] == []
    assert kept.save(40, SMALL, {}) == folder / "step-00000040"


def test_the_process_ends_only_when_the_checkpoint_is_written(tmp_path):
    code = (
        "import sys, torch; from langevin.training import Checkpoints\n"
        "Checkpoints(sys.argv[1]).save(5, {'model': {'w': torch.ones(2_000_000)}}, {}, wait=False)\n"
        "raise SystemExit('no time to wait')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "no time to wait" in done.stderr
    assert read(tmp_path / "step-00000005").tensors["model"]["w"].sum() == 2_000_000


# R2: killed at every call


def killed_at_every_call(tmp_path, background, shard_bytes):
    """Returns at how many calls the save was killed."""
    template, folder = tmp_path / "template", tmp_path / "kept"
    for step in (10, 20):
        save(template, step, state={"note": step})
    command = [sys.executable, "-m", "tests.reliability.dying", template, folder, shard_bytes, int(background)]
    source = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=source, check=False)
    assert done.returncode == 0, done.stderr
    every = sorted(folder.iterdir(), key=lambda p: int(p.name))
    answers = []
    for own in every:
        found = load_latest(own)
        assert found is not None and found.step in (20, 30) and same(found.tensors, SMALL)
        answers.append(found.step)
        whole = [p for p in Checkpoints(own).list() if read(p)]  # whatever is named as a checkpoint is whole
        assert len(whole) >= 2
        for path in whole[:-1]:
            assert files(path) == files(template / path.name)
        # the next trainer clears up, and goes on
        Checkpoints(own).clean()
        assert not [p.name for p in own.iterdir() if p not in whole]
        assert save(own, 30, state={"note": 30}).is_dir()
        assert [p.name for p in own.iterdir() if p.name not in ("step-00000020", "step-00000030")] == []
    assert answers == sorted(answers) and answers[0] == 20 and answers[-1] == 30
    return len(every) - 1


@pytest.mark.parametrize("background", [False, True])
def test_a_save_killed_at_any_call_leaves_what_was_there(tmp_path, background, capsys):
    assert killed_at_every_call(tmp_path, background, 10**9) > 30
    assert "passed over" not in capsys.readouterr().err


@pytest.mark.soak
def test_a_save_in_many_files_killed_at_any_call(tmp_path, capsys):
    soak = Soak(capsys, "R2", 4, "saves in many files, each killed at every one of its calls", every=0)
    calls = []
    for n in range(4):
        calls.append(killed_at_every_call(tmp_path / str(n), n % 2 == 1, 10))
        soak.done()
    soak.over(f"{sum(calls):,} kills ({', '.join(map(str, calls))}): what was there is whole, leftovers go, the next save works")


@pytest.mark.soak
def test_steps_beside_a_save_take_as_long(tmp_path, capsys):
    # steps beside a save and steps without one, in turn; by the clock where a core is free, and by what they compute in any case
    free = os.getloadavg()[0] < (os.cpu_count() or 1) - 1
    rounds, saver = 20, Checkpoints(tmp_path, keep=2)
    large = {"model": {f"w{k}": torch.randn(512, 1024) for k in range(24)}}
    net, x = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8))), torch.randn(64, 512)
    opt = torch.optim.AdamW(net.parameters())

    def step():
        began, spent = time.perf_counter(), time.thread_time()
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
        return time.perf_counter() - began, time.thread_time() - spent

    soak, alone, beside = Soak(capsys, "R11", rounds, "saves of 50 MB in the background"), [step()], [step()]
    for n in range(1, rounds + 1):
        alone += [step() for _ in range(50)]
        saver.save(n, large, {}, wait=False)
        while saver._thread is not None and saver._thread.is_alive():
            beside.append(step())
        saver.wait()
        soak.done()
    saver.close()
    (wall, own), (wall_alone, own_alone) = (map(statistics.median, zip(*times, strict=True)) for times in (beside, alone))
    by = "the clock" if free else "its own time, since no core is free for the save"
    soak.over(f"a step takes {1e3 * wall:.1f} ms beside one, {1e3 * wall_alone:.1f} ms alone (its own time {1e3 * own:.1f} and "
              f"{1e3 * own_alone:.1f} ms); judged by {by}")  # fmt: skip
    assert len(beside) > 20 and own < 1.2 * own_alone and (wall < 1.2 * wall_alone or not free)


def test_steps_go_on_while_a_save_is_held_up(tmp_path, monkeypatch):
    gate = threading.Event()
    slow(monkeypatch, gate)
    run = trainer(tmp_path, steps=40, save_every=40)
    run.update()
    run.save(wait=False)
    for _ in range(5):  # the disk has not taken a byte yet
        run.update()
    assert run.step == 6 and not list((tmp_path / "checkpoints").glob("step-*[0-9]"))
    gate.set()
    run.close()
    assert [p.name for p in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000001"]


def test_a_replacement_killed_half_way_is_taken_back(folder):
    os.rename(folder / "step-00000020", folder / "step-00000020.replaced")
    kept = Checkpoints(folder)
    assert list(kept.clean()) == [] and [p.name for p in kept.list()] == ["step-00000010", "step-00000020"]


# R3: a full disk


@contextmanager
def no_file_above(size):
    """The system refuses to let any file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("room", [0, 1, 7, 8, 9, 100, 700, 4000, 20_000])
def test_a_full_disk_keeps_what_was_there(folder, room, wait, capsys):
    before = files(folder)
    large = {"small": {"a": torch.ones(2)}, "model": {"w": torch.ones(10_000), "b": torch.ones(3)}}
    kept = Checkpoints(folder)
    with no_file_above(room), pytest.raises(DiskFull, match=r"^no space is left to write .*step-00000030.*; free some"):
        kept.save(30, large, {}, wait)
        kept.close()
    assert files(folder) == before and sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000020"]
    assert kept.save(30, large, {}) == folder / "step-00000030"


@pytest.mark.parametrize("wait", [True, False])
def test_patience_goes_on_in_memory_and_gives_up_in_the_end(folder, wait, capsys):
    kept, patience = Checkpoints(folder), Patience(3)
    large = {"model": {"w": torch.ones(10_000)}}
    for _ in range(2):
        with no_file_above(2000):
            for step in (30, 40):
                patience.save(kept, step, large, {}, wait)
                if not wait:
                    kept._thread.join()  # pyright: ignore
        assert patience.failures == (2 if wait else 1)  # a failure in the background is known at the next save
        assert patience.save(kept, 50, large, {}, wait) == (folder / "step-00000050" if wait else None)
        kept.wait()
        patience.save(kept, 60, large, {}, wait)
        kept.wait()
        assert patience.failures == 0 and load_latest(folder).step >= 50  # pyright: ignore
    kept.close()
    with no_file_above(2000), pytest.raises(DiskFull):
        for step in (70, 80, 90, 100):
            patience.save(kept, step, large, {}, wait)
    kept.wait()
    assert patience.failures == 3


@pytest.mark.parametrize("wait", [True, False])
def test_any_failure_of_a_disk_is_borne_and_no_other_error(folder, monkeypatch, capsys, wait):
    kept, patience = Checkpoints(folder), Patience(2)

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_into", broken)
        assert patience.save(kept, 30, SMALL, {}, wait) is None
        if not wait:
            kept._thread.join()  # pyright: ignore
    assert patience.save(kept, 40, SMALL, {}) == folder / "step-00000040" and patience.failures == 0
    assert "Input/output error. Training goes on, and tries again at the next save." in capsys.readouterr().err
    with pytest.raises(ValueError, match="not what JSON can say"):
        patience.save(kept, 50, SMALL, {"loss": float("nan")}, wait)
    monkeypatch.setattr(saving, "write_into", broken)
    with pytest.raises(OSError, match="Input/output error"):
        for step in (60, 70, 80):
            patience.save(kept, step, SMALL, {}, wait)


def test_a_run_that_its_disk_ends_is_saved_once_more(tmp_path, monkeypatch, capsys):
    real = saving.write_into

    def broken(folder, step, *rest):
        if step < 8:
            raise OSError(errno.EIO, "Input/output error")
        return real(folder, step, *rest)

    monkeypatch.setattr(saving, "write_into", broken)
    run = trainer(tmp_path / "part", steps=20, save_every=2)
    with pytest.raises(OSError, match="Input/output error"):  # steps 2, 4 and 6, each of which is known at the next
        run.run(progress=False)
    assert "step 8 was saved after all" in capsys.readouterr().err
    again = trainer(tmp_path / "part", steps=20, save_every=2, resume=True)
    assert again.step == 8
    again.run(progress=False)
    whole = trainer(None, steps=20)
    whole.run(progress=False)
    assert torch.equal(weights(again.denoiser), weights(whole.denoiser))


def test_other_files_are_whole_or_as_they_were(tmp_path, capsys):
    plan, picture = tmp_path / "plan.json", tmp_path / "a.png"
    write(plan, "before")
    save_images(torch.zeros(1, 1, 8, 8), picture)
    before = files(tmp_path)
    with no_file_above(20):
        for attempt in (
            lambda: write(plan, "x" * 21), lambda: save_images(torch.zeros(9, 1, 64, 64), picture),
            lambda: tensors.save(tmp_path / "a.safetensors", {"w": torch.ones(9)}),
        ):  # fmt: skip
            with pytest.raises(DiskFull, match="no space is left to write"):
                attempt()
    assert files(tmp_path) == before


def test_a_log_on_a_full_disk_stops_the_run_which_goes_on_later(tmp_path, capsys):
    whole = trainer(tmp_path / "whole", steps=8)
    whole.run(progress=False)
    size = (tmp_path / "whole" / "log.jsonl").stat().st_size
    part = trainer(tmp_path / "part", steps=8, save_every=100)
    with no_file_above(size // 2), pytest.raises(DiskFull, match=r"^no space is left to write .*log\.jsonl"):
        part.run(progress=False)  # nor is there space for a checkpoint
    again = trainer(tmp_path / "part", steps=8, resume=True, save_every=100)
    again.run(progress=False)
    assert torch.equal(weights(again.denoiser), weights(whole.denoiser))
    steps = [json.loads(line)["step"] for line in (tmp_path / "part" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("wait", [True, False])
def test_a_disk_that_fills_up_and_is_emptied(small_disk, wait, capsys):
    large = {"model": {"w": torch.ones(75_000)}}  # two fit, three do not
    kept, patience = Checkpoints(small_disk / "run"), Patience(4)
    for step in (1, 2):
        kept.save(step, large, {})
    before = files(small_disk)
    (small_disk / "ballast").write_bytes(bytes(200_000))
    for step in (3, 4):
        assert patience.save(kept, step, large, {}, wait) is None
    with pytest.raises(DiskFull):
        write(small_disk / "plan.json", "x" * 300_000)
    if not wait:
        kept._thread.join()  # pyright: ignore
    (small_disk / "ballast").unlink()
    assert files(small_disk) == before
    patience.save(kept, 5, {"model": {"w": torch.ones(50_000)}}, {}, wait)
    kept.wait()
    assert [p.name for p in kept.list()] == ["step-00000002", "step-00000005"]


# R9: what is in the way


def test_what_is_in_the_way_is_set_aside_and_never_removed(folder, capsys):
    (folder / "step-00000030").mkdir()
    (folder / "step-00000030" / "photo.jpg").write_bytes(b"precious")
    (folder / "step-00000020" / "manifest.json").write_bytes(b"torn")
    for step in (20, 30):
        save(folder, step)
    assert capsys.readouterr().err.count("was set aside as step-000000") == 2
    assert (folder / "step-00000030.aside-1" / "photo.jpg").read_bytes() == b"precious"
    assert (folder / "step-00000020.aside-1" / "manifest.json").read_bytes() == b"torn"
    (folder / "step-00000040.partial").mkdir()
    (folder / "step-00000040.partial" / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="partial is in the way and holds files that are not ours; move it away"):
        save(folder, 40)
    assert (folder / "step-00000040.partial" / "photo.jpg").exists()


def test_foreign_things_are_left_alone(folder, tmp_path):
    elsewhere = save(tmp_path / "elsewhere", 5)
    (folder / "step-00000005").symlink_to(elsewhere)
    (folder / "step-00000010" / "notes.txt").write_text("mine")  # in our own checkpoint
    for name in ("best", "step-final", "step-00000003", "step-00000004.partial", "step-7", "step-000000012"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"mine")
    (folder / "step-00000002").mkdir()
    (folder / "step-00000001").write_text("a file")
    before = files(folder)
    for step in (30, 40, 50):
        save(folder, step)
    after = files(folder)
    assert all(after[name] == content for name, content in before.items() if not name.startswith("step-00000020/"))
    assert (folder / "step-00000002").is_dir() and read(elsewhere).step == 5
    assert not (folder / "step-00000020").exists()  # ours, and old


def test_the_same_step_again(folder):
    before = files(folder)
    save(folder, 20, state={"note": 20})
    assert files(folder) == before  # the same checkpoint: the one that is there stays
    other = {"model": {"w": torch.zeros(2)}}
    save(folder, 20, other)  # of a run that went back and came here another way
    assert same(read(folder / "step-00000020").tensors, other) and len(list(folder.iterdir())) == 2


def test_a_rename_that_fails_leaves_what_was_there(folder, monkeypatch):
    before = files(folder)

    def busy(self, target):
        raise OSError(errno.EBUSY, "Device or resource busy")

    for step in (20, 30):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", busy)
            with pytest.raises(OSError, match="busy"):
                save(folder, step)
        assert files(folder) == before and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(folder, monkeypatch, code):
    before = files(folder)

    def refused(self, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OSError, match=r"step-00000030\.partial"):
        save(folder, 30)
    assert files(folder) == before


def test_a_disk_that_lies_is_found_out(folder, monkeypatch):
    before = files(folder)
    real = saving.write_into

    def rotting(partial, *args):
        manifest = real(partial, *args)
        file = partial / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        return manifest

    monkeypatch.setattr(saving, "write_into", rotting)
    with pytest.raises(OSError, match=r"the disk does not give back what was written to it: .*model\.safetensors"):
        save(folder, 30)
    assert files(folder) == before


def test_clocks_do_not_matter(folder, monkeypatch):
    for path in folder.rglob("*"):
        os.utime(path, (2**33, 2**33))  # in the far future
    monkeypatch.setattr(time, "time", lambda: -1e9)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    save(folder, 30)
    for path in (folder / "step-00000030").iterdir():
        os.utime(path, (0, 0))
    found = load_latest(folder)
    assert found is not None and found.step == 30
    assert [p.name for p in Checkpoints(folder).list()] == ["step-00000020", "step-00000030"]


def test_saving_what_was_just_loaded_over_itself(folder):
    found = load_latest(folder)
    assert found is not None
    kept = Checkpoints(folder)
    for wait in (True, False):
        kept.save(20, found.tensors, {"wait": wait}, wait)
        assert same(kept.latest().tensors, SMALL)  # pyright: ignore


# R10: what is kept


def test_never_fewer_than_two_that_were_verified(tmp_path, monkeypatch):
    # whenever anything is removed, two checkpoints read back whole
    kept, removed = Checkpoints(tmp_path), []
    real = Path.unlink

    def watched(self, *args, **kwargs):
        if self.name != saving.MARKER:
            removed.append(self.parent.name)
            assert len([p for p in kept.list() if read(p)]) >= 2
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "unlink", watched)
    for step in range(1, 8):
        kept.save(step, SMALL, {})
    assert [p.name for p in kept.list()] == ["step-00000006", "step-00000007"]
    assert len({name[:13] for name in removed}) == 5  # all that went was watched as it went


def test_snapshots_are_kept(tmp_path):
    kept = Checkpoints(tmp_path, keep=2, keep_every=3)
    for step in range(1, 9):
        kept.save(step, SMALL, {})
    assert [int(p.name[5:]) for p in kept.list()] == [3, 6, 7, 8]


def test_what_was_verified_is_read_again_only_if_it_changed(tmp_path, monkeypatch):
    seen, real = [], saving.verify
    monkeypatch.setattr(saving, "verify", lambda path, *a, **k: (seen.append(path.name), real(path, *a, **k))[1])
    kept = Checkpoints(tmp_path, keep=3)
    for step in range(1, 6):
        kept.save(step, SMALL, {})
    assert seen == [f"step-{step:08d}.partial" for step in range(1, 6)]
    del seen[:]
    data = tmp_path / "step-00000004" / "model.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    kept.save(6, SMALL, {})
    assert seen == ["step-00000006.partial", "step-00000004"]
    assert [int(p.name[5:]) for p in kept.list()] == [3, 4, 5, 6]  # 4 is damaged, so it does not count


def test_steps_beyond_eight_digits(tmp_path):
    kept = Checkpoints(tmp_path)
    for step in (99_999_999, 100_000_000, 123_456_789_012):
        kept.save(step, SMALL, {})
    assert [int(p.name[5:]) for p in kept.list()] == [100_000_000, 123_456_789_012]


@pytest.mark.parametrize("setting", [{"keep": 1}, {"keep_every": 0}, {"shard_bytes": 0}])
def test_settings_out_of_range_are_refused(tmp_path, setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} is "):
        Checkpoints(tmp_path, **setting)


def test_looking_writes_nothing(folder):
    (folder / "step-00000030.partial").mkdir()
    before = sorted(folder.rglob("*")), files(folder)
    kept = Checkpoints(folder)
    kept.latest(), kept.list(), kept.check(), kept.close(), describe(folder / "step-00000020", check=True)
    assert (sorted(folder.rglob("*")), files(folder)) == before
