"""Loaded models are saved, and loaded again: every tensor to the bit, as folders and as single files, with what was merged."""

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import langevin as lv
from langevin.cli import main
from langevin.networks.blocks import fixed_groups
from langevin.networks.unet import Attending
from langevin.recipes.tuning import begin, keep
from langevin.tensors import load, metadata
from langevin.zoo import adapting
from langevin.zoo.detect import detect
from langevin.zoo.embeddings import write_embedding
from langevin.zoo.hub import read_object
from langevin.zoo.layouts import LAYOUTS
from langevin.zoo.layouts.single import components
from tests.parity.goldens import Goldens
from tests.parity.test_adapting import _adapters, _picture
from tests.parity.test_load import WHOLE, _single
from tests.parity.test_tuning import _settings, toys  # noqa: F401

PIPELINES = [
    ("sd1", "txt2img_pndm"), ("sd2", "txt2img"), ("sdxl", "txt2img"), ("sd_inpaint", "inpaint"), ("sd_upscaler", "upscale"),
    ("lcm", "lcm_pipeline"), ("controlnet", "pipeline"), ("sd3", "sd35_pipeline"), ("flux", "dev_pipeline"), ("dit", "pipeline"),
    ("pixart", "alpha_pipeline"), ("pixart", "sigma_pipeline"), ("ddpm", "ddim_pipeline"), ("vq", "ldm_pipeline"),
    ("adm", "consistency_pipeline"), ("ncsnpp", "sde_ve_pipeline"),
]  # fmt: skip


def _same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for part, (net, _) in theirs.items():
        state = ours[part][0].state_dict()
        assert list(state) == list(net.state_dict())
        for name, value in net.state_dict().items():
            assert state[name].dtype == value.dtype and torch.equal(state[name], value), (part, name)


@pytest.mark.parametrize(("family", "name"), PIPELINES, ids=[f"{f}-{n}" for f, n in PIPELINES])
def test_a_folder_is_saved_as_it_was(goldens: Goldens, tmp_path: Path, family: str, name: str) -> None:
    folder = goldens.case(family, name).dir / "pipeline"
    model = lv.load(folder)
    made = lv.save(model, tmp_path / "saved", shard=None)
    again = lv.load(made)
    _same(again.parts, model.parts)
    assert again.defaults == model.defaults and again.takes == model.takes
    for file in folder.rglob("*"):
        ours = made / file.relative_to(folder)
        if file.suffix == ".safetensors":
            old, new = load(file), load(ours)
            assert set(new) <= set(old) and all(torch.equal(v, old[n]) for n, v in new.items())
            assert metadata(ours) == {"format": "pt"}
        elif file.name == "config.json" or file.name == "scheduler_config.json":
            assert read_object(ours) == read_object(file)
        elif file.name == "model_index.json":
            theirs = read_object(file)
            assert {k: v for k, v in read_object(ours).items() if k in theirs} == theirs
        elif file.is_file() and file.suffix in (".json", ".txt", ".model"):
            assert ours.read_bytes() == file.read_bytes()


