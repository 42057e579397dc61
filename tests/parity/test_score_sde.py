"""DDPM++ of score_sde beside what its authors' modules compute."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.core.gaussian import Gaussian
from langevin.networks.unet import UNet
from langevin.recipes import config as c
from langevin.recipes.domains.pictures import network
from langevin.recipes.facts import Facts
from langevin.tasks.generate import Generator
from langevin.tensors import load, save
from langevin.zoo import schedulers
from langevin.zoo.convert import convert_file
from langevin.zoo.detect import detect
from langevin.zoo.families import score_sde, unconditional
from langevin.zoo.layouts import opened
from tests.parity.score_sde import answer, original

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def made(blocks: int = 2, attention: tuple[int, ...] = (1,)) -> UNet:
    """Of a recipe, its weights drawn so that every part of it counts."""
    cfg = c.UNetConfig(style="ddpmpp", width=16, multipliers=(1, 2, 2), blocks=blocks, attention=attention, head_width=32,
                       time="add", dropout=0.1)  # fmt: skip
    net = network(cfg, Facts(shape=(3, 8, 8), classes=None), Gaussian(lv.schedules.vp_linear()))
    assert isinstance(net, UNet)
    generator = torch.Generator().manual_seed(0)
    net.load_state_dict({n: torch.randn(v.shape, generator=generator) * 0.2 for n, v in net.state_dict().items()})
    return net.eval()


def test_the_recipes_ddpmpp_is_the_published_network():
    net, label = made(), torch.tensor([3.5, 800.0])
    with torch.no_grad():
        expected = answer(original(net), X, label, 2, (False, True, False))
        assert torch.allclose(net(X, label), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert float((answer(original(net), X, label + 50, 2, (False, True, False)) - expected).abs().max()) > 1e-2


def test_projected_changes_have_no_words_in_the_peers_layout():
    with pytest.raises(ValueError, match="projected here, as in DDPM"):
        unconditional.config(made())


def checkpoint(path: Path, net: UNet, averaged: UNet) -> Path:
    """A file as the authors' training writes it: the model, and its average as a list without names."""
    model, mean = original(net), original(averaged)
    shadow = [mean[name] for name in model if name.startswith("all_modules.")]
    state = {f"module.{name}": value for name, value in model.items()}
    torch.save({"model": state, "ema": {"decay": 0.9999, "num_updates": 1, "shadow_params": shadow}, "step": 1}, path)
    convert_file(path, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def halved(net: UNet) -> UNet:
    other = made()
    other.load_state_dict({name: value / 2 for name, value in net.state_dict().items()})
    return other


@pytest.mark.parametrize("sde, schedule", [("vp", lv.schedules.vp_linear()), ("sub_vp", lv.schedules.sub_vp())])
def test_a_checkpoint_of_the_authors_is_a_model(tmp_path, sde, schedule):
    """What it believes: the noise, of labels 999 t, by the average of the weights. No shape tells VP from sub-VP."""
    net = made()
    file = checkpoint(tmp_path / "checkpoint_8.pth", net, halved(net))
    assert detect(file).name == "ddpmpp"
    model = lv.load(file, configs={"scheduler": {"sde": sde}} if sde != "vp" else None)
    assert isinstance(model, Generator) and model.codec is None and model.defaults.steps == 1000
    t = torch.tensor([0.25, 0.8], dtype=torch.float64)
    alpha, sigma = (c[:, None, None, None].float() for c in schedule(t))
    with torch.no_grad():
        noise = answer(original(halved(net)), X, 999 * t.float(), 2, (False, True, False))
        mean = model.denoiser(X, t[:, None, None, None]).mean
    expected = (X - sigma * noise) / alpha
    assert torch.allclose(mean, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    plan, theirs = model.plan(25), lv.plans.score_sde(25, corrections=0, predictor="euler_maruyama")
    assert plan.on(schedule).rows == theirs.on(schedule).rows
    assert model.plan(1000, reference=True).on(schedule).nfe == 1000


def test_a_checkpoint_is_saved_as_a_folder_and_goes_back_to_its_bytes(tmp_path):
    net = made()
    bare = save(tmp_path / "bare.safetensors", original(net))
    model = lv.load(bare, configs={"scheduler": {"sde": "sub_vp"}})
    again = lv.load(lv.save(model, tmp_path / "folder"))
    said = json.loads((tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text())
    assert said["_class_name"] == "ScoreSdeVpScheduler" and said["sde"] == "sub_vp"
    with torch.no_grad():
        assert torch.equal(again.denoiser(X, 0.4).mean, model.denoiser(X, 0.4).mean)
    back = load(lv.save(again, tmp_path / "back.safetensors"))
    assert set(back) == set(original(net)) - {"sigmas"}
    assert all(torch.equal(value, original(net)[name]) for name, value in back.items())
    # the command line takes the folder, and the file beside the folder's configurations
    for words in ([str(tmp_path / "folder")], [str(bare), "--configs", str(tmp_path / "folder")]):
        out = tmp_path / f"{len(words)}.png"
        main(["generate", *words, "--steps", "2", "--size", "8x8", "--out", str(out), "--device", "cpu"])
    one, three = (Image.open(tmp_path / f"{n}.png") for n in (1, 3))
    assert one.size == (8, 8) and one.tobytes() == three.tobytes()


@pytest.mark.parametrize("layers", [4, 8])
def test_the_configuration_of_published_sizes_is_told_from_shapes(layers):
    """CIFAR-10's, and the deep ones; and of levels that attend last or not at all."""
    published = {"block_out_channels": [128, 256, 256, 256], "layers_per_block": layers, "attention": [1], "sample_size": 32}
    for config in (published, {**published, "attention": [3]}, {**published, "attention": []}):
        with torch.device("meta"):
            net = score_sde.build(config)
            shapes = {name: tuple(value.shape) for name, value in original(net).items()}

        def read(name):
            raise AssertionError(f"nothing is to be read, and {name} was")

        found = opened(shapes, read)
        told = found.pieces["unet"].config
        assert found.layout == "ddpmpp" and {key: told[key] for key in config} == config
        assert set(found.ignored) == {"sigmas"}


def test_other_networks_of_the_authors_are_refused():
    shapes = {name: tuple(value.shape) for name, value in original(made()).items()}
    # DDPM's own blocks have a plain convolution where resolutions change
    other = {name: shape for name, shape in shapes.items() if ".Conv_2." not in name}
    with pytest.raises(ValueError, match="not those of DDPM\\+\\+ with blocks of BigGAN"):
        opened(other, lambda name: torch.zeros(other[name]))
    with pytest.raises(ValueError, match="sde = 'subvp'; there are 'vp', 'sub_vp'"):
        schedulers.read({"_class_name": "ScoreSdeVpScheduler", "sde": "subvp"})
