"""What a peer is: a module with a table of solvers and one function.

    SOLVERS: dict[str, Solver]
    sample(schedule, network, start, budget, solver) -> x

`network` is exact, takes any (alpha, sigma), and counts its calls, which must not exceed `budget`; an adaptive solver is given
its tolerance for a budget, and is scored at the calls it made. `start` is (B, *shape) float64 at the schedule's own scale.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from quality.targets import Network
from torch import Tensor


@dataclass(frozen=True)
class Solver:
    """One solver of a peer.

    Args:
        schedules: names of the schedules it runs on.
        stochastic: it draws noise, so only its law is scored.
        adaptive: it is given a tolerance instead of a number of evaluations.
        law: deterministic, and its law is scored as well.
    """

    schedules: tuple[str, ...]
    stochastic: bool = False
    adaptive: bool = False
    law: bool = False


class Peer(Protocol):
    """A module that samples."""

    SOLVERS: dict[str, Solver]

    def sample(self, schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor: ...


def most_steps(budget: float, cost: Callable[[int], int]) -> int:
    """The most steps n with cost(n) <= budget evaluations, at least 1."""
    n = 1
    while cost(n + 1) <= budget:
        n += 1
    return n
