"""Objectives: `objective(model, batch, noise) -> Loss`. They call the model themselves, as often and however they need."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.denoiser import Cond, Denoiser
from langevin.core.noise import Noise
from langevin.core.process import LeafProcess
from langevin.core.space import Centred
from langevin.objectives.levels import LevelDensity, stratified


@dataclass(frozen=True)
class Loss:
    """What an objective says: `total` to differentiate, `logs` to write down (floats by name).

    Attributes:
        levels, each: by leaf, levels (N,) and the losses (N,) met there, weighted but not divided by the density that levels
            were drawn from; detached. N is the number of samples, or of elements where levels differ within a sample. A level
            of 0 marks data that was given or is padding, whose loss means nothing.
    """

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    levels: Mapping[str, Tensor] = field(default_factory=dict)
    each: Mapping[str, Tensor] = field(default_factory=dict)


class Networks(nn.ModuleDict):
    """Networks that an objective brings: teachers, slow copies, critics. They are checkpointed with it, and their names alone
    are printed."""

    def __repr__(self) -> str:
        return ", ".join(self)


class Objective(nn.Module, ABC):
    """A module, so that what it learns (loss histories, slow copies, critics) is checkpointed. Its parameters that require
    gradients are trained beside the model's, by the same optimiser.

    Attributes:
        wants_losses: it follows the losses it is told of, by `observe`.
        own_rate: the learning rate of its own parameters, relative to that of the model's.
        paced: it goes by the share of the run that is done, so the length of a run cannot change on the way.
    """

    wants_losses = False
    own_rate = 1.0
    paced = False

    def __call__(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        """The loss of one batch; `noise.ids` names each sample, so the loss is a function of data and ids alone."""
        return super().__call__(model, batch, noise)

    @abstractmethod
    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss: ...

    # What a trainer, or a loop of your own, tells it

    def prepare(self, model: Denoiser) -> None:
        """Before training begins: make what is made from the model, such as slow copies. Called once."""

    def begin(self, model: Denoiser, step: int, done: float) -> None:
        """Before update number `step` (from 0), with the share `done` of the run behind it. What is set here must be a function
        of these and of the checkpointed state alone."""

    def end(self, model: Denoiser) -> None:
        """After an update that was made."""

    def observe(self, levels: Mapping[str, Tensor], each: Mapping[str, Tensor]) -> None:
        """Told `Loss.levels` and `Loss.each` of an update that was made, of all its passes and processes, in the order of the
        samples. A trainer does so; a loop of your own has to."""
        del levels, each


SPREADS = ("shared", "independent", "elements")


def draw_levels(
    density: LevelDensity,
    parts: Mapping[str, LeafProcess],
    x: Mapping[str, Tensor],
    noise: Noise,
    spread: str,
    clean: float,
) -> dict[str, Tensor]:
    """A level for each leaf, expanded: one for all ("shared"), one per leaf ("independent"), or one per element, where what a
    space ties together (the two directions of an edge) is one.

    With probability `clean` one leaf, drawn at random, is at level 0: the model learns to be given it.

    Raises:
        ValueError: for `clean` where there is one leaf, and levels of elements that a space does not have.
    """
    names = list(parts)
    if clean and len(names) < 2:
        raise ValueError(
            f"clean is {clean:g}, the probability that a leaf of a product is given, and this process is one; set it to 0, or, "
            "for known elements, use spread 'elements'."
        )
    if spread == "elements":
        out = {n: _of_elements(density, parts[n], x[n], noise.at(f"levels/{n}")) for n in names}
    else:
        purpose = {n: "levels" if spread == "shared" else f"levels/{n}" for n in names}
        draws = {n: density.quantile(stratified(noise.at(purpose[n])), parts[n].schedule) for n in names}
        out = {n: t.reshape(-1, *[1] * (x[n].ndim - 1)) for n, t in draws.items()}
    if clean:
        u = noise.at("clean").uniform(())
        chosen = (noise.at("clean leaf").uniform(()) * len(names)).long()
        for i, n in enumerate(names):
            given = ((u < clean) & (chosen == i)).reshape(-1, *[1] * (out[n].ndim - 1)).to(out[n].device)
            out[n] = torch.where(given, 0.0, out[n])
    return out


def _of_elements(density: LevelDensity, leaf: LeafProcess, x: Tensor, noise: Noise) -> Tensor:
    """A level for each element, (B, *shape)."""
    if isinstance(leaf.space, Centred):
        raise ValueError(
            "spread is 'elements', and centred points at levels of their own are centred no more; use 'independent'."
        )
    t = density.quantile(noise.uniform(tuple(x.shape[1:])), leaf.schedule).to(x.device)
    real = leaf.space.real(x, None)
    return t if real is None else torch.where(real, leaf.space.project(t), t)


def drop_conditions(cond: Cond, noise: Noise, share: float) -> Cond:
    """`cond` with a random share of samples marked as dropped, so that the null condition is learned (2207.12598)."""
    if not cond or share == 0:
        return cond
    return {**cond, "drop": (noise.at("drop").uniform(()) < share).to(next(iter(cond.values())).device)}


def mean_over_elements(error: Tensor, real: Tensor | None) -> Tensor:
    """(B, *shape) -> (B,), over the elements that are real (a bool like error), or all where None."""
    flat = error.reshape(len(error), -1)
    if real is None:
        return flat.mean(1)
    weight = real.expand(error.shape).reshape(len(error), -1).to(error.dtype)
    return (flat * weight).sum(1) / weight.sum(1).clamp(min=1)
