"""Resumption at every step, batches that must not reach the weights, signals, repetition, and nothing that leaks."""

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import langevin as lv
from langevin.config import TrainConfig
from langevin.files import DiskFull
from langevin.training import Trainer, checkpoint, load_latest, saving, snapshots
from tests.field.test_complaints import trainer, weights
from tests.reliability.poison import Poisoned
from tests.reliability.test_kill import VICTIM, final, log, train
from tests.reliability.victim import STEPS
from tests.soaking import Soak

GOLDEN = Path(__file__).with_name("golden_curves.json")


def resumed_at_every_step(tmp_path, steps, soak=None, **settings):
    whole = trainer(None, steps=steps, **settings)
    whole.run(progress=False)
    state = tmp_path / "state"
    for stop in range(1, steps):  # each one resumes what the last one left: steps - 1 deep
        part = trainer(state, steps=steps, resume=True, **settings)
        assert part.step == stop - 1
        part.update()
        part.save()
        part.close()
        if soak is not None:
            soak.done()
    last = trainer(state, steps=steps, resume=True, **settings)
    last.run(progress=False)
    assert torch.equal(weights(last.denoiser), weights(whole.denoiser))


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup": 100},  # 25 batches of 12 are three epochs of 100 and a part; warm-up ends in the first
        {"warmup": 30, "optimiser": "muon", "averages": ["power:sigma_rel=0.1", "constant:decay=0.9"]},
        {"warmup": 30, "optimiser": "adafactor", "schedule": "wsd", "decay": 0.3},
    ],
    ids=["adamw", "muon, averages", "adafactor, wsd"],
)
def test_a_run_resumed_after_every_step_is_the_run(tmp_path, settings):
    resumed_at_every_step(tmp_path, 25, **settings)


@pytest.mark.soak
def test_two_hundred_steps_resumed_after_every_one(tmp_path, capsys):
    soak = Soak(capsys, "R5", 199, "resumptions of a run of 200 steps, one after each step")
    resumed_at_every_step(tmp_path, 200, soak, warmup=300)
    soak.over("the same bits")


def test_other_code_is_said(tmp_path, monkeypatch, capsys):
    trainer(tmp_path).run(progress=False)
    monkeypatch.setattr(checkpoint, "code_version", lambda: {"langevin": "99.0", "torch": torch.__version__})
    trainer(tmp_path, resume=True)
    assert f"was written by langevin {lv.__version__}" in capsys.readouterr().err


# Batches that must not reach the weights


def poisoned(out, value=math.nan, times=10**9, resume=False, **settings):
    run = trainer(None, steps=20)
    config = TrainConfig(**{"steps": 20, "batch": 10, "save_every": 4, "log_every": 1, "lr": 1e-3, **settings})
    return Trainer(run.denoiser, Poisoned(run.data, 57, value, times), run.objective, config, out, resume)


@pytest.mark.parametrize(("value", "settings"), [(math.nan, {}), (math.inf, {}), (1e4, {"largest_gradient": 100.0})])
def test_stop_keeps_the_weights_and_names_the_samples(tmp_path, value, settings):
    run = poisoned(tmp_path, value, **settings)
    with pytest.raises(FloatingPointError, match=r"from samples [\d, ]*\b57\b[\d, ]*; the weights are untouched"):
        run.run(progress=False)
    good = poisoned(None, times=0)
    while good.step < run.step:
        good.update()
    assert torch.equal(weights(run.denoiser), weights(good.denoiser))


