"""What is asked on the command line: typed settings from flags, and refusals."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro
from pydantic import ValidationError

from langevin.config import sentence


class Refusal(Exception):
    """An error in what was asked; its text is all that the user is shown."""


def parse(kind: Any, args: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP) -> Any:
    """An object of a typed class from flags; ends the program on a flag that is none of its fields.

    Raises:
        Refusal: for a value that the class refuses.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # tyro prints a refused value as pydantic words it
            return tyro.cli(kind, prog=prog, args=list(args), default=default, config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as end:
        met = end.__context__
        while met is not None and not isinstance(met, ValidationError):
            met = met.__context__
        if met is not None:
            raise Refusal(sentence(met, args)) from None
        print(said.getvalue(), end="", file=sys.stderr)
        raise


def taken(flag: str, args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of a flag that no class declares, and the other arguments."""
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            if not equals and i + 1 == len(args):
                raise Refusal(f"{flag} has no value.")
            return (value, [*args[:i], *args[i + 1 :]]) if equals else (args[i + 1], [*args[:i], *args[i + 2 :]])
    return None, list(args)
