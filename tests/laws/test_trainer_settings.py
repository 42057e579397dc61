"""What each setting of training does, and that it does nothing else."""

import shutil

import pytest
import torch
import torch.nn.functional as F

import langevin as lv
from langevin.config import TrainConfig
from langevin.embedded import Embedded
from langevin.objectives.consistency import Consistency, slowing
from langevin.training import Trainer, load_latest
from tests.field.test_complaints import trainer, weights


class Seeing(torch.nn.Module):
    """A network for pictures of any size, which keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.seen = []

    def forward(self, z, level, cond=None, mask=None):
        self.seen.append(tuple(z.shape[-2:]))
        return self.layer(z)


class Leaping(Seeing):
    """A network that is told where a leap ends."""

    def forward(self, z, level, cond=None, mask=None):
        return self.layer(z)


class Keeping(lv.objectives.Denoising):
    """Denoising that keeps the clean data it was given."""

    def forward(self, model, batch, noise):
        self.data = batch.x
        return super().forward(model, batch, noise)


def rising(out=None, resume=False, **settings):
    torch.manual_seed(0)
    net = Seeing()
    config = TrainConfig(steps=8, batch=6, resolutions=((0.25, 2), (0.5, 4)), log_every=1, **settings)
    return Trainer(lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v"), lv.data.digits(), Keeping(), config, out, resume)


def test_the_length_of_a_run_of_rising_resolution_stays(tmp_path):
    run = rising(tmp_path, schedule="constant")
    run.update()
    run.save()
    run.close()
    with pytest.raises(ValueError, match="samples is 30 but the run"):
        rising(tmp_path, resume=True, schedule="constant", samples=30)


def test_the_length_of_a_run_stays_where_its_objective_goes_by_the_share_that_is_done(tmp_path):
    def run(decay, folder, steps, resume=False):
        torch.manual_seed(0)
        model = lv.FlowMap(Leaping(), lv.Gaussian(lv.schedules.flow()), "velocity")
        objective = Consistency(None, 4, decay, grid="uniform")
        config = TrainConfig(steps=steps, batch=4, schedule="constant")
        return Trainer(model, lv.data.digits(), objective, config, tmp_path / folder, resume)

    for folder, decay in (("paced", slowing), ("even", 0.9)):
        begun = run(decay, folder, 8)
        begun.update()
        begun.save()
        begun.close()
    with pytest.raises(ValueError, match="steps is 80 but the run"):
        run(slowing, "paced", 80, resume=True)
    assert run(0.9, "even", 80, resume=True).step == 1


def test_a_resumed_run_goes_on_in_the_numbers_it_began_in(tmp_path, monkeypatch):
    from langevin.training import precision

    def run(resume=False):
        torch.manual_seed(0)
        model = lv.Denoiser(Seeing(), lv.Gaussian(lv.schedules.cosine()), "v")
        config = TrainConfig(steps=8, batch=4, precision="auto")
        return Trainer(model, lv.data.digits(), Keeping(), config, tmp_path, resume)

    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    begun = run()
    assert begun.precision == torch.bfloat16
    begun.update()
    begun.save()
    begun.close()
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    assert run(resume=True).precision == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resolutions": ((0.5, 16), (0.5, 32))}, "shares that rise"),
        ({"resolutions": ((0.0, 16),)}, "shares that rise"),
        ({"resolutions": ((1.5, 16),)}, "shares that rise"),
        ({"resolutions": ((0.5, 0),)}, "sides of at least 1"),
        ({"schedule": "inverse_sqrt"}, "hold is None"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"betas": (-0.1, 0.9)}, "betas is"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**settings)


def test_resolution_rises_by_the_share_of_samples(tmp_path):
    run = rising()
    for step in range(8):
        _, index = run.order.batch(step)
        run.update()
        side = (2, 2, 4, 4, 8, 8, 8, 8)[step]
        whole = run.data.batch(index).x
        assert run.denoiser.net.seen[-1] == (side, side)
        # means of blocks: nothing is thrown away, and the mean of a picture stays
        assert torch.allclose(run.objective.data, F.avg_pool2d(whole, 8 // side), atol=1e-6)
    for stop in (1, 3, 5):
        part = rising(tmp_path, resume=True)
        while part.step < stop:
            part.update()
        part.save()
        part.close()
    last = rising(tmp_path, resume=True)
    last.run(progress=False)
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 8
    assert all(torch.equal(p, found.tensors["model"][n]) for n, p in run.denoiser.named_parameters())


def test_the_end_in_samples_and_by_the_clock(tmp_path):
    run = trainer(None, steps=1000, samples=50)
    run.run(progress=False)
    assert run.finished and run.samples in range(50, 62)
    late = trainer(tmp_path, steps=10**6, hours=0.3 / 3600)
    late.run(progress=False)
    assert not late.finished and late.step > 0
    assert trainer(tmp_path, steps=10**6, resume=True).step == late.step


def test_an_overflow_in_float16_repeats_the_step():
    # on a CPU torch's scaler works for float16 as it does on a GPU
    run, calm = trainer(None, steps=6, precision="float16"), trainer(None, steps=6, precision="float16")
    # far too large, every gradient overflows; and small enough
    run.scaler, calm.scaler = torch.amp.GradScaler("cpu", 2.0**40), torch.amp.GradScaler("cpu", 2.0**10)
    for _ in range(6):
        line, other = run.update(), calm.update()
        assert line["step"] == other["step"] and line["loss"] == pytest.approx(other["loss"], rel=2e-2)
    assert run.scaler.get_scale() < 2.0**40 and run.samples == calm.samples
    assert torch.allclose(weights(run.denoiser), weights(calm.denoiser), atol=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_the_same_run_to_its_rounding(precision):
    runs = [trainer(None, steps=40, precision=p) for p in ("float32", precision)]
    losses = torch.tensor([[run.update()["loss"] for _ in range(40)] for run in runs])
    assert all(p.dtype == torch.float32 for p in runs[1].denoiser.parameters())
    assert (losses[0] - losses[1]).abs().max() < 0.02 * losses[0].max()


@pytest.mark.parametrize("tiles", [True, False])
def test_precision_auto_is_bfloat16_where_the_machine_has_units_for_it(monkeypatch, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    runs = [trainer(None, steps=3, precision=p) for p in ("auto", "bfloat16" if tiles else "float32")]
    assert [runs[0].update()["loss"] for _ in range(3)] == [runs[1].update()["loss"] for _ in range(3)]


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler on a CPU")
class Looking(lv.objectives.Denoising):
    """Denoising that looks whether sums are to have one order."""

    def forward(self, model, batch, noise):
        self.seen = torch.are_deterministic_algorithms_enabled()
        if getattr(self, "fails", False):
            raise RuntimeError("no such algorithm")
        return super().forward(model, batch, noise)


def test_one_order_of_sums_is_asked_for_during_updates_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    ends = []
    for asked in (True, False):
        run = trainer(None, steps=4, deterministic=asked)
        run.objective = run.losses.losses.objective = Looking()
        run.update()
        assert run.objective.seen == asked and not torch.are_deterministic_algorithms_enabled()
        run.objective.fails = True
        with pytest.raises(RuntimeError, match="no such"):
            run.update()
        assert not torch.are_deterministic_algorithms_enabled()
        run.objective.fails = False
        run.update()
        ends.append(weights(run.denoiser))
    assert torch.equal(*ends)
    trainer(tmp_path, deterministic=False).run(progress=False)
    trainer(tmp_path, resume=True, deterministic=True).run(progress=False)  # how, not what


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, where sums have no order of their own")
def test_a_run_on_a_gpu_repeats_to_the_bit_and_is_resumed_so(tmp_path):
    def run(out, *stops):
        for stop in (*stops, None):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = lv.networks.UNet(1, 16, (1, 2), 1, (1,), 16, dropout=0.1, classes=10)
            model = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v").cuda()
            config = TrainConfig(steps=12, batch=16, precision="bfloat16", deterministic=True, log_every=1)
            part = Trainer(model, lv.data.digits(), lv.objectives.Denoising(drop=0.1), config, out, resume=True)
            while stop is not None and part.step < stop:
                part.update()
            if stop is None:
                part.run(progress=False)
            else:
                part.save()
                part.close()
        return load_latest(out / "checkpoints")

    whole, parts = run(tmp_path / "whole"), run(tmp_path / "parts", 3, 7)
    for part, tensors in whole.tensors.items():
        assert all(torch.equal(v, parts.tensors[part][n]) for n, v in tensors.items())


def test_compiled_training_is_the_same_run():
    runs = [trainer(None, steps=4, compile=c) for c in (False, True)]
    for run in runs:
        for _ in range(4):
            run.update()
    assert torch.allclose(weights(runs[0].denoiser), weights(runs[1].denoiser), atol=1e-6)


def test_weights_that_are_not_trained_stay_as_they_are():
    run = trainer(None)
    frozen = next(iter(run.denoiser.parameters())).requires_grad_(False)
    before = frozen.clone()
    again = Trainer(run.denoiser, run.data, run.objective, run.config)
    for _ in range(3):
        again.update()
    assert torch.equal(frozen, before) and all(p is not frozen for g in again.optimiser.param_groups for p in g["params"])


def test_rising_resolution_is_refused_for_buckets():
    run = rising()
    run.data.groups = torch.zeros(len(run.data), dtype=torch.int64)
    with pytest.raises(ValueError, match="resolutions makes pictures squares, but the data has aspect buckets"):
        Trainer(run.denoiser, run.data, run.objective, run.config)


@pytest.mark.parametrize("what", ["label", "categories", "ids"])
def test_what_is_out_of_range_is_refused_while_it_is_on_the_host(what):
    # on a GPU nobody looks, and the label after the last would be the null; a device without values stands for one
    x, cond, process = torch.zeros(8, 2), None, lv.Gaussian(lv.schedules.cosine())
    if what == "label":
        cond = {"label": torch.arange(8) % 3}
    else:
        x = torch.arange(16).reshape(8, 2) % 4
        process = (
            lv.Categorical(3, lv.schedules.cosine()) if what == "categories" else Embedded(torch.eye(3), lv.schedules.flow())
        )
    net = lv.networks.MLP(2, 8, 1, classes=2)
    prediction = {"label": "v", "categories": "logits", "ids": "x0"}[what]
    run = Trainer(
        lv.Denoiser(net, process, prediction), lv.data.Arrays(x, cond), lv.objectives.Denoising(), TrainConfig(steps=1, batch=8)
    )
    run._readied.device = torch.device("meta")
    with pytest.raises(ValueError, match=f"{'label' if what == 'label' else 'data'} spans 0 .. [23]; .* run from 0 to [12]"):
        run._ready(run._read()[0].batch)
