"""`save`: a loaded model, a part of one, or a network that was trained here, as others read it: a folder, or a single file.

    model = lv.load("model", lora={"style.safetensors": 0.8})
    lv.save(model, "styled")                                          # a folder as it is published
    lv.save(model, "styled.safetensors", dtype=torch.float16)         # the single file of its authors

Every part is written under its published names. What is not run, tokenizers and schedulers, comes from where the model came from.
"""

import json
import os
import warnings
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langevin import adapters
from langevin.files import new_folder, write
from langevin.tasks import memory
from langevin.tasks.generate import Generator
from langevin.tensors import save as save_tensors
from langevin.text.conditioning import Side
from langevin.text.words import Words
from langevin.zoo import registry
from langevin.zoo.budget import parsed
from langevin.zoo.family import Config, OtherKind, marked, published
from langevin.zoo.hub import ALLOWED, copy, is_file, read_object
from langevin.zoo.layouts import LAYOUTS, to_original
from langevin.zoo.pipelines import Whole
from langevin.zoo.store import MOST

Parts = dict[str, tuple[nn.Module, str, Config]]
"""Networks by published name, each with its class and configuration."""
_FILE = ".safetensors"
_CONTROLLED = {
    name: name.replace("Pipeline", "ControlNetPipeline")
    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
} | {"StableDiffusionInpaintPipeline": "StableDiffusionControlNetInpaintPipeline"}  # fmt: skip
"""What a pipeline is called once a ControlNet was added."""
_SINGLE = {
    "StableDiffusion3Pipeline": "stable-diffusion-3", "DiTPipeline": "dit", "LDMPipeline": "latent-diffusion",
    "ConsistencyModelPipeline": "consistency", "ScoreSdeVePipeline": "ncsnpp",
    "ScoreSdeVpPipeline": "ddpmpp",
}  # fmt: skip
"""The layout of a pipeline's single file, where its class tells it."""


def save(
    model: Generator | nn.Module | Mapping[str, nn.Module],
    path: str | Path,
    *,
    layout: str | None = None,
    dtype: torch.dtype | None = None,
    shard: str | int | None = "10GB",
) -> Path:
    """Write a model as it is published, so that `langevin.load` and others read it again.

    Args:
        model: what `langevin.load` gives: a generator, a network, or the networks of a single file by name; or a network that was
            trained here and has a published form. Adapters are to be merged before (`adapting.merge`, `load(lora=...)`).
        path: a folder that is not there yet; or, of generators and of networks by name, a file x.safetensors in the layout of the
            model's authors, which holds no tokenizer and, of some families, no text encoder or autoencoder.
        layout: of a single file, a key of `langevin.zoo.layouts.LAYOUTS`; by default that which it was loaded from, or its
            family's.
        dtype: of floating tensors; as they are by default.
        shard: most bytes of one file of weights in a folder, such as "5GB"; beyond it there are several and an index. None for
            one file whatever its size.

    Returns:
        The folder or file. It is there whole or not at all.

    Raises:
        ValueError: for adapters that are not merged, learned words, weights that are arranged in a budget of memory, or a network
            without a published form, naming them; and for a folder that is in use.
        DiskFull: if there is no space.
    """
    path, most = Path(path), None if shard is None else parsed(shard)
    parts = _parts(model)
    for name, (net, _, _) in parts.items():
        _plain(net, name or "network", model)
    if path.suffix == _FILE:
        return _single(model, parts, path, layout, dtype)
    if layout is not None:
        raise ValueError(f"layout is {layout!r}, which is of single files, and {path} is a folder; name a {_FILE}.")
    origin = model.origin if isinstance(model, Generator) else None
    with new_folder(path) as beside:
        for name, (net, kind, config) in parts.items():
            write_part(beside / name, net, kind, config, dtype, most)
        if origin is not None:
            _around(beside, origin, parts)
    return path


