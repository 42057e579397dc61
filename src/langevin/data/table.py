"""Tables of numbers: rows with names for their columns, each column brought to mean 0 and deviation 1 by the training split."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from langevin.data.arrays import Arrays
from langevin.data.split import check_split, empty, in_split


@dataclass(frozen=True)
class Rows:
    """What a file of rows holds.

    Attributes:
        x: (N, D) float64, as it stands there.
        columns: D names.
        labels: (N,) int64, or None.
        classes: names of the classes that labels count, in their order; None where labels are numbers in the file.
    """

    x: Tensor
    columns: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None


class Table(Arrays):
    """Rows of numbers (D,), float32, each column less `mean` and over `scale`.

    Args:
        rows: what a file holds.
        mean, scale: (D,) float64, of the training split.
    """

    def __init__(self, rows: Rows, mean: Tensor, scale: Tensor) -> None:
        super().__init__(((rows.x - mean) / scale).float(), None if rows.labels is None else {"label": rows.labels})
        self.columns, self.classes, self.mean, self.scale, self._rows = rows.columns, rows.classes, mean, scale, rows

    def by(self, mean: Tensor, scale: Tensor) -> "Table":
        """The same rows less another mean and over another scale, (D,) float64; itself where they are the same."""
        same = torch.equal(mean, self.mean) and torch.equal(scale, self.scale)
        return self if same else Table(self._rows, mean, scale)


def table(path: str | Path, label: str | None = None, columns: Sequence[str] = (), held_out: float = 0.1) -> tuple[Table, Table]:
    """(training rows, held-out rows) of a table.

    Args:
        path: a .csv whose first line has the names of its columns, or a .npy (N, D) of numbers.
        label: the column of a .csv with the classes, which may be any words; beside a .npy, a .npy of class numbers (N,).
        columns: those of a .csv to learn; all but the label by default.
        held_out: share of rows kept for testing, chosen by a hash of the row's number.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `read_rows`, for a split without rows, and for a column that is constant.
    """
    check_split("all", held_out)
    rows = read_rows(path, label, columns)
    inside = torch.tensor([in_split(str(k), held_out, "train") for k in range(len(rows.x))])
    for split, chosen in (("train", inside), ("test", ~inside)):
        if not bool(chosen.any()):
            raise ValueError(empty(split, held_out, len(rows.x), f"rows in {path}"))
    mean, scale = rows.x[inside].mean(0), rows.x[inside].std(0, correction=0)
    if bool((wide := ~(mean.isfinite() & scale.isfinite())).any()):
        name = rows.columns[int(wide.nonzero()[0])]
        raise ValueError(
            f"column {name!r} of {path} has numbers too large for a mean and a deviation; divide it, or leave it out by "
            "data.columns."
        )
    if bool((same := scale <= 1e-12 * mean.abs()).any()):
        name = rows.columns[int(same.nonzero()[0])]
        raise ValueError(f"column {name!r} of {path} has one value alone, which has no density; leave it out by data.columns.")
    train, test = (
        Table(Rows(rows.x[s], rows.columns, None if rows.labels is None else rows.labels[s], rows.classes), mean, scale)
        for s in (inside, ~inside)
    )
    return train, test


def read_rows(
    path: str | Path, label: str | None = None, columns: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Rows:
    """A file of rows; see `table`.

    Args:
        classes: the names of classes that a file with a label may have; all that it has by default, sorted.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a .csv without names, with rows of different lengths, or cells that are no finite numbers, a column that
            is not there, and an .npy that holds no rows of numbers.
    """
    path = Path(path)
    if path.suffix != ".csv":
        return _of_arrays(path, label, columns)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if line] or [(1, [])]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; give a .csv or .npy file.") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8 ({type(error).__name__}).") from None
    header = [name.strip() for name in names[1]]
    if not lines or len(set(header)) != len(header) or all(finite_number(name) is not None for name in header):
        raise ValueError(f"{path} has to begin with a line of names, all different, and to have rows below; mend it.")
    for name in (*columns, *(() if label is None else (label,))):
        if name not in header:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(header)[:200]}.")
    chosen = list(columns) or [name for name in header if name != label]
    places = [header.index(name) for name in chosen]
    x, said = torch.empty(len(lines), len(chosen), dtype=torch.float64), []
    for row, (number, line) in enumerate(lines):
        if len(line) != len(header):
            raise ValueError(f"{path} line {number} has {len(line)} cells for {len(header)} columns; mend it.")
        values = [finite_number(line[place]) for place in places]
        if None in values:
            where = values.index(None)
            cell = line[places[where]][:40]
            raise ValueError(
                f"{path} line {number} has {cell!r} in column {chosen[where]!r}, which is no finite number; mend it, or leave "
                "the column out by data.columns."
            )
        x[row] = torch.tensor(values, dtype=torch.float64)
        said.append("" if label is None else line[header.index(label)].strip())
    if label is None:
        return Rows(x, tuple(chosen))
    known = (
        sorted(set(said), key=lambda v: (n if (n := finite_number(v)) is not None else math.inf, v))
        if classes is None
        else classes
    )
    if odd := set(said) - set(known):
        raise ValueError(f"{path} has {min(odd)!r} in column {label!r}; classes are {', '.join(known)[:200]}.")
    places_of = {name: k for k, name in enumerate(known)}
    return Rows(x, tuple(chosen), torch.tensor([places_of[v] for v in said]), tuple(known))


def _of_arrays(path: Path, label: str | None, columns: Sequence[str]) -> Rows:
    if columns:
        raise ValueError(f"columns is {', '.join(columns)}, and {path} has no names; leave it out, or give a .csv.")
    read = Arrays(path, None if label is None else {"label": label})
    x = read.x
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.shape[1] or x.is_complex() or not x.isfinite().all():
        raise ValueError(f"{path} holds {tuple(read.x.shape)}; give finite numbers (N, D), one row each.")
    numbers = (read.cond or {}).get("label")
    if numbers is not None:
        if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex() or int(numbers.long().min()) < 0:
            raise ValueError(
                f"{label} holds {tuple(numbers.shape)} of {numbers.dtype}; give class numbers (N,), integers from 0."
            )
        numbers = numbers.long()
    return Rows(x.double(), tuple(f"x{k}" for k in range(x.shape[1])), numbers)


def finite_number(cell: str) -> float | None:
    """A finite number; None for what is none, such as "", "n.d." and ">10"."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
