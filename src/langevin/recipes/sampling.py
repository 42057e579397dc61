"""The plans of a run: ready-made ones by name, the best of them for this model (`auto`), and learned ones (`tune`)."""

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from langevin import plans
from langevin.core.categorical import Categorical
from langevin.core.plan import Draft, Plan
from langevin.core.process import Product
from langevin.core.schedule import Schedule
from langevin.core.tree import leaves
from langevin.embedded import Embedded
from langevin.files import best_effort, write
from langevin.guidance import CFG
from langevin.recipes import config as c
from langevin.recipes.build import Run, fits
from langevin.tasks import LevelsMet, levels_met
from langevin.training.sharding import full

PLACED = 128
"""Starts by which levels are placed."""


def chosen(run: Run, plan: str | Plan | Draft | None, guidance: float | None = None) -> Plan | Draft:
    """The plan of a word such as "dpmpp:20", a saved one (.json), "auto:10", or one whose levels are placed on the model
    ("dpmpp:10:grid=optimal"); the recipe's by default. A plan is itself.

    "auto:10" tries the ready-made plans of 10 evaluations on the model, and grid=optimal places levels on it, both under this
    guidance. The answer is kept in the run's folder, if that can be written, where it is found the next time.
    """
    if isinstance(plan, (Plan, Draft)):
        return plan
    text = plan or run.recipe.sample.plan
    w = run.recipe.sample.guidance if guidance is None else guidance
    if plans.placed(text):
        kept = re.sub(r"[^\w.=,]+", "-", text)
        return _kept(run, f"{kept}-w{w:g}", lambda: _on_levels(run, text, w))
    if (steps := plans.tried(text)) is not None:
        return _kept(run, f"auto-{steps}-w{w:g}", lambda: plans.auto(run.denoiser, steps, **_options(run, 512, w)).plan)
    found = plans.parse(text)
    fits(run.recipe, run.denoiser.process, found)
    return found


def levels(run: Run, plan: str | None = None) -> dict[str, LevelsMet]:
    """Where a run was trained, beside where a plan asks its network, by leaf: `tasks.levels_met`.

    Raises:
        ValueError: if its objective draws no levels from a density, or the plan finds its levels as it goes.
    """
    return leaves(levels_met(run.objective, run.denoiser, chosen(run, plan)))


def _on_levels(run: Run, text: str, w: float) -> Plan:
    """The plan of a word, on levels that are placed on the run's model."""
    fits(run.recipe, run.denoiser.process, plans.parse(text, plans.grids.uniform()))
    options = _options(run, PLACED, w)

    def grid(schedule: Schedule, steps: int) -> list[float]:
        return plans.optimal_levels(run.denoiser, steps, count=PLACED, **options)

    return plans.parse(text, grid).on(run.denoiser.process.leaves()[""].schedule)


def _kept(run: Run, name: str, find: Callable[[], Plan]) -> Plan:
    """A plan that is found by asking the model: once for its weights, and kept in the run's folder."""
    file = None if run.folder is None else run.folder / "plans" / f"{name}-{of_weights(run)}.json"
    if file is not None and file.exists():
        return Plan.from_json(file.read_text())
    found = find()
    if file is not None:
        with best_effort(file):
            save(found, file)
    return found


def save(plan: Plan, file: Path) -> Path:
    """Write a plan whole or not at all."""
    return write(file, plan.to_json())


def tune(
    run: Run,
    steps: int,
    *,
    guidance: float | None = None,
    iterations: int = 240,
    batch: int = 32,
    count: int = 256,
    held_out: int = 128,
    checkpoint: Path | None = None,
    show: bool = False,
) -> tuple[plans.Trial, plans.Trial]:
    """`plans.tune` on a run's model, its classes in turn: (the tuned plan, the best ready-made one)."""
    w = run.recipe.sample.guidance if guidance is None else guidance
    return plans.tune(
        run.denoiser,
        steps,
        count=count,
        held_out=held_out,
        iterations=iterations,
        batch=batch,
        checkpoint=checkpoint,
        show=show,
        **_options(run, count + held_out, w),
    )


def tune_into(file: Path, run: Run, steps: int, **options: Any) -> tuple[plans.Trial, plans.Trial]:
    """`tune`, of the same options, its plan written to a file; what is reached half way is kept beside it, so that a stop loses
    little."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half_way = file.with_suffix(".tuning.safetensors")
    found, ready = tune(run, steps, checkpoint=half_way, show=True, **options)
    save(found.plan, file)
    half_way.unlink(missing_ok=True)
    return found, ready


def of_weights(run: Run) -> str:
    """A few letters that change with the model, so that an answer is not taken for another model's."""
    total = hashlib.blake2b(digest_size=4)
    for value in run.denoiser.state_dict().values():
        total.update(full(value.detach()).cpu().reshape(-1)[:64].double().numpy().tobytes())
    return total.hexdigest()


