"""langevin edit: a picture as it would be under another prompt, or of another class, by a run or a published model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.cli.loading import Loading, Watch, model_of, options_of, picture, read_words, size_of
from langevin.inspection import is_ours


@dataclass(frozen=True)
class _Change:
    path: Positional[str]
    """Run directory; or of a published model the folder, with model_index.json, the id of a repository, or a single file."""
    image: Positional[Path]
    """Picture to change."""
    source: Positional[str]
    """Prompt that says what is on it; for a model of classes its class, by number (of a run by name as well)."""
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
OF_RUNS = ("path", "image", "source", "target", "steps", "guidance", "exact", "iterations", "rate", "out", "device")
"""Flags that a run reads."""


def edit(args: Sequence[str]) -> None:
    """Find the noise that a picture comes from under a prompt, and carry it down under another."""
    asked = parse(_Edit, args, "langevin edit")
    if asked.out.suffix.lower() != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    if is_ours(Path(asked.path)):
        _of_run(asked)
    else:
        _of_published(asked)


def _of_published(asked: _Edit) -> None:
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
    _said(record, save_png(made.images[0], asked.out, record))


def _of_run(asked: _Edit) -> None:
    """By a run: its own size, and nothing of what is told of published models."""
    for field in fields(asked):
        if field.name not in OF_RUNS and (value := getattr(asked, field.name)) != field.default:
            raise Refusal(f"{field.name} is {value}, which is told of published models, and {asked.path} is a run; leave it out.")
    from langevin.pictures import grid, save_png
    from langevin.recipes.editing import changed, edited, pictures_of
    from langevin.recipes.opening import open_run

    run = open_run(asked.path, device=asked.device or "auto")
    photo = pictures_of(run, [asked.image])
    if (run.recipe.sample.guidance if asked.guidance is None else asked.guidance) == 1:
        for field in fields(asked):
            if field.name in ("iterations", "rate") and (value := getattr(asked, field.name)) != field.default:
                raise Refusal(f"{field.name} is {value}, of null conditions, which guidance 1 has not; leave it out.")
    way = {name: getattr(asked, name) for name in ("steps", "guidance", "exact", "iterations", "rate")}
    made, missed = changed(run, photo, asked.source, asked.target, **way)
    record = edited(run, photo, asked.source, asked.target, float(missed), **way)
    _said(record, save_png(grid(made.clamp(-1, 1), 1, scale=1, gap=0), asked.out, record))


def _said(record: dict[str, Any], out: Path) -> None:
    print(f"under the first prompt the way leads back to the picture within {record['edited']['missed']:.2g} of it")
    print(out)
    print(json.dumps(record))


def _refused(end: str) -> int:
    raise Refusal(f"the prompt is {end!r}, and this is a model of classes; give the number of a class.")
