"""Checkpoints are whole or not there: torn, damaged and foreign files are named and passed over."""

import shutil

import pytest
import torch

import langevin as lv
from langevin.training import Checkpoints
from langevin.training.checkpoint import load_latest
from tests.field.test_complaints import trainer, weights
from tests.reliability.keeping import save
from tests.reliability.victim import by_hand


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        save(tmp_path, step, state={"note": step})
    return tmp_path


def test_damage_falls_back_and_is_said(folder, capsys):
    (folder / "step-00000020" / "model.safetensors").write_bytes(b"")
    found = load_latest(folder)
    assert found is not None and found.step == 10
    assert "model.safetensors has 0 bytes where the manifest says" in capsys.readouterr().err
    assert (folder / "step-00000020").exists()  # nothing is deleted


def test_damaged_checkpoints_do_not_push_out_whole_ones(folder):
    for step in (20, 30):
        save(folder, step, keep=3)
        (folder / f"step-{step:08d}" / "model.safetensors").write_bytes(b"")
    save(folder, 14)  # resumed from 10, and stopped again
    found = load_latest(folder)
    assert found is not None and found.step == 14 and (folder / "step-00000010").exists()


def test_when_none_is_whole_nothing_is_started_over(folder, tmp_path):
    for path in folder.iterdir():
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        load_latest(folder)


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

    run.hooks.append((2, broken))
    run.run(progress=False)
    assert run.finished and "no preview at step 2: no paint" in capsys.readouterr().err


def test_foreign_folders_are_left_alone(folder):
    for name in ("step-final", "best", "step-00000015.bak"):
        (folder / name).mkdir()
    for step in (30, 40, 50):
        save(folder, step)
    assert {p.name for p in folder.iterdir()} == {"step-final", "best", "step-00000015.bak", "step-00000040", "step-00000050"}


def test_resume_at_every_step(tmp_path):
    whole = trainer(None, steps=10)
    whole.run(progress=False)
    for stop in range(1, 10):
        part = trainer(tmp_path / str(stop), steps=10)
        while part.step < stop:
            part.update()
        part.save()
        part.close()
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


@pytest.mark.parametrize("lost", ["optimiser", "fake", "critic"])
def test_a_distillation_that_lacks_what_it_goes_on_from_is_refused(tmp_path, lost):
    # R15: student, fake denoiser and critic each have weights and moments in the checkpoint
    run = by_hand(str(tmp_path), 0, "dmd")
    for _ in range(2):
        run.update()
    run.save()
    run.close()
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None
    held = {name: value.clone() for name, value in found.tensors["optimiser"].items()}
    of = {who: [n for n in held if n.startswith(f"objective.nets.{who}.")] for who in ("fake", "critic")}
    of["student"] = [n for n in held if n.startswith("net.")]
    assert all(of.values()) and {n for names in of.values() for n in names} == set(held), sorted(held)[:5]
    parts = {part: dict(values) for part, values in found.tensors.items() if part != lost}
    if lost != "optimiser":
        parts["optimiser"] = {name: value for name, value in held.items() if name not in of[lost]}
    Checkpoints(tmp_path / "checkpoints").save(3, parts, found.state)
    why = "has no part 'optimiser'" if lost == "optimiser" else "the optimiser's state of .* parameters, and has that of"
    with pytest.raises(ValueError, match=f"the checkpoint of step 3 .*{why}.*; resume from one that is whole"):
        by_hand(str(tmp_path), 0, "dmd")
