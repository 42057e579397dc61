"""langevin generate --again: the flags that a picture's record tells."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from langevin.cli.asking import Refusal
from langevin.cli.weights import strengths
from langevin.config import PICTURES
from langevin.record import printable

_FOLDERS = ("beside", "configs", "controlnet", "redux", "lora", "word")
"""Flags of files, which a record may name only where they are here already: what is not may be fetched from anyone."""
CHOOSING = ("revision", "variant")
"""Flags that choose what of a repository is fetched, which no record may."""


def words(picture: Path, names: Collection[str], args: Sequence[str]) -> tuple[list[str], str | None]:
    """The flags of a request as the record of a picture tells them, but for those in `args`; and the prompt.

    Args:
        names: of the flags that a record may set. A picture may come from anyone: others, such as where to write, are not read,
            what is read is typed as flags are, and nothing that is not there is fetched.

    Raises:
        Refusal: for a picture without a record, or one that a flag is missing for.
    """
    record = read(picture)
    if "edited" in record:
        raise Refusal(f"{picture} was made of another picture by langevin edit; say that again, with the picture it was made of.")
    if "run" in record:
        raise Refusal(f"{picture} was drawn from a run; langevin inspect tells the langevin sample that draws it again.")
    said = {arg.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_") for arg in args if arg[:2] == "--"}
    for name in record.get("unsaid", []):
        if name not in said:
            raise Refusal(f"{picture} was drawn with {name} of a kind that no record tells; say --{name}.")
    for name in PICTURES:
        if name in record and name not in said:
            raise Refusal(
                f"{picture} was drawn with {name}, of which its record has the SHA-256 alone; say --{name} with the same files."
            )
    loaded = record["loaded"] if isinstance(record.get("loaded"), dict) else {}
    found = {**record, "dtype": None, **loaded, "first_id": record.get("id")}
    if "plan" in found or "plan" in said:
        found.pop("steps", None)  # which are a plan's own
    made: list[str] = []
    for name, value in found.items():
        if name not in names or name in said or name in CHOOSING or value is None:
            continue
        if isinstance(value, dict):
            value = ",".join(f"{key}={strength}" for key, strength in value.items())
        values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        files = [str(next(iter(strengths([v])))) if name == "lora" else v for v in values] if name in _FOLDERS else []
        if (lost := next((f for f in files if not os.path.exists(f)), None)) is not None:
            raise Refusal(f"{picture} was drawn with {name} {printable(lost)}, which is not here; say --{name}.")
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            made.append(flag if value else f"--no-{flag[2:]}")
        elif name.endswith("size"):
            made.append(f"{flag}={'x'.join(values)}")
        else:
            made += [flag, *values] if isinstance(value, list) else [f"{flag}={values[0]}"]
    prompt = record.get("prompt")
    return made, prompt if isinstance(prompt, str) else None


def refuse_chosen(picture: Path, asked: Any) -> None:
    """Refuse a record that chooses what of a repository is fetched, where the flags do not.

    Raises:
        Refusal: naming the flag.
    """
    loaded = read(picture).get("loaded")
    for name in CHOOSING:
        value = loaded.get(name) if isinstance(loaded, dict) else None
        here = name == "revision" and os.path.exists(os.path.expanduser(asked.path))  # where there are none
        if value is not None and getattr(asked, name) is None and not here:
            raise Refusal(f"{picture} was drawn with {name} {printable(str(value))}, which no picture may choose; say --{name}.")


def read(picture: Path) -> dict[str, Any]:
    """The record of a picture.

    Raises:
        Refusal: if there is none.
    """
    from langevin.record import read_record

    if not picture.is_file() or picture.suffix.lower() != ".png" or not (record := read_record(picture)):
        raise Refusal(f"again is {picture}, which is no picture (.png) that says how it was made.")
    return record


def refuse_another(picture: Path, model: Any, path: str) -> None:
    """Refuse a model, or files added to it, that are not those of the record.

    Raises:
        Refusal: naming what differs.
    """
    record = read(picture)
    was, ours = record.get("fingerprint"), model.fingerprint or None
    if was != ours:
        raise Refusal(
            f"{picture} was drawn by {record.get('model')} ({was}), and {path} is {model.name} ({ours}); give that model."
        )
    before, now = (told.get("files", {}) for told in (record.get("loaded", {}), model.loaded))
    for file, sha in now.items():
        if before.get(file, sha) != sha:
            raise Refusal(f"{file} is another file than the one that {picture} was drawn with; give that one.")


def warn_of_others(picture: Path, now: Mapping[str, Any]) -> None:
    """Say on a terminal which pictures are not those of the record.

    Args:
        now: the record of what was drawn.
    """
    record = read(picture)
    for name in PICTURES:
        if name in record and record[name] != now.get(name):
            print(f"{name} is another picture than the one that {picture} was drawn with.", file=sys.stderr)
