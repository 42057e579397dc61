"""From a recipe to objects, and from a run's directory back to them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from langevin import plans
from langevin.adapters import merge
from langevin.config import Closed
from langevin.core.denoiser import Denoiser
from langevin.core.flow_map import FlowMap
from langevin.core.plan import Draft, Plan, Row
from langevin.core.process import Process
from langevin.core.sample import plans_for
from langevin.data import Pairs, Pictures, Stream, Unpaired
from langevin.files import parse_json, read_plain, write
from langevin.manifest import steps
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
from langevin.recipes.domains import Domain, domain_of
from langevin.recipes.facts import APART, FACTS_FILE, MEASURED, RECIPE_FILE, SCAN_FILE, Facts, kept, unlike
from langevin.recipes.objectives import AutoencodingConfig, ObjectiveConfig, ReflowConfig
from langevin.recipes.processes import shares
from langevin.recipes.teaching import check_teacher, objective, reflow_pairs
from langevin.recipes.weights import adapt, described, held, merge_files, put
from langevin.tensors import digest, load
from langevin.training import Model, load_latest
from langevin.training.distributed import Group
from langevin.training.folder import free as allowed
from langevin.training.folder import longer
from langevin.training.trainer import Trainer, seeded

_LIMIT = 2**20
_TEACHER, _ON = "nets.teacher.", "denoiser."  # the second of a teacher on another schedule

M = TypeVar("M", bound=Closed)


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

    @cached_property
    def teacher(self) -> Denoiser | None:
        """What the objective learns from, with weights that have yet to be put in."""
        taught = self.recipe.teacher
        return None if taught is None else _model(self.domain, taught.process, taught.network, taught.objective, self.facts)

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
    recipe: c.Recipe, facts: Facts | None = None, weights: Mapping[str, Tensor] | None = None, scan: Path | None = None
) -> Run:
    """Make the objects.

    Args:
        facts: without them the data is read for them.
        weights: to begin with, before any adapter is added; by default they are drawn, as a function of the recipe's seed.
        scan: JSON in which a scan of the data is remembered.

    Raises:
        ValueError: for parts that do not fit one another, or data that holds out too little to be judged by.
    """
    made: dict[str, Any] = {}
    latents.check(recipe)
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
    check_teacher(recipe)
    distances.check(recipe, facts)
    if recipe.text is not None and recipe.teacher is not None:
        raise ValueError("text is given, and students that read captions are not made yet; distil a run without text.")
    _check_ends(recipe)
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
    if not plan.startswith("auto:"):
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


def data(cfg: c.DataConfig, scan: Path | None = None) -> tuple[Any, Any]:
    """(training data, held-out data), of any kind.

    Args:
        scan: JSON in which a scan of the data is remembered, so that it need not be read whole again.
    """
    if isinstance(cfg, c.TransferData):
        other = None if scan is None else scan.with_stem(f"{scan.stem}.source")
        join, target, source = Pairs if cfg.paired else Unpaired, data(cfg.target, scan), data(cfg.source, other)
        return join(target[0], source[0]), join(target[1], source[1])
    return domain_of(cfg).read(cfg, scan)


def start(
    recipe: c.Recipe, out: str | Path, resume: bool = False, *, device: str = "cpu", shard: bool = False, other_data: bool = False
) -> tuple[Run, Trainer]:
    """A trainer in its run directory, which then holds the recipe. Under torchrun, one of several.

    Args:
        device: "auto" is a GPU where there is one. shard: divide the weights between the processes (FSDP2).
        other_data: a resumed run may go on on other data of the same kind.

    Raises:
        ValueError: if `out` holds another run, or one of other data, or another trainer is at work in it.
    """
    out = Path(out)
    saved = out / RECIPE_FILE
    if saved.exists() and resume:
        before = read_recipe(out)
        now, was = flatten(recipe.model_dump(mode="json")), flatten(before.model_dump(mode="json"))
        free = {
            "about",
            "expects",
            *(("codec.origin",) if recipe.codec.origin and before.codec.origin else ()),
            *(f"train.{name}" for name in allowed(recipe.train.schedule, recipe.train.resolutions)),
        }
        later = ("sample.", "evaluation.")  # training does not depend on them
        differing = [k for k in {**was, **now} if now.get(k) != was.get(k) and k not in free and not k.startswith(later)]
        if differing:
            k = differing[0]
            raise ValueError(
                f"{k} is {now.get(k)} but the run in {out} was begun with {was.get(k)}; resume with the same "
                f"recipe, or choose another directory{longer(k)}."
            )
    if recipe.train.valid_every and isinstance(recipe.objective, ReflowConfig):
        raise ValueError(
            f"train.valid_every is {recipe.train.valid_every}, and reflow learns pairs that its teacher makes, of which none are "
            "held out; leave it out."
        )
    weights, origin = _begin_with(recipe.finetune, out, resume)
    scan = out / SCAN_FILE if resume or not saved.exists() else None  # another run keeps its own
    run = build(recipe, weights=weights, scan=scan)
    begun = read_facts(out) if resume and (out / FACTS_FILE).exists() else None
    if begun is not None:
        run = _as_begun(run, begun, out, weights, other_data)
    group = Group.join(_device_of_process(device), shard)
    before = begun.distance if begun is not None and steps(out / "checkpoints") else None
    with group.agreed():
        seen = distances.seen(run, out, before) if group.first else {}
    if not group.first:  # which read what the first has trained and kept
        seen = distances.seen(run, out, before)
    run = replace(run, seen=seen)._sharing(run.__dict__)
    known = {"origin": origin, "teacher": _teach(run, out, resume), "distance": before or distances.data_of(run)}
    facts = run.facts.model_copy(update=known)
    run.denoiser.to(group.device)
    reading = run.reading
    if isinstance(recipe.objective, ReflowConfig) and run.teacher is not None:
        run.teacher.to(group.device)
        between = run.reading.source if isinstance(recipe.process, c.InterpolantConfig) else None
        reading = reflow_pairs(recipe.objective, run.teacher, run.denoiser.process, run.facts.classes, out / "pairs", between)
    elif run.codec is not None:
        reading = latents.keep(reading, run.codec.to(group.device), out / "latents", recipe.codec.dtype)
    valid = run.test if recipe.train.valid_every else None
    if valid is not None and run.codec is not None:
        valid = latents.keep(valid, run.codec, out / "latents-valid", recipe.codec.dtype)
    trainer = Trainer(run.denoiser, reading, run.objective, recipe.train, out, resume, None, group, other_data, valid)
    with group.agreed():
        if group.first and trainer.folder is not None:
            trainer.folder.open()  # first: another trainer at work there keeps its recipe
            for name, content in ((RECIPE_FILE, recipe), (FACTS_FILE, facts)):
                write(out / name, content.model_dump_json(indent=1))
    return run, trainer


def _as_begun(run: Run, was: Facts, out: Path, weights: Mapping[str, Tensor] | None, other_data: bool) -> Run:
    """A run that goes on from what was known when it began, where its data and its autoencoder are still those; on other data of
    the same kind, by the numbers that it was begun with.

    Raises:
        ValueError: where they are others.
    """
    latents.alike(was.codec, run.facts.codec, out)
    moves = other_data or was.replaced
    differs, now = unlike(was, run.facts), run.facts
    if differs and moves:
        halves = run.domain.as_begun(*run._halves, was)
        if halves[0] is not run._halves[0]:
            now = now.model_copy(update={"shape": halves[0].shape})
        differs = unlike(was, now, apart=(*APART, *MEASURED))
    if differs:
        fact, before, here = differs  # categories would change places under the weights
        free = fact in MEASURED or (fact == "shape" and was.graph is not None)
        cure = "say --other-data if it is meant" if free and not moves else "put the data back as it was"
        raise ValueError(f"the data's {fact} is now {str(here)[:99]}, and the run in {out} was begun with {str(before)[:99]}; "
                         f"{cure}, or choose another directory.")  # fmt: skip
    if moves and unlike(was, run.facts):
        now = kept(was, now).model_copy(update={"replaced": True})
        run = build(run.recipe, now, weights)._sharing({n: v for n, v in run.__dict__.items() if n in ("_halves", "codec")})
    if was.codec is None or run.facts.codec is None or run.codec is None:
        return run
    # the scale as it was measured then: the same sum elsewhere may differ in its last digit
    known = was.codec.model_copy(update={"origin": run.facts.codec.origin})
    latents.scaled(run.codec, known)
    return replace(run, facts=run.facts.model_copy(update={"codec": known}))._sharing(run.__dict__)


def _begin_with(cfg: c.FinetuneConfig, out: Path, resume: bool) -> tuple[dict[str, Tensor] | None, str | None]:
    """Weights for a run to begin with, if a checkpoint does not hold them yet, and their hash."""
    if cfg.origin is None:
        if cfg.lora.rank:
            raise ValueError(f"finetune.lora.rank is {cfg.lora.rank}, but adapters need trained weights; say --from RUN.")
        return None, None
    facts = out / FACTS_FILE
    before = _read(facts, Facts).origin if resume and facts.exists() else None
    if before is not None and steps(out / "checkpoints"):
        return None, before
    weights = _weights_of(Path(cfg.origin))
    now = digest(weights)
    if before not in (None, now):
        raise ValueError(
            f"{cfg.origin} holds other weights than those that the run in {out} was begun with ({now[:16]}, not {before[:16]}); "
            "put them back, or choose another directory."
        )
    return weights, now


def _teach(run: Run, out: Path, resume: bool) -> str | None:
    """Give the teacher its weights, if a checkpoint does not hold them yet; their hash."""
    if run.teacher is None or run.recipe.teacher is None:
        return None
    facts = out / FACTS_FILE
    before = _read(facts, Facts).teacher if resume and facts.exists() else None
    pairs = run.recipe.objective.kind == "reflow"  # its teacher is in no checkpoint: the pairs are what it taught
    if before is not None and steps(out / "checkpoints") and not pairs:
        found = load_latest(out / "checkpoints", parts=("objective",))
        if found is not None:  # a critic looks at what its teacher says
            named = {
                n.removeprefix(_TEACHER).removeprefix(_ON): v
                for n, v in found.tensors["objective"].items()
                if n.startswith(_TEACHER)
            }
            put(run.teacher, named, out / "checkpoints")
        return before
    origin = run.recipe.teacher.origin
    if (Path(origin) / FACTS_FILE).exists():
        latents.alike(read_facts(origin).codec, run.facts.codec, Path(origin))
    weights = _weights_of(Path(origin))
    now = digest(weights)
    if before not in (None, now):
        raise ValueError(f"{origin} holds other weights than those that {out} was begun to learn from; put them back, or choose "
                         "another directory.")  # fmt: skip
    put(run.teacher, weights, origin)
    return now


def _weights_of(origin: Path) -> dict[str, Tensor]:
    """Averaged weights of a run, its adapters merged, or those of a file."""
    if not origin.is_dir():
        return load(origin)
    run = open_run(origin)
    if run.recipe.finetune.lora.rank:
        merge(run.denoiser)
    return dict(run.denoiser.state_dict())


def _device(name: str) -> torch.device:
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device is {name!r}, which this machine does not have; use 'cpu' or 'auto'.") from None
    return chosen


def _device_of_process(name: str) -> torch.device:
    """As `_device`, where there is a GPU for each process."""
    chosen = _device(name)
    needed = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0")) + 1)
    if chosen.type == "cuda" and needed > 1 and needed > (there := torch.cuda.device_count()):
        raise ValueError(f"processes is {needed}, but this machine has {there} GPUs; use at most {there}, or --device cpu.")
    return chosen


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{name}" if prefix else name).items()}


def read_recipe(path: str | Path) -> c.Recipe:
    """The recipe of a run directory.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    return _read(Path(path) / RECIPE_FILE, c.Recipe)


