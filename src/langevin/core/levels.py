"""Levels: how far each element has travelled from data (0) to noise (1).

A level is one number, one per sample `(B,)`, or one per element. It is expanded once, at the entry of the
library, to broadcast against the state; deeper in, a bare `(B,)` is an error, because it would broadcast
against the last axis whenever the sizes happen to agree.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Level: TypeAlias = float | Tensor


class KeptByLevel(dict[Any, Any]):
    """What was computed for levels: a sampler asks for the same few again and again. Emptied where so many do not come again."""

    def get_or(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What is kept under the key, computed if it is not there."""
        if key not in self:
            if len(self) > 4096:
                self.clear()
            self[key] = compute()
        return self[key]


def expand(t: Level, z: Tensor) -> Tensor:
    """Level `t` as float64, broadcastable against `z` (B, ...): 0-dim, (B, 1, ..., 1) or per element.

    Raises:
        ValueError: if t is neither a number, nor (B,), nor broadcastable against z, or leaves [0, 1].
    """
    level = torch.as_tensor(t, dtype=torch.float64)
    if level.ndim == 0:
        level = level.detach() if not level.requires_grad else level
    elif level.shape == z.shape[:1]:
        level = level.reshape(-1, *[1] * (z.ndim - 1)).to(z.device)
    elif level.ndim == z.ndim and all(a in (1, b) for a, b in zip(level.shape, z.shape, strict=True)):
        level = level.to(z.device)
    else:
        raise ValueError(
            f"level has shape {tuple(level.shape)} for a state of shape {tuple(z.shape)}; "
            f"give one number, ({z.shape[0]},), or one level per element with {z.ndim} axes."
        )
    _within(level.detach())
    return level


def _within(level: Tensor) -> None:
    # on a GPU the check would wait for the device and in a compiled graph it would break it: it is made on the CPU only
    if level.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(((level >= 0) & (level <= 1)).all()):
        raise ValueError(f"level spans [{level.min():g}, {level.max():g}]; levels lie in [0, 1], 0 data and 1 noise.")


def broadcastable(t: Level, z: Tensor) -> Tensor:
    """The check made deeper in: `t` is already expanded (0-dim or as many axes as z)."""
    level = torch.as_tensor(t, dtype=torch.float64)
    if level.ndim not in (0, z.ndim):
        raise ValueError(
            f"level has shape {tuple(level.shape)} for a state of shape {tuple(z.shape)}; "
            "expand it first: langevin.core.levels.expand(t, z)."
        )
    _within(level.detach())
    return level


def cast(c: Tensor, z: Tensor) -> Tensor:
    """A float64 coefficient ready to multiply z without promoting it (0-dim tensors never promote)."""
    return c if c.ndim == 0 else c.to(z.device, z.dtype if z.is_floating_point() else torch.float32)
