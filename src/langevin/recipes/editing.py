"""Pictures that are given to a run: read as its own are, and changed from one class or caption to another through their noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import home
from langevin.core.sample import sample
from langevin.data.decode import decode, measure, named, to_unit
from langevin.plans import ddim, inversion
from langevin.recipes.build import Run
from langevin.recipes.latents import decoded, encoded
from langevin.recipes.sampling import check_strength, guided, of_pictures, of_weights
from langevin.tasks import as_vectors, invert_through
from langevin.tasks.recorded import digest


def pictures_of(run: Run, files: Sequence[Path]) -> Tensor:
    """The pictures (N, C, H, W) of files in [-1, 1], cropped in their middle and resized as the run's own are.

    Raises:
        ValueError: for a run that is not of pictures, or a file that cannot be read.
    """
    shape = of_pictures(run, "image", latents=True, leaps=True)
    channels, height, width = run.facts.codec.pictures if run.facts.codec is not None else shape
    read = []
    for file in files:
        with named(file):
            measure(file)
            read.append(to_unit(decode(file, (height, width), channels)))
    return torch.stack(read)


def changed(
    run: Run,
    picture: Tensor,
    source: str,
    target: str,
    *,
    steps: int = 50,
    guidance: float | None = None,
    exact: bool = True,
    iterations: int = 20,
    rate: float = 0.03,
) -> tuple[Tensor, Tensor]:
    """Pictures (B, C, H, W) of a class, or under a caption, as they would be of another: the noise that they come from under
    `source`, carried down under `target`. Under guidance a null condition is moved at each step until it leads back to them.

    Args:
        source, target: a class by its name or number, or a caption.
        steps: of DDIM. guidance: w on the way down; the recipe's by default.
        exact, iterations, rate: see `tasks.invert`, `tasks.invert_through`; with 0 iterations null conditions stay as they are.

    Returns:
        the pictures, and (B,) how far from `picture` the same way leads under `source`, relative to its norm (of latents, if the
        run draws those).

    Raises:
        ValueError: for a run without classes or captions, or one that leaps to the end of its flow, a class that there is not, or
            guidance through captions with null conditions that are to move.
    """
    of_pictures(run, "edit", latents=True)
    w = run.recipe.sample.guidance if guidance is None else guidance
    check_strength(run, w)
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; give how often each null condition is moved, 0 to leave it as it is.")
    device, dtype = home(run.denoiser)
    x, count = encoded(run, picture.to(device, dtype)), len(picture)
    was, now = ({n: v.to(device) for n, v in _told(run, end, count).items()} for end in (source, target))
    shape = tuple(x.shape[1:])
    if w != 1 and iterations and "guidance" not in run.recipe.objective.scalars:
        if run.facts.vocabulary is not None:
            raise ValueError(
                f"guidance is {w:g}, and null conditions are moved of classes alone, where this run reads captions; give "
                "guidance 1, or iterations 0."
            )
        (was, null), (now, _) = (as_vectors(run.denoiser, end) for end in (was, now))
        found = invert_through(run.denoiser, x, was, null, w, steps, iterations, rate, exact)
        made = sample(run.denoiser, ddim(steps), count, start=found.noise, shape=shape, cond=now, guidance=found.guidance)
        return decoded(run, made), found.missed
    noise = sample(run.denoiser, inversion(steps, exact), count, start=x, shape=shape, **guided(run, was, count, 1.0))
    back, made = (
        sample(run.denoiser, ddim(steps), count, start=noise, shape=shape, **guided(run, end, count, w)) for end in (was, now)
    )
    return decoded(run, made), (back - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1).clamp(min=1e-12)


def edited(run: Run, picture: Tensor, source: str, target: str, missed: float, **way: Any) -> dict[str, Any]:
    """The record of a change, in plain values: the picture by its hash, and how it was changed by what `changed` was told."""
    weights = {"recipe": run.recipe.name, "fingerprint": of_weights(run), "weights": run.weights}
    place = {} if run.folder is None else {"run": run.folder.resolve().name}
    of = {"image": digest(picture), "from": source, "to": target, "missed": float(f"{missed:.3g}")}
    return {**place, **weights, **{name: value for name, value in way.items() if value is not None}, "edited": of}


def _told(run: Run, said: str, count: int) -> dict[str, Any]:
    """The condition of a class or a caption, for so many pictures."""
    if run.facts.vocabulary is not None:
        return {"ids": run.facts.vocabulary.ids([said] * count)}
    if run.facts.classes is None:
        raise ValueError("edit changes a class or a caption, and this run knows neither; draw from a picture by "
                         "langevin sample RUN --image FILE.")  # fmt: skip
    label = run.facts.label(said)
    if label >= run.facts.classes:
        raise ValueError(f"the class is {label}; classes of this run are 0 to {run.facts.classes - 1}.")
    return {"label": torch.full((count,), label)}
