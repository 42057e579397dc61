"""How a run is judged: numbers with the protocol card that made them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import __version__, pictures
from langevin.core.plan import Draft, Plan
from langevin.core.sample import plans_for
from langevin.core.tree import tree_map
from langevin.evaluate import (
    METRICS,
    PCA,
    Card,
    Classifier,
    Evaluation,
    FeatureNet,
    Memorisation,
    Split,
    card_of,
    energy_distance,
    extract,
    frechet,
    kept_classifier,
    load_features,
    measure,
    memorisation,
    refuse_small,
)
from langevin.evaluate.measure import BIASED, known, ready
from langevin.files import write
from langevin.recipes import config as c
from langevin.recipes.build import Run, _device
from langevin.recipes.report import animation, as_pictures, draw, labels_of, picture_of_levels, picture_of_samples, quantised
from langevin.recipes.sampling import chosen, of_weights

OF_RUNS = {
    **METRICS,
    "labels": "share of samples that show the intended label, by a classifier trained on the real training split",
    "memory": "Euclidean distance of pixels to the nearest training picture; share nearer than the nearest 5 % of held-out ones",
}
ENERGY = "energy distance of points, unbiased; samples, and training data, against held-out points"
SMALL = 1000


@dataclass(frozen=True)
class Reference:
    """What a run's samples are compared with: its real data as pictures, and a network for features. All is made once.

    Args:
        features: "classifier" (trained on the real training split, kept in `folder`), "pca", the path of a safetensors file
            with InceptionTF or DINOv2, or "auto": the classifier where there are labels, else pca.
        device: of the networks.

    Raises:
        ValueError: if the data has no labels for a classifier, or the file is no such network.
    """

    run: Run
    features: str | Path = "auto"
    folder: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if str(self.features) == "classifier" and self.run.facts.classes is None:
            raise ValueError("features is 'classifier', but this run has no labels to train one on; use 'pca' or a file.")

    @cached_property
    def judge(self) -> Classifier:
        """Of labels."""
        train = self.run.train
        made = kept_classifier(_real(self.run, train), labels_of(train), self.folder, train.digest())
        return made.to(_device(self.device))

    @cached_property
    def net(self) -> FeatureNet:
        """Of features."""
        kind = str(self.features)
        if kind == "auto":
            kind = "pca" if self.run.facts.classes is None else "classifier"
        if kind == "classifier":
            return self.judge
        return PCA(self.train) if kind == "pca" else load_features(kind, _device(self.device))

    @cached_property
    def train(self) -> Tensor:
        return quantised(self.run, _real(self.run, self.run.train))

    @cached_property
    def test(self) -> Tensor:
        return quantised(self.run, _real(self.run, self.run.test))

    @cached_property
    def train_features(self) -> Tensor:
        return extract(self.net, self.train)

    @cached_property
    def test_features(self) -> Tensor:
        return extract(self.net, self.test)

    @cached_property
    def floor(self) -> float:
        """The Frechet distance of real training data: what a perfect model has at that size."""
        return frechet(self.train_features, self.test_features)

    @cached_property
    def accuracy(self) -> float:
        """The judge's, on held-out pictures."""
        return _share(self.judge.label(_real(self.run, self.run.test)), labels_of(self.run.test))


