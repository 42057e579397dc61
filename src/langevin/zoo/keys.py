"""Two-way key maps: how the tensors of a published layout and the parameters of a network of ours answer to each other.

A map is written from our names to theirs, as data: renames, done one after the other; then joins, for parameters that hold
several of their tensors at once. A network's own names, told without a value being read, make the rows; so the same rows load,
save, and say what is missing, what is left over, and which name was probably meant.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Move:
    """How several of their tensors make one of ours, and back.

    Args:
        load: their tensors, in the order of the row -> ours.
        save: ours, and how many they have -> theirs.
    """

    load: Callable[[Sequence[Tensor]], Tensor]
    save: Callable[[Tensor, int], Sequence[Tensor]]


def _alike(theirs: Sequence[Tensor]) -> Tensor:
    first = theirs[0]
    if any(not torch.equal(first, other) for other in theirs[1:]):
        raise ValueError("are copies of one tensor in this layout, and differ here")
    return first


def _flat(theirs: Sequence[Tensor]) -> Tensor:
    if any(n != 1 for n in theirs[0].shape[2:]):
        raise ValueError(f"has the shape {tuple(theirs[0].shape)}, and is a convolution of size 1 in this layout")
    return theirs[0].flatten(1)


def _swapped(value: Tensor) -> Tensor:
    first, second = value.chunk(2)
    return torch.cat([second, first])


SAME = Move(lambda theirs: theirs[0], lambda ours, n: [ours])
STACK = Move(lambda theirs: torch.cat(list(theirs)), lambda ours, n: ours.chunk(n))
"""Equal parts, one below the other, as in a fused projection to queries, keys and values."""
COPIES = Move(_alike, lambda ours, n: [ours] * n)
"""The same tensor under several names."""
TRANSPOSE = Move(lambda theirs: theirs[0].t(), lambda ours, n: [ours.t()])
SWAP = Move(lambda theirs: _swapped(theirs[0]), lambda ours, n: [_swapped(ours)])
"""Two halves in the other order, as (shift, scale) and (scale, shift)."""
SQUEEZE = Move(_flat, lambda ours, n: [ours[:, :, None, None]])
"""A convolution of size 1 x 1 in theirs, a linear layer in ours."""
UNSQUEEZE = Move(lambda theirs: theirs[0][:, :, None, None], lambda ours, n: [ours.flatten(1)])
"""A linear layer in theirs, a convolution of size 1 x 1 in ours."""


def stack(*sizes: int) -> Move:
    """Unequal parts, one below the other, of so many rows each."""
    return Move(lambda theirs: torch.cat(list(theirs)), lambda ours, n: ours.split(list(sizes)))


def channels_last(patch: int, axis: int = 0) -> Move:
    """The features of patches, along an axis: (row, column, channel) in theirs, (channel, row, column) in ours."""
    return Move(
        lambda theirs: theirs[0].unflatten(axis, (patch, patch, -1)).movedim(axis + 2, axis).flatten(axis, axis + 2),
        lambda ours, n: [ours.unflatten(axis, (-1, patch, patch)).movedim(axis, axis + 2).flatten(axis, axis + 2)],
    )


def patch_convolution(patch: int) -> Move:
    """A convolution over patches, each read once, in theirs; a linear layer of the patch's features in ours."""
    return Move(lambda theirs: theirs[0].flatten(1), lambda ours, n: [ours.unflatten(1, (-1, patch, patch))])


@dataclass(frozen=True)
class Row:
    """One parameter of ours, and the tensors of theirs that make it."""

    ours: str
    theirs: tuple[str, ...]
    move: Move = SAME


