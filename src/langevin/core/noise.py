"""Counter-based randomness: noise is a function of (seed, sample id, step, purpose), and of nothing else.

So sample k is the same sample in a batch of 1 or 64, on one process or four, and no global generator exists.
Bits come from SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014):
the i-th 64-bit word of a stream is mix(key + i * golden), the key itself a chain of mixes over the four names.
Normals are Box-Muller in float64, rounded once to the wanted dtype.
"""

import bisect
import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_WORD = 1 << 64


def signed(word: int) -> int:
    """A 64-bit word, from 0 on, as the int64 of the same bits."""
    return (word + _WORD // 2) % _WORD - _WORD // 2


GOLDEN = signed(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place."""
    # int64 arithmetic wraps, so it is arithmetic modulo 2^64; the masks turn >> into a logical shift
    shifted = x >> 30
    x.bitwise_xor_(shifted.bitwise_and_((1 << 34) - 1)).mul_(_MIX_1)
    x.bitwise_xor_(torch.bitwise_right_shift(x, 27, out=shifted).bitwise_and_((1 << 37) - 1)).mul_(_MIX_2)
    return x.bitwise_xor_(torch.bitwise_right_shift(x, 31, out=shifted).bitwise_and_((1 << 33) - 1))


def _mixed(x: int) -> int:
    """The same of one word: a tensor of one element costs twenty times as much."""
    x &= _WORD - 1
    x = ((x ^ (x >> 30)) * _MIX_1) & (_WORD - 1)
    x = ((x ^ (x >> 27)) * _MIX_2) & (_WORD - 1)
    return signed(x ^ (x >> 31))


def _name(purpose: str) -> int:
    return signed(int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little"))


@dataclass(frozen=True)
class Noise:
    """A source of independent noise, one stream per sample.

    Args:
        seed: any integer.
        ids: (B,) int64, the identity of each sample, whatever its place in the batch.
        step: which step of a loop the draw belongs to.
        purpose: which draw within the step ("prior", "bridge", ...; a product appends its leaf).
        among: ids of the whole batch that these samples are a part of, for draws that are spread over a batch.
    """

    seed: int
    ids: Tensor
    step: int = 0
    purpose: str = ""
    among: Tensor | None = None

    @staticmethod
    def of(seed: int, count: int, first: int | Tensor = 0, device: torch.device | str = "cpu") -> "Noise":
        """Noise for the samples first, ..., first + count - 1, or for those whose ids are given, (count,) int64."""
        return Noise(seed, torch.arange(first, first + count, device=device) if isinstance(first, int) else first.to(device))

    def at(self, purpose: str, step: int | None = None) -> "Noise":
        """The same samples, another draw."""
        return Noise(self.seed, self.ids, self.step if step is None else step, f"{self.purpose}/{purpose}", self.among)

    def _bits(self, count: int) -> Tensor:
        seed, step, name = signed(GOLDEN * (self.seed + 1)), _mixed(self.step + 1), _name(self.purpose)
        if len(self.ids) <= 8 and self.ids.device.type == "cpu":
            key = torch.tensor([_mixed(_mixed(_mixed(k + seed) ^ step) ^ name) for k in self.ids.tolist()], dtype=torch.int64)
        else:
            key = _mix(_mix(_mix(self.ids + seed).bitwise_xor_(step)).bitwise_xor_(name))
        index = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
        return _mix(index.mul_(GOLDEN) + key[:, None])

    def uniform(self, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) float64, uniform on the open interval (0, 1), with 52 random bits."""
        bits = (self._bits(math.prod(shape)) >> 12) & ((1 << 52) - 1)
        return ((bits.double() + 0.5) * 2.0**-52).reshape(-1, *shape)

    def normal(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) standard normal."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        high = (bits >> 32).bitwise_and_(0xFFFFFFFF)
        radius = high.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = bits.bitwise_and_(0xFFFFFFFF).double().mul_(2.0**-32 * 2.0 * math.pi)
        pairs = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)[:, :count]
        return pairs.reshape(-1, *shape).to(dtype)

    def gumbel(self, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) standard Gumbel in float64.

        In float32 the maximum is 16.6 and sampling from logits is silently colder than it says (2409.02908).
        """
        return -(-self.uniform(shape).log()).log()


class Path:
    """One Brownian path per sample, indexed by level: rows that cross the same levels draw on the same noise.

    The clock is the signal-to-noise ratio exp(lam), in which the fresh noise of successive ancestral steps adds up to the
    increments of one Brownian motion, however many steps there are. Increments over cells of lam of fixed width are
    functions of (seed, sample id, cell); levels inside a cell are bridged in the order they are asked for, so paths at
    different step counts agree at the borders of cells, and in law everywhere.
    """

    WIDTH = 0.5

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self._clock: list[float] = []  # known times, in lam, and the values there
        self._value: list[Tensor | float] = []
        self._asked: dict[int, int] = {}

    def between(self, start: float, stop: float, row: Noise | None = None) -> "Increment":
        """The source whose normals are the path's increments from lam = start up to stop, scaled to unit variance. All other
        draws, and those for a purpose, are the row's own."""
        return Increment(**vars(row or self.noise), path=self, start=start, stop=stop)

    def increment(self, start: float, stop: float, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        start, stop = max(start, -40.0), max(stop, -39.0)
        early, late = (self._at(lam, shape, dtype) for lam in (start, stop))
        spent = bisect.bisect_left(self._clock, start)
        del self._clock[:spent], self._value[:spent]
        return (late - early) / math.sqrt(math.exp(stop) - math.exp(start))

    def _at(self, lam: float, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        cell = math.floor(lam / self.WIDTH)
        if not self._clock:
            self._clock, self._value = [cell * self.WIDTH], [0.0]
        while self._clock[-1] < (cell + 1) * self.WIDTH:  # whole cells, up to the one that holds lam
            low = round(self._clock[-1] / self.WIDTH)
            spread = math.sqrt(math.exp((low + 1) * self.WIDTH) - math.exp(low * self.WIDTH))
            draw = replace(self.noise, step=low).normal(shape, dtype)
            self._value.append(draw.mul_(spread).add_(self._value[-1]))
            self._clock.append((low + 1) * self.WIDTH)
        place = bisect.bisect_left(self._clock, lam)
        if self._clock[place] == lam:
            return self._value[place]
        (before, after), (low, high) = self._value[place - 1 : place + 1], self._clock[place - 1 : place + 1]
        past, left, whole = (math.exp(b) - math.exp(a) for a, b in ((low, lam), (lam, high), (low, high)))
        self._asked[cell] = self._asked.get(cell, 0) + 1
        draw = replace(self.noise.at(f"within {self._asked[cell]}"), step=cell).normal(shape, dtype)
        draw.mul_(math.sqrt(past * left / whole)).add_(after, alpha=past / whole)
        value = draw.add_(before, alpha=left / whole)
        self._clock.insert(place, lam)
        self._value.insert(place, value)
        return value


@dataclass(frozen=True)
class Increment(Noise):
    """Noise whose normals are increments of a path."""

    path: Path | None = None
    start: float = 0.0
    stop: float = 0.0

    def normal(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        assert self.path is not None
        return self.path.increment(self.start, self.stop, shape, dtype)
