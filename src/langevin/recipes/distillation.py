"""Students: from a trained run to the recipe of a faster model that learns from it. Imports no torch."""

from collections.abc import Callable
from pathlib import Path

from langevin.config import TrainConfig
from langevin.recipes import config as c
from langevin.recipes import objectives as o
from langevin.spec import nearest


def _consistency(teacher: c.Recipe, steps: int) -> tuple[o.ObjectiveConfig, str]:
    plan = f"consistency:{steps}:grid={'uniform' if steps < 3 else 'angle'}"
    return o.ConsistencyConfig(steps=40, decay=0.95, order=2, grid="angle", distance="pseudo_huber"), plan


STUDENTS: dict[str, Callable[[c.Recipe, int], tuple[o.ObjectiveConfig, str]]] = {"consistency": _consistency}
"""By name: (objective, plan) from the teacher's recipe and the number of steps wanted."""


def student(teacher: c.Recipe, run: Path, to: str, steps: int = 1) -> c.Recipe:
    """The recipe of a student of the run in a directory.

    Args:
        teacher: the recipe of that run.
        to: what it becomes, a key of `STUDENTS`.
        steps: evaluations that it is to need.

    Raises:
        ValueError: for an unknown kind, a number of steps that makes no sense, or a process that has no flow.
    """
    if to not in STUDENTS:
        raise ValueError(f"to is {to!r}; did you mean {nearest(to, STUDENTS)!r}? There are {', '.join(STUDENTS)}.")
    if steps < 1:
        raise ValueError(f"steps is {steps}; a student needs at least 1 evaluation.")
    if not isinstance(teacher.process, c.GaussianConfig):
        raise ValueError(f"the run in {run} is of a {teacher.process.kind} process, which has no flow to leap along.")
    objective, plan = STUDENTS[to](teacher, steps)
    taught = objective.taught != "never"
    return teacher.model_copy(
        update={
            "name": f"{teacher.name}-{to}",
            "about": f"{teacher.name}, distilled to {steps} step{'s' * (steps > 1)}: {to}",
            "expects": "what its teacher reaches, at fewer evaluations; the table at the end says how near it came",
            "objective": objective,
            "finetune": c.FinetuneConfig(origin=str(run)),
            "teacher": c.TeacherConfig(
                origin=str(run), name=teacher.name, process=teacher.process, network=teacher.network, objective=teacher.objective
            )
            if taught
            else None,
            "train": TrainConfig(**{**teacher.train.model_dump(), "lr": teacher.train.lr / 4}),
            "sample": c.SampleConfig(plan=plan),
        }
    )
