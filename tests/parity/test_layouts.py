"""Original single files are the published components beside them, tensor by tensor, and go back to the same bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin.tensors import load
from langevin.zoo.layouts import Single, flat, opened, to_original
from tests.parity.goldens import Case, Goldens

# what no tensor tells, and small models have other values of than the published ones
UNTOLD = {
    "unet": {
        "attention_head_dim",
        "norm_num_groups",
        "attn_norm_num_groups",
        "addition_time_embed_dim",
        "sample_size",
        "upcast_attention",
    },
    "controlnet": {"attention_head_dim", "norm_num_groups"},
    "vae": {"norm_num_groups", "scaling_factor", "sample_size"},
    "vqvae": {"norm_num_groups", "scaling_factor"},
    "transformer": {"attention_head_dim", "num_attention_heads", "axes_dims_rope", "sample_size"},
    "text_encoder": {"num_attention_heads", "projection_dim", "hidden_act"},
    "text_encoder_2": {"num_attention_heads"},
}
PIPELINE = {"unet": "pipeline/unet", "vae": "pipeline/vae", "text_encoder": "pipeline/text_encoder"}
FILES: list[tuple[str, str, str, str, dict[str, str]]] = [
    # family, case, file, layout, component -> folder
    ("sd1", "txt2img_pndm", "v1.safetensors", "stable-diffusion-1", PIPELINE),
    ("sd1", "txt2img_pndm", "v1.ckpt", "stable-diffusion-1", PIPELINE),
    ("sd2", "txt2img", "v2.safetensors", "stable-diffusion-2", PIPELINE),
    ("sdxl", "txt2img", "sdxl.safetensors", "sdxl", {**PIPELINE, "text_encoder_2": "pipeline/text_encoder_2"}),
    ("vae", "sd", "first_stage.safetensors", "autoencoder-first-stage", {"vae": "vae"}),
    ("vq", "vqmodel", "vq_first_stage.safetensors", "autoencoder-first-stage", {"vae": "vqvae"}),
    ("controlnet", "controlnet", "control.safetensors", "controlnet", {"controlnet": "controlnet"}),
    ("sd3", "sd3", "sd3.safetensors", "stable-diffusion-3", {"transformer": "transformer"}),
    ("sd3", "sd35", "sd3.safetensors", "stable-diffusion-3", {"transformer": "transformer"}),
    ("flux", "dev", "flux.safetensors", "flux", {"transformer": "transformer"}),
    ("flux", "schnell", "flux.safetensors", "flux", {"transformer": "transformer"}),
    ("dit", "transformer", "DiT.pt", "dit", {"transformer": "transformer"}),
    ("dit", "transformer", "train.pt", "dit", {"transformer": "transformer"}),
    ("ncsnpp", "ve_small", "checkpoint_24.pth", "ncsnpp", {"unet": "unet"}),
    ("ncsnpp", "ve_attention", "checkpoint_24.pth", "ncsnpp", {"unet": "unet"}),
    ("adm", "class_conditional", "consistency.pt", "consistency", {"unet": "unet"}),
    ("adm", "class_conditional", "guided_diffusion.pt", "guided-diffusion", {"unet": "unet"}),
]
NAMES = [f"{family}-{case}-{file}" for family, case, file, *_ in FILES]


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load(path)
    return flat(torch.load(path, weights_only=True))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _open(case: Case, file: str, folders: dict[str, str], **options: Any) -> tuple[Single, dict[str, Tensor]]:
    tensors = _tensors(case.dir / "original" / file)
    given = {}
    for component, folder in folders.items():
        config = case.config(folder)
        untold = UNTOLD.get("vqvae" if "num_vq_embeddings" in config else component, set())
        given[component] = {key: config[key] for key in untold if key in config}
    return opened(_shapes(tensors), tensors.__getitem__, given=given, **options), tensors


def _published(case: Case, folder: str) -> dict[str, Tensor]:
    name = "model.safetensors" if "text_encoder" in folder else "diffusion_pytorch_model.safetensors"
    return load(case.dir / folder / name)


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


@pytest.mark.parametrize(("family", "name", "file", "layout", "folders"), FILES, ids=NAMES)
def test_an_original_is_the_published_components(
    goldens: Goldens, family: str, name: str, file: str, layout: str, folders: dict[str, str]
) -> None:
    case = goldens.case(family, name)
    single, tensors = _open(case, file, folders)
    assert single.layout == layout
    assert set(single.pieces) == set(folders)
    for component, folder in folders.items():
        piece, theirs = single.pieces[component], _published(case, folder)
        assert _shapes(theirs) == dict(piece.shapes)  # told before anything is read
        _same(piece.tensors(), theirs)
        assert piece.kind == case.entry["components"][folder]["class"]
        config = case.config(folder)
        for key, value in piece.config.items():
            if key in config:  # the rest are defaults of the class that older files leave out
                assert config[key] == value or (key == "layers_per_block" and [config[key]] == value), key

    back = single.back({component: _published(case, folder) for component, folder in folders.items()})
    _same(back, tensors)

    # without the file: what its authors' programs need, under bare names
    parts = {c: (case.config(folder), _published(case, folder)) for c, folder in folders.items()}
    made = to_original(layout, parts)
    used = {inner: at for inner, at in single._stored.items() if at not in single.ignored}
    assert set(made) == set(used)
    for inner, at in used.items():
        assert torch.equal(made[inner], tensors[at]), inner
