"""langevin generate: pictures with a published model."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from langevin.cli.again import PICTURES, refuse_another, refuse_chosen, warn_of_others, words
from langevin.cli.asking import Refusal, parse, taken
from langevin.cli.weights import strengths
from langevin.record import printable


@dataclass(frozen=True)
class _Generate:
    path: Positional[str]
    """Folder as published, with model_index.json, the id of a repository, or a single file."""
    prompt: Positional[str | None] = None
    """What to draw, for models that read text."""
    negative: str | None = None
    """What to lead away from."""
    label: int | None = None
    """Class to draw, for models of classes."""
    size: str | None = None
    """Width and height in pixels, as in 768x512."""
    steps: int | None = None
    """Evaluations of the network."""
    seed: int = 0
    """Picture k is that of the seed and of k, whatever the count."""
    first_id: int = 0
    """Number of the first picture; the others follow."""
    count: int = 1
    """How many pictures of the prompt, or of each image."""
    batch: int | None = None
    """Most pictures in one call of the network; all by default."""
    again: Path | None = None
    """Picture (.png) that was drawn here: whatever is not said is as its record tells. The model must be the same."""
    guidance: float | None = None
    """Strength of guidance, 1 for none."""
    rescale: float = 0.0
    """How far the deviation of guided outputs is pulled back to the conditional's, 0 to 1."""
    plan: str | None = None
    """Another sampler than the publisher's, such as dpmpp:20:grid=karras."""
    image: tuple[Path, ...] = ()
    """Picture to begin at, to paint in, or to enlarge; or several."""
    strength: float | None = None
    """Noise level that the picture is raised to, 0 to 1."""
    mask: tuple[Path, ...] = ()
    """White where the picture is painted anew; one for all, or one for each image."""
    paste: bool = True
    """Elsewhere keep the image to the pixel."""
    noise_level: int | None = None
    """Of the small picture, for models that enlarge."""
    control: tuple[Path, ...] = ()
    """Hints, one for each control network of the model, its own first."""
    controlnet: tuple[str, ...] = ()
    """Folders, single files or ids of ControlNets, each of which takes a hint."""
    control_scale: tuple[float, ...] = (1.0,)
    """How much hints count: one number for all, or one for each network."""
    control_levels: tuple[float, float] = (1.0, 0.0)
    """From which noise level down to which hints count."""
    guess: bool = False
    """Let hints count without a text, and guidance lead away from what is drawn without them."""
    clip_skip: int = 0
    """Layers of CLIP left out from the end."""
    weighted: bool = False
    """Read weights in the prompt, (word:1.3)."""
    long: bool = False
    """Read prompts of any length, in parts."""
    length: int | None = None
    """Most tokens of T5 or of a language model."""
    original_size: str | None = None
    """SDXL: size that the network is told the picture had, as in 768x512."""
    crop: tuple[int, int] | None = None
    """SDXL: top and left of the cut that the network is told of."""
    target_size: str | None = None
    """SDXL: size that the network is told to draw for."""
    aesthetic_score: float | None = None
    """SDXL's refiner: score that the network is told."""
    negative_original_size: str | None = None
    """Of the half that is led away from, as the four above."""
    negative_crop: tuple[int, int] | None = None
    """See negative-original-size."""
    negative_target_size: str | None = None
    """See negative-original-size."""
    negative_aesthetic_score: float | None = None
    """See negative-original-size."""
    negative_clip_skip: int | None = None
    """Layers of CLIP left out for what is led away from; clip-skip by default."""
    lora: tuple[str, ...] = ()
    """Adapters (LoRA) as FILE or FILE:STRENGTH, of peft, diffusers or kohya; a file, a folder, or an id such as owner/name or
    owner/name/file.safetensors; several add up."""
    word: tuple[str, ...] = ()
    """Files, folders or ids of learned words (textual inversion), which the prompt may then use."""
    redux: str | None = None
    """Folder or id of FLUX.1 Redux, for variations of a picture."""
    like: tuple[Path, ...] = ()
    """With redux: pictures to vary, one for all or one for each."""
    like_scale: float | None = None
    """With redux: how much these pictures count."""
    cache: str | None = None
    """Leave blocks of a transformer out where they repeat themselves: first_block:threshold=0.1 or taylor:every=3,order=1."""
    measure: bool = False
    """With cache, draw without it as well, and tell the error that it causes."""
    dtype: str | None = None
    """float32, bfloat16 or float16; that of the files by default."""
    device: str | None = None
    """Where to compute; a GPU if there is one."""
    revision: str | None = None
    """Of the repository."""
    variant: str | None = None
    """Of the weights, such as fp16; where there is one alone, that is taken."""
    beside: str | None = None
    """Of a single file: a published folder, or its id, with what the file lacks: tokenizers, text encoders, autoencoder."""
    budget: str | None = None
    """Most memory, such as 8GB; the plan is told before anything is loaded."""
    configs: str | None = None
    """Of a single file that is of no published size: a published folder with its configurations."""
    out: Path = Path("picture.png")
    """File to write (.png); pictures of a count above 1 are numbered."""


SIZES = ("size", "original_size", "target_size", "negative_original_size", "negative_target_size")
PLAIN = (
    "negative", "label", "steps", "seed", "first_id", "count", "batch", "guidance", "rescale", "plan", "strength", "paste",
    "noise_level", "control_levels", "guess", "clip_skip", "weighted", "long", "length", "crop", "aesthetic_score",
    "negative_crop", "negative_aesthetic_score", "negative_clip_skip", "like_scale",
)  # fmt: skip
"""Flags that are options of a request as they are."""
LOADED = ("dtype", "revision", "variant", "beside", "configs", "budget", "lora", "controlnet", "word", "redux")
"""Flags that say how the model is loaded, for the record."""


