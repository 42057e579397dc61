"""The command line. Answers `--help` without torch; everything heavy is imported by the command that needs it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import ValidationError
from tyro.conf import Positional

from langevin.recipes import RECIPES, Recipe, recipe
from langevin.spec import nearest

HELP = """\
langevin: diffusion models of every kind.

  langevin recipes                         what can be trained out of the box
  langevin train RECIPE [--out DIR]        train, evaluate, leave pictures and metrics; --resume continues
  langevin sample RUN --out FILE.png       draw samples from a run
  langevin evaluate RUN [--small] [--json] judge a run against held-out real data, or a folder --against another
  langevin inspect PATH                    what a run, checkpoint or safetensors file is
  langevin plan show NAME:STEPS            the table of a sampler; --plot draws it
  langevin plan compare ONE OTHER          where two samplers first differ
  langevin tune RUN --steps N              learn a sampler of N evaluations for this model

Each command has --help. A run directory is self-contained: copy it anywhere.
"""


class Refusal(Exception):
    """An error in what was asked; its text is all that the user is shown."""


# train


@dataclass(frozen=True)
class _Train:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run directory; runs/RECIPE by default."""
    resume: bool = False
    """Continue the run in that directory, if there is one."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    processes: int = 1
    """Group to train with, on this machine; for several machines see docs/distributed.md."""
    shard: bool = False
    """Divide the weights between the processes (FSDP2) instead of holding them in each."""
    samples: int = 1000
    """Samples for the evaluation at the end."""


def train(args: Sequence[str]) -> None:
    """Train a recipe, evaluate it, and leave pictures and metrics in its run directory."""
    if not args or args[0] in ("-h", "--help"):
        listing = "\n".join(f"  {name:16} {make().about}" for name, make in RECIPES.items())
        print(
            f"usage: langevin train RECIPE [--field value ...] [--out DIR] [--resume]\n\n{listing}\n\n"
            "langevin train RECIPE --help shows every field."
        )
        return
    name, *rest = args
    default = _Train(recipe(name))
    asked = _parse(_Train, rest, f"langevin train {name}", default)
    out = asked.out or Path("runs") / name
    if asked.resume and (out / "recipe.json").exists():
        # what the run was begun with stands wherever nothing else is asked for
        from langevin.recipes.build import read_recipe

        asked = _parse(_Train, rest, f"langevin train {name}", replace(default, recipe=read_recipe(out)))
    if asked.samples < 2:
        raise Refusal(f"samples is {asked.samples}; the evaluation needs at least 2.")
    if out.exists() and not out.is_dir():
        raise Refusal(f"out is {out}, which is a file; give a directory.")
    if asked.processes < 1:
        raise Refusal(f"processes is {asked.processes}; use at least 1.")
    if asked.processes > 1 and "WORLD_SIZE" not in os.environ:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={asked.processes}", "-m", "langevin.cli"]
        raise SystemExit(subprocess.run([sys.executable, "-m", *launcher, "train", *args], check=False).returncode)
    from langevin.recipes.build import open_run, start
    from langevin.recipes.evaluation import report
    from langevin.recipes.report import preview

    out.mkdir(parents=True, exist_ok=True)
    hook: list[Callable[..., None]] = []
    run, trainer = start(asked.recipe, out, asked.resume, lambda model, step: hook[0](model, step), asked.device, asked.shard)
    if trainer.group.first:
        hook.append(preview(run, out))
    elif asked.shard:  # all must compute what only the first shows
        hook.append(preview(run, Path(tempfile.mkdtemp())))
    else:
        hook.append(lambda model, step: None)
    trainer.run()
    trainer.group.leave()
    if not trainer.group.first:
        return
    if not trainer.finished:
        print(f"stopped at step {trainer.step}; continue with: langevin train {name} --out {out} --resume", file=sys.stderr)
        raise SystemExit(130 if trainer.group.world == 1 else 0)  # torchrun would restart what ended otherwise
    print(report(run.holding(open_run(out).denoiser), out, asked.samples))  # what is judged is what was saved


# sample


@dataclass(frozen=True)
class _Sample:
    run: Positional[Path]
    """Run directory."""
    out: Path
    """Picture to write (.png, or .gif for the whole way); .npy for the numbers themselves."""
    count: int = 16
    """How many."""
    plan: str | None = None
    """Plan as NAME:STEPS, such as dpmpp:20 or ddim:50:eta=0.5, auto:10, or a saved .json; the recipe's by default."""
    seed: int = 0
    """Any integer; sample k is the same sample whatever the count."""
    label: int | None = None
    """One class; all in turn by default."""
    guidance: float | None = None
    """Classifier-free w; 1 is unguided."""