def write_part(
    folder: Path, net: nn.Module, kind: str, config: Config, dtype: torch.dtype | None = None, most: int | None = None
) -> None:
    """A component's folder: config.json and its weights, in several files where they have more than `most` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    said = dict(config)
    if "_class_name" not in said:
        said["architectures"] = [kind]
    for key in ("dtype", "torch_dtype"):
        if dtype is not None and key in said:
            said[key] = str(dtype).removeprefix("torch.")
    write(folder / "config.json", json.dumps(said, indent=2) + "\n")
    tensors = _cast(published(net, registry.component(kind).keys(config, net)), dtype)
    stem = "diffusion_pytorch_model" if "_class_name" in said else "model"
    files = _split(tensors, most)
    if len(files) == 1:
        save_tensors(folder / f"{stem}{_FILE}", tensors, {"format": "pt"})
        return
    if len(files) > MOST:
        raise ValueError(
            f"shard is {most} bytes, which makes {len(files)} files of {folder.name}; give more, for {MOST} at most."
        )
    placed = {}
    for k, names in enumerate(files, 1):
        file = f"{stem}-{k:05d}-of-{len(files):05d}{_FILE}"
        save_tensors(folder / file, {name: tensors[name] for name in names}, {"format": "pt"})
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(_size(t) for t in tensors.values())}, "weight_map": placed}
    write(folder / f"{stem}{_FILE}.index.json", json.dumps(index, indent=2) + "\n")


# What there is to write


def _parts(model: Generator | nn.Module | Mapping[str, nn.Module]) -> Parts:
    if isinstance(model, Generator):
        if not model.parts or not isinstance(model.origin, Whole):
            raise ValueError("the model has no published parts; load it by langevin.load, or save its networks one by one.")
        if (why := memory.arranged(model)) is not None:
            raise ValueError(f"the model was loaded in a budget, where {why}; load it without one to save it.")
        index = model.origin.index
        return {part: (net, _kind(config, index.get(part)), config) for part, (net, config) in model.parts.items()}
    if isinstance(model, Mapping):
        return {name: (net, *_told(net)) for name, net in model.items()}
    return {"": (model, *_told(model))}


def _kind(config: Config, listed: Any = None) -> str:
    """The class of a component: a diffusers configuration says it, a transformers one or else the index above it."""
    if "_class_name" in config:
        return str(config["_class_name"])
    named = listed[1] if isinstance(listed, (list, tuple)) and len(listed) == 2 else None
    return str(named or (config.get("architectures") or ["CLIPTextModel"])[0])


def _told(net: nn.Module) -> tuple[str, Config]:
    """What a network is published as: what it was loaded as, or the one class that has words for it."""
    if (kept := marked(net)) is not None:
        return kept
    found: dict[str, Config] = {}
    why = ""
    for part in registry.components():
        if part.config is not None:
            try:
                found[part.name] = part.config(net)
            except OtherKind:
                continue
            except (ValueError, AttributeError) as error:
                why = f" ({part.name}: {str(error).rstrip('.')})"
    if len(found) != 1:
        among = f"could be {' or '.join(found)}" if found else f"has no published form{why}"
        raise ValueError(f"the network is a {type(net).__name__}, which {among}; it can be saved by langevin.tensors.save.")
    return next(iter(found.items()))


def _plain(net: nn.Module, name: str, model: Any) -> None:
    """Refuse what a published form has no place for.

    Raises:
        ValueError: naming the adapters or words.
    """
    added = sorted({n for module in net.modules() if isinstance(module, adapters.Adapters) for n in module})
    if added:
        raise ValueError(
            f"the {name} has adapters that are not merged, {', '.join(map(repr, added))}; merge them before, by "
            f"langevin.zoo.adapting.merge(model, {added[0]!r}), or write them by langevin.zoo.lora.save_lora."
        )
    if any(isinstance(module, Words) for module in net.modules()):
        conditioner = getattr(model, "conditioner", None)
        sides = [m for m in conditioner.modules() if isinstance(m, Side)] if isinstance(conditioner, nn.Module) else []
        words = ", ".join(sorted({repr(word) for side in sides for word in side.tokenizer.words}))
        raise ValueError(
            f"the {name} has learned words{f', {words}' if words else ''}; save the model without, and their files beside."
        )


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {n: t.to(dtype) if dtype is not None and t.is_floating_point() else t for n, t in tensors.items()}


def _size(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _split(tensors: Mapping[str, Tensor], most: int | None) -> list[list[str]]:
    """The names of each file, in order; a tensor that is larger than a file may be has one of its own."""
    files: list[list[str]] = [[]]
    held = 0
    for name, value in tensors.items():
        if most is not None and files[-1] and held + _size(value) > most:
            files.append([])
            held = 0
        files[-1].append(name)
        held += _size(value)
    return files


# A folder


def _around(folder: Path, origin: Whole, parts: Parts) -> None:
    """What stands in a pipeline's folder beside its networks, and the index of all."""
    said = dict(origin.index)
    came = origin.folder
    listed = said if origin.layout == "" else {}
    if origin.layout and came is not None and is_file(came / "model_index.json"):
        listed = read_object(came / "model_index.json")
    kind = origin.kind
    controls = [part for part in parts if part.startswith("controlnet")]
    if controls:
        kind = _CONTROLLED.get(kind, kind)
        said["controlnet"] = ["diffusers", "ControlNetModel" if len(controls) == 1 else "MultiControlNetModel"]
    for part, (_, named, config) in parts.items():
        if part not in said and part not in controls:
            said[part] = ["diffusers" if "_class_name" in config else "transformers", named]
    for name in _schedulers(origin):
        scheduler = dict(origin.scheduler(name))
        write(folder / name / "scheduler_config.json", json.dumps(scheduler, indent=2) + "\n")
        said[name] = ["diffusers", scheduler["_class_name"]]
    for part in parts:  # of a single file; a folder's index names them
        number = part.removeprefix("text_encoder")
        if number != part and (tokenizer := f"tokenizer{number}") not in said:
            said[tokenizer] = listed.get(tokenizer) or ["transformers", _tokenizer(came, tokenizer)]
    if "safety_checker" in said:  # it is not run here and not written, and a peer looks for what the index names
        said |= {"safety_checker": [None, None], "requires_safety_checker": False}
    for name, value in said.items():
        if isinstance(value, (list, tuple)) and len(value) == 2 and value[1] and not (folder / name).exists():
            if came is None or not (came / name).is_dir():
                raise ValueError(f"{origin.what} came with {name}, which is not at {came} any more; load the model again.")
            _copied(came / name, folder / name)
    write(folder / "model_index.json", json.dumps({**said, "_class_name": kind}, indent=2) + "\n")


