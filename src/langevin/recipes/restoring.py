"""A run's model on inverse problems: held-out pictures or a file are measured and restored, and shown beside each other."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import pictures
from langevin.core.denoiser import home
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.data import Arrays
from langevin.data.decode import named, picture_of
from langevin.guidance import operators
from langevin.guidance.operators import Operator
from langevin.recipes.build import Run
from langevin.recipes.domains.pictures import write_numbers
from langevin.recipes.sampling import check_strength, chosen, guided, of_pictures
from langevin.tasks import Restored, coverage, denoise, restore

TASKS = ("inpaint", "super-resolution", "deblur", "colourise", "sense", "denoise")
_AMOUNTS = {
    "inpaint": ("the share of the height that is hidden", 1.0), "sense": ("the share of coefficients that is sensed", 1.0),
    "deblur": ("the pixels of the blur", math.inf), "super-resolution": ("a whole factor", math.inf),
    "colourise": ("nothing", 0.0), "denoise": ("nothing", 0.0),
}  # fmt: skip
"""What the amount of a task is, and the most it may be."""


def operator_of(task: str, shape: tuple[int, ...], amount: float | None = None, mask: Path | None = None) -> Operator:
    """A named measurement of pictures (C, H, W).

    Args:
        amount: factor of super-resolution (2 by default), pixels of the blur (1), share of coefficients sensed (.25), share of
            the height that is hidden from below in inpainting (.5).
        mask: of inpainting, a picture that is white where pictures are hidden, in place of an amount.

    Raises:
        ValueError: for another task, an amount that it cannot have, a mask of another size, or one that hides nothing or all.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; there are {', '.join(TASKS)}.")
    if amount is not None:
        what, most = _AMOUNTS[task]
        if not 0 < amount <= most or not math.isfinite(amount) or (task == "super-resolution" and amount != int(amount)):
            told = "leave it out" if not most else f"it is {what}, above 0{'' if math.isinf(most) else f' and at most {most:g}'}"
            raise ValueError(f"amount is {amount:g} of task {task}; {told}.")
    if mask is not None:
        if task != "inpaint" or amount is not None:
            raise ValueError(f"mask is {mask}, which says what task inpaint hides, in place of an amount; leave it out.")
        return operators.inpaint(~hidden_by(mask, shape).expand(shape))
    if task == "super-resolution":
        factor = int(amount or 2)
        if shape[1] % factor or shape[2] % factor:
            raise ValueError(
                f"amount is {factor} of task {task}, for pictures of {shape[1]} x {shape[2]}; give a factor of both."
            )
        return operators.super_resolution(shape, factor)
    if task == "deblur":
        return operators.blur(shape, amount or 1.0)
    if task == "colourise":
        if shape[0] != 3:
            raise ValueError(
                f"task is 'colourise', and the run draws {shape[0]} channel{'s' * (shape[0] > 1)} where colours are 3; ask a run "
                "of colours (--data.channels 3), or for another task, such as super-resolution."
            )
        return operators.colourise(shape)
    if task == "sense":
        return operators.sense(shape, max(1, round((amount or 0.25) * shape[0] * shape[1] * shape[2])))
    known, share = torch.ones(shape, dtype=torch.bool), 0.5 if amount is None else amount
    if task == "denoise":
        return replace(operators.inpaint(known), name="denoise")
    if not 0 < (rows := round(shape[1] * (1 - share))) < shape[1]:
        what = "nothing" if rows else "all"
        raise ValueError(f"amount is {share:g}, which hides {what} of the {shape[1]} rows of a picture; give a share between.")
    known[:, rows:] = False
    return operators.inpaint(known)


def hidden_by(mask: Path, shape: tuple[int, ...]) -> Tensor:
    """Where a picture is white, (1, H, W) bools, for pictures (C, H, W).

    Raises:
        ValueError: for a file that cannot be read, is of another size, or is white all over or nowhere.
    """
    hidden = _read(mask, (1, *shape[1:]))[0] > 0
    if bool(hidden.all()) or not bool(hidden.any()):
        raise ValueError(f"mask is {mask}, which hides {'all' if bool(hidden.all()) else 'nothing'}; white is what is hidden.")
    return hidden


