"""Bayesian flow networks of recipes: the process and prediction that their settings mean, and the data that suits them."""

from typing import Any

import torch

from langevin import bayesian_flow
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess
from langevin.core.tree import leaves
from langevin.data import Arrays
from langevin.embedded import Logits
from langevin.recipes import config as c

LOOKED_AT = 1000
"""Samples, at most, whose range is compared with the bound of beliefs."""


def belief(cfg: c.BeliefConfig) -> tuple[LeafProcess, Prediction]:
    """(process, prediction) of a Bayesian flow network (2308.07037): clipped noise of numbers, the masses of bins, or logits of
    a network that is shown probabilities.

    Raises:
        ValueError: for settings of another form, or form discrete without beta_1.
    """
    of_numbers = cfg.form != "discrete"
    name, other = ("beta_1", "sigma_1") if of_numbers else ("sigma_1", "beta_1")
    if (given := getattr(cfg, name)) is not None:
        raise ValueError(f"process.{name} is {given:g}, and process.form {cfg.form!r} goes by process.{other}; leave it out.")
    if not of_numbers and cfg.beta_1 is None:
        raise ValueError("process.beta_1 is not given, and process.form 'discrete' needs it; 9 was published for 2 categories.")
    if cfg.form == "discretised":
        return bayesian_flow.discretised(cfg.categories, cfg.sigma_1), bayesian_flow.Bins()
    if cfg.form == "discrete":
        assert cfg.beta_1 is not None
        return bayesian_flow.discrete(cfg.categories, cfg.beta_1), Logits(shown="probs")
    process = bayesian_flow.continuous() if cfg.sigma_1 is None else bayesian_flow.continuous(cfg.sigma_1)
    return process, bayesian_flow.ClippedNoise(cfg.bound)


def check(recipe: c.Recipe, train: Any) -> None:
    """Refuse data that a form of belief is not of, before anything is made of it.

    Args:
        train: training data.

    Raises:
        ValueError: naming the form and the remedy.
    """
    cfg, drawn = recipe.process, recipe.drawn
    if not isinstance(cfg, c.BeliefConfig):
        return
    if isinstance(train.shape, dict):
        raise ValueError("process is 'belief', and this data is a product of leaves; use data.form image or categories.")
    index = torch.linspace(0, len(train) - 1, LOOKED_AT).long().unique() if isinstance(train, Arrays) else torch.tensor([0])
    # what streams and folders read are pictures, numbers in [-1, 1]; nothing is fetched to know it
    x = leaves(train.batch(index).x)[""] if hasattr(train, "batch") else torch.zeros(1, *train.shape)
    wants = (
        "data.form categories" if isinstance(drawn, c.DigitsData) else "data 'arrays' of int64, or 'digits' of form categories"
    )
    if cfg.form == "continuous" and not x.is_floating_point():
        numbers = "data.form image" if isinstance(drawn, c.DigitsData) else "floats"
        raise ValueError(f"process.form is 'continuous', and this data is of categories; use discretised, or {numbers}.")
    if cfg.form != "continuous" and (x.is_floating_point() or isinstance(recipe.data, c.UpscaleData) or x.ndim != 4):
        what = "numbers" if x.is_floating_point() else "no pictures of categories by themselves"
        raise ValueError(f"process.form is {cfg.form!r}, and this data is {what}; use process.form continuous, or {wants}.")
    if isinstance(drawn, c.DigitsData) and cfg.form != "continuous" and drawn.levels != cfg.categories:
        raise ValueError(f"process.categories is {cfg.categories}, and data.levels is {drawn.levels}; make them agree.")
    if cfg.form == "continuous" and cfg.bound is not None and (far := float(x.abs().max())) > cfg.bound:
        raise ValueError(
            f"process.bound is {cfg.bound:g}, where beliefs are clipped, and data reaches to {far:.3g}; raise it, or give None."
        )
