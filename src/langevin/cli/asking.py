"""What is asked on the command line: typed settings from flags, and refusals."""

from collections.abc import Sequence
from typing import Any

import tyro


class Refusal(Exception):
    """An error in what was asked; its text is all that the user is shown."""


def parse(kind: Any, args: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP) -> Any:
    """An object of a typed class from flags; ends the program on a flag that is none of its fields."""
    return tyro.cli(kind, prog=prog, args=list(args), default=default, config=(tyro.conf.AvoidSubcommands,))
