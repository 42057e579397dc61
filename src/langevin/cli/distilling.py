"""langevin distill."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langevin.cli.asking import Refusal, parse, stopping, taken
from langevin.cli.finetuning import finetune
from langevin.cli.training import Asked, after, begun, settled, trained
from langevin.inspection import is_ours
from langevin.recipes import Recipe
from langevin.recipes.config import InterpolantConfig
from langevin.recipes.config.tuning import FEW_STEPS
from langevin.recipes.distillation import STUDENTS, known, student
from langevin.recipes.objectives import ProgressiveConfig, ShortcutConfig


@dataclass(frozen=True, kw_only=True)
class _Distill(Asked):
    tune: bool = False
    """Learn a plan of as many evaluations for the teacher as well, and compare with it; it is kept with the teacher. On by
    default where there are 2 to 8 of them: of one there is little to learn, and of many little to gain."""


USAGE = f"""\
usage: langevin distill RUN --to KIND [--steps N] [--rounds K] [--no-tune] [--out DIR] [--resume] [--field value ...]

Train a faster model that learns from a run, and show both side by side. KIND is one of {", ".join(STUDENTS)};
N is how many evaluations the student is to need, 1 by default. A reflowed run learns its straightened flow, or N Euler steps
where N is given; K rounds make it K times straighter first, each in a run directory of its own, OUT/rounds/1 and so on.
langevin distill PATH PICTURES --to lcm teaches a published text-to-image model adapters for a few steps (LCM-LoRA), as does
langevin finetune PATH PICTURES --method lcm; --to consistency by steps of the model's own flow of order 2.
--objective.distance says how beliefs are compared, where KIND compares such: squared, absolute, pseudo_huber, huber; of pictures
also lpips:weights=FILE, and classifier.
langevin distill RUN --to KIND --help shows every field of the student's recipe.
"""


def distill(args: Sequence[str]) -> None:
    """Train a faster model that learns from a run, and compare the two."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    run, *rest = args
    if run.startswith("-"):
        raise Refusal(f"the first word is {run}, where the run stands; say langevin distill RUN --to KIND, and flags after it.")
    to, rest = taken("--to", rest)
    steps, rest = taken("--steps", rest)
    if to is None:
        raise Refusal(f"to is missing; say --to {'|'.join(STUDENTS)}.")
    if steps is not None and not steps.isdecimal():
        raise Refusal(f"steps is {steps!r}; give a number of evaluations, such as 1 or 4.")
    rounds, rest = taken("--rounds", rest)
    if rounds is not None and (not rounds.isdecimal() or int(rounds) < 1 or to != "reflow"):
        raise Refusal(f"rounds is {rounds!r} of {to}; give a number of times from 1 that a run is reflowed, with --to reflow.")
    known(to)
    if (Path(run) / "model_index.json").is_file() and (not rest or rest[0].startswith("-")):
        raise Refusal(f"{run} is a published model, which learns on pictures; say langevin distill PATH PICTURES --to {to}.")
    if rest and not rest[0].startswith("-") and not is_ours(Path(run)):
        # a published model, and the pictures beside it
        if to not in FEW_STEPS:
            raise Refusal(f"to is {to!r}, and {run} is no run; a published model is taught with --to {' or '.join(FEW_STEPS)}.")
        if steps is not None:
            raise Refusal(f"steps is {steps}, and {to} learns them all; say --plan lcm:{steps} when drawing.")
        finetune([run, *rest, "--method", to])
        return
    from langevin.recipes.opening import read_recipe

    teacher, few = Path(run), None if steps is None else int(steps)
    prog = f"langevin distill {shlex.quote(run)} --to {to}"
    prog += "".join(f" --{name} {value}" for name, value in (("steps", steps), ("rounds", rounds)) if value)
    base, _ = taken("--out", rest)
    out = Path(base) if base else Path("runs") / f"{read_recipe(teacher).name}-{to}"
    from langevin.recipes.comparison import compare, measures

    last = int(rounds or 1)
    done, again = None, ""
    for k in range(1, last + 1):
        place = out if k == last else out / "rounds" / str(k)
        # what is to be reflowed once more has to be a flow
        asked = _asked(rest, prog, teacher, to, few if k == last else None, place)
        if last > 1 and asked.processes > 1:
            raise Refusal(f"rounds is {last}, which follow each other, and processes {asked.processes}; use one process.")
        again = f"{prog} --out {shlex.quote(str(out))} --resume"
        if asked.tune != _tuned(few if k == last else None):
            again += " --tune" if asked.tune else " --no-tune"
        if k == last and asked.tune and again.endswith(" --tune"):
            _may_tune(asked.recipe)
        done = trained(asked, place, ["distill", *args], again, measures)
        if done is None:
            return
        teacher = place
    assert done is not None
    if not (count := asked.recipe.evaluation.at_end):
        print(out)
        return
    with stopping(after(asked, again)):
        compare(done[0], Path(run), out, count, tune=asked.tune, device=done[1])


def _asked(rest: Sequence[str], prog: str, run: Path, to: str, steps: int | None, out: Path) -> _Distill:
    """What is asked of a student of a run in a directory."""
    from langevin.recipes.opening import read_recipe

    made = _begun(taken("--out", rest)[1], to, run, out) or student(read_recipe(run), run, to, steps)
    asked = settled(parse(_Distill, rest, prog, _Distill(recipe=made, tune=_tuned(steps))))
    if not asked.resume:
        _agree(asked.recipe, to, steps or 1)
    return asked


def _tuned(steps: int | None) -> bool:
    """Whether a learned plan stands in the comparison where nothing is said."""
    return 2 <= (steps or 1) <= 8


def _may_tune(recipe: Recipe) -> None:
    """Refuse to learn a plan for a comparison that there is not, or that has no place for it."""
    if not recipe.evaluation.at_end:
        raise Refusal("tune is set, of the comparison at the end, and samples is 0, which leaves it out; leave one of them out.")
    if isinstance(recipe.process, InterpolantConfig):
        raise Refusal("tune is set, and this run begins at data of another kind, for which no plan is learned; leave it out.")


def _begun(args: Sequence[str], to: str, run: Path, usual: Path) -> Recipe | None:
    """The recipe of the student that is to be resumed."""
    found = begun(args, usual)
    if found is None:
        return None
    out, before = found
    kind, origin = STUDENTS[to](1)[0].kind, before.teacher.origin if before.teacher else before.finetune.origin or run
    if before.objective.kind != kind or Path(origin) != run:
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
    if isinstance(recipe.objective, ShortcutConfig) and recipe.sample.plan == usual[1]:
        least = 2 ** (recipe.objective.finest - 1)
        if steps & (steps - 1) or steps > least:
            raise Refusal(f"steps is {steps}, and a shortcut student learns leaps of 1, 1/2 and so on to 1/{least}; say "
                          "a power of two up to that, or a higher --objective.finest.")  # fmt: skip
    if isinstance(recipe.objective, ProgressiveConfig):
        stages = recipe.objective.stages or (recipe.objective.steps & -recipe.objective.steps).bit_length()
        if recipe.train.steps < stages:  # the last ones, of which samples are drawn, would never begin
            raise Refusal(f"train.steps is {recipe.train.steps}, and each of {stages} stages halves the steps by updates of its "
                          "own; train longer, or say fewer --objective.stages.")  # fmt: skip
