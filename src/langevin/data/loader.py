"""Batches for one process of several, read ahead by worker processes if wanted.

What is read depends on the order alone: any number of processes, passes and workers sees the same batches.
"""

import atexit
import itertools
import signal
import sys
import weakref
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data.order import InOrder, Order
from langevin.data.source import Source
from langevin.data.stream import Stream


@dataclass(frozen=True)
class Slice:
    """What one pass of one process reads of a batch."""

    place: int
    """Place of its first sample in the endless reading; the others follow. The ids of the noise."""
    batch: Batch
    share: float
    """Its part of the whole batch's samples; the shares of a step sum to 1 over passes and processes. 0 for a pass that had
    no sample left and was given one so that every process runs as many passes."""


def loader(
    source: Source | Stream,
    order: Order | InOrder,
    first_step: int = 0,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Generator[list[Slice], None, None]:
    """The passes of this process for every step from `first_step` on, endlessly.

    A batch is cut into world * accumulate contiguous pieces whose lengths differ by at most one; process `rank` has the
    pieces rank * accumulate, ..., (rank + 1) * accumulate - 1. A source with `augment` has it applied, with noise named by
    (seed, place).

    Args:
        source: where samples are read; a `Stream` goes with an `InOrder`.
        order: which samples make up which batch.
        first_step: number of batches read already.
        accumulate: passes per step.
        rank: which process this is, from 0.
        world: how many processes there are.
        workers: processes that read ahead, two steps each; 0 reads when asked. They change nothing in what is read, and
            end with this process, however it ends. Each holds what its source caches.

    Raises:
        ValueError: for settings that do not fit, and whatever the source refuses.
        ChildProcessError: if a worker dies, or fails in another way; the sentence names the step.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world} processes; ranks run from 0 to {world - 1}.")
    for field, value, least in (("accumulate", accumulate, 1), ("workers", workers, 0), ("first_step", first_step, 0)):
        if value < least:
            raise ValueError(f"{field} is {value}; give at least {least}.")
    if isinstance(source, Stream) != isinstance(order, InOrder):
        raise ValueError(
            f"order is a {type(order).__name__} for a {type(source).__name__}; a Stream is read InOrder, all else by an Order."
        )
    if isinstance(order, Order) and order.size != len(source):  # pyright: ignore[reportArgumentType]
        raise ValueError(f"order is of {order.size} samples and the source has {len(source)}; make it with len(source).")  # pyright: ignore
    if isinstance(source, Stream) and order.samples < world * accumulate:
        raise ValueError(
            f"batch is {order.samples} for {world} processes of {accumulate} passes; a stream needs a sample for each."
        )
    steps = _Steps(source, order, accumulate, rank, world)
    if not workers:
        return (steps.read(step) for step in itertools.count(first_step))
    reading = _ahead(steps, first_step, workers)
    _READING.add(reading)
    return reading


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker."""

    step: int
    refusal: bool
    text: str


class _Steps(Dataset[Any]):
    """The slices of step k as item k."""

    def __init__(self, source: Any, order: Order | InOrder, accumulate: int, rank: int, world: int) -> None:
        self.source, self.order = source, order
        self.pieces, self.mine = world * accumulate, range(rank * accumulate, (rank + 1) * accumulate)

    def read(self, step: int) -> list[Slice]:
        place, index = self.order.batch(step)
        pieces = torch.tensor_split(index, self.pieces)
        starts = [place, *(place + torch.tensor([len(p) for p in pieces]).cumsum(0)).tolist()]
        return [
            self._slice(starts[k], pieces[k], len(index)) if len(pieces[k]) else self._slice(place, index[:1], 0)
            for k in self.mine
        ]

    def _slice(self, place: int, index: Tensor, whole: int) -> Slice:
        if isinstance(self.source, Stream):
            batch = self.source.take(place, len(index))
        else:
            batch = self.source.batch(index)
        if not isinstance(batch, Batch):
            raise ValueError(f"data.batch gave a {type(batch).__name__}; return langevin.data.Batch(x, cond), cond by name.")
        if augment := getattr(self.source, "augment", None):
            batch = augment(batch, Noise.of(self.order.seed, len(index), place).at("augment"))
        return Slice(place, batch, len(index) / whole if whole else 0.0)

    def __getitem__(self, step: int) -> list[Slice] | _Failure:
        try:
            return self.read(step)
        except Exception as error:  # torch would wrap its traceback into the text
            return _Failure(step, isinstance(error, ValueError), str(error) or type(error).__name__)


def _same(item: Any) -> Any:
    return item


def _start_worker(number: int) -> None:
    # both reach the whole group, from a terminal or torchrun; when to stop is the parent's decision, and the watchdog ends a
    # worker whose parent is gone
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


_READING: weakref.WeakSet[Generator[list[Slice], None, None]] = weakref.WeakSet()


_WORKERS: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    # Python ends the children that are left by SIGTERM, which these ignore, and waits for them
    for reading in list(_READING):
        reading.close()
    for worker in list(_WORKERS):  # of a reading that was collected as garbage, which may have been unable to tell it
        if worker.is_alive():
            worker.kill()


def _ahead(steps: _Steps, first_step: int, workers: int) -> Generator[list[Slice], None, None]:
    ahead = DataLoader(
        steps, batch_size=None, sampler=itertools.count(first_step), num_workers=workers, collate_fn=_same,
        worker_init_fn=_start_worker, prefetch_factor=2,
        generator=torch.Generator(),  # else it would draw from the global one
        multiprocessing_context="fork" if sys.platform == "linux" else None,  # what is mapped into memory is shared
    )  # fmt: skip
    items = iter(ahead)
    _WORKERS.update(getattr(items, "_workers", ()))
    try:
        for item in items:
            if isinstance(item, _Failure):
                if item.refusal:
                    raise ValueError(item.text)
                raise ChildProcessError(f"reading step {item.step} failed in a worker: {item.text}")
            yield item
    except ChildProcessError:
        raise
    except (RuntimeError, OSError, EOFError) as error:
        # a worker that dies while it hands a batch over is first met as a broken connection, or one whose file is gone
        if isinstance(error, RuntimeError) and not _of_a_worker(error):
            raise
        raise ChildProcessError("a data worker died, most likely for want of memory; use fewer workers.") from None
    finally:
        # now, and not when the last traceback that holds this frame is gone: Python would wait for them when it ends
        try:
            getattr(items, "_shutdown_workers", lambda: None)()
        except RuntimeError as error:  # torch's handler of signals may tell of the death only now; they are ended all the same
            if not _of_a_worker(error):
                raise


def _of_a_worker(error: RuntimeError) -> bool:
    """Whether torch says by this that a worker died."""
    return "DataLoader worker" in str(error)
