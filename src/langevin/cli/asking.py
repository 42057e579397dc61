"""What is asked on the command line: typed settings from flags, and refusals."""

import io
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import tyro
from pydantic import ValidationError

from langevin.cli.misread import flags_of, given, sentence_of
from langevin.config import ELSEWHERE, PEERS, sentence
from langevin.files import writable

FLAGS = {
    "path": "data.folder", "folder": "data.path", "data_dir": "data.folder", "data_path": "data.folder", "dataset": "data.kind",
    "train_data_dir": "data.folder", "resolution": "data.size", "image_size": "data.size", "output_dir": "out", "output": "out",
    "outdir": "out", "mixed_precision": "train.precision", "resume_from_checkpoint": "resume", "samples": "count",
    "count": "samples", "num_samples": "count", "n_samples": "count", "train_batch_size": "train.batch",
    "max_train_steps": "train.steps", "num_train_epochs": "epochs",
}  # fmt: skip
"""Names of flags in other programs, or in other commands of ours, and ours."""
WRITTEN = ("out", "target", "each", "plot", "preview", "previews")
"""Flags that name what a command writes."""


class Refusal(Exception):
    """An error in what was asked; its text is all that the user is shown."""


@contextmanager
def stopping(said: str) -> Iterator[None]:
    """Around long work: what Ctrl-C says of it, which is what was kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or said) from None


def parse(kind: Any, args: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP) -> Any:
    """An object of a typed class from flags; what it says is to be written can be, or is refused now.

    Raises:
        Refusal: for a flag that is none of its fields, and a value that is missing, cannot be read, or is out of range.
        OSError, ValueError: for a file that cannot be written, as `writable`.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # tyro prints a refused value as pydantic words it
            made = tyro.cli(kind, prog=prog, args=list(args), default=default, config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as end:
        met = end.__context__
        while met is not None and not isinstance(met, ValidationError):
            met = met.__context__
        if met is not None:
            raise Refusal(sentence(met, args)) from None
        if not end.code:
            raise
        told = _help(kind, default)
        if "Unrecognized options" in said.getvalue():
            refuse_names_of_others(args, flags_of(told), prog)
        if (why := sentence_of(said.getvalue(), args, told, kind, prog)) is not None:
            raise Refusal(why) from None
        print(said.getvalue(), end="", file=sys.stderr)
        raise
    for name in WRITTEN:
        if not isinstance(path := getattr(made, name, None), Path):
            continue
        if given(f"--{name}", args) == [""]:  # which would be the folder one is in
            raise Refusal(f"{name} is ''; name what to write.")
        writable(path, name)
    return made


def _help(kind: Any, default: Any) -> str:
    """The help of a typed class."""
    told = io.StringIO()
    with suppress(SystemExit), redirect_stdout(told):
        tyro.cli(kind, args=["--help"], default=default, config=(tyro.conf.AvoidSubcommands,))
    return told.getvalue()


def refuse_names_of_others(args: Sequence[str], flags: Collection[str], prog: str) -> None:
    """Refuse the first flag that another library calls what a flag here is called otherwise; others are left alone.

    Args:
        flags: of the command `prog`.

    Raises:
        Refusal: with the name here.
    """
    for arg in args:
        flag = arg.partition("=")[0]
        *above, last = flag.removeprefix("--").replace("-", "_").split(".")
        if not flag.startswith("--") or flag.replace("_", "-") in flags or not last:
            continue
        for table, part in ((FLAGS, "data"), (ELSEWHERE, "train"), (PEERS, "sample")):
            ours = table.get(last, last)
            if ours == "epochs" and "--train.steps" in flags:
                how = "say --train.steps (updates: epochs * samples of data / batch), or --train.samples"
                raise Refusal(f"{flag} is no flag of {prog}; {how}.")
            names = [[*above, ours], [ours], [part, ours], [ours.rpartition(".")[2]]]
            names += [["data", "path"]] * (ours == "data.folder")
            said = ["--" + ".".join(name).replace("_", "-") for name in names]
            if (near := next((f for f in said if f in flags), None)) is not None:
                raise Refusal(f"{flag} is no flag of {prog}; it is {near} here.")
            if table is PEERS and ours == "steps" and (plan := {"--plan", "--sample.plan"} & {*flags}):
                raise Refusal(f"{flag} is no flag of {prog}; the plan says how many, as in {plan.pop()} dpmpp:20.")


def taken(flag: str, args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of a flag that no class declares, and the other arguments."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            if not equals and i + 1 == len(args):
                raise Refusal(f"{flag} has no value.")
            return (value, [*args[:i], *args[i + 1 :]]) if equals else (args[i + 1], [*args[:i], *args[i + 2 :]])
    return None, list(args)
