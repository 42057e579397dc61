"""Students: from a trained run to the recipe of a faster model that learns from it. Imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from langevin.config import TrainConfig
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.spec import nearest

Made = tuple[o.ObjectiveConfig, str]
"""An objective, and the plan that its student is sampled by."""


def _consistency(steps: int) -> Made:
    made = o.ConsistencyConfig(steps=18, decay=0.95, order=2, grid="angle", distance="pseudo_huber")
    return made, f"consistency:{steps}:grid=uniform"


def _latent(steps: int) -> Made:
    return o.LatentConsistencyConfig(original=20, distance="pseudo_huber"), f"consistency:{steps}:grid=uniform"


def _progressive(steps: int) -> Made:
    return o.ProgressiveConfig(steps=16 * steps, stages=5), f"ddim:{steps}:grid=uniform"


_BEHIND = 40.0
"""How much slower than its critic, and than its teacher learned, a student learns that is to please one."""


def _adversarial(steps: int) -> Made:
    # with the published weights, 2.5 of distillation and moments of 0.9, small models collapse; and so they do where a student
    # moves as fast as its critic, which then never tells one law from the other
    made = o.AdversarialConfig(steps=steps, distill=0.25, weighting="sds", r1=1e-3, rate=_BEHIND)
    return made, f"consistency:{steps}:grid=uniform"


def _matching(steps: int) -> Made:
    return o.DistributionMatchingConfig(steps=steps, every=3, rate=2.0), f"consistency:{steps}:grid=uniform"


def _guidance(steps: int) -> Made:
    return o.GuidanceDistillationConfig(), f"default:{steps}"


def _trajectory(steps: int) -> Made:
    return o.TrajectoryConfig(grid="angle"), f"ddim:{steps}:grid=angle"


def _continuous(steps: int) -> Made:
    return o.ContinuousConsistencyConfig(), f"consistency:{steps}:grid=uniform"


def _mean_flow(steps: int) -> Made:
    return o.MeanFlowConfig(), f"ddim:{steps}:grid=uniform"


def _shortcut(steps: int) -> Made:
    finest = max(6, (steps - 1).bit_length() + 1)  # leaps are learned of 1, 1/2, ..., 2^(1 - finest)
    return o.ShortcutConfig(finest=finest, decay=0.95), f"ddim:{steps}:grid=uniform"


def _reflow(steps: int) -> Made:
    return o.ReflowConfig(steps=steps), f"euler:{steps}:grid=uniform"


STUDENTS: dict[str, Callable[[int], Made]] = {
    "consistency": _consistency, "lcm": _latent, "progressive": _progressive, "adversarial": _adversarial, "dmd": _matching,
    "mean-flow": _mean_flow, "shortcut": _shortcut, "trajectory": _trajectory, "continuous": _continuous,
    "guidance": _guidance, "reflow": _reflow,
}  # fmt: skip
"""By name: objective and plan of a student of so many steps."""

_FLOW = c.GaussianConfig(schedule="flow", prediction="velocity")
_OWN_PROCESS: dict[str, c.GaussianConfig] = {
    "reflow": _FLOW,
    "mean-flow": c.GaussianConfig(schedule="flow", prediction="velocity:level=t"),
    "shortcut": _FLOW,
    "continuous": c.GaussianConfig(schedule="trigonometric", prediction="v:level=t"),
}
"""Methods that are bound to a process; the teacher is asked on it, whatever its own schedule."""

_BETWEEN = ("reflow", "consistency", "progressive")
"""Methods for runs between two data sets, which have no noise to be drawn afresh."""

_SLOWER = {"adversarial": _BEHIND}
"""By how much a student that begins as its teacher learns slower than it did, where it is not 4."""
_RATES: dict[str, dict[str, Any]] = {
    "adversarial": {"betas": (0.0, 0.99)},
    "progressive": {"schedule": "constant"},  # the last halving is the hardest, and a falling rate would leave it nothing
}


def known(to: str) -> str:
    """The name of a kind of student.

    Raises:
        ValueError: for any other, naming the nearest.
    """
    if to not in STUDENTS:
        raise ValueError(f"to is {to!r}; did you mean {nearest(to, STUDENTS)!r}? There are {', '.join(STUDENTS)}.")
    return to


def _process(theirs: c.GaussianConfig | c.InterpolantConfig, to: str) -> tuple[c.GaussianConfig | c.InterpolantConfig, bool]:
    """The process of a student, and whether its teacher's network means the same on it, so that it begins with those weights."""
    straight = theirs.schedule == "flow" and theirs.prediction.startswith("velocity")
    if to == "reflow" and isinstance(theirs, c.InterpolantConfig):
        # pairs are joined by straight lines, without noise, whatever joined the data
        return (theirs.model_copy(update={"noise": 0.0}), True) if straight else (c.InterpolantConfig(), False)
    process = theirs if straight and to in ("reflow", "shortcut") else _OWN_PROCESS.get(to, theirs)
    return process, process == theirs