def read_facts(path: str | Path) -> Facts:
    """What the run in a directory knows of its data.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    return _read(Path(path) / FACTS_FILE, Facts)


def _read(file: Path, kind: type[M]) -> M:
    if not file.exists() and (file.parent / "checkpoints").is_dir():
        raise ValueError(
            f"{file.parent} is what lv.fit left, with no recipe: build its denoiser again and call lv.fit(..., resume=True), "
            "or load its weights as docs/training.md says."
        )
    if not file.exists():
        raise ValueError(f"{file.parent} is no run directory: it has no {file.name}; give what `langevin train --out` made.")
    raw = read_plain(file, _LIMIT)
    parse_json(raw, file)  # a field that stands twice would have two meanings
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}"
        raise ValueError(f"{file} is damaged at {' '.join(said.split())[:400]}.") from None


def open_run(
    path: str | Path, weights: str | Path | None = None, adapters: Mapping[Path, float] | None = None, *, device: str = "cpu",
    codec: str | Path | None = None,
) -> Run:  # fmt: skip
    """A trained run, by default with the averaged weights of its newest whole checkpoint, in eval mode.

    Args:
        weights: a safetensors file of all weights to use instead, such as `langevin ema` writes; or another of the run's own, by
            name (`recipes.weights.held`): one of `train.averages`, or "last".
        adapters: strengths by file, such as `langevin lora` writes; they are merged into the weights.
        device: of the weights; "auto" is a GPU where there is one.
        codec: where the autoencoder of a run of latents is now, if it has moved; it is known by its hash.

    Raises:
        ValueError: if the directory is no run, or has no whole checkpoint, or a file does not fit.
    """
    path, place = Path(path), _device(device)
    run = build(read_recipe(path), latents.moved(read_facts(path), codec))
    if weights is not None and Path(weights).suffix == ".safetensors":
        put(run.denoiser, load(weights), weights)
        words = described(Path(weights))
    else:
        tensors, words = held(path, run.recipe.train, weights)
        put(run.denoiser, tensors, path)
    merge_files(run.denoiser, adapters or {})
    run.denoiser.to(place).eval().requires_grad_(False)
    said = [words]
    said += [f"adapters {file.name} at {strength:g}" for file, strength in (adapters or {}).items()]
    return replace(run, folder=path, weights=" with ".join(said))
