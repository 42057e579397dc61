"""Counter-based randomness: noise is a function of (seed, sample id, step, purpose), and of nothing else.

So sample k is the same sample in a batch of 1 or 64, on one process or four, and no global generator exists.
Bits come from SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014):
the i-th 64-bit word of a stream is mix(key + i * golden), the key itself a chain of mixes over the four names.
Normals are Box-Muller in float64, rounded once to the wanted dtype.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_WORD = 1 << 64


def _signed(word: int) -> int:
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    # int64 arithmetic wraps, so it is arithmetic modulo 2^64; the masks turn >> into a logical shift
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _name(purpose: str) -> int:
    return _signed(int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little"))


@dataclass(frozen=True)
class Noise:
    """A source of independent noise, one stream per sample.

    Args:
        seed: any integer.
        ids: (B,) int64, the identity of each sample, whatever its place in the batch.
        step: which step of a loop the draw belongs to.
        purpose: which draw within the step ("prior", "bridge", ...; a product appends its leaf).
    """

    seed: int
    ids: Tensor
    step: int = 0
    purpose: str = ""

    @staticmethod
    def of(seed: int, count: int, first: int = 0, device: torch.device | str = "cpu") -> "Noise":
        """Noise for the samples first, ..., first + count - 1."""
        return Noise(seed, torch.arange(first, first + count, dtype=torch.int64, device=device))

    def at(self, purpose: str, step: int | None = None) -> "Noise":
        """The same samples, another draw."""
        return replace(self, purpose=f"{self.purpose}/{purpose}", step=self.step if step is None else step)

    def _bits(self, count: int) -> Tensor:
        key = _mix(self.ids + _signed(_GOLDEN * (self.seed + 1)))
        key = _mix(key ^ _mix(torch.tensor(_signed(self.step + 1), device=key.device)))
        key = _mix(key ^ _name(self.purpose))
        index = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
        return _mix(key[:, None] + index * _GOLDEN)

    def uniform(self, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) float64, uniform on the open interval (0, 1), with 52 random bits."""
        bits = (self._bits(math.prod(shape)) >> 12) & ((1 << 52) - 1)
        return ((bits.double() + 0.5) * 2.0**-52).reshape(-1, *shape)

    def normal(self, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) standard normal."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        radius = (((bits >> 32) & 0xFFFFFFFF).double() + 0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = (bits & 0xFFFFFFFF).double().mul_(2.0**-32 * 2.0 * math.pi)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
        return pairs.reshape(-1, *shape).to(dtype)

    def gumbel(self, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) standard Gumbel in float64.

        In float32 the maximum is 16.6 and sampling from logits is silently colder than it says (2409.02908).
        """
        return -(-self.uniform(shape).log()).log()
