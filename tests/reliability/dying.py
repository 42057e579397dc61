"""A save whose process dies at its n-th call to the system: python dying.py TEMPLATE FOLDER SHARD_BYTES BACKGROUND.

For n = 0, 1, ... a fork of this process, which has torch loaded already, saves step 30 into FOLDER/n, a copy of TEMPLATE,
and is killed as it is about to open, write, flush, rename, make or remove for the n-th time, until one survives.
"""

import builtins
import io
import os
import shutil
import signal
import sys
from pathlib import Path

from langevin.training import Checkpoints
from tests.reliability.keeping import SMALL

CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open")


def dying(limit: int) -> None:
    """From now on the process kills itself at call `limit` (from 0) of those that change the disk."""
    left = [limit]

    def counted(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))

    class Raw(io.FileIO):
        def write(self, data):
            # half of it is on the disk when the process dies
            if left[0] == 0:
                super().write(memoryview(data).cast("B")[: len(data) // 2])
            return counted(super().write)(data)

    def opened(file, mode="r", *args, **kwargs):
        if "w" in mode and "b" in mode:
            return Raw(file, "w")
        return real_open(file, mode, *args, **kwargs)

    real_open = io.open
    io.open = builtins.open = opened


def main(template: str, folder: str, shard_bytes: int, background: bool) -> None:
    for limit in range(1000):
        own = Path(folder) / str(limit)
        shutil.copytree(template, own)
        child = os.fork()
        if child == 0:
            dying(limit)
            kept = Checkpoints(own, shard_bytes=shard_bytes)
            kept.save(30, SMALL, {"note": 30}, wait=not background)
            kept.close()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return
        if status != signal.SIGKILL:
            raise SystemExit(f"at call {limit} the save ended with {status}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
