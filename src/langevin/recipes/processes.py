"""From the settings of a process to the process."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from langevin import schedules, spec
from langevin.core import prediction
from langevin.core.categorical import Categorical, General, Kernel
from langevin.core.gaussian import Gaussian
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process, Product
from langevin.heads import HEADS
from langevin.interpolants import Interpolant
from langevin.kernels import discretised_gaussian, ordinal_rates
from langevin.recipes import config as c

KERNELS: dict[str, Callable[..., Kernel]] = {
    "gaussian": discretised_gaussian,
    "ordinal": lambda categories, width=0.05: General(ordinal_rates(categories, width)),
}


def leaf(
    cfg: c.GaussianConfig | c.InterpolantConfig | c.CategoricalConfig, marginal: Sequence[float] | None = None
) -> tuple[LeafProcess, Prediction]:
    """(process, prediction) of one tensor."""
    schedule = spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule")
    predicted = spec.parse(cfg.prediction, {**prediction.PREDICTIONS, **HEADS}, "prediction")
    if isinstance(cfg, c.InterpolantConfig):
        return Interpolant(schedule, cfg.noise, cfg.shape), predicted
    if isinstance(cfg, c.GaussianConfig):
        return Gaussian(schedule), predicted
    if cfg.kernel is not None:
        if cfg.limit != "uniform":
            raise ValueError(f"process.kernel is {cfg.kernel!r} and process.limit {cfg.limit!r}; a kernel takes limit uniform.")
        made = {name: partial(kernel, cfg.categories) for name, kernel in KERNELS.items()}
        return Categorical(cfg.categories, schedule, kernel=spec.parse(cfg.kernel, made, "kernel")), predicted
    if cfg.limit == "marginal":
        if marginal is None:
            raise ValueError("process.limit is 'marginal', and the shares of categories are not known here; use uniform.")
        return Categorical(cfg.categories, schedule, torch.tensor(marginal, dtype=torch.float64)), predicted
    return Categorical(cfg.categories, schedule, cfg.limit), predicted


def shares(cfg: c.ProcessConfig, train: Any, most: int = 10_000) -> tuple[float, ...] | None:
    """The share of each category in training data, by `most` samples at equal distances, where the process ends there."""
    if not isinstance(cfg, c.CategoricalConfig) or cfg.limit != "marginal":
        return None
    x = train.batch(torch.linspace(0, len(train) - 1, min(most, len(train))).long()).x
    counts = torch.bincount(x.flatten(), minlength=getattr(train, "categories", None) or cfg.categories).double() + 1e-3
    return tuple((counts / counts.sum()).tolist())


def make_process(cfg: c.ProcessConfig, marginal: Sequence[float] | None = None) -> tuple[Process, Any]:
    """(process, prediction); dicts by leaf for a product.

    Args:
        marginal: the share of each category, where noise ends there.
    """
    if isinstance(cfg, c.UntouchedConfig):
        raise ValueError("process is 'none', which is of autoencoders; use network 'autoencoder' and objective 'autoencoding'.")
    if isinstance(cfg, c.EmbeddedConfig):
        raise ValueError("process is 'embedded', whose points are of words; use it with data 'sentences'.")
    if isinstance(cfg, (c.GraphConfig, c.GraphScoresConfig)):
        raise ValueError(f"process is {cfg.kind!r}, which is of nodes and edges; use it with data 'graphs' or 'molecules'.")
    if not isinstance(cfg, c.ProductConfig):
        return leaf(cfg, marginal)
    made = {"image": leaf(cfg.image), "label": leaf(cfg.label)}
    return Product({n: p for n, (p, _) in made.items()}), {n: q for n, (_, q) in made.items()}
