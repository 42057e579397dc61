"""langevin train."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from langevin.cli.asking import Refusal, parse, stopping, taken
from langevin.config import PROCESSES
from langevin.files import make_folder, writable
from langevin.inspection import numbered
from langevin.recipes import RECIPES, Recipe, recipe
from langevin.recipes import config as c
from langevin.recipes.objectives import ObjectiveConfig
from langevin.spec import nearest

KINDS = {
    "data": c.DataConfig, "data.target": c.Side, "data.source": c.Side, "process": c.ProcessConfig, "network": c.NetworkConfig,
    "objective": ObjectiveConfig,
}  # fmt: skip
"""Parts of a recipe that may be of several kinds."""
SECONDS_TO_SAVE = 120
"""What processes have for a step and a checkpoint after a signal, before torchrun kills them; its own default is 30."""
STOPPED = 130
"""Exit status of a training that was told to stop."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every training."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run directory; runs/RECIPE by default."""
    resume: bool = False
    """Continue the run in that directory, if there is one."""
    other_data: bool = False
    """Continue it though the data is other than it was begun with."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    processes: int = 1
    """Group to train with, on this machine; for several machines see docs/distributed.md."""
    shard: bool = False
    """Divide the weights between the processes (FSDP2) instead of holding them in each."""
    samples: int | None = None
    """Samples for the evaluation at the end, 1000 by default; 0 leaves it out. As --evaluation.at-end, which a run remembers."""


def settled(asked: Any) -> Any:
    """What is asked of a training, with --samples in its recipe."""
    if asked.samples is None:
        return asked
    judged = asked.recipe.evaluation.model_copy(update={"at_end": asked.samples})
    return replace(asked, recipe=asked.recipe.model_copy(update={"evaluation": judged}))


@dataclass(frozen=True, kw_only=True)
class _Train(Asked):
    origin: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Begin with the averaged weights of that run, or with those of a safetensors file (as --finetune.origin)."""


def launched(command: Sequence[str]) -> int:
    """The exit status of a launcher, which is told the first signal to stop that comes here, and waited for.

    The first alone: at a second one torchrun would leave its processes without waiting for them. For the same reason it does
    not hear the terminal's Ctrl-C itself. Processes that were stopped and saved what they had end well; the command does not.
    """
    told: list[int] = []

    def tell(number: int, frame: Any) -> None:
        if not told:
            told.append(number)
            process.send_signal(number)

    process = subprocess.Popen(command, start_new_session=True)
    before = {n: signal.signal(n, tell) for n in _STOPS if signal.getsignal(n) != signal.SIG_IGN}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told and status == 0:
        return 128 + told[0]
    return status if status >= 0 else 128 - status


def train(args: Sequence[str]) -> None:
    """Train a recipe, evaluate it, and leave pictures and metrics in its run directory."""
    if not args or args[0] in ("-h", "--help"):
        listing = "\n".join(f"  {name:16} {make().about}" for name, make in RECIPES.items())
        print(
            f"usage: langevin train RECIPE [--field value ...] [--out DIR] [--resume]\n\n{listing}\n\n"
            "langevin train RECIPE --help shows every field; --network.kind dit makes a part one of another kind, of\n"
            f"{listed()}"
        )
        return
    name, *rest = args
    out, usual = Path("runs") / name, recipe(name)
    before = begun(rest, out)
    if before is not None and before[1].name != usual.name:
        raise Refusal(f"recipe is {usual.name}, but the run in {before[0]} is of {before[1].name}; resume it as that, or choose "
                      "another directory.")  # fmt: skip
    made, rest = of_kinds(before[1] if before else usual, rest)
    if {"-h", "--help"} & {*rest}:
        print(f"A part may be of another kind, with fields of its own (--network.kind dit --help shows them), of\n{listed()}\n")
    asked = settled(parse(_Train, rest, f"langevin train {name}", _Train(recipe=made)))
    out = asked.out or out
    if asked.origin is not None:
        changed = asked.recipe.finetune.model_copy(update={"origin": asked.origin})
        asked = replace(asked, recipe=asked.recipe.model_copy(update={"finetune": changed}))
    captions = getattr(asked.recipe.data, "captions", None)
    if captions is not None and asked.recipe.text is None and captions != getattr(usual.data, "captions", None):
        raise Refusal(
            f"data.captions is {captions}, and recipe {name} reads no texts; train emoji with --data.folder, --data.captions and "
            "--codec.origin None, or leave captions out."
        )
    again = f"langevin train {name} --out {shlex.quote(str(out))} --resume"
    made = trained(asked, out, ["train", *args], again)
    if made is None:
        return
    from langevin.recipes.report import pages, report

    run, device = made
    with stopping(after(asked, again)):
        if not (count := asked.recipe.evaluation.at_end):
            pages(run, out, device=device)
            return
        print(report(run, out, count, device=device))


def after(asked: Asked, again: str) -> str:
    """What a stop says when there is nothing more to train."""
    return f"the run is trained and saved; to look at it and judge it: {again}{_kept(asked)}"


def _kept(asked: Asked) -> str:
    """Flags that are not written in the run's directory, where they are not the usual ones."""
    usual = {f.name: f.default for f in fields(Asked) if f.name not in ("recipe", "out", "resume")}
    said = {name: value for name in usual if (value := getattr(asked, name)) != usual[name]}
    return "".join(f" --{name.replace('_', '-')}{'' if value is True else f' {value}'}" for name, value in said.items())


