"""Regressors: what a run's noisy graphs say of a property, learned once, by which its samples are steered afterwards.

    run = open_run("runs/qm9-graph")
    regressor = regress(run, ("logp",), Path("runs/logp"))
    x = draw(run, 100, plan="tilted:500", steer=regressor.towards(run, {"logp": 2.0}, 10.0, of="state"))

The run is trained on no property, and stays as it is (DiGress, 2209.14734, sec. 5).
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.config import Closed, TrainConfig, refuse_unread
from langevin.core.categorical import Categorical
from langevin.core.noise import Noise
from langevin.core.tree import leaves, tree
from langevin.devices import device_of, seeded
from langevin.files import write
from langevin.guidance import ClassifierGuidance
from langevin.networks import GraphRegressor
from langevin.objectives import Regression
from langevin.objectives.regression import shown
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.config.regressing import NETWORK, TRAIN
from langevin.recipes.domains.graphs import GraphDomain, of
from langevin.recipes.facts import Facts
from langevin.recipes.opening import read_as
from langevin.recipes.ready.variant import but
from langevin.recipes.weights import held, put
from langevin.training import Model
from langevin.training.distributed import Group
from langevin.training.trainer import Trainer

FILE = "regressor.json"
LEVELS, MOST = (0.1, 0.3, 0.5, 0.7, 0.9), 500


class Kept(Closed):
    """What stands beside a regressor's weights: enough to make it again, and to know whose graphs it reads."""

    run: str
    """Name of the recipe of the run whose graphs it reads."""
    properties: tuple[str, ...]
    facts: Facts
    process: c.ProcessConfig
    network: c.GraphTransformerConfig
    train: TrainConfig


@dataclass(frozen=True)
class Regressor:
    """E[property | noisy graph], in units of the property's deviation.

    Args:
        net: the network. kept: what it was made from.
    """

    net: GraphRegressor
    kept: Kept

    def units(self, run: Run) -> dict[str, tuple[float, float]]:
        """(mean, size) of each property: it is mean + size times what the network says."""
        assert isinstance(run.domain, GraphDomain)
        told = {name: (mean, size) for name, mean, size in of(self.kept.facts).measured}
        return {name: told.get(name, (0.0, run.domain.usual(name))) for name in self.kept.properties}

    def towards(self, run: Run, wanted: Mapping[str, float], strength: float = 1.0, of: str = "belief") -> ClassifierGuidance:
        """The guidance of a run's samples to properties `wanted`, in their own units: log p = -`strength` |g(z_t) - wanted|^2 in
        units of a property's deviation, summed over properties.

        Args:
            of: "belief" under every plan, "state" under `plans.tilted`, as DiGress has it; see `ClassifierGuidance`.

        Raises:
            ValueError: for properties it does not know, or a run of other graphs or another noise.
        """
        if unknown := [name for name in wanted if name not in self.kept.properties]:
            raise ValueError(f"property is {unknown[0]!r}, and this regressor knows {', '.join(self.kept.properties)}.")
        if not wanted:
            raise ValueError(f"nothing is asked for; name one of {', '.join(self.kept.properties)}, as in logp=2.")
        fits(run, self.kept)
        units = self.units(run)
        place = [self.kept.properties.index(name) for name in wanted]
        goal = torch.tensor([(value - units[name][0]) / units[name][1] for name, value in wanted.items()])

        def log_prob(z: Any, t: Any, cond: Any, mask: Tensor | None) -> Tensor:
            said = self.asked(z, t, mask)[:, place]
            return -(said - goal.to(said)).square().sum(1)

        return ClassifierGuidance(log_prob, strength, of, padded=True)

    def asked(self, z: Any, t: Any, mask: Tensor | None) -> Tensor:
        """(B, properties) in units of deviation; z types or one-hot floats by leaf, t levels by leaf."""
        states = leaves(z)
        return self.net(states, {name: shown(level, states[name]) for name, level in leaves(t).items()}, None, mask)


def regress(
    run: Run,
    properties: Sequence[str],
    out: Path,
    *,
    network: c.GraphTransformerConfig = NETWORK,
    train: TrainConfig = TRAIN,
    resume: bool = False,
    device: str = "cpu",
    say: Any = print,
) -> Regressor:
    """Train a regressor of properties on a run's own data under its own noise, in the directory `out`.

    Args:
        properties: what `--data.properties` of such data can be: computed ones, and columns of the file.
        resume: go on where a stop left it.

    Raises:
        ValueError: for a run that is not of types of nodes and edges, or a property that its data does not have.
    """
    domain, process = run.domain, run.denoiser.process
    if not isinstance(domain, GraphDomain) or not all(isinstance(leaf, Categorical) for leaf in process.leaves().values()):
        raise ValueError("a regressor reads graphs as types of nodes and edges, and this run is of something else; use one of "
                         "process 'graph', such as of qm9-graph.")  # fmt: skip
    if not properties:
        raise ValueError("no property is named; name at least one, such as logp.")
    refuse_unread(train, part="train.")
    if train.preview_every != TRAIN.preview_every:
        raise ValueError(f"train.preview_every is {train.preview_every}, and a regressor draws nothing to show; leave it out.")
    said: dict[str, Any] = {"properties": tuple(properties)}
    if isinstance(run.recipe.data, c.GraphsData):
        said["labels"] = False
    data = type(run.recipe.data).model_validate({**run.recipe.data.model_dump(), **said})
    halves = domain.as_begun(*domain.read(data), run.facts)  # pyright: ignore[reportArgumentType]
    facts = domain.facts(*halves, but(run.recipe, data=data))
    kept = Kept(run=run.recipe.name, properties=of(facts).properties, facts=facts, process=run.recipe.process,
                network=network, train=train)  # fmt: skip
    fits(run, kept)
    place = device_of(device)
    run.denoiser.to(place)
    with seeded(train.seed, torch.device("cpu")):
        model = Model(_net(domain, kept, run), facts.shape)
    model.to(place)
    learned(model, halves[0], Regression(process, kept.properties), train, out, resume, place, {FILE: kept})
    made = open_regressor(out, run)
    table = errors(made, run, halves[1])
    write(out / "errors.json", json.dumps(table, indent=1))
    for name, row in table.items():
        say(f"{name}: deviation {row['deviation']:.3g}; mean error at level " + ", ".join(
            f"{level:g} {row[f'{level:g}']:.3g}" for level in LEVELS))  # fmt: skip
    return made


