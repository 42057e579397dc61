"""What the benches share: contenders that live in processes of their own and are asked for a step in turn."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Step = Callable[[], object]


def resident() -> int:
    """The highest resident set of this process so far, in bytes (rusage would report the parent's)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def timed(step: Step, device: str) -> tuple[float, float]:
    """(seconds, wall seconds) of a step: CPU time on the CPU, time between events on a GPU."""
    wall, spent = time.perf_counter(), time.process_time()
    if device == "cpu":
        step()
        return time.process_time() - spent, time.perf_counter() - wall
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3, time.perf_counter() - wall


def processor() -> str:
    """The name of this processor, with the family and model that tell makers' generations apart."""
    told = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in told if ":" in line}
    return f"{names.get('model name', 'unknown')} (family {names.get('cpu family')}, model {names.get('model')})"


def in_turn(ways: Mapping[str, Step], rounds: int) -> dict[str, tuple[float, ...]]:
    """CPU seconds of each way in every round, one after the other, when each has been done once."""
    for way in ways.values():
        way()
    return dict(
        zip(ways, zip(*([timed(way, "cpu")[0] for way in ways.values()] for _ in range(rounds)), strict=True), strict=True)
    )


class Contender:
    """The other end of a worker: the script `file --worker [who, ...]`, which writes a line of JSON when it is ready, and one
    for each line that it reads."""

    def __init__(self, file: str, who: str, *what: object) -> None:
        command = [sys.executable, file, "--worker", json.dumps([who, *what])]
        self.who, self.times = who, list[dict[str, float]]()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.told = self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # peers print words of their own
            if line.startswith("{"):
                return json.loads(line)
        return {"error": "ended without a word"}  # pyright: ignore[reportReturnType]

    def step(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        self.times.append(self._read())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.told |= self._read()
        self.process.wait()

    def middle(self, what: str) -> float:
        return statistics.median(t[what] for t in self.times)
