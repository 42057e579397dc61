"""A loaded model with what others add to it: adapters (LoRA), ControlNets, learned words (textual inversion).

    model = lv.load("stable-diffusion-v1-5/stable-diffusion-v1-5")
    add_lora(model, "style.safetensors", 0.8)
    add_lora(model, "lines.safetensors", 0.5)
    set_strengths(model, {"style": 0.2, "lines": 0.0})
    word = add_word(model, "toy.safetensors")
    model = add_control(model, "lllyasviel/sd-controlnet-canny")

Strengths are numbers on the device: another one recompiles nothing. They are how adapters stand where a request says nothing:
`model(prompt, adapters={"style": 0.3})` is for that request alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from langevin import adapters, spec
from langevin.core.denoiser import home
from langevin.networks.autoencoder import Autoencoder
from langevin.networks.controlnet import ControlNet
from langevin.networks.latents import LatentCodec
from langevin.networks.unet import UNet
from langevin.tasks import memory
from langevin.tasks.declared import is_declared
from langevin.tasks.feature_cache import CACHES, FeatureCache, compared
from langevin.tasks.generate import Generator
from langevin.tasks.variation import Varied
from langevin.text.conditioning import Side
from langevin.zoo import lora, registry
from langevin.zoo.embeddings import ENCODERS, WORDS, embedding_of, word_of
from langevin.zoo.hub import is_file, resolve
from langevin.zoo.load import load as load_part
from langevin.zoo.load import parts
from langevin.zoo.lora import Target
from langevin.zoo.pipelines import controlled
from langevin.zoo.store import file_of, open_weights

__all__ = [
    "add_control", "add_lora", "add_preview", "add_redux", "add_word", "compared", "feature_cache", "merge", "name_of",
    "set_strengths", "sides", "targets",
]  # fmt: skip


def feature_cache(said: str) -> FeatureCache:
    """ "first_block:threshold=0.1" -> the cache, see `langevin.tasks.feature_cache`.

    Raises:
        ValueError: naming the nearest cache or option.
    """
    return spec.parse(said, CACHES, "cache")


def targets(model: Generator) -> dict[str, Target]:
    """The parts of a model that files adapt: its denoiser and its text encoders, by their published names.

    Raises:
        ValueError: if the model was not loaded from a published layout.
    """
    made = {}
    for part, (net, config) in model.parts.items():
        if part in ("unet", "transformer") or part.startswith("text_encoder"):
            listed = config.get("_class_name") or (config.get("architectures") or ["CLIPTextModel"])[0]
            made[part] = lora.target(net, registry.component(str(listed)).keys(config, net), config)
    if not made:
        raise ValueError("the model has no published parts, whose layers a file would name; load it by langevin.load.")
    return made


def add_lora(model: Generator, path: str | Path, strength: float = 1.0, name: str | None = None) -> dict[str, list[str]]:
    """Add the adapters of a file, of peft, diffusers or kohya, frozen; they add up with those that are there.

    Args:
        path: a safetensors file, a folder with one, or an id: "owner/name", or "owner/name/file.safetensors" for that file alone.
            Beside a file of peft's, adapter_config.json says how strong it is.
        strength: how much they count; `set_strengths` changes it.
        name: under which they are kept; by default what is named, without its ending and with _ for dots.

    Returns:
        Names of the layers, by part.

    Raises:
        ValueError: naming a tensor that fits no layer, with the nearest, or for a model that was arranged in a budget of memory,
            which takes adapters by `load(lora=...)`; nothing is added then.
    """
    _extensible(model, "lora={FILE: STRENGTH}")
    return lora.load_lora(targets(model), _file(path, lora.FILES), strength, name or name_of(path))


def _file(path: str | Path, names: Sequence[str]) -> Path:
    """The file of a path or an id, in a folder one of these names or else the only one."""
    return file_of(resolve(path).path, names)


def add_control(
    model: Generator, path: str | Path, revision: str | None = None, variant: str | None = None, **options: Any
) -> Generator:
    """The model under a ControlNet (2302.05543), beside those it is under already; each is told one hint of `control=`, in order.

    `model = add_control(model, folder)`, and `model(prompt, control=picture, control_scale=0.7)`. Weights are shared with the
    model that is given, which stays as it is.

    Args:
        path: the folder of a ControlNet as it is published, with config.json; a single file in its authors' layout; or the id of
            either. revision, variant: of it.
        options: of `langevin.load`, such as dtype and device; those of the model by default. configs={"controlnet": {...}}: of a
            single file, what no shape tells.

    Raises:
        ValueError: for a folder that is no ControlNet, one that was made for another family of models, or a model that was
            arranged in a budget of memory, which takes it by `load(controlnet=...)`.
    """
    _extensible(model, "controlnet=[FOLDER]")
    net = getattr(model.denoiser, "net", None)
    if not isinstance(net, UNet):
        raise ValueError(f"a ControlNet stands beside a U-Net, and the model's network is a {type(net).__name__}; leave it out.")
    folder = resolve(path, revision, variant).path
    device, dtype = home(model.denoiser)
    found = parts(folder, **{"device": device, "dtype": dtype, "variant": variant, **options})
    control, config = next(iter(found.values()))
    if not isinstance(control, ControlNet):
        raise ValueError(
            f"{folder} is no ControlNet but a {type(control).__name__}; give a folder whose config.json says it is one, or its "
            "authors' file."
        )
    made_for = {
        "widths": (net.widths, control.widths),
        "blocks": (net.blocks, control.blocks),
        "width of the text": (net.reading and net.reading.context, control.reading and control.reading.context),
        "channels": (_channels(model), control.enter.in_channels),
    }
    for what, (ours, theirs) in made_for.items():
        if ours != theirs:
            raise ValueError(f"{folder} was made for another model, of {what} {theirs}; this one has {ours}, and needs its own.")
    name = f"controlnet_{len(model.controls)}" if model.controls else "controlnet"
    held = {**model.parts, name: (control, config)}
    return model.but(controls=(*model.controls, control), controlled=controlled, parts=held)


def _channels(model: Generator) -> int | None:
    shape = model.denoiser.shape
    return shape[0] if isinstance(shape, tuple) else None


def _extensible(model: Generator, instead: str) -> None:
    """Refuse a model whose networks are arranged in a budget."""
    if (why := memory.arranged(model)) is not None:
        raise ValueError(f"the model was loaded in a budget, where {why}; say load(..., {instead}), which adds it before.")
    if is_declared(model):  # a graph knows nothing of what is hung into its layers later
        raise ValueError("the network is compiled for declared sizes, and would not see what is added; add it before.")


def add_redux(model: Generator, path: str | Path, **options: Any) -> Generator:
    """FLUX.1 with Redux, which draws variations of a picture: `add_redux(model, folder)("", like=picture)`.

    Args:
        path: the published folder, or its id. options: of `langevin.load`, such as dtype and device.

    Raises:
        ValueError: for a folder without image_encoder and image_embedder, or a model whose text is of another width.
    """
    folder = resolve(path).path
    for part in ("image_encoder", "image_embedder"):
        if not is_file(folder / part / "config.json"):
            raise ValueError(f"{folder} has no {part}; give the folder of FLUX.1 Redux, as it is published.")
    eye, project = (load_part(folder / part, **options) for part in ("image_encoder", "image_embedder"))
    width = getattr(getattr(model.conditioner, "t5", None), "width", None)
    if model.conditioner is None or width != project.down.out_features:
        raise ValueError(f"{folder} makes tokens {project.down.out_features} wide, and the model's text is {width}; give FLUX.1.")
    return model.but(conditioner=Varied(model.conditioner, eye, project))


def add_preview(model: Generator, path: str | Path, **options: Any) -> Generator:
    """The model with a tiny autoencoder for its previews: what `callback` is given is then as large as the result, and sharp. The
    result itself is decoded as before.

    Args:
        path: the published folder of an AutoencoderTiny (or of another autoencoder), or its id. options: of `langevin.load`, such
            as dtype and device; those of the model by default.

    Raises:
        ValueError: for what is no autoencoder, or one of other latents than the model's.
    """
    device, dtype = home(model.denoiser)
    folder = resolve(path).path
    net = load_part(folder, **{"device": device, "dtype": dtype, **options})
    if not isinstance(net, Autoencoder):
        raise ValueError(f"{folder} is no autoencoder but a {type(net).__name__}; give the folder of an AutoencoderTiny.")
    made, codec = LatentCodec(net), model.codec
    if codec is None:
        raise ValueError(f"{folder} makes pictures of latents, and this model draws pictures themselves; leave it out.")
    theirs, ours = (made.channels, made.factor), (codec.channels, codec.factor)
    if theirs != ours:
        raise ValueError(
            f"{folder} has latents of {theirs[0]} channels, {theirs[1]} pixels on a side each, and the model's are of {ours[0]} "
            f"and {ours[1]}; give the tiny autoencoder of its family."
        )
    return model.but(sketch=made)


def name_of(path: str | Path) -> str:
    """What adapters of a file, a folder or a repository are called by default."""
    return Path(str(path).partition("@")[0]).name.removesuffix(".safetensors").replace(".", "_")


def set_strengths(model: Generator, strengths: Mapping[str, float]) -> None:
    """How much each set of adapters counts, by name; 0 switches it off. Others stay as they are.

    Raises:
        ValueError: if there are none of a name.
    """
    lora.set_strengths(targets(model), strengths)


def merge(model: Generator, name: str) -> None:
    """Add adapters into the weights for good, at their strength: the model is as fast as it was without.

    Raises:
        ValueError: if there are none of this name.
    """
    held = [where.net for where in targets(model).values() if adapters.adapted(where.net, name)]
    if not held:
        raise ValueError(f"the model has no adapters named {name!r}.")
    for net in held:
        adapters.merge(net, name)


def add_word(model: Generator, path: str | Path, word: str | None = None) -> str:
    """Teach a model the word of a file (textual inversion, 2208.01618).

    Args:
        path: a safetensors file, a folder with one, or an id, as for `add_lora`.
        word: in prompts; by default the file's own, or its name.

    Returns:
        The word.

    Raises:
        ValueError: if the file holds no vectors for a text encoder of the model, or the model has such a word already.
    """
    path = _file(path, WORDS)
    tensors = open_weights(path)
    word = word or word_of(tensors, path, tensors.metadata)
    found = sides(model)
    both = set(ENCODERS.values()) & set(tensors)
    taught = [part for part in found if part in ENCODERS and (not both or ENCODERS[part] in both)]
    if not taught:
        raise ValueError(f"{path} holds {', '.join(tensors)}, and no text encoder of the model reads that.")
    if not both:
        taught = taught[:1]
    vectors = {part: embedding_of(tensors, part if both else "text_encoder", str(path)) for part in taught}
    for part in taught:
        found[part].check_word(word, vectors[part])
    for part in taught:
        found[part].learn(word, vectors[part])
    return word


def sides(model: Generator) -> dict[str, Side]:
    """A model's text encoders with their tokenizers, by their published names.

    Raises:
        ValueError: if it reads no text.
    """
    encoders = {id(net): part for part, (net, _) in model.parts.items() if part.startswith("text_encoder")}
    made = {encoders[id(side.encoder)]: side for side in _sides(model.conditioner) if id(side.encoder) in encoders}
    if not made:
        raise ValueError("the model reads no text by published encoders, so it learns no words.")
    return made


def _sides(conditioner: nn.Module | None) -> Iterator[Side]:
    if conditioner is not None:
        yield from (module for module in conditioner.modules() if isinstance(module, Side))
