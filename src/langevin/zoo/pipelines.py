"""From the parts of a published pipeline, wherever they lie, to a generator."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin import spec
from langevin.adapters import Adapters, LoRA
from langevin.core.denoiser import Cond, Denoiser
from langevin.strengths import strengths
from langevin.tasks.generate import Codec, Defaults, Generator
from langevin.text.conditioning import (
    CLIPPrompt,
    Conditioner,
    FluxPrompt,
    LanguagePrompt,
    SD3Prompt,
    SDXLPrompt,
    Side,
    T5Prompt,
)
from langevin.text.tokens import Tokenizer
from langevin.variances import WithVariance
from langevin.zoo import schedulers
from langevin.zoo.codecs import codec as codec_of
from langevin.zoo.family import Config
from langevin.zoo.instructions import LUMINA, SANA

TRUNKS = ("transformer", "unet", "prior")
CODERS = ("vae", "vqvae", "movq")


@dataclass(frozen=True)
class Whole:
    """The parts of a pipeline.

    Args:
        what: where it comes from, for messages.
        kind: its published class.
        index: what model_index.json says of it.
        scheduler: gives a scheduler_config.json by its name, "scheduler", or "low_res_scheduler" of upscalers.
        parts: names of the networks that there are.
        network: the network of a name with its weights, and its published configuration.
        tokenizer: that of a name such as "tokenizer_2".
        name, fingerprint: see `Generator`.
        folder: where tokenizers lie, and whatever else is not run. layout: of a single file.
    """

    what: str
    kind: str
    index: Config
    scheduler: Callable[[str], Config]
    parts: Collection[str]
    network: Callable[[str], tuple[nn.Module, Config]]
    tokenizer: Callable[[str], Tokenizer]
    name: str = ""
    fingerprint: str = ""
    folder: Path | None = None
    layout: str = ""


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
class Kind:
    """What a pipeline's class says.

    Args:
        text: which conditioner. defaults: of requests. family: of the scheduler. takes: see `Generator`.
        coder: the autoencoder's part, where it draws latents.
    """

    text: str = ""
    defaults: Defaults = field(default_factory=Defaults)
    family: str = ""
    takes: str = ""
    coder: str = "vae"

    @property
    def needs(self) -> tuple[str, ...]:
        """The networks that it cannot do without, beside the denoiser."""
        return (*ENCODERS[self.text], *((self.coder,) if self.coder else ()))


ENCODERS: dict[str, tuple[str, ...]] = {
    "": (), "clip": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2"), "sd3": ("text_encoder", "text_encoder_2"),
    "flux": ("text_encoder", "text_encoder_2"), "pixart": ("text_encoder",), "sana": ("text_encoder",),
    "lumina": ("text_encoder",),
}  # fmt: skip
"""The text encoders of each conditioner; Stable Diffusion 3 may have a third."""
_SD = Defaults((512, 512), 50, 7.5)
_XL = Defaults((1024, 1024), 50, 5.0)
_PIXELS = Defaults((32, 32), 50, 1.0, multiple=1)
KINDS: dict[str, Kind] = {
    **{f"StableDiffusion{name}Pipeline": Kind("clip", _SD) for name in ("", "Img2Img", "ControlNet", "ControlNetImg2Img")},
    "StableDiffusionInpaintPipeline": Kind("clip", _SD, takes="inpaint"),
    "StableDiffusionControlNetInpaintPipeline": Kind("clip", _SD, takes="inpaint"),
    "StableDiffusionUpscalePipeline": Kind("clip", Defaults((512, 512), 75, 9.0), takes="upscale"),
    "LatentConsistencyModelPipeline": Kind("clip", Defaults((768, 768), 4, 8.5, told=True)),
    **{f"StableDiffusionXL{name}Pipeline": Kind("sdxl", _XL) for name in ("", "Img2Img", "ControlNet")},
    "StableDiffusionXLInpaintPipeline": Kind("sdxl", _XL, takes="inpaint"),
    "StableDiffusion3Pipeline": Kind("sd3", Defaults((1024, 1024), 28, 7.0, multiple=16)),
    "FluxPipeline": Kind("flux", Defaults((1024, 1024), 28, 3.5, told=True, multiple=16), "flux"),
    "FluxFillPipeline": Kind("flux", Defaults((1024, 1024), 50, 30.0, told=True, multiple=16), "flux", takes="fill"),
    "FluxControlPipeline": Kind("flux", Defaults((1024, 1024), 28, 3.5, told=True, multiple=16), "flux", takes="control"),
    "SanaPipeline": Kind("sana", Defaults((1024, 1024), 20, 4.5)),
    **{f"Lumina2{name}Pipeline": Kind("lumina", Defaults((1024, 1024), 30, 4.0), "flux") for name in ("", "Text2Img")},
    "PixArtAlphaPipeline": Kind("pixart", Defaults((1024, 1024), 20, 4.5, multiple=16)),
    "PixArtSigmaPipeline": Kind("pixart", Defaults((1024, 1024), 20, 4.5, multiple=16)),
    "DiTPipeline": Kind("", Defaults((256, 256), 50, 4.0, multiple=16)),
    "DDPMPipeline": Kind("", replace(_PIXELS, steps=1000), coder=""),
    "DDIMPipeline": Kind("", _PIXELS, coder=""),
    "PNDMPipeline": Kind("", _PIXELS, coder=""),
    "LDMPipeline": Kind("", replace(_PIXELS, multiple=8), coder="vqvae"),
    "ConsistencyModelPipeline": Kind("", replace(_PIXELS, steps=1), coder=""),
    "ScoreSdeVePipeline": Kind("", replace(_PIXELS, steps=2000), coder=""),
    "ScoreSdeVpPipeline": Kind("", replace(_PIXELS, steps=1000), coder=""),
    "DiffusionPipeline": Kind("clip", replace(_PIXELS, guidance=3.0), coder=""),  # what `langevin publish` makes of captions
}
"""The published classes of pipelines that are known here."""


def generator(whole: Whole, reference: bool = False) -> Generator:
    """The generator of a pipeline's parts.

    Args:
        reference: as diffusers samples, where that departs from the original.

    Raises:
        ValueError: naming what is missing, or not known here.
    """
    name, kind = whole.kind, kind_of(whole.kind, whole.what)
    trunk = next((part for part in TRUNKS if part in whole.parts), None)
    if trunk is None:
        raise ValueError(f"{whole.what} has no unet or transformer.")
    nets: dict[str, tuple[nn.Module, Config]] = {}

    def made(part: str) -> nn.Module:
        nets[part] = whole.network(part)
        return nets[part][0]

    net = made(trunk)
    config = nets[trunk][1]
    scheduler = schedulers.read(whole.scheduler("scheduler"), kind.family)
    auto = next((part for part in CODERS if part in whole.parts), None)
    codec: Codec | None = None if auto is None else codec_of(made(auto), nets[auto][1])
    if name == "ScoreSdeVePipeline":
        codec = _Unit()
    channels = codec.channels if codec is not None else int(config["in_channels"])
    out = int(config.get("out_channels") or channels)
    if out == 2 * channels and config["_class_name"] not in ("FluxTransformer2DModel",):
        if kind.text or name == "DiTPipeline" or not isinstance(scheduler.prediction, WithVariance):
            net = Halved(net, channels)  # guided as they are, these leave the variance out
    if isinstance(net, Halved) or out != 2 * channels:
        scheduler = schedulers.without_variance(scheduler)
    defaults = _defaults(kind, config, codec, name, scheduler)
    if kind.text == "flux" and not config.get("guidance_embeds", False):
        defaults = replace(defaults, steps=4, guidance=1.0)  # schnell, which is told none
    if kind.text == "lumina":
        defaults = replace(defaults, norm="rows" if reference else "sample")
    if config.get("timestep_scale", 1.0) != 1:
        raise ValueError(f"timestep_scale is {config['timestep_scale']}, and only the level itself, 1.0, is shown here.")

    def side(number: str) -> Side:
        return Side(made(f"text_encoder{number}"), whole.tokenizer(f"tokenizer{number}"))

    conditioner = _conditioner(kind.text, side, whole, config)
    takes = kind.takes
    if takes == "inpaint" and int(config.get("in_channels", channels)) == channels:
        takes = ""  # an ordinary network, which inpaints by keeping what is known
    small = None
    if takes == "upscale":
        small = schedulers.process_of(whole.scheduler("low_res_scheduler"))
    size = defaults.size
    factor = codec.factor if codec is not None else 1
    denoiser = Denoiser(net, scheduler.process, scheduler.prediction, (channels, size[1] // factor, size[0] // factor)).eval()
    controls = [made(part) for part in whole.parts if part.startswith("controlnet")]
    return Generator(
        denoiser=denoiser,
        plan=partial(scheduler.plan, reference=True) if reference else scheduler.plan,
        codec=codec,
        conditioner=conditioner,
        defaults=defaults,
        controls=tuple(controls),
        controlled=controlled if controls else None,
        takes=takes,
        small=small,
        most=int(whole.index.get("max_noise_level") or 350),
        name=whole.name,
        fingerprint=whole.fingerprint,
        parts=nets,
        loaded={"reference": True} if reference else {},
        facts=facts,
        adapted=adapted,
        origin=whole,
    )


def kind_of(name: str, what: str) -> Kind:
    """What a pipeline's class says.

    Raises:
        ValueError: for a class that is not known here, naming the nearest.
    """
    if name not in KINDS:
        raise ValueError(f"{what} is a {name}, which is not known here; did you mean {spec.nearest(name, list(KINDS))!r}?")
    return KINDS[name]


def controlled(net: Any, controls: Sequence[Any], scales: Sequence[float], guess: bool = False) -> nn.Module:
    """The network under ControlNets, see `Generator`."""
    from langevin.networks.controlnet import Controlled

    return Controlled(net, controls, scales, guess)


def facts(model: Generator) -> dict[str, Any]:
    """What was added to a model after it was loaded, for the record of its pictures: the strengths of adapters by name, learned
    words, and of ControlNets a hash of some of their weights."""
    sides = [] if model.conditioner is None else [m for m in model.conditioner.modules() if isinstance(m, Side)]
    words = sorted({word for side in sides for word in side.tokenizer.words})
    controls = [_some_weights(control) for control in model.controls]
    told = {"adapters": _standing(model), "words": words, "controlnets": controls}
    return {name: value for name, value in told.items() if value}


def _standing(model: Generator) -> dict[str, float]:
    """The strengths of a model's adapters, by name, where a request says nothing."""
    held = (module for net, _ in model.parts.values() for module in net.modules() if isinstance(module, Adapters))
    return {name: adapter.strength for module in held for name, adapter in module.items() if isinstance(adapter, LoRA)}


