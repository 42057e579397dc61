"""What is seen of pictures while a loaded model draws them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin import pictures
from langevin.cli import main
from langevin.zoo import adapting, registry
from langevin.zoo.family import mark
from tests.parity.goldens import Goldens

ASKED: dict[str, Any] = {"prompt": "a cat", "plan": "ddim:3", "seed": 5, "size": (32, 32)}


@pytest.fixture
def folder(goldens: Goldens) -> Path:
    return goldens.case("sd1", "txt2img_sampler").dir / "pipeline"


@pytest.fixture
def tiny(goldens: Goldens, tmp_path: Path) -> Path:
    """One whose latents are as large as the model's, with other weights than the reference's, which has a level less."""
    case = goldens.case("taesd", "taesd")
    config = {**case.config("vae"), "encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}
    config |= {"num_encoder_blocks": [1, 1, 1, 1], "num_decoder_blocks": [1, 1, 1, 1]}
    part = registry.component("AutoencoderTiny")
    net = mark(part.build(config), part.name, config)
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return lv.save(net, tmp_path / "tiny")


def test_previews_by_a_tiny_autoencoder_are_its_pictures_of_what_is_believed(folder: Path, tiny: Path) -> None:
    plain = lv.load(folder)
    model, net = adapting.add_preview(plain, tiny), lv.load(tiny)
    shown, beliefs = [], []

    def watch(progress: Any) -> None:
        shown.append(progress.preview())
        beliefs.append(progress.step.belief.mean)

    made = model.run(**ASKED, callback=watch)
    assert len(shown) == 3 and all(x.shape == made.tensor.shape for x in shown)
    with torch.no_grad():
        for x, z in zip(shown, beliefs, strict=True):
            torch.testing.assert_close(x, net.decode(z).clamp(-1, 1), rtol=0, atol=1e-5)
    # the result is the model's own, watched or not
    assert torch.equal(made.tensor, plain.run(**ASKED).tensor) and plain.sketch is None


def test_what_makes_no_previews_of_the_model_is_refused(goldens: Goldens, folder: Path, tiny: Path) -> None:
    model = lv.load(folder)
    with pytest.raises(ValueError, match=r"latents of 16 channels, \d pixels on a side each, and the model's are of 4"):
        adapting.add_preview(model, goldens.case("taesd", "taef1").dir / "vae")
    with pytest.raises(ValueError, match="is no autoencoder but a UNet"):
        adapting.add_preview(model, folder / "unet")
    pixels = lv.load(goldens.case("ddpm", "ddim_pipeline").dir / "pipeline")
    with pytest.raises(ValueError, match="this model draws pictures themselves"):
        adapting.add_preview(pixels, tiny)
    with pytest.raises(ValueError, match="no option 'on_step'; did you mean 'callback'"):
        model.run("a cat", on_step=print)


def test_previews_from_the_command_line(folder: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(folder), "a cat", "--plan", "ddim:3", "--seed", "5", "--size", "32x32", "--device", "cpu"]
    command += ["--out", str(tmp_path / "cat.png")]
    now, steps = tmp_path / "now.png", tmp_path / "steps"
    main([*command, "--preview", str(now), "--previews", str(steps), "--tiny", str(tiny)])
    assert [file.name for file in sorted(steps.iterdir())] == [f"step-{k:04d}.png" for k in (1, 2, 3)]
    assert now.read_bytes() == (steps / "step-0003.png").read_bytes() != (steps / "step-0001.png").read_bytes()
    shown = []
    model = adapting.add_preview(lv.load(folder), tiny)
    model.run(**ASKED, callback=lambda progress: shown.append(pictures.grid(progress.preview())))
    with Image.open(steps / "step-0002.png") as drawn:
        assert drawn.tobytes() == shown[1].tobytes()
    drawn_before = (tmp_path / "cat.png").read_bytes()
    # a folder that is a file: said, and all else goes on
    (tmp_path / "taken").write_text("")
    main([*command, "--previews", str(tmp_path / "taken")])
    assert "cannot be written" in capsys.readouterr().err and (tmp_path / "cat.png").read_bytes() == drawn_before
    for words, why in (
        (["--tiny", str(tiny)], "which makes previews; say --preview FILE or --previews FOLDER"),
        (["--preview", "now.jpg"], "preview is now.jpg; write a .png"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *words])
        assert why in capsys.readouterr().err
