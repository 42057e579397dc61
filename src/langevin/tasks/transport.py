"""What a flow does to the points it moves: how far it takes them, and how straight."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, DrivingRow, Plan
from langevin.core.process import Process
from langevin.core.sample import Guidance, plans_for, trajectory
from langevin.core.tree import leaves
from langevin.data.source import Source
from langevin.interpolants import stochastic


@dataclass(frozen=True)
class Transport:
    """Means over paths Z, which begin at level 1 and end at level 0; squared norms of whole samples.

    Attributes:
        cost: E |Z_end - Z_begin|^2, the transport cost of the coupling that the flow is.
        energy: int E |dZ/dt|^2 dt, at least the cost.
        straightness: energy - cost = int E |dZ/dt - (Z_begin - Z_end)|^2 dt, the S of 2209.03003; 0 for straight paths.
        begins, ends: (N, *shape).
    """

    cost: float
    energy: float
    begins: Tensor
    ends: Tensor

    @property
    def straightness(self) -> float:
        return self.energy - self.cost


def transport(
    denoiser: BaseDenoiser, plan: Plan | Draft, starts: Source, *, batch: int = 1000, guidance: Guidance | None = None
) -> Transport:
    """Follow the flow from each of `starts`: domain transfer between two data sets, or samples of a model from its prior, and
    their report.

    dZ/dt is the slope of the chords between the levels the plan rests at, so straightness is never overstated, and too small by
    what paths bend within a step, O(1/steps^2): take 100 for a figure.

    Args:
        denoiser: one Gaussian process or interpolant.
        plan: deterministic.
        starts: `langevin.data.Prior(process, shape, count, seed)`, or the data set to be transferred; its conditions are those
            the samples are drawn under.
        batch: paths followed at a time.
        guidance: as for `sample`.

    Raises:
        ValueError: for another process, or a plan that adds noise or chooses its own steps.
    """
    table = deterministic(denoiser.process, plan)
    if any(isinstance(row, DrivingRow) for row in table.rows):
        raise ValueError(f"plan {table.name} chooses its own steps and shows none of them; use one such as heun:50:grid=uniform.")
    cost, energy, begins, ends = 0.0, 0.0, [], []
    for index in torch.arange(len(starts)).split(batch):
        read = starts.batch(index)
        begin = leaves(read.x)[""]
        first, then = table.rows[0].start, begin.double()
        for level, z in _rests(denoiser, table, begin, read.cond, guidance):
            energy += float((z.double() - then).square().sum()) / (first - level)
            first, then = level, z.double()
        cost += float((then - begin.double()).square().sum())
        begins.append(begin)
        ends.append(then.to(begin.dtype))
    return Transport(cost / len(starts), energy / len(starts), torch.cat(begins), torch.cat(ends))


def deterministic(process: Process, plan: Plan | Draft) -> Plan:
    """The table of a plan that follows the flow of one Gaussian process.

    Raises:
        ValueError: for another process, or a plan that adds noise.
    """
    if not isinstance(process, Gaussian):
        raise ValueError(f"a flow is that of one Gaussian process or interpolant, and this is {process}.")
    (table,) = plans_for(process, plan).values()
    if stochastic(table):
        raise ValueError(f"plan {table.name} adds noise, and what is asked for is the flow's; use a deterministic plan.")
    return table


def _rests(
    denoiser: BaseDenoiser, plan: Plan, begin: Tensor, cond: Cond, guidance: Guidance | None
) -> Iterator[tuple[float, Tensor]]:
    """(level, state) where the plan rests: a step's stages are left out, and what corrects them takes their place."""
    shape = tuple(begin.shape[1:])
    path = trajectory(denoiser, plan, len(begin), shape=shape, start=begin, cond=cond, guidance=guidance)
    for step, after in zip(path, [*plan.rows[1:], None], strict=True):
        if after is None or not after.anchored:
            yield step.level, step.z.cpu()
