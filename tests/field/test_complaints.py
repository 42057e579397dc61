"""Complaints from the field, in miniature: each names the thread it comes from and shows that we do not have it."""

import math

import pytest
import torch

import langevin as lv
from langevin import header, tensors
from langevin.config import TrainConfig
from langevin.inspection import describe
from langevin.pictures import to_uint8
from langevin.training import Ema, Trainer
from langevin.training.ema import Constant
from langevin.zoo.store import open_weights

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2]])


def exact(schedule):
    return lv.oracles.mixture(lv.Gaussian(schedule), MEANS, 0.2)


def test_diffusers_12771_cosine_betas_with_karras_levels():
    # duplicate integer timesteps there, then an index error
    for steps in (5, 20, 50):
        z = lv.sample(exact(lv.schedules.betas("cosine")), lv.plans.dpmpp(steps, grid="karras"), 16)
        assert z.isfinite().all() and torch.cdist(z, MEANS).amin(1).max() < 1.5


def test_diffusers_4122_as_many_steps_run_as_were_asked():
    for steps in (1, 7, 95, 100):
        rows = lv.plans.dpmpp(steps, grid="trailing").on(lv.schedules.betas("scaled_linear")).rows
        assert len(rows) == steps and all(r.start > r.stop for r in rows)


def test_diffusers_13243_a_shift_is_applied_once():
    s = lv.schedules.flow(shift=3.0)
    assert float(s.sigma(torch.tensor(0.001, dtype=torch.float64))) == pytest.approx(3 * 0.001 / (1 + 2 * 0.001), rel=1e-12)
    assert float(lv.schedules.shift(s, 1.0).sigma(torch.tensor(0.001, dtype=torch.float64))) == pytest.approx(
        float(s.sigma(torch.tensor(0.001, dtype=torch.float64)))
    )


def test_k_diffusion_25_and_diffusers_612_image_two_of_four_alone():
    model = exact(lv.schedules.cosine())
    for plan in (lv.plans.ddpm(10), lv.plans.euler_ancestral(10), lv.plans.dpmpp(10, sde=True)):
        four = lv.sample(model, plan, 4, seed=33)
        assert torch.allclose(lv.sample(model, plan, 1, seed=33, first_id=2), four[2:3], atol=1e-6)


def test_comfyui_4518_ancestral_is_deterministic():
    model = exact(lv.schedules.cosine())
    torch.manual_seed(1)
    a = lv.sample(model, lv.plans.euler_ancestral(8), 3, seed=0)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(lv.sample(model, lv.plans.euler_ancestral(8), 3, seed=0), a)
    assert torch.equal(torch.random.get_rng_state(), before)  # no global generator was touched


