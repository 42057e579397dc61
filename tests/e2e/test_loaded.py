"""Published models of pixels where a run is asked for: restore, likelihood, interpolate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.recipes import loaded
from langevin.recipes.galleries import interpolation
from langevin.tasks.likelihood import dequantised
from langevin.zoo.family import mark

CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "attention_head_dim": 8,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small DDPM, as one is published."""
    from langevin.zoo import registry

    part = registry.component("UNet2DModel")
    net = mark(part.build(CONFIG), part.name, CONFIG)
    for k, weight in enumerate(net.parameters()):
        torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(k))
    made = tmp_path / "ddpm"
    made.mkdir()
    lv.save(net, made / "unet")
    (made / "scheduler").mkdir()
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000, "clip_sample": False}
    (made / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    (made / "model_index.json").write_text(json.dumps(index))
    return made


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    made = tmp_path / "faces"
    made.mkdir()
    for k in range(4):
        values = (torch.sin(torch.arange(8 * 8 * 3.0) * (1 + k / 3)) + 1) * 127
        Image.fromarray(values.byte().reshape(8, 8, 3).numpy()).save(made / f"{k}.png")
    return made


def _values(faces: Path) -> torch.Tensor:
    read = [np.asarray(Image.open(file), dtype=np.float32) for file in sorted(faces.iterdir())]
    return torch.from_numpy(np.stack(read) / 127.5 - 1).permute(0, 3, 1, 2)


def test_a_published_model_has_the_likelihood_of_its_denoiser(folder: Path, faces: Path, capsys) -> None:
    how = {"solver": "heun", "steps": 3, "probes": 1}
    main(
        ["likelihood", str(folder), "--pictures", str(faces), "--json", *(w for n, v in how.items() for w in (f"--{n}", str(v)))]
    )
    said = json.loads(capsys.readouterr().out)
    x = dequantised(_values(faces), 2 / 255, Noise.of(0, 4))
    model = lv.load(folder)
    assert isinstance(model.denoiser, Denoiser)
    found = lv.log_prob(model.denoiser, x, solver="heun", steps=3, probes=1)
    assert said["samples"] == 4 and said["elements"] == 192
    assert said["nats_per_element"] == pytest.approx(-float(found.nats.mean()) / 192, rel=1e-5)
    # the same numbers in a file
    np.save(faces.parent / "faces.npy", _values(faces).numpy())
    command = ["likelihood", str(folder), str(faces.parent / "faces.npy"), "--json", "--solver", "heun", "--steps", "3"]
    main([*command, "--probes", "1"])
    assert json.loads(capsys.readouterr().out)["nats_per_element"] == pytest.approx(said["nats_per_element"], rel=1e-5)


def test_a_published_model_restores_and_leads_from_one_picture_to_another(
    folder: Path, faces: Path, tmp_path: Path, capsys
) -> None:
    """What is measured without noise is met by ddnm, to the bit of a page."""
    page = tmp_path / "page.png"
    command = ["restore", str(folder), "--task", "inpaint", "--method", "ddnm", "--plan", "ddnm:6", "--noise", "0"]
    command += ["--count", "2"]
    main([*command, "--picture", str(faces / "1.png"), "--out", str(page)])
    assert "rmse of the mean" in capsys.readouterr().out
    with Image.open(page) as drawn:
        scale = drawn.height // 10
        cells = [drawn.convert("RGB").crop((scale * (1 + 9 * k), scale, scale * (9 + 9 * k), 9 * scale)) for k in range(3)]
    truth, _, sample = (np.asarray(cell.resize((8, 8), Image.Resampling.NEAREST)).astype(int) for cell in cells)
    assert np.abs(truth - np.asarray(Image.open(faces / "1.png")).astype(int)).max() == 0
    assert np.abs(truth - sample)[:4].max() <= 1 < np.abs(truth - sample)[4:].max()
    main([*command, "--pictures", str(faces), "--rows", "3", "--out", str(page)])
    with Image.open(page) as drawn:
        assert drawn.height // scale == 28  # three rows
    run = loaded.run_of(folder, "interpolate", faces)
    off = interpolation(run, tmp_path / "ways.png", rows=2, count=3, tolerance=1e-2)
    main(["interpolate", str(folder), "--pictures", str(faces), "--rows", "2", "--count", "3", "--tolerance", "1e-2",
          "--out", str(tmp_path / "again.png")])  # fmt: skip
    assert (tmp_path / "ways.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert f"ends within {off:.4f} of the pictures" in capsys.readouterr().out


def test_what_is_no_model_of_pixels_from_noise_is_refused(folder: Path, faces: Path, tmp_path: Path, capsys) -> None:
    for words, why in (
        ([str(folder)], "has no held-out pictures; say --pictures FOLDER"),
        ([str(folder), "--pictures", str(faces), "--codec", "there"], "codec is there, which is of runs"),
        ([str(folder / "unet"), "--pictures", str(faces)], "which is for published models"),
        (
            [str(folder), "--pictures", str(faces), "--rows", "1", "--tolerance", "0"],
            "tolerance is 0; give a number above 0, such",
        ),
        (
            [str(folder), "--pictures", str(faces), "--rows", "1", "--count", "1"],
            "count is 1; a way has two ends, so ask for at lea",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["interpolate", *words, "--out", str(tmp_path / "ways.png")])
        assert why in capsys.readouterr().err
    model = lv.load(folder)
    for changes, why in (
        ({"conditioner": torch.nn.Identity()}, "reads texts"),
        ({"defaults": replace(model.defaults, classes=5)}, "draws classes"),
        ({"codec": torch.nn.Identity()}, "draws latents"),
        ({"origin": type("Origin", (), {"kind": "ConsistencyModelPipeline"})}, "says where its flow ends"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("langevin.zoo.load.load", lambda path, changes=changes, **options: model.but(**changes))
            with pytest.raises(ValueError, match=f"restore takes published models .* {why}"):
                loaded.run_of(folder, "restore", faces)
