"""The settings of runs that make points of words. Imports no torch."""

from typing import Literal

from pydantic import Field

from langevin.config import Closed
from langevin.recipes.config.places import Placed
from langevin.recipes.config.text import AlphabetName


class SentencesData(Placed):
    """Short texts, one a line. See `langevin.data.Documents`."""

    places = ("path",)

    kind: Literal["sentences"] = "sentences"
    path: tuple[str, ...] = ("data/sentences.txt",)
    """Files, or folders of .txt files."""
    key: str | None = None
    """What parts the name of a text from the text; texts of one name are all in one split."""
    alphabet: AlphabetName = "pieces"
    """bytes, characters, or pieces, which are learned; or a tokenizer.json of such, as other libraries write it."""
    vocabulary: int = Field(default=512, ge=257)
    """Most pieces."""
    length: int = Field(default=64, ge=2)
    """Tokens of a text, with the one that ends it; longer texts are left out."""
    held_out: float = Field(default=0.1, gt=0, lt=1)


class EmbeddedConfig(Closed):
    """Categories at points that are learned. See `langevin.embedded.Embedded`."""

    kind: Literal["embedded"] = "embedded"
    width: int = Field(default=16, ge=1)
    """Coordinates of a point."""
    std: float = Field(default=0.1565, gt=0)
    """Of data about their points; by default the noise at the first level of sqrt."""
    schedule: str = "sqrt"
    prediction: str = "x0"


class VectorsConfig(Closed):
    """A transformer over vectors. See `langevin.networks.VectorPort`."""

    kind: Literal["vectors"] = "vectors"
    width: int = Field(default=128, ge=8)
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