@dataclass(frozen=True)
class KeyMap:
    """From our names to theirs.

    Args:
        renames: (pattern, replacement), regular expressions, each replaced wherever it occurs, in order.
        joins: (pattern, replacements, move), after the renames; the first whose pattern matches the whole name makes a row of
            several tensors, or of one that is moved.
        aliases: (pattern, replacement) on *their* names, for files with older names of the same tensors.
        ignored: (pattern, reason) of their names that hold nothing that is learned.
    """

    renames: Sequence[tuple[str, str]] = ()
    joins: Sequence[tuple[str, tuple[str, ...], Move]] = ()
    aliases: Sequence[tuple[str, str]] = ()
    ignored: Sequence[tuple[str, str]] = field(default=())

    def rows(self, names: Iterable[str]) -> list[Row]:
        """One row for each of our names."""
        return [self._row(name) for name in names]

    def _row(self, name: str) -> Row:
        theirs = name
        for pattern, to in self.renames:
            theirs = re.sub(pattern, to, theirs)
        for pattern, replacements, move in self.joins:
            if found := re.fullmatch(pattern, theirs):
                return Row(name, tuple(found.expand(r) for r in replacements), move)
        return Row(name, (theirs,))

    def canonical(self, theirs: str) -> str:
        """Their name as the newest files have it."""
        for pattern, to in self.aliases:
            theirs = re.sub(pattern, to, theirs)
        return theirs

    def why_ignored(self, theirs: str) -> str | None:
        """Why one of their tensors is not used, or None if it must be."""
        return next((reason for pattern, reason in self.ignored if re.fullmatch(pattern, theirs)), None)


def match(rows: Sequence[Row], theirs: Iterable[str], keys: KeyMap, what: str) -> dict[str, str]:
    """The name in the file of every tensor that the rows want.

    Raises:
        ValueError: naming tensors that are missing, and those that nothing would use, with the nearest names.
    """
    stored: dict[str, str] = {}
    for name in theirs:
        canonical = keys.canonical(name)
        if canonical in stored and canonical != name:
            continue  # the newer name is there as well
        stored[canonical] = name
    wanted = {name for row in rows for name in row.theirs}
    missing = sorted(wanted - set(stored))
    left = sorted(n for n in set(stored) - wanted if keys.why_ignored(n) is None)
    if missing:
        near = difflib.get_close_matches(missing[0], left or list(stored), 1, 0)
        hint = f"; the nearest that it has is {near[0]!r}" if near else ""
        raise ValueError(f"{what} lacks {_listed(missing)}{hint}.")
    if left:
        near = difflib.get_close_matches(left[0], sorted(wanted), 1, 0)
        hint = f"; the nearest that there is is {near[0]!r}" if near else ""
        raise ValueError(f"{what} holds {_listed(left)}, which nothing in this network would use{hint}.")
    return {name: stored[name] for name in wanted}


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(repr(n) for n in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more tensors"


def to_ours(
    rows: Sequence[Row], shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], what: str
) -> dict[str, Tensor]:
    """Our tensors by name.

    Args:
        shapes: of each of ours.
        read: their tensor of a name, in the file's dtype.

    Raises:
        ValueError: naming a tensor whose shape does not fit, with both shapes.
    """
    made = {}
    for row in rows:
        theirs = [read(name) for name in row.theirs]
        try:
            value = row.move.load(theirs)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{what}: {_listed(row.theirs)} {str(error).splitlines()[0]}.") from None
        if tuple(value.shape) != tuple(shapes[row.ours]):
            found = " and ".join(str(tuple(t.shape)) for t in theirs)
            raise ValueError(
                f"{what}: {_listed(row.theirs)} has the shape {found}, where the configuration makes it "
                f"{tuple(shapes[row.ours])} ({row.ours}); the weights are of another model than the configuration."
            )
        made[row.ours] = value
    return made


def to_theirs(rows: Sequence[Row], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors by name, each in memory of its own."""
    made: dict[str, Tensor] = {}
    for row in rows:
        for name, value in zip(row.theirs, row.move.save(ours[row.ours], len(row.theirs)), strict=True):
            made[name] = value.contiguous()
    return made