def evaluate(run: Run, *, count: int | None = None, seed: int = 1, plan: str | None = None, guidance: float | None = None,
             features: str | Path = "auto", metrics: Sequence[str] | None = None, small: bool = False, device: str = "cpu",
             folder: Path | None = None, against: Reference | None = None) -> Evaluation:  # fmt: skip
    """Metrics of a run against its held-out real data.

    Args:
        count: samples; 10,000 by default, or 1,000 with `small`.
        guidance: one strength; 1 and 1.5 by default where there is a condition.
        features: see `Reference`.
        metrics: names from `OF_RUNS`; fd, labels and memory by default. Points have their own, the energy distance.
        small: accept fewer samples, or less real data, than published practice takes. The card says so.
        device: where to sample and to take features.
        folder: keeps the classifier, and closest.png: the samples nearest to training pictures, each above its neighbour.
        against: a reference made before, in place of `features`, `folder` and its device.

    Raises:
        ValueError: for samples too few without `small`, an unknown metric, or one that this run cannot have.
    """
    count = (SMALL if small else 10_000) if count is None else count
    if count < 2:
        raise ValueError(f"count is {count}; a distance needs at least 2 samples.")
    plan = plan or run.recipe.sample.plan
    run.denoiser.to(_device(device))
    found = chosen(run, plan, guidance)
    sampled = {
        "weights": f"{run.weights or f'EMA {run.recipe.train.ema:g}'}, {of_weights(run)}",
        "plan": _said(plan, found), "seeds": (seed,), "device": device, "samples": count,
        "nfe": max(p.nfe for p in plans_for(run.denoiser.process, found).values()),
        "train": Split(name="train", size=len(run.train), hash=run.train.digest()),
        "real": Split(name="test", size=len(run.test), hash=run.test.digest()),
    }  # fmt: skip
    if isinstance(run.recipe.drawn, c.MoonsData):
        if metrics or str(features) != "auto":
            raise ValueError("this run is of points, judged by their energy distance alone; leave out metrics and features.")
        made = card(sampled, small=False, pixels="none: points", metrics={"energy_distance": ENERGY})
        return Evaluation(metrics=_points(run, count, seed, plan), protocol=made)
    wanted = list(metrics) if metrics else ["fd", "labels", "memory"]
    known(wanted, list(OF_RUNS))
    if run.facts.classes is None and "labels" in wanted:
        if metrics:
            raise ValueError("metric 'labels' needs labels, which this run's data has not; leave it out.")
        wanted.remove("labels")
    refused(wanted, count, len(run.test), 0, small)  # before anything that takes time
    if against is None:
        against = Reference(run, features, folder, device)
    compared, few, seen = [name for name in wanted if name in METRICS], False, None
    said = {name: OF_RUNS[name] for name in wanted}
    if "labels" in wanted:
        said["labels"] += f", {against.judge.digest()}"
    with torch.no_grad():
        if compared:
            ready(against.net, against.test_features, compared)
            seen = card_of(against.net, against.test_features)
            few = refused(wanted, count, len(run.test), seen.width, small)
        sets = _samples(run, count, seed, plan, guidance, "labels" in wanted)
        values, spread = _judged(sets, against, wanted, seed, folder)
    made = card(
        sampled, small=few, pixels="clipped to [-1, 1] and rounded to the data's own grey levels",
        features=seen, metrics=said, guidance=tuple(s.guidance for s in sets),
    )  # fmt: skip
    return Evaluation(metrics=values, spread=spread, protocol=made)


@dataclass(frozen=True)
class _Set:
    """Samples under one strength of guidance, as pictures, and what is asked of their labels."""

    group: str | None
    guidance: float
    pictures: Tensor
    labels: Callable[[Classifier], dict[str, float]]


def _samples(run: Run, count: int, seed: int, plan: str, guidance: float | None, labels: bool) -> list[_Set]:
    classes, used = run.facts.classes, run.recipe.sample.guidance if guidance is None else guidance
    if isinstance(run.recipe.process, c.ProductConfig):
        joint = _draw(run, count, seed=seed, plan=plan, guidance=guidance)
        agreement = _product_labels(run, joint, count, seed, plan) if labels else lambda judge: {}
        return [_Set(None, used, quantised(run, as_pictures(run, joint)), agreement)]
    if classes is None:
        x = _draw(run, count, seed=seed, plan=plan, guidance=guidance)
        return [_Set(None, used, quantised(run, as_pictures(run, x)), lambda judge: {})]
    intended = torch.arange(count) % classes
    sets = []
    # a model that never learned without its condition has nothing to be guided away from
    able = getattr(run.recipe.objective, "drop", 0) or "guidance" in run.recipe.objective.scalars
    usual = [1.0, 1.5] if able else [1.0]
    for w in usual if guidance is None else [guidance]:
        x = quantised(run, as_pictures(run, _draw(run, count, seed=seed, plan=plan, label=intended, guidance=w)))
        sets.append(_Set(f"w={w:g}", w, x, lambda judge, x=x: {"intended_label": _share(judge.label(x), intended)}))
    return sets


def _product_labels(run: Run, joint: Any, count: int, seed: int, plan: str) -> Callable[[Classifier], dict[str, float]]:
    """Do image and label agree: drawn jointly, and each given the other?"""
    assert run.facts.classes is not None
    labels = torch.arange(count) % run.facts.classes
    index = torch.arange(len(run.test))
    truth = run.test.batch(index).x
    by_label = _draw(run, count, seed=seed + 1, plan=plan, label=labels)
    by_image = _draw(run, len(index), seed=seed + 2, plan=plan, given={"image": truth["image"]})

    def agreement(judge: Classifier) -> dict[str, float]:
        return {
            "joint_agreement": _share(judge.label(quantised(run, joint["image"])), joint["label"]),
            "image_given_label_agreement": _share(judge.label(quantised(run, by_label["image"])), labels),
            "label_given_image_accuracy": _share(by_image["label"], truth["label"]),
        }

    return agreement


