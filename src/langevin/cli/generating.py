"""langevin generate: pictures with a published model."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from langevin.cli.again import refuse_another, refuse_chosen, warn_of_others, words
from langevin.cli.asking import Refusal, parse, taken
from langevin.cli.loading import LOADED, Loading, Watch, model_of, options_of, read_words, size_of
from langevin.config import PICTURES
from langevin.record import printable


@dataclass(frozen=True)
class _Request:
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
    guess: bool = False
    """Let hints count without a text, and guidance lead away from what is drawn without them."""
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
    out: Path = Path("picture.png")
    """File to write (.png); pictures of a count above 1 are numbered."""


@dataclass(frozen=True)
class _Generate(Loading, _Request):
    """Draw pictures with a published model; each PNG says how it was made."""


SIZES = ("size", "original_size", "target_size", "negative_original_size", "negative_target_size")
PLAIN = (
    "negative", "label", "steps", "seed", "first_id", "count", "batch", "guidance", "rescale", "plan", "strength", "paste",
    "noise_level", "control_levels", "guess", "clip_skip", "weighted", "long", "length", "crop", "aesthetic_score",
    "negative_crop", "negative_aesthetic_score", "negative_clip_skip", "like_scale",
)  # fmt: skip
"""Flags that are options of a request as they are."""
BESIDE = ("control_scale", "cache", "adapters")
"""Further flags that a record tells."""


def generate(args: Sequence[str]) -> None:
    """Draw pictures with a published model; each PNG says how it was made."""
    again, _ = taken("--again", args)
    told, prompt = ([], None) if again is None else words(Path(again), (*PLAIN, *SIZES, *LOADED, *BESIDE), args)
    if told:
        print(f"as {again}: {printable(shlex.join(told))}")
    default: Any = tyro.MISSING_NONPROP if prompt is None else _Generate(tyro.MISSING, prompt)
    asked = parse(_Generate, [*args, *told], "langevin generate", default)
    if asked.out.suffix.lower() != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    sizes = {name: size_of(name, getattr(asked, name)) for name in SIZES if getattr(asked, name) is not None}
    if asked.controlnet and not asked.control:
        raise Refusal("controlnet follows the hints that control names; say both, or neither.")
    if (asked.redux is None) != (not asked.like):
        raise Refusal("redux varies the pictures that like names; say both, or neither.")
    if asked.measure and asked.cache is None:
        raise Refusal("measure tells the error of a cache, and there is none; say --cache, or leave it out.")
    if asked.again is not None:
        refuse_chosen(asked.again, asked)
    model = model_of(asked, sizes.get("size"))
    if asked.again is not None:
        refuse_another(asked.again, model, asked.path)
    read_words(model, asked.word)
    given = options_of(asked, PLAIN, PICTURES) | sizes
    cache: Any = None
    if asked.cache is not None:
        from langevin.zoo.adapting import feature_cache

        cache = feature_cache(asked.cache)
    watch = Watch(asked)
    result = model.run(asked.prompt, cache=cache, callback=watch, **given)
    watch.end()
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
