"""How runs of pictures are judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import pictures
from langevin.core.batch import Batch
from langevin.core.plan import Draft, Plan
from langevin.core.tree import leaves, tree_map
from langevin.data import Source
from langevin.devices import device_of
from langevin.evaluate import (
    CLIP,
    METRICS,
    PCA,
    Classifier,
    Evaluation,
    FeatureNet,
    Memorisation,
    card_of,
    clip_score,
    extract,
    frechet,
    kept_classifier,
    load_features,
    measure,
    memorisation,
)
from langevin.evaluate.measure import enough, known, ready
from langevin.evaluate.metrics import drawn
from langevin.files import best_effort
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.domains.pictures import OF_RUNS, as_pictures, quantised
from langevin.recipes.drawing import draw, labels_of
from langevin.recipes.evaluation import card, refused


@dataclass(frozen=True)
class Reference:
    """What a run's samples are compared with: its real data as pictures, and a network for features. All is made once.

    Args:
        features: "classifier" (trained on the real training split, kept in `folder`), "pca", the path of a safetensors file
            with InceptionTF or DINOv2, or of a folder with a CLIP, or "auto": the classifier where there are labels, else pca.
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

    @property
    def kind(self) -> str:
        """Of features: "classifier", "pca", or the path of a file."""
        if str(self.features) == "auto":
            return "pca" if self.run.facts.classes is None else "classifier"
        return str(self.features)

    @cached_property
    def judge(self) -> Classifier:
        """Of labels."""
        train = self.run.train
        made = kept_classifier(_Real(self.run, train, levels=False), labels_of(train), self.folder, train.digest())
        return made.to(device_of(self.device))

    @cached_property
    def net(self) -> FeatureNet:
        """Of features."""
        if self.kind == "classifier":
            return self.judge
        return PCA(self.train.whole()) if self.kind == "pca" else load_features(self.kind, device_of(self.device))

    @property
    def train(self) -> "_Real":
        return _Real(self.run, self.run.train)

    @property
    def test(self) -> "_Real":
        return _Real(self.run, self.run.test)

    @cached_property
    def test_features(self) -> Tensor:
        return extract(self.net, self.test)

    @cached_property
    def _floors(self) -> dict[tuple[int, int], float]:
        return {}

    def floor(self, size: int, seed: int) -> float:
        """The Frechet distance of `size` training pictures, drawn by `seed`: what a perfect model has with as many samples."""
        if (size, seed) not in self._floors:
            picked = drawn(len(self.run.train), size, seed, 0, "floor").sort().values
            self._floors[size, seed] = frechet(extract(self.net, _Real(self.run, self.run.train, picked)), self.test_features)
        return self._floors[size, seed]

    def fit(self, features: Tensor) -> tuple[float, float]:
        """How well pictures, given by their features, fit the captions of held-out ones, in turn: a mean and its error."""
        assert isinstance(self.net, CLIP)
        words = self._words[torch.arange(len(features)) % len(self._words)]
        return clip_score(features, words)

    @cached_property
    def _words(self) -> Tensor:
        assert isinstance(self.net, CLIP)
        return self.net.words(self.run.test.captions)

    @cached_property
    def accuracy(self) -> float:
        """The judge's, on held-out pictures."""
        return _share(self.judge.label(_Real(self.run, self.run.test, levels=False).whole()), labels_of(self.run.test))


def affordable(run: Run, asked: Asked) -> list[str]:
    """Names of the metrics. It takes no time, and knows nothing of features.

    Raises:
        ValueError: for an unknown metric, or one that this data or so few samples cannot have.
    """
    wanted = list(asked.metrics) or ["fd", "labels", "memory"]
    known(wanted, list(OF_RUNS))
    if run.facts.classes is None and "labels" in wanted:
        if asked.metrics:
            raise ValueError("metric 'labels' needs labels, which this run's data has not; leave it out.")
        wanted.remove("labels")
    if "clip" in wanted and run.facts.vocabulary is None:
        raise ValueError("metric 'clip' needs captions, which this run does not read; leave it out.")
    refused(wanted, asked.count, len(run.test), 0, asked.small)  # before anything that takes time
    enough(wanted, asked.count, len(run.test))
    return wanted


def checked(run: Run, asked: Asked) -> tuple[list[str], Reference]:
    """(names of the metrics, what samples are compared with); what cannot be measured is refused before anything is drawn.

    Raises:
        ValueError: as `affordable`, and for a metric that these features cannot have.
    """
    wanted = affordable(run, asked)
    against = asked.against or Reference(run, asked.features, asked.folder, asked.device)
    if "clip" in wanted and (against.kind in ("classifier", "pca") or not isinstance(against.net, CLIP)):
        raise ValueError(f"metric 'clip' needs CLIP, and features is {against.kind!r}; give the folder of a published one.")
    compared = [name for name in wanted if name in METRICS]
    if compared and against.kind != "classifier":  # which takes time to train, and can be had of labelled pictures
        ready(against.net, extract(against.net, _Real(run, run.test, torch.tensor([0]))), compared)
    return wanted, against


