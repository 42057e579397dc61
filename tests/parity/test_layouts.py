"""Original single files are the published components beside them, tensor by tensor, and go back to the same bytes."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langevin.tensors import DTYPES, load
from langevin.zoo import convert
from langevin.zoo.family import load_into, parameters, unset
from langevin.zoo.layouts import Single, opened, to_original
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
    with convert.opened(path) as old:
        views = convert.select(old, "all").tensors
        values = {name: bytearray(b"".join(bytes(piece) for piece in old.read(view))) for name, view in views.items()}
    return {name: torch.frombuffer(values[name], dtype=DTYPES[v.dtype]).reshape(v.shape) for name, v in views.items()}


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


families = importlib.import_module("langevin.zoo.families")
MODULES = [importlib.import_module(f"{families.__name__}.{found.name}") for found in pkgutil.iter_modules(families.__path__)]
PARTS = {part.name: part for module in MODULES for part in module.COMPONENTS}


@pytest.mark.parametrize("index", range(len(FILES)), ids=NAMES)
def test_networks_of_ours_are_built_of_originals(goldens: Goldens, index: int) -> None:
    """By the configuration that was told from the file, with the weights that were read one by one."""
    family, name, file, _, folders = FILES[index]
    case = goldens.case(family, name)
    single, _ = _open(case, file, folders)
    for component, folder in folders.items():
        piece = single.pieces[component]
        if piece.kind not in PARTS:
            continue
        part = PARTS[piece.kind]
        with unset():
            net = part.build(piece.config)
        load_into(net, part.keys(piece.config, net), piece.names, piece.read, file)
        file_name = "model.safetensors" if "text_encoder" in folder else "diffusion_pytorch_model.safetensors"
        _same(parameters(net), parameters(case.network(folder, part, file_name)))


# Published sizes, whose originals come without a configuration


CROSS = "CrossAttnDownBlock2D"
SD = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "down_block_types": (CROSS, CROSS, CROSS, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
SD2 = {**SD, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
XL = {
    **SD2, "sample_size": 128, "down_block_types": ("DownBlock2D", CROSS, CROSS),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
REFINER = {
    **XL, "block_out_channels": (384, 768, 1536, 1536), "attention_head_dim": (6, 12, 24, 24), "cross_attention_dim": 1280,
    "down_block_types": ("DownBlock2D", CROSS, CROSS, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}  # fmt: skip
UPSCALER = {
    **SD, "in_channels": 7, "sample_size": 128, "block_out_channels": (256, 512, 512, 1024), "cross_attention_dim": 1024,
    "down_block_types": ("DownBlock2D", CROSS, CROSS, CROSS), "num_class_embeds": 1000, "use_linear_projection": True,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "only_cross_attention": (False, True, True, False),  # published with True for the level that has no attention
}  # fmt: skip
ADM = {
    "sample_size": 64, "block_out_channels": (192, 384, 576, 768), "layers_per_block": 3, "num_class_embeds": 1000,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"), "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet", "attn_norm_num_groups": 32,
}  # fmt: skip
ADM_256 = {
    **ADM, "sample_size": 256, "block_out_channels": (256, 256, 512, 512, 1024, 1024), "layers_per_block": 2, "out_channels": 6,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
}  # fmt: skip
NCSN = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 256, 256, 256), "layers_per_block": 2, "time_embedding_type": "fourier",
    "down_block_types": ("SkipDownBlock2D",) * 4 + ("AttnSkipDownBlock2D",) + ("SkipDownBlock2D",) * 2,
    "up_block_types": ("SkipUpBlock2D",) * 2 + ("AttnSkipUpBlock2D",) + ("SkipUpBlock2D",) * 4, "norm_num_groups": None,
    "attention_head_dim": None, "mid_block_scale_factor": 2**0.5, "norm_eps": 1e-6,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4, "layers_per_block": 2,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4,
}  # fmt: skip
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SD3 = {
    "sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "caption_projection_dim": 1536,
    "pos_embed_max_size": 192, "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "out_channels": 16,
}  # fmt: skip
FLUX = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
DIT = {
    "num_layers": 1, "in_channels": 4, "out_channels": 8, "num_attention_heads": 16, "attention_head_dim": 72, "sample_size": 32,
    "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero", "norm_elementwise_affine": False,
}  # fmt: skip
PUBLISHED: dict[str, tuple[str, str, str, dict[str, Any], str | None, dict[str, Any]]] = {
    # layout, component, class, configuration, pipeline, of the scheduler
    "sd-1.5": (
        "stable-diffusion-1", "unet", "UNet2DConditionModel", SD, "StableDiffusionPipeline", {"prediction_type": "epsilon"},
    ),
    "sd-1.5-inpainting": (
        "stable-diffusion-1", "unet", "UNet2DConditionModel", {**SD, "in_channels": 9}, "StableDiffusionInpaintPipeline", {},
    ),
    "sd-2.1": (
        "stable-diffusion-2", "unet", "UNet2DConditionModel", {**SD2, "sample_size": 96, "upcast_attention": True},
        "StableDiffusionPipeline", {"prediction_type": "v_prediction"},
    ),
    "x4-upscaler": ("stable-diffusion-2", "unet", "UNet2DConditionModel", UPSCALER, "StableDiffusionUpscalePipeline", {}),
    "sdxl": ("sdxl", "unet", "UNet2DConditionModel", XL, "StableDiffusionXLPipeline", {"timestep_spacing": "leading"}),
    "sdxl-refiner": ("sdxl-refiner", "unet", "UNet2DConditionModel", REFINER, "StableDiffusionXLImg2ImgPipeline", {}),
    "vae": ("autoencoder", "vae", "AutoencoderKL", VAE, None, {}),
    "flux-vae": ("autoencoder", "vae", "AutoencoderKL", {**VAE_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}, None, {}),
    "sd3-medium": ("stable-diffusion-3", "transformer", "SD3Transformer2DModel", SD3, "StableDiffusion3Pipeline", {"shift": 3.0}),
    "sd3.5-large": (
        "stable-diffusion-3", "transformer", "SD3Transformer2DModel",
        {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
        "StableDiffusion3Pipeline", {"shift": 3.0},
    ),
    "sd3.5-medium": (
        "stable-diffusion-3", "transformer", "SD3Transformer2DModel",
        {**SD3, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384},
        "StableDiffusion3Pipeline", {"shift": 3.0},
    ),
    "flux-dev": ("flux", "transformer", "FluxTransformer2DModel", FLUX, "FluxPipeline", {"use_dynamic_shifting": True}),
    "flux-schnell": (
        "flux", "transformer", "FluxTransformer2DModel", {**FLUX, "guidance_embeds": False}, "FluxPipeline", {"shift": 1.0},
    ),
    "flux-fill": (
        "flux", "transformer", "FluxTransformer2DModel", {**FLUX, "in_channels": 384, "out_channels": 64}, "FluxFillPipeline",
        {"use_dynamic_shifting": True},
    ),
    "flux-depth": (
        "flux", "transformer", "FluxTransformer2DModel", {**FLUX, "in_channels": 128, "out_channels": 64}, "FluxControlPipeline",
        {"use_dynamic_shifting": True},
    ),
    "dit": ("dit", "transformer", "DiTTransformer2DModel", DIT, "DiTPipeline", {}),
    "cd-imagenet64": ("consistency", "unet", "UNet2DModel", ADM, "ConsistencyModelPipeline", {}),
    "adm-64": (
        "guided-diffusion-new-order", "unet", "UNet2DModel", {**ADM, "out_channels": 6}, "DDPMPipeline",
        {"beta_schedule": "squaredcos_cap_v2"},
    ),
    "adm-256": ("guided-diffusion", "unet", "UNet2DModel", ADM_256, "DDPMPipeline", {"beta_schedule": "linear"}),
    "ncsnpp-256": ("ncsnpp", "unet", "UNet2DModel", NCSN, "ScoreSdeVePipeline", {}),
    "controlnet": (
        "controlnet", "controlnet", "ControlNetModel",
        {k: v for k, v in SD.items() if k not in ("sample_size", "out_channels", "up_block_types")}, None, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_of_published_sizes_is_told_from_shapes(name: str) -> None:
    """The peer's network of the published configuration, without values, in its original names: everything is found again."""
    diffusers = pytest.importorskip("diffusers")
    layout, component, kind, config, pipeline, scheduler = PUBLISHED[name]
    with torch.device("cpu" if layout == "dit" else "meta"):
        net = getattr(diffusers, kind)(**config)
    tensors = {n: v.detach() for n, v in net.state_dict().items()}
    if layout == "dit":  # the original holds one embedder, and the grid
        shapes = {**_shapes(to_original(layout, {component: (net.config, tensors)})), "pos_embed": (1, 256, 1152)}
    else:
        shapes = _shapes(to_original(layout, {component: (net.config, tensors)}))

    def nothing(name: str) -> Tensor:
        raise AssertionError(f"{name} is read")

    single = opened(shapes, nothing)
    assert (single.layout.removesuffix("-bare"), single.pipeline) == (layout, pipeline)
    piece = single.pieces[component]
    assert dict(piece.shapes) == _shapes(tensors)
    assert (piece.kind, {**(single.scheduler or {}), **scheduler}) == (kind, single.scheduler or {})
    for key, value in piece.config.items():
        if key != "_class_name":
            expected = net.config[key]
            assert value == (list(expected) if isinstance(expected, tuple) else expected), key
    if kind in PARTS:  # a network of ours takes it
        with torch.device("meta"):
            built = PARTS[kind].build(piece.config)
        rows = PARTS[kind].keys(piece.config, built).rows(parameters(built))
        assert {n for row in rows for n in row.theirs} == set(piece.names)
    for key in config:  # and nothing that was said is left to a default
        if key in net.config and key not in piece.config:
            default = inspect.signature(getattr(diffusers, kind)).parameters[key].default
            assert net.config[key] == default, key


