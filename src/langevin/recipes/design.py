"""Molecules by design: generate, score, filter, guide, and again.

A round draws some molecules anew and makes others of the best so far: their graphs are noised to a level and denoised, so that
the model says what is near them and still a molecule. Which ones are taken is the guide; a run with properties for conditions
can be asked for them as well. What is told of every round stands beside the first, which nothing guides.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin import plans
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.sample import sample
from langevin.data import Graph, Graphs, molecules
from langevin.files import parse_json, staged, write
from langevin.recipes.build import Run
from langevin.recipes.config.designing import Rounds
from langevin.recipes.domains.graphs import of
from langevin.recipes.domains.molecules import MoleculeDomain
from langevin.recipes.drawing import BATCH, Steer, draw, steered
from langevin.recipes.regressing import aimed
from langevin.recipes.sampling import check_strength, chosen, guided, of_weights

Goals = Mapping[str, tuple[float, float] | None]
"""What is wanted of each property: a range, or as much as can be where it is None."""


def goals_of(words: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """Goals from words such as "qed", "sa" and "logp=1..3".

    Raises:
        ValueError: for an unknown property, or one without a scale of its own that is given no range.
    """
    goals: dict[str, tuple[float, float] | None] = {}
    for word in words:
        name, equals, span = word.partition("=")
        low, dots, high = span.partition("..")
        if name not in molecules.PROPERTIES:
            raise ValueError(f"goal is {word!r}; there are {', '.join(molecules.PROPERTIES)}, as in qed, or logp=1..3.")
        try:
            goals[name] = (float(low), float(high if dots else low)) if equals else None
        except ValueError:
            raise ValueError(f"goal is {word!r}; a range is two numbers, as in logp=1..3.") from None
        if (span := goals[name]) is not None and not -math.inf < span[0] <= span[1] < math.inf:
            raise ValueError(f"goal is {word!r}; a range is two finite numbers, the lower first, as in logp=1..3.")
        if goals[name] is None and name not in ("qed", "sa", "lipinski"):
            raise ValueError(f"goal is {word!r}, which has no most that is best; give a range, as in {name}=1..3.")
    if not goals:
        raise ValueError("there is no goal; name at least one, such as qed.")
    return goals


def score(values: Tensor, goals: Goals) -> Tensor:
    """(M,) in [0, 1] from properties (M, P) in the order of the goals: the mean of how far each is met. Outside of a range it
    falls as exp(-distance / usual size). NaN stays NaN."""
    met = []
    for column, (name, span) in zip(values.unbind(1), goals.items(), strict=True):
        if span is None:
            met.append(column)
        else:
            away = (span[0] - column).clamp(min=0) + (column - span[1]).clamp(min=0)
            met.append(torch.exp(-away / molecules.PROPERTIES[name][1]))
    return torch.stack(met, 1).mean(1)


@dataclass(frozen=True)
class Asked(Rounds):
    """How to design.

    Args:
        goals: what is wanted.
        properties: conditions of a run that has such, and what `steer` is to lead to, in their own units; from the second round
            on, for what is drawn anew and for what is made of others.
    """

    goals: Goals
    properties: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.count < 2 or self.parents < 1:
            raise ValueError(f"rounds is {self.rounds}, count {self.count} and parents {self.parents}; give 1, 2 and 1 or more.")
        if not 0 < self.level <= 1 or not 0 <= self.fresh <= 1:
            raise ValueError(f"level is {self.level} and fresh {self.fresh}; give a level above 0 and a share, both up to 1.")
        if self.steer is None and self.strength != Rounds.strength:
            raise ValueError(f"strength is {self.strength:g}, of what designs are steered by, which steer names; leave it out.")
        for name in ("parents", "level") if self.fresh == 1 else ():
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} is {value}, of what is made from others, and fresh is 1; leave it out.")


def design(run: Run, asked: Asked, out: Path, say: Any = print) -> list[dict[str, float]]:
    """Rounds of design; a line of rounds.jsonl for each, the best so far in best.smi, designs.json and best.png.

    What is found in `out` is gone on from: a round is a function of the seed, its number, and the designs before it.

    Raises:
        ValueError: for a run that is not of molecules, properties that it does not have, or `out` of other goals or weights.
    """
    if not isinstance(run.domain, MoleculeDomain):
        raise ValueError("this run is not of molecules; design with one that is, such as of qm9-graph.")
    if asked.guidance is not None:  # found otherwise by the second round, after the first was drawn
        check_strength(run, asked.guidance)
        if asked.guidance != 1 and not asked.properties and run.facts.classes is None:
            raise ValueError(f"guidance is {asked.guidance:g}, of properties, and none is asked for; say --property, or leave it "
                             "out.")  # fmt: skip
    table = chosen(run, asked.plan, asked.guidance)
    if isinstance(table, Plan):
        raise ValueError(f"plan is {asked.plan!r}, which is written out; name one that can begin late, such as ddpm:100.")
    properties, steer = dict(asked.properties or {}), None
    if asked.steer is not None:
        steer, properties = aimed(run, asked.steer, properties, asked.strength, asked.plan)
    if properties:
        run.domain.conditions(run, properties, 1)  # refused now rather than after a round
    told, pool = _before(run, out, asked)
    for number in range(len(told), asked.rounds):
        seed = asked.seed * 1000 + number
        best = list(_best(run, pool, asked.parents))
        fresh = asked.count if not best else round(asked.fresh * asked.count)
        drawn: list[Graph] = []
        if fresh:
            # the first round is the baseline, which nothing guides
            guide: dict[str, Any] = {"guidance": 1.0}
            if number:
                guide = {"properties": properties, "guidance": asked.guidance, "steer": steer}
            drawn += run.domain.graphs(run, draw(run, fresh, plan=asked.plan, seed=seed, **guide))
        if fresh < asked.count:
            others = asked.count - fresh
            drawn += _children(run, best, others, table, asked.level, seed, properties, asked.guidance, steer)
        told.append(_round(run, asked, drawn, pool, number))
        _keep(run, out, told, pool, asked)
        say("  ".join(f"{name} {value:.3g}" for name, value in told[-1].items()))
    return told


def _best(run: Run, pool: Mapping[str, float], most: int) -> dict[str, Graph]:
    """The best so far and their graphs; what is read back with atoms that are no types of the run's is passed over."""
    types, found = of(run.facts).node_types, {}
    for s in sorted(pool, key=lambda s: (-pool[s], s)):
        mol = molecules.molecule_of(s) if len(found) < most else None
        if mol is not None and set(molecules.types_of(mol)) <= set(types):
            found[s] = molecules.graph_of_molecule(mol, types)
    return found


