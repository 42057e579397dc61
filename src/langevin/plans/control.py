"""Steps that a guidance may move after they are made (Diffusion-LM, 2205.14217, sec. 5.1), or weigh before they are drawn
(DiGress, 2209.14734, sec. 5)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.control import ControlledPosterior, TiltedPosterior
from langevin.core.categorical import Categorical
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


@dataclass(frozen=True, kw_only=True)
class Tilted(StateRow):
    """An ancestral step of categories, z_s in proportion to q(z_s | z_t, belief) exp(tilt[z_s]); without one it is `ddpm`'s."""

    start: float
    stop: float

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        return None

    def check(self, leaf: Any) -> None:
        if not isinstance(leaf, Categorical):
            raise ValueError(f"tilted steps are those of categories, and this is a {leaf.kind} process; use ddpm there.")

    def probs(self, leaf: Categorical, z: Tensor, belief: Any) -> Tensor:
        """Where each position of z (B, *shape) goes: (B, *shape, S) float64."""
        tilt = None
        if isinstance(belief, TiltedPosterior):
            belief, tilt = belief.belief, belief.tilt
        t, s = (torch.tensor(v, dtype=torch.float64) for v in (self.start, self.stop))
        probs = leaf.bridge_probs(z, belief.probs, t, s)
        return probs if tilt is None else torch.softmax(probs.log() + tilt.double(), -1)

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return leaf.draw(self.probs(leaf, z, belief), noise, mask)


def tilted(steps: int = 500, grid: str | Grid = "uniform") -> Draft:
    """Ancestral sampling of categories whose steps a `guidance.ClassifierGuidance(of="state")` tilts. `steps` evaluations."""
    check_steps(steps)
    levels_of = named(grid)
    name = f"tilted({steps})"

    def fill(schedule: Schedule) -> Plan:
        rows = tuple(Tilted(start=t, stop=s) for t, s in joined(levels_of(schedule, steps)))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)
