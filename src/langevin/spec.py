"""One small language for named things with options: "name", "name:option=value,option=value".

Plans, schedules, weights, level densities and predictions are all written so, on the command line and in recipes. A
function's own signature is the schema: unknown names and options are refused with the nearest, values are typed by the
defaults.
"""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, names: Mapping[str, Any] | list[str]) -> str:
    """The most similar of `names`; of equally similar ones that of the same letters, since two of them are easily swapped."""
    alike = [near for near in names if sorted(near) == sorted(name)]
    return difflib.get_close_matches(name, alike or list(names), 1, 0)[0]


def parse(text: str, table: Mapping[str, Callable[..., T]], what: str, first: str | None = None) -> T:
    """Call the entry of `table` that `text` names, with its options.

    Args:
        first: an argument that may stand alone after the name, as steps do in "dpmpp:20:order=3".

    Raises:
        ValueError: naming the nearest entry or option.
    """
    name, *parts = text.split(":")
    if name not in table:
        listed = textwrap.shorten(", ".join(table), 300, placeholder=" ... and others")
        raise ValueError(f"{what} is {name!r}; did you mean {nearest(name, table)!r}? There are {listed}.")
    legal = {k: p for k, p in inspect.signature(table[name]).parameters.items() if p.default is not inspect.Parameter.empty}
    given: dict[str, Any] = {}
    if first is not None and parts and "=" not in parts[0]:
        if first not in legal:  # some count something else, such as tokens
            first, default = next((k, p.default) for k, p in legal.items())
            if not isinstance(default, int):
                raise ValueError(f"{what} {name!r} counts nothing; write its options, as in {name}:{first}={default}.")
        given[first] = _value(first, parts.pop(0), legal[first].default)
    for option in filter(None, ",".join(parts).split(",")):
        key, _, value = option.partition("=")
        if key not in legal:
            hint = f"did you mean {nearest(key, legal)!r}? It has {', '.join(legal)}." if legal else "it has none."
            raise ValueError(f"{what} {name!r} has no option {key!r}; {hint}")
        given[key] = _value(key, value or "true", legal[key].default)
    return table[name](**given)


def completed(text: str, first: str, value: object) -> tuple[str, str | None]:
    """A spec in which `first` is said, by `value` where it is not yet; and how it said it itself, None if it did not."""
    name, *parts = text.split(":")
    if parts and "=" not in parts[0]:
        return text, parts[0]
    said = (option.partition("=") for part in parts for option in part.split(","))
    own = next((number for key, _, number in said if key == first), None)
    return (":".join([name, str(value), *parts]) if own is None else text), own


def _value(key: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, (int, float)):
            return type(default)(text)
        if default is None:
            return {"true": True, "false": False}.get(text.lower(), _number_or_text(text))
        return text
    except (ValueError, KeyError):
        raise ValueError(f"{key} is {text!r}; give a {type(default).__name__}, such as {default}.") from None


def _number_or_text(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
