"""`load`: a folder as it was published, or the id of one, as something that works: a generator, a denoiser, or a codec."""

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin import spec
from langevin.core.denoiser import Cond, Denoiser
from langevin.header import header_of
from langevin.tasks.generate import Codec, Defaults, Generator
from langevin.text.conditioning import CLIPPrompt, Conditioner, FluxPrompt, SD3Prompt, SDXLPrompt, Side, T5Prompt
from langevin.text.tokens import Tokenizer
from langevin.variances import WithVariance
from langevin.zoo import registry, schedulers
from langevin.zoo.configs import read_config
from langevin.zoo.family import Component, Config, built, fill
from langevin.zoo.hub import is_file, open_published, resolve
from langevin.zoo.layouts.single import opened
from langevin.zoo.store import open_weights, variants

_LONGEST = 1000  # characters of a refusal, which may tell a value of a file


@dataclass(frozen=True)
class _Where:
    dtype: torch.dtype | None
    device: torch.device | str | None
    variant: str | None = None
    reference: bool = False


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    reference: bool = False,
    configs: Mapping[str, Config] | None = None,
) -> Any:
    """What is in a published folder.

    Args:
        path: a folder, a single safetensors file, or the id of a repository, "stable-diffusion-v1-5/stable-diffusion-v1-5", also
            with "@revision"; what exists here comes first.
        dtype: of the weights; the files' by default. device: where to put them.
        revision: of the repository; pin one, since what is behind a name may change.
        variant: which of several sets of weights, such as "fp16".
        configs: of the parts of a single file, by name, where they are of no published size, which shapes alone would tell.
        reference: as diffusers computes it, where that departs from the original (DiT's frequencies, SD3's shift).

    Returns:
        `Generator` of a folder with model_index.json; of a folder with config.json its network: an encoder of text, a codec, or
        the bare network of a denoiser, whose process the folder does not tell. Of a single file in the layout of its authors, the
        networks in it by name, such as "unet", "vae" and "text_encoder".

    Raises:
        ValueError: naming what is missing, or not known here.
    """
    folder = resolve(path, revision, variant).path
    try:
        return _loaded(folder, _Where(dtype, device, variant, reference), configs)
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        said = str(error)
        if len(said) < _LONGEST and "\n" not in said:
            raise
        raise ValueError(f"{said.splitlines()[0][:_LONGEST]} ...") from error
    except (TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError) as error:
        # what stands in the files is of any type; each error keeps its origin
        said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ValueError(f"{folder} is not put together as a published folder is ({said}).") from error


def _loaded(folder: Path, where: _Where, configs: Mapping[str, Config] | None) -> Any:
    if folder.is_file():
        return parts_of(folder, where, configs)
    if is_file(folder / "model_index.json"):
        return pipeline(folder, where)
    if is_file(folder / "config.json"):
        config = read_config(folder / "config.json")
        return text_encoder(folder, where) if "_class_name" not in config else network(folder, where)[0]
    raise ValueError(f"{folder} has neither model_index.json nor config.json; give a folder as it is published.")


def parts_of(file: Path, where: _Where, configs: Mapping[str, Config] | None = None) -> dict[str, nn.Module]:
    """The networks of a single file in the layout of its authors, by the names that folders give them."""
    weights = open_weights(file)
    single = opened(weights.shapes, weights.read, given=configs, what=str(file))
    made = {}
    for name, piece in single.pieces.items():
        part = registry.component(piece.kind)
        net = built(part, piece.config, f"{file}: {name}")
        fill(part, net, piece.config, piece, str(file), where.dtype)
        made[name] = net.to(where.device).eval().requires_grad_(False)
    return made


# Parts


def network(folder: Path, where: _Where) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a component's folder, with its configuration."""
    config = read_config(folder / "config.json")
    return _filled(folder, registry.component(str(config.get("_class_name"))[:80]), config, where), config


def text_encoder(folder: Path, where: _Where, name: str | None = None) -> nn.Module:
    """A text encoder, strictly.

    Args:
        name: its class, where the folder above says it; by default its own configuration's.
    """
    config = read_config(folder / "config.json")
    listed = config.get("architectures")
    named = name or (listed[0] if isinstance(listed, list) and listed else None)
    if not isinstance(named, str):
        raise ValueError(f"{folder / 'config.json'} names no architectures; add the class of the text encoder.")
    return _filled(folder, registry.component(named[:80]), config, where)


def _filled(folder: Path, part: Component, config: dict[str, Any], where: _Where) -> nn.Module:
    if where.reference and "reference" in inspect.signature(part.build).parameters:
        build: Any = part.build
        part = replace(part, build=partial(build, reference="diffusers"))
    net = built(part, config, str(folder))
    weights = open_weights(folder, where.variant if where.variant in variants(folder) else None)
    fill(part, net, config, weights, str(folder), where.dtype)
    return net.to(where.device).eval().requires_grad_(False)