@contextmanager
def adapted(model: Generator, asked: Mapping[str, float]) -> Iterator[None]:
    """Within, adapters count so much, see `Generator`.

    Raises:
        ValueError: naming one that the model does not have.
    """
    there = _standing(model)
    for name in asked:
        if name not in there:
            raise ValueError(
                f"the model has no adapters named {name!r}; it has {', '.join(sorted(there)) or 'none'}: add_lora adds some, and "
                "those that load(lora=...) merged are of one strength for good."
            )
    with strengths({name: float(value) for name, value in asked.items()}):
        yield


def _some_weights(net: nn.Module) -> str:
    """16 hexadecimal digits of the first number of each weight."""
    some = [p.detach().reshape(-1)[:1].float().cpu() for p in net.parameters() if p.is_floating_point()]
    return hashlib.sha256(torch.cat(some).numpy().tobytes()).hexdigest()[:16]


def _defaults(kind: Kind, config: Config, codec: Codec | None, name: str, scheduler: schedulers.Scheduler) -> Defaults:
    factor = codec.factor if codec is not None else 1
    made = kind.defaults
    sample = config.get("sample_size")
    if isinstance(sample, (list, tuple)):
        made = replace(made, size=(sample[1] * factor, sample[0] * factor))
    elif isinstance(sample, int) and kind.text != "flux":
        made = replace(made, size=(sample * factor, sample * factor))
    packed = config.get("patch_size") == 1 and config["_class_name"] == "FluxTransformer2DModel"
    multiple = factor * (2 if packed else int(config.get("patch_size") or 1))
    if "num_train_timesteps" not in config and codec is None:
        multiple = made.multiple
    made = replace(made, multiple=max(multiple, 1))
    if kind.text == "sd3" and config.get("pos_embed_max_size"):
        made = replace(made, most=int(config["pos_embed_max_size"]) * multiple)
    if name == "DiTPipeline":
        made = replace(made, classes=int(config.get("num_embeds_ada_norm", 1000)))
    if not kind.text and config.get("num_class_embeds") and config.get("class_embed_type") is None:
        # the last is no class where it is what is guided away from
        made = replace(made, classes=int(config["num_class_embeds"]) - (config.get("_null_class") is True))
    if kind.text in ("clip", "sdxl") and not made.told and schedulers.turbo(scheduler):
        made = replace(made, steps=1, guidance=1.0)
    return made


