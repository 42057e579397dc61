"""How a run is judged: numbers with the protocol card that made them. What is measured depends on the kind of data."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from langevin import __version__
from langevin.core.plan import Draft, Plan
from langevin.core.sample import plans_for
from langevin.data import Stream
from langevin.devices import device_of
from langevin.evaluate import Card, Evaluation, Split, refuse_small
from langevin.evaluate.measure import BIASED
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.drawing import driven, used
from langevin.recipes.sampling import chosen, of_weights

SMALL = 1000


def evaluate(run: Run, *, count: int | None = None, seed: int = 1, plan: str | None = None, guidance: float | None = None,
             features: str | Path = "auto", metrics: Sequence[str] | None = None, small: bool = False, device: str = "cpu",
             folder: Path | None = None, against: Any = None,
             properties: Mapping[str, float] | None = None) -> Evaluation:  # fmt: skip
    """Metrics of a run against its held-out real data.

    Args:
        count: samples; 10,000 by default, or 1,000 with `small`.
        guidance: one strength; 1 and 1.5 by default where there is a condition.
        features: of pictures: see `langevin.recipes.domains.judging.Reference`.
        metrics: names from `run.domain.metrics`; for pictures fd, labels and memory by default, for points the energy distance.
        small: accept fewer samples, or less real data, than published practice takes. The card says so.
        device: where to sample and to take features; "auto" is a GPU where there is one.
        folder: keeps the classifier, and closest.png: the samples nearest to training pictures, each above its neighbour.
            What cannot be written there is said on stderr, and the numbers are returned.
        against: what `run.domain.reference` made before, in place of `features`, `folder` and its device.
        properties: conditions that are numbers, in their own units, for a run that has such: all metrics are then of samples
            that are asked for them, with how near these come beside samples that are asked for nothing.

    Raises:
        ValueError: for samples too few without `small`, an unknown metric, or one that this run cannot have; for properties
            that it does not have, or of which none can be computed of samples.
    """
    count = (SMALL if small else 10_000) if count is None else count
    if count < 2:
        raise ValueError(f"count is {count}; a distance needs at least 2 samples.")
    if properties:
        run.domain.conditions(run, properties, 1)  # refused now rather than after sampling
    run.domain.check_way(plan, guidance)
    place, plan = device_of(device), plan or run.recipe.sample.plan
    run.denoiser.to(place)
    found = {w: chosen(run, plan, w) for w in run.domain.strengths(run, guidance)}
    through = "" if run.facts.codec is None else f", decoded by {run.facts.codec.hash}"
    sampled = {
        "weights": f"{run.weights or f'EMA {run.recipe.train.ema:g}'}, {of_weights(run)}{through}",
        "plan": _said(plan, found), "seeds": (seed,), "device": str(place), "samples": count,
        "nfe": max((p.nfe for one in found.values() for p in plans_for(run.denoiser.process, one).values()), default=0),
        "train": Split(name=_of_train(run), size=len(run.train), hash=run.train.digest()),
        "real": Split(name="test", size=len(run.test), hash=run.test.digest()),
    }  # fmt: skip
    asked = Asked(count, seed, found, guidance, features, tuple(metrics or ()), small, str(place), folder, against, properties)
    with used() as counts:
        result = run.domain.evaluate(run, asked, sampled)
    if not counts:
        return result
    fixed = [p.nfe for one in found.values() if not driven(run, one) for p in plans_for(run.denoiser.process, one).values()]
    return result.model_copy(update={"protocol": result.protocol.model_copy(update={"nfe": max([*counts, *fixed])})})


def _of_train(run: Run) -> str:
    """What the card calls the training data that samples are compared with."""
    return f"train, the first {len(run.train)} of the stream" if isinstance(run.reading, Stream) else "train"


def refused(wanted: Sequence[str], count: int, real: int, width: int, small: bool) -> bool:
    """Whether numbers are of small n; a ValueError where they are and that was not accepted."""
    return any(name in BIASED for name in wanted) and refuse_small(count, real, width, small)


def _said(plan: str, found: Mapping[float, Plan | Draft]) -> str:
    """The words of a plan; one that was searched, learned or edited is named by its table's hash too, for each strength where
    they differ."""
    each = {w: f"{plan} ({p.name}, {hashlib.sha256(p.to_json().encode()).hexdigest()[:16]})" if isinstance(p, Plan) else plan
            for w, p in found.items()}  # fmt: skip
    same = len(set(each.values())) == 1
    return next(iter(each.values())) if same else "; ".join(f"w={w:g}: {said}" for w, said in each.items())


def card(shared: dict[str, Any], **fields: Any) -> Card:
    """A card of this library's and torch's versions."""
    return Card(**shared, **fields, langevin=__version__, torch=str(torch.__version__))