def _opened(shapes: Mapping[str, tuple[int, ...]], **options: Any) -> Single:
    return opened(shapes, lambda name: torch.zeros(shapes[name]), **options)


def test_what_no_layout_knows_is_refused_by_name(goldens: Goldens) -> None:
    case = goldens.case("sd1", "txt2img_pndm")
    tensors = load(case.dir / "original" / "v1.safetensors")
    shapes = _shapes(tensors)
    with pytest.raises(ValueError, match=r"of no original layout known here \(its first tensor is 'a.weight'\)"):
        _opened({"a.weight": (3, 3)})
    with pytest.raises(ValueError, match=r"does not know the tensor 'model.diffusion_model.extra.weight'|'extra.weight'"):
        _opened({**shapes, "model.diffusion_model.extra.weight": (1,)})
    with pytest.raises(ValueError, match="does not know the tensor 'stray'"):
        _opened({**shapes, "stray": (1,)})
    with pytest.raises(ValueError, match="prediction is 'noise'"):
        _opened(shapes, prediction="noise")
    with pytest.raises(ValueError, match="given names 'unett'"):
        _opened(shapes, given={"unett": {}})
    lost = {n: s for n, s in shapes.items() if n != "model.diffusion_model.input_blocks.0.0.weight"}
    with pytest.raises(ValueError, match="does not know"):
        _opened(lost)


