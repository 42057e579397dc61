"""langevin data: data sets that are made from what a machine has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langevin.cli.asking import Refusal, parse

USAGE = """\
usage: langevin data emoji [--out DIR] [--size N] [--font FILE] [--listing FILE] [--tones]
       langevin data drawings [--out DIR] [--size N] [--listing FILE] [--largest N] [--count N] [--clean] [--seed N]

Make a folder of pictures with captions.

emoji     those of Noto Color Emoji, with the names that Unicode gives them; the recipe emoji is trained on it. Debian has the
          font in fonts-noto-color-emoji and the names in unicode-data.
drawings  molecules as drawn by hand, with their SMILES; the recipe drawings is trained on it. It takes rdkit (langevin[mol]).
"""


@dataclass(frozen=True)
class _Emoji:
    out: Path = Path("data/emoji")
    """Folder to make."""
    size: int = 32
    """Side of the pictures in pixels."""
    font: Path | None = None
    """Noto Color Emoji; where Debian has it, by default."""
    listing: Path | None = None
    """Unicode's emoji-test.txt; where Debian has it, by default."""
    tones: bool = False
    """With those that differ in the tone of the skin alone."""


@dataclass(frozen=True)
class _Drawings:
    out: Path = Path("data/drawings")
    """Folder to make."""
    size: int = 64
    """Side of the pictures in pixels."""
    listing: Path | None = None
    """A file with a SMILES at the head of each line; the NCI molecules that come with rdkit by default."""
    largest: int = 12
    """Heavy atoms of a molecule at most."""
    count: int | None = None
    """The first so many that will do; all by default."""
    clean: bool = False
    """As rdkit draws them, without a hand and paper."""
    seed: int = 0
    """Names turns, hands and papers."""


def data(args: Sequence[str]) -> None:
    """Make a data set."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if args[0] == "drawings":
        _drawings(args[1:])
        return
    if args[0] != "emoji":
        raise Refusal(f"there is no data set {args[0]!r} to make; there are 'emoji' and 'drawings'.")
    asked = parse(_Emoji, args[1:], "langevin data emoji")
    from langevin.data import emoji as made

    folder = made.emoji(asked.out, asked.size, asked.font or made.FONT, asked.listing or made.LISTING, asked.tones)
    print(f"{folder}: {len((folder / made.CAPTIONS).read_text().splitlines())} pictures with captions")


def _drawings(args: Sequence[str]) -> None:
    asked = parse(_Drawings, args, "langevin data drawings")
    if asked.clean and asked.seed != _Drawings.seed:
        raise Refusal(f"seed is {asked.seed}, of turns, hands and papers, and clean drawings have none; leave one of them out.")
    from langevin.data import drawings as made

    smiles = made.molecules(asked.listing, asked.largest, asked.count)
    folder = made.drawings(asked.out, smiles, asked.size, not asked.clean, asked.seed)
    print(f"{folder}: {len(smiles)} drawings with their SMILES")
