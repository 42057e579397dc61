"""What a long proof says while it goes on, past pytest's capture, so that its output tells how far it came, and counts."""

import time


class Soak:
    """Counts towards a total.

    Args:
        capsys: pytest's. gate: of RELIABILITY.md, such as "R1". total: of what is counted. what: is counted, in words.
        every: seconds between two lines.
    """

    def __init__(self, capsys, gate: str, total: int, what: str, every: float = 60.0) -> None:
        self.capsys, self.gate, self.total, self.what, self.every = capsys, gate, total, what, every
        self.count, self.began = 0, time.monotonic()
        self.said = self.began

    def say(self, text: str) -> None:
        with self.capsys.disabled():
            print(f"\n{self.gate} {text}", end="", flush=True)

    def done(self, count: int = 1) -> None:
        """So many more; said from time to time."""
        self.count += count
        if time.monotonic() - self.said >= self.every:
            self.said = time.monotonic()
            self.say(f"{self._reached} {self.what}, {self._minutes}")

    def over(self, more: str = "") -> None:
        """All was counted, and all of it was as it must be."""
        assert self.count == self.total, f"{self.count} of {self.total} {self.what}"
        self.say(f"{self._reached} {self.what}, {self._minutes}{': ' * bool(more)}{more}\n")

    @property
    def _reached(self) -> str:
        return f"{self.count:,} of {self.total:,}"

    @property
    def _minutes(self) -> str:
        return f"{(time.monotonic() - self.began) / 60:.1f} minutes"
