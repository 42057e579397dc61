"""Published configurations: sparse, old, and not to be trusted."""

from collections.abc import Mapping
from typing import Any

from langevin.spec import nearest


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A configuration with today's defaults of its class where it says nothing.

    Args:
        defaults: of every key that the class has. Keys that begin with "_" are notes of the library that wrote them.
        what: the class, for messages.

    Raises:
        ValueError: for a key that the class does not have, with the nearest, and for a value of another type than the default's.
    """
    made = dict(defaults)
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if key not in defaults:
            raise ValueError(f"the configuration of {what} has {key!r}; did it mean {nearest(key, list(defaults))!r}?")
        if value is not None and not _fits(value, defaults[key]):
            raise ValueError(f"{what}.{key} is {value!r}; give a value like {defaults[key]!r}."[:300])
        made[key] = tuple(value) if isinstance(value, list) else value
    return made


def _fits(value: Any, like: Any) -> bool:
    """Whether a value may stand where `like` does: a list may stand for one value that is the same everywhere, and a number
    may be whole."""
    if like is None:
        return True
    if isinstance(value, (list, tuple)):
        like = (like[0] if like else None) if isinstance(like, (list, tuple)) else like
        return all(v is None or isinstance(v, (list, tuple)) or _fits(v, like) for v in value)
    if isinstance(like, (list, tuple)):
        return False
    if isinstance(like, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(like, bool)
    if isinstance(like, (int, float)):
        return isinstance(value, (int, float)) and abs(value) < 1e9
    return isinstance(value, type(like))


# two names of one function
SAME = {"swish": "silu"}


def only(config: Mapping[str, Any], fixed: Mapping[str, Any], what: str) -> None:
    """Refuse a configuration whose values differ from the ones that a network here computes, where it has them."""
    for key, value in fixed.items():
        said = config.get(key, value)
        if (SAME.get(said, said) if isinstance(said, str) else said) != value:
            raise ValueError(f"{what}.{key} is {config[key]!r}, and the network here computes {value!r} alone.")
