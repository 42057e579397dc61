"""Edits of pictures by loaded models, in Python and on the command line."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.pictures import read_record
from tests.parity.goldens import Goldens

PHOTO = 0.8 * torch.sin(torch.arange(3 * 32 * 32.0)).reshape(1, 3, 32, 32)


@pytest.mark.parametrize(("family", "name"), [("flux", "dev_pipeline"), ("sd3", "sd3_pipeline")])
def test_a_loaded_model_draws_the_picture_again_that_it_inverted(goldens: Goldens, family: str, name: str) -> None:
    """Networks with random weights are no denoisers; flows invert all the same."""
    model = lv.load(goldens.case(family, name).dir / "pipeline")
    found = model.invert(PHOTO, "a cat", steps=4, guidance=3.0 if family == "flux" else 1.0)
    again = model.run("a cat", **found.options)
    assert float((again.latents - found.latents).norm() / found.latents.norm()) < 1e-5
    # what is left is the autoencoder's own round trip
    assert torch.allclose(again.tensor, model.decode(found.latents), atol=1e-3)
    changed = model.edit(PHOTO, "a cat", "a red house", steps=4, guidance=3.0 if family == "flux" else 1.0)
    assert not torch.allclose(changed.latents, again.latents, atol=1e-3)


def test_null_conditions_of_a_loaded_model_bring_guided_steps_nearer(goldens: Goldens) -> None:
    model = lv.load(goldens.case("sd3", "sd3_pipeline").dir / "pipeline")
    how = {"steps": 2, "guidance": 2.0, "size": (32, 32)}
    left, led = (model.invert(PHOTO, "a cat", iterations=n, **how) for n in (0, 6))
    assert float(led.missed) < 0.9 * float(left.missed)
    assert set(led.guidance.nulls[0]) == {"tokens", "pooled"} and all(not p.requires_grad for p in model.denoiser.parameters())


def test_edits_from_the_command_line(goldens: Goldens, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = goldens.case("flux", "dev_pipeline").dir / "pipeline"
    pixels = ((PHOTO[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    command = ["edit", str(folder), str(tmp_path / "photo.png"), "a cat", "a red house", "--steps", "3", "--device", "cpu"]
    main([*command, "--out", str(tmp_path / "house.png")])
    with Image.open(tmp_path / "photo.png") as photo:
        made = lv.load(folder).edit(photo.convert("RGB"), "a cat", "a red house", steps=3)
    with Image.open(tmp_path / "house.png") as drawn:
        assert drawn.tobytes() == made.images[0].tobytes()
    record = read_record(tmp_path / "house.png")
    assert record["edited"] == made.info[0]["edited"] and record["edited"]["from"] == "a cat"
    assert "leads back to the picture within" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["generate", str(folder), "--again", str(tmp_path / "house.png")])
    assert "was made of another picture by langevin edit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--out", "house.jpg"])
    assert "write a .png" in capsys.readouterr().err
