"""Bars for work that takes a while, on stderr where that is a terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")
_SHOWN: ContextVar[Any] = ContextVar("shown", default=None)


def shown(items: Iterable[T], total: int, text: str, wanted: bool = True) -> Iterator[T]:
    """The items, with a bar on stderr if that is a terminal; within `watched`, a bar of it."""
    from rich.console import Console
    from rich.progress import track

    if wanted and _SHOWN.get() is not None:
        return _staged(items, total, text)
    console = Console(stderr=True)
    bar = wanted and console.is_terminal
    return iter(track(items, text, total, console=console, transient=True) if bar else items)


def _staged(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    with stage(text, total) as done:
        for item in items:
            yield item
            done(1)


@contextmanager
def watched() -> Iterator[None]:
    """Every `stage` within shows a bar on stderr, if that is a terminal, until it is over. Print to stdout outside of it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal or _SHOWN.get() is not None:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[calls]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, redirect_stdout=False) as bar:
        before = _SHOWN.set(bar)
        try:
            yield
        finally:
            _SHOWN.reset(before)


@contextmanager
def stage(text: str, total: int, net: nn.Module | None = None) -> Iterator[Callable[[int], None]]:
    """A part of the work: a function that is told how many more of `total` are done. Outside of `watched` nobody looks.

    Args:
        net: whose calls are counted as well: they show that something happens before the first of many is done.
    """
    if (bar := _SHOWN.get()) is None:
        yield lambda more: None
        return
    task, calls = bar.add_task(text, total=total, calls=""), 0

    def called(*_: Any) -> None:
        nonlocal calls
        calls += 1
        bar.update(task, calls=f"{calls} evaluations")

    handle = None if net is None else net.register_forward_pre_hook(called)
    try:
        yield lambda more: bar.advance(task, more)
    finally:
        if handle is not None:
            handle.remove()
        bar.refresh()  # a short part is seen as well
        bar.remove_task(task)