def test_weights_in_several_files_and_in_half_precision(goldens: Goldens, tmp_path: Path) -> None:
    folder = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    model = lv.load(folder)
    made = lv.save(model, tmp_path / "shards", shard="60kB")
    files = sorted((made / "unet").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    index = read_object(made / "unet" / "diffusion_pytorch_model.safetensors.index.json")
    assert index["metadata"] == {"total_size": sum(v.nbytes for f in files for v in load(f).values())}
    assert all(sum(v.nbytes for v in tensors.values()) <= 60_000 or len(tensors) == 1 for tensors in map(load, files))
    _same(lv.load(made).parts, model.parts)
    half = lv.load(lv.save(model, tmp_path / "half", dtype=torch.float16))
    for part, (net, _) in lv.load(folder, dtype=torch.float16).parts.items():
        theirs = half.parts[part][0].state_dict()
        assert all(torch.equal(v.half(), theirs[n].half()) for n, v in net.state_dict().items())
    with pytest.raises(ValueError, match=r"shard is 1 bytes, which makes \d+ files of"):
        lv.save(model, tmp_path / "many", shard=1)
    assert not list(tmp_path.glob("*many*"))  # nothing half done
    with pytest.raises(ValueError, match="holds something already"):
        lv.save(model, made)


@pytest.mark.parametrize("family, name, layout, parts", WHOLE, ids=[f"{w[0]}-{w[1]}" for w in WHOLE])
def test_from_a_file_to_a_folder_and_to_a_file(
    goldens: Goldens, tmp_path: Path, family: str, name: str, layout: str, parts: tuple[str, ...]
) -> None:
    case = goldens.case(family, name)
    folder = case.dir / "pipeline"
    file = _single(case, layout, parts, tmp_path / "model.safetensors")
    model = lv.load(file, beside=folder, configs=folder)
    whole = lv.load(lv.save(model, tmp_path / "folder"))
    _same(whole.parts, model.parts)
    assert whole.defaults == model.defaults and whole.takes == model.takes
    places = {place.component for place in LAYOUTS[detect(file).name]}
    left = [part for part in model.parts if part not in places]
    left += [part.replace("text_encoder", "tokenizer") for part in model.parts if part.startswith("text_encoder")]
    with pytest.warns(UserWarning, match=f"does not hold {' and '.join(left)}") if left else nullcontext():
        made = lv.save(model, tmp_path / "again.safetensors")
    _same(lv.load(made, beside=folder, configs=folder).parts, model.parts)
    old, new = load(file), load(made)
    here = set(components({n: tuple(v.shape) for n, v in old.items()}))
    assert (set(new) <= set(old)) == (places & set(model.parts) == here)  # text encoders from beside find their place in it
    assert all(torch.equal(v, old[n]) for n, v in new.items() if n in old)


def test_a_folder_becomes_its_authors_file(goldens: Goldens, tmp_path: Path) -> None:
    case = goldens.case("sd1", "txt2img_pndm")
    folder = case.dir / "pipeline"
    with pytest.warns(UserWarning, match=r"v1.safetensors does not hold tokenizer, .* beside= \(--beside FOLDER\)"):
        made = load(lv.save(lv.load(folder), tmp_path / "v1.safetensors"))
    theirs = load(case.dir / "original" / "v1.safetensors")
    assert made and all(torch.equal(v, theirs[n]) for n, v in made.items())
    with pytest.raises(ValueError, match="layout is 'sdxx'; there are"):
        lv.save(lv.load(folder), tmp_path / "x.safetensors", layout="sdxx")
    with pytest.raises(ValueError, match=r"is a folder; name a \.safetensors"):
        lv.save(lv.load(folder), tmp_path / "x", layout="sdxl")
    with pytest.raises(ValueError, match="a PixArtSigmaPipeline has no single file of its own"):
        lv.save(lv.load(goldens.case("pixart", "sigma_pipeline").dir / "pipeline"), tmp_path / "x.safetensors")


COMPONENTS = [
    ("sd1", "unet", "unet"), ("controlnet", "controlnet", "controlnet"), ("sana", "sana", "transformer"),
    ("sana", "dc_ae", "vae"), ("lumina", "lumina2", "transformer"), ("vq", "vqmodel", "vqvae"), ("vae", "flux", "vae"),
    ("pixart", "alpha", "transformer"), ("ncsnpp", "ve_small", "unet"), ("adm", "class_conditional", "unet"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "part"), COMPONENTS, ids=[c[0] + "-" + c[1] for c in COMPONENTS])
def test_a_part_is_saved_as_it_was(goldens: Goldens, tmp_path: Path, family: str, name: str, part: str) -> None:
    folder = goldens.case(family, name).dir / part
    net = lv.load(folder)
    made = lv.save(net, tmp_path / part)
    assert read_object(made / "config.json") == read_object(folder / "config.json")
    _same({"": (lv.load(made), {})}, {"": (net, {})})


def test_a_network_that_was_trained_here(tmp_path: Path) -> None:
    norm = fixed_groups(8, 1e-5)
    attending = Attending(norm, middle_norm=norm)
    net = lv.networks.UNet(3, 32, (1, 2), 1, (1,), 8, norm=norm, attending=attending)
    again = lv.load(lv.save(net, tmp_path / "unet"))
    state = again.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())
    with pytest.raises(ValueError, match="the network is a Linear, which has no published form"):
        lv.save(nn.Linear(2, 2), tmp_path / "linear")
    with pytest.raises(ValueError, match="the network is one part of a model"):
        lv.save(net, tmp_path / "net.safetensors")


