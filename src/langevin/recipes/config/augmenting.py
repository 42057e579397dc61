"""What is asked of an augmentation, in Python and on the command line alike."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of an augmentation. See `langevin.tasks.augment`."""

    mask: str = "stripes"
    """What is painted anew and kept in turn: stripes (vertical ones, and horizontal ones), vertical, or horizontal; or a picture
    file of the run's size, white where pictures are painted anew."""
    thickness: tuple[int, ...] = (4,)
    """Of the stripes in pixels; several make a set each."""
    first: tuple[str, ...] = ("new",)
    """What the stripe at the left or top edge is: new, as published, kept, or both: of half the side, the four halves."""
    draws: int = 2
    """New pictures of each picture and mask."""
    rounds: int = 1
    """How often each is painted anew, under one mask after the other: what is kept shrinks, and differs more from its source."""
    steps: int = 250
    """Levels of RePaint."""
    jump: int = 10
    """Levels back up at a time."""
    resample: int = 10
    """How often each stretch is walked down. 250, 10, 10 are 2410 evaluations; 50, 5, 3 are 140."""
    limit: float = 0.5
    """Largest RMSE, of pictures in [-1, 1], of a new picture to its source for the label to stand."""
    judge: bool = False
    """A small classifier, trained on the sources under shifts and a little noise, has to see the same label: for wide stripes,
    which may change it."""
    told: bool = True
    """Tell a class-conditional model the label."""
    originals: bool = True
    """Write the pictures as they were among the new ones."""
    batch: int = 16
    """Pictures at a time; what a stop can lose."""
    seed: int = 0
    """Any integer."""
