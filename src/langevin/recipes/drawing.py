"""Samples of a run, whatever they are of."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, home
from langevin.core.plan import Draft, DrivingRow, Plan
from langevin.core.sample import plans_for, trajectory
from langevin.core.tree import leaves
from langevin.data import Arrays, Pictures
from langevin.data.progress import stage
from langevin.devices import refuse_beyond
from langevin.plans import begin
from langevin.plans.analysis import warn_if_noisy
from langevin.plans.choice import in_pieces
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.latents import decoded, encoded
from langevin.recipes.sampling import check_strength, chosen, guided, of_pictures
from langevin.tasks import raised

BATCH, VALUES = 500, 500 * 3 * 64 * 64
"""Samples drawn at once, and numbers in them: at most as many of either."""

Steer: TypeAlias = Callable[[Any], BaseDenoiser]
_USED: ContextVar[list[int] | None] = ContextVar("used", default=None)


@contextmanager
def used() -> Iterator[list[int]]:
    """A list that fills, as samples are drawn within, with the evaluations of each batch whose plan takes as many as it needs:
    the hardest sample's, for all are evaluated together until that arrives. It stays empty under plans that know their number.
    """
    batches: list[int] = []
    before = _USED.set(batches)
    try:
        yield batches
    finally:
        _USED.reset(before)


def driven(run: Run, plan: Plan | Draft) -> bool:
    """Whether a plan takes as many evaluations as it needs (adaptive steps): its own number is the most it may take."""
    tables = plans_for(run.denoiser.process, plan).values()
    return any(isinstance(row, DrivingRow) for one in tables for row in one.rows)


def draw(run: Run, count: int, *, plan: str | Plan | Draft | None = None, seed: int = 0, label: Tensor | int | None = None,
         guidance: float | None = None, given: dict[str, Tensor] | None = None, source: Tensor | None = None,
         prompts: Sequence[str] = (), properties: Mapping[str, float] | None = None, frames: bool = False,
         steer: Steer | None = None, image: Tensor | None = None, strength: float = 0.5) -> Any:  # fmt: skip
    """Samples of a run, in batches that do not change them: of 500, fewer of large ones, half as many where memory is short.
    Those that are latents are decoded.

    Args:
        plan: a word such as "dpmpp:20", or a plan; the recipe's by default.
        label: one class, or (count,) of them: the condition, or for a product the known leaf. By default classes in turn
            for a condition, and drawn for a product.
        guidance: w; the recipe's by default. 1 is unguided.
        given: known leaves of a product, each (count, ...).
        source: (N, *shape) that a run between two data sets begins at, in turn; held-out samples by default.
        prompts: captions, in turn, for a run that reads them; held-out ones by default.
        properties: conditions that are numbers, in their own units, for a run that has such.
        frames: return the states after every step.
        steer: a guidance besides, around that of conditions, such as `recipes.regressing.Regressor.towards` makes.
        image: pictures (N, C, H, W) to begin at, in turn, as `tasks.image_to_image` does. A run of classes, or one that reads
            captions, is told which.
        strength: noise level, above 0 and at most 1, that these are raised to; 1 forgets them.
    """
    settings, model = run.recipe.sample, run.denoiser
    each = sum(math.prod(shape) for shape in leaves(run.facts.shape).values())
    refuse_beyond("count", count, count * each, torch.device("cpu"), "draw fewer at a time, each time of another seed")
    table = chosen(run, plan, guidance)
    warn_if_noisy(table, run.denoiser.process)
    w = settings.guidance if guidance is None else guidance
    joint = isinstance(run.recipe.process, c.ProductConfig)
    if image is not None:
        _check_image(run, strength, label, prompts)
    labels = _asked_labels(run, count, label, joint)
    texts = asked_prompts(run, count, prompts)
    check_strength(run, w)
    cond = None
    if texts is not None and run.facts.vocabulary is not None:
        cond = {"ids": run.facts.vocabulary.ids(texts)}
    if labels is not None:
        cond, given = (None, {"label": labels}) if joint else ({**(cond or {}), "label": labels}, None)
    if properties:
        cond = {**(cond or {}), **run.domain.conditions(run, properties, count)}
    told = steered(guided(run, cond, count, w), steer)

    starts = begins(run, count, source)
    if image is not None and strength < 1:
        table = begin(table, strength)
        x = encoded(run, image.to(home(model)[0]))
        starts = raised(model, table, x[torch.arange(count) % len(x)], seed)

    def options(first: int, now: int) -> dict[str, Any]:
        def cut(d: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
            return None if d is None else {n: v[first : first + now] for n, v in d.items()}

        return {"count": now, "seed": seed, "first_id": first, "guidance": told["guidance"],
                "cond": cut(told["cond"]), "given": cut(given),
                "start": None if starts is None else starts[first : first + now],
                **run.domain.options(run, now, seed, first)}  # fmt: skip

    free = driven(run, table)

    def sampled(told: dict[str, Any]) -> list[Any]:
        """Of one batch: the states after every step, or the samples alone."""
        if not (frames or free):
            return [decoded(run, run.domain.finish(run, run.domain.sample(model, table, **told), told))]
        states, nfe = [], 0
        for step in trajectory(model, table, **told):
            states, nfe = [*(states if frames else []), run.domain.finish(run, step.z, told)], step.nfe
        if free and (counts := _USED.get()) is not None:
            counts.append(nfe)
        return [decoded(run, state) for state in states]

    if run.codec is not None:  # found now, or not at all, rather than after sampling
        run.codec.to(home(model)[0])
    with stage("drawing", count, getattr(model, "net", None)) as done:

        def taken(first: int, end: int) -> list[Any]:
            made = sampled(options(first, end - first))
            done(end - first)
            return made

        batches = [*in_pieces(count, max(1, min(BATCH, VALUES // each)), taken)]
    states = [_joined(parts) for parts in zip(*batches, strict=True)]
    return states if frames else states[0]


def steered(told: dict[str, Any], steer: Steer | None) -> dict[str, Any]:
    """What `sample` is told, with a guidance besides around that of conditions."""
    inner = told.get("guidance")
    if steer is None:
        return told
    return {**told, "guidance": steer if inner is None else lambda denoiser: steer(inner(denoiser))}


def _check_image(run: Run, strength: float, label: Tensor | int | None, prompts: Sequence[str]) -> None:
    """Refuse pictures to begin at where nothing can be made of them. Raises ValueError."""
    of_pictures(run, "image", latents=True, leaps=True)
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength:g}; it is the noise level that pictures are raised to, above 0 and at most 1.")
    if run.facts.classes is not None and label is None:
        raise ValueError(f"image is given, and this run draws {run.facts.classes} classes; say of which it shall be, by label.")
    if run.facts.vocabulary is not None and not prompts:
        raise ValueError("image is given, and this run reads captions; say what it shall show, by prompt.")


def _joined(parts: Sequence[Any]) -> Any:
    """Batches as one."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return torch.cat(list(parts))


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
        raise ValueError(f"source is {path}, but this run begins at noise; say --image, or leave it out.")
    read = Arrays(path) if path.suffix == ".npy" else Pictures(path, shape[-1], shape[0], split="all")
    x = leaves(read.batch(torch.arange(len(read))).x)[""]
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"source is {path}, of samples of shape {tuple(x.shape[1:])}, and this run's have {tuple(shape)}; make "
                         "them agree.")  # fmt: skip
    return x


def begins(run: Run, count: int, source: Tensor | None) -> Tensor | None:
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
    if (known := getattr(source, "labels", None)) is not None:
        return known  # without reading x
    batch = source.batch(torch.arange(len(source)))
    return batch.x["label"] if isinstance(batch.x, dict) else batch.cond["label"]
