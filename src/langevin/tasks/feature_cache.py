"""Transformers that leave out most of their blocks where these say what they said before.

A cache goes around a denoiser, as guidance does, and changes no weights: what it remembers belongs to the run. What is
remembered is what all blocks but the first, which is always computed, together add to the tokens.

    model.run("a red cat", cache=FirstBlock(0.1))
    print(measured(model, Taylor(3), "a red cat", steps=20))       # the error that it causes

For the networks of DiT, PixArt, Sana, Stable Diffusion 3, FLUX and Lumina 2. A U-Net has no trunk to leave out.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.tasks.generate import Generator, Result


@dataclass
class Memory:
    """What a run remembers.

    Args:
        level: that the network is shown in the evaluation under way.
        levels, residuals: of the last evaluations that were computed, the newest last; what the other blocks added then.
        first: what the first block added then. since: evaluations since.
        computed, left: how many evaluations were. misses: relative errors of what would have been taken, where it was computed
            as well.
    """

    level: float = 1.0
    levels: list[float] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    first: Tensor | None = None
    since: int = 0
    computed: int = 0
    left: int = 0
    misses: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        off = (
            "" if not self.misses else f"; where both are known, the blocks' sum would have been off by {_mean(self.misses):.1%}"
        )
        return f"the blocks were left out in {self.left} of {self.left + self.computed} evaluations{off}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


@dataclass(frozen=True)
class FeatureCache(ABC):
    """Denoiser -> denoiser; a new run begins with nothing remembered."""

    kept: int = field(default=1, init=False)

    @property
    def word(self) -> str | None:
        """How it is written, "first_block:threshold=0.2", with what differs from the defaults; None of a class without a name."""
        name = next((name for name, kind in CACHES.items() if kind is type(self)), None)
        own = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.init and getattr(self, f.name) != f.default]
        return name if name is None or not own else f"{name}:{','.join(own)}"

    @abstractmethod
    def known(self, memory: Memory, first: Tensor) -> bool:
        """Whether this evaluation leaves the blocks out, told what the first block adds now."""

    def predicted(self, memory: Memory) -> Tensor:
        """The residual at this level: the polynomial through those that are remembered."""
        nodes, total = memory.levels, torch.zeros_like(memory.residuals[-1])
        for i, value in enumerate(memory.residuals):
            weight = 1.0
            for j, node in enumerate(nodes):
                if j != i:
                    weight *= (memory.level - node) / (nodes[i] - node)
            total = total + weight * value
        return total

    def __call__(self, denoiser: BaseDenoiser) -> "Denoiser":
        if not isinstance(denoiser, Denoiser):
            raise ValueError("a feature cache goes around a network's own denoiser; put guidance around the cache.")
        net = _Remembering(denoiser.net, self)
        made = Denoiser(net, denoiser.process, denoiser.predictions[""], denoiser.shape)
        return made.train(denoiser.training)


@dataclass(frozen=True)
class FirstBlock(FeatureCache):
    """Leave the other blocks out while the first adds nearly what it added when they were last computed (first-block cache).

    The batch is one decision: the sample that changes most makes it, so others are computed more often than they were alone.

    Args:
        threshold: largest relative change, of means of magnitudes, of what the first block adds to any sample.
        most: evaluations in a row that leave them out.

    Raises:
        ValueError: for values below 0 and 1.
    """

    threshold: float = 0.1
    most: int = 4

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or self.most < 1:
            raise ValueError(f"threshold is {self.threshold} and most {self.most}; give at least 0 and 1.")

    def known(self, memory: Memory, first: Tensor) -> bool:
        before = memory.first
        if before is None or before.shape != first.shape or memory.since >= self.most:
            return False
        changed, size = (v.abs().flatten(1).mean(1) for v in (first - before, before))
        return float((changed / size.clamp(min=1e-12)).max()) <= self.threshold


@dataclass(frozen=True)
class Taylor(FeatureCache):
    """Compute every few evaluations, and go on along the polynomial in the level between (TaylorSeer, 2503.06923, on the trunk
    as a whole and for levels that are not evenly spaced).

    Args:
        every: of so many evaluations one is computed. order: of the polynomial; 0 repeats what was.
        warm: evaluations at the beginning that are all computed.

    Raises:
        ValueError: for values below 1, 0 and 1.
    """

    every: int = 3
    order: int = 1
    warm: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.order < 0 or self.warm < 1:
            raise ValueError(f"every is {self.every}, order {self.order} and warm {self.warm}; give at least 1, 0 and 1.")
        object.__setattr__(self, "kept", self.order + 1)

    def known(self, memory: Memory, first: Tensor) -> bool:
        if memory.computed < self.warm or not memory.residuals or memory.residuals[-1].shape != first.shape:
            return False
        return memory.since < self.every - 1


CACHES: dict[str, Any] = {"first_block": FirstBlock, "taylor": Taylor}
"""By name, for the command line."""


class _Remembering(nn.Module):
    """A network whose blocks share one memory; it shares weights with the network that it is made of, and nothing else."""

    def __init__(self, net: nn.Module, cache: FeatureCache) -> None:
        super().__init__()
        self.memory = Memory()
        self.net = _wrapped(net, cache, self.memory)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        self.memory.level = float(level.float().mean())
        return self.net(z, level, cond, mask)


def _wrapped(net: nn.Module, cache: FeatureCache, memory: Memory) -> nn.Module:
    """A shallow copy of a network, down to its trunk."""
    names = [name for name in ("trunk", "joint", "single") if isinstance(getattr(net, name, None), nn.ModuleList)]
    if names:
        made = _shallow(net)
        trunk = _Trunk(cache, memory)
        blocks = [(name, block) for name in names for block in cast(Any, getattr(net, name))]
        if len(blocks) < 2:
            raise ValueError(f"the network has {len(blocks)} blocks; there is nothing to leave out.")
        units = [_Unit(trunk, block, k == 0, k == len(blocks) - 1, name == "joint") for k, (name, block) in enumerate(blocks)]
        for name in names:
            made._modules[name] = nn.ModuleList(u for u, (n, _) in zip(units, blocks, strict=True) if n == name)
        return made
    for inner in ("joint", "net"):  # of a DiT, and of a network that something goes around
        if isinstance(within := getattr(net, inner, None), nn.Module):
            made = _shallow(net)
            made._modules[inner] = _wrapped(within, cache, memory)
            return made
    raise ValueError(f"{type(net).__name__} has no trunk of blocks to leave out; a feature cache is for transformers.")


def _shallow(net: nn.Module) -> nn.Module:
    made = copy.copy(net)
    made._modules = dict(net._modules)
    return made


class _Trunk:
    """One pass through the blocks: whether they are computed, and what stands before them."""

    def __init__(self, cache: FeatureCache, memory: Memory) -> None:
        self.cache, self.memory = cache, memory
        self.skips, self.before = False, torch.empty(0)

    def begin(self, before: Tensor, after: Tensor) -> None:
        m, first = self.memory, after - before
        self.before, self.skips = after, self.cache.known(m, first)
        if self.skips:
            m.left, m.since = m.left + 1, m.since + 1
        else:
            m.first = first

    def end(self, tokens: Tensor) -> Tensor:
        """The picture's tokens after the last block."""
        m, count = self.memory, self.before.shape[1]
        if self.skips:
            return torch.cat([tokens[:, :-count], self.before + self.cache.predicted(m)], 1)
        found = tokens[:, -count:] - self.before
        if m.residuals and m.residuals[-1].shape == found.shape:
            miss = (self.cache.predicted(m) - found).norm() / found.norm().clamp(min=1e-12)
            m.misses.append(float(miss))
        else:
            m.levels, m.residuals = [], []
        if m.level not in m.levels:
            m.levels, m.residuals = [*m.levels, m.level][-self.cache.kept :], [*m.residuals, found][-self.cache.kept :]
        m.computed, m.since = m.computed + 1, 0
        return tokens


