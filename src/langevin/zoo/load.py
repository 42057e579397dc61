"""`load`: a folder as it was published, a file, or the id of one, as something that works: a generator, a network, or a codec."""

import hashlib
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from langevin.header import header_of
from langevin.tasks import memory
from langevin.tasks.generate import Generator
from langevin.text.tokens import Tokenizer
from langevin.zoo import registry
from langevin.zoo.budget import Ladder, fit
from langevin.zoo.detect import detect
from langevin.zoo.family import Component, Config, built, fill, mark
from langevin.zoo.hub import is_file, open_published, read_object, resolve
from langevin.zoo.layouts.single import Single, components, opened
from langevin.zoo.pipelines import CODERS, Whole, generator, kind_of
from langevin.zoo.store import alone, check_variant, open_weights, sole, variants, weight_files

_LONGEST = 1000  # characters of a refusal, which may tell a value of a file
_LOW_RES = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
"""By what the x4 upscaler was published to noise the small picture."""


@dataclass(frozen=True)
class _Where:
    dtype: torch.dtype | None
    device: torch.device | str | None
    variant: str | None = None
    reference: bool = False
    taken: dict[str, str] = field(default_factory=dict)
    """The variant of each part that has no other weights, where none was asked for."""


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    reference: bool = False,
    beside: str | Path | None = None,
    configs: Mapping[str, Config] | str | Path | None = None,
    lora: Mapping[str, float] | Mapping[Path, float] | None = None,
    controlnet: str | Path | Sequence[str | Path] = (),
    budget: str | int | Ladder | None = None,
) -> Any:
    """What is in a published folder or file.

    Args:
        path: a folder, a single safetensors file, or the id of a repository, "stable-diffusion-v1-5/stable-diffusion-v1-5", also
            with "@revision", or of one file in it, "owner/name/file.safetensors", which is then fetched alone; what exists here
            comes first. A folder without configurations and with one file is that file.
        dtype: of the weights; the files' by default. device: where to put them.
        revision: of the repository; pin one, since what is behind a name may change.
        variant: which of several sets of weights, such as "fp16", of the parts that have it (of a single file, of what is beside
            it). By default the ordinary one, or the only one there is.
        reference: as diffusers computes it, where that departs from the original (DiT's frequencies, SD3's shift).
        beside: of a single file, a published folder (or the id of one) with what it lacks: tokenizers, which no such file holds,
            and the text encoders and the autoencoder, where they are not in it.
        configs: of a single file, what no shape tells: configurations by name of the part, also of "scheduler" and "model_index",
            each with some keys or all; or a published folder, whose configurations are then taken. Models of published sizes need
            none.
        lora: adapters (files, folders or ids) with their strengths, {"style.safetensors": 0.8}, merged in this order; for
            strengths that are switched later see `langevin.zoo.adapting.add_lora`. Of generators.
        controlnet: a folder of a ControlNet as it is published (or its id), or several; see `langevin.zoo.adapting.add_control`.
            Of generators.
        budget: most memory on the device (the CPU where none is given), such as "8GB": as few steps of the ladder of
            `langevin.zoo.budget` are taken as it asks for, after adapters were merged; or a ladder, see `ladder`, that can be
            printed first. Of generators.

    Returns:
        `Generator` of a folder with model_index.json, and of a single file that is whole with what is beside it; of a folder with
        config.json its network: an encoder of text, a codec, or the bare network of a denoiser, whose process the folder does not
        tell. Of a single file by itself that is not whole, the networks in it by name, such as "unet", "vae" and "text_encoder".

    Raises:
        ValueError: naming what is missing, or not known here.
    """
    folder = alone(resolve(path, revision, variant).path)
    aside = None if beside is None else resolve(beside).path
    given = configs if configs is None or isinstance(configs, Mapping) else resolve(configs).path
    if lora is not None and not isinstance(lora, Mapping):
        raise ValueError(f'lora is {lora!r}; give files with their strengths, as in {{"style.safetensors": 0.8}}.')
    controls = _several(controlnet)
    plan, first = None, device
    if variant is not None:
        _check_variant(variant, folder, aside)
    if budget is not None:
        if dtype is not None:
            raise ValueError(f"dtype is {dtype}, and the plan of a budget says how wide numbers are; leave one of them out.")
        plan = budget
        if not isinstance(plan, Ladder):
            plan = ladder(folder, plan, device=device, beside=aside, variant=variant, controlnet=controls)
        if plan.dtype is not None:
            dtype = getattr(torch, plan.dtype)
        first = "cpu" if plan.offload or plan.int8 else device
    where = _Where(dtype, first, variant, reference)
    model = _read(folder, where, aside, given)
    if where.taken:
        taken = ", ".join(f"{kind!r} of {part}" for part, kind in where.taken.items())
        warnings.warn(f"{folder} has variants of its weights alone, and {taken} was taken; choose it by variant=.", stacklevel=2)
    if lora or controls:
        model = _with(model, lora or {}, controls, folder)
    return model if plan is None else _within(model, plan, device)


