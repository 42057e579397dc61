"""Objectives from their settings, with a teacher where they have one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from langevin import plans
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.process import Process
from langevin.data.pairs import Pairs, Prior, Starts
from langevin.data.source import Source
from langevin.guidance import CFG
from langevin.networks import PatchCritic
from langevin.objectives import ELBO, Autoencoding, BayesianFlow, Denoising, Embedding, Masking, MeanFlow, Objective, Shortcut
from langevin.objectives.adversarial import Adversarial
from langevin.objectives.consistency import Consistency, improved, paced
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.coupling import Paired
from langevin.objectives.distances import Distance
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.guidance_distillation import GuidanceDistillation
from langevin.objectives.interpolant import InterFlow
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.leaps import alike, one_gaussian
from langevin.objectives.progressive import Progressive
from langevin.objectives.rescheduled import Rescheduled
from langevin.objectives.trajectory import Trajectory
from langevin.plans.grids import named
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.tasks.reflow import distillation, pairs

# those whose settings are their arguments
_ALONE: dict[str, Callable[..., Objective]] = {
    "denoising": Denoising, "interflow": InterFlow, "elbo": ELBO, "embedding": Embedding, "bayesian-flow": BayesianFlow,
    "masking": Masking,
}  # fmt: skip
_TAUGHT: dict[str, Callable[..., Objective]] = {
    "lcm": LatentConsistency, "progressive": Progressive, "guidance": GuidanceDistillation, "trajectory": Trajectory,
    "continuous": ContinuousConsistency, "mean-flow": MeanFlow, "shortcut": Shortcut,
}  # fmt: skip

_READ = ("adversarial", "dmd")
"""Those that look into their teacher's network, or begin another model as it."""


def on(process: Process, teacher: Denoiser) -> BaseDenoiser:
    """The teacher as a denoiser of the student's process: itself, where the levels of both mean the same noise."""
    return teacher if alike(one_gaussian(teacher.process), one_gaussian(process)) else Rescheduled(teacher, process)


def check_teacher(recipe: c.Recipe) -> None:
    """Refuse a recipe that lacks the teacher its objective needs, or has one that it does not ask.

    Raises:
        ValueError: naming the objective and the remedy.
    """
    kind, taught = recipe.objective.kind, recipe.objective.taught
    if recipe.teacher is None and taught == "always":
        raise ValueError(
            f"objective {kind!r} learns from a teacher, and the recipe has none; use langevin distill RUN --to {kind}."
        )
    if recipe.teacher is not None and taught == "never":
        raise ValueError(f"objective {kind!r} learns from data alone; leave the teacher out.")
    if recipe.teacher is None:
        return
    if "guidance" in recipe.objective.scalars:
        guided = f"objective {kind!r} learns from its teacher under guidance"
    else:
        guided = f"objective {kind!r} asks its teacher under guidance of strength {recipe.objective.strength:g}"
    told = "guidance" in recipe.objective.scalars or recipe.objective.strength != 1
    if told and not getattr(recipe.teacher.objective, "drop", 0):
        raise ValueError(
            f"{guided}, and that never learned without its condition (objective.drop is 0), so it cannot be guided; leave "
            "guidance at 1, or use consistency or dmd."
        )
    if kind == "reflow":
        return
    ours, theirs = recipe.process, recipe.teacher.process
    flows = (c.GaussianConfig, c.InterpolantConfig)
    if not isinstance(ours, flows) or not isinstance(theirs, flows) or type(ours) is not type(theirs):
        raise ValueError(f"objective {kind!r} follows the flow of a Gaussian process, and this run or its teacher has another.")
    if kind in _READ and ours.schedule != theirs.schedule:
        raise ValueError(
            f"process.schedule is {ours.schedule!r} and the teacher's {theirs.schedule!r}, whose "
            f"network {kind!r} reads at levels that would mean other noise; leave it alone, or use consistency."
        )


