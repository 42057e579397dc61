"""Original single-file layouts, as their authors publish them, under the published names of components and back.

`opened` tells what a file holds by the names and shapes of its tensors, and reads them one by one; `to_original` makes a file.
"""

from langevin.zoo.layouts.single import LAYOUTS, Single, flat, opened, to_original
from langevin.zoo.layouts.table import Piece

__all__ = ["LAYOUTS", "Piece", "Single", "flat", "opened", "to_original"]
