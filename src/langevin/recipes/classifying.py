"""Classifiers of attributes: what a run's noisy sentences say of how their texts are named, learned once, by which its samples
are controlled afterwards.

    run = open_run("runs/e2e-embedding")
    classifier = classify(run, ("area : riverside",), Path("runs/attributes"))
    x = draw(run, 50, plan="controlled:200", steer=classifier.towards(run, ("area : riverside",)))

The run is trained on no attribute, and stays as it is (plug-in control of Diffusion-LM, 2205.14217, sec. 4.3).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from langevin.config import Closed, TrainConfig
from langevin.core.noise import Noise
from langevin.data import Arrays, Documents
from langevin.devices import device_of, seeded
from langevin.embedded import Embedded
from langevin.files import write
from langevin.guidance import Control
from langevin.networks import VectorClassifier
from langevin.objectives import Regression
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.config.regressing import CLASSIFIER, CLASSIFIER_TRAIN
from langevin.recipes.opening import read_as
from langevin.recipes.regressing import LEVELS, learned
from langevin.recipes.weights import held, put
from langevin.tasks.anomaly import auroc
from langevin.training import Model

FILE, MOST = "classifier.json", 1000


class Kept(Closed):
    """What stands beside a classifier's weights: enough to make it again, and to know whose points it reads."""

    run: str
    """Name of the recipe of the run whose sentences it reads."""
    attributes: tuple[str, ...]
    length: int
    """Of a sentence, in tokens."""
    points: str
    """A hash of the run's table of points."""
    process: c.ProcessConfig
    network: c.VectorsConfig
    train: TrainConfig


@dataclass(frozen=True)
class AttributeClassifier:
    """log-odds of p(attribute | noisy sentence).

    Args:
        net: the network. kept: what it was made from.
    """

    net: VectorClassifier
    kept: Kept

    def log_prob(self, wanted: Sequence[str], weight: float = 3.0) -> Any:
        """`log_prob(z, t, cond)` for `guidance.Control`: `weight` times the sum of log p(attribute | z_t) over what is wanted.

        Raises:
            ValueError: for attributes that it does not know.
        """
        if unknown := [name for name in wanted if name not in self.kept.attributes]:
            raise ValueError(f"attribute is {unknown[0]!r}, and this classifier knows {', '.join(self.kept.attributes)}.")
        place = [self.kept.attributes.index(name) for name in wanted]

        def said(z: Tensor, t: Any, cond: Any) -> Tensor:
            return weight * logsigmoid(self.asked(z, t)[:, place]).sum(1)

        return said

    def towards(self, run: Run, wanted: Sequence[str], weight: float = 3.0) -> Control:
        """Control of a run's states, under `plans.controlled`, to all of some attributes.

        Raises:
            ValueError: for attributes that it does not know, or a run of other points.
        """
        fits(run, self.kept)
        return Control(self.log_prob(wanted, weight), rate=0.1, pull=0.001)

    def asked(self, z: Tensor, t: Any) -> Tensor:
        """Logits (B, attributes) of states z (B, L, D) at a level t, one or one per sample."""
        level = torch.as_tensor(t, device=z.device).reshape(-1).float().expand(len(z))
        return self.net(z, 1000 * level)


def attributes_of(name: str) -> list[str]:
    """The attributes that the name of a text tells, as "area : riverside | price : cheap" has two."""
    return [part.strip() for part in name.split("|") if part.strip()]