def test_what_was_merged_and_swapped_is_kept_and_what_was_not_is_refused(goldens: Goldens, tmp_path: Path) -> None:
    folder = goldens.case("controlnet", "pipeline").dir / "pipeline"
    plain = Path(shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("controlnet*")))
    index = json.loads((plain / "model_index.json").read_text())
    del index["controlnet"]
    (plain / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    style = _adapters(plain, tmp_path / "style.safetensors", 0)
    model = lv.load(plain)
    adapting.add_lora(model, style, 0.7)
    with pytest.raises(ValueError, match=r"the unet has adapters that are not merged, 'style'; merge them before, by"):
        lv.save(model, tmp_path / "refused")
    adapting.merge(model, "style")
    ours = _picture(model)
    assert torch.equal(_picture(lv.load(lv.save(model, tmp_path / "styled"))), ours)
    assert not torch.equal(_picture(lv.load(plain)), ours)
    # another autoencoder in its place, and a ControlNet beside
    vae = lv.load(folder / "vae")
    with torch.no_grad():
        vae.decoder.leave.bias.add_(0.2) if hasattr(vae.decoder, "leave") else next(vae.decoder.parameters()).add_(0.2)
    swapped = model.but(parts={**model.parts, "vae": (vae, model.parts["vae"][1])})
    assert not torch.equal(_picture(lv.load(lv.save(swapped, tmp_path / "swapped"))), ours)
    hint = torch.sin(torch.arange(3 * 32 * 32.0)).reshape(3, 32, 32)
    for count, said in ((1, "ControlNetModel"), (2, "MultiControlNetModel")):
        controlled = model
        for _ in range(count):
            controlled = adapting.add_control(controlled, folder / "controlnet")
        made = lv.save(controlled, tmp_path / f"controlled-{count}")
        told = read_object(made / "model_index.json")
        assert (told["_class_name"], told["controlnet"]) == ("StableDiffusionControlNetPipeline", ["diffusers", said])
        hints = [hint, -hint][:count]
        assert torch.equal(_picture(lv.load(made), control=hints), _picture(controlled, control=hints))
    width = adapting.sides(model)["text_encoder"].width
    adapting.add_word(model, write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": torch.ones(1, width)}))
    with pytest.raises(ValueError, match="the text_encoder has learned words, '<toy>'; save the model without"):
        lv.save(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_the_peer_opens_what_a_single_file_became(goldens: Goldens, tmp_path: Path, family: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    row = next(w for w in WHOLE if w[0] == family)
    folder = goldens.case(family, row[1]).dir / "pipeline"
    file = _single(goldens.case(family, row[1]), row[2], row[3], tmp_path / "model.safetensors")
    made = lv.save(lv.load(file, beside=folder, configs=folder), tmp_path / "folder")
    pipe, theirs = (diffusers.DiffusionPipeline.from_pretrained(str(path)) for path in (made, folder))
    for name, part in theirs.components.items():
        assert type(pipe.components[name]) is type(part), name
        if isinstance(part, nn.Module):
            state = pipe.components[name].state_dict()
            assert all(torch.equal(v, state[n]) for n, v in part.state_dict().items()), name


def test_generate_runs_what_fine_tuning_a_single_file_leaves(
    goldens: Goldens, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    case = goldens.case("sd1", "txt2img_pndm")
    file = case.dir / "original" / "v1.safetensors"
    beside = case.dir / "pipeline"
    with pytest.raises(ValueError):  # the small model's heads are told by no shape; published sizes need no configs
        begin(_settings("full", file, toys, 1, 1e-3, beside=str(beside)), tmp_path, say=lambda line: None)
    model = lv.load(file, beside=beside, configs=beside)
    tuned = replace(begin(_settings("full", beside, toys, 1, 1e-3), tmp_path / "run", say=lambda line: None), model=model)
    with torch.no_grad():
        model.parts["unet"][0].leave.bias.add_(0.1)
    for _ in range(2):  # a run that is resumed at its end writes it again
        made = keep(tuned, tmp_path)
    main(["generate", str(made), "a red cat", "--steps", "1", "--size", "32x32", "--out", str(tmp_path / "cat.png")])
    assert (tmp_path / "cat.png").exists()
    _same(lv.load(made).parts, model.parts)


def test_convert_writes_safe_models_in_other_forms(goldens: Goldens, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = goldens.case("sd1", "txt2img_pndm")
    folder, file = case.dir / "pipeline", case.dir / "original" / "v1.safetensors"
    style = _adapters(folder, tmp_path / "style.safetensors", 0)
    out = tmp_path / "styled.safetensors"
    with pytest.warns(UserWarning, match="styled.safetensors does not hold tokenizer"):
        main(["convert", str(folder), str(out), "--lora", f"{style}:0.5", "--dtype", "float16"])
    with pytest.raises(ValueError, match=r"norm_num_groups.*not published ones, say configs=FOLDER \(--configs FOLDER\)"):
        lv.load(out, beside=folder)
    merged = lv.load(folder, lora={style: 0.5}, dtype=None)
    again = lv.load(out, beside=folder, configs=folder)
    for part, (net, _) in again.parts.items():
        theirs = merged.parts[part][0].state_dict()
        assert all(torch.equal(v.half(), theirs[n].half()) for n, v in net.state_dict().items())
    main(["convert", str(file), str(tmp_path / "whole"), "--beside", str(folder), "--configs", str(folder)])
    _same(lv.load(tmp_path / "whole").parts, lv.load(folder).parts)
    capsys.readouterr()
    main(["convert", str(file), str(tmp_path / "parts"), "--configs", str(folder)])
    assert "unet, vae, text_encoder; say --beside FOLDER" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["text_encoder", "unet", "vae"]
    main(["convert", str(file), str(tmp_path / "half.safetensors"), "--configs", str(folder), "--dtype", "bfloat16"])
    assert {v.dtype for v in load(tmp_path / "half.safetensors").values()} == {torch.bfloat16}
    for more, said in (
        (["--dtype", "float8"], "dtype is 'float8'; there are"),
        (["--part", "ema"], "part is of files of torch.save"),
        (["--layout", "sdxx"], "is a folder; name a .safetensors"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", str(folder), str(tmp_path / "other"), *more])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", str(case.dir / "original" / "v1.ckpt"), str(tmp_path / "o.safetensors"), "--dtype", "float16"])
    assert "convert those first" in capsys.readouterr().err
