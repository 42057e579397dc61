"""Distances of objectives from their words: those of numbers, and those of what a network sees of pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from langevin import spec
from langevin.evaluate import Classifier, lpips
from langevin.evaluate.classifier import kept_at, read_kept
from langevin.evaluate.perceptual import features
from langevin.objectives.distances import DISTANCES, Distance
from langevin.recipes import config as c
from langevin.recipes.domains import domain_of
from langevin.recipes.facts import Facts

if TYPE_CHECKING:
    from langevin.recipes.build import Run

FIELDS = ("distance", "distance_of_features")
"""Of objectives that have such."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS from files of this machine; see `langevin.evaluate.lpips`."""

    weights: str = ""
    heads: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("distance 'lpips' reads its weights from a file; say lpips:weights=FILE.")


@dataclass(frozen=True)
class OwnClassifier:
    """The features of a classifier that is trained on the labels of the run's own training data."""


ASKED: dict[str, Callable[..., Lpips | OwnClassifier]] = {"lpips": Lpips, "classifier": OwnClassifier}
"""Distances that are networks, by name: what is asked for, which is made when training begins."""


def _asked(recipe: c.Recipe) -> dict[str, tuple[str, Lpips | OwnClassifier]]:
    """By field: those of a recipe's distances that are networks, as word and as what it means.

    Raises:
        ValueError: for an unknown name or option, of any distance.
    """
    words = {field: word for field in FIELDS if (word := getattr(recipe.objective, field, None)) is not None}
    table: dict[str, Callable[..., Any]] = {**DISTANCES, **ASKED}
    made = {field: spec.parse(word, table, f"objective.{field}") for field, word in words.items()}
    return {field: (words[field], one) for field, one in made.items() if isinstance(one, (Lpips, OwnClassifier))}


def check(recipe: c.Recipe, facts: Facts) -> None:
    """Refuse a distance that there is not, or one of pictures where samples are something else. Reads no file.

    Raises:
        ValueError: naming the field and the remedy.
    """
    from langevin.recipes.domains.pictures import PictureDomain

    for field, (word, one) in _asked(recipe).items():
        said, others = f"objective.{field} is {word!r}, which compares pictures", ", ".join(DISTANCES)
        if facts.codec is not None:
            raise ValueError(f"{said}, and samples are latents of codec.origin {facts.codec.origin}; use one of {others}.")
        numbers = isinstance(recipe.process, (c.GaussianConfig, c.InterpolantConfig, c.UntouchedConfig))
        pictures = isinstance(domain_of(recipe.data, recipe.process, facts.shape), PictureDomain)
        if not (pictures and numbers and isinstance(facts.shape, tuple) and len(facts.shape) == 3):
            raise ValueError(f"{said}, and samples of data {recipe.data.kind!r} under process {recipe.process.kind!r} are none; "
                             f"use one of {others}.")  # fmt: skip
        if isinstance(one, Lpips) and facts.shape[0] not in (1, 3):
            raise ValueError(f"{said} of 1 or 3 channels, and samples have {facts.shape[0]}; use one of {others}.")
        if isinstance(one, OwnClassifier) and (facts.classes or 0) < 2:
            raise ValueError(f"{said} by what tells labels apart, and this data has no labels; use lpips:weights=FILE or one of "
                             f"{others}.")  # fmt: skip


def seen(run: "Run", folder: Path | None = None, begun: str | None = None) -> Mapping[str, Distance]:
    """The distances of a run that are networks, by field of its objective.

    Args:
        folder: where its classifier is kept, and found again; it is that of evaluations in the same folder.
        begun: hash of the data whose classifier the run was begun with; None for the data of now.

    Raises:
        ValueError: for files that are no LPIPS, pictures too small for it, or a classifier that is gone as its data is.
    """
    made: dict[str, Distance] = {}
    for field, (_, one) in _asked(run.recipe).items():
        if isinstance(one, Lpips):
            net = lpips(one.weights, one.heads or None, size=one.size)
            assert isinstance(run.facts.shape, tuple)
            net.maps(torch.zeros(1, *run.facts.shape))  # too small pictures are refused now
            made[field] = net
        else:
            made[field] = features(_classifier(run, folder, begun))
    return made


def data_of(run: "Run") -> str | None:
    """Hash of the training data whose classifier measures a run's distances; None where there is no such distance."""
    needed = any(isinstance(one, OwnClassifier) for _, one in _asked(run.recipe).values())
    return run.train.digest() if needed else None


def _classifier(run: "Run", folder: Path | None, begun: str | None) -> Classifier:
    from langevin.recipes.domains.judging import Reference

    if folder is None or begun in (None, run.train.digest()):
        return Reference(run, "classifier", folder).judge
    assert isinstance(run.facts.shape, tuple) and run.facts.classes is not None
    file = kept_at(folder, begun)
    found = read_kept(file, Classifier(run.facts.shape[0], run.facts.shape[-1], run.facts.classes))
    if found is None:
        raise ValueError(f"the run's distance is that of a classifier of the data it was begun with, and {file} is not there, or "
                         "damaged; put the file back, or the data, or choose another directory.")  # fmt: skip
    return found