class Hearing(torch.nn.Module):
    """A network that reads a condition of two numbers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, z, level, cond=None, mask=None):
        return self.layer(z) + cond["text"]


def faulty(fault):
    """A run of which one thing is not finite: sample 57, or a weight, or the gradient of one."""
    torch.manual_seed(0)
    x, text = torch.randn(100, 2), torch.randn(100, 2)
    value = {"x": math.nan, "condition": math.inf, "loss": 1e25}.get(fault)
    if value is not None:
        (text if fault == "condition" else x)[57] = value
    model = lv.Denoiser(Hearing(), lv.Gaussian(lv.schedules.cosine()), "v")
    config = TrainConfig(steps=20, batch=20, accumulate=2, log_every=1)
    run = Trainer(model, lv.data.Arrays(x, {"text": text}), lv.objectives.Denoising(), config)
    weight = run.denoiser.net.layer.weight
    if fault == "weight":
        with torch.no_grad():
            weight[0, 0] = math.nan
    elif fault == "gradient":
        weight.register_hook(lambda g: torch.full_like(g, math.inf))
    return run


@pytest.mark.filterwarnings("ignore:the data has mean")
@pytest.mark.parametrize(("fault", "named"), [
    ("x", "x of sample 57 is not finite"),
    ("condition", "condition 'text' of sample 57 is not finite"),
    ("loss", "the loss of sample 57 is not finite, though batch and weights are"),
    ("weight", "the weight net.layer.weight is not finite already"),
    ("gradient", "the gradient of net.layer.weight is not finite"),
])  # fmt: skip
def test_the_sample_and_the_tensor_at_fault_are_named(fault, named):
    run, before, moments = faulty(fault), None, None
    with pytest.raises(FloatingPointError, match=f"the weights are untouched; {re.escape(named)}: look there"):
        while run.step < 20:
            before, moments = weights(run.denoiser).clone(), copy.deepcopy(run.optimiser.state_dict()["state"])
            run.update()
    assert before is not None and torch.equal(weights(run.denoiser).nan_to_num(), before.nan_to_num())
    after = run.optimiser.state_dict()["state"]
    assert all(torch.equal(v, after[k][n]) for k, values in moments.items() for n, v in values.items())


def test_the_largest_gradient_is_named_where_one_is_too_large():
    run = poisoned(None, 1e4, largest_gradient=100.0)
    with pytest.raises(FloatingPointError, match=r"untouched; the largest gradient is that of net\.[\w.]+: look there"):
        run.run(progress=False)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_refused_batch_never_happened(tmp_path, policy, capsys):
    run = poisoned(tmp_path / "a", nonfinite=policy)
    run.run(progress=False)
    assert run.step == 20 and len(run.refused) == 2  # 200 samples are two epochs, in each the sample is met once
    assert "57" in capsys.readouterr().err and weights(run.denoiser).isfinite().all()
    # resumed, the same batches are passed over, and a kill in between changes nothing
    part = poisoned(tmp_path / "b", nonfinite=policy)
    while part.step < run.refused[0] + 1:
        part.update()
    part.save()
    part.close()
    again = poisoned(tmp_path / "b", nonfinite=policy, resume=True)
    again.run(progress=False)
    assert again.refused == run.refused and torch.equal(weights(again.denoiser), weights(run.denoiser))


def test_refusals_since_the_checkpoint_are_remembered(tmp_path):
    steps = {k: lv.data.Order(0, 100, 10).batch(k)[1] for k in (12, 14)}
    run = poisoned(tmp_path, nonfinite="rollback", save_every=5, times=0)
    run.data.sample, run.data.times = int(steps[12][0]), 10**9
    run.data.data = Poisoned(run.data.data, int(steps[14][0]), math.nan)
    run.run(progress=False)
    assert run.finished and {12, 14} <= set(run.refused)


def test_a_last_batch_that_is_refused_ends_the_run(tmp_path):
    sample = int(lv.data.Order(0, 100, 10).batch(19)[1][0])
    for policy in ("skip", "rollback"):
        run = poisoned(tmp_path / policy, nonfinite=policy)
        run.data.sample = sample
        run.run(progress=False)
        assert run.step == 20 and 19 in run.refused


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_float16_refuses_and_goes_on_at_its_scale(tmp_path, policy):
    run = poisoned(tmp_path, nonfinite=policy, precision="float16")
    run.run(progress=False)
    assert run.step == 20 and len(run.refused) == 2 and run.scaler.get_scale() >= 2.0**16
    assert weights(run.denoiser).isfinite().all()


class Normed(torch.nn.Module):
    """A network that keeps statistics of what it sees."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)

    def forward(self, z, level, cond=None, mask=None):
        return self.layer(self.norm(z))


