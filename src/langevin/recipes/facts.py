"""What a run has to know of its data to be rebuilt without it."""

from langevin.config import Closed
from langevin.recipes.captions import Vocabulary
from langevin.text.alphabets import Alphabet


class Facts(Closed):
    """Written beside the recipe when a run begins; what only some kinds of data have is None for the others."""

    shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    """Of one sample."""
    classes: int | None
    """Labels run from 0 to classes - 1; None for none."""
    origin: str | None = None
    """Hash of the weights that the run began with; None for weights that were drawn."""
    teacher: str | None = None
    """Hash of the teacher's weights, where there is one."""
    vocabulary: Vocabulary | None = None
    """What captions are split by, where they are conditions."""

    factor: int | None = None
    """By how much the small pictures are smaller that samples are drawn from; None where there are none."""
    alphabet: Alphabet | None = None
    """What texts are written in, where samples are texts."""

    @property
    def conditional(self) -> bool:
        """Whether there is a condition that guidance can strengthen."""
        return self.classes is not None or self.vocabulary is not None
