"""From the settings of a process to the process."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from langevin import schedules, spec
from langevin.core import prediction
from langevin.core.categorical import Categorical, General, Kernel
from langevin.core.gaussian import Gaussian
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process, Product
from langevin.core.schedule import Schedule
from langevin.data import Arrays, Stream
from langevin.heads import HEADS
from langevin.interpolants import Interpolant
from langevin.kernels import Chain, Squared, discretised_gaussian, nearest_neighbour_rates, ordinal_rates
from langevin.recipes import config as c
from langevin.recipes.beliefs import belief


def _ordinal(categories: int, width: float = 0.05, squared: bool = False) -> Kernel:
    return _of_rates(ordinal_rates(categories, width), squared)


def _neighbours(categories: int, count: int = 4, embeddings: str = "", squared: bool = False) -> Kernel:
    """Neighbours in value, at equal angles of a quarter circle, or by the cosine of rows of a file (K, D)."""
    if not embeddings:
        angle = torch.linspace(0, math.pi / 2, categories, dtype=torch.float64)
        places = torch.stack([angle.cos(), angle.sin()], 1)
    else:
        rows = Arrays(embeddings)
        x = rows.batch(torch.arange(len(rows))).x
        assert isinstance(x, Tensor)
        places = x.double()
        if places.ndim != 2 or len(places) != categories:
            raise ValueError(
                f"embeddings is {embeddings}, of shape {tuple(places.shape)}; give a row for each of the {categories} categories."
            )
    return _of_rates(nearest_neighbour_rates(places, count), squared)


def _of_rates(rates: Tensor, squared: bool) -> Kernel:
    return Squared(rates) if squared else General(rates)


KERNELS: dict[str, Callable[..., Kernel]] = {"gaussian": discretised_gaussian, "neighbours": _neighbours, "ordinal": _ordinal}

INFORMATION = "mutual_information"


def scheduled(
    text: str, marginal: Sequence[float] | None = None, limit: str = "uniform", kernel: Kernel | None = None
) -> Schedule:
    """The schedule of categories that `text` names; mutual_information is made from the shares of categories in the data.

    Raises:
        ValueError: for other names, shares that are not known, or a kernel that is no matrix of rates.
    """

    def information(nodes: int = 1024) -> Schedule:
        if limit == "mask":
            return schedules.keep_linear()  # it is that, whatever the data
        if marginal is None:
            raise ValueError(f"schedule is {INFORMATION!r}, and the shares of categories are not known here; use keep_linear.")
        if isinstance(kernel, Chain):
            raise ValueError(f"schedule is {INFORMATION!r}, and a chain of matrices has steps of its own; use keep_linear.")
        p = torch.tensor(marginal, dtype=torch.float64)
        return schedules.mutual_information(p, p if limit == "marginal" else None, nodes, kernel)

    return spec.parse(text, {**schedules.SCHEDULES, INFORMATION: information}, "schedule")


def leaf(
    cfg: c.GaussianConfig | c.InterpolantConfig | c.CategoricalConfig, marginal: Sequence[float] | None = None
) -> tuple[LeafProcess, Prediction]:
    """(process, prediction) of one tensor."""
    predicted = spec.parse(cfg.prediction, {**prediction.PREDICTIONS, **HEADS}, "prediction")
    if isinstance(cfg, c.InterpolantConfig):
        return Interpolant(spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule"), cfg.noise, cfg.shape), predicted
    if isinstance(cfg, c.GaussianConfig):
        return Gaussian(spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule")), predicted
    if cfg.kernel is not None:
        if cfg.limit != "uniform":
            raise ValueError(f"process.kernel is {cfg.kernel!r} and process.limit {cfg.limit!r}; a kernel takes limit uniform.")
        made = {name: partial(kernel, cfg.categories) for name, kernel in KERNELS.items()}
        kernel = spec.parse(cfg.kernel, made, "kernel")
        return Categorical(cfg.categories, scheduled(cfg.schedule, marginal, kernel=kernel), kernel=kernel), predicted
    schedule = scheduled(cfg.schedule, marginal, cfg.limit)
    if cfg.limit == "marginal":
        if marginal is None:
            raise ValueError("process.limit is 'marginal', and the shares of categories are not known here; use uniform.")
        return Categorical(cfg.categories, schedule, torch.tensor(marginal, dtype=torch.float64)), predicted
    return Categorical(cfg.categories, schedule, cfg.limit), predicted


def shares(cfg: c.ProcessConfig, train: Any, most: int = 10_000) -> tuple[float, ...] | None:
    """The share of each category in training data, by `most` samples at equal distances, where the process ends there or its
    schedule is made from them."""
    if not isinstance(cfg, c.CategoricalConfig) or not (cfg.limit == "marginal" or cfg.schedule.startswith(INFORMATION)):
        return None
    if isinstance(train, Stream):
        train = train.first(most)
    x = train.batch(torch.linspace(0, len(train) - 1, min(most, len(train))).long()).x
    counts = torch.bincount(x.flatten(), minlength=getattr(train, "categories", None) or cfg.categories).double() + 1e-3
    return tuple((counts / counts.sum()).tolist())


def make_process(cfg: c.ProcessConfig, marginal: Sequence[float] | None = None) -> tuple[Process, Any]:
    """(process, prediction); dicts by leaf for a product.

    Args:
        marginal: the share of each category, where noise ends there or the schedule is made from them.
    """
    if isinstance(cfg, c.UntouchedConfig):
        raise ValueError("process is 'none', which is of autoencoders; use network 'autoencoder' and objective 'autoencoding'.")
    if isinstance(cfg, c.EmbeddedConfig):
        raise ValueError("process is 'embedded', whose points are of words; use it with data 'sentences'.")
    if isinstance(cfg, (c.GraphConfig, c.GraphScoresConfig)):
        raise ValueError(f"process is {cfg.kind!r}, which is of nodes and edges; use it with data 'graphs' or 'molecules'.")
    if isinstance(cfg, c.BeliefConfig):
        return belief(cfg)
    if not isinstance(cfg, c.ProductConfig):
        return leaf(cfg, marginal)
    made = {"image": leaf(cfg.image), "label": leaf(cfg.label)}
    return Product({n: p for n, (p, _) in made.items()}), {n: q for n, (_, q) in made.items()}
