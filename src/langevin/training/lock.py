"""One trainer to a run directory."""

import os
import socket
import sys
import weakref
from pathlib import Path
from types import TracebackType

from langevin.files import lock, telling

FILE = ".lock"


def refuse_taken(folder: str | Path) -> None:
    """Refuse a run directory that another trainer holds, before anything is made ready for a training in it. Nothing is held.

    Raises:
        ValueError: as `Lock`.
    """
    if (Path(folder) / FILE).exists():
        Lock(folder).release()


class Lock:
    """Holds a run directory for this process, until `release`, the end of a `with`, or the end of the process by any means.

    It is the system's lock on an open file (flock), not the presence of one: nothing is left behind by a crash. Readers
    need none. Where a file system has no locks this is said, and the run goes on without.

    Args:
        folder: the run directory; made if need be.

    Raises:
        ValueError: if another trainer holds it, naming its process and machine.
        OSError: if the directory cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        with telling(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            try:
                self._hold()
            except BaseException:
                self.release()
                raise
        if hasattr(os, "register_at_fork"):
            # a loader's worker must not hold the lock when the trainer is gone
            mine = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: (lock := mine()) and lock.release())

    def _hold(self) -> None:
        assert self._handle is not None
        try:
            if not lock(self._handle, wait=False):
                print(f"{self.path.parent} cannot be locked here; start one trainer on it at a time.", file=sys.stderr)
        except BlockingIOError:
            who = os.pread(self._handle, 200, 0).decode(errors="replace").strip()
            who = who if who.isprintable() and who else "another process"
            raise ValueError(f"{self.path.parent} is being trained by {who}; stop it, or choose another directory.") from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of it. The file stays: removing it could take it from under a trainer that has just opened it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.release()
