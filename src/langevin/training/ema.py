"""Averages of weights over training, towards which samples are drawn.

An average moves by  average += (1 - keep) (weights - average)  at each update; a profile says what is kept. With t the
samples seen so far, b those of the update and k the number of updates, counted from 1:

    Constant(decay)      keep = min(decay, (1 + k) / (10 + k)): short at first, so that the initial weights are forgotten
    HalfLife(samples)    keep = 2^(-b / min(samples, ramp t)), t before the update (EDM, 2206.00364)
    Power(sigma_rel)     keep = (1 - b / t)^(gamma + 1), t after the update (EDM2, 2312.02696, sec. 3.1): the average of the
                         weights under the density (gamma + 1) tau^gamma / t^(gamma + 1), whose standard deviation is
                         sigma_rel t. From a few stored ones that of any other width follows after training:
                         `langevin.training.snapshots`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from langevin import spec


class Profile(Protocol):
    """How much of an average an update keeps."""

    def keep(self, update: int, before: int, after: int) -> float:
        """The share kept in update number `update`, from 1, that takes the samples seen from `before` to `after`."""
        ...


@dataclass(frozen=True)
class Constant:
    """A decay per update, ramped up."""

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay}; it is the share kept per update, from 0 to below 1.")

    def keep(self, update: int, before: int, after: int) -> float:
        return min(self.decay, (1 + update) / (10 + update))


@dataclass(frozen=True)
class HalfLife:
    """Weights lose half of their share in `samples` samples, or in `ramp` of those seen while that is less."""

    samples: int = 500_000
    ramp: float = 0.05

    def __post_init__(self) -> None:
        if self.samples <= 0 or self.ramp <= 0:
            raise ValueError(f"the half-life is {self.samples} samples with ramp {self.ramp}; both lie above 0.")

    def keep(self, update: int, before: int, after: int) -> float:
        life = min(float(self.samples), self.ramp * before)
        return 0.5 ** ((after - before) / life) if life > 0 else 0.0


@dataclass(frozen=True)
class Power:
    """A power-function profile of relative width `sigma_rel`."""

    sigma_rel: float = 0.1

    def __post_init__(self) -> None:
        exponent(self.sigma_rel)

    def keep(self, update: int, before: int, after: int) -> float:
        return (before / after) ** (exponent(self.sigma_rel) + 1)


PROFILES: dict[str, Callable[..., Profile]] = {"constant": Constant, "half_life": HalfLife, "power": Power}


def named(text: str | float | Profile) -> Profile:
    """A profile by name ("power:sigma_rel=0.05", "half_life:samples=500000"), a decay per update, or the one given."""
    if isinstance(text, str):
        return spec.parse(text, PROFILES, "average")
    return Constant(text) if isinstance(text, (int, float)) else text


def exponent(sigma_rel: float) -> float:
    """gamma of the profile of relative width sigma_rel: (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = sigma_rel^2.

    Raises:
        ValueError: outside (0, 0.288], where gamma would be below 0 and the oldest weights would count most.
    """
    if not 0 < sigma_rel <= 12**-0.5:
        raise ValueError(f"sigma_rel is {sigma_rel}; give a relative width above 0 and up to 0.288, such as 0.05 or 0.1.")
    square = sigma_rel**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def _local(value: Tensor) -> Tensor:
    """What this process holds of a tensor: averages work on each shard by itself and gather nothing."""
    shard = getattr(value, "to_local", None)
    return value if shard is None else shard()


def _averaged(value: Tensor) -> Tensor:
    """A copy wide enough to move by a thousandth: weights of half precision are averaged in float32."""
    value = value.detach().clone()
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _pieces(pairs: list[tuple[Tensor, Tensor]], most: int = 2**22) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """All pairs at once where their dtypes agree; else a few million numbers at a time, for they will be converted."""
    some, size = [], 0
    for average, weight in pairs:
        some.append((average, weight))
        size += 0 if average.dtype == weight.dtype else weight.numel()
        if size >= most:
            yield some
            some, size = [], 0
    if some:
        yield some


class Average:
    """An average of a model's trainable parameters, by name, with its buffers as they are now.

    Args:
        model: what to average; its parameters may be sharded (FSDP2).
        profile: a decay per update, a `Profile`, or its name.

    Attributes:
        buffers: names of what is copied rather than averaged; persistent buffers only.
        updates, samples: counted so far.
    """

    def __init__(self, model: nn.Module, profile: float | str | Profile) -> None:
        self.profile = named(profile)
        self.updates = self.samples = 0
        self._names = [n for n, p in model.named_parameters() if p.requires_grad]
        self.buffers = frozenset(n for n, _ in model.named_buffers()) & frozenset(model.state_dict())
        self._hold(model)

    def _hold(self, model: nn.Module) -> None:
        self._parameters = {n: _averaged(p) for n, p in model.named_parameters() if p.requires_grad}
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n in self.buffers}

    def _held(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The averaged parameters, and the buffers."""
        return self._parameters, self._buffers

    @torch.no_grad()
    def update(self, model: nn.Module, batch: int = 1) -> None:
        """Move towards `model` after an update on `batch` samples, those of all devices and passes together."""
        keep = self.profile.keep(self.updates + 1, self.samples, self.samples + batch)
        averages, buffers = self._held()
        weights, values = dict(model.named_parameters()), dict(model.named_buffers())
        pairs = [(_local(a), _local(weights[n])) for n, a in averages.items()]
        for some in _pieces(pairs):
            torch._foreach_lerp_([a for a, _ in some], [w.to(a.dtype) for a, w in some], 1 - keep)
        for name, buffer in buffers.items():
            _local(buffer).copy_(_local(values[name]))
        self.updates, self.samples = self.updates + 1, self.samples + batch

    def tensors(self) -> dict[str, Tensor]:
        """Averaged parameters and persistent buffers by name, not copied."""
        averages, buffers = self._held()
        return {**averages, **{n: b for n, b in buffers.items() if n in self.buffers}}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int, samples: int) -> None:
        """Continue from what `tensors()`, `updates` and `samples` said.

        Raises:
            ValueError: if names or shapes differ; nothing is changed then.
        """
        own = self.tensors()
        _check(own, tensors)
        for name, value in own.items():
            _local(value).copy_(_local(tensors[name]))
        self.updates, self.samples = updates, samples

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Put the averaged weights into `model`."""
        averages, _ = self._held()
        for name, weight in model.named_parameters():
            if name in averages:
                _local(weight).copy_(_local(averages[name]))

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """`model` with the averaged weights while the block runs; where there is no room for a second model."""
        averages, _ = self._held()
        weights = {n: p for n, p in model.named_parameters() if n in averages}
        kept = {n: _local(p).detach().clone() for n, p in weights.items()}
        self.apply(model)
        try:
            yield model
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    _local(weight).copy_(kept[name])


class Ema(Average):
    """An average with a model around it: `model` is a slow copy, in eval mode, of the model that is trained.

    Frozen parameters are not copied but shared.

    Args:
        model: what to average; see `Average`. profile: likewise.
    """

    def _hold(self, model: nn.Module) -> None:
        frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, frozen).eval()  # pyright: ignore[reportArgumentType]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = _averaged(parameter)
        self.model.requires_grad_(False)

    def _held(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        parameters = dict(self.model.named_parameters())
        return {n: parameters[n] for n in self._names}, dict(self.model.named_buffers())


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in own.keys() ^ given.keys():
        where = "misses" if name in own else "holds besides"
        raise ValueError(f"the saved average {where} {name!r}; resume with the same network and the same trainable parameters.")
    for name, value in own.items():
        if value.shape != given[name].shape:
            raise ValueError(f"the saved average of {name} has shape {tuple(given[name].shape)}, not {tuple(value.shape)}.")
