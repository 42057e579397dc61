"""Tables of results that grow: what several benches write alike."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def append(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows at the end of a CSV, with its header where there is no file yet."""
    head = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if head:
            writer.writeheader()
        writer.writerows(rows)