def codec_of(folder: Path, where: _Where) -> Codec:
    """An autoencoder with the scale of its latents."""
    from langevin.zoo.codecs import codec

    net, config = network(folder, where)
    return codec(net, config)


class Halved(nn.Module):
    """A network whose further channels, a learned variance, are left out."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        return self.net(z, level, cond, mask)[:, : self.channels]


class _Unit:
    """Pictures in [0, 1], as score SDEs have them, and no latents."""

    factor, channels = 1, 3

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return (x + 1) / 2

    def decode(self, z: Tensor) -> Tensor:
        return z * 2 - 1


# Pipelines


@dataclass(frozen=True)
class _Kind:
    """What a pipeline's class says.

    Args:
        text: which conditioner. defaults: of requests. family: of the scheduler. takes: see `Generator`.
    """

    text: str = ""
    defaults: Defaults = field(default_factory=Defaults)
    family: str = ""
    takes: str = ""


_SD = Defaults((512, 512), 50, 7.5)
_XL = Defaults((1024, 1024), 50, 5.0)
_PIXELS = Defaults((32, 32), 50, 1.0, multiple=1)
KINDS: dict[str, _Kind] = {
    **{f"StableDiffusion{name}Pipeline": _Kind("clip", _SD) for name in ("", "Img2Img", "ControlNet", "ControlNetImg2Img")},
    "StableDiffusionInpaintPipeline": _Kind("clip", _SD, takes="inpaint"),
    "StableDiffusionControlNetInpaintPipeline": _Kind("clip", _SD, takes="inpaint"),
    "StableDiffusionUpscalePipeline": _Kind("clip", Defaults((512, 512), 75, 9.0), takes="upscale"),
    "LatentConsistencyModelPipeline": _Kind("clip", Defaults((768, 768), 4, 8.5, told=True)),
    **{f"StableDiffusionXL{name}Pipeline": _Kind("sdxl", _XL) for name in ("", "Img2Img", "ControlNet")},
    "StableDiffusionXLInpaintPipeline": _Kind("sdxl", _XL, takes="inpaint"),
    "StableDiffusion3Pipeline": _Kind("sd3", Defaults((1024, 1024), 28, 7.0, multiple=16)),
    "FluxPipeline": _Kind("flux", Defaults((1024, 1024), 28, 3.5, told=True, multiple=16), "flux"),
    "PixArtAlphaPipeline": _Kind("pixart", Defaults((1024, 1024), 20, 4.5, multiple=16)),
    "PixArtSigmaPipeline": _Kind("pixart", Defaults((1024, 1024), 20, 4.5, multiple=16)),
    "DiTPipeline": _Kind("", Defaults((256, 256), 50, 4.0, multiple=16)),
    "DDPMPipeline": _Kind("", replace(_PIXELS, steps=1000)),
    "DDIMPipeline": _Kind("", _PIXELS),
    "PNDMPipeline": _Kind("", _PIXELS),
    "LDMPipeline": _Kind("", replace(_PIXELS, multiple=8)),
    "ConsistencyModelPipeline": _Kind("", replace(_PIXELS, steps=1)),
    "ScoreSdeVePipeline": _Kind("", replace(_PIXELS, steps=2000)),
}
"""The published classes of pipelines that are known here."""


def pipeline(folder: Path, where: _Where) -> Generator:
    """The generator of a folder with model_index.json."""
    index = read_config(folder / "model_index.json")
    name = str(index.get("_class_name"))[:80]
    if name not in KINDS:
        raise ValueError(f"{folder} is a {name}, which is not known here; did you mean {spec.nearest(name, list(KINDS))!r}?")
    kind = KINDS[name]
    parts = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    trunk = next((part for part in ("transformer", "unet", "prior") if part in parts), None)
    if trunk is None:
        raise ValueError(f"{folder / 'model_index.json'} names no unet or transformer.")
    net, config = network(folder / trunk, where)
    scheduler = schedulers.read(read_config(folder / "scheduler" / "scheduler_config.json"), kind.family)
    auto = next((part for part in ("vae", "vqvae", "movq") if part in parts), None)
    codec: Codec | None = None if auto is None else codec_of(folder / auto, where)
    if name == "ScoreSdeVePipeline":
        codec = _Unit()
    channels = codec.channels if codec is not None else int(config["in_channels"])
    out = int(config.get("out_channels") or channels)
    if out == 2 * channels and config["_class_name"] not in ("FluxTransformer2DModel",):
        if kind.text or name == "DiTPipeline" or not isinstance(scheduler.prediction, WithVariance):
            net = Halved(net, channels)  # guided as they are, these leave the variance out
    if isinstance(net, Halved) or out != 2 * channels:
        scheduler = schedulers.without_variance(scheduler)
    defaults = _defaults(kind, config, codec, name)
    conditioner = _conditioner(kind.text, folder, parts, config, index, where)
    takes = kind.takes
    if takes == "inpaint" and int(config.get("in_channels", channels)) == channels:
        takes = ""  # an ordinary network, which inpaints by keeping what is known
    small = None
    if takes == "upscale":
        small = schedulers.process_of(read_config(folder / "low_res_scheduler" / "scheduler_config.json"))
    if defaults.told and isinstance(conditioner, FluxPrompt):
        defaults = replace(defaults, told=True)
    size = defaults.size
    factor = codec.factor if codec is not None else 1
    denoiser = Denoiser(net, scheduler.process, scheduler.prediction, (channels, size[1] // factor, size[0] // factor)).eval()
    controls = []
    for part in sorted(p for p in parts if p.startswith("controlnet")):
        places = sorted(folder.glob(f"{part}*")) or [folder / part]
        controls += [network(place, where)[0] for place in places]
    return Generator(
        denoiser=denoiser,
        plan=partial(scheduler.plan, reference=True) if where.reference else scheduler.plan,
        codec=codec,
        conditioner=conditioner,
        defaults=defaults,
        controls=tuple(controls),
        controlled=_controlled if controls else None,
        takes=takes,
        small=small,
        most=int(index.get("max_noise_level") or 350),
        name=folder.name,
        fingerprint=fingerprint(folder),
    )


def _controlled(net: Any, controls: Sequence[Any], scales: Sequence[float]) -> nn.Module:
    from langevin.networks.controlnet import Controlled

    return Controlled(net, controls, scales)


def _defaults(kind: _Kind, config: Mapping[str, Any], codec: Codec | None, name: str) -> Defaults:
    factor = codec.factor if codec is not None else 1
    made = kind.defaults
    sample = config.get("sample_size")
    if isinstance(sample, (list, tuple)):
        made = replace(made, size=(sample[1] * factor, sample[0] * factor))
    elif isinstance(sample, int) and kind.text not in ("sd3", "flux"):
        made = replace(made, size=(sample * factor, sample * factor))
    multiple = factor * int(config.get("patch_size") or 1) if config.get("patch_size") != 1 else factor * 2
    if "num_train_timesteps" not in config and codec is None:
        multiple = made.multiple
    made = replace(made, multiple=max(multiple, 1))
    if name == "DiTPipeline":
        made = replace(made, classes=int(config.get("num_embeds_ada_norm", 1000)))
    if name == "ConsistencyModelPipeline" and config.get("num_class_embeds"):
        made = replace(made, classes=int(config["num_class_embeds"]))
    return made


def _side(folder: Path, number: str, where: _Where, parts: Mapping[str, Any]) -> Side:
    part = f"text_encoder{number}"
    return Side(text_encoder(folder / part, where, str(parts[part][1])), Tokenizer(folder / f"tokenizer{number}"))


def _conditioner(
    kind: str, folder: Path, parts: Mapping[str, Any], config: Mapping[str, Any], index: Mapping[str, Any], where: _Where
) -> Conditioner | None:
    if not kind:
        return None
    if kind == "clip":
        return CLIPPrompt(_side(folder, "", where, parts), guidance=bool(config.get("time_cond_proj_dim")))
    if kind == "sdxl":
        numbers = [n for n in ("", "_2") if f"text_encoder{n}" in parts]
        sides = [_side(folder, n, where, parts) for n in numbers]
        zeros = bool(index.get("force_zeros_for_empty_prompt", True))
        return SDXLPrompt(sides, zeros, bool(index.get("requires_aesthetics_score", False)))
    if kind == "sd3":
        t5 = _side(folder, "_3", where, parts) if "text_encoder_3" in parts else None
        width = int(config.get("joint_attention_dim", 4096))
        return SD3Prompt([_side(folder, n, where, parts) for n in ("", "_2")], t5, width)
    if kind == "flux":
        guided = bool(config.get("guidance_embeds", False))
        return FluxPrompt(_side(folder, "", where, parts), _side(folder, "_2", where, parts), 512 if guided else 256, guided)
    if kind == "pixart":
        alpha = index["_class_name"] == "PixArtAlphaPipeline"
        sized = alpha and config.get("sample_size") == 128 and config.get("use_additional_conditions") is not False
        return T5Prompt(_side(folder, "", where, parts), 120 if alpha else 300, sized)
    raise AssertionError(kind)


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of a folder's weights: of sizes, headers and samples of the values, so that it takes no time."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with open_published(path) as file:
            size = os.fstat(file.fileno()).st_size
            total.update(f"{path.relative_to(folder)} {size} {len(header_of(file, path).entries)}".encode())
            for i in range(16):
                file.seek(max(size - 4096, 0) * i // 15, os.SEEK_SET)
                total.update(file.read(4096))
    return total.hexdigest()[:16]
