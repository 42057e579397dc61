"""Molecules: drawn by rdkit, judged by what is valid, in one piece, unique and new, and by their descriptors."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from langevin.data import Graph, Graphs, molecules
from langevin.evaluate import frechet
from langevin.files import write
from langevin.graphs.features import Valencies
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains.graphs import GraphDomain, halves, of
from langevin.recipes.facts import GraphFacts


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

    computed: ClassVar[Collection[str]] = molecules.PROPERTIES

    def read(self, cfg: c.MoleculesData, scan: Path | None = None) -> tuple[Graphs, Graphs]:
        """(training molecules, held-out molecules); what became of the rows of the file is said on stderr."""
        return halves(self._every(cfg), cfg)

    def _every(self, cfg: c.MoleculesData, **known: Any) -> Graphs:
        every = molecules.read_molecules(
            cfg.path, least=cfg.least, largest=cfg.largest, elements=cfg.elements, properties=cfg.properties, count=cfg.count,
            column=cfg.column, **known,
        )  # fmt: skip
        if os.environ.get("RANK", "0") == "0":  # one of several processes says it
            print(every.rows, file=sys.stderr)
        return every

    def _handed(self, cfg: c.MoleculesData, known: GraphFacts) -> Graphs:
        """Molecules that the run knows no such of are left out, and counted among the rows."""
        size = len(known.sizes) - 1
        within = {"largest": min(size, cfg.largest or size), "count": None}
        return self._every(cfg.model_copy(update=within), types=known.node_types)

    def valencies(self, known: GraphFacts, published: bool = False) -> Valencies:
        return Valencies(molecules.ORDERS, *molecules.valencies(known.node_types), published=published)

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

    def usual(self, name: str) -> float:
        return molecules.PROPERTIES[name][1]

    def scored(self, run: Run, graphs: Sequence[Graph], names: Sequence[str]) -> Tensor:
        return molecules.scores(graphs, of(run.facts).node_types, names)

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
