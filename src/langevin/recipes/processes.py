"""From the settings of a process to the process."""

from typing import Any

from langevin import schedules, spec
from langevin.core import prediction
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process, Product
from langevin.interpolants import Interpolant
from langevin.recipes import config as c


def leaf(cfg: c.GaussianConfig | c.InterpolantConfig | c.CategoricalConfig) -> tuple[LeafProcess, Prediction]:
    """(process, prediction) of one tensor."""
    schedule = spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule")
    predicted = spec.parse(cfg.prediction, prediction.PREDICTIONS, "prediction")
    if isinstance(cfg, c.InterpolantConfig):
        return Interpolant(schedule, cfg.noise, cfg.shape), predicted
    if isinstance(cfg, c.GaussianConfig):
        return Gaussian(schedule), predicted
    return Categorical(cfg.categories, schedule, cfg.limit), predicted


def make_process(cfg: c.ProcessConfig) -> tuple[Process, Any]:
    """(process, prediction); dicts by leaf for a product."""
    if isinstance(cfg, c.EmbeddedConfig):
        raise ValueError("process is 'embedded', whose points are of words; use it with data 'sentences'.")
    if isinstance(cfg, (c.GraphConfig, c.GraphScoresConfig)):
        raise ValueError(f"process is {cfg.kind!r}, which is of nodes and edges; use it with data 'graphs' or 'molecules'.")
    if not isinstance(cfg, c.ProductConfig):
        return leaf(cfg)
    made = {"image": leaf(cfg.image), "label": leaf(cfg.label)}
    return Product({n: p for n, (p, _) in made.items()}), {n: q for n, (_, q) in made.items()}