def test_a_refused_batch_leaves_no_trace_in_buffers():
    runs = []
    for value in (math.nan, 0.0):
        torch.manual_seed(0)
        model = lv.Denoiser(Normed(), lv.Gaussian(lv.schedules.cosine()), "v")
        base = poisoned(None, value)
        config = base.config.model_copy(update={"nonfinite": "skip"})
        runs.append(Trainer(model, base.data, base.objective, config))
    bad, good = runs
    for _ in range(5):
        before = {n: b.clone() for n, b in bad.denoiser.named_buffers()}
        if "refused" in bad.update():
            assert all(torch.equal(b, before[n]) for n, b in bad.denoiser.named_buffers())
            return
        good.update()
    assert bad.refused or 57 not in torch.cat([bad.order.batch(k)[1] for k in range(5)])


def test_the_last_checkpoint_is_not_let_go(tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=12, save_every=100)

    def full(folder, step, *rest):
        raise DiskFull(folder)

    monkeypatch.setattr("langevin.training.saving.write_into", full)
    with pytest.raises(DiskFull):
        run.run(progress=False)


def test_snapshots_bear_a_full_disk_and_are_of_one_run(tmp_path, monkeypatch, capsys):
    settings = {"steps": 12, "averages": ("power:sigma_rel=0.1",)}
    whole = snapshots.save

    def full(path, *rest):
        raise DiskFull(path)

    monkeypatch.setattr(snapshots, "save", full)
    trainer(tmp_path, **settings).run(progress=False)
    assert "tries again" in capsys.readouterr().err and not list((tmp_path / "averages").glob("*.safetensors"))
    monkeypatch.setattr(snapshots, "save", whole)
    shutil.rmtree(tmp_path)
    trainer(tmp_path, **settings).run(progress=False)
    (tmp_path / "checkpoints").rename(tmp_path / "moved")  # a new run in its place
    shorter = trainer(tmp_path, **{**settings, "steps": 4})
    shorter.run(progress=False)
    assert [s.samples for s in snapshots.Snapshots(tmp_path / "averages").read()] == [48]
    assert len(list((tmp_path / "averages" / "earlier").iterdir())) == 3


@pytest.mark.parametrize("wait", [True, False])
def test_a_save_of_many_files_on_a_full_disk_is_one_failure(tmp_path, monkeypatch, capsys, wait):
    settings = {"steps": 12, "save_every": 2, "wait": wait, "averages": ("power:sigma_rel=0.1", "power:sigma_rel=0.05")}
    run = trainer(tmp_path, **settings)
    real, written = snapshots.save, saving.write_into

    def at_times(write):
        def writing(path, *rest):
            if run.step in (2, 4):
                raise DiskFull(path)
            return write(path, *rest)

        return writing

    monkeypatch.setattr(snapshots, "save", at_times(real))
    monkeypatch.setattr(saving, "write_into", at_times(written))
    if not wait:  # so that the step is still that of the save
        run.hooks.append((2, lambda model, step: run.folder.checkpoints._thread.join()))  # pyright: ignore
    run.run(progress=False)
    assert run.finished and capsys.readouterr().err.count("tries again") == 6


def test_schedules_of_short_batches_end_with_the_run():
    run = trainer(None, steps=30)
    run.data.groups = torch.arange(len(run.data)) % 7
    grouped = Trainer(run.denoiser, run.data, run.objective, run.config)
    seen = sum(len(grouped.order.batch(k)[1]) for k in range(30))
    assert grouped.total == seen < 30 * 12


def test_a_trainer_runs_once():
    run = trainer(None)
    run.run(progress=False)
    with pytest.raises(ValueError, match="make a new one with resume=True"):
        run.run(progress=False)


def test_no_policy_goes_on_for_ever(tmp_path):
    run = poisoned(tmp_path, nonfinite="skip", steps=60)
    run.data.data.x[:] = math.nan
    with pytest.raises(FloatingPointError, match="set nonfinite"):
        run.run(progress=False)
    assert run.step < 12 and weights(run.denoiser).isfinite().all()


# Signals


def told(out, *numbers):
    """Start the victim, send it signals once it trains further than it was, and wait: (exit status, whether it finished)."""

    def lines():
        return (out / "log.jsonl").read_bytes().count(b"\n") if (out / "log.jsonl").exists() else 0

    before = lines()
    process = subprocess.Popen(
        [sys.executable, str(VICTIM), str(out), "0"], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    while lines() <= before and process.poll() is None:
        time.sleep(0.02)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.001)
    said, _ = process.communicate(timeout=120)
    return process.returncode, "finished" in said


