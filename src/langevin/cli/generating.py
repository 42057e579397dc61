"""langevin generate: pictures with a published model."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.cli.weights import strengths


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
    count: int = 1
    """How many pictures."""
    guidance: float | None = None
    """Strength of guidance, 1 for none."""
    plan: str | None = None
    """Another sampler than the publisher's, such as dpmpp:20:grid=karras."""
    image: Path | None = None
    """Picture to begin at, to paint in, or to enlarge."""
    strength: float | None = None
    """Noise level that the picture is raised to, 0 to 1."""
    mask: Path | None = None
    """White where the picture is painted anew."""
    control: tuple[Path, ...] = ()
    """Hints, one for each control network of the model, its own first."""
    controlnet: tuple[str, ...] = ()
    """Folders, single files or ids of ControlNets, each of which takes a hint."""
    control_scale: float = 1.0
    """How much hints count."""
    clip_skip: int = 0
    """Layers of CLIP left out from the end."""
    weighted: bool = False
    """Read weights in the prompt, (word:1.3)."""
    long: bool = False
    """Read prompts of any length, in parts."""
    lora: tuple[str, ...] = ()
    """Adapters (LoRA) as FILE or FILE:STRENGTH, of peft, diffusers or kohya; a file, a folder, or an id such as owner/name or
    owner/name/file.safetensors; several add up."""
    word: tuple[str, ...] = ()
    """Files, folders or ids of learned words (textual inversion), which the prompt may then use."""
    redux: str | None = None
    """Folder or id of FLUX.1 Redux, for variations of a picture."""
    like: tuple[Path, ...] = ()
    """With redux: pictures to vary, one for all or one for each."""
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


def generate(args: Sequence[str]) -> None:
    """Draw pictures with a published model; each PNG says how it was made."""
    asked = parse(_Generate, args, "langevin generate")
    if asked.out.suffix.lower() != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    sides = None if asked.size is None else asked.size.split("x")
    if sides is not None and (len(sides) != 2 or not all(side.isdigit() for side in sides)):
        raise Refusal(f"size is {asked.size!r}; give width and height in pixels, as in 768x512.")
    if asked.controlnet and not asked.control:
        raise Refusal("controlnet follows the hints that control names; say both, or neither.")
    import torch

    from langevin.pictures import save_png
    from langevin.zoo.load import ladder, load

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
        size = None if sides is None else (int(sides[0]), int(sides[1]))
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
    for file in asked.word:
        from langevin.zoo.adapting import add_word

        print(f"{file}: in the prompt as {add_word(model, file)}")
    if (asked.redux is None) != (not asked.like):
        raise Refusal("redux varies the pictures that like names; say both, or neither.")
    if asked.redux is not None:
        from langevin.zoo.adapting import add_redux

        model = add_redux(model, asked.redux, dtype=dtypes[asked.dtype], device=device)
    given: dict[str, Any] = {
        name: getattr(asked, name)
        for name in ("negative", "label", "steps", "guidance", "plan", "strength")
        if getattr(asked, name) is not None
    }
    if sides is not None:
        given["size"] = (int(sides[0]), int(sides[1]))
    for name in ("image", "mask"):
        if (file := getattr(asked, name)) is not None:
            given[name] = _open(file)
    if asked.like:
        given["like"] = [_open(file) for file in asked.like]
    if asked.control:
        given |= {"control": [_open(file) for file in asked.control], "control_scale": asked.control_scale}
    cache: Any = None
    if asked.cache is not None:
        from langevin.zoo.adapting import feature_cache

        cache = feature_cache(asked.cache)
    told = _Line()
    result = model.run(
        asked.prompt, seed=asked.seed, count=asked.count, clip_skip=asked.clip_skip, weighted=asked.weighted, long=asked.long,
        cache=cache, callback=lambda progress: told(progress.step.row + 1, progress.step.rows), **given,
    )  # fmt: skip
    told.end()
    if cache is not None:
        print(result.memory)
    if cache is not None and asked.measure:
        from langevin.zoo.adapting import compared

        plain = model.run(
            asked.prompt, seed=asked.seed, count=asked.count, clip_skip=asked.clip_skip, weighted=asked.weighted, long=asked.long,
            **given,
        )  # fmt: skip
        print(compared(result, plain))
    for k, (image, record) in enumerate(zip(result.images, result.info, strict=True)):
        path = asked.out if asked.count == 1 else asked.out.with_stem(f"{asked.out.stem}-{k}")
        print(save_png(image, path, record))
        if asked.count == 1:
            print(json.dumps(record))


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
