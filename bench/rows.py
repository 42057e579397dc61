"""What several benches do alike: tables of results that grow, and arguments that say where they go."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from langevin.files import writable


def append(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows at the end of a CSV, with its header where there is no file yet."""
    head = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if head:
            writer.writeheader()
        writer.writerows(rows)


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a bench, those of the command line by default. An --out that could not be written is refused now rather
    than after hours; its folder is made."""
    asked = parser.parse_args(words)
    out = getattr(asked, "out", None)
    if out is not None:
        try:
            writable(out, "--out")
            if out.is_dir():
                raise ValueError(f"--out is {out}, which is a folder; name a file.")
            out.parent.mkdir(parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    return asked
