"""The settings of collections of pictures: tar shards, streams of them, Hugging Face data sets. Imports no torch."""

from typing import Literal

from pydantic import Field

from langevin.recipes.config.places import Placed


class _Collection(Placed):
    """What all of them are asked."""

    size: int = Field(default=32, ge=4, le=20_000)
    """Side in pixels."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    broken: Literal["fail", "skip"] = "fail"
    """What to do about samples that cannot be read; in a stream the next whole one stands in the place of one that is skipped."""
    max_skipped: float = Field(default=0.01, ge=0, le=1)
    """Largest share of samples that "skip" may leave out."""
    flip: bool = False
    """Training sees half of the pictures mirrored."""


class ShardsData(_Collection):
    """Tar shards as WebDataset writes them. See `langevin.data.Shards`."""

    places = ("folder",)

    kind: Literal["shards"] = "shards"
    folder: str = "data/shards"
    """Folder with *.tar, or one tar."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of samples kept for testing; 2 at least."""


class StreamData(_Collection):
    """Tar shards that are read from front to back, from files or commands, and held-out ones on disk. See
    `langevin.data.Stream`."""

    places = ("test",)

    kind: Literal["stream"] = "stream"
    urls: tuple[str, ...] = ("data/shards/000.tar",)
    """Shards, each a path, or "pipe:COMMAND" whose output it is; the command goes to the shell as it is."""
    test: str = "data/held-out"
    """Folder with *.tar, or one tar, of samples that training never sees; 2 at least."""
    classes: int | None = Field(default=None, ge=1)
    """Labels run from 0 to classes - 1; None leaves labels unread."""
    buffer: int = Field(default=1000, ge=1)
    """Samples among which the stream is shuffled."""
    samples: int | None = Field(default=None, ge=1)
    """How many all shards hold, if known, so that resuming reads through one epoch at most."""
    seed: int = 0
    """Names the shuffling."""


class HuggingFaceData(_Collection):
    """A data set of the library `datasets` on disk. See `langevin.data.HFDataset`."""

    places = ("folder",)

    kind: Literal["hugging_face"] = "hugging_face"
    folder: str = "data/dataset"
    """Folder that save_to_disk has written, of one split."""
    image: str = "image"
    """Column of pictures."""
    label: str | None = None
    """Column of class numbers; None for none."""
    caption: str | None = None
    """Column of texts, for recipes that read them; None for none."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of rows kept for testing; 2 at least."""
