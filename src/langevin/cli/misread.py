"""Arguments that cannot be read: what tyro says of them in a frame of many lines, in one sentence."""

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

_FRAME = re.compile("[│╭╮╰╯─]")
_WORDS = {"INT": ("a whole number", "whole numbers"), "FLOAT": ("a number", "numbers"), "PATH": ("a path", "paths"),
          "STR": ("a word", "words")}  # fmt: skip


def sentence_of(said: str, args: Sequence[str], told: str, kind: Any, prog: str) -> str | None:
    """What is wrong with the arguments of a command: the field, its value and what it may be; None where that is not known.

    Args:
        said: tyro's words.
        args: what was asked.
        told: the help of the command, in which its flags stand.
        kind: the class that is made of them.
    """
    lines = [_FRAME.sub(" ", line).rstrip() for line in said.splitlines()]
    plain = " ".join(" ".join(lines).split())
    if found := re.search(r"Error parsing (--[\w.-]+): ", plain):
        return _value(found[1], args, told)
    if found := re.search(r"[Ii]nvalid choice .* for argument '(--[\w.-]+)'", plain):
        return _value(found[1], args, told)
    if found := re.search(r"Missing value for argument '(--[\w.-]+)'", plain):
        return _value(found[1], args, told)
    if "Unrecognized options:" in plain:
        return _unknown(re.search(r"Unrecognized options: ([^,\s]*)", plain), args, flags_of(told), prog)
    if "Missing from" in plain:
        return _missing(_listed(lines), flags_of(told), kind, prog)
    return None


def flags_of(told: str) -> set[str]:
    """The flags in the help of a command."""
    return set(re.findall(r"--[a-z][\w.-]*", told))


def given(flag: str, args: Sequence[str]) -> list[str]:
    """The values that stand behind a flag, however it is spelled; of several the last."""
    found: list[str] = []
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            found = [value]
        else:
            rest = args[i + 1 :]
            found = list(rest[: next((k for k, word in enumerate(rest) if word.startswith("--")), len(rest))])
    return found


def _value(flag: str, args: Sequence[str], told: str) -> str:
    """That a value does not fit, and what would."""
    metavar, default = _described(flag, told)
    values = given(flag, args)
    said = f"{flag} is {' '.join(values)!r}" if values else f"{flag} has no value"
    optional = "None" in metavar
    if choices := _choices(metavar):
        near = difflib.get_close_matches(values[0], choices, 1, 0.5) if values else []
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        return f"{said}; {hint} {', '.join(choices)}."
    what = _kinds(metavar)
    such = "" if default in ("", "None") else f", such as {default}"
    return f"{said}; give {what}{', or None' if optional else ''}{such}."


def _described(flag: str, told: str) -> tuple[str, str]:
    """What the help says of a flag's values: their kinds, and the default."""
    rows = [_FRAME.sub(" ", line).strip() for line in told.splitlines()]
    for i, row in enumerate(rows):
        if not re.match(rf"{re.escape(flag)}(\s|$)", row):
            continue
        until = next((k for k in range(i + 1, len(rows)) if not rows[k] or rows[k].startswith("--")), len(rows))
        metavar = re.split(r"\s{2,}", row[len(flag) :].strip())[0]
        default = re.search(r"\(default: (.*?)\)", " ".join(rows[i:until]))
        return metavar, default[1] if default else ""
    return "", ""


def _choices(metavar: str) -> list[str]:
    """Of {a,b,c} or {None}|{a,b,c}."""
    return [word for group in re.findall(r"\{([^{}]*)\}", metavar) if "," in group for word in group.split(",")]


def _kinds(metavar: str) -> str:
    bare = re.sub(r"\{None\}\||[{}]", "", metavar).strip()
    if repeated := re.fullmatch(r"\[(\w+) \[\1 \.\.\.\]\]", bare):
        return _WORDS.get(repeated[1], ("", repeated[1]))[1]
    parts = bare.split()
    if len(set(parts)) == 1 and parts[0] in _WORDS:
        one, many = _WORDS[parts[0]]
        return one if len(parts) == 1 else f"{len(parts)} {many}"
    return bare or "one"


def _unknown(first: re.Match[str] | None, args: Sequence[str], flags: Collection[str], prog: str) -> str | None:
    """That a flag is none of the command's, and which is nearest; or that a word is one too many."""
    odd = next((arg.partition("=")[0] for arg in args if re.match("--?[a-zA-Z]", arg) and not _known(arg, flags)), None)
    if odd is not None:
        return f"{odd} is no flag of {prog}; {_nearest(odd, flags)}"
    word = first[1] if first else ""
    if (flag := next((arg.partition("=")[0] for arg in args if arg.endswith(f"={word}")), None)) and _switch(flag, flags):
        return f"{flag} is {word!r}, and takes no value; say {' or '.join(_switch(flag, flags))}."
    if word not in args:
        return None
    before = args[args.index(word) - 1] if args.index(word) else ""
    if len(switch := _switch(before, flags)) == 2:
        return f"{word!r} stands after {before}, which takes no value; say {' or '.join(switch)}."
    return f"{word!r} is one word too many; {prog} --help shows what it reads."


def _switch(flag: str, flags: Collection[str]) -> list[str]:
    """The two flags of what is on or off, of which one is given."""
    above, dot, last = flag.removeprefix("--").rpartition(".")
    stem = last.removeprefix("no-")
    return [name for no in ("", "no-") if (name := f"--{above}{dot}{no}{stem}") in flags]


def _known(arg: str, flags: Collection[str]) -> bool:
    return arg.partition("=")[0].replace("_", "-") in flags


def _nearest(odd: str, flags: Collection[str]) -> str:
    """The flag that is most like another, whole or in its last part."""

    def parts(flag: str) -> tuple[str, str]:
        bare = flag.removeprefix("--").replace("_", "-")
        return bare.replace(".", "-"), bare.rpartition(".")[2]

    def like(flag: str) -> float:
        whole, last = (difflib.SequenceMatcher(None, a, b).ratio() for a, b in zip(parts(odd), parts(flag), strict=True))
        return max(last + 0.01 * whole, whole if whole > 0.85 else 0)  # a part in common does not make two flags alike

    best = max(sorted(flags), key=like, default="")
    return f"did you mean {best}?" if best and like(best) > 0.65 else "--help shows those that there are."


def _listed(lines: Sequence[str]) -> list[str]:
    """What tyro says is missing, without what it says of each, which stands further in."""
    first = next(k for k, line in enumerate(lines) if "Missing from" in line) + 1
    last = next((k for k, line in enumerate(lines) if "full helptext" in line), len(lines))
    depths = [len(line) - len(line.lstrip()) for line in lines]
    least = min((depths[k] for k in range(first, last) if lines[k].strip() and set(lines[k]) - set("- ")), default=0)
    return [lines[k].strip() for k in range(first, last) if lines[k].strip() and depths[k] == least]


def _missing(rows: Sequence[str], flags: Collection[str], kind: Any, prog: str) -> str | None:
    """What a command cannot do without."""
    if not is_dataclass(kind):
        return None
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    flag = {name: f"--{name.replace('_', '-')}" for name in needed}
    places = [name for name in needed if flag[name] not in flags]
    asked = [row.split()[0] for row in rows]
    gone = places[len(places) - sum(not row.startswith("--") for row in asked) :]
    gone += [name for name in needed if flag[name] in asked]
    if not gone:
        return None
    way = " ".join(name.upper() if name in places else f"{flag[name]} {name.upper()}" for name in needed)
    return f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing; say {prog} {way}."
