"""Kinds of published files that circulate: FLUX.1's tools, ControlNets of their authors, weights in 8 bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin as lv
from langevin.tensors import load, save
from langevin.zoo import adapting
from langevin.zoo.budget import fit
from langevin.zoo.detect import detect
from langevin.zoo.layouts import to_original
from langevin.zoo.load import ladder
from tests.parity.goldens import Goldens


def _reads_more(folder: Path, to: Path, kind: str, extra: int) -> Path:
    """FLUX.1 with so many further input channels."""
    shutil.copytree(folder, to)
    config = json.loads((to / "transformer" / "config.json").read_text())
    inputs = config["in_channels"]
    (to / "transformer" / "config.json").write_text(json.dumps({**config, "in_channels": inputs + extra, "out_channels": inputs}))
    file = to / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load(file)
    old = tensors["x_embedder.weight"]
    more = 0.1 * torch.randn(len(old), extra, generator=torch.Generator().manual_seed(1))
    save(file, {**tensors, "x_embedder.weight": torch.cat([old, more], 1)}, {"format": "pt"})
    index = json.loads((to / "model_index.json").read_text())
    (to / "model_index.json").write_text(json.dumps({**index, "_class_name": kind}))
    return to


@pytest.mark.parametrize("task", ["Fill", "Control"])
def test_a_file_of_fluxs_tools_draws_what_the_folder_does(goldens: Goldens, tmp_path: Path, task: str) -> None:
    plain = goldens.case("flux", "dev_pipeline").dir / "pipeline"
    inputs = json.loads((plain / "transformer" / "config.json").read_text())["in_channels"]
    factor = lv.load(plain).codec.factor
    extra = inputs + (4 * factor**2 if task == "Fill" else 0)
    folder = _reads_more(plain, tmp_path / "folder", f"Flux{task}Pipeline", extra)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    tensors = load(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    file = save(tmp_path / "flux.safetensors", to_original("flux", {"transformer": (config, tensors)}))
    assert f", dev, {task} (" in detect(file).title
    side = 8 * factor
    image = torch.linspace(-1, 1, 3 * side * side).reshape(3, side, side)
    asked: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 3, "size": (side, side)}
    asked |= {"image": image, "mask": torch.eye(side)} if task == "Fill" else {"control": image}
    one, other = lv.load(folder), lv.load(file, beside=folder, configs=folder)
    assert one.takes == other.takes == task.lower() and one.defaults == other.defaults
    torch.testing.assert_close(other.run(**asked).latents, one.run(**asked).latents, rtol=0, atol=1e-5)


def test_a_controlnet_of_its_authors_is_that_of_the_folder(goldens: Goldens, tmp_path: Path) -> None:
    folder = goldens.case("controlnet", "pipeline").dir / "pipeline"
    config = json.loads((folder / "controlnet" / "config.json").read_text())
    tensors = load(folder / "controlnet" / "diffusion_pytorch_model.safetensors")
    file = save(tmp_path / "control.safetensors", to_original("controlnet", {"controlnet": (config, tensors)}))
    model = lv.load(folder)
    asked: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 5, "size": (32, 32)}
    hint = torch.sin(torch.arange(3 * 32 * 32.0)).reshape(3, 32, 32)
    made = [
        adapting.add_control(model, path, configs=said)
        for path, said in ((folder / "controlnet", None), (file, {"controlnet": config}))
    ]
    one, other = (m.run(**asked, control=[hint, -hint], control_scale=[0.3, 0.9]).tensor for m in made)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    # what is kept of it has the published form
    kept, theirs = made[1].parts["controlnet_1"][1], made[0].parts["controlnet_1"][1]
    assert all(kept[key] == theirs[key] for key in ("_class_name", "block_out_channels", "conditioning_embedding_out_channels"))
    with pytest.raises(ValueError, match=r"is no ControlNet but a UNet; give a folder .* or its authors' file"):
        case = goldens.case("sd1", "txt2img_pndm")
        configs = {part: case.config(f"pipeline/{part}") for part in ("unet", "vae", "text_encoder")}
        adapting.add_control(model, case.dir / "original" / "v1.safetensors", configs=configs)


def test_weights_in_8_bits_are_computed_in_16(goldens: Goldens, tmp_path: Path) -> None:
    """The picture is that of the same values in bfloat16; what of the file has other numbers goes along."""
    folder = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    made = {}
    for name in ("eighths", "halves", "mixed"):
        made[name] = Path(shutil.copytree(folder, tmp_path / name))
        for file in made[name].rglob("*.safetensors"):
            tensors = {n: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for n, v in load(file).items()}
            if name == "halves":
                tensors = {n: v.bfloat16() if v.is_floating_point() else v for n, v in tensors.items()}
            if name == "mixed":
                tensors = {n: v.float() if v.ndim == 1 and v.is_floating_point() else v for n, v in tensors.items()}
            save(file, tensors, {"format": "pt"})
    asked: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 5, "size": (32, 32)}
    pictures = {name: lv.load(path).run(**asked).tensor for name, path in made.items()}
    assert torch.equal(pictures["eighths"], pictures["halves"]) and torch.equal(pictures["mixed"], pictures["halves"])
    assert ladder(made["eighths"], 10**15).needs[0] == ladder(made["halves"], 10**15).needs[0]
    assert fit(detect(made["eighths"]), 10**15).needs[0] > sum(f.stat().st_size for f in made["eighths"].rglob("*.safetensors"))
