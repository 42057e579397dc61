"""What the settings of every kind of data say of where it lies. Imports no torch."""

from typing import ClassVar

from langevin.config import Closed


class Placed(Closed):
    """Settings of data that is read from files or folders.

    Attributes:
        places: fields that name them, and are looked at before anything is read; those of which a reader has a sentence of
            its own are left out.
        words: what may stand there in place of a name.
    """

    places: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[tuple[str, ...]] = ()
