"""Steps that a control may move after they are made (Diffusion-LM, 2205.14217, sec. 5.1)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from langevin.control import ControlledPosterior
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named


@dataclass(frozen=True, kw_only=True)
class Controlled(StateRow):
    """An ancestral step, which a `guidance.Control` then moves; without one it is `ddpm`'s.

    Args:
        fresh: draw the state from the marginal of level `stop` given the belief, in place of the bridge's law.
    """

    start: float
    stop: float
    fresh: bool = False

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        return None

    def check(self, leaf: Any) -> None:
        if not isinstance(leaf, Gaussian):
            raise ValueError(f"controlled steps are those of Gaussian processes, and this is a {leaf.kind} one; use ddpm there.")

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        moved = None
        if isinstance(belief, ControlledPosterior):
            belief, moved = belief.belief, belief.move
        if self.fresh:
            alpha, deviation = (float(v) for v in leaf.schedule(self.stop))
            mean = belief.mean * alpha
        else:
            x_part, z_part, deviation = leaf.bridge_numbers(self.start, self.stop)
            mean = belief.mean * x_part + z * z_part
        x = mean + deviation * leaf.noise(z, noise, mask) if deviation else mean
        return x if moved is None else moved(x, mean, deviation, self.stop)


def controlled(steps: int = 200, fresh: bool = False, grid: str | Grid = "uniform") -> Draft:
    """Ancestral sampling whose steps a `guidance.Control` moves. `steps` evaluations, and those of the control.

    Args:
        fresh: steps draw their state from the marginal of its level given the belief, as the paper writes it; False takes the
            posterior of the step, as the published code does. (Without control these are `consistency` and `ddpm`.)
    """
    check_steps(steps)
    levels_of = named(grid)
    name = f"controlled({steps}{', fresh' * fresh})"

    def fill(schedule: Schedule) -> Plan:
        rows = tuple(Controlled(start=t, stop=s, fresh=fresh) for t, s in joined(levels_of(schedule, steps)))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)