def _check_between(process: c.GaussianConfig | c.InterpolantConfig, run: Path, to: str, steps: int) -> None:
    """Refuse what a run between two data sets cannot become. Raises ValueError."""
    if not isinstance(process, c.InterpolantConfig):
        return
    if to not in _BETWEEN:
        raise ValueError(f"the run in {run} begins at data of another kind, and {to} at noise; use {', '.join(_BETWEEN)}.")
    if to != "reflow" and process.noise:
        raise ValueError(f"the run in {run} adds noise on the way (process.noise is {process.noise:g}), and {to} moves along "
                         "paths that have their ends alone; use reflow.")  # fmt: skip
    if to == "consistency" and steps > 1:
        raise ValueError(f"steps is {steps}, between which consistency draws noise, and the run in {run} has none; use 1, or "
                         "progressive.")  # fmt: skip


def student(teacher: c.Recipe, run: Path, to: str, steps: int | None = None) -> c.Recipe:
    """The recipe of a student of the run in a directory.

    Args:
        teacher: the recipe of that run.
        to: what it becomes, a key of `STUDENTS`.
        steps: evaluations that it is to need, 1 by default. A reflowed run that is told them is distilled into so many Euler
            steps; one that is not learns the straightened flow, at all levels.

    Raises:
        ValueError: for an unknown kind, a number of steps that makes no sense, a process that has no flow, or a kind that draws
            noise, of a run between two data sets.
    """
    few = 1 if steps is None else steps
    if few < 1:
        raise ValueError(f"steps is {steps}; a student needs at least 1 evaluation.")
    if not isinstance(teacher.process, (c.GaussianConfig, c.InterpolantConfig)):
        raise ValueError(f"the run in {run} is of a {teacher.process.kind} process, which has no flow to leap along.")
    objective, plan = STUDENTS[known(to)](few)
    _check_between(teacher.process, run, to, few)
    if teacher.objective.ends:
        raise ValueError(f"the run in {run} says where its flow ends, and a student follows the flow itself; distil the run that "
                         "it learned from.")  # fmt: skip
    process, begins = _process(teacher.process, to)
    lost = set(teacher.objective.scalars) - set(objective.scalars)
    if (lost and begins) or "guidance" in teacher.objective.scalars:
        told = ", ".join(teacher.objective.scalars)
        raise ValueError(
            f"the run in {run} is told {told} besides its data's conditions, for which {to} has no place; distil the run that it "
            "learned from."
        )
    if "guidance" in objective.scalars and not getattr(teacher.objective, "drop", 0):
        raise ValueError(f"the run in {run} never learned without its condition (objective.drop is 0), so it cannot be guided; "
                         "use consistency or dmd.")  # fmt: skip
    changed: dict[str, Any] = {}
    if to == "reflow":
        changed = {"steps": steps}
        if isinstance(process, c.InterpolantConfig):
            changed["plan"] = teacher.sample.plan
    elif "coupling" in type(objective).model_fields:
        # the states that the teacher knows are those between what its data met
        changed = {"coupling": getattr(teacher.objective, "coupling", "independent")}
    objective = objective.model_copy(update=changed)
    changes: dict[str, Any] = {
        "name": f"{teacher.name}-{to}",
        "about": f"{teacher.name}, distilled to {few} step{'s' * (few > 1)}: {to}",
        "expects": "what its teacher reaches, at fewer evaluations; the table at the end says how near it came",
        "process": process,
        "objective": objective,
        "finetune": c.FinetuneConfig(),
        "teacher": c.TeacherConfig(
            origin=str(run), name=teacher.name, process=teacher.process, network=teacher.network, objective=teacher.objective
        ),
        "sample": c.SampleConfig(plan=plan),
        # whether a teacher was judged at its end says nothing of its student
        "evaluation": teacher.evaluation.model_copy(update={"plan": None, "at_end": c.EvaluationConfig().at_end}),
    }
    if begins:
        # a student that begins as its teacher has to move less, and more carefully
        changes["finetune"] = c.FinetuneConfig(origin=str(run))
        slower = {"lr": teacher.train.lr / _SLOWER.get(to, 4.0), **_RATES.get(to, {})}
        changes["train"] = TrainConfig(**{**teacher.train.model_dump(), **slower})
    if to == "reflow":  # whose pairs are all learned from
        changes["train"] = changes.get("train", teacher.train).model_copy(update={"valid_every": 0})
    return teacher.model_copy(update=changes)
