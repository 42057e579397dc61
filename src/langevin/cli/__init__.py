"""The command line: how it begins and ends. What it knows is in `commands`, which is imported where Ctrl-C is heard already."""

import re
import sys
from collections.abc import Sequence

from langevin.cli.interrupts import heard

_SHORT = re.compile("out of memory|can't allocate memory|not enough memory")
KEPT = {
    "tune": "what was learned so far is kept beside the plan; the same command goes on.",
    "data": "what was drawn so far stays; the same command goes on.",
    "design": "rounds that were done stay; the same command goes on.",
    "augment": "what was painted so far is kept in its folder; the same command goes on.",
    "finetune": "what was saved until then stays; the same command with --resume goes on.",
}
"""What Ctrl-C leaves of a command, and how to go on; a command of several stages says it of each itself."""
NOTHING = "what was being made is gone, all else is as it was; the same command begins anew."


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `langevin`."""
    args = sys.argv[1:] if args is None else args
    told: tuple[type[Exception], ...] = (ValueError, ArithmeticError, OSError, ImportError)
    try:
        with heard(sys._getframe()):
            from langevin.cli.asking import Refusal
            from langevin.cli.commands import answer

            told = (Refusal, *told)
            answer(args)
    except BrokenPipeError:  # the reader has seen enough
        raise SystemExit(0) from None
    except told as error:
        _fail(str(error))
    except (RuntimeError, MemoryError) as error:
        said = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2][:200] or "no more is given"
        if not isinstance(error, MemoryError) and not _SHORT.search(said):
            raise
        _fail(f"memory does not suffice ({said}); ask for less at once, such as a smaller batch, count or size.")
    except KeyboardInterrupt as stop:
        _fail(f"interrupted: {str(stop) or KEPT.get(args[0], NOTHING)}", 130)


def _fail(text: str, code: int = 2) -> None:
    print(f"langevin: {text}", file=sys.stderr)
    raise SystemExit(code)
