"""Data: what is trained on, as tensors ready for a process, with a fixed split and a hash for protocol cards."""

from langevin.data.arrays import Arrays, Source, order
from langevin.data.digits import digits
from langevin.data.mnist import mnist
from langevin.data.moons import two_moons
from langevin.data.pictures import Pictures

__all__ = ["Arrays", "Pictures", "Source", "digits", "mnist", "order", "two_moons"]