def _with(model: Any, files: Mapping[str, float] | Mapping[Path, float], controls: Sequence[Path], folder: Path) -> Generator:
    """A generator with adapters in its weights, and under ControlNets."""
    from langevin.zoo import adapting  # which loads parts itself

    if not isinstance(model, Generator):
        name = "lora" if files else "controlnet"
        raise ValueError(
            f"{name} is added to whole models, and {folder} is no whole one; give a folder with model_index.json, or beside= "
            "with what a single file lacks."
        )
    for k, (file, strength) in enumerate(files.items()):
        name = f"{k}_{adapting.name_of(file)}"
        adapting.add_lora(model, file, strength, name)
        adapting.merge(model, name)  # a plain model again, as fast as without
    for control in controls:
        model = adapting.add_control(model, control)
    return model


def _several(folders: str | Path | Sequence[str | Path]) -> list[Path]:
    return [resolve(one).path for one in ([folders] if isinstance(folders, (str, Path)) else folders)]


def _check_variant(variant: str, folder: Path, beside: Path | None) -> None:
    place = beside if folder.is_file() else folder
    if place is None:
        raise ValueError(f"variant is {variant!r}, and {folder} is no folder with variants; leave it out.")
    check_variant(place, variant)


def _read(folder: Path, where: _Where, beside: Path | None, configs: Mapping[str, Config] | Path | None) -> Any:
    """What is there, with one kind of refusal whatever stands in the files."""
    try:
        return _loaded(folder, where, beside, configs)
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


def _loaded(folder: Path, where: _Where, beside: Path | None, configs: Mapping[str, Config] | Path | None) -> Any:
    if folder.is_file():
        return _of_file(folder, where, beside, configs)
    if beside is not None or configs is not None:
        name = "beside" if beside is not None else "configs"
        raise ValueError(f"{name} completes a single file, and {folder} is a folder, which has its own; leave {name} out.")
    if is_file(folder / "model_index.json"):
        return generator(of_folder(folder, where), where.reference)
    if is_file(folder / "config.json"):
        config = read_object(folder / "config.json")
        return text_encoder(folder, where) if "_class_name" not in config else network(folder, where)[0]
    held = ", ".join(file.name for file in weight_files(folder)[:4])
    raise ValueError(
        f"{folder} has neither model_index.json nor config.json; give a folder as it is published"
        f"{f', or one of its files, {held}' if held else ''}."
    )


# Memory


def ladder(
    path: str | Path,
    budget: str | int,
    *,
    device: torch.device | str | None = None,
    size: tuple[int, int] | None = None,
    beside: str | Path | None = None,
    variant: str | None = None,
    revision: str | None = None,
    controlnet: str | Path | Sequence[str | Path] = (),
) -> Ladder:
    """The plan of memory for a model, by names and headers, before anything is loaded. `print` it, and give it to `load`.

    Args:
        budget: such as "8GB". size: (width, height) of the pictures, in pixels; the model's own by default.
        device: to plan for, where `load` is to put the model; by default the CPU, as there. The rest as for `load`.

    Raises:
        ValueError: if the model does not fit with every step, saying what it takes then.
    """
    found = detect(resolve(path, revision, variant).path, variant)
    here = {part.name for part in found.parts}
    others = [] if beside is None else detect(resolve(beside).path, variant).parts
    added = [p for p in others if p.name not in here and (p.name.startswith("text_encoder") or p.name in CODERS)]
    added += [part for one in _several(controlnet) for part in detect(one).parts]
    kind = torch.device(device or "cpu").type
    half = "float16" if kind == "cuda" and not torch.cuda.is_bf16_supported() else "bfloat16"
    return fit(found, budget, kind, size, half, added)


