"""Samplers of Bayesian flow networks (2308.07037, alg. 3, 6 and 9): updates or redraws, and an end in what is believed.

On a single real belief the update is `ddpm`. What is here besides: a category is drawn from the belief before each step, a step
may be drawn afresh from the flow's own law, and samples end with the belief at level 0, where these schedules keep noise.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, StateRow, joined
from langevin.core.posterior import CategoricalPosterior, GaussianPosterior
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named

SAMPLERS = ("update", "redraw")
ENDS = ("likeliest", "mean", "draw")


def _believed(belief: Any, how: str, noise: Noise) -> Tensor:
    """The data taken from a belief: beliefs without probabilities have their mean only."""
    if how == "mean" or not isinstance(belief, CategoricalPosterior):
        return belief.mean
    return belief.sample(noise.at("believed")) if how == "draw" else belief.likeliest()  # pyright: ignore


def _gaussian(leaf: Any) -> None:
    if not isinstance(leaf, Gaussian):
        raise ValueError(f"bayesian_flow moves the states of Gaussian processes, and this is a {leaf.kind} one; use ddpm there.")


@dataclass(frozen=True, kw_only=True)
class BayesUpdate(StateRow):
    """A message about x, drawn from the belief, changes the state as Bayes' rule says: the bridge at eta = 1 to x.

    Args:
        drawn: x is drawn from the belief, where that has probabilities; False takes its mean.
        redraw: forget the state, and draw one from the law of level `stop` given x.
        shown: the level the network is told, where a peer tells it another than the state's.
    """

    start: float
    stop: float
    drawn: bool = True
    redraw: bool = False
    shown: float | None = None

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        return None

    def check(self, leaf: Any) -> None:
        _gaussian(leaf)

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> Level:
        return self.start if self.shown is None else self.shown

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        x = leaf.space.project(_believed(belief, "draw" if self.drawn else "mean", noise), mask)
        if self.redraw:
            return leaf.mix(x, leaf.noise(z, noise, mask), self.stop)
        return leaf.bridge(z, GaussianPosterior(x), self.start, self.stop, noise, 1.0, mask)


@dataclass(frozen=True, kw_only=True)
class Settle(StateRow):
    """The state becomes what is believed at its level: the end on schedules that keep noise at level 0.

    Args:
        how: "likeliest" category, "mean", or "draw"; beliefs without probabilities have their mean only.
    """

    start: float = 0.0
    stop: float = 0.0
    how: str = "likeliest"

    def problem(self, evaluations: int) -> str | None:
        if self.start != self.stop or self.how not in ENDS:
            return f"settles from {self.start:g} to {self.stop:g} on the {self.how!r}; it stays, on one of {', '.join(ENDS)}"
        return None

    def check(self, leaf: Any) -> None:
        _gaussian(leaf)

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return leaf.space.project(_believed(belief, self.how, noise), mask)


def bayesian_flow(
    steps: int = 20,
    sampler: str = "update",
    drawn: bool = True,
    end: str = "likeliest",
    repeated: bool = False,
    grid: str | Grid = "uniform",
) -> Draft:
    """Sampling of Bayesian flow networks. steps + 1 evaluations.

    Args:
        sampler: "update" moves the state by Bayes' rule (2308.07037); "redraw" draws each state afresh given what was believed
            at the last, which makes all of them follow the flow's law of a fixed x, and forgets errors of earlier steps
            (PharMolixFM). For a belief that never changes both have the same law.
        drawn: categories are drawn from beliefs, as published; False takes means.
        end: what the last belief becomes: its "likeliest" category, its "mean", or a "draw".
        repeated: show the network the level before the state's, as the code of PharMolixFM does, whose first two evaluations are
            told the same level.
    """
    check_steps(steps)
    if sampler not in SAMPLERS or end not in ENDS:
        raise ValueError(f"sampler is {sampler!r} and end {end!r}; choose of {', '.join(SAMPLERS)}, and of {', '.join(ENDS)}.")
    levels_of = named(grid)
    name = f"bayesian_flow({steps}, {sampler})"

    def fill(schedule: Schedule) -> Plan:
        rows: list[StateRow] = []
        before = 1.0
        for t, s in joined(levels_of(schedule, steps)):
            told = before if repeated else None
            rows.append(BayesUpdate(start=t, stop=s, drawn=drawn, redraw=sampler == "redraw", shown=told))
            before = t
        end_at = rows[-1].stop
        rows.append(Settle(start=end_at, stop=end_at, how=end))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)
