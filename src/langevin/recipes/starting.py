"""A run begins, or goes on: a recipe to a trainer in its directory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.files import outside, write
from langevin.manifest import steps
from langevin.recipes import config as c
from langevin.recipes import distances, latents, unread
from langevin.recipes.build import Run, build
from langevin.recipes.captions import Vocabulary
from langevin.recipes.devices import device_of_process
from langevin.recipes.facts import APART, FACTS_FILE, MEASURED, RECIPE_FILE, SCAN_FILE, Facts, kept, unlike
from langevin.recipes.objectives import ReflowConfig
from langevin.recipes.opening import read_facts, read_recipe, weights_of
from langevin.recipes.sampling import check_strength, in_turn
from langevin.recipes.teaching import reflow_pairs
from langevin.recipes.weights import put
from langevin.tensors import digest
from langevin.training import load_latest
from langevin.training.distributed import Group, asked_world
from langevin.training.folder import free as allowed
from langevin.training.folder import longer
from langevin.training.lock import refuse_taken
from langevin.training.trainer import Trainer

_TEACHER, _ON = "nets.teacher.", "denoiser."  # the second of a teacher on another schedule


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
    if asked_world() == 1:  # of several processes, the first finds it out below
        refuse_taken(out)
    saved = out / RECIPE_FILE
    if saved.exists() and resume:
        _refuse_another(recipe, read_recipe(out), out)
    if recipe.train.valid_every and isinstance(recipe.objective, ReflowConfig):
        raise ValueError(
            f"train.valid_every is {recipe.train.valid_every}, and reflow learns pairs that its teacher makes, of which none are "
            "held out; leave it out."
        )
    begun = read_facts(out) if resume and (out / FACTS_FILE).exists() else None
    if begun is None:
        unread.check(recipe)
        for folder in _read_below(recipe.data):
            outside(out, folder, "out")
    weights, origin = _begin_with(recipe.finetune, out, begun)
    scan = out / SCAN_FILE if resume or not saved.exists() else None  # another run keeps its own
    run = build(recipe, weights=weights, scan=scan, words=_words(recipe) if begun is None else None)
    if begun is None:  # found after training otherwise
        check_strength(run, recipe.sample.guidance, "sample.guidance")
    if begun is not None:
        run = _as_begun(run, begun, out, weights, other_data)
    group = Group.join(device_of_process(device), shard)
    before = begun.distance if begun is not None and steps(out / "checkpoints") else None
    with group.agreed():
        seen = distances.seen(run, out, before) if group.first else {}
    if not group.first:  # which read what the first has trained and kept
        seen = distances.seen(run, out, before)
    run = replace(run, seen=seen)._sharing(run.__dict__)
    known = {"origin": origin, "teacher": _teach(run, out, begun), "distance": before or distances.data_of(run)}
    facts = run.facts.model_copy(update=known)
    run.denoiser.to(group.device)
    reading = _reading(run, out, group.device)
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


def _reading(run: Run, out: Path, device: torch.device) -> Any:
    """What training reads: the run's data, the pairs that its teacher makes, or latents, both kept in `out`."""
    recipe, reading = run.recipe, run.reading
    if isinstance(recipe.objective, ReflowConfig) and run.teacher is not None:
        run.teacher.to(device)
        between = reading.source if isinstance(recipe.process, c.InterpolantConfig) else None
        told = partial(in_turn, run, captions=getattr(reading, "captions", None) or ())
        return reflow_pairs(recipe.objective, run.teacher, run.denoiser.process, told, out / "pairs", between)
    if run.codec is not None:
        return latents.keep(reading, run.codec.to(device), out / "latents", recipe.codec.dtype)
    return reading


def _refuse_another(recipe: c.Recipe, before: c.Recipe, out: Path) -> None:
    """Refuse to resume a run as another than it was begun, but for what may change. Raises ValueError."""
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


def _read_below(data: Any) -> Iterator[str]:
    """Folders of pictures or texts that are read with all that lies below them."""
    if isinstance(data, (c.TransferData, c.UpscaleData)):
        for part in (data.of,) if isinstance(data, c.UpscaleData) else (data.target, data.source):
            yield from _read_below(part)
    elif isinstance(data, (c.ImagesData, c.TextData, c.SentencesData)):
        places = data.folder if isinstance(data, c.ImagesData) else data.path
        yield from (places,) if isinstance(places, str) else places


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


def _begin_with(cfg: c.FinetuneConfig, out: Path, begun: Facts | None) -> tuple[dict[str, Tensor] | None, str | None]:
    """Weights for a run to begin with, if a checkpoint does not hold them yet, and their hash."""
    if cfg.origin is None:
        if cfg.lora.rank:
            raise ValueError(f"finetune.lora.rank is {cfg.lora.rank}, but adapters need trained weights; say --from RUN.")
        return None, None
    before = begun.origin if begun is not None else None
    if before is not None and steps(out / "checkpoints"):
        return None, before
    weights = weights_of(Path(cfg.origin))
    now = digest(weights)
    if before not in (None, now):
        raise ValueError(
            f"{cfg.origin} holds other weights than those that the run in {out} was begun with ({now[:16]}, not {before[:16]}); "
            "put them back, or choose another directory."
        )
    return weights, now


def _words(recipe: c.Recipe) -> dict[str, Vocabulary | None]:
    """What the runs that this one begins or learns from know of texts, by their directories."""
    origins = {recipe.finetune.origin, None if recipe.teacher is None else recipe.teacher.origin} - {None}
    return {str(o): read_facts(o).vocabulary for o in origins if o is not None and (Path(o) / FACTS_FILE).exists()}


def _teach(run: Run, out: Path, begun: Facts | None) -> str | None:
    """Give the teacher its weights, if a checkpoint does not hold them yet; their hash."""
    if run.teacher is None or run.recipe.teacher is None:
        return None
    before = begun.teacher if begun is not None else None
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
    weights = weights_of(Path(origin))
    now = digest(weights)
    if before not in (None, now):
        raise ValueError(f"{origin} holds other weights than those that {out} was begun to learn from; put them back, or choose "
                         "another directory.")  # fmt: skip
    put(run.teacher, weights, origin)
    return now


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{name}" if prefix else name).items()}