def test_stopped_by_signals_and_continued(tmp_path):
    assert train(tmp_path / "whole", 0)
    for numbers in ([signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGKILL]):
        status, ended = told(tmp_path / "part", *numbers)
        steps, found = [line["step"] for line in log(tmp_path / "part")], load_latest(tmp_path / "part" / "checkpoints")
        assert 0 < steps[-1] < STEPS["denoising"]  # it was stopped
        if len(numbers) == 1:  # and was asked: then nothing is lost
            assert status == 0 and ended and found is not None and found.step == steps[-1]
    assert train(tmp_path / "part", 0)
    assert final(tmp_path / "part") == final(tmp_path / "whole") and log(tmp_path / "part") == log(tmp_path / "whole")


def test_the_same_command_twice_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        trainer(tmp_path / name, steps=12, workers=2 if name == "b" else 0, wait=name == "b").run(progress=False)
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / n / "checkpoints" / "step-00000012").glob("*.safetensors")} for n in "ab"
    ]
    assert files[0] == files[1] and len(files[0]) >= 4 and log(tmp_path / "a") == log(tmp_path / "b")


# Leaks


def held():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts what a process holds in /proc")
def test_a_thousand_steps_and_samples_leave_nothing_behind(tmp_path):
    run = trainer(tmp_path, steps=10**6, save_every=50)
    marks = []
    for _ in range(10):
        for _ in range(100):
            run.update()
            if run.step % 50 == 0:
                run.save(wait=False)
        for k in range(10):
            lv.sample(run.denoiser, lv.plans.dpmpp(4), 10, seed=k)
        marks.append(held())
    run.close()
    memory, files, threads = zip(*marks, strict=True)
    assert memory[-1] - memory[2] < 8 and max(files[2:]) - min(files[2:]) <= 2 and max(threads[2:]) - min(threads[2:]) <= 1, marks


# What every release must repeat


def curve(name):
    """Losses of 12 steps in float64, where another processor changes nothing that is printed."""
    torch.manual_seed(0)
    networks, schedule = lv.networks, lv.schedules
    digits = lv.data.digits()
    objective: lv.objectives.Objective = lv.objectives.Denoising("min_snr", drop=0.1)
    if name == "unet, cosine, v":
        model = lv.Denoiser(networks.UNet(1, 8, (1, 2), 1, (1,), 8, dropout=0.0, classes=10), lv.Gaussian(schedule.cosine()), "v")
    elif name == "dit, flow, velocity":
        model = lv.Denoiser(networks.DiT(1, (8, 8), 2, 16, 2, 2, classes=10), lv.Gaussian(schedule.flow()), "velocity")
        objective = lv.objectives.Denoising()
    elif name == "mlp, edm, x0":
        digits, objective = lv.data.two_moons(200), lv.objectives.Denoising("edm", "lognormal_sigma")
        model = lv.Denoiser(networks.MLP(2, 16, 2, classes=2), lv.Gaussian(schedule.edm()), "edm")
    else:
        net = networks.UNet(16, 8, (1, 2), 1, (1,), 8, dropout=0.0, classes=10, out_channels=16)
        digits, objective = lv.data.digits("train", 16), lv.objectives.ELBO()
        process = lv.Categorical(16, schedule.cosine(), "mask")
        model = lv.Denoiser(networks.PixelCategories(net, process.states, 16, (1, 8, 8), 16), process, "subs")
    config = TrainConfig(steps=12, batch=8, lr=2e-3, warmup=32)
    run = Trainer(model.double(), digits, objective, config)
    return [f"{run.update()['loss']:.9f}" for _ in range(12)]


CURVES = ["unet, cosine, v", "dit, flow, velocity", "mlp, edm, x0", "unet, masked pixels"]


@pytest.mark.parametrize("name", CURVES)
def test_golden_curves(name):
    assert curve(name) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":  # python -m tests.reliability.test_trainer, when they move for a reason that the changelog gives
    GOLDEN.write_text(json.dumps({name: curve(name) for name in CURVES}, indent=1) + "\n")
