"""Points in the plane: scatter plots and the energy distance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langevin import pictures
from langevin.core.process import Process
from langevin.data import two_moons
from langevin.evaluate import Evaluation, energy_distance
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked, Domain
from langevin.recipes.domains.pictures import classes_of, network, write_numbers
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import card
from langevin.recipes.facts import Facts


class PointDomain(Domain):
    """Two moons."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".npy")
    metrics: ClassVar[Mapping[str, str]] = {
        "energy_distance": "energy distance of points, unbiased; samples, and training data, against held-out points"
    }

    def read(self, cfg: c.MoonsData, scan: Path | None = None) -> tuple[Any, Any]:
        return two_moons(cfg.count, cfg.std, 0), two_moons(cfg.count // 10, cfg.std, 1)

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        return Facts(shape=train.shape, classes=classes_of(train, recipe))

    def network(
        self, cfg: c.NetworkConfig, facts: Facts, process: Process, scalars: Sequence[str] = (), tokens: int | None = None
    ) -> nn.Module:
        return network(cfg, facts, process, scalars, tokens)

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """A scatter plot of 1,000, beside the data."""
        real = run.test.batch(torch.arange(len(run.test))).x
        drawn = draw(run, 1000, seed=seed, label=label, **options)
        return pictures.plot_points([("data", real), ("samples", drawn)], stem.with_suffix(".png"))

    def write(self, run: Run, x: Tensor, path: Path, **options: Any) -> Path:
        return write_numbers(x, path) if path.suffix == ".npy" else pictures.plot_points([("samples", x)], path)

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        """The energy distance to held-out points, beside that of training data."""
        if asked.metrics or str(asked.features) != "auto":
            raise ValueError("this run is of points, judged by their energy distance alone; leave out metrics and features.")
        train, test = (s.batch(torch.arange(len(s))).x for s in (run.train, run.test))
        samples = draw(run, asked.count, seed=asked.seed, plan=asked.plan).cpu()
        floor = energy_distance(train[: len(test)], test)
        values: dict[str, Any] = {"energy_distance": energy_distance(samples, test), "energy_distance_real": floor}
        made = card(sampled, small=False, pixels="none: points", metrics=dict(self.metrics))
        return Evaluation(metrics=values, protocol=made)

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        return ()  # it has one measure


DOMAIN = PointDomain()
