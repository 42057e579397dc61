"""`langevin.load` on single files in the layout of their authors."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin as lv
from langevin.cli import main
from langevin.tensors import save
from langevin.zoo import schedulers
from langevin.zoo.layouts import to_original
from langevin.zoo.store import open_weights
from tests.parity.goldens import Case, Goldens


@pytest.mark.parametrize(
    "family, name, file, parts",
    [
        ("sd1", "txt2img_pndm", "original/v1.safetensors", ("unet", "vae", "text_encoder")),
        ("flux", "dev", "original/flux.safetensors", ("transformer",)),
        ("sd3", "sd35", "original/sd3.safetensors", ("transformer",)),
    ],
)
def test_a_single_file_gives_the_networks_of_the_folder(
    goldens: Goldens, family: str, name: str, file: str, parts: tuple[str, ...]
):
    case = goldens.case(family, name)
    inside = "pipeline/" if case.entry["pipeline"] else ""
    folders = {part: case.dir / f"{inside}{part}" for part in parts}
    configs = {part: case.config(f"{inside}{part}") for part in parts}
    found = lv.load(case.dir / file, configs=configs)
    assert set(found) == set(parts)
    for part, net in found.items():
        theirs = lv.load(folders[part]).state_dict()
        assert set(theirs) == set(net.state_dict())
        for key, value in net.state_dict().items():
            assert torch.equal(value, theirs[key]), key


WHOLE = [
    # family, case of the pipeline, the peer's file, or a layout and the components that are written in it
    ("sd1", "txt2img_pndm", "v1.safetensors", ()),
    ("sd2", "txt2img", "v2.safetensors", ()),
    ("sdxl", "txt2img", "sdxl.safetensors", ()),
    ("sd_inpaint", "inpaint", "stable-diffusion-1", ("unet", "vae", "text_encoder")),
    ("sd_upscaler", "upscale", "stable-diffusion-2", ("unet", "vae", "text_encoder")),
    ("sd3", "sd3_pipeline", "stable-diffusion-3", ("transformer", "vae")),
    ("sd3", "sd35_pipeline", "stable-diffusion-3-bare", ("transformer",)),
    ("flux", "dev_pipeline", "flux", ("transformer",)),
    ("flux", "schnell_pipeline", "flux-whole", ("transformer", "vae", "text_encoder", "text_encoder_2")),
    ("dit", "pipeline", "dit", ("transformer",)),
    ("vq", "ldm_pipeline", "latent-diffusion", ("unet", "vqvae")),
    ("adm", "consistency_pipeline", "consistency", ("unet",)),
    ("ncsnpp", "sde_ve_pipeline", "ncsnpp", ("unet",)),
]


def _single(case: Case, layout: str, parts: tuple[str, ...], path: Path) -> Path:
    """The original file of a published pipeline; the writer is held to the peers' files in test_layouts."""
    folder, made = case.dir / "pipeline", {}
    if not parts:
        return case.dir / "original" / layout
    for part in parts:
        weights = open_weights(folder / part)
        made[part] = (case.config(f"pipeline/{part}"), {name: weights.read(name) for name in weights.names})
    return save(path, to_original(layout, made))


@pytest.mark.parametrize("family, name, layout, parts", WHOLE, ids=[f"{w[0]}-{w[1]}" for w in WHOLE])
def test_a_single_file_draws_the_picture_of_the_folder(
    goldens: Goldens, tmp_path: Path, family: str, name: str, layout: str, parts: tuple[str, ...]
):
    """The folder's own pictures are held to the peers' in test_pipelines."""
    case = goldens.case(family, name)
    folder = case.dir / "pipeline"
    file = _single(case, layout, parts, tmp_path / "model.safetensors")
    one, other = lv.load(folder), lv.load(file, beside=folder, configs=folder)
    nets = [part for made in (one, other) for part in vars(made).values() if isinstance(part, torch.nn.Module)]
    for value in [value for net in nets for value in (*net.parameters(), *net.buffers())]:
        # weights are pages of their files, which begin at any byte, or lie the other way: some processors multiply those by
        # another kernel, which rounds otherwise
        value.data = value.data.clone(memory_format=torch.contiguous_format)
    asked: dict[str, Any] = {"steps": 2, "seed": 3}
    if one.conditioner is not None:
        asked |= {"prompt": ["a red cat", "blue"]} | ({} if one.takes else {"size": (32, 32)})
    if one.defaults.classes is not None:
        asked["label"] = 1
    small = torch.linspace(-1, 1, 3 * 16 * 16).reshape(3, 16, 16)
    if one.takes:
        asked["image"] = small
    if one.takes == "inpaint":
        asked["mask"] = torch.eye(16)
    theirs, ours = one.run(**asked), other.run(**asked)
    assert torch.equal(theirs.latents, ours.latents) and torch.equal(theirs.tensor, ours.tensor)
    assert float(theirs.latents.std()) > 0


