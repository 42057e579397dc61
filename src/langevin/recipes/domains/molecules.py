"""Molecules: drawn by rdkit, judged by what is valid, in one piece, unique and new, and by their descriptors."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from langevin.data import Graph, Graphs, molecules
from langevin.evaluate import Evaluation, frechet
from langevin.files import write
from langevin.graphs.features import Valencies
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.domains.graphs import GraphDomain, halves, of
from langevin.recipes.drawing import draw
from langevin.recipes.facts import Facts, GraphFacts


class MoleculeDomain(GraphDomain):
    """Molecules without their hydrogens."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".gif", ".smi", ".json")
    metrics: ClassVar[Mapping[str, str]] = {
        "valid": "share of samples that rdkit takes for molecules as they are, without any correction",
        "connected": "share of samples that are valid and in one piece",
        "unique": "of the valid ones, the share of different SMILES",
        "novel": "of the different ones, the share that are not in the training set",
        "fd": f"Frechet distance of {', '.join(molecules.DESCRIPTORS)}, each in units of its deviation in the training set; of "
        "the valid samples to held-out molecules; fd_floor is that of as many training molecules",
    }

    def read(self, cfg: c.MoleculesData, scan: Path | None = None) -> tuple[Graphs, Graphs]:
        """(training molecules, held-out molecules); what became of the rows of the file is said on stderr."""
        every = molecules.read_molecules(
            cfg.path, least=cfg.least, largest=cfg.largest, elements=cfg.elements, properties=cfg.properties, count=cfg.count,
            column=cfg.column,
        )  # fmt: skip
        if os.environ.get("RANK", "0") == "0":  # one of several processes says it
            print(every.rows, file=sys.stderr)
        return halves(every, cfg)

    def facts(self, train: Graphs, test: Graphs, recipe: c.Recipe) -> Facts:
        assert isinstance(train, molecules.Molecules)
        known = super().facts(train, test, recipe)
        # the weights learned a column in these units; what was left out they never saw, so that it is none of the facts
        measured = tuple((name, *units) for name, units in train.measured.items())
        return known.model_copy(update={"graph": of(known).model_copy(update={"measured": measured})})

    def as_begun(self, train: Graphs, test: Graphs, facts: Facts) -> tuple[Graphs, Graphs]:
        units = {name: (mean, deviation) for name, mean, deviation in of(facts).measured}
        halves = super().as_begun(train, test, facts)
        return tuple(half.by(units) if isinstance(half, molecules.Molecules) else half for half in halves)  # pyright: ignore

    def valencies(self, known: GraphFacts) -> Valencies:
        return Valencies(molecules.ORDERS, *molecules.valencies(known.node_types))

    def picture(self, run: Run, graphs: Sequence[Graph], columns: int) -> Image.Image:
        return molecules.picture(graphs, of(run.facts).node_types, columns)

    def write(self, run: Run, x: dict[str, Tensor], path: Path, **options: Any) -> Path:
        """A picture (.png), SMILES of the valid ones (.smi), or nodes and edges (.json)."""
        if path.suffix != ".smi":
            return super().write(run, x, path, **options)
        said = [molecules.smiles_of(g, of(run.facts).node_types) for g in self.graphs(run, x)]
        if left := said.count(None):
            print(f"{left} of {len(said)} samples are no valid molecules, and are left out of {path}.", file=sys.stderr)
        return write(path, "".join(f"{s}\n" for s in said if s is not None))

    def conditions(self, run: Run, properties: Mapping[str, float], count: int) -> dict[str, Any]:
        known = of(run.facts).properties
        for name in properties:
            if name not in known:
                raise ValueError(f"property is {name!r}; this run has {', '.join(known) or 'none'}.")
        if missing := [name for name in known if name not in properties]:  # training drops all of them or none
            raise ValueError(f"property {missing[0]!r} is not given, and this run learned its properties together; give each.")
        units = {name: (mean, deviation) for name, mean, deviation in of(run.facts).measured}
        cond = {}
        for name, value in properties.items():
            mean, size = units[name] if name in units else (0.0, molecules.PROPERTIES[name][1])
            cond[name] = torch.full((count,), (value - mean) / size)
        return cond

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        measured = {name for name, *_ in of(run.facts).measured}
        if unknown := [name for name in asked.properties or () if name in measured]:
            said = f"{', '.join(unknown)} was measured, and cannot be computed of samples"
            if len(unknown) == len(asked.properties or ()):
                raise ValueError(f"property is {unknown[0]!r}: {said}; judge this run without it.")
            print(f"{said}: how near they come to it is not known.", file=sys.stderr)
        return super().evaluate(run, asked, sampled)

    def nearness(self, run: Run, asked: Asked, samples: Sequence[Graph]) -> tuple[dict[str, float], dict[str, str]]:
        """The mean absolute errors of computed properties, of valid samples alone, and of as many drawn unconditionally from the
        same noise."""
        wanted, measured = dict(asked.properties or {}), {name for name, *_ in of(run.facts).measured}
        names = [name for name in wanted if name not in measured]
        every = ", ".join(f"{name}={value:g}" for name, value in wanted.items())
        free = self.graphs(run, draw(run, asked.count, seed=asked.seed, plan=asked.plan, guidance=1.0))
        goal = torch.tensor([wanted[name] for name in names], dtype=torch.float64)
        values: dict[str, float] = {}
        for ending, some in (("", samples), ("_unconditional", free)):
            away = (molecules.scores(some, of(run.facts).node_types, names) - goal).abs()
            away = away[away.isfinite().all(1)]
            if len(away):  # else there is no mean
                values |= {f"{name}_mae{ending}": float(error) for name, error in zip(names, away.mean(0), strict=True)}
        meant = {f"{name}_mae": f"mean |{name} - {wanted[name]:g}| of the valid of the samples, which are asked for {every}; "
                 f"{name}_mae_unconditional is that of as many that are asked for nothing, without guidance, from the same noise"
                 for name in names}  # fmt: skip
        return dict(sorted(values.items())), meant

    def judge(self, run: Run, samples: Sequence[Graph]) -> dict[str, Any]:
        types = of(run.facts).node_types
        values: dict[str, Any] = molecules.shares(samples, types, run.train.keys)
        count = min(len(samples), len(run.test), len(run.train))

        def described(graphs: Sequence[Graph]) -> Tensor:
            table = molecules.scores(graphs, types, molecules.DESCRIPTORS)
            return table[table.isfinite().all(1)]

        # which of them: spread over the set
        train, test = (described([s[int(k)] for k in torch.linspace(0, len(s) - 1, count)]) for s in (run.train, run.test))
        drawn, scale = described(samples), train.std(0).clamp(min=1e-9)
        if len(drawn) > 1:
            values |= {"fd": frechet(drawn / scale, test / scale), "fd_floor": frechet(train / scale, test / scale)}
        return values


DOMAIN = MoleculeDomain()
