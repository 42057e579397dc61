"""From a recipe to objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import plans
from langevin.core.denoiser import Denoiser
from langevin.core.flow_map import FlowMap
from langevin.core.plan import Draft, Plan, Row
from langevin.core.process import Process
from langevin.core.sample import plans_for
from langevin.data import Pairs, Pictures, Stream, Unpaired
from langevin.devices import seeded
from langevin.networks import (
    Prompted,
    TextEncoder,
)
from langevin.networks.latents import LatentCodec
from langevin.objectives import Objective
from langevin.objectives.distances import Distance
from langevin.recipes import beliefs, distances, latents
from langevin.recipes import config as c
from langevin.recipes.captions import Captioned, Vocabulary
from langevin.recipes.config.places import Placed
from langevin.recipes.domains import Domain, domain_of
from langevin.recipes.facts import SCAN_FILE, Facts
from langevin.recipes.objectives import AutoencodingConfig, ObjectiveConfig
from langevin.recipes.processes import shares
from langevin.recipes.teaching import check_teacher, objective
from langevin.recipes.weights import adapt, put
from langevin.training import Model


@dataclass(frozen=True)
class Run:
    """The objects of a recipe. Data is read when it is first asked for: samples can be drawn without it."""

    recipe: c.Recipe
    denoiser: Denoiser
    facts: Facts
    folder: Path | None = None
    """Where the run lives, once it has been opened from there."""
    weights: str | None = None
    """Which weights the denoiser has, in words; None for the average that training keeps."""
    seen: Mapping[str, Distance] | None = None
    """Distances of the objective that are networks, by field, once they are made."""
    loaded: Mapping[str, Any] = field(default_factory=dict)
    """How it was opened where that is not as usual, as the flags of `langevin sample` say it; for records."""

    @cached_property
    def teacher(self) -> Denoiser | None:
        """What the objective learns from, with weights that have yet to be put in."""
        taught = self.recipe.teacher
        if taught is None:
            return None
        return _model(self.domain, taught.process, taught.network, taught.objective, self.facts, self.recipe.text)

    @cached_property
    def objective(self) -> Objective:
        """What training minimises; made when it is first asked for, since a teacher is a model by itself."""
        shape = self.facts.shape
        channels = shape[0] if isinstance(shape, tuple) else 1
        seen = distances.seen(self) if self.seen is None else self.seen
        return objective(self.recipe.objective, self.denoiser.process, self.teacher, self.facts.classes, channels, seen)

    @cached_property
    def codec(self) -> LatentCodec | None:
        """Between pictures and what the denoiser knows, where these are latents."""
        return None if self.facts.codec is None else latents.again(self.facts.codec)

    @cached_property
    def _halves(self) -> tuple[Any, Any]:
        """Data as it is read, in units of its own."""
        return data(self.recipe.data, None if self.folder is None else self.folder / SCAN_FILE)

    @cached_property
    def _splits(self) -> tuple[Any, Any]:
        return _captioned(self.domain.as_begun(*self._halves, self.facts), self.facts.vocabulary)

    @property
    def domain(self) -> Domain:
        """What its samples are."""
        return domain_of(self.recipe.data, self.recipe.process, self.facts.shape)

    @property
    def reading(self) -> Any:
        """Training data as training reads it, but for latents: pictures may be of several shapes."""
        return self._splits[0]

    @cached_property
    def train(self) -> Any:
        """Training data in the one shape of `facts`, for evaluation; of a stream its first samples."""
        data = self._splits[0]
        if isinstance(data, Stream):
            return data.first()
        shaped = isinstance(data, (Pictures, Captioned)) and getattr(data, "groups", None) is not None
        return data.part("train", aspect=False) if shaped else data

    @property
    def test(self) -> Any:
        """Real data that training never sees."""
        return self._splits[1]

    def holding(self, denoiser: Denoiser) -> "Run":
        """The same run with another denoiser, sharing the data that is read already."""
        other = replace(self, denoiser=denoiser)
        return other._sharing(self.__dict__)

    def _sharing(self, known: Mapping[str, Any]) -> "Run":
        """This run, with what another has read or opened already."""
        self.__dict__.update({name: known[name] for name in ("_halves", "_splits", "train", "codec") if name in known})
        return self


def build(
    recipe: c.Recipe,
    facts: Facts | None = None,
    weights: Mapping[str, Tensor] | None = None,
    scan: Path | None = None,
    words: Mapping[str, Vocabulary | None] | None = None,
) -> Run:
    """Make the objects.

    Args:
        facts: without them the data is read for them.
        weights: to begin with, before any adapter is added; by default they are drawn, as a function of the recipe's seed.
        scan: JSON in which a scan of the data is remembered.
        words: of the runs whose weights it is to have, by their directories; ids of others would mean other words.

    Raises:
        ValueError: for parts that do not fit one another, or data that holds out too little to be judged by.
    """
    made: dict[str, Any] = {}
    latents.check(recipe)
    _check_ends(recipe)
    domain = domain_of(recipe.data, recipe.process, None if facts is None else facts.shape)
    if facts is None:
        splits = data(recipe.data, scan)
        if (held := len(splits[1])) < (least := domain.least):  # found after training otherwise
            where = next((f"data.{name}" for name in ("held_out", "test") if hasattr(recipe.drawn, name)), "data")
            said = f"{where} holds out {held} of this data's samples, and evaluation takes at least {least}"
            raise ValueError(f"{said}; raise it, or add samples.")
        beliefs.check(recipe, splits[0])
        facts = domain.facts(*splits, recipe)
        facts = facts.model_copy(update={"marginal": shares(recipe.process, splits[0])})
        if recipe.codec.origin is not None:
            made["codec"], facts = latents.begin(recipe, facts, splits[0])
        made["_halves"] = splits
    for origin, theirs in (words or {}).items():
        ours = facts.vocabulary
        if ours is not None and theirs is not None and (ours.merges, ours.length) != (theirs.merges, theirs.length):
            raise ValueError(f"the run in {origin} learned its words from other captions than these; give the data that it read.")
    check_teacher(recipe)
    distances.check(recipe, facts)
    with seeded(recipe.train.seed, torch.device("cpu")):
        denoiser = _model(domain, recipe.process, recipe.network, recipe.objective, facts, recipe.text)
    if weights is not None:
        put(denoiser, weights, str(recipe.finetune.origin), recipe.objective.scalars)
    adapt(denoiser, recipe.finetune, recipe.train.seed)
    denoiser.spread = getattr(recipe.objective, "spread", None)
    check_plan(recipe, denoiser.process, recipe.sample.plan)
    return Run(recipe, denoiser, facts)._sharing(made)


def check_plan(recipe: c.Recipe, process: Process, plan: str) -> None:
    """Refuse now, rather than after training, a plan that is none, or none for this model. Raises ValueError."""
    if plans.tried(plan) is None:
        fits(recipe, process, plans.parse(plan, plans.grids.uniform()))  # where levels are placed later


def fits(recipe: c.Recipe, process: Process, plan: Plan | Draft) -> None:
    """Refuse a plan that the recipe's model cannot be sampled by.

    Raises:
        ValueError: in one sentence; also for a solver of the flow, where the model answers with the flow's end.
    """
    tables = plans_for(process, plan)
    rows = [row for table in tables.values() for row in table.rows if row.level is not None]
    if recipe.objective.ends and not all(isinstance(row, Row) and (row.stop == 0 or row.a == 0) for row in rows):
        name = next(iter(tables.values())).name
        raise ValueError(
            f"plan is {name}, which follows the flow, and a model of the objective {recipe.objective.kind!r} says where it ends; "
            "leap there by consistency:1, consistency:2 or lcm:4."
        )


def _check_ends(recipe: c.Recipe) -> None:
    """An interpolant has data at both ends, and nothing else has; an autoencoder has none, and nothing else learns it."""
    if isinstance(recipe.objective, AutoencodingConfig) and not isinstance(recipe.process, c.UntouchedConfig):
        raise ValueError(f"objective is 'autoencoding', and process is {recipe.process.kind!r}; use process 'none'.")
    joined, between = isinstance(recipe.data, c.TransferData), isinstance(recipe.process, c.InterpolantConfig)
    if between and not joined:
        raise ValueError(
            f"process is 'interpolant', and data {recipe.data.kind!r} has no source to begin at; use data 'transfer'."
        )
    coupling = getattr(recipe.objective, "coupling", "independent")
    if isinstance(recipe.data, c.TransferData) and recipe.data.paired != (coupling == "paired"):
        if coupling == "paired":
            raise ValueError(
                "objective.coupling is 'paired', and data.paired is False, so pairs would be of chance; say --data.paired."
            )
        if coupling != "independent":
            raise ValueError(f"data.paired is True, and objective.coupling {coupling!r} would pair anew; use paired.")
    if joined and not between:
        raise ValueError(f"data is 'transfer', and process {recipe.process.kind!r} begins at noise; use process 'interpolant'.")


def _model(
    domain: Domain,
    process: c.ProcessConfig,
    net: c.NetworkConfig,
    learned: ObjectiveConfig,
    facts: Facts,
    text: c.TextConfig | None = None,
) -> Denoiser:
    """A denoiser, or a flow map where that is what the objective learns; of an autoencoder a `Model`, which is neither."""
    made, predictions = domain.process(process, facts)
    body = domain.network(net, facts, made, learned.scalars, None if text is None else text.width, predictions)
    if text is not None and facts.vocabulary is not None:
        words = facts.vocabulary
        encoder = TextEncoder(len(words.tokens), text.width, text.depth, text.heads, text.length, activation="gelu")
        body = Prompted(body, encoder, words.ids([""])[0])
    if isinstance(process, c.UntouchedConfig):
        return Model(body, facts.shape)  # pyright: ignore[reportReturnType]
    kind = FlowMap if learned.learns == "map" else Denoiser
    return kind(body, made, predictions, shape=domain.states(facts, made))


def _captioned(splits: tuple[Any, Any], words: Vocabulary | None) -> tuple[Any, Any]:
    if words is None:
        return splits
    train = splits[0].again(encode=words.conditions) if isinstance(splits[0], Stream) else Captioned(splits[0], words)
    return train, Captioned(splits[1], words)


def data(cfg: c.DataConfig, scan: Path | None = None, field: str = "data") -> tuple[Any, Any]:
    """(training data, held-out data), of any kind.

    Args:
        scan: JSON in which a scan of the data is remembered, so that it need not be read whole again.
        field: of the recipe, for messages.

    Raises:
        FileNotFoundError: naming the field that says where data is, where nothing is.
    """
    if isinstance(cfg, c.TransferData):
        other = None if scan is None else scan.with_stem(f"{scan.stem}.source")
        target, source = data(cfg.target, scan, f"{field}.target"), data(cfg.source, other, f"{field}.source")
        if not cfg.paired:
            return Unpaired(target[0], source[0]), Unpaired(target[1], source[1])
        beginnings = source[0]
        if isinstance(beginnings, Pictures) and all(isinstance(part, Pictures) for part in target):
            source = tuple(beginnings.beside(part) for part in target)  # told by their names, whatever either folder's split
        return Pairs(target[0], source[0]), Pairs(target[1], source[1])
    words = cfg.words if isinstance(cfg, Placed) else ()
    for name in cfg.places if isinstance(cfg, Placed) else ():
        said = getattr(cfg, name)
        for place in [said] if isinstance(said, str) else said:
            if place not in words and not Path(place).exists():
                raise FileNotFoundError(f"{place} does not exist; say where the data is, {field}.{name} (--{field}.{name}).")
    return domain_of(cfg).read(cfg, scan)