def _within(model: Any, plan: Ladder, device: torch.device | str | None) -> Any:
    """What was loaded, in as little memory as planned."""
    if not isinstance(model, Generator):
        raise ValueError("budget plans whole models, and this is one part of one; leave it out.")
    if plan.tile is not None:
        model = memory.tiled(model, plan.tile)
    if plan.int8:
        model = memory.in_int8(model)
    if plan.offload:
        return memory.in_turns(model, device or "cpu")
    for net in memory.networks(model):
        net.to(device)
    return model


# Parts


def network(folder: Path, where: _Where) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a component's folder, with its configuration."""
    config = read_object(folder / "config.json")
    return _filled(folder, registry.component(str(config.get("_class_name"))[:80]), config, where), config


def text_encoder(folder: Path, where: _Where, name: str | None = None) -> nn.Module:
    """A text encoder, strictly.

    Args:
        name: its class, where the folder above says it; by default its own configuration's.
    """
    config = read_object(folder / "config.json")
    listed = config.get("architectures")
    named = name or (listed[0] if isinstance(listed, list) and listed else None)
    if not isinstance(named, str):
        raise ValueError(f"{folder / 'config.json'} names no architectures; add the class of the text encoder.")
    return _filled(folder, registry.component(named[:80]), config, where)


def _filled(folder: Path, part: Component, config: dict[str, Any], where: _Where) -> nn.Module:
    there = variants(folder)
    if where.variant is None and (only := sole(there)) is not None:
        where.taken[folder.name] = only
    weights = open_weights(folder, None if None in there and where.variant not in there else where.variant)
    return _made(part, config, weights, str(folder), where)


def _made(part: Component, config: Config, source: Any, what: str, where: _Where) -> nn.Module:
    """A network with the weights of `source`, as `fill` takes it."""
    if where.reference and "reference" in inspect.signature(part.build).parameters:
        build: Any = part.build
        part = replace(part, build=partial(build, reference="diffusers"))
    net = mark(built(part, config, what), part.name, config)
    fill(part, net, config, source, what, where.dtype)
    return net.to(where.device).eval().requires_grad_(False)


# Pipelines


def of_folder(folder: Path, where: _Where) -> Whole:
    """The parts of a folder with model_index.json."""
    index = read_object(folder / "model_index.json")
    name = str(index.get("_class_name"))[:80]
    kind_of(name, str(folder))  # refused before anything else is read
    named = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    places = {part: folder / part for part in named}
    for part in [p for p in named if p.startswith("controlnet")]:  # several stand side by side
        places |= {place.name: place for place in sorted(folder.glob(f"{part}*"))}

    def net(part: str) -> tuple[nn.Module, Config]:
        if part.startswith("text_encoder"):
            config = read_object(places[part] / "config.json")
            return text_encoder(places[part], where, str(named[part][1])), config
        return network(places[part], where)

    return Whole(
        what=str(folder),
        kind=name,
        index=index,
        scheduler=lambda part: read_object(folder / part / "scheduler_config.json"),
        parts=list(places),
        network=net,
        tokenizer=lambda part: Tokenizer(folder / part),
        name=folder.name,
        fingerprint=fingerprint(folder),
        folder=folder,
    )


def parts(path: Path, configs: Mapping[str, Config] | None = None, **options: Any) -> dict[str, tuple[nn.Module, Config]]:
    """The networks of a component's folder ("" for its name) or of a single file, by name, with their configurations.

    Args:
        configs, options: as for `load`: dtype, device, variant.
    """
    path, where = alone(path), _Where(**{"dtype": None, "device": None, **options})
    if path.is_dir():
        return {"": network(path, where)}
    weights = open_weights(path)
    single = opened(weights.shapes, weights.read, given=configs, what=str(path))
    return {part: _inside(single, part, path, where, configs) for part in single.pieces}


def _inside(single: Single, part: str, file: Path, where: _Where, given: Mapping[str, Config] | None) -> tuple[nn.Module, Config]:
    """A network of a single file.

    Args:
        given: configurations that were, by name.
    """
    piece = single.pieces[part]
    try:
        return _made(registry.component(piece.kind), piece.config, piece, f"{file}: {part}", where), piece.config
    except ValueError as error:
        if (given or {}).get(part):
            raise
        # what no shape tells was taken to be as published
        said = str(error).removesuffix(".")
        raise ValueError(f"{said}; where its sizes are not published ones, say configs=FOLDER (--configs FOLDER).") from error


