"""What denoisers that stand before another have in common."""

from typing import Any, ClassVar

from langevin.core.denoiser import BaseDenoiser


class Wrapped(BaseDenoiser):
    """A denoiser that changes the beliefs of another: of the same process and shape, and trained as that one was.

    Attributes:
        denoiser: the other.
        guidance: the settings by which beliefs are changed.
        keeps_leaps: whether it leaps where the other does. A belief that is changed by itself still says where to land; one that
            is made of several, or moved by a gradient, is that of a denoiser.
    """

    denoiser: BaseDenoiser
    guidance: Any
    keeps_leaps: ClassVar[bool] = False

    def __init__(self, denoiser: BaseDenoiser, guidance: Any = None) -> None:
        super().__init__()
        self.denoiser, self.guidance = denoiser, guidance
        self.process, self.shape = denoiser.process, denoiser.shape
        # as the loop does: a module of one's own that is called as a denoiser is may not say these
        self.spread = getattr(denoiser, "spread", None)
        self.leaps = self.keeps_leaps and getattr(denoiser, "leaps", False)
