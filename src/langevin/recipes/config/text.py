"""The settings of runs that write texts token by token. Imports no torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from langevin.config import Closed
from langevin.recipes.config.places import Placed

KINDS = ("bytes", "characters", "pieces")


def _alphabet(said: str) -> str:
    if said not in KINDS and not said.endswith(".json"):
        raise ValueError(f"alphabet is {said!r}; choose one of {', '.join(KINDS)}, or a tokenizer.json.")
    return said


AlphabetName = Annotated[str, AfterValidator(_alphabet)]


class TextData(Placed):
    """One long text, or many short ones packed one after the other. See `langevin.data.Text` and `langevin.data.Packed`."""

    places = ("path",)

    kind: Literal["text"] = "text"
    path: tuple[str, ...] = ("data/text.txt",)
    """Files, or folders of .txt files."""
    lines: bool = False
    """Each line is a text of its own, which ends; a sample is a window of them, one after the other."""
    key: str | None = None
    """Of lines: what parts the name of a text from the text; texts of one name are all in one split."""
    alphabet: AlphabetName = "characters"
    """bytes, characters, or pieces, which are learned; or a tokenizer.json of such, as other libraries write it."""
    vocabulary: int = Field(default=512, ge=257)
    """Most pieces."""
    clean: Literal["plain"] | None = None
    """What is made of the text first: plain leaves a to z and single spaces."""
    length: int = Field(default=256, ge=2)
    """Tokens of a sample."""
    stride: int | None = Field(default=None, ge=1)
    """Tokens from one training window to the next; none overlap by default."""
    held_out: float = Field(default=0.1, gt=0, lt=1)


class SequenceConfig(Closed):
    """See `langevin.networks.SequenceTransformer`."""

    kind: Literal["sequence"] = "sequence"
    width: int = Field(default=256, ge=8)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=4, ge=1)
    block: int | None = Field(default=None, ge=1)
    """Tokens of a block; 1 is autoregression, none sees the whole text."""
    timed: bool = False
    """It is told the level; processes without masks need that."""
