"""What a run leaves to look at, and how it is judged: pictures, plots and metrics with their protocol card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin import pictures, tensors
from langevin.core.denoiser import Denoiser
from langevin.core.sample import plans_for, sample, trajectory
from langevin.evaluate import Classifier, energy_distance, frechet, nearest, pca_features, train_classifier
from langevin.files import staged, write
from langevin.guidance import CFG
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.sampling import chosen

BATCH = 500


def draw(run: Run, count: int, *, plan: str | None = None, seed: int = 0, label: Tensor | int | None = None,
         guidance: float | None = None, given: dict[str, Tensor] | None = None, frames: bool = False) -> Any:  # fmt: skip
    """Samples of a run, in batches that do not change them.

    Args:
        plan: a word such as "dpmpp:20"; the recipe's by default.
        label: one class, or (count,) of them: the condition, or for a product the known leaf. By default classes in turn
            for a condition, and drawn for a product.
        guidance: w; the recipe's by default. 1 is unguided.
        given: known leaves of a product, each (count, ...).
        frames: return the states after every step, of one batch.
    """
    settings, model = run.recipe.sample, run.denoiser
    table = chosen(run, plan, guidance)
    w = settings.guidance if guidance is None else guidance
    joint = isinstance(run.recipe.process, c.ProductConfig)
    labels = _asked_labels(run, count, label, joint)
    if w != 1 and (labels is None or joint):
        raise ValueError(f"guidance is {w:g}, but this run has no condition to strengthen; use 1.")
    cond = None
    if labels is not None:
        cond, given = (None, {"label": labels}) if joint else ({"label": labels}, None)

    def options(first: int, now: int) -> dict[str, Any]:
        def cut(d: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
            return None if d is None else {n: v[first : first + now] for n, v in d.items()}

        return {"count": now, "seed": seed, "first_id": first, "guidance": CFG(w) if w != 1 else None,
                "cond": cut(cond), "given": cut(given)}  # fmt: skip

    if frames:
        return [step.z for step in trajectory(model, table, **options(0, count))]
    parts = [sample(model, table, **options(first, min(BATCH, count - first))) for first in range(0, count, BATCH)]
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return torch.cat(parts)


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


def _labels(source: Any) -> Tensor:
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
    data = run.recipe.data
    steps = 255
    if isinstance(data, c.DigitsData):
        steps = data.levels - 1 if data.form == "categories" else 16
    return (((x.clamp(-1, 1) + 1) / 2 * steps).round() / steps) * 2 - 1


def picture_of_samples(run: Run, path: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
    """A grid with one column per class where there are classes, or a scatter plot of points."""
    classes = run.facts.classes if label is None else None
    if isinstance(run.recipe.data, c.MoonsData):
        real = run.test.batch(torch.arange(len(run.test))).x
        assert isinstance(real, Tensor)
        return pictures.plot_points([("data", real), ("samples", draw(run, 1000, seed=seed, **options))], path)
    columns = classes or rows
    if isinstance(run.recipe.process, c.ProductConfig) and label is None:
        # labels are given, so that columns are classes
        options["label"] = torch.arange(rows * columns) % columns
    elif label is not None:
        options["label"] = label
    x = draw(run, rows * columns, seed=seed, **options)
    return pictures.save_images(as_pictures(run, x), path, columns)


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
    elif isinstance(run.recipe.data, c.MoonsData):
        assert isinstance(x, Tensor)
        pictures.plot_points([("samples", x)], path)
    else:
        pictures.save_images(as_pictures(run, x), path)
    if isinstance(x, dict):
        write(path.with_suffix(".json"), json.dumps({"label": x["label"].tolist()}))
    return path


def animation(run: Run, path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
    """How samples come about, step by step; None for data that is no picture."""
    if isinstance(run.recipe.data, c.MoonsData):
        return None
    columns = run.facts.classes or 10
    frames = list(draw(run, count or 2 * columns, seed=seed, frames=True, **options))
    return pictures.save_gif([as_pictures(run, z) for z in frames], path, columns)


def preview(run: Run, out: Path) -> Callable[[Denoiser, int], None]:
    """The trainer's hook: a grid of the averaged model's samples, always from the same noise."""

    def show(model: Denoiser, step: int) -> None:
        now = run.holding(model)
        (out / "previews").mkdir(exist_ok=True)
        picture_of_samples(now, out / "previews" / f"step-{step:08d}.png", rows=4)

    return show


def classifier(run: Run, folder: Path | None) -> tuple[Classifier, float]:
    """A classifier trained on the run's real training pictures, and its accuracy on the held-out ones; kept in `folder`."""
    x, y = _real(run, run.train), _labels(run.train)
    test_x, test_y = _real(run, run.test), _labels(run.test)
    file = None if folder is None else folder / f"classifier-{run.train.digest()}.safetensors"
    model = Classifier(x.shape[1], x.shape[-1], int(y.max()) + 1)
    try:
        if file is None:
            raise FileNotFoundError
        model.load_state_dict(tensors.load(file))
        model.eval()
    except (OSError, ValueError, RuntimeError):  # none yet, or cut short, or of another version: train it again
        model = train_classifier(x, y, int(y.max()) + 1)
        if file is not None:
            tensors.save(file, model.state_dict())
    return model, float((model.label(test_x) == test_y).float().mean())