def judge(run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
    """Metrics of samples as pictures, at every strength of guidance asked for."""
    wanted, against = checked(run, asked)
    count, seed, folder = asked.count, asked.seed, asked.folder
    few, seen = False, None
    said = {name: OF_RUNS[name] for name in wanted}
    if "labels" in wanted:
        said["labels"] += f", {against.judge.digest()}"
    size = min(count, len(run.train))  # of samples and of training pictures: the distance is biased by how many there are
    if "fd" in wanted:
        said["fd_real"] = f"fd of {size} training pictures, drawn by the seed"
        said["fd_ratio"] = f"fd of the first {size} samples, over fd_real"
    with torch.no_grad():
        if any(name in METRICS or name == "clip" for name in wanted):
            seen = card_of(against.net, against.test_features)
            few = refused(wanted, count, len(run.test), seen.width, asked.small)
        sets = _samples(run, count, seed, asked.plans, "labels" in wanted, run.test.captions if "clip" in wanted else ())
        values, spread = _judged(sets, against, wanted, seed, folder, size)
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


def _samples(
    run: Run, count: int, seed: int, plans: Mapping[float, Plan | Draft], labels: bool, prompts: Sequence[str] = ()
) -> list[_Set]:
    """A set for each strength of guidance."""
    classes, sets = run.facts.classes, []
    if isinstance(run.recipe.process, c.ProductConfig) or classes is None:
        ((w, plan),) = plans.items()
        x = _draw(run, count, seed=seed, plan=plan, guidance=w, prompts=prompts)
        agreement: Callable[[Classifier], dict[str, float]] = lambda judge: {}  # noqa: E731
        if classes is not None and labels:
            agreement = _product_labels(run, x, count, seed, plan)
        return [_Set(None, w, quantised(run, as_pictures(run, x)), agreement)]
    intended = torch.arange(count) % classes
    for w, plan in plans.items():
        x = quantised(run, as_pictures(run, _draw(run, count, seed=seed, plan=plan, label=intended, guidance=w, prompts=prompts)))
        sets.append(_Set(f"w={w:g}", w, x, lambda judge, x=x: {"intended_label": _share(judge.label(x), intended)}))
    return sets


def _product_labels(run: Run, joint: Any, count: int, seed: int, plan: Plan | Draft) -> Callable[[Classifier], dict[str, float]]:
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


def _judged(
    sets: list[_Set], against: Reference, wanted: list[str], seed: int, folder: Path | None, size: int
) -> tuple[Any, Any]:
    """(metrics by name or group, spreads by full name)."""
    out: dict[str, Any] = {}
    spread: dict[str, float] = {}
    of_features = [name for name in wanted if name in METRICS]
    if "clip" in wanted:
        out["clip_real"], _ = against.fit(against.test_features)
    if "labels" in wanted:
        out["classifier_accuracy_real"] = against.accuracy
    for one in sets:
        group: dict[str, float] = {}
        if "labels" in wanted:
            group |= one.labels(against.judge)
        if of_features or "clip" in wanted:
            features = extract(against.net, one.pictures)
            if "clip" in wanted:
                group["clip"], spread["clip" if one.group is None else f"{one.group}.clip"] = against.fit(features)
            found = measure(against.net, features, against.test_features, of_features, seed)
            for name, (value, deviation) in found.items():
                group[name] = value
                if deviation is not None:
                    spread[name if one.group is None else f"{one.group}.{name}"] = deviation
            if "fd" in found:
                out["fd_real"] = against.floor(size, seed)
                fd = group["fd"] if size == len(features) else frechet(features[:size], against.test_features)
                group["fd_ratio"] = fd / out["fd_real"]
        if "memory" in wanted:
            near = memorisation(one.pictures, against.train, against.test.whole())
            group |= {
                "nearest": float(near.distance.mean()), "nearest_real": float(near.real.mean()), "nearest_ratio": near.ratio,
                "nearest_share": near.share,
            }  # fmt: skip
            if folder is not None and one is sets[0]:
                with best_effort(folder / "closest.png"):
                    closest_pairs(one.pictures, against.train, near, folder / "closest.png")
        if one.group is None:
            out |= group
        else:
            out[one.group] = group
    return out, spread


def closest_pairs(samples: Tensor, train: Source, near: Memorisation, path: Path, count: int = 10) -> Path:
    """The samples nearest to training pictures, nearest first, each above its neighbour."""
    first = near.closest(count)
    return pictures.save_images(
        torch.cat([samples[first], leaves(train.batch(near.index[first]).x)[""]]), path, columns=len(first)
    )


def _draw(run: Run, count: int, **options: Any) -> Any:
    return tree_map(Tensor.cpu, draw(run, count, **options))


class _Real:
    """Real data as pictures, of which only a part at a time need be in memory.

    Args:
        places: of those that are meant; all by default.
        levels: round to the data's own grey levels.
    """

    def __init__(self, run: Run, source: Any, places: Tensor | None = None, levels: bool = True) -> None:
        self._run, self._source, self._levels, self.shape = run, source, levels, source.shape
        self._places = torch.arange(len(source)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, index: Tensor) -> Batch:
        x = as_pictures(self._run, self._source.batch(self._places[index]).x)
        return Batch(quantised(self._run, x) if self._levels else x)

    def whole(self) -> Tensor:
        """(N, C, H, W)."""
        x = self.batch(torch.arange(len(self))).x
        assert isinstance(x, Tensor)
        return x


def _share(a: Tensor, b: Tensor) -> float:
    return float((a == b).float().mean())
