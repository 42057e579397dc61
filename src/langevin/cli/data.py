"""langevin data: data sets that are made from what a machine has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langevin.cli.asking import Refusal, parse

USAGE = """\
usage: langevin data emoji [--out DIR] [--size N] [--font FILE] [--listing FILE] [--tones]

Make a folder of pictures with captions. So far there is "emoji": those of Noto Color Emoji, with the names that Unicode
gives them; the recipe emoji is trained on it. Debian has the font in fonts-noto-color-emoji and the names in unicode-data.
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


def data(args: Sequence[str]) -> None:
    """Make a data set."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if args[0] != "emoji":
        raise Refusal(f"there is no data set {args[0]!r} to make; there is 'emoji'.")
    asked = parse(_Emoji, args[1:], "langevin data emoji")
    from langevin.data import emoji as made

    folder = made.emoji(asked.out, asked.size, asked.font or made.FONT, asked.listing or made.LISTING, asked.tones)
    print(f"{folder}: {len((folder / made.CAPTIONS).read_text().splitlines())} pictures with captions")