def begun(args: Sequence[str], usual: Path) -> tuple[Path, Recipe] | None:
    """The run that is to be resumed, if there is one: what it was begun with stands wherever nothing else is asked for."""
    asked, _ = taken("--out", args)
    out = usual if asked is None else Path(asked)
    if "--resume" not in args or not (out / "recipe.json").exists():
        return None
    from langevin.recipes.opening import read_recipe

    return out, read_recipe(out)


def kinds_of(union: Any) -> dict[str, Any]:
    """The classes of settings in a union, by their kinds."""
    return {cls.model_fields["kind"].default: cls for cls in get_args(get_args(union)[0])}


def listed() -> str:
    """The kinds that the parts of a recipe may be of, in paragraphs."""
    parts = {path: ", ".join(kinds_of(union)) for path, union in KINDS.items() if "." not in path}
    return "\n".join(
        textwrap.fill(said, 100, initial_indent=f"  {path:10}", subsequent_indent=12 * " ", break_on_hyphens=False)
        for path, said in parts.items()
    )


def of_kinds(made: Recipe, args: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe with other kinds of parts, --network.kind dit, which have fields of their own; and the other arguments."""
    rest = list(args)
    for path, union in KINDS.items():
        kind, others = taken(f"--{path}.kind", rest)
        *above, last = path.split(".")
        node: Any = made
        for part in above:
            node = getattr(node, part)
        if kind is None or not hasattr(node, last):
            continue
        rest, kinds = others, kinds_of(union)
        if kind not in kinds:
            raise Refusal(f"{path}.kind is {kind!r}; did you mean {nearest(kind, kinds)!r}? There are {', '.join(kinds)}.")
        if getattr(node, last).kind == kind:
            continue
        part: Any = kinds[kind]()
        for name in reversed(path.split(".")[1:]):
            part = getattr(made, path.split(".")[0]).model_copy(update={name: part})
        made = made.model_copy(update={path.split(".")[0]: part})
        if path == "objective" and part.ends:
            from langevin.recipes.distillation import STUDENTS

            # what says where the flow ends is not sampled by a solver of the flow
            made = made.model_copy(update={"sample": made.sample.model_copy(update={"plan": STUDENTS[kind](2)[1]})})
    return made, rest


def _divide(processes: int, out: Path, command: Sequence[str]) -> None:
    """Start several processes that do a command, and end as they did, where this is not one of them and several are wanted.

    Raises:
        Refusal: for a number of them that makes no sense.
        OSError, ValueError: for a directory that cannot be written, as `writable`.
        SystemExit: of those that were started.
    """
    if processes < 1:
        raise Refusal(f"processes is {processes}; use at least 1.")
    if processes > PROCESSES:
        raise Refusal(f"processes is {processes}; use at most {PROCESSES} on one machine.")
    if "WORLD_SIZE" in os.environ:
        return
    writable(out, "out")
    if processes > 1:
        launcher = ["langevin.cli.launcher", "--standalone", f"--nproc-per-node={processes}", "-m", "langevin"]
        # --shutdown-timeout, which earlier versions of torchrun do not know
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
        raise SystemExit(launched([sys.executable, "-m", *launcher, *command]))


def trained(
    asked: Asked, out: Path, command: Sequence[str], again: str, measures: Callable[[Any], tuple[str, ...]] = lambda run: ()
) -> tuple[Any, str] | None:
    """Train what was asked for: (the run with the weights that were saved, device), in the first process alone.

    Args:
        command: what was asked, for the launcher of several processes.
        again: how to continue, for those who stopped it.
        measures: what the run is judged by at the end, () for the usual; refused now where samples at the end are too few.
    """
    if (samples := asked.recipe.evaluation.at_end) < 0 or samples == 1:
        raise Refusal(f"samples is {samples}; the evaluation needs at least 2, and 0 leaves it out.")
    _divide(asked.processes, out, command)
    from langevin.recipes.domains import Asked as Judged
    from langevin.recipes.in_loop import evaluator
    from langevin.recipes.opening import open_run
    from langevin.recipes.report import preview
    from langevin.recipes.starting import start

    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out, "out")
    options: dict[str, Any] = {"device": asked.device, "shard": asked.shard, "other_data": asked.other_data}
    early = "no step was made yet; the same command begins again."
    try:
        with stopping(early):
            run, trainer = start(asked.recipe, out, asked.resume, **options)
    except BaseException:
        with suppress(OSError):  # what something was written to stays
            for folder in new:
                folder.rmdir()
        raise
    if trainer.group.first:
        if run.facts.names:
            print(f"classes: {numbered(run.facts.names)}", file=sys.stderr)
        warm, total = run.recipe.train.warmup, trainer.total
        if warm > total / 2:
            print(f"the rate rises for {warm} samples of the run's {total} and hardly comes near {run.recipe.train.lr:g}; "
                  f"--train.warmup {total // 10} is a tenth of it.", file=sys.stderr)  # fmt: skip
    lost = f"what was saved until then stays; continue with: {again}{_kept(asked)}"
    with stopping(lost), closing(trainer), tempfile.TemporaryDirectory() as unseen:
        if samples:  # now rather than after training
            run.domain.afford(run, Judged(samples, metrics=measures(run), small=True))
        if trainer.group.first or asked.shard:  # where weights are divided, all compute what only the first shows
            shown = out if trainer.group.first else Path(unseen)
            trainer.hooks.append((run.recipe.train.preview_every, preview(run, shown)))
            if asked.recipe.evaluation.every:
                options = asked.recipe.evaluation.model_dump(exclude={"every", "at_end"})
                measured = evaluator(run, out=shown, device=str(trainer.group.device), **options)
                trainer.hooks.append((asked.recipe.evaluation.every, measured))
        trainer.run()
    trainer.group.leave()
    if not trainer.group.first:
        return None
    if not trainer.finished:
        print(f"stopped at step {trainer.step}; continue with: {again}{_kept(asked)}", file=sys.stderr)
        raise SystemExit(STOPPED if trainer.group.world == 1 else 0)  # torchrun would restart what ended otherwise
    # what is judged is what was saved
    with stopping(after(asked, again)):
        return run.holding(open_run(out).denoiser), str(trainer.group.device)