def guided(run: Run, cond: dict[str, torch.Tensor] | None, count: int, w: float) -> dict[str, Any]:
    """What `sample` is told of conditions and guidance of strength w: models that learned guidance answer for a strength, and
    are known to do so within the range that they learned."""
    if "guidance" in run.recipe.objective.scalars:
        learned = getattr(run.recipe.objective, "w", None)
        if learned is not None and not learned[0] <= w <= learned[1]:
            said = f"guidance is {w:g}, and this run learned strengths from {learned[0]:g} to {learned[1]:g}"
            warnings.warn(f"{said}; it may answer anything beyond them.", stacklevel=2)
        return {"cond": {**(cond or {}), "guidance": torch.full((count,), float(w))}, "guidance": None}
    return {"cond": cond, "guidance": CFG(w) if w != 1 else None}


def in_turn(run: Run, count: int, captions: Sequence[str] = ()) -> dict[str, torch.Tensor] | None:
    """Conditions of so many samples: all classes in turn, and captions; None of a run that has neither.

    Args:
        captions: in place of held-out ones.
    """
    classes, words = run.facts.classes, run.facts.vocabulary
    cond = None if classes is None else {"label": torch.arange(count) % classes}
    if words is not None:
        texts = captions or words.examples or ("",)
        cond = {**(cond or {}), "ids": words.ids([texts[i % len(texts)] for i in range(count)])}
    return cond


def check_strength(run: Run, w: float, field: str = "guidance") -> None:
    """Refuse to strengthen a condition where there is none: a product's label is a part of what is drawn. Raises ValueError."""
    if not math.isfinite(w):
        raise ValueError(f"{field} is {w:g}; give a finite strength, 1 for none.")
    if w != 1 and (not run.facts.conditional or isinstance(run.recipe.process, c.ProductConfig)):
        raise ValueError(f"{field} is {w:g}, but this run has no condition to strengthen; use 1.")


def check_tolerance(tolerance: float) -> None:
    """Refuse an error that no step of a flow would ever meet. Raises ValueError."""
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance:g}; give a number above 0, such as 1e-4.")


NO_SAMPLES = (
    "this run is an autoencoder, which draws nothing; train a model in its latents by --codec.origin RUN, or see how it does by "
    "langevin evaluate RUN."
)


def follows(run: Run) -> None:
    """
    Raises:
        ValueError: for a run that leaps to the end of its flow, or has none.
    """
    if isinstance(run.recipe.process, c.UntouchedConfig):
        raise ValueError(NO_SAMPLES)
    if run.recipe.objective.ends:
        kind = run.recipe.objective.kind
        raise ValueError(f"this run, of kind {kind}, says where its flow ends and not which way it goes; ask its teacher.")


def of_pictures(run: Run, what: str, latents: bool = False, leaps: bool = False) -> tuple[int, ...]:
    """The shape of what a run of pictures draws from noise alone: pictures, or `latents` of them; following its flow, unless
    those are welcome that leap to the end of it.

    Raises:
        ValueError: for other runs, in words that begin with the task.
    """
    shape = run.facts.shape
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise ValueError(f"{what} works on pictures, and this run is not of pictures.")
    if run.facts.factor is not None:
        raise ValueError(f"{what} needs a run that draws from noise alone, and this one is an upscaler.")
    if run.facts.codec is not None and not latents:
        raise ValueError(f"{what} works on pixels, and this run draws latents of {run.facts.codec.origin}; use a run of pixels.")
    if isinstance(run.recipe.process, c.InterpolantConfig):
        raise ValueError(f"{what} needs a run that draws from noise alone, and this one begins at other pictures.")
    if isinstance(run.denoiser.process, (Embedded, Categorical)):
        raise ValueError(f"{what} works on numbers, and this run draws categories of grey; use a run of data.form image.")
    if not leaps or isinstance(run.recipe.process, c.UntouchedConfig):
        follows(run)
    return shape


def _options(run: Run, count: int, w: float) -> dict[str, Any]:
    if isinstance(run.recipe.process, c.UntouchedConfig):
        raise ValueError(NO_SAMPLES)
    if isinstance(run.denoiser.process, Product):
        raise ValueError("this run is of a product; plans are chosen and tuned for one Gaussian process.")
    other = "an upscaler" if run.facts.factor is not None else "a run that begins at other data"
    if run.facts.factor is not None or isinstance(run.recipe.process, c.InterpolantConfig):
        raise ValueError(f"this is {other}; plans are chosen and tuned for runs that draw from noise alone, so name one, as "
                         f"{run.recipe.sample.plan}.")  # fmt: skip
    if run.recipe.objective.ends:
        kind, plan = run.recipe.objective.kind, run.recipe.sample.plan
        raise ValueError(f"this run, of kind {kind}, leaps to the end of the flow, where no plan can lead better; use {plan}.")
    check_strength(run, w)
    return guided(run, in_turn(run, count), count, w)