def _judged(sets: list[_Set], against: Reference, wanted: list[str], seed: int, folder: Path | None) -> tuple[Any, Any]:
    """(metrics by name or group, spreads by full name)."""
    out: dict[str, Any] = {}
    spread: dict[str, float] = {}
    of_features = [name for name in wanted if name in METRICS]
    if "labels" in wanted:
        out["classifier_accuracy_real"] = against.accuracy
    if "fd" in wanted:
        out["fd_real"] = against.floor
    for one in sets:
        group: dict[str, float] = {}
        if "labels" in wanted:
            group |= one.labels(against.judge)
        if of_features:
            found = measure(against.net, extract(against.net, one.pictures), against.test_features, of_features, seed)
            for name, (value, deviation) in found.items():
                group[name] = value
                if deviation is not None:
                    spread[name if one.group is None else f"{one.group}.{name}"] = deviation
            if "fd" in found:
                group["fd_ratio"] = group["fd"] / against.floor
        if "memory" in wanted:
            near = memorisation(one.pictures, against.train, against.test)
            group |= {
                "nearest": float(near.distance.mean()), "nearest_real": float(near.real.mean()), "nearest_ratio": near.ratio,
                "nearest_share": near.share,
            }  # fmt: skip
            if folder is not None and one is sets[0]:
                closest_pairs(one.pictures, against.train, near, folder / "closest.png")
        if one.group is None:
            out |= group
        else:
            out[one.group] = group
    return out, spread


def closest_pairs(samples: Tensor, train: Tensor, near: Memorisation, path: Path, count: int = 10) -> Path:
    """The samples nearest to training pictures, nearest first, each above its neighbour."""
    first = near.closest(count)
    return pictures.save_images(torch.cat([samples[first], train[near.index[first]]]), path, columns=len(first))


def _points(run: Run, count: int, seed: int, plan: str) -> dict[str, Any]:
    train, test = (s.batch(torch.arange(len(s))).x for s in (run.train, run.test))
    samples = _draw(run, count, seed=seed, plan=plan)
    floor = energy_distance(train[: len(test)], test)
    return {"energy_distance": energy_distance(samples, test), "energy_distance_real": floor}


def report(run: Run, out: Path, count: int = 1000, say: Callable[[str], None] = print, *, device: str = "cpu") -> Evaluation:
    """Pictures, plots and metrics.json of a trained run, each path said as it is written. All is computed on `device`."""
    run.denoiser.to(_device(device))
    draws = [
        lambda: picture_of_samples(run, out / "samples.png"),
        lambda: animation(run, out / "denoising.gif"),
        lambda: pictures.plot_loss(out / "log.jsonl", out / "loss.png"),
        lambda: picture_of_levels(out),
    ]
    for make in draws:
        try:
            if (path := make()) is not None:
                say(str(path))
        except ImportError as error:  # plots are an extra; the numbers below are not
            say(str(error))
    say(f"measuring {count} samples of each kind, which takes as long as drawing them")
    result = evaluate(run, count=count, small=True, folder=out, device=device)
    say(str(write(out / "metrics.json", result.model_dump_json(indent=1))))
    return result


def refused(wanted: Sequence[str], count: int, real: int, width: int, small: bool) -> bool:
    """Whether numbers are of small n; a ValueError where they are and that was not accepted."""
    return any(name in BIASED for name in wanted) and refuse_small(count, real, width, small)


def _said(plan: str, found: Plan | Draft) -> str:
    """The words of a plan; one that was searched, learned or edited is named by its table's hash too."""
    if not isinstance(found, Plan):
        return plan
    return f"{plan} ({found.name}, {hashlib.sha256(found.to_json().encode()).hexdigest()[:16]})"


def card(shared: dict[str, Any], **fields: Any) -> Card:
    """A card of this library's and torch's versions."""
    return Card(**shared, **fields, langevin=__version__, torch=str(torch.__version__))


def _draw(run: Run, count: int, **options: Any) -> Any:
    return tree_map(Tensor.cpu, draw(run, count, **options))


def _real(run: Run, source: Any) -> Tensor:
    return as_pictures(run, source.batch(torch.arange(len(source))).x)


def _share(a: Tensor, b: Tensor) -> float:
    return float((a == b).float().mean())