def sample(args: Sequence[str]) -> None:
    """Draw samples from a run."""
    asked = _parse(_Sample, args, "langevin sample")
    if asked.out.suffix not in (".png", ".gif", ".npy"):
        raise Refusal(f"out is {asked.out}; write a .png, .gif or .npy.")
    if asked.count < 1:
        raise Refusal(f"count is {asked.count}; ask for at least 1.")
    from langevin.recipes.build import open_run
    from langevin.recipes.report import write_samples

    asked.out.parent.mkdir(parents=True, exist_ok=True)
    run = open_run(asked.run)
    print(
        write_samples(run, asked.out, asked.count, plan=asked.plan, seed=asked.seed, label=asked.label, guidance=asked.guidance)
    )


# evaluate


@dataclass(frozen=True)
class _Evaluate:
    run: Positional[Path]
    """Run directory; or a folder of pictures, with --against."""
    against: Path | None = None
    """Folder of real pictures."""
    features: str = "auto"
    """A safetensors file with InceptionTF or DINOv2; classifier or pca; auto is the classifier where there are labels."""
    metrics: tuple[str, ...] = ()
    """Of fd, fd_infinity, kid, is, prdc and, for runs, labels, memory; fd, labels and memory by default."""
    small: bool = False
    """Accept fewer samples or real pictures than the 10,000 of published practice; the card will say so."""
    count: int | None = None
    """Samples of a run; 10,000 by default, 1,000 with --small."""
    plan: str | None = None
    """Plan as NAME:STEPS; the recipe's by default."""
    seed: int = 1
    """Seed of the samples, and of what metrics draw."""
    guidance: float | None = None
    """One w; 1 and 1.5 by default."""
    size: int | None = None
    """Side to which the pictures of two folders are brought; their own by default."""
    device: str = "cpu"
    """cpu, cuda, or auto."""
    json: bool = False
    """Print JSON, with the protocol card."""


def evaluate(args: Sequence[str]) -> None:
    """Judge a run against held-out real data, or a folder of pictures against another."""
    asked = _parse(_Evaluate, args, "langevin evaluate")
    shared = {"features": asked.features, "metrics": asked.metrics, "small": asked.small, "seed": asked.seed}
    if asked.against is not None:
        for name in ("count", "plan", "guidance"):
            if (value := getattr(asked, name)) is not None:
                raise Refusal(f"{name} is {value}, but two folders are compared as they are; leave it out.")
        from langevin.recipes.folders import evaluate_folders

        result = evaluate_folders(asked.run, asked.against, size=asked.size, device=asked.device, **shared)
    else:
        if asked.size is not None:
            raise Refusal(f"size is {asked.size}, but a run's pictures have the size of its recipe; leave it out.")
        from langevin.recipes.build import open_run
        from langevin.recipes.evaluation import evaluate as measure

        result = measure(
            open_run(asked.run), count=asked.count, plan=asked.plan, guidance=asked.guidance, folder=asked.run,
            device=asked.device, **shared,
        )  # fmt: skip
    print(result.model_dump_json(indent=1) if asked.json else result)


# recipes, inspect, plan


def recipes(args: Sequence[str]) -> None:
    """List the recipes and what each should reach."""
    _parse(_Nothing, args, "langevin recipes")
    for name, make in RECIPES.items():
        r = make()
        print(f"{name:16} {r.about}\n{'':16} expects: {r.expects}")


@dataclass(frozen=True)
class _Nothing:
    pass


@dataclass(frozen=True)
class _Inspect:
    path: Positional[Path]
    """A run directory, a checkpoint, or a safetensors file."""
    verify: bool = False
    """Read every file of its checkpoints and compare the hashes."""


