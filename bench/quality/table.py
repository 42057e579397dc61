"""Results as CSV tables that many runs can add to: a row is known by its key, and measuring it again replaces it."""

import csv
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

KEY = ("peer", "solver", "target", "schedule", "budget")
ENDPOINT = (
    *KEY, "adaptive", "nfe", "setup_nfe", "rms", "median", "endpoint", "rms_own_endpoint", "median_own_endpoint", "flipped",
    "resid", "error", "source",
)  # fmt: skip
LAW = (*KEY, "stochastic", "nfe", "setup_nfe", "energy", "sliced_w2", "resid", "error", "source")

Row = dict[str, str]
Key = tuple[str, ...]


def law_path(path: Path) -> Path:
    """Where the law rows lie, beside the endpoint rows."""
    return path.with_name(f"{path.stem}_law{path.suffix}")


def key(row: Row) -> Key:
    """What a row is known by."""
    return tuple(row[name] for name in KEY)


def read(path: Path) -> dict[Key, Row]:
    """Every row by its key; none where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {key(row): row for row in csv.DictReader(file)}


def add(path: Path, rows: Iterable[Row], columns: tuple[str, ...]) -> None:
    """Write rows among those of the file, in order; runs side by side take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        every = read(path) | {key(row): row for row in rows}
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(every[k] for k in sorted(every, key=_place))
        part.replace(path)


def _place(k: Key) -> tuple[str, str, str, str, float]:
    peer, solver, target, schedule, budget = k
    return target, schedule, peer, solver, float(budget)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    name = f"langevin_bench_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
