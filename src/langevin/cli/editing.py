"""langevin edit: a picture as it would be under another prompt, by a published model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.cli.loading import Loading, Watch, model_of, options_of, picture, read_words, size_of


@dataclass(frozen=True)
class _Change:
    path: Positional[str]
    """Folder as published, with model_index.json, the id of a repository, or a single file."""
    image: Positional[Path]
    """Picture to change."""
    source: Positional[str]
    """Prompt that says what is on it; for a model of classes the number of its class."""
    target: Positional[str]
    """Prompt, or class, that it is changed to. The same again gives the picture back, to the error that is told."""
    negative: str | None = None
    """What guidance leads away from."""
    size: str | None = None
    """Width and height in pixels that the picture is scaled to, as in 768x512; its own by default."""
    steps: int = 50
    """Of DDIM, up to the noise and down again."""
    guidance: float | None = None
    """Strength of guidance, 1 for none; the model's own by default."""
    exact: bool = True
    """Undo each step to rounding, in up to 30 evaluations; else one evaluation a step, which comes back less near."""
    iterations: int = 20
    """How often the null condition of each step is moved, so that guidance leads back to the picture; 0 leaves it as it is."""
    rate: float = 0.03
    """Of Adam, which moves it."""
    seed: int = 0
    """Of what the encoder draws."""
    out: Path = Path("edited.png")
    """File to write (.png)."""


@dataclass(frozen=True)
class _Edit(Loading, _Change):
    """Find the noise that a picture comes from under a prompt, and carry it down under another."""


PLAIN = ("negative", "guidance", "seed", "control_levels", "clip_skip", "weighted", "long", "length")
"""Flags that are options of a request as they are."""


def edit(args: Sequence[str]) -> None:
    """Find the noise that a picture comes from under a prompt, and carry it down under another."""
    asked = parse(_Edit, args, "langevin edit")
    if asked.out.suffix.lower() != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    size = None if asked.size is None else size_of("size", asked.size)
    photo = picture(asked.image)
    model = model_of(asked, size)
    read_words(model, asked.word)
    given = options_of(asked, PLAIN, ("control",)) | ({} if size is None else {"size": size})
    way = {name: getattr(asked, name) for name in ("steps", "exact", "iterations", "rate")}
    ends = (asked.source, asked.target)
    if model.defaults.classes is not None:
        ends = tuple(int(end) if end.isdigit() else _refused(end) for end in ends)
    watch = Watch(asked)
    made = model.edit(photo, *ends, callback=watch, **way, **given)
    watch.end()
    from langevin.pictures import save_png

    (record,) = made.info
    print(f"under the first prompt the way leads back to the picture within {record['edited']['missed']:.2g} of it")
    print(save_png(made.images[0], asked.out, record))
    print(json.dumps(record))


def _refused(end: str) -> int:
    raise Refusal(f"the prompt is {end!r}, and this is a model of classes; give the number of a class.")
