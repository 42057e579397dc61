"""langevin plan and langevin tune."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.files import writable
from langevin.spec import nearest


@dataclass(frozen=True)
class _PlanShow:
    plan: Positional[str]
    """NAME:STEPS[:option=value,...], or a saved plan (.json)."""
    process: str = "cosine"
    """The schedule whose levels fill the table, such as cosine, edm or flow:shift=3."""
    json: bool = False
    """Print the plan as JSON, to save and edit."""
    plot: Path | None = None
    """Draw its levels and weights as a picture (.png)."""


@dataclass(frozen=True)
class _PlanCompare:
    one: Positional[str]
    """NAME:STEPS[:option=value,...], or a saved plan (.json)."""
    other: Positional[str]
    """Another."""
    process: str = "cosine"
    """The schedule whose levels fill the tables."""


@dataclass(frozen=True)
class _PlanLevels:
    run: Positional[Path]
    """Run directory."""
    plan: str | None = None
    """The plan that is to ask its network; the recipe's by default."""
    json: bool = False
    """Print shares as JSON, from noise (level 1) to data (level 0)."""


def plan(args: Sequence[str]) -> None:
    """Show the table of a sampler, where two differ, or where one asks a run's network beside where that was trained."""
    kinds = {"show": _PlanShow, "compare": _PlanCompare, "levels": _PlanLevels}
    if not args or args[0] not in kinds:
        if args and args[0] not in ("-h", "--help"):
            raise Refusal(f"plan has no command {args[0]!r}; did you mean {nearest(args[0], list(kinds))!r}?")
        print("usage: langevin plan show NAME:STEPS [--process SCHEDULE] [--json] [--plot FILE.png]\n"
              "       langevin plan compare ONE OTHER [--process SCHEDULE]\n"
              "       langevin plan levels RUN [--plan NAME:STEPS] [--json]")  # fmt: skip
        return
    asked = parse(kinds[args[0]], args[1:], f"langevin plan {args[0]}")
    if isinstance(asked, _PlanLevels):
        _levels(asked)
        return
    from langevin import plans, spec
    from langevin.schedules import SCHEDULES

    texts = (asked.one, asked.other) if isinstance(asked, _PlanCompare) else (asked.plan,)
    for text in texts:
        if plans.tried(text) is not None or plans.placed(text):
            raise Refusal(f"plan is {text!r}, which is found on a run's model; use it with langevin sample RUN --plan {text}.")
    schedule = spec.parse(asked.process, SCHEDULES, "process")
    found = [plans.parse(text) for text in texts]
    if asked.process != type(asked).process and all(isinstance(plan, plans.Plan) for plan in found):
        raise Refusal(f"process is {asked.process}, and {texts[-1]} is written out, the same on every schedule; leave it out.")
    if isinstance(asked, _PlanCompare):
        one, other = (plan.on(schedule) for plan in found)
        print(plans.compare(one, other))
        return
    (table,) = (plan.on(schedule) for plan in found)
    print(table.to_json() if asked.json else table)
    if asked.plot is not None:
        if asked.plot.suffix != ".png":
            raise Refusal(f"plot is {asked.plot}; write a .png.")
        from langevin.pictures import plot_plan

        print(plot_plan(table, asked.plot), file=sys.stderr)


def _levels(asked: _PlanLevels) -> None:
    import json

    from langevin.recipes.opening import open_run
    from langevin.recipes.sampling import levels

    each = levels(open_run(asked.run, device="cpu"), asked.plan)
    if asked.json:
        told = {name: {**asdict(one), "neglected": one.neglected} for name, one in each.items()}
        print(json.dumps(told.get("", told)))
        return
    print("\n".join(f"{name}\n{one}" if name else str(one) for name, one in each.items()))


@dataclass(frozen=True)
class _Tune:
    run: Positional[Path]
    """Run directory."""
    steps: int
    """Evaluations of the plan."""
    out: Path | None = None
    """Where to write it; plans/tuned-STEPS.json in the run by default."""
    guidance: float | None = None
    """Classifier-free w it is tuned for; the recipe's by default."""
    iterations: int = 240
    """Of the optimiser; more may help."""
    batch: int = 32
    """Starts of each iteration; fewer where memory is short."""
    count: int = 256
    """Starts to fit to."""
    held_out: int = 128
    """Starts to judge on."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def tune(args: Sequence[str]) -> None:
    """Learn a plan of few evaluations from a model's own fine trajectories. A stop loses little: run it again."""
    asked = parse(_Tune, args, "langevin tune")
    if asked.out is not None and asked.out.suffix != ".json":
        raise Refusal(f"out is {asked.out}; write a .json.")
    from langevin.recipes.opening import open_run
    from langevin.recipes.sampling import tune_into

    out = asked.out or asked.run / "plans" / f"tuned-{asked.steps}.json"
    writable(out, "out")
    run = open_run(asked.run, device=asked.device)
    options = {name: getattr(asked, name) for name in ("guidance", "iterations", "batch", "count", "held_out")}
    found, ready = tune_into(out, run, asked.steps, **options)
    print(f"best ready-made  {ready}")
    print(f"tuned            {found}" if found is not ready else "tuning did not beat it; the ready-made plan is kept.")
    print(f"{out}: use it as --plan {shlex.quote(str(out))}")
