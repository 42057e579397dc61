"""Tar shards read from front to back: from pipes, or larger than any disk."""

import copy
import math
import os
import subprocess
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.data import tar
from langevin.data.arrays import Arrays
from langevin.data.decode import Unreadable, mirror, to_unit
from langevin.data.members import Reader, facts, join, packed
from langevin.data.scan import check_broken

PIPE = "pipe:"
SETTLED = 1000
"""Samples after which a share of broken ones tells something."""


class Row(NamedTuple):
    """A sample, decoded."""

    name: str
    x: Tensor
    cond: dict[str, Tensor]
    caption: str | None


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
        broken: "fail" ends the reading at a sample that cannot be read, naming it; "skip" says so, and the next whole sample to
            leave the buffer stands in its place too, so that what is at a place stays a function of it alone.
        max_skipped: largest share of broken samples that "skip" bears, among those that a process decodes, the first 1,000 as
            one. (Shards hold fewer than that if `samples` says so.)
        labels: False leaves labels unread.
        encode: from a list of captions to conditions by name, (B, ...) each, for `cond`; captions are unread by default.

    Raises:
        ValueError: while reading, for a command that fails, a shard that is damaged or has members it must not have, samples
            that cannot be read, as `broken` says, and if there are other than `samples` samples.
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
        broken: str = "fail",
        max_skipped: float = 0.01,
        labels: bool = True,
        encode: Callable[[list[str]], dict[str, Tensor]] | None = None,
    ) -> None:
        check_broken(broken)
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        for field, value in (("urls", len(self.urls)), ("buffer", buffer), ("samples", 1 if samples is None else samples)):
            if value < 1:
                raise ValueError(f"{field} is {value}; a stream needs at least 1.")
        self.seed, self.reader, self.flip, self.encode = seed, Reader(size, channels, labels), flip, encode
        self._buffer, self.samples, self._skips, self._most = buffer, samples, broken == "skip", max_skipped
        self._reset()

    def _reset(self) -> None:
        self._reading: Iterator[tar.Sample] | None = None
        self._next, self._process = 0, 0
        self._ahead: deque[tar.Sample | Row] = deque()
        self._broken: set[str] = set()
        self._decoded = 0

    def again(self, **changes: Any) -> "Stream":
        """The same stream, read for itself; changes are of attributes, such as encode."""
        other = copy.copy(self)
        other._reset()
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, from the first (that is whole, with broken="skip")."""
        why = f"{self.urls[0]} is empty; leave it out."
        with _open(self.urls[0]) as file:
            for sample in tar.samples(file, self.urls[0]):
                try:
                    return tuple(self.reader.x(packed(sample)).shape)
                except Unreadable as error:
                    why = f"{sample} cannot be read: {error}."
                    if not self._skips:
                        break
        raise ValueError(why)

    def take(self, place: int, count: int) -> Batch:
        """The samples at places place, ..., place + count - 1. Going on is cheap; going back starts the epoch again."""
        if self._reading is None or place < self._next or self._process != os.getpid():
            self._reading, self._next, self._process = self._from(place), place, os.getpid()
            self._ahead.clear()
        rows = []
        while self._next < place + count:
            sample = self._ahead.popleft() if self._ahead else next(self._reading)
            if self._next >= place:
                rows.append(self._whole(sample))
            self._next += 1
        cond = join([(name, given) for name, _, given, _ in rows])
        if self.encode is not None:
            cond |= self.encode([text or "" for *_, text in rows])
        return Batch(to_unit(join([(name, {"x": x}) for name, x, *_ in rows])["x"]), cond or None)

    def first(self, count: int | None = None) -> Arrays:
        """The first samples of the stream, in memory, or those of one epoch where they are fewer.

        Args:
            count: how many; by default as many of 10,000 as take half a gigabyte, and 100 at least.
        """
        count = min(10_000, max(100, 2**27 // math.prod(self.shape))) if count is None else count
        own, parts, read = self.again(), [], 0
        while read < min(count, own.samples or count):  # how many there are is known once an epoch was read to its end
            parts.append(own.take(read, min(100, count - read)))
            read += 100
        most = min(count, own.samples or count)
        cond = {name: torch.cat([part.cond[name] for part in parts])[:most] for name in parts[0].cond or {}}
        return Arrays(torch.cat([leaves(part.x)[""] for part in parts])[:most], cond or None)

    def texts(self, count: int) -> list[str]:
        """Captions of the first `count` samples, or of one epoch; nothing is decoded.

        Raises:
            ValueError: if one of them has none.
        """
        found = []
        own = self.again()
        for sample in own._from(0):
            if len(found) == min(count, own.samples or count):
                break
            try:
                caption = facts(packed(sample))[1]
            except Unreadable as error:
                if not self._skips:
                    raise ValueError(f"{sample} cannot be read: {error}.") from None
                continue
            if caption is None:
                raise ValueError(f"{sample} has no caption; give all samples one, or leave text out.")
            found.append(caption)
        return found

    def _whole(self, sample: "tar.Sample | Row") -> "Row":
        """The sample at the place that is read, or the next whole one, which is kept for its own place too."""
        assert self._reading is not None
        row, ahead = self._row(sample), 0
        while row is None:
            if self.samples is not None and ahead >= self.samples:
                raise ValueError(f"none of the {self.samples} samples can be read; mend the shards.")
            if ahead == len(self._ahead):
                self._ahead.append(next(self._reading))
            row = self._row(self._ahead[ahead])
            if row is not None:
                self._ahead[ahead] = row
            ahead += 1
        return row

    def _row(self, sample: "tar.Sample | Row") -> "Row | None":
        """A sample decoded; None for one that cannot be read and is passed over."""
        if isinstance(sample, Row):
            return sample
        self._decoded += 1
        data = packed(sample)
        try:
            caption = None
            if self.encode is not None and (caption := facts(data)[1]) is None:
                raise Unreadable("it has no caption")
            return Row(str(sample), self.reader.x(data), self.reader.cond(data), caption)
        except Unreadable as error:
            if not self._skips:
                raise ValueError(f"{sample} cannot be read: {error}.") from None
            self._skip(str(sample), error)
            return None

    def _skip(self, name: str, why: Unreadable) -> None:
        if name in self._broken:
            return
        self._broken.add(name)
        among = max(self._decoded, min(SETTLED, self.samples or SETTLED))
        if len(self._broken) > self._most * among:
            listing = "".join(f"\n  {one}" for one in sorted(self._broken))
            raise ValueError(
                f"{len(self._broken)} samples cannot be read, more than max_skipped = {self._most:g} of {among} lets go; mend "
                f"them, or raise it. The last is {name}: {why}. All are:{listing}"
            )
        warnings.warn(f"{name} cannot be read ({why}); the next whole sample stands in its place", stacklevel=5)

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