def restoration(
    run: Run, task: str, out: Path, *, amount: float | None = None, noise: float | None = None, method: str | None = None,
    plan: str | None = None, pictures_of: Path | None = None, measured: Path | None = None, mask: Path | None = None,
    label: int | None = None, guidance: float | None = None, rows: int | None = None, count: int = 8, seed: int = 0,
    samples: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a page of truth, measurement, samples, mean and deviation; returns what was measured.

    A run that leaps to the end of its flow, such as a consistency model, keeps what is known of noiseless measurements (method
    "known"), and says in one evaluation what a noisy picture was (task "denoise").

    Args:
        noise: standard deviation of what is in the measurement, where it is given, and else of what is drawn; 0.05 by default, 0
            of method "known".
        method: "mmps" by default, of a run that leaps to the end "known".
        pictures_of: a picture that is measured, in place of held-out ones.
        measured: the measurement itself, of a truth that nobody knows: a picture of its size, or numbers (B, *measured) or
            (*measured) of a .npy file.
        label: the class of all pictures. By default none; of a run that never learned without, that of each held-out picture.
        guidance: how strongly that class is told.
        rows: held-out pictures, from the first; 6 by default, or as many as there are.
        samples: a .npy file for all samples (count, B, C, H, W).

    Raises:
        ValueError: for a run that does not draw pictures from noise alone, a method that a run which leaps to the end of its flow
            cannot have, more rows than there are pictures, or a file of another size.
    """
    shape, ends = of_pictures(run, "restore", leaps=True), run.recipe.objective.ends
    whole = ends and task == "denoise"
    method = _method(run, method, plan, whole)
    if noise is None:
        noise = 0.0 if method == "known" else 0.05
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise:g}; it is the deviation of the noise in the measurement, 0 or more.")
    op, own = operator_of(task, shape, amount, mask), None
    if measured is not None:
        truth = None
    elif pictures_of is None:
        truth, own = _held_out(run, rows)
    else:
        truth = _read(pictures_of, shape)
    device = home(run.denoiser)[0]
    if truth is None:
        assert measured is not None
        y = _measurement(measured, op).to(device)
    else:
        truth = truth.to(device)
        y = op(truth) + noise * Noise.of(seed, len(truth), device=device).at("measurement").normal(op.measured)
    told = _told(run, len(y), label, own, guidance)
    if whole:
        made = Restored(_denoised(run, y, noise, told)[None], y)
    else:
        way = None if plan is None else chosen(run, plan)
        made = restore(run.denoiser, op, y, noise, method=method, plan=way, count=count, seed=seed, **told)
    pictures.save_images(page(truth, op, made), out, columns=3 + (truth is not None) + min(len(made.samples), 6))
    if samples is not None:
        write_numbers(made.samples, samples)
    return {"task": op.name, "method": method, **_judged(op, made, y, truth)}


def _held_out(run: Run, rows: int | None) -> tuple[Tensor, Tensor | None]:
    """Held-out pictures, and their labels where they have such. Raises ValueError for more than there are."""
    there = len(run.test)
    if rows is not None and not 1 <= rows <= there:
        raise ValueError(f"rows is {rows}, and there are {there} held-out pictures; give 1 to as many.")
    batch = run.test.batch(torch.arange(min(6, there) if rows is None else rows))
    return leaves(batch.x)[""], (batch.cond or {}).get("label")


def _judged(op: Operator, made: Restored, y: Tensor, truth: Tensor | None) -> dict[str, float]:
    """How near what was made comes to the truth, or where nobody knows it, to the measurement y; and how far it is spread."""
    many, said = len(made.samples), {}
    if truth is None:  # what can be known: near the noise, if the model explains the measurement
        said["rms of the measurement's residual"] = _rms(op(made.samples.flatten(0, 1)) - y.repeat(many, *[1] * (y.ndim - 1)))
    else:
        said |= {"rmse of the mean": _rms(made.mean - truth), "rmse of a sample": _rms(made.samples - truth)}
    said["deviation"] = round(float(made.std.mean()), 4)
    said["largest deviation"] = round(float(made.std.max()), 4)  # white on the page
    if many >= 19 and truth is not None:
        said["coverage of 90 %"] = round(coverage(truth, made), 3)
    return said


def _rms(difference: Tensor) -> float:
    return round(float(difference.square().mean().sqrt()), 4)


def _method(run: Run, method: str | None, plan: str | None, whole: bool) -> str:
    """The method of a run, by default or as asked.

    Args:
        whole: the picture is denoised by a run that leaps to the end of its flow.
    """
    if not run.recipe.objective.ends:
        return "mmps" if method is None else method
    kind = run.recipe.objective.kind
    if whole and (method is not None or plan is not None):
        said = f"method is {method!r}" if plan is None else f"plan is {plan}"
        raise ValueError(f"{said}, and this run, of kind {kind}, says in one evaluation what a noisy picture was; leave it out.")
    if method not in (None, "known"):
        raise ValueError(f"method is {method!r}, which takes beliefs for means of what may be, and this run, of kind {kind}, "
                         "says where its flow ends; use 'known', or ask its teacher.")  # fmt: skip
    return "denoise" if whole else "known"


def _told(run: Run, count: int, label: int | None, own: Tensor | None, guidance: float | None) -> dict[str, Any]:
    """What the model is told of pictures: one label for all, or where it never learned without, their own."""
    classes, learned, device = run.facts.classes, getattr(run.recipe.objective, "drop", 0.0), home(run.denoiser)[0]
    if label is None and guidance is not None:
        raise ValueError(f"guidance is {guidance:g}, of a class, and label says of which; give it, or leave guidance out.")
    if label is not None and (classes is None or not 0 <= label < classes):
        known = "has no classes" if classes is None else f"has classes 0 to {classes - 1}"
        raise ValueError(f"label is {label}, and this run {known}; give another, or leave it out.")
    labels, w = None if label is None else torch.full((count,), label), 1.0
    if label is not None:
        w = run.recipe.sample.guidance if guidance is None else guidance
        check_strength(run, w)
    elif classes is not None and not learned:
        if own is None:
            raise ValueError(
                "label is missing, and this run never learned without one (objective.drop is 0); say which class it is."
            )
        labels = own
    return guided(run, None if labels is None else {"label": labels.to(device)}, count, w)


def _denoised(run: Run, y: Tensor, noise: float, told: dict[str, Any]) -> Tensor:
    """Where the flow ends that passes through pictures y (B, C, H, W) under noise of a deviation."""
    if not noise:
        raise ValueError("noise is 0, and denoise takes away what there is; say --noise.")
    schedule = run.denoiser.process.leaves()[""].schedule
    level = float(schedule.invert(torch.tensor(-2 * math.log(noise), dtype=torch.float64)))
    alpha, _ = schedule(level)
    led = run.denoiser if told["guidance"] is None else told["guidance"](run.denoiser)
    return denoise(led, float(alpha) * y, level, cond=told["cond"])


def _measurement(path: Path, op: Operator) -> Tensor:
    """Measurements (B, *measured) of a file."""
    if path.suffix == ".npy":
        read = Arrays(path)
        x = leaves(read.batch(torch.arange(len(read))).x)[""].float()
    elif len(op.measured) != 3:
        raise ValueError(f"measured is {path}, and what {op.name} measures is no picture; give a .npy of shape {op.measured}.")
    else:
        x = _read(path, op.measured, "what is measured is")
    x = x[None] if tuple(x.shape) == op.measured else x
    if tuple(x.shape[1:]) != op.measured:
        raise ValueError(f"measured is {path}, of shape {tuple(x.shape)}, and {op.name} measures {op.measured}; make them agree.")
    return op(x) if tuple(op.measured) == tuple(op.shape) and op.name == "inpaint" else x


def page(truth: Tensor | None, op: Operator, made: Restored) -> Tensor:
    """Pictures row by row: truth, if it is known, the measurement, up to 6 samples, mean, deviation (0 black, the largest white).
    A measurement that is no picture as large as those is shown as what it says of them, A^+ y."""
    picture = len(op.measured) == 3 and op.measured[1:] == op.shape[1:]
    seen = made.y.expand(-1, *op.shape) if picture else op.inverse(made.y)
    spread = made.std / made.std.max().clamp(min=1e-12) * 2 - 1
    columns = [*([] if truth is None else [truth]), seen, *made.samples[:6], made.mean, spread]
    return torch.stack(columns, 1).flatten(0, 1).clamp(-1, 1)


def _read(path: Path, shape: tuple[int, ...], what: str = "the run draws") -> Tensor:
    with named(path):
        read = picture_of(path, "L" if shape[0] == 1 else "RGB")
    if read.size != (shape[2], shape[1]):
        raise ValueError(f"{path} is {read.size[0]} x {read.size[1]}, and {what} {shape[2]} x {shape[1]}; resize it first.")
    values = torch.tensor(list(read.tobytes()), dtype=torch.float32).reshape(shape[1], shape[2], shape[0])
    return (values / 127.5 - 1).permute(2, 0, 1)[None]