def inspect(args: Sequence[str]) -> None:
    """Say what a path is. Reads manifests and headers only, unless asked to verify; imports no torch."""
    asked = _parse(_Inspect, args, "langevin inspect")
    from langevin.inspection import describe

    print(describe(asked.path, asked.verify))


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


def plan(args: Sequence[str]) -> None:
    """Show the table of a sampler, or where two differ."""
    if not args or args[0] not in ("show", "compare"):
        if args and args[0] not in ("-h", "--help"):
            raise Refusal(f"plan has no command {args[0]!r}; did you mean {nearest(args[0], ['show', 'compare'])!r}?")
        print("usage: langevin plan show NAME:STEPS [--process SCHEDULE] [--json] [--plot FILE.png]\n"
              "       langevin plan compare ONE OTHER [--process SCHEDULE]")  # fmt: skip
        return
    kind = _PlanShow if args[0] == "show" else _PlanCompare
    asked = _parse(kind, args[1:], f"langevin plan {args[0]}")
    from langevin import plans, spec
    from langevin.schedules import SCHEDULES

    for text in (asked.one, asked.other) if isinstance(asked, _PlanCompare) else (asked.plan,):
        if text.startswith("auto"):
            raise Refusal(f"plan is {text!r}, which is found on a run's model; use it with langevin sample RUN --plan {text}.")
    schedule = spec.parse(asked.process, SCHEDULES, "process")
    if isinstance(asked, _PlanCompare):
        print(plans.compare(plans.parse(asked.one).on(schedule), plans.parse(asked.other).on(schedule)))
        return
    table = plans.parse(asked.plan).on(schedule)
    print(table.to_json() if asked.json else table)
    if asked.plot is not None:
        if asked.plot.suffix != ".png":
            raise Refusal(f"plot is {asked.plot}; write a .png.")
        from langevin.pictures import plot_plan

        print(plot_plan(table, asked.plot), file=sys.stderr)


# tune


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


def tune(args: Sequence[str]) -> None:
    """Learn a plan of few evaluations from a model's own fine trajectories. A stop loses little: run it again."""
    asked = _parse(_Tune, args, "langevin tune")
    if asked.out is not None and asked.out.suffix != ".json":
        raise Refusal(f"out is {asked.out}; write a .json.")
    from langevin.recipes.build import open_run
    from langevin.recipes.sampling import save
    from langevin.recipes.sampling import tune as learn

    out = asked.out or asked.run / "plans" / f"tuned-{asked.steps}.json"
    run = open_run(asked.run)
    out.parent.mkdir(parents=True, exist_ok=True)
    half_way = out.with_suffix(".tuning.safetensors")
    found, ready = learn(run, asked.steps, guidance=asked.guidance, iterations=asked.iterations, checkpoint=half_way, show=True)
    save(found.plan, out)
    half_way.unlink(missing_ok=True)
    print(f"best ready-made  {ready}")
    print(f"tuned            {found}" if found is not ready else "tuning did not beat it; the ready-made plan is kept.")
    print(f"{out}: use it as --plan {out}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train, "sample": sample, "evaluate": evaluate, "recipes": recipes, "inspect": inspect, "plan": plan,
    "tune": tune,
}  # fmt: skip


def _parse(kind: Any, args: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP) -> Any:
    return tyro.cli(kind, prog=prog, args=list(args), default=default, config=(tyro.conf.AvoidSubcommands,))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `langevin`."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    if args[0] == "--version":
        from langevin import __version__

        print(__version__)
        return
    try:
        if args[0] not in COMMANDS:
            raise Refusal(f"there is no command {args[0]!r}; did you mean {nearest(args[0], COMMANDS)!r}?")
        COMMANDS[args[0]](args[1:])
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"{'.'.join(map(str, first['loc']))} is {first.get('input')!r}: {first['msg']}.")
    except BrokenPipeError:  # the reader has seen enough
        raise SystemExit(0) from None
    except (Refusal, ValueError, ArithmeticError, OSError, ImportError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted.", 130)


def _fail(text: str, code: int = 2) -> None:
    print(f"langevin: {text}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
