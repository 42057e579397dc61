"""Files of SMILES as others write them: lists with a molecule a line, and tables, whose heading tells the delimiter."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

KNOWN = ("canonicalsmiles", "smiles", "isomericsmiles")
"""Headings of the column of molecules, the preferred one first, without regard to case, blanks and underscores."""
DELIMITERS = ("\t", ";", ",", " ")
_AHEAD = 100
"""Lines that are looked at where the first one is neither a known heading nor a molecule."""
_WORD = re.compile(r'[^\s,;"]+')


@dataclass(frozen=True)
class Listing:
    """A file of molecules: a list of lines that begin with SMILES, or a table.

    Args:
        file: where it is.
        delimiter: between the cells of a table.
        headings: names of its columns; none for a list without a heading.
        place: which column holds the SMILES; None for a list without a heading. The first, where no heading is known and the
            lines below it begin with molecules.
    """

    file: Path
    delimiter: str
    headings: tuple[str, ...]
    place: int | None

    @classmethod
    def of(cls, file: Path, column: str | None, reads: Callable[[str], bool]) -> "Listing":
        """What a file is, by its first line.

        Args:
            column: the heading of the molecules, exactly or but for its case; by default one of `KNOWN`.
            reads: whether a word is a molecule.

        Raises:
            ValueError: for a table in which no column can be told to hold molecules.
        """
        with _opened(file) as lines:
            head = _head(lines).strip()
            told = cls(file, DELIMITERS[0], (head,), 0)  # one column until a delimiter divides it
            for delimiter in DELIMITERS:
                cells = tuple(cell.strip() for cell in next(_table([head.lstrip("# ")], delimiter, file), []))
                place = _of_molecules(cells) if column is None else _place(cells, column)
                if place is not None:
                    return cls(file, delimiter, cells, place)
                if len(cells) > 1 == len(told.headings):
                    told = cls(file, delimiter, cells, 0)
            said = ", ".join(repr(name) for name in told.headings if name)[:300]
            if column is not None:
                raise ValueError(f"column is {column!r}, and the first line of {file} has {said}; give one of these headings.")
            if reads(_word(head)):
                return cls(file, DELIMITERS[0], (), None)
            words = [_word(line) for line in islice(lines, _AHEAD) if line.strip()]
        if 2 * sum(map(reads, words)) < len(words):
            raise ValueError(f"{file} has the headings {said}, none of which is known to be of SMILES; say which is by column "
                             "(--data.column NAME).")  # fmt: skip
        return told

    def find(self, heading: str) -> int | None:
        """The place of a column beside the molecules, exactly or but for its case; None for none."""
        place = _place(self.headings, heading)
        return None if place == self.place else place

    def rows(self, places: Sequence[int] = ()) -> Iterator[tuple[str, list[str]]]:
        """Of each row that is not blank its SMILES, and the cells at these places; "" for what a row is too short for.

        Raises:
            ValueError: for cells that never end, as behind a quotation mark that is not closed.
        """
        with _opened(self.file) as lines:
            if len(self.headings) < 2:
                head = _head(lines)
                for line in lines if self.headings else (head, *lines):
                    if line.strip():
                        yield _word(line), []
                return
            _head(lines)
            for row in _table(lines, self.delimiter, self.file):
                if any(cell.strip() for cell in row):
                    smiles, *cells = (row[k].strip() if k < len(row) else "" for k in (self.place or 0, *places))
                    yield smiles, cells


def _opened(file: Path) -> TextIO:
    # spreadsheets put a mark of order first; names may be of any encoding, and SMILES are of ASCII
    return file.open(newline="", encoding="utf-8-sig", errors="replace")


def _head(lines: TextIO) -> str:
    """The first line that is not blank; "" for none."""
    return next((line for line in lines if line.strip()), "")


def _table(lines: TextIO | Sequence[str], delimiter: str, file: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
    except csv.Error as error:
        raise ValueError(f"{file} is no table that can be read ({error}); close its quotation marks.") from None


def _word(line: str) -> str:
    """What a line begins with, up to a blank, a comma, a semicolon or a tab."""
    found = _WORD.search(line)
    return "" if found is None else found[0]


def _of_molecules(headings: Sequence[str]) -> int | None:
    plain = [re.sub(r"[\s_]+", "", name).lower() for name in headings]
    return next((plain.index(name) for name in KNOWN if name in plain), None)


def _place(headings: Sequence[str], name: str) -> int | None:
    if name in headings:
        return headings.index(name)
    lower = [heading.lower() for heading in headings]
    return lower.index(name.strip().lower()) if name.strip().lower() in lower else None