def _of_file(file: Path, where: _Where, beside: Path | None, configs: Mapping[str, Config] | Path | None) -> Any:
    """A generator of what is in a single file and beside it; the networks by name, where it is not whole by itself."""
    weights = open_weights(file)
    here = components(weights.shapes, str(file))
    given = _configs_in(configs, here) if isinstance(configs, Path) else dict(configs or {})
    told = {part: given.pop(part, {}) for part in ("scheduler", "low_res_scheduler", "model_index")}
    single = opened(weights.shapes, weights.read, given=given, what=str(file))

    lacks = _lacking(single, beside)
    if single.pipeline is None or (lacks and beside is None):
        return {part: _inside(single, part, file, where, given)[0] for part in single.pieces}
    if lacks:
        raise ValueError(
            f"{file} is a {single.pipeline}, which needs {' and '.join(lacks)} beside it, and {beside} has no such part; give a "
            "published folder of the same family."
        )

    def net(part: str) -> tuple[nn.Module, Config]:
        if part in single.pieces:
            return _inside(single, part, file, where, given)
        assert beside is not None
        folder = beside / part
        config = read_object(folder / "config.json")
        if part.startswith("text_encoder"):
            return text_encoder(folder, where), config
        return network(folder, where)

    outside = [part for part in _wanted(single) if part not in single.pieces and _is_there(beside, part)]
    scheduler = single.scheduler or {}
    if told["scheduler"].get("_class_name", scheduler["_class_name"]) != scheduler["_class_name"]:
        scheduler = {}  # another class, with its own defaults
    scheduler = {**scheduler, **told["scheduler"]}
    index = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False} if single.layout == "sdxl-refiner" else {}
    return generator(
        Whole(
            what=str(file),
            kind=single.pipeline,
            index={**index, **told["model_index"]},
            scheduler={"scheduler": scheduler, "low_res_scheduler": {**_LOW_RES, **told["low_res_scheduler"]}}.__getitem__,
            parts=[*single.pieces, *outside],
            network=net,
            tokenizer=lambda part: Tokenizer((beside or file) / part),
            name=file.stem,
            fingerprint=fingerprint(file),
            folder=beside,
            layout=single.layout,
        ),
        where.reference,
    )


def _configs_in(folder: Path, parts: list[str]) -> dict[str, Config]:
    """The configurations of a published folder, for the parts of a file."""
    files = {part: folder / part / "config.json" for part in parts}
    files |= {name: folder / name / "scheduler_config.json" for name in ("scheduler", "low_res_scheduler")}
    files["model_index"] = folder / "model_index.json"
    found: dict[str, Config] = {part: read_object(file) for part, file in files.items() if is_file(file)}
    if not found:
        raise ValueError(f"configs is {folder}, which holds no configuration of {', '.join(parts)}; give a published folder.")
    return found


def _wanted(single: Single) -> tuple[str, ...]:
    """The networks that the pipeline of a file may have beside its denoiser."""
    assert single.pipeline is not None
    kind = kind_of(single.pipeline, single.layout)
    needs = kind.needs if single.layout != "sdxl-refiner" else ("text_encoder_2", "vae")
    return (*needs, "text_encoder_3") if kind.text == "sd3" else needs


def _is_there(folder: Path | None, part: str) -> bool:
    return folder is not None and is_file(folder / part / "config.json")


def _lacking(single: Single, beside: Path | None) -> list[str]:
    """What a file's pipeline needs that is neither in it nor beside it."""
    if single.pipeline is None:
        return []
    there = {part: part in single.pieces or _is_there(beside, part) for part in _wanted(single)}
    lacks = [part for part, found in there.items() if not found and part != "text_encoder_3"]
    encoders = [part for part, found in there.items() if part.startswith("text_encoder") and (found or part in lacks)]
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in encoders]
    return lacks + [part for part in tokenizers if beside is None or not (beside / part).is_dir()]


def fingerprint(path: Path) -> str:
    """16 hexadecimal digits of the weights in a folder or file: of sizes, headers and samples of the values, so that it takes no
    time."""
    total = hashlib.sha256()
    for file_path in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        with open_published(file_path) as file:
            size = os.fstat(file.fileno()).st_size
            name = file_path.name if path.is_file() else file_path.relative_to(path)
            total.update(f"{name} {size} {len(header_of(file, file_path).entries)}".encode())
            for i in range(16):
                file.seek(max(size - 4096, 0) * i // 15, os.SEEK_SET)
                total.update(file.read(4096))
    return total.hexdigest()[:16]
