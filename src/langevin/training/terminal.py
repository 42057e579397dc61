"""What a run hears and shows on a terminal."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def signals(stop: Callable[[], None], say: bool = True) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C is Python's own.

    Args:
        say: that it was heard; of several processes one says it.
    """

    def asked(number: int, frame: object) -> None:
        stop()
        if say:  # print() may be in the middle of a line of its own
            os.write(2, b"\nstopping after this step, then saving; Ctrl-C again ends at once and loses what is not saved\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        old = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def progress(total: int, done: int, wanted: bool) -> Iterator[Callable[[int, float], None]]:
    """A bar of steps, moved by (step, loss)."""
    if not wanted:
        yield lambda step, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done, loss="")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.4f}")
