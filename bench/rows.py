"""What several benches do alike: tables of results, and arguments that say where they go."""

import argparse
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langevin import files


def read(path: Path | None) -> list[dict[str, str]]:
    """The rows of a CSV; none where there is no file, or no path."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV of these rows, in place of what is there, whole or not at all. A row may lack fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator=_line_end(path))
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, text.getvalue())


def from_lines(fields: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[dict[str, str]]:
    """Rows of lines of values in the order of the fields, real numbers to four digits after the point."""
    return [{k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in zip(fields, line, strict=True)} for line in lines]


def append(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows at the end of a CSV, with its header where there is no file yet."""
    head, end = not path.exists(), _line_end(path)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator=end)
        if head:
            writer.writeheader()
        writer.writerows(rows)


def replace(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]], key: Sequence[str]) -> None:
    """Rows of a CSV measured anew: each stands where that of the same `key` did, once, and at the end where there was none.
    Others stay as they are. A row may lack fields, which are then empty."""

    def name(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row.get(field, "")) for field in key)

    anew = {name(row): row for row in rows}
    known = set(anew)
    placed = [anew.pop(name(row), None) if name(row) in known else row for row in read(path)]
    write(path, fields, [*(row for row in placed if row is not None), *anew.values()])


def has(rows: Iterable[Mapping[str, Any]], some: Mapping[str, Any]) -> bool:
    """Whether one of the rows of a table says all that `some` says."""
    return any(all(row[field] == str(value) for field, value in some.items()) for row in rows)


def _line_end(path: Path) -> str:
    """That of the table, so that a comparison of two shows the rows that have changed and no others."""
    if not path.exists():
        return "\n"
    with path.open("rb") as file:
        return "\r\n" if file.readline().endswith(b"\r\n") else "\n"


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a bench, those of the command line by default. An --out that could not be written is refused now rather
    than after hours; its folder is made."""
    asked = parser.parse_args(words)
    out = getattr(asked, "out", None)
    if out is not None:
        try:
            files.writable(out, "--out")
            if out.is_dir():
                raise ValueError(f"--out is {out}, which is a folder; name a file.")
            out.parent.mkdir(parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    return asked
