"""What a run leaves to look at: its samples, as pictures and numbers."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin import pictures
from langevin.core.denoiser import Denoiser
from langevin.core.sample import sample, trajectory
from langevin.core.tree import leaves
from langevin.data import Arrays, Pictures
from langevin.files import staged, write
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.sampling import chosen, guided

BATCH = 500


def draw(run: Run, count: int, *, plan: str | None = None, seed: int = 0, label: Tensor | int | None = None,
         guidance: float | None = None, given: dict[str, Tensor] | None = None, source: Tensor | None = None,
         prompts: Sequence[str] = (), frames: bool = False) -> Any:  # fmt: skip
    """Samples of a run, in batches that do not change them.

    Args:
        plan: a word such as "dpmpp:20"; the recipe's by default.
        label: one class, or (count,) of them: the condition, or for a product the known leaf. By default classes in turn
            for a condition, and drawn for a product.
        guidance: w; the recipe's by default. 1 is unguided.
        given: known leaves of a product, each (count, ...).
        source: (N, *shape) that a run between two data sets begins at, in turn; held-out samples by default.
        prompts: captions, in turn, for a run that reads them; held-out ones by default.
        frames: return the states after every step, of one batch.
    """
    settings, model = run.recipe.sample, run.denoiser
    table = chosen(run, plan, guidance)
    w = settings.guidance if guidance is None else guidance
    joint = isinstance(run.recipe.process, c.ProductConfig)
    labels = _asked_labels(run, count, label, joint)
    texts = asked_prompts(run, count, prompts)
    if w != 1 and (not run.facts.conditional or joint):
        raise ValueError(f"guidance is {w:g}, but this run has no condition to strengthen; use 1.")
    cond = None
    if texts is not None and run.facts.vocabulary is not None:
        cond = {"ids": run.facts.vocabulary.ids(texts)}
    if labels is not None:
        cond, given = (None, {"label": labels}) if joint else ({**(cond or {}), "label": labels}, None)
    told = guided(run, cond, count, w)

    begins = _begins(run, count, source)

    def options(first: int, now: int) -> dict[str, Any]:
        def cut(d: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
            return None if d is None else {n: v[first : first + now] for n, v in d.items()}

        return {"count": now, "seed": seed, "first_id": first, "guidance": told["guidance"],
                "cond": cut(told["cond"]), "given": cut(given),
                "start": None if begins is None else begins[first : first + now]}  # fmt: skip

    if frames:
        return [step.z for step in trajectory(model, table, **options(0, count))]
    parts = [sample(model, table, **options(first, min(BATCH, count - first))) for first in range(0, count, BATCH)]
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return torch.cat(parts)


def asked_prompts(run: Run, count: int, prompts: Sequence[str] = ()) -> list[str] | None:
    """One caption for each sample: those asked for in turn, or held-out ones; None for a run that reads none.

    Raises:
        ValueError: if there are captions for a run that reads none.
    """
    words = run.facts.vocabulary
    if words is None:
        if prompts:
            raise ValueError(f"prompt is {prompts[0]!r}, but this run reads no captions; leave it out.")
        return None
    every = list(prompts) or list(words.examples) or [""]
    return [every[i % len(every)] for i in range(count)]


def source_of(run: Run, path: Path) -> Tensor:
    """Samples for a run between two data sets to begin at, (N, *shape): a folder of pictures, or a .npy file.

    Raises:
        ValueError: if there are none, they cannot be read, or the run begins at noise.
    """
    shape: Any = run.facts.shape
    if not isinstance(run.recipe.process, c.InterpolantConfig):
        raise ValueError(f"source is {path}, but this run begins at noise; leave it out.")
    read = Arrays(path) if path.suffix == ".npy" else Pictures(path, shape[-1], shape[0], split="all")
    return leaves(read.batch(torch.arange(len(read))).x)[""]


def _begins(run: Run, count: int, source: Tensor | None) -> Tensor | None:
    """Where samples begin, (count, *shape); None for the prior."""
    if not isinstance(run.recipe.process, c.InterpolantConfig):
        return None
    if source is None:
        held = run.test.source
        x = leaves(held.batch(torch.arange(count) % len(held)).x)[""]
    else:
        x = source[torch.arange(count) % len(source)]
    return x.to(next(run.denoiser.parameters()).device)


def _asked_labels(run: Run, count: int, label: Tensor | int | None, joint: bool) -> Tensor | None:
    classes = run.facts.classes
    if label is None:
        return None if classes is None or joint else torch.arange(count) % classes
    if classes is None:
        raise ValueError("label is given, but this run has no classes; leave it out.")
    labels = torch.full((count,), label) if isinstance(label, int) else label
    if bool((labels < 0).any()) or bool((labels >= classes).any()):
        raise ValueError(f"label is {int(labels.max())}; classes run from 0 to {classes - 1}.")
    return labels


def labels_of(source: Any) -> Tensor:
    """The real labels, (N,)."""
    batch = source.batch(torch.arange(len(source)))
    return batch.x["label"] if isinstance(batch.x, dict) else batch.cond["label"]


def as_pictures(run: Run, x: Any) -> Tensor:
    """Samples as (N, C, H, W) floats in [-1, 1]."""
    if isinstance(x, dict):
        x = x["image"]
    process = run.recipe.process
    if isinstance(process, c.CategoricalConfig):
        # a mask that is not revealed yet shows as mid-grey
        grey = x.float() * 2 / (process.categories - 1) - 1
        return torch.where(x >= process.categories, 0.0, grey)
    return x


def quantised(run: Run, x: Tensor) -> Tensor:
    """Pictures at the data's own grey levels: 17 (or fewer) for the digits, 256 else."""
    data = run.recipe.drawn
    steps = 255
    if isinstance(data, c.DigitsData):
        steps = data.levels - 1 if data.form == "categories" else 16
    return (((x.clamp(-1, 1) + 1) / 2 * steps).round() / steps) * 2 - 1


