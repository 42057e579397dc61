"""What tar shards hold, found by reading them once and remembered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langevin.data import tar
from langevin.data.decode import Unreadable
from langevin.data.members import FACTS, extension_of, facts, looked_at, packed
from langevin.data.scan import alone, looked, remember, stamp_of


@dataclass(slots=True)
class Found:
    """A sample, and what was seen in it."""

    path: Path
    sample: tar.Sample
    """Where its members are; their bytes are not kept."""
    label: int | None = None
    caption: str | None = None
    seen: tuple[int, ...] | str = ()
    """(height, width) of its picture, or the shape of its array; or why it cannot be read."""


def contents(paths: Sequence[Path], file: Path | None = None, progress: bool = True) -> list[Found]:
    """All samples of the shards, each read whole once, with threads.

    Args:
        file: JSON in which all of this is remembered; a shard whose bytes and time of change are as they were is not opened
            again. A file that is damaged counts as none.
        progress: whether to show a bar, on a terminal.

    Raises:
        ValueError: for a shard that is damaged, or has members it must not have; see `langevin.data.tar.samples`.
    """
    with alone(file):
        known, stamps = _known(file), {path: stamp_of(path) for path in paths}
        found = {path: _remembered(path, stamps[path], known) for path in paths}
        new = {path: _headers(path) for path, samples in found.items() if samples is None}
        looked(_look, [one for samples in new.values() for one in samples], progress, "looking at samples")
        every = {path: new[path] if samples is None else samples for path, samples in found.items()}
        if file is not None and new:
            remember(file, {_name(path): [stamps[path], [_line(one) for one in samples]] for path, samples in every.items()})
    return [one for samples in every.values() for one in samples]


def _headers(path: Path) -> list[Found]:
    """The samples of a shard, of which only what is small has been read."""
    every = []
    with path.open("rb") as file:
        for sample in tar.samples(file, str(path), FACTS):
            one = Found(path, sample)
            try:
                one.label, one.caption = facts(packed(sample))
            except Unreadable as error:
                one.seen = str(error)
            for member in sample.members.values():
                member.data = None
            every.append(one)
    return every


def _look(one: Found) -> None:
    if not one.seen:
        try:
            one.seen = looked_at({e: tar.fetch(one.path, m) for e, m in one.sample.members.items() if e not in FACTS})
        except Unreadable as error:
            one.seen = str(error)


def _name(path: Path) -> str:
    return str(path.absolute())


def _line(one: Found) -> list[Any]:
    members = {extension: [m.name, m.offset, m.size] for extension, m in one.sample.members.items()}
    return [one.sample.key, members, one.label, one.caption, one.seen]


def _known(file: Path | None) -> Mapping[str, Any]:
    try:
        said = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _remembered(path: Path, stamp: list[int] | None, known: Mapping[str, Any]) -> list[Found] | None:
    """What was found in a shard that stayed as it was; None for one that has to be read."""
    try:
        was, lines = known[_name(path)]
        return [_found(path, line) for line in lines] if stamp is not None and was == stamp else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _found(path: Path, line: Any) -> Found:
    key, members, label, caption, seen = line
    sample = tar.Sample(str(path), key, {e: tar.Member(name, offset, size) for e, (name, offset, size) in members.items()})
    numbers = [n for m in sample.members.values() for n in (m.offset, m.size)]
    if not all(type(n) is int and n >= 0 for n in numbers) or any(m.size > tar.MAX_MEMBER for m in sample.members.values()):
        raise ValueError
    if any(isinstance(v, str) and (len(v) > tar.MAX_NAME or not v.isprintable()) for v in (key, seen)):
        raise ValueError
    for value, kind in ((key, str), (label, int), (caption, str)):
        if value is not None and type(value) is not kind:
            raise TypeError
    if not isinstance(seen, str) and not all(type(n) is int for n in seen):
        raise TypeError
    if not isinstance(seen, str):
        extension_of(sample.members)
    return Found(path, sample, label, caption, seen if isinstance(seen, str) else tuple(seen))