def test_diffusers_1864_the_average_keeps_its_decay():
    weight = torch.nn.Linear(1, 1, bias=False)
    ema, decay = Ema(weight, 0.9), 0.9
    expected = float(weight.weight.detach())
    for k in range(1, 60):
        with torch.no_grad():
            weight.weight.fill_(float(k))
        ema.update(weight)
        d = min(decay, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * k
        assert float(ema.model.weight.detach()) == pytest.approx(expected, rel=1e-6)  # pyright: ignore
    assert ema.profile == Constant(0.9)


def trainer(out, steps=12, resume=False, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = lv.networks.MLP(2, 16, 2, classes=2)
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v")
    config = TrainConfig(steps=steps, **{"batch": 12, "accumulate": 3, "save_every": 4, "log_every": 1, **settings})
    return Trainer(denoiser, lv.data.two_moons(100), lv.objectives.Denoising(drop=0.1), config, out, resume)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_kohya_2248_and_ai_toolkit_329_resume_of_a_resumed_run(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run(progress=False)
    for stop in (3, 5, 10):  # three deep, none of them at a checkpoint
        part = trainer(tmp_path / "parts", resume=True)
        while part.step < stop:
            part.update()
        part.save()
        part.close()
    last = trainer(tmp_path / "parts", resume=True)
    assert last.step == 10
    last.run(progress=False)
    assert torch.equal(weights(whole.denoiser), weights(last.denoiser))
    assert all(torch.equal(v, last.ema.tensors()[n]) for n, v in whole.ema.tensors().items())


def test_onetrainer_1465_a_stop_inside_an_accumulation_window(tmp_path):
    whole = trainer(None)
    whole.run(progress=False)
    part = trainer(tmp_path)
    calls = [0]
    forward = part.objective.forward

    def stopping(*args):
        calls[0] += 1
        if calls[0] == 5:  # second of three passes of the second update
            part._ask_to_stop()
        return forward(*args)

    part.objective.forward = stopping
    part.run(progress=False)
    assert 0 < part.step < 12 and not part.finished
    again = trainer(tmp_path, resume=True)
    again.run(progress=False)
    assert torch.equal(weights(whole.denoiser), weights(again.denoiser))


def test_diffusers_8384_rate_counts_samples_whatever_the_accumulation():
    rates = [[run.update()["lr"] for _ in range(12)] for run in (trainer(None, accumulate=1), trainer(None, accumulate=6))]
    assert rates[0] == rates[1]


def test_sd_scripts_1413_nan_is_refused_before_the_update(tmp_path):
    run = trainer(tmp_path)
    run.update()
    before = weights(run.denoiser).clone()
    run.data.x[:] = math.nan  # pyright: ignore
    with pytest.raises(FloatingPointError, match=r"step 1 has loss nan.*from samples [\d, ]+; the weights are untouched"):
        run.update()
    assert torch.equal(weights(run.denoiser), before) and run.step == 1


def test_diffusers_4325_nan_is_never_a_black_picture():
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.full((1, 1, 2, 2), math.nan))


def test_sd_scripts_1380_what_no_library_could_read_is_never_written(tmp_path, monkeypatch):
    # there: all tags of a data set in the metadata, a header above the format's limit, and weights that nobody can open
    monkeypatch.setattr(header, "LIMIT", 2000)
    path = tensors.save(tmp_path / "a.safetensors", {"w": torch.ones(2)}, {"tags": "cat"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"bytes, most of them metadata 'tags', above the 2000 it may have.*say less"):
        tensors.save(path, {"w": torch.zeros(2)}, {"note": "x", "tags": "y" * 3000})
    with pytest.raises(ValueError, match=r"a header of 90 entries would take \d+ bytes, above the 2000"):
        tensors.save(path, {f"w{k}": torch.zeros(1) for k in range(90)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_comfyui_15602_trailing_bytes_are_refused_however_a_file_is_read(tmp_path):
    # there: read in one mode of memory, refused by another
    path = tensors.save(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    path.write_bytes(path.read_bytes() + b"more")
    said = set()
    for read in (tensors.load, open_weights, header.read_header, describe):
        with pytest.raises(ValueError, match=r"a\.safetensors holds 12 bytes of values where its header says 8") as error:
            read(path)
        said.add(str(error.value))
    assert len(said) == 1


def test_diffusers_7851_two_requests_on_one_model():
    model = exact(lv.schedules.cosine())
    alone = [lv.sample(model, lv.plans.dpmpp(n), 2, seed=n) for n in (6, 9)]
    runs = [lv.trajectory(model, lv.plans.dpmpp(n), 2, seed=n) for n in (6, 9)]
    last = [None, None]
    for _ in range(9):
        for i, run in enumerate(runs):
            step = next(run, None)
            last[i] = step.z if step is not None else last[i]
    assert torch.equal(last[0], alone[0]) and torch.equal(last[1], alone[1])


def test_flow_matching_a_bare_level_never_broadcasts_by_luck():
    # (B,) against (B, B) would broadcast on the wrong axis without a word
    model = exact(lv.schedules.flow())
    z = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.8])
    rows = torch.cat([model(z[i : i + 1], float(t[i])).mean for i in range(2)])
    assert torch.allclose(model(z, t).mean, rows, atol=1e-6)


def test_smalldiffusion_noise_with_a_flow_model_keeps_the_law():
    # there: exact velocity on N(0.7, 0.3^2) with half the noise gave N(1.01, 0.36^2)
    process = lv.Gaussian(lv.schedules.flow())
    model = lv.oracles.gaussian(process, torch.tensor([0.7]), torch.tensor([[0.09]]))
    z = lv.sample(model, lv.plans.ddim(200, eta=0.5), 20_000, seed=0)
    assert float(z.mean()) == pytest.approx(0.7, abs=0.01) and float(z.std()) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("plan", [lv.plans.dpmpp(1, order=3, sde=True), lv.plans.heun(1), lv.plans.euler(1), lv.plans.ddpm(1)])
def test_edm_and_k_diffusion_one_step_is_legal(plan):
    assert lv.sample(exact(lv.schedules.edm()), plan, 3).isfinite().all()


def test_diffusers_7626_an_edited_setting_is_never_ignored():
    with pytest.raises(ValueError, match="stepz"):
        TrainConfig(stepz=5)  # pyright: ignore
    with pytest.raises(ValueError):
        TrainConfig(lr=-1.0)
