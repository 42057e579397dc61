"""Tar shards read from front to back: from pipes, or larger than any disk."""

import os
import subprocess
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

import torch

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data import tar
from langevin.data.decode import mirror, to_unit
from langevin.data.shards import Reader, join, naming, packed

PIPE = "pipe:"


class Stream:
    """Samples in tar shards that can only be read in turn; see `Reader` for what their members mean.

    Shards are visited in a shuffled order, and samples pass through a buffer from which they leave at random: a pure
    function of (seed, epoch). Samples are named by their place in this endless reading. Going to a place means reading, not
    decoding, what lies before it in its epoch; each process and each worker reads the whole stream and decodes its own part.

    Args:
        urls: shards, each a path, or "pipe:COMMAND" whose output is the shard. The command goes to the shell as it is given:
            never build it from names that others chose.
        seed: names the shuffling.
        size: side in pixels to which pictures are cropped and resized.
        channels: 3 for colour, 1 for grey.
        buffer: samples in the buffer, still packed; 1 for the order of the shards.
        samples: how many all shards hold, if known: resuming after the first epoch then starts in the right one, where else
            the first is read through to count.
        flip: training sees half of the samples mirrored, chosen by (seed, place).

    Raises:
        ValueError: while reading, for a command that fails, a shard that is damaged or has members it must not have, a sample
            that cannot be read, and if there are other than `samples` samples.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        seed: int = 0,
        size: int = 64,
        channels: int = 3,
        buffer: int = 1000,
        samples: int | None = None,
        flip: bool = False,
    ) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        for field, value in (("urls", len(self.urls)), ("buffer", buffer), ("samples", 1 if samples is None else samples)):
            if value < 1:
                raise ValueError(f"{field} is {value}; a stream needs at least 1.")
        self.seed, self.reader, self.flip = seed, Reader(size, channels), flip
        self._buffer, self.samples = buffer, samples
        self._reading: Iterator[tar.Sample] | None = None
        self._next, self._process = 0, 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, from the first."""
        with _open(self.urls[0]) as file:
            sample = next(tar.samples(file, self.urls[0]), None)
        if sample is None:
            raise ValueError(f"{self.urls[0]} is empty; leave it out.")
        with naming(sample):
            return tuple(self.reader.x(packed(sample)).shape)

    def take(self, place: int, count: int) -> Batch:
        """The samples at places place, ..., place + count - 1. Going on is cheap; going back starts the epoch again."""
        if self._reading is None or place < self._next or self._process != os.getpid():
            self._reading, self._next, self._process = self._from(place), place, os.getpid()
        xs, conds = [], []
        while self._next < place + count:
            sample = next(self._reading)
            if self._next >= place:
                with naming(sample):
                    data = packed(sample)
                    xs.append((str(sample), {"x": self.reader.x(data)}))
                    conds.append((str(sample), self.reader.cond(data)))
            self._next += 1
        return Batch(to_unit(join(xs)["x"]), join(conds) or None)

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def _from(self, place: int) -> Generator[tar.Sample, None, None]:
        """Samples from `place` on, endlessly."""
        epoch, skip = divmod(place, self.samples) if self.samples else (0, place)
        while True:
            count = 0
            for sample in self._epoch(epoch):
                if count >= skip:
                    yield sample
                count += 1
            if count == 0 or count != (self.samples or count):
                said = f"{count or 'none'} were read"
                raise ValueError(f"samples is {self.samples or 'not given'}, and {said} in an epoch; give what the shards hold.")
            self.samples = count
            epoch, skip = (epoch + 1, 0) if skip < count else (epoch + skip // count, skip % count)

    def _epoch(self, epoch: int) -> Iterator[tar.Sample]:
        turn = Noise(self.seed, torch.arange(len(self.urls)), epoch, "shards").uniform(()).argsort(stable=True)
        waiting: list[tar.Sample] = []
        draws = self._draws(epoch)
        for url in turn.tolist():
            with _open(self.urls[url]) as file:
                for sample in tar.samples(file, self.urls[url]):
                    if len(waiting) < self._buffer:
                        waiting.append(sample)
                        continue
                    k = int(next(draws) * self._buffer)
                    yield waiting[k]
                    waiting[k] = sample
        while waiting:
            k = int(next(draws) * len(waiting))
            waiting[k], waiting[-1] = waiting[-1], waiting[k]
            yield waiting.pop()

    def _draws(self, epoch: int) -> Iterator[float]:
        block = 1024
        first = 0
        while True:
            yield from Noise(self.seed, torch.arange(first, first + block), epoch, "buffer").uniform(()).tolist()
            first += block


@contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    if not url.startswith(PIPE):
        if "://" in url:
            raise ValueError(f"url is {url!r}; give a path, or a command that fetches it, such as pipe:curl -sfL URL.")
        try:
            file = Path(url).open("rb")  # noqa: SIM115
        except OSError as error:
            raise ValueError(f"{url} cannot be opened ({type(error).__name__}).") from None
        with file:
            yield file
        return
    # the user's own command, nothing added
    process = subprocess.Popen(url.removeprefix(PIPE), shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    owner, output = os.getpid(), process.stdout
    assert output is not None
    try:
        yield output
        if code := process.wait():
            raise ValueError(f"{url} ended with status {code} after a whole shard; run it by hand to see why.")
    except ValueError as error:
        if process.returncode is None and not output.read(1) and (code := process.wait()):
            raise ValueError(f"{url} ended with status {code}; {error}") from None
        raise
    finally:
        output.close()
        if os.getpid() == owner:  # and not a fork that drops its copy
            process.kill()
            process.wait()
