"""Objectives from their settings, with a teacher where they have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langevin import plans
from langevin.core.denoiser import Denoiser
from langevin.core.process import Process
from langevin.data.pairs import Pairs, Prior
from langevin.evaluate import lpips
from langevin.guidance import CFG
from langevin.networks import PatchCritic
from langevin.objectives import ELBO, Autoencoding, BayesianFlow, Denoising, Embedding, Masking, MeanFlow, Objective, Shortcut
from langevin.objectives.adversarial import Adversarial
from langevin.objectives.consistency import Consistency, improved
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.coupling import Paired
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.guidance_distillation import GuidanceDistillation
from langevin.objectives.interpolant import InterFlow
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.progressive import Progressive
from langevin.objectives.trajectory import Trajectory
from langevin.plans.grids import named
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.tasks.reflow import distillation, pairs

# those whose settings are their arguments
_ALONE: dict[str, Callable[..., Objective]] = {
    "denoising": Denoising, "interflow": InterFlow, "elbo": ELBO, "shortcut": Shortcut, "mean-flow": MeanFlow,
    "embedding": Embedding, "bayesian-flow": BayesianFlow, "masking": Masking,
}  # fmt: skip
_TAUGHT: dict[str, Callable[..., Objective]] = {
    "lcm": LatentConsistency, "progressive": Progressive, "guidance": GuidanceDistillation, "trajectory": Trajectory,
    "continuous": ContinuousConsistency,
}  # fmt: skip


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
    if recipe.teacher is None or kind == "reflow":
        return
    if not isinstance(recipe.process, c.GaussianConfig) or not isinstance(recipe.teacher.process, c.GaussianConfig):
        raise ValueError(f"objective {kind!r} follows the flow of a Gaussian process, and this run or its teacher has another.")
    if recipe.process.schedule != recipe.teacher.process.schedule:
        raise ValueError(
            f"process.schedule is {recipe.process.schedule!r} and the teacher's {recipe.teacher.process.schedule!r}, so their "
            "levels mean different noise; leave it alone, or use reflow."
        )


def objective(cfg: o.ObjectiveConfig, process: Process, teacher: Denoiser | None = None, classes: int | None = None,
              channels: int = 3) -> Objective:  # fmt: skip
    """What training minimises.

    Args:
        process: of the model.
        teacher: for objectives that have one; it is frozen.
        classes: of the labels, which a critic is told.
        channels: of the pictures of an autoencoder.
    """
    given: dict[str, Any] = cfg.model_dump(exclude={"kind"})
    if isinstance(cfg, o.ConsistencyConfig):
        if given.pop("improved"):
            last, kept = given.pop("steps"), ("distance", "grid", "mean", "std", "drop", "coupling")
            return improved(last=last, **{name: given[name] for name in kept})
        return Consistency(teacher, **given)
    if isinstance(cfg, o.AutoencodingConfig):
        return _autoencoding(cfg, channels)
    if isinstance(cfg, o.ReflowConfig):
        return Denoising(coupling=Paired()) if cfg.steps is None else distillation(cfg.steps)
    if cfg.kind in _ALONE:
        return _ALONE[cfg.kind](**given)
    if cfg.kind in _TAUGHT:
        return _TAUGHT[cfg.kind](teacher, **given)
    assert isinstance(cfg, (o.AdversarialConfig, o.DistributionMatchingConfig)) and teacher is not None
    (leaf,) = process.leaves().values()
    at = named(given.pop("grid"))(leaf.schedule, given.pop("steps"))[:-1]
    made = Adversarial if isinstance(cfg, o.AdversarialConfig) else DistributionMatching
    return made(teacher, levels=at, classes=classes, **given)


def _autoencoding(cfg: o.AutoencodingConfig, channels: int) -> Autoencoding:
    if bool(cfg.perceptual) != (cfg.lpips is not None):
        raise ValueError(f"objective.perceptual is {cfg.perceptual:g} and objective.lpips is {cfg.lpips}; give both, or neither.")
    seen = None if cfg.lpips is None else lpips(cfg.lpips)
    critic = PatchCritic(channels, cfg.width) if cfg.adversarial else None
    return Autoencoding(cfg.distance, cfg.kl, cfg.perceptual, seen, cfg.adversarial, critic, cfg.after, cfg.rate)


def reflow_pairs(cfg: o.ReflowConfig, teacher: Denoiser, process: Process, classes: int | None, folder: Path) -> Pairs:
    """Pairs of noise and the samples that the teacher's flow takes it to, of all classes in turn, made in `folder`.

    Raises:
        ValueError: if teacher and student begin at other noise, or the plan adds any.
    """
    (theirs,), (ours,) = teacher.process.leaves().values(), process.leaves().values()
    if abs(float(theirs.schedule(1.0)[1] - ours.schedule(1.0)[1])) > 1e-2:
        raise ValueError("the teacher begins at noise of another size than its student; reflow a run on a "
                         "schedule whose sigma ends at 1.")  # fmt: skip
    cond = None if classes is None else {"label": torch.arange(cfg.pairs) % classes}
    shape: Any = teacher.shape
    starts = Prior(theirs, shape, cfg.pairs, cfg.seed, cond)
    steer = CFG(cfg.guidance) if cfg.guidance != 1 else None
    return pairs(teacher.eval(), plans.parse(cfg.plan), starts, folder, guidance=steer)
