"""langevin distill."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langevin.cli.asking import Refusal, parse, taken
from langevin.cli.training import Asked, begun, trained
from langevin.recipes import Recipe
from langevin.recipes.distillation import STUDENTS, known, student


@dataclass(frozen=True, kw_only=True)
class _Distill(Asked):
    tune: bool = False
    """Learn a plan of as many evaluations for the teacher as well, and compare with it; it is kept with the teacher."""


USAGE = f"""\
usage: langevin distill RUN --to KIND [--steps N] [--tune] [--out DIR] [--resume] [--field value ...]

Train a faster model that learns from a run, and show both side by side. KIND is one of {", ".join(STUDENTS)};
N is how many evaluations the student is to need, 1 by default.
langevin distill RUN --to KIND --help shows every field of the student's recipe.
"""


def distill(args: Sequence[str]) -> None:
    """Train a faster model that learns from a run, and compare the two."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    run, *rest = args
    to, rest = taken("--to", rest)
    steps, rest = taken("--steps", rest)
    if to is None:
        raise Refusal(f"to is missing; say --to {'|'.join(STUDENTS)}.")
    if steps is not None and not steps.isdigit():
        raise Refusal(f"steps is {steps!r}; give a number of evaluations, such as 1 or 4.")
    known(to)
    from langevin.recipes.build import read_recipe

    teacher, prog = Path(run), f"langevin distill {run} --to {to}" + (f" --steps {steps}" if steps else "")
    made = _begun(rest, to, run) or student(read_recipe(teacher), teacher, to, int(steps or 1))
    asked = parse(_Distill, rest, prog, _Distill(recipe=made))
    out = asked.out or Path("runs") / made.name
    if not asked.resume:
        _agree(asked.recipe, to, int(steps or 1))
    from langevin.recipes.comparison import compare, measures

    done = trained(asked, out, ["distill", *args], f"{prog} --out {out} --resume", measures)
    if done is None:
        return
    if not asked.samples:
        print(out)
        return
    compare(done[0], teacher, out, asked.samples, tune=asked.tune, device=done[1])


def _begun(args: Sequence[str], to: str, run: str) -> Recipe | None:
    """The recipe of the student that is to be resumed."""
    if "--out" not in " ".join(args):
        return None
    found = begun(args, Path())
    if found is None:
        return None
    out, before = found
    kind, origin = STUDENTS[to](1)[0].kind, before.teacher.origin if before.teacher else before.finetune.origin or run
    if before.objective.kind != kind or Path(origin) != Path(run):
        raise Refusal(
            f"{out} holds a {before.objective.kind} student of {origin}; resume it as that, or choose another directory."
        )
    return before


def _agree(recipe: Recipe, to: str, steps: int) -> None:
    """Refuse an objective that trains for other steps than the student is sampled by."""
    asked, usual = recipe.objective.model_dump(), STUDENTS[to](steps)
    for name in ("stages", "steps", "grid") if to in ("dmd", "adversarial", "progressive") else ():
        if asked.get(name) != usual[0].model_dump().get(name) and recipe.sample.plan == usual[1]:
            said = f"objective.{name} is {asked[name]}, but samples are drawn by {usual[1]}"
            raise Refusal(f"{said}; say --steps N, or a --sample.plan that fits.")