class _Unit(nn.Module):
    """A block that may be left out; joint ones take and give the text's tokens and the picture's."""

    def __init__(self, trunk: _Trunk, block: nn.Module, first: bool, last: bool, joint: bool) -> None:
        super().__init__()
        self.trunk, self.block, self.first, self.last, self.joint = trunk, block, first, last, joint

    def forward(self, *args: Any) -> Any:
        trunk = self.trunk
        given = args[1] if self.joint else args[0]
        out: Any = args[:2] if self.joint else args[0]
        if self.first or not trunk.skips:
            out = self.block(*args)
        if self.first:
            trunk.begin(given, out[1] if self.joint else out)
        if self.last:
            return (out[0], trunk.end(out[1])) if self.joint else trunk.end(out)
        return out


@dataclass(frozen=True)
class Measured:
    """What a cache costs and gains on one request.

    Args:
        memory: of the run. error: root mean square of the difference of latents, relative to their deviation.
        largest: difference of pixels, of 255.
    """

    memory: Memory
    error: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.memory}; latents are off by {self.error:.2%} of their deviation, pixels by {self.largest:.1f} of 255 at most"
        )


def measured(model: Generator, cache: FeatureCache, prompt: Any = None, **request: Any) -> Measured:
    """The error that a cache causes: the same request with it and without."""
    return compared(model.run(prompt, cache=cache, **request), model.run(prompt, **request))


def compared(ours: Result, plain: Result) -> Measured:
    """The same request with a cache and without."""
    error = (ours.latents - plain.latents).double().square().mean().sqrt() / plain.latents.double().std()
    assert ours.memory is not None
    return Measured(ours.memory, float(error), float((ours.tensor - plain.tensor).abs().max()) * 127.5)