def _children(
    run: Run, parents: Sequence[str], count: int, table: Any, level: float, seed: int,
    properties: Mapping[str, float] | None = None, guidance: float | None = None, steer: Steer | None = None,
) -> list[Graph]:  # fmt: skip
    """Molecules near others: their graphs raised to a level, and denoised."""
    assert isinstance(run.domain, MoleculeDomain)
    known = of(run.facts)
    graphs = [molecules.graph_of_molecule(molecules.molecule_of(s), known.node_types) for s in parents]
    source = Graphs(graphs, known.node_types, known.edge_types, size=len(known.sizes) - 1)
    device = next(run.denoiser.parameters()).device
    made: list[Graph] = []
    for first in range(0, count, BATCH):
        now = min(BATCH, count - first)
        batch, noise = source.batch(torch.arange(first, first + now) % len(parents)), Noise.of(seed, now, first)
        assert isinstance(batch.x, Mapping) and batch.mask is not None
        start = {}
        for name, leaf in run.denoiser.process.leaves().items():
            t = torch.full((now, *[1] * (batch.x[name].ndim - 1)), level, dtype=torch.float64)
            start[name] = leaf.marginal(batch.x[name], t, noise.at("parents").at(name), batch.mask).to(device)
        plan = plans.begin(table, level)
        w = run.recipe.sample.guidance if guidance is None else guidance
        told = steered(guided(run, run.domain.conditions(run, properties, now), now, w) if properties else {}, steer)
        x = sample(run.denoiser, plan, now, start=start, mask=batch.mask, seed=seed, first_id=first, **told)
        made += run.domain.graphs(run, run.domain.finish(run, x, {"mask": batch.mask}))  # pyright: ignore
    return made