def test_averages_are_taken_or_left(goldens: Goldens) -> None:
    """Stable Diffusion's full files hold both, the average under names without dots; the authors of others use it always."""
    tensors = load(goldens.case("sd1", "txt2img_pndm").dir / "original" / "v1.safetensors")
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value + 1
        for name, value in tensors.items()
        if name.startswith("model.diffusion_model.")
    }
    both = {**tensors, **average, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    for taken in (False, True):
        single = opened(_shapes(both), both.__getitem__, average=taken, given={"unet": {"attention_head_dim": 4}})
        value = single.pieces["unet"].read("conv_in.bias")
        assert torch.equal(value, tensors["model.diffusion_model.input_blocks.0.0.bias"] + taken)
        assert sum(name.startswith("model") for name in single.ignored) == len(average) + 2
    case = goldens.case("dit", "transformer")
    tensors = _tensors(case.dir / "original" / "train.pt")
    single = opened(_shapes(tensors), tensors.__getitem__, average=False, given={"transformer": {"attention_head_dim": 16}})
    assert torch.equal(single.pieces["transformer"].read("proj_out_2.bias"), tensors["model.final_layer.linear.bias"])


def test_tensors_are_read_one_by_one_and_parts_share_memory(goldens: Goldens) -> None:
    case = goldens.case("flux", "dev")
    tensors = load(case.dir / "original" / "flux.safetensors")
    asked: list[str] = []

    def read(name: str) -> Tensor:
        asked.append(name)
        return tensors[name]

    single = opened(
        _shapes(tensors), read, given={"transformer": {"axes_dims_rope": case.config("transformer")["axes_dims_rope"]}}
    )
    assert asked == []
    piece = single.pieces["transformer"]
    parts = [piece.read(f"transformer_blocks.0.attn.to_{p}.weight") for p in "qkv"]
    assert asked == ["double_blocks.0.img_attn.qkv.weight"]
    assert {part.untyped_storage().data_ptr() for part in parts} == {tensors[asked[0]].untyped_storage().data_ptr()}
    piece.tensors()
    assert len(asked) == len(tensors) + 1  # every original is read once, but for the one above
