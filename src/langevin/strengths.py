"""Strengths of adapters that hold for one request: for the thread, or the task, that runs it, and for no other.

A compiled network reads them where it runs: another strength compiles nothing again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_ASKED: ContextVar[Mapping[str, float] | None] = ContextVar("strengths", default=None)


@contextmanager
def strengths(asked: Mapping[str, float]) -> Iterator[None]:
    """Within, adapters of these names count so much, in this thread alone; others as they stand."""
    token = _ASKED.set({**(_ASKED.get() or {}), **asked})
    try:
        yield
    finally:
        _ASKED.reset(token)


def factor(standing: Tensor, name: str, scale: float) -> Tensor:
    """By what adapters of a name are multiplied now.

    Args:
        standing: () by what they are where no request says anything. scale: by what they are at strength 1.
    """
    if torch.compiler.is_compiling():
        return torch.ops.langevin.factor(standing, name, scale)
    return _now(standing, name, scale)


def _now(standing: Tensor, name: str, scale: float) -> Tensor:
    asked = _ASKED.get()
    return standing if asked is None or name not in asked else torch.full_like(standing, asked[name] * scale)


# a graph knows nothing of threads: it holds a call that looks when it runs. A graph of a GPU would hold what it saw
@torch.library.custom_op("langevin::factor", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _factor(standing: Tensor, name: str, scale: float) -> Tensor:
    return _now(standing, name, scale).clone()


@_factor.register_fake
def _(standing: Tensor, name: str, scale: float) -> Tensor:
    return torch.empty_like(standing)