def learned(
    model: Model, data: Any, objective: Regression, train: TrainConfig, out: Path, resume: bool, place: torch.device,
    beside: Mapping[str, Closed],
) -> None:  # fmt: skip
    """Train to the end what reads noisy states, with files of words `beside` its checkpoints.

    Raises:
        KeyboardInterrupt, ValueError: where it was stopped.
    """
    with closing(Trainer(model, data, objective, train, out, resume, None, Group(place))) as trainer:  # pyright: ignore
        assert trainer.folder is not None
        trainer.folder.open()
        for name, words in beside.items():
            write(out / name, words.model_dump_json(indent=1))
        trainer.run()
        if not trainer.finished:
            end = KeyboardInterrupt if trainer.stopped else ValueError
            raise end(f"stopped at step {trainer.step}; the same command with --resume goes on.")


def open_regressor(path: str | Path, run: Run) -> Regressor:
    """A trained regressor for a run, with the averaged weights of its newest checkpoint, where the run's weights are.

    Raises:
        ValueError: if there is none, or it was learned on other graphs or another noise than the run's.
    """
    file = Path(path) / FILE
    if not file.exists():
        raise ValueError(f"{path} is no regressor: it has no {FILE}; give what `langevin regress --out` made.")
    kept = read_as(file, Kept)
    fits(run, kept)
    assert isinstance(run.domain, GraphDomain)
    model = Model(_net(run.domain, kept, run), kept.facts.shape)
    put(model, held(Path(path), kept.train, None)[0], path)  # pyright: ignore[reportArgumentType]
    model.to(next(run.denoiser.parameters()).device).eval().requires_grad_(False)
    assert isinstance(model.net, GraphRegressor)
    return Regressor(model.net, kept)


def aimed(
    run: Run, path: str | Path, wanted: Mapping[str, float], strength: float, plan: str | None = None
) -> tuple[ClassifierGuidance, dict[str, float]]:
    """The guidance by a kept regressor to the properties that it knows, and the others: of the next state under a plan tilted:N,
    of beliefs under others.

    Raises:
        ValueError: as `open_regressor`, where it knows none of them, and for a strength that is none.
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength is {strength:g}; give a finite number, 0 or more.")
    regressor = open_regressor(path, run)
    known = {name: value for name, value in wanted.items() if name in regressor.kept.properties}
    of = "state" if (plan or run.recipe.sample.plan).partition(":")[0] == "tilted" else "belief"
    rest = {name: value for name, value in wanted.items() if name not in known}
    return regressor.towards(run, known, strength, of), rest


def fits(run: Run, kept: Kept) -> None:
    """Refuse a regressor of other graphs than a run's. Raises ValueError."""
    here, there = of(run.facts), of(kept.facts)
    pairs = {
        "process": (run.recipe.process, kept.process), "types of nodes": (here.node_types, there.node_types),
        "types of edges": (here.edge_types, there.edge_types), "most nodes": (len(here.sizes), len(there.sizes)),
    }  # fmt: skip
    for what, (a, b) in pairs.items():
        if a != b:
            raise ValueError(f"the regressor was learned with {what} {b}, and this run has {a}; regress on this run.")


@torch.no_grad()
def errors(regressor: Regressor, run: Run, test: Any) -> dict[str, dict[str, float]]:
    """By property, in its own units: its deviation over held-out graphs, and the mean absolute error of what is read from them at
    levels 0.1 to 0.9; at a level where nothing is left it is the mean distance from the mean."""
    batch = test.batch(torch.arange(min(len(test), MOST)))
    x, parts, device = leaves(batch.x), run.denoiser.process.leaves(), next(regressor.net.parameters()).device
    goal = torch.stack([batch.cond[name] for name in regressor.kept.properties], 1)
    size = torch.tensor([s for _, s in regressor.units(run).values()])
    found = {name: {"deviation": float(goal[:, k].std() * size[k])} for k, name in enumerate(regressor.kept.properties)}
    for level in LEVELS:
        noise = Noise.of(0, len(goal), 0, device).at(f"level {level:g}")
        t = {n: torch.full((len(goal), *[1] * (v.ndim - 1)), level, dtype=torch.float64) for n, v in x.items()}
        z = {n: leaf.marginal(x[n].to(device), t[n], noise.at(n), batch.mask.to(device)) for n, leaf in parts.items()}
        away = (regressor.asked(tree(z), tree(t), batch.mask.to(device)).cpu() - goal).abs().mean(0) * size
        for name, value in zip(found, away.tolist(), strict=True):
            found[name][f"{level:g}"] = value
    return found


def _net(domain: GraphDomain, kept: Kept, run: Run) -> GraphRegressor:
    return domain.regressor(kept.network, kept.facts, run.denoiser.process, len(kept.properties))
