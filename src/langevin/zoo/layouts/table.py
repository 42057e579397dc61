"""Tables between the names of an original file and the published ones: one line serves both directions.

A line is two templates, such as `{r}.in_layers.0.{leaf}` and `{r}.norm1.{leaf}`. A field in braces stands for the same text on
both sides, or for two that a dictionary says belong together: where a table differs from model to model (blocks that are
counted through here, and by level there) only the dictionary does.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from langevin.zoo.keys import SAME, Move, Row

Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]
Read = Callable[[str], Tensor]

FIELDS = {"i": r"\d+", "j": r"\d+", "k": r"\d+", "leaf": "weight|bias", "rest": ".+"}


def interleave(width: int) -> Move:
    """Queries, keys and values fused head by head, rows of (heads, 3, width), as guided-diffusion has them at first."""

    def fuse(theirs: Sequence[Tensor]) -> Tensor:
        return torch.stack([t.reshape(-1, width, *t.shape[1:]) for t in theirs], 1).flatten(0, 2)

    def split(ours: Tensor, n: int) -> Sequence[Tensor]:
        return [part.flatten(0, 1) for part in ours.reshape(-1, n, width, *ours.shape[1:]).unbind(1)]

    return Move(fuse, split)


def squeezed(move: Move, axes: int) -> Move:
    """A move of matrices whose original is a convolution of size 1, with so many axes of length 1 at the end."""

    def load(theirs: Sequence[Tensor]) -> Tensor:
        made = move.load(theirs)
        return made.reshape(*made.shape, *[1] * axes)

    def save(ours: Tensor, n: int) -> Sequence[Tensor]:
        if ours.ndim != 2 + axes or any(size != 1 for size in ours.shape[2:]):
            raise ValueError(f"has the shape {tuple(ours.shape)}, and is a convolution of size 1 in this layout")
        return move.save(ours.flatten(1), n)

    return Move(load, save)


@dataclass(frozen=True)
class Line:
    """One kind of tensor: its name in the original, and the published names of what it is made of.

    Args:
        move: `load` makes the original of the published tensors, `save` the published ones of the original.
    """

    original: str
    published: str | tuple[str, ...]
    move: Move = SAME

    @property
    def names(self) -> tuple[str, ...]:
        return (self.published,) if isinstance(self.published, str) else self.published


@dataclass(frozen=True)
class Table:
    """Lines, tried in order.

    Args:
        fields: by field, the texts that stand for each other, original -> published.
        ignored: (pattern, reason) of original names that hold nothing learned, or nothing that is used.
    """

    lines: Sequence[Line]
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ignored: Sequence[tuple[str, str]] = ()

    def _pattern(self, template: str, published: bool) -> re.Pattern[str]:
        def group(found: re.Match[str]) -> str:
            name = found[1]
            if name in self.fields:
                texts = self.fields[name].values() if published else self.fields[name]
                return f"(?P<{name}>{'|'.join(re.escape(t) for t in texts) or '(?!)'})"
            return f"(?P<{name}>{FIELDS[name]})"

        return re.compile(re.sub(r"\\{(\w+)\\}", group, re.escape(template)))

    @cached_property
    def _compiled(self) -> list[tuple[Line, re.Pattern[str], re.Pattern[str]]]:
        return [(line, self._pattern(line.original, False), self._pattern(line.names[0], True)) for line in self.lines]

    @cached_property
    def _inverse(self) -> dict[str, dict[str, str]]:
        return {name: {there: here for here, there in texts.items()} for name, texts in self.fields.items()}

    def row(self, original: str) -> Row | None:
        """What the tensor of an original name answers to; None if no line knows it."""
        for line, pattern, _ in self._compiled:
            if found := pattern.fullmatch(original):
                texts = {k: self.fields[k][v] if k in self.fields else v for k, v in found.groupdict().items()}
                return Row(original, tuple(n.format(**texts) for n in line.names), line.move)
        return None

    def why_ignored(self, original: str) -> str | None:
        return next((reason for pattern, reason in self.ignored if re.fullmatch(pattern, original)), None)

    def rows(self, originals: Iterable[str], what: str) -> tuple[list[Row], dict[str, str]]:
        """The rows of all names, and the names that are not used with the reasons.

        Raises:
            ValueError: naming a tensor that the layout does not know.
        """
        made: list[Row] = []
        ignored: dict[str, str] = {}
        for name in originals:
            if reason := self.why_ignored(name):
                ignored[name] = reason
            elif row := self.row(name):
                made.append(row)
            else:
                known = [row.ours for row in made]
                near = difflib.get_close_matches(name, known, 1, 0)
                hint = f"; the nearest name that it does is {near[0]!r}" if near else ""
                raise ValueError(f"{what} does not know the tensor {name!r}{hint}.")
        return made, ignored

    def back(self, published: Iterable[str], what: str) -> list[Row]:
        """The rows that make originals of published names.

        Raises:
            ValueError: naming a tensor that has no place in the layout, or one that is missing beside another.
        """
        names = list(published)
        left, made = dict.fromkeys(names), []
        for name in names:
            if name not in left:
                continue
            for line, _, pattern in self._compiled:
                if not (found := pattern.fullmatch(name)):
                    continue
                texts = found.groupdict()
                theirs = tuple(n.format(**texts) for n in line.names)
                if lost := [n for n in theirs if n not in left]:
                    raise ValueError(f"{what} joins {name!r} and {lost[0]!r}, and the second is missing.")
                here = {k: self._inverse[k][v] if k in self._inverse else v for k, v in texts.items()}
                made.append(Row(line.original.format(**here), theirs, line.move))
                for n in theirs:
                    del left[n]
                break
        if left:
            raise ValueError(f"{what} has no place for the tensor {next(iter(left))!r}.")
        return made


@dataclass(frozen=True)
class Piece:
    """One component of a file, under its published names. Nothing is read until it is asked for.

    Args:
        kind: its class, such as UNet2DConditionModel. config: as config.json would have it.
        shapes: by published name. read: a tensor by its published name; several that one original holds are views of it.
    """

    kind: str
    config: dict[str, Any]
    shapes: Shapes
    read: Read = field(repr=False)

    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: self.read(name) for name in self.shapes}


def piece(kind: str, config: dict[str, Any], rows: Sequence[Row], shapes: Shapes, read: Read, what: str) -> Piece:
    """The component that the rows make.

    Args:
        shapes, read: of the originals.

    Raises:
        ValueError: naming an original whose shape its line cannot split.
    """
    made: dict[str, tuple[int, ...]] = {}
    at: dict[str, tuple[Row, int]] = {}
    for row in rows:
        for place, (name, value) in enumerate(zip(row.theirs, _split(row, _empty(shapes[row.ours]), what), strict=True)):
            made[name], at[name] = tuple(value.shape), (row, place)
    last: dict[str, Tensor] = {}  # the original read last: its parts are asked for one after the other

    def one(name: str) -> Tensor:
        row, place = at[name]
        if row.ours not in last:
            last.clear()
            last[row.ours] = read(row.ours)
        return _split(row, last[row.ours], what)[place]

    return Piece(kind, config, made, one)


def _empty(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")


def _split(row: Row, value: Tensor, what: str) -> Sequence[Tensor]:
    try:
        parts = row.move.save(value, len(row.theirs))
        if len(parts) != len(row.theirs):
            raise ValueError(f"does not split into {len(row.theirs)}")
        return parts
    except (ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{what}: {row.ours!r} of shape {tuple(value.shape)} {why}.") from None


def originals(rows: Sequence[Row], read: Read, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of an original file from published ones, each in memory of its own."""
    return {prefix + row.ours: row.move.load([read(n) for n in row.theirs]).contiguous() for row in rows}


def channels(shapes: Shapes, name: str, axis: int = 0) -> int:
    """The length of an axis of a tensor that the layout cannot do without.

    Raises:
        ValueError: naming it, if it is missing or has no such axis.
    """
    if name not in shapes or len(shapes[name]) <= (axis if axis >= 0 else -axis - 1):
        raise ValueError(f"the file lacks {name!r}, which its layout cannot do without.")
    return shapes[name][axis]


def count(shapes: Shapes, template: str) -> int:
    """How many of the names `template.format(i)`, from 0, begin a name here."""
    n = 0
    while any(name.startswith(template.format(n)) for name in shapes):
        n += 1
    return n


def plain(values: Sequence[Any]) -> Any:
    """One value where all are alike, else the list."""
    return values[0] if all(v == values[0] for v in values) else list(values)
