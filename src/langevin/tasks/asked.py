"""What a request may say: the options that a model reads."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langevin.config import PEERS
from langevin.text.conditioning import Conditioner

TEXT: Mapping[str, Any] = {"clip_skip": 0, "weighted": False, "long": False, "length": None}
"""Options of text, of which each family reads some, with what they are where they are not said."""


def refuse_unread(
    said: Mapping[str, Any], extra: Mapping[str, Any], own: Collection[str], conditioner: Conditioner | None
) -> None:
    """Refuse what would change nothing.

    Args:
        said: options, those of `TEXT` among them. extra: options by further names. own: the names of a request's own options.

    Raises:
        ValueError: naming an option that the model does not read, and the nearest that it does.
    """
    options = () if conditioner is None else sorted(conditioner.options)
    for name in extra:
        if name not in options:
            near = PEERS.get(name)
            if near is None or near not in (*own, *options):
                near = difflib.get_close_matches(name, [*own, *options], 1, 0)[0]
            raise ValueError(f"the model has no option {name!r}; did you mean {near!r}?")
    reads = () if conditioner is None else sorted(conditioner.reads)
    for name, default in TEXT.items():
        if said[name] != default and name not in reads:
            near = difflib.get_close_matches(name, reads, 1, 0)
            hint = f"the nearest that it reads is {near[0]!r}" if near else "it reads no text: leave it out"
            raise ValueError(f"{name} is {said[name]!r}, which this model does not read; {hint}.")
    length = said["length"]
    if length is not None and length < 1:
        raise ValueError(f"length is {length}; it is the most tokens of a prompt, at least 1.")


def rows(values: Sequence[Any], what: str, asked: int, count: int) -> list[Any]:
    """One value for each of `asked` x `count` pictures: of one for all, one for each that is asked for, or one for each picture.

    Raises:
        ValueError: for any other number.
    """
    if len(values) == 1:
        return list(values) * (asked * count)
    if len(values) == asked:
        return [value for value in values for _ in range(count)]
    if len(values) == asked * count:
        return list(values)
    raise ValueError(
        f"{what} has {len(values)} for {asked * count} pictures; give one, one for each prompt, or one for each picture."
    )