def _conditioner(kind: str, side: Callable[[str], Side], whole: Whole, config: Config) -> Conditioner | None:
    index = whole.index
    if not kind:
        return None
    if kind == "clip":
        return CLIPPrompt(side(""), guidance=bool(config.get("time_cond_proj_dim")))
    if kind == "sdxl":
        sides = [side(n) for n in ("", "_2") if f"text_encoder{n}" in whole.parts]
        zeros = bool(index.get("force_zeros_for_empty_prompt", True))
        return SDXLPrompt(sides, zeros, bool(index.get("requires_aesthetics_score", False)))
    if kind == "sd3":
        sides = [side(""), side("_2")]
        t5 = side("_3") if "text_encoder_3" in whole.parts else None
        return SD3Prompt(sides, t5, int(config.get("joint_attention_dim", 4096)))
    if kind == "flux":
        guided = bool(config.get("guidance_embeds", False))
        return FluxPrompt(side(""), side("_2"), 512 if guided else 256, guided)
    if kind == "pixart":
        alpha = whole.kind == "PixArtAlphaPipeline"
        sized = alpha and config.get("sample_size") == 128 and config.get("use_additional_conditions") is not False
        return T5Prompt(side(""), 120 if alpha else 300, sized)
    if kind == "sana":
        return LanguagePrompt(side(""), 300, SANA, crop=True, lower=True)
    if kind == "lumina":
        return LanguagePrompt(side(""), 256, LUMINA, layer=-2)
    raise AssertionError(kind)