def picture_of_samples(run: Run, path: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
    """A grid with one column per class where there are classes, or a scatter plot of points."""
    classes = run.facts.classes if label is None else None
    if isinstance(run.recipe.drawn, c.MoonsData):
        real = run.test.batch(torch.arange(len(run.test))).x
        assert isinstance(real, Tensor)
        return pictures.plot_points([("data", real), ("samples", draw(run, 1000, seed=seed, **options))], path)
    columns = classes or rows
    if isinstance(run.recipe.process, c.ProductConfig) and label is None:
        # labels are given, so that columns are classes
        options["label"] = torch.arange(rows * columns) % columns
    elif label is not None:
        options["label"] = label
    x = as_pictures(run, draw(run, rows * columns, seed=seed, **options))
    return _page(x, _begins(run, len(x), None), path, columns, asked_prompts(run, len(x), options.get("prompts", ())))


def _page(x: Tensor, begins: Tensor | None, path: Path, columns: int = 10, texts: Sequence[str] | None = None) -> Path:
    """Pictures (N, C, H, W), every row of them below the row of what it began at, where that is given, or each above its
    caption."""
    if texts is not None:
        return pictures.save_captioned(x, texts, path, columns)
    if begins is not None:
        columns = min(columns, len(x))
        x = torch.cat([torch.cat(both) for both in zip(begins.cpu().split(columns), x.cpu().split(columns), strict=True)])
    return pictures.save_images(x, path, columns)


def write_samples(run: Run, path: Path, count: int, **options: Any) -> Path:
    """Samples as a picture (.png), the whole way there (.gif), or numbers (.npy); a product's labels go to .json beside it."""
    if path.suffix == ".gif":
        made = animation(run, path, count=count, **options)
        if made is None:
            raise ValueError("points have no animation; write a .png or .npy.")
        return made
    x = draw(run, count, **options)
    if path.suffix == ".npy":
        with staged(path) as beside:
            np.save(beside, (x["image"] if isinstance(x, dict) else x).cpu().numpy(), allow_pickle=False)
    elif isinstance(run.recipe.drawn, c.MoonsData):
        assert isinstance(x, Tensor)
        pictures.plot_points([("samples", x)], path)
    else:
        texts = asked_prompts(run, count, options.get("prompts", ()))
        _page(as_pictures(run, x), _begins(run, count, options.get("source")), path, texts=texts)
    if isinstance(x, dict):
        write(path.with_suffix(".json"), json.dumps({"label": x["label"].tolist()}))
    return path


def animation(run: Run, path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
    """How samples come about, step by step; None for data that is no picture."""
    if isinstance(run.recipe.drawn, c.MoonsData):
        return None
    columns = run.facts.classes or 10
    frames = list(draw(run, count or 2 * columns, seed=seed, frames=True, **options))
    return pictures.save_gif([as_pictures(run, z) for z in frames], path, columns)


def picture_of_levels(out: Path) -> Path | None:
    """levels.png: loss by level against steps, from the log of the run; None for a log that does not tell levels."""
    log = out / "log.jsonl"
    told = log.exists() and '"levels/' in log.read_text()
    return pictures.plot_levels(log, out / "levels.png") if told else None


def preview(run: Run, out: Path) -> Callable[[Denoiser, int], None]:
    """The trainer's hook: a grid of the averaged model's samples, always from the same noise."""

    def show(model: Denoiser, step: int) -> None:
        now = run.holding(model)
        (out / "previews").mkdir(exist_ok=True)
        picture_of_samples(now, out / "previews" / f"step-{step:08d}.png", rows=4)
        with suppress(ImportError):  # said at the end
            picture_of_levels(out)

    return show