def _round(run: Run, asked: Asked, drawn: Sequence[Graph], pool: dict[str, float], number: int) -> dict[str, float]:
    """The numbers of a round, whose designs join the pool."""
    types, names = of(run.facts).node_types, list(asked.goals)
    values = molecules.scores(drawn, types, [*names, "lipinski"])
    reached = score(values[:, :-1], asked.goals)
    said = [molecules.smiles_of(g, types) for g in drawn]
    whole = [k for k, s in enumerate(said) if s is not None and "." not in s]
    kept = [k for k in whole if not asked.rules or float(values[k, -1]) == 1]
    new = {said[k] for k in kept} - set(pool)
    pool.update({str(said[k]): float(reached[k]) for k in kept})
    different = sorted({str(said[k]) for k in kept})
    return {
        "round": number, "valid": sum(s is not None for s in said) / len(said), "connected": len(whole) / len(said),
        "kept": len(kept) / len(said), "unique": len(different) / max(len(kept), 1), "new": len(new) / max(len(different), 1),
        "diversity": molecules.diversity(different), "score": _mean(reached[kept]),
        **{name: _mean(values[kept, i]) for i, name in enumerate(names)}, "best": max(pool.values(), default=math.nan),
    }  # fmt: skip


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def _settings(asked: Asked) -> dict[str, Any]:
    said = {**vars(asked), "goals": {n: None if s is None else list(s) for n, s in asked.goals.items()}}
    said["properties"] = None if asked.properties is None else dict(asked.properties)
    said["steer"] = None if asked.steer is None else str(asked.steer)
    unused = ("steer", "strength") if asked.steer is None else ()
    return {name: value for name, value in said.items() if name not in ("rounds", *unused)}


def _before(run: Run, out: Path, asked: Asked) -> tuple[list[dict[str, float]], dict[str, float]]:
    file = out / "designs.json"
    if not file.exists():
        return [], {}
    found = parse_json(file.read_bytes(), file)
    if not isinstance(found, dict) or not isinstance(found.get("rounds"), list) or not isinstance(found.get("designs"), dict):
        raise ValueError(f"{file} is damaged: it holds no designs; delete it to begin anew.")
    was, now = found.get("asked"), _settings(asked)
    for name in [*now, *(was if isinstance(was, dict) else ())]:
        if not isinstance(was, dict) or was.get(name) != now.get(name):
            before = was.get(name) if isinstance(was, dict) else was
            raise ValueError(f"{name} is {now.get(name)} but the designs in {out} were asked for otherwise, with {before}; ask "
                             "for the same, or choose another directory.")  # fmt: skip
    if found.get("weights", of_weights(run)) != of_weights(run):
        raise ValueError(f"{out} holds designs of other weights than this run's; put those back, or choose another directory.")
    return [{n: math.nan if v is None else v for n, v in line.items()} for line in found["rounds"]], found["designs"]


def _keep(run: Run, out: Path, told: list[dict[str, float]], pool: dict[str, float], asked: Asked) -> None:
    out.mkdir(parents=True, exist_ok=True)
    best = sorted(pool, key=lambda s: (-pool[s], s))
    rounds = [{n: None if math.isnan(v) else v for n, v in line.items()} for line in told]  # a mean of nothing is no JSON
    write(out / "best.smi", "".join(f"{s}\t{pool[s]:.4f}\n" for s in best[:1000]))
    write(out / "rounds.jsonl", "".join(f"{json.dumps(line)}\n" for line in rounds))
    if shown := _best(run, pool, 20):
        with staged(out / "best.png") as beside:
            legends = [f"{pool[s]:.3f}" for s in shown]
            molecules.picture(list(shown.values()), of(run.facts).node_types, 5, legends).save(beside)
    # last: it is what says that the round is done
    said = {"asked": _settings(asked), "weights": of_weights(run), "rounds": rounds, "designs": pool}
    write(out / "designs.json", json.dumps(said))