def test_what_a_file_lacks_is_named(goldens: Goldens, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case = goldens.case("sd1", "txt2img_pndm")
    folder, file = case.dir / "pipeline", case.dir / "original" / "v1.safetensors"
    assert set(lv.load(file, configs=folder)) == {"unet", "vae", "text_encoder"}
    with pytest.raises(ValueError, match=r"needs tokenizer beside it, and .* has no such part"):
        lv.load(file, beside=case.dir / "pipeline" / "unet", configs=folder)
    with pytest.raises(ValueError, match="completes a single file"):
        lv.load(folder, beside=folder)
    with pytest.raises(ValueError, match="holds no configuration of unet"):
        lv.load(file, beside=folder, configs=tmp_path)
    command = ["generate", str(file), "a cat", "--steps", "1", "--size", "16x16", "--out", str(tmp_path / "cat.png")]
    with pytest.raises(SystemExit):
        main([*command, "--configs", str(folder)])
    assert "--beside FOLDER" in capsys.readouterr().err
    main([*command, "--configs", str(folder), "--beside", str(folder)])
    assert (tmp_path / "cat.png").exists()


def test_a_sampler_of_another_class_has_its_own_defaults(goldens: Goldens):
    case = goldens.case("sd1", "txt2img_pndm")
    folder, file = case.dir / "pipeline", case.dir / "original" / "v1.safetensors"
    configs = {part: case.config(f"pipeline/{part}") for part in ("unet", "vae", "text_encoder")}
    euler = {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    model = lv.load(file, beside=folder, configs={**configs, "scheduler": euler})
    assert (
        model.plan(3).on(model.denoiser.process.schedule).name
        == schedulers.read(euler).plan(3).fill(model.denoiser.process.schedule).name
    )
    # one key of the same class changes that alone
    model = lv.load(file, beside=folder, configs={**configs, "scheduler": {"prediction_type": "v_prediction"}})
    assert model.denoiser.predictions[""].name == "v"


def test_what_is_neither_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for path, said in ((tmp_path, "neither model_index.json nor config.json"), (tmp_path / "absent", "does not exist")):
        with pytest.raises(ValueError, match=said) as caught:
            lv.load(path)
        assert "\n" not in str(caught.value)


def _in_variants(folder: Path, to: Path, variants: dict[str, torch.dtype], plain: bool = False) -> Path:
    """The folder with its weights in variants."""
    shutil.copytree(folder, to)
    for file in list(to.rglob("*.safetensors")):
        weights = open_weights(file)
        for name, dtype in variants.items():
            cast = {n: weights[n].to(dtype) if weights[n].is_floating_point() else weights[n] for n in weights}
            save(file.with_name(f"{file.stem}.{name}.safetensors"), cast)
        if not plain:
            file.unlink()
    return to


def test_the_only_variant_there_is_is_taken(goldens: Goldens, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole = goldens.case("sd1", "txt2img_sampler").dir / "pipeline"
    asked: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "seed": 5, "size": (32, 32)}
    folder = _in_variants(whole, tmp_path / "half", {"fp16": torch.float16})
    with pytest.warns(UserWarning, match=r"'fp16' of unet.* was taken; choose it by variant="):
        taken = lv.load(folder, dtype=torch.float32)
    named = lv.load(folder, variant="fp16", dtype=torch.float32)
    assert torch.equal(taken.run(**asked).tensor, named.run(**asked).tensor)
    assert float((named.run(**asked).tensor - lv.load(whole).run(**asked).tensor).abs().max()) < 0.05
    # another is in some part or it is refused, though parts without it are read in what they have
    for where in (folder, whole):
        with pytest.raises(
            ValueError, match=r"variant is 'fp61', of which no part of .* has weights; (it has 'fp16'|leave it out)"
        ):
            lv.load(where, variant="fp61")
    some = _in_variants(whole, tmp_path / "some", {"fp16": torch.float16}, plain=True)
    (some / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    mixed = lv.load(some, variant="fp16").parts
    assert (
        next(mixed["vae"][0].parameters()).dtype == torch.float32 and next(mixed["unet"][0].parameters()).dtype == torch.float16
    )
    with pytest.raises(ValueError, match="is no folder with variants; leave it out"):
        lv.load(next(some.rglob("*.safetensors")), variant="fp16")

    out = ["--steps", "1", "--size", "32x32", "--dtype", "float32", "--out", str(tmp_path / "cat.png")]
    main(["generate", str(folder), "a cat", "--variant", "fp16", *out])
    with pytest.raises(SystemExit):
        main(["inspect", str(folder), "--variant", "bf16"])
    assert "it has 'fp16'" in capsys.readouterr().err
    both = _in_variants(whole, tmp_path / "both", {"fp16": torch.float16, "bf16": torch.bfloat16})
    with pytest.raises(SystemExit):
        main(["generate", str(both), "a cat", *out])
    assert "choose variant='bf16' (there are 'bf16', 'fp16')" in capsys.readouterr().err
    main(["generate", str(both), "a cat", "--variant", "bf16", "--budget", "8GB", *out[:4], *out[-2:]])
    assert (tmp_path / "cat.png").exists()
