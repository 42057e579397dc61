"""How samples of a run were drawn, for the pictures that say so: `langevin sample` with these flags draws them again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from langevin.core.plan import Draft, Plan
from langevin.guidance import AutoGuidance, Exploration
from langevin.pictures import LONGEST
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.drawing import asked_prompts
from langevin.recipes.sampling import of_weights
from langevin.tasks.recorded import digest


def record_of(
    run: Run, count: int, *, plan: str | Plan | Draft | None = None, seed: int = 0, label: Tensor | int | None = None,
    guidance: float | None = None, source: Tensor | None = None, prompts: Sequence[str] = (),
    properties: Mapping[str, float] | None = None, steer: object = None, image: Tensor | None = None, strength: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """The record of `count` samples, in plain values: the run by its name and the recipe's, the weights by their fingerprint and
    how they were opened, and what `draw` was told, its defaults filled in.

    Args:
        plan, seed, label, guidance, source, prompts, properties, steer, image, strength: as `draw`. A plan that is an object,
            labels one by one, texts too long for a picture, and a guidance besides are named under "unsaid"; weaker weights and
            exploration are told with the run's weights, and of pictures their hash.
    """
    sampling, classes, unsaid = run.recipe.sample, run.facts.classes, []
    made: dict[str, Any] = {} if run.folder is None else {"run": run.folder.resolve().name}
    made |= {"recipe": run.recipe.name, "fingerprint": of_weights(run), "weights": run.weights}
    made |= {"loaded": dict(run.loaded) or None, "count": count, "seed": seed}
    text = sampling.plan if plan is None else plan
    made["plan"] = text if isinstance(text, str) else None
    told = steer is None or isinstance(steer, (AutoGuidance, Exploration))
    unsaid += ["plan"] * (not isinstance(text, str)) + ["steer"] * (not told)
    w = sampling.guidance if guidance is None else guidance
    made["guidance"] = w if run.facts.conditional or guidance is not None else None
    if isinstance(label, Tensor):
        made["labels"] = label.tolist()
        unsaid.append("label")
    elif label is not None:
        made["label"] = label
    elif classes is not None and not isinstance(run.recipe.process, c.ProductConfig):
        made["labels"] = (torch.arange(count) % classes).tolist()
    texts = asked_prompts(run, count, prompts)
    made["prompt"] = None if texts is None else texts[: len(prompts) or len(texts)]
    made["property"] = [f"{name}={value:g}" for name, value in (properties or {}).items()] or None
    made["source"] = None if source is None else digest(source)
    if image is not None:
        made |= {"image": digest(image), "strength": strength}
    for name in ("labels", "prompt"):
        if len(json.dumps(made.get(name))) > LONGEST // 4:  # a picture says a record of a bounded length, or none
            made[name] = None
            unsaid += [name] * (name == "prompt")
    made["unsaid"] = unsaid or None
    return {name: value for name, value in made.items() if value is not None}


def record_of_one(record: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The record of sample k of those that a record is of."""
    labels = record.get("labels")
    return {**record, "id": k, **({} if labels is None else {"labels": [labels[k]]})}
