"""langevin distill."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from langevin.cli.asking import Refusal, parse
from langevin.cli.training import Asked, trained
from langevin.recipes.distillation import STUDENTS, student


@dataclass(frozen=True, kw_only=True)
class _Distill(Asked):
    tune: bool = False
    """Learn a plan of as many evaluations for the teacher as well, and compare with it; it is kept with the teacher."""


USAGE = f"""\
usage: langevin distill RUN --to KIND [--steps N] [--out DIR] [--resume] [--field value ...]

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
    to, rest = _taken("--to", rest)
    steps, rest = _taken("--steps", rest)
    if to is None:
        raise Refusal(f"to is missing; say --to {'|'.join(STUDENTS)}.")
    if steps is not None and not steps.isdigit():
        raise Refusal(f"steps is {steps!r}; give a number of evaluations, such as 1 or 4.")
    from langevin.recipes.build import read_recipe

    teacher = Path(run)
    made = student(read_recipe(teacher), teacher, to, int(steps or 1))
    prog = f"langevin distill {run} --to {to}"
    default = _Distill(recipe=made)
    asked = parse(_Distill, rest, prog, default)
    out = asked.out or Path("runs") / made.name
    if asked.resume and (out / "recipe.json").exists():
        # what the student was begun with stands wherever nothing else is asked for
        asked = parse(_Distill, rest, prog, replace(default, recipe=read_recipe(out)))
    done = trained(asked, out, ["distill", *args], f"{prog} --out {out} --resume")
    if done is None:
        return
    from langevin.recipes.comparison import compare

    compare(done[0], teacher, out, int(steps or 1), asked.samples, tune=asked.tune, device=done[1])


def _taken(flag: str, args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of a flag that is not part of the recipe, and the other arguments."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            if not equals and i + 1 == len(args):
                raise Refusal(f"{flag} has no value.")
            return (value, [*args[:i], *args[i + 1 :]]) if equals else (args[i + 1], [*args[:i], *args[i + 2 :]])
    return None, list(args)