def generate(args: Sequence[str]) -> None:
    """Draw pictures with a published model; each PNG says how it was made."""
    again, _ = taken("--again", args)
    told, prompt = ([], None) if again is None else words(Path(again), (*PLAIN, *SIZES, *LOADED, "control_scale", "cache"), args)
    if told:
        print(f"as {again}: {printable(shlex.join(told))}")
    default: Any = tyro.MISSING_NONPROP if prompt is None else _Generate(tyro.MISSING, prompt)
    asked = parse(_Generate, [*args, *told], "langevin generate", default)
    if asked.out.suffix.lower() != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    sizes = {name: _size(name, getattr(asked, name)) for name in SIZES if getattr(asked, name) is not None}
    if asked.controlnet and not asked.control:
        raise Refusal("controlnet follows the hints that control names; say both, or neither.")
    if (asked.redux is None) != (not asked.like):
        raise Refusal("redux varies the pictures that like names; say both, or neither.")
    if asked.again is not None:
        refuse_chosen(asked.again, asked)
    model = _model(asked, sizes.get("size"))
    if asked.again is not None:
        refuse_another(asked.again, model, asked.path)
    for file in asked.word:
        from langevin.zoo.adapting import add_word

        print(f"{file}: in the prompt as {add_word(model, file)}")
    known = {f.name: f.default for f in fields(_Generate)}
    given: dict[str, Any] = {name: value for name in PLAIN if (value := getattr(asked, name)) != known[name]} | sizes
    if asked.control_scale != known["control_scale"]:
        given["control_scale"] = asked.control_scale[0] if len(asked.control_scale) == 1 else asked.control_scale
    for name in PICTURES:
        if getattr(asked, name):
            given[name] = [_open(file) for file in getattr(asked, name)]
    cache: Any = None
    if asked.cache is not None:
        from langevin.zoo.adapting import feature_cache

        cache = feature_cache(asked.cache)
    line = _Line()
    result = model.run(
        asked.prompt, cache=cache, callback=lambda progress: line(progress.step.row + 1, progress.step.rows), **given
    )
    line.end()
    if cache is not None:
        print(result.memory)
    if cache is not None and asked.measure:
        from langevin.zoo.adapting import compared

        print(compared(result, model.run(asked.prompt, **given)))
    if asked.again is not None:
        warn_of_others(asked.again, result.info[0])
    from langevin.pictures import save_png

    many = len(result.images) > 1
    for k, (image, record) in enumerate(zip(result.images, result.info, strict=True)):
        print(save_png(image, asked.out.with_stem(f"{asked.out.stem}-{k}") if many else asked.out, record))
        if not many:
            print(json.dumps(record))


def _size(name: str, said: str) -> tuple[int, int]:
    sides = said.split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise Refusal(f"{name} is {said!r}; give width and height in pixels, as in 768x512.")
    return int(sides[0]), int(sides[1])


def _model(asked: Any, size: tuple[int, int] | None) -> Any:
    """The model that is asked for, which knows for the record how it was loaded."""
    import torch

    from langevin.zoo.hub import resolve
    from langevin.zoo.load import fingerprint, ladder, load

    dtypes: dict[str | None, Any] = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked.dtype not in dtypes:
        raise Refusal(f"dtype is {asked.dtype!r}; there are {', '.join(str(d) for d in dtypes if d)}.")
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = None
    if asked.budget is not None:
        if asked.dtype is not None:
            raise Refusal(
                f"dtype is {asked.dtype}, and the plan of budget {asked.budget} says how wide numbers are; leave one out."
            )
        plan = ladder(
            asked.path,
            asked.budget,
            device=device,
            size=size,
            beside=asked.beside,
            revision=asked.revision,
            variant=asked.variant,
            controlnet=asked.controlnet,
        )
        print(plan)
    model = load(
        asked.path, dtype=dtypes[asked.dtype], device=device, revision=asked.revision, beside=asked.beside, configs=asked.configs,
        variant=asked.variant, lora=strengths(asked.lora), controlnet=asked.controlnet, budget=plan,
    )  # fmt: skip
    if isinstance(model, dict):
        raise Refusal(
            f"{asked.path} holds {', '.join(model)} alone; say --beside FOLDER, a published folder with the other parts and the "
            "tokenizers."
        )
    if not hasattr(model, "run"):
        raise Refusal(f"{asked.path} is one part of a model; give the folder that has model_index.json.")
    if asked.redux is not None:
        from langevin.zoo.adapting import add_redux

        model = add_redux(model, asked.redux, dtype=dtypes[asked.dtype], device=device)
    said = {name: value for name in LOADED if (value := getattr(asked, name))}
    files = {str(file): fingerprint(resolve(file).path) for file in (*strengths(asked.lora), *asked.word)}
    plain = {name: [str(v) for v in value] if isinstance(value, tuple) else value for name, value in said.items()}
    return model.but(loaded={**model.loaded, **plain, **({"files": files} if files else {})})


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise Refusal(f"{path} is no picture that can be read ({str(error)[:100]}).") from None


class _Line:
    """Progress on a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __call__(self, done: int, of: int) -> None:
        if self.shown:
            print(f"\rstep {done}/{of}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown:
            print(file=sys.stderr)
