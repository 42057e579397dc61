"""Points, and rows of tables: scatter plots and the energy distance."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langevin import pictures
from langevin.core.categorical import Categorical
from langevin.core.process import Process
from langevin.data import two_moons
from langevin.data.table import Table, read_rows, table
from langevin.evaluate import Evaluation, energy_distance
from langevin.files import write
from langevin.heads import outputs
from langevin.networks import SequenceTransformer
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked, Domain
from langevin.recipes.domains.pictures import classes_of, network, of_arrays, write_numbers
from langevin.recipes.drawing import draw, labels_of
from langevin.recipes.evaluation import card
from langevin.recipes.facts import Facts, TableFacts
from langevin.recipes.recorded import record_of


class PointDomain(Domain):
    """Two moons, rows of arrays, rows of tables; these are handed on in their own units."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".npy", ".csv")
    least: ClassVar[int] = 2
    metrics: ClassVar[Mapping[str, str]] = {
        "energy_distance": "energy distance of points, unbiased; samples, and training data, against held-out points"
    }

    def read(self, cfg: Any, scan: Path | None = None) -> tuple[Any, Any]:
        if isinstance(cfg, c.ArraysData):
            return of_arrays(cfg)
        if isinstance(cfg, c.TableData):
            return table(cfg.path, cfg.label, cfg.columns, cfg.held_out)
        return two_moons(cfg.count, cfg.std, 0), two_moons(cfg.count // 10, cfg.std, 1)

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        if not isinstance(train, Table):
            return Facts(shape=train.shape, classes=classes_of(train, recipe))
        label = recipe.drawn.label if isinstance(recipe.drawn, c.TableData) else None
        told = TableFacts(
            columns=train.columns, mean=tuple(train.mean.tolist()), scale=tuple(train.scale.tolist()), label=label,
            classes=train.classes,
        )  # fmt: skip
        classes = classes_of(train, recipe) if train.classes is None else len(train.classes)
        return Facts(shape=train.shape, classes=classes, table=told)

    def as_begun(self, train: Any, test: Any, facts: Facts) -> tuple[Any, Any]:
        told = facts.table
        if not isinstance(train, Table) or told is None or told.columns != train.columns:
            return train, test
        mean, scale = torch.tensor(told.mean).double(), torch.tensor(told.scale).double()
        return train.by(mean, scale), test.by(mean, scale)

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        leaf = process.leaves().get("")
        if not isinstance(leaf, Categorical) or not isinstance(cfg, c.SequenceConfig):
            return network(cfg, facts, process, scalars, tokens, predictions=predictions)
        if facts.classes is not None or scalars:
            raise ValueError("network is 'sequence', which is told no labels, and this data has some; leave data.label out.")
        if cfg.block is not None or not (cfg.timed or leaf.masked):
            raise ValueError(
                f"network.block is {cfg.block} and network.timed {cfg.timed}; rows of categories have no blocks, and without "
                "masks do not show how much noise they have, so say --network.timed."
            )
        options = cfg.model_dump(exclude={"kind"})
        return SequenceTransformer(leaf.states, outputs(predictions, leaf), **options)

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """A scatter plot of 1,000, beside the data; of more columns than two, along the first principal axes of the data."""
        real = run.test.batch(torch.arange(len(run.test))).x
        drawn = draw(run, 1000, seed=seed, label=label, **options)
        return plot([("data", real), ("samples", drawn)], stem.with_suffix(".png"))

    def write(self, run: Run, x: Tensor, path: Path, **options: Any) -> Path:
        if path.suffix == ".png":
            return plot([("samples", x)], path, record_of(run, len(x), **options))
        own = self._own(run, x.cpu())
        return write_numbers(own, path) if path.suffix == ".npy" else self._csv(run, own, path, options.get("label"))

    def _own(self, run: Run, x: Tensor) -> Tensor:
        """Rows in their own units."""
        told = run.facts.table
        return x if told is None else (x.double() * torch.tensor(told.scale).double() + torch.tensor(told.mean).double()).float()

    def _csv(self, run: Run, x: Tensor, path: Path, label: Any) -> Path:
        told, classes = run.facts.table, run.facts.classes
        names = [f"x{k}" for k in range(x.shape[1])] if told is None else list(told.columns)
        lines = [[f"{v:.9g}" for v in row] for row in x.tolist()]
        if classes is not None:
            asked = torch.arange(len(x)) % classes if label is None else torch.as_tensor(label).expand(len(x))
            said = range(classes) if told is None or told.classes is None else told.classes
            names.append("label" if told is None or told.classes is None else told.label or "label")
            lines = [[*line, str(said[int(k)])] for line, k in zip(lines, asked, strict=True)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *lines])
        return write(path, text.getvalue())

    def rows(self, run: Run, path: Path, given: bool = False) -> Any:
        told = run.facts.table
        if told is None:
            return super().rows(run, path)
        if path.suffix != ".csv":
            super().rows(run, path)
            return Table(read_rows(path), torch.tensor(told.mean).double(), torch.tensor(told.scale).double())
        read = read_rows(path, None if told.classes is None else told.label, told.columns, told.classes)
        return Table(read, torch.tensor(told.mean).double(), torch.tensor(told.scale).double())

    def volume(self, run: Run) -> float:
        return 0.0 if run.facts.table is None else sum(map(math.log, run.facts.table.scale))

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        """The energy distance to held-out points, beside that of training data."""
        if asked.metrics or str(asked.features) != "auto":
            raise ValueError("this run is of points, judged by their energy distance alone; leave out metrics and features.")
        train, test = (s.batch(torch.arange(len(s))).x.float() for s in (run.train, run.test))
        label = None
        if run.facts.classes is not None and not isinstance(run.recipe.drawn, c.MoonsData):  # as often as held-out rows have them
            label = labels_of(run.test)[torch.arange(asked.count) % len(test)]
        ((w, plan),) = asked.plans.items()
        samples = draw(run, asked.count, seed=asked.seed, plan=plan, label=label, guidance=w).cpu().float()
        spread = torch.linspace(0, len(train) - 1, min(len(train), len(test))).long()  # files may be in order
        floor = energy_distance(train[spread], test)
        values: dict[str, Any] = {"energy_distance": energy_distance(samples, test), "energy_distance_real": floor}
        known = "none: points" if run.facts.table is None else "none: rows, each column at mean 0 and deviation 1 of training"
        strengths = (w,) if run.facts.conditional else ()
        made = card(sampled, small=False, pixels=known, metrics=dict(self.metrics), guidance=strengths)
        return Evaluation(metrics=values, protocol=made)

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        if set(metrics) - {"fd"}:  # the recipe's default
            raise ValueError(f"evaluation.metrics are {', '.join(metrics)}, and points are judged by their energy distance "
                             "alone; leave them out.")  # fmt: skip
        return ()


def plot(points: Sequence[tuple[str, Tensor]], path: Path, record: Mapping[str, Any] | None = None) -> Path:
    """Point sets (N, D) side by side in a plane: of the first principal axes of the first set, or values against their ranks."""
    wide = points[0][1].shape[1]
    first = points[0][1].double().cpu()
    axes = torch.linalg.svd(first - first.mean(0), full_matrices=False)[2][:2].T if wide > 2 else torch.eye(wide).double()
    shown = []
    for title, x in points:
        x = x.double().cpu()
        at = (x - first.mean(0)) @ axes if wide > 2 else x
        if at.shape[1] == 1:
            at = torch.cat([at.sort(0).values, (torch.arange(len(at))[:, None] + 0.5) / len(at)], 1)
        shown.append((title, at))
    return pictures.plot_points(shown, path, record)


DOMAIN = PointDomain()
