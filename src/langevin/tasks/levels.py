"""Where training met its levels, and where a plan asks: a sampler that dwells where hardly any sample was ever met may draw
badly, and no loss says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser
from langevin.core.plan import Draft, DrivingRow, Plan, Row
from langevin.core.sample import plans_for
from langevin.core.tree import tree
from langevin.objectives.levels import LevelDensity

HARDLY = 0.05
"""Mass of training below which levels are hardly met."""
OFTEN = 0.25
"""Share of a plan's evaluations above which it dwells there."""
_DRAWS = 100_000


@dataclass(frozen=True)
class LevelsMet:
    """Shares of training samples and of a plan's evaluations, between levels that neighbouring evaluations divide.

    Attributes:
        edges: (n + 1,) levels, falling from 1 (noise) to 0 (data): half-way between evaluations.
        trained, asked: (n,), what lies between two edges, each summing to 1.
    """

    edges: tuple[float, ...]
    trained: tuple[float, ...]
    asked: tuple[float, ...]

    @property
    def _hardly(self) -> list[int]:
        """The parts with the fewest training samples for each evaluation, as many as hold less than HARDLY together."""
        total, found = 0.0, []
        for k in sorted(range(len(self.asked)), key=lambda k: self.trained[k] / self.asked[k]):
            total += self.trained[k]
            if total >= HARDLY - 1e-6:
                break
            found.append(k)
        return found

    @property
    def neglected(self) -> float:
        """The share of evaluations that lie where, taken together, less than 5 % of training lies."""
        return sum(self.asked[k] for k in self._hardly)

    @property
    def warning(self) -> str | None:
        """A sentence if more than a quarter of the evaluations lie there."""
        if self.neglected <= OFTEN:
            return None
        high = sum(self.asked[k] for k in self._hardly if self.edges[k] + self.edges[k + 1] > 1)
        end = "near noise, where outlines are made" if 2 * high >= self.neglected else "near data, where detail is made"
        return (
            f"{self.neglected:.0%} of the evaluations, most of them {end}, lie at levels that hold less than {HARDLY:.0%} of the "
            "training samples; if that is where samples fail, take a plan with other levels, or train on these."
        )

    def __str__(self) -> str:
        lines = [f"{'levels':>15}  {'training':>8}  {'evaluations':>11}"]
        for high, low, trained, asked in zip(self.edges, self.edges[1:], self.trained, self.asked, strict=False):
            lines.append(f"{high:.4f} - {low:.4f}  {trained:8.1%}  {asked:11.1%}")
        return "\n".join(lines + ([] if self.warning is None else [self.warning]))


def levels_met(
    objective: Any, denoiser: BaseDenoiser, plan: Plan | Draft | Mapping[str, Plan | Draft], parts: int = 20
) -> LevelsMet | dict[str, LevelsMet]:
    """Where `objective` trains `denoiser`, beside where `plan` evaluates it (for a product, a dict by leaf).

    Args:
        objective: one with a density of levels, such as `Denoising`, or the density itself.
        denoiser: whose schedules these are levels of.
        plan: a table or a draft.
        parts: at most so many, of about as many evaluations each.

    Raises:
        ValueError: for an objective that draws no levels from a density, or a plan that takes as many steps as it needs.
    """
    density = objective if isinstance(objective, LevelDensity) else getattr(objective, "levels", None)
    if not isinstance(density, LevelDensity):
        kind = type(objective).__name__
        raise ValueError(f"objective is {kind}, which draws no levels from a density; pass a LevelDensity to compare with.")
    if parts < 1:
        raise ValueError(f"parts is {parts}; give at least 1.")
    found, u = {}, (torch.arange(_DRAWS, dtype=torch.float64) + 0.5) / _DRAWS
    leaves = denoiser.process.leaves()
    for name, table in plans_for(denoiser.process, plan).items():
        if any(isinstance(row, DrivingRow) for row in table.rows):
            raise ValueError(f"plan is {table.name}, which finds its levels as it goes; give one of a fixed number of steps.")
        told = [row.shown if isinstance(row, Row) and row.shown is not None else row.level for row in table.rows]
        asked = torch.tensor([t for t in told if t is not None], dtype=torch.float64)
        with torch.no_grad():
            trained = density.quantile(u, leaves[name].schedule).double().cpu()
        found[name] = _met(trained, asked, parts)
    return tree(found)


def _met(trained: Tensor, asked: Tensor, parts: int) -> LevelsMet:
    levels, counts = asked.unique(return_counts=True)  # rising
    # as many evaluations in each part, as far as they are not at one level
    ends = (counts.cumsum(0) / counts.sum() * min(parts, len(levels)) - 1e-9).ceil()
    last = torch.cat([ends[1:] != ends[:-1], torch.tensor([True])])
    inner = ((levels[:-1] + levels[1:]) / 2)[last[:-1]]

    def shares(t: Tensor) -> tuple[float, ...]:
        held = torch.bincount(torch.bucketize(t, inner, right=True), minlength=len(inner) + 1)
        return tuple((held.double() / len(t)).flip(0).tolist())

    return LevelsMet((1.0, *inner.flip(0).tolist(), 0.0), shares(trained), shares(asked))
