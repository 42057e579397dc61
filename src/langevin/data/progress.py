"""A bar for work that takes a while."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def shown(items: Iterable[T], total: int, text: str, wanted: bool = True) -> Iterator[T]:
    """The items, with a bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    bar = wanted and console.is_terminal
    return iter(track(items, text, total, console=console, transient=True) if bar else items)