def objective(cfg: o.ObjectiveConfig, process: Process, teacher: Denoiser | None = None, classes: int | None = None,
              channels: int = 3, seen: Mapping[str, Distance] | None = None) -> Objective:  # fmt: skip
    """What training minimises.

    Args:
        process: of the model.
        teacher: for objectives that have one, on any schedule; it is frozen.
        classes: of the labels, which a critic is told.
        channels: of the pictures of an autoencoder.
        seen: distances that are networks, by field; see `langevin.recipes.distances`.
    """
    given: dict[str, Any] = {**cfg.model_dump(exclude={"kind"}), **(seen or {})}
    taught = teacher if teacher is None or cfg.kind in (*_READ, "reflow") else on(process, teacher)
    if isinstance(cfg, o.ConsistencyConfig):
        schedule, code = given.pop("schedule"), given.pop("as_published_code")
        if given.pop("improved"):
            if teacher is not None or schedule == "growing":
                raise ValueError("improved is training without a teacher, whose steps double; leave improved out, or the teacher "
                                 "and schedule 'growing'.")  # fmt: skip
            last, kept = given.pop("steps"), ("distance", "grid", "mean", "std", "drop", "coupling")
            return improved(last=last, **{name: given[name] for name in kept})
        given["steps"], given["decay"] = paced(schedule, given["steps"], given["decay"], code)
        return Consistency(taught, **given)
    if isinstance(cfg, o.AutoencodingConfig):
        return _autoencoding(given, channels)
    if isinstance(cfg, o.ReflowConfig):
        between = given["distance"]
        return Denoising(coupling=Paired(), distance=between) if cfg.steps is None else distillation(cfg.steps, between)
    if cfg.kind in _ALONE:
        return _ALONE[cfg.kind](**given)
    if cfg.kind in _TAUGHT:
        return _TAUGHT[cfg.kind](teacher=taught, **given)
    assert isinstance(cfg, (o.AdversarialConfig, o.DistributionMatchingConfig)) and teacher is not None
    (leaf,) = process.leaves().values()
    at = named(given.pop("grid"))(leaf.schedule, given.pop("steps"))[:-1]
    made = Adversarial if isinstance(cfg, o.AdversarialConfig) else DistributionMatching
    return made(teacher, levels=at, classes=classes, **given)


def _autoencoding(given: dict[str, Any], channels: int) -> Autoencoding:
    perceptual, between = given["perceptual"], given["distance_of_features"]
    if bool(perceptual) != (between is not None):
        raise ValueError(f"objective.perceptual is {perceptual:g} and objective.distance_of_features is {between}; give both, or "
                         "neither.")  # fmt: skip
    width = given.pop("width")
    return Autoencoding(**given, critic=PatchCritic(channels, width) if given["adversarial"] else None)


def reflow_pairs(
    cfg: o.ReflowConfig,
    teacher: Denoiser,
    process: Process,
    told: Callable[[int], dict[str, Tensor] | None],
    folder: Path,
    source: Source | None = None,
) -> Pairs:
    """Pairs of noise and the samples that the teacher's flow takes it to, made in `folder`.

    Args:
        told: the conditions of so many samples, which come with the pairs.
        source: where paths begin in place of noise, of runs between two data sets; there are no more pairs than it has samples.

    Raises:
        ValueError: if the plan adds noise.
    """
    steer = CFG(cfg.guidance) if cfg.guidance != 1 else None
    if source is not None:
        count = min(cfg.pairs, len(source))
        return pairs(teacher.eval(), plans.parse(cfg.plan), Starts(source, count, told(count)), folder, guidance=steer)
    theirs, ours = one_gaussian(teacher.process), one_gaussian(process)
    # where both begin at the same noise the teacher follows its own flow; its ends are those of the student's
    flow: BaseDenoiser = teacher
    if abs(float(theirs.schedule(1.0)[1] - ours.schedule(1.0)[1])) > 1e-2:
        flow, theirs = Rescheduled(teacher, ours), ours
    shape: Any = teacher.shape
    starts = Prior(theirs, shape, cfg.pairs, cfg.seed, told(cfg.pairs))
    return pairs(flow.eval(), plans.parse(cfg.plan), starts, folder, guidance=steer)