def _real(run: Run, source: Any) -> Tensor:
    return as_pictures(run, source.batch(torch.arange(len(source))).x)


def evaluate(run: Run, *, count: int = 1000, seed: int = 1, plan: str | None = None, guidance: float | None = None,
             folder: Path | None = None) -> dict[str, Any]:  # fmt: skip
    """Metrics of a run against its held-out real data, with the protocol that produced them."""
    if count < 2:
        raise ValueError(f"count is {count}; a distance needs at least 2 samples.")
    plan = plan or run.recipe.sample.plan
    nfe = max(p.nfe for p in plans_for(run.denoiser.process, chosen(run, plan, guidance)).values())
    card: dict[str, Any] = {
        "samples": count, "seed": seed, "plan": plan, "nfe": nfe, "weights": f"EMA {run.recipe.train.ema:g}",
        "real": {
            "train": len(run.train), "train_hash": run.train.digest(), "test": len(run.test), "test_hash": run.test.digest(),
        },
    }  # fmt: skip
    if isinstance(run.recipe.data, c.MoonsData):
        return {"metrics": _points(run, count, seed, plan), "protocol": card}
    with torch.no_grad():
        metrics = _pictures(run, count, seed, plan, guidance, folder, card)
    return {"metrics": metrics, "protocol": card}


def _points(run: Run, count: int, seed: int, plan: str) -> dict[str, Any]:
    train, test = (s.batch(torch.arange(len(s))).x for s in (run.train, run.test))
    assert isinstance(train, Tensor) and isinstance(test, Tensor)
    samples = draw(run, count, seed=seed, plan=plan)
    floor = energy_distance(train[: len(test)], test)
    return {"energy_distance": energy_distance(samples, test), "energy_distance_real": floor}


def _pictures(run: Run, count: int, seed: int, plan: str, guidance: float | None, folder: Path | None,
              card: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    train, test = quantised(run, _real(run, run.train)), quantised(run, _real(run, run.test))
    card["pixels"] = "clipped to [-1, 1] and rounded to the data's own grey levels"
    classes = run.facts.classes
    if classes is None:
        samples = quantised(run, as_pictures(run, draw(run, count, seed=seed, plan=plan)))
        features = pca_features(train, train, test, samples)
        card["features"] = "PCA-20 of the training pixels"
        out = {"fd": frechet(features[2], features[1]), "fd_real": frechet(features[0], features[1])}
        return {**out, **_memory(samples, train, test)}
    with torch.enable_grad():
        judge, accuracy = classifier(run, folder)
    card["features"] = f"64 features of a classifier trained on the real training split, {judge.digest()}"
    real, held = judge.features(train), judge.features(test)
    floor = frechet(real, held)
    out: dict[str, Any] = {"classifier_accuracy_real": accuracy, "fd_real": floor}
    labels = torch.arange(count) % classes
    if isinstance(run.recipe.process, c.ProductConfig):
        joint = draw(run, count, seed=seed, plan=plan)
        by_label = draw(run, count, seed=seed + 1, plan=plan, label=labels)
        index = torch.arange(len(run.test))
        truth = run.test.batch(index).x
        by_image = draw(run, len(index), seed=seed + 2, plan=plan, given={"image": truth["image"]})  # pyright: ignore
        samples = quantised(run, joint["image"])
        out["joint_agreement"] = _share(judge.label(samples), joint["label"])
        out["image_given_label_agreement"] = _share(judge.label(quantised(run, by_label["image"])), labels)
        out["label_given_image_accuracy"] = _share(by_image["label"], truth["label"])  # pyright: ignore
        out["fd"] = frechet(judge.features(samples), held)
        return {**out, "fd_ratio": out["fd"] / floor, **_memory(samples, train, test)}
    for w in [1.0, 1.5] if guidance is None else [guidance]:
        samples = quantised(run, as_pictures(run, draw(run, count, seed=seed, plan=plan, label=labels, guidance=w)))
        fd = frechet(judge.features(samples), held)
        out[f"w={w:g}"] = {
            "intended_label": _share(judge.label(samples), labels),
            "fd": fd,
            "fd_ratio": fd / floor,
            **_memory(samples, train, test),
        }
    return out


def _share(a: Tensor, b: Tensor) -> float:
    return float((a == b).float().mean())


def _memory(samples: Tensor, train: Tensor, test: Tensor) -> dict[str, float]:
    """Mean distance to the nearest training picture, beside that of held-out real ones: copies would be nearer."""
    distance, real = float(nearest(samples, train).mean()), float(nearest(test, train).mean())
    return {"nearest": distance, "nearest_real": real, "nearest_ratio": distance / real}


def report(run: Run, out: Path, count: int = 1000, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Pictures, plots and metrics.json of a trained run, each path said as it is written."""
    draws = [
        lambda: picture_of_samples(run, out / "samples.png"),
        lambda: animation(run, out / "denoising.gif"),
        lambda: pictures.plot_loss(out / "log.jsonl", out / "loss.png"),
    ]
    made = []
    for make in draws:
        try:
            made.append(make())
        except ImportError as error:  # plots are an extra; the numbers below are not
            say(str(error))
    result = evaluate(run, count=count, folder=out)
    made.append(write(out / "metrics.json", json.dumps(result, indent=1)))
    for path in filter(None, made):
        say(str(path))
    return result
