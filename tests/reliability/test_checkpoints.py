"""Checkpoints are whole or not there: torn, damaged and foreign files are named and passed over."""

import json
import os
import random
import shutil

import pytest
import torch

import langevin as lv
from langevin.training.checkpoint import load_latest, read, save_checkpoint
from tests.field.test_complaints import trainer, weights

TENSORS = {"model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}, "empty": {}}


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, step, TENSORS, {"note": step}, keep=2)
    return tmp_path


def test_round_trip(folder):
    found = load_latest(folder)
    assert found is not None and found.step == 20 and found.state == {"note": 20}
    for name, value in TENSORS["model"].items():
        assert torch.equal(found.tensors["model"][name], value) and found.tensors["model"][name].dtype == value.dtype
    assert found.tensors["empty"] == {}


def test_the_same_state_is_the_same_bytes(tmp_path):
    a, b = (save_checkpoint(tmp_path / n, 1, TENSORS, {}, keep=2) for n in "ab")
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes()


def test_every_cut_of_the_manifest_is_refused(folder):
    path = folder / "step-00000020" / "manifest.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"manifest.json|step-00000020"):
            read(path.parent)
    found = load_latest(folder)
    assert found is not None and found.step == 10


def test_five_hundred_damaged_checkpoints(folder, capsys):
    rng, good = random.Random(0), folder / "step-00000020"
    keep = {p.name: p.read_bytes() for p in good.iterdir()}
    for _ in range(500):
        name = rng.choice([n for n in keep if n != "manifest.json"])
        data = bytearray(keep[name])
        kind = rng.randrange(6)
        if kind == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(len(data)) :]
        elif kind == 2:
            data += bytes(rng.randrange(1, 20))
        elif kind == 3:
            data[:8] = (2**63).to_bytes(8, "little")  # a huge header
        elif kind == 4:
            data = bytearray(keep["empty.safetensors" if name == "model.safetensors" else "model.safetensors"])  # swapped
        (good / name).write_bytes(bytes(data))
        if kind == 5:
            (good / name).unlink()
        with pytest.raises(ValueError, match=name):
            read(good)
        (good / name).write_bytes(keep[name])
    assert read(good).step == 20


def test_damage_falls_back_and_is_said(folder, capsys):
    (folder / "step-00000020" / "model.safetensors").write_bytes(b"")
    found = load_latest(folder)
    assert found is not None and found.step == 10
    assert "does not match its hash" in capsys.readouterr().err
    assert (folder / "step-00000020").exists()  # nothing is deleted


def test_paths_in_a_manifest_do_not_lead_out(folder):
    from langevin.training.checkpoint import _digest

    path = folder / "step-00000020" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("../step-00000010/model.safetensors", "/etc/passwd", "a/b.safetensors"):
        forged = {**manifest, "hashes": {name: "0"}}
        path.write_text(json.dumps({**forged, "digest": _digest(forged)}))
        with pytest.raises(ValueError, match="files stand beside the manifest"):
            read(path.parent)


def test_a_torn_save_leaves_what_was_there(folder, monkeypatch):
    # the process dies at each system call of the save in turn
    calls = [0]

    class Died(BaseException):
        pass

    def dying(limit, real):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] > limit:
                raise Died
            return real(*args, **kwargs)

        return call

    for limit in range(40):
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(limit, os.fsync))
            patch.setattr("pathlib.Path.rename", dying(limit, type(folder).rename))
            patch.setattr("pathlib.Path.open", dying(limit, type(folder).open))
            try:
                save_checkpoint(folder, 30, TENSORS, {}, keep=2)
                survived = True
            except Died:
                survived = False
        found = load_latest(folder)
        assert found is not None and found.step in (20, 30)
        if survived:
            break
    else:
        pytest.fail("the save never finished")
    assert limit > 5 and load_latest(folder).step == 30  # pyright: ignore
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000020", "step-00000030"]


