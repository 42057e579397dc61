"""Ctrl-C, as a command hears it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.05
"""Seconds until it is looked again whether an import has ended."""


@contextmanager
def heard(frame: FrameType) -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, but only where no import is under way: a library that is half imported fails in words of
    its own, or hides it, as torch does while it looks for numpy, and the command would go on without. A second one is heard
    at once.

    Args:
        frame: of the command; imports that it is itself a part of do not count.
    """
    late = False

    def asked(number: int, at: FrameType | None) -> None:
        nonlocal late
        if _importing(at, frame) and not (late and number == signal.SIGINT):
            late = True
            signal.signal(signal.SIGALRM, asked)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        raise KeyboardInterrupt

    here = signal.getsignal(signal.SIGINT)
    if here is not signal.default_int_handler or not hasattr(signal, "setitimer"):  # ignored, or somebody's own
        yield
        return
    alarm: Any = signal.getsignal(signal.SIGALRM)
    try:
        signal.signal(signal.SIGINT, asked)
    except ValueError:  # not the main thread, which hears no signals
        yield
        return
    try:
        yield
    finally:
        if late:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, here)


def _importing(at: FrameType | None, until: FrameType) -> bool:
    """Whether an import is under way above a frame."""
    while at is not None and at is not until:
        if at.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        at = at.f_back
    return False