def classify(
    run: Run,
    attributes: Sequence[str],
    out: Path,
    *,
    network: c.VectorsConfig = CLASSIFIER,
    train: TrainConfig = CLASSIFIER_TRAIN,
    resume: bool = False,
    device: str = "cpu",
    say: Any = print,
) -> AttributeClassifier:
    """Train a classifier of attributes on a run's own texts under its own noise, in the directory `out`.

    Args:
        attributes: as the names of texts tell them, see `attributes_of`.
        resume: go on where a stop left it.

    Raises:
        ValueError: for a run that is not of points of words, texts without names, or an attribute that all texts have, or none.
    """
    process, texts = run.denoiser.process, run.train
    if not isinstance(process, Embedded) or not isinstance(texts, Documents):
        raise ValueError("a classifier of attributes reads sentences as points of words, and this run is of something else; use "
                         "one of data 'sentences', such as of e2e-embedding.")  # fmt: skip
    if not attributes:
        raise ValueError("no attribute is named; name at least one, such as 'area : riverside'.")
    counts = Counter(part for name in texts.names for part in attributes_of(name))
    for name in attributes:
        if not 0 < counts[name] < len(texts):
            known = ", ".join(repr(part) for part, n in counts.most_common(5) if n < len(texts)) or "none, without data.key"
            raise ValueError(
                f"attribute is {name!r}, which {counts[name]} of {len(texts)} texts have; name what some have, such as {known}."
            )
    kept = Kept(run=run.recipe.name, attributes=tuple(attributes), length=texts.length, points=_points(run),
                process=run.recipe.process, network=network, train=train)  # fmt: skip
    place = device_of(device)
    run.denoiser.to(place).requires_grad_(False)
    with seeded(train.seed, torch.device("cpu")):
        model = Model(_net(kept, run), texts.shape)
    objective = Regression(process, kept.attributes, loss="logistic")
    learned(model.to(place), _told(texts, kept), objective, train, out, resume, place, {FILE: kept})  # pyright: ignore
    made = open_classifier(out, run)
    table = seen(made, run)
    write(out / "auroc.json", json.dumps(table, indent=1))
    for name, row in table.items():
        say(f"{name}: {row['share']:.1%} of held-out texts; area under the ROC curve at level " + ", ".join(
            f"{level:g} {row[f'{level:g}']:.3f}" for level in LEVELS if f"{level:g}" in row))  # fmt: skip
    return made


def open_classifier(path: str | Path, run: Run) -> AttributeClassifier:
    """A trained classifier for a run, with the averaged weights of its newest checkpoint, where the run's weights are.

    Raises:
        ValueError: if there is none, or it was learned on other points than the run's.
    """
    file = Path(path) / FILE
    if not file.exists():
        raise ValueError(f"{path} is no classifier: it has no {FILE}; give what `langevin classify --out` made.")
    kept = read_as(file, Kept)
    fits(run, kept)
    model = Model(_net(kept, run), (kept.length,))
    put(model, held(Path(path), kept.train, None)[0], path)  # pyright: ignore[reportArgumentType]
    model.to(next(run.denoiser.parameters()).device).eval().requires_grad_(False)
    assert isinstance(model.net, VectorClassifier)
    return AttributeClassifier(model.net, kept)


def fits(run: Run, kept: Kept) -> None:
    """Refuse a classifier of other points than a run's. Raises ValueError."""
    if not isinstance(run.denoiser.process, Embedded) or kept.process != run.recipe.process or kept.points != _points(run):
        raise ValueError(
            f"the classifier reads the points that a run of {kept.run} has learned, and this one has others, or other weights; "
            "classify on this run."
        )


@torch.no_grad()
def seen(classifier: AttributeClassifier, run: Run) -> dict[str, dict[str, float]]:
    """By attribute, of held-out texts: the share that has it, and at levels 0.1 to 0.9 how often a text with it is told from one
    without, the area under the ROC curve; .5 where nothing can be told. Where all have it, or none, the share alone."""
    process, texts = run.denoiser.process, run.test
    assert isinstance(process, Embedded)
    told = _told(texts, classifier.kept)
    batch = told.batch(torch.arange(min(len(told), MOST)))
    assert isinstance(batch.x, Tensor) and batch.cond is not None
    has = {name: batch.cond[name].bool() for name in classifier.kept.attributes}
    found = {name: {"share": float(h.double().mean())} for name, h in has.items()}
    place = next(classifier.net.parameters()).device
    for level in LEVELS:
        z = process.marginal(batch.x.to(place), level, Noise.of(0, len(batch.x), 0, place).at(f"level {level:g}"))
        logits = classifier.asked(z, level).cpu()
        for k, (name, h) in enumerate(has.items()):
            if bool(h.any()) and not bool(h.all()):
                found[name][f"{level:g}"] = auroc(logits[:, k], h)
    return found


def _told(texts: Documents, kept: Kept) -> Arrays:
    parts = [set(attributes_of(name)) for name in texts.names]
    cond = {name: torch.tensor([float(name in part) for part in parts]) for name in kept.attributes}
    return Arrays(torch.from_numpy(texts.tokens.astype("int64")), cond)


def _points(run: Run) -> str:
    assert isinstance(run.denoiser.process, Embedded)
    table = run.denoiser.process.table.detach().cpu().contiguous()
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()[:16]


def _net(kept: Kept, run: Run) -> VectorClassifier:
    assert isinstance(run.denoiser.process, Embedded)
    net = kept.network
    features = run.denoiser.process.table.shape[1]
    return VectorClassifier(kept.length, features, len(kept.attributes), net.width, net.depth, net.heads, net.dropout)