def test_a_full_disk_keeps_what_was_there(folder, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(folder, 30, TENSORS, {}, keep=2)
    found = load_latest(folder)
    assert found is not None and found.step == 20 and not list(folder.glob("*.partial"))


def test_damaged_checkpoints_do_not_push_out_whole_ones(folder):
    for step in (20, 30):
        save_checkpoint(folder, step, TENSORS, {}, keep=3)
        (folder / f"step-{step:08d}" / "model.safetensors").write_bytes(b"")
    save_checkpoint(folder, 14, TENSORS, {}, keep=2)  # resumed from 10, and stopped again
    found = load_latest(folder)
    assert found is not None and found.step == 14 and (folder / "step-00000010").exists()


def test_when_none_is_whole_nothing_is_started_over(folder, tmp_path):
    for path in folder.iterdir():
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        load_latest(folder)


def test_an_edited_manifest_is_refused(folder):
    path = folder / "step-00000020" / "manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"step": 90}, {"state": {"note": 5}}, {"hashes": {}}, {"format": 2}):
        path.write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=r"manifest\.json"):
            read(path.parent)
    for text in ("[]", "5", "null", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            read(path.parent)


def test_another_model_is_not_continued(tmp_path):
    trainer(tmp_path).run(progress=False)
    from langevin.training import Trainer

    base = trainer(None)
    for field, process, prediction, objective in (
        ("prediction", lv.schedules.cosine(), "x0", None),
        ("process", lv.schedules.flow(), "v", None),
        ("objective", lv.schedules.cosine(), "v", lv.objectives.Denoising("min_snr", drop=0.1)),
    ):
        denoiser = lv.Denoiser(base.denoiser.net, lv.Gaussian(process), prediction)
        with pytest.raises(ValueError, match=f"^{field} is .* but the run in"):
            Trainer(denoiser, base.data, objective or base.objective, base.config, tmp_path, resume=True)


def test_a_foreign_log_is_not_overwritten(tmp_path):
    (tmp_path / "log.jsonl").write_text("precious\n")
    with pytest.raises(ValueError, match="no log of ours"):
        trainer(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == "precious\n"


def test_a_preview_that_fails_costs_nothing(tmp_path, capsys):
    run = trainer(tmp_path, preview_every=2)

    def broken(model, step):
        raise RuntimeError("no paint")

    run.preview = broken
    run.run(progress=False)
    assert run.finished and "no preview at step 2: no paint" in capsys.readouterr().err


def test_foreign_folders_are_left_alone(folder):
    for name in ("step-final", "best", "step-00000015.bak"):
        (folder / name).mkdir()
    for step in (30, 40, 50):
        save_checkpoint(folder, step, TENSORS, {}, keep=2)
    assert {p.name for p in folder.iterdir()} == {"step-final", "best", "step-00000015.bak", "step-00000040", "step-00000050"}


def test_resume_at_every_step(tmp_path):
    whole = trainer(None, steps=10)
    whole.run(progress=False)
    for stop in range(1, 10):
        part = trainer(tmp_path / str(stop), steps=10)
        while part.step < stop:
            part.update()
        part.save()
        again = trainer(tmp_path / str(stop), steps=10, resume=True)
        again.run(progress=False)
        assert torch.equal(weights(again.denoiser), weights(whole.denoiser))


def test_settings_of_a_resumed_run_must_agree(tmp_path):
    trainer(tmp_path).run(progress=False)
    with pytest.raises(ValueError, match="already holds a run at step 12; resume it"):
        trainer(tmp_path)
    with pytest.raises(ValueError, match=r"lr is 0.5 but the run .* was begun with 0.001"):
        trainer(tmp_path, resume=True, lr=0.5)


def test_a_run_directory_can_be_moved(tmp_path):
    trainer(tmp_path / "a").run(progress=False)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert trainer(tmp_path / "b", resume=True).step == 12