def _schedulers(origin: Whole) -> list[str]:
    named = [
        name
        for name, value in origin.index.items()
        if name.endswith("scheduler") and isinstance(value, (list, tuple)) and value[1]
    ]
    own = ["scheduler", *(["low_res_scheduler"] if origin.kind == "StableDiffusionUpscalePipeline" else [])]
    return list(dict.fromkeys([*own, *named]))


def _tokenizer(came: Path | None, name: str) -> str:
    """The class of a tokenizer, by its own settings."""
    file = None if came is None else came / name / "tokenizer_config.json"
    said = read_object(file).get("tokenizer_class") if file is not None and is_file(file) else None
    return said if isinstance(said, str) else "CLIPTokenizer"


def _copied(source: Path, target: Path) -> None:
    """The plain files of a folder that hold no code."""
    target.mkdir()
    for name in sorted(os.listdir(source)):
        if any(fnmatch(name, pattern) for pattern in ALLOWED) and is_file(source / name):
            copy(source / name, target / name)


# A single file


def _single(model: Any, parts: Parts, path: Path, layout: str | None, dtype: torch.dtype | None) -> Path:
    if "" in parts:
        raise ValueError(
            f"{path} is a single file, and the network is one part of a model; name a folder, or the part, as in {{'unet': net}}."
        )
    layout = layout or _layout(model, parts)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; there are {', '.join(LAYOUTS)}.")
    places = {place.component for place in LAYOUTS[layout]}
    held = {name: part for name, part in parts.items() if name in places}
    if not held:
        raise ValueError(
            f"layout is {layout!r}, which holds {', '.join(sorted(places))}, and the model is of {', '.join(parts)}."
        )
    left = [name for name in parts if name not in places]
    if getattr(model, "conditioner", None) is not None:
        left += [name.replace("text_encoder", "tokenizer") for name in parts if name.startswith("text_encoder")]
    if left:
        warnings.warn(
            f"{path.name} does not hold {' and '.join(left)}, for which its layout has no place; keep them, and say where by "
            "beside= (--beside FOLDER).",
            stacklevel=3,
        )
    made = {
        name: (config, published(net, registry.component(kind).keys(config, net))) for name, (net, kind, config) in held.items()
    }
    return save_tensors(path, _cast(to_original(layout, made), dtype), {"format": "pt"})


def _layout(model: Any, parts: Parts) -> str:
    """The layout of a model's single file: that of the file it came from, or what its authors' programs read."""
    origin = getattr(model, "origin", None)
    kind = "" if origin is None else origin.kind
    if origin is not None and origin.layout:
        return origin.layout
    if kind in _SINGLE:
        return _SINGLE[kind]
    if kind.startswith("StableDiffusionXL"):
        return "sdxl" if "text_encoder" in parts else "sdxl-refiner"
    if kind.startswith("Flux"):
        return "flux-whole"
    if kind.startswith("StableDiffusion"):
        return f"stable-diffusion-{2 if parts['unet'][2].get('use_linear_projection') else 1}"
    said = f"a {kind} has no single file of its own" if kind else "networks by name could be of several layouts"
    raise ValueError(f"{said}; say layout=, of {', '.join(LAYOUTS)}, or name a folder.")
