"""A recipe trained through SIGKILLs by the clock: how long it takes with them, and what it is worth in the end.

    python bench/killed.py mnist --folder runs/killed-mnist -- --data.folder ../shared/data --processes 2 --samples 2000

What follows -- is handed to `langevin train`. At --kills updates that --seed draws, between a tenth and nine tenths of the run,
all its processes are killed, as Linux names them, and the same command goes on. Minutes are of the clock, from the first start to
the last update: starting anew and doing again what no checkpoint held are in them, the evaluation that follows is not. They say
something of the recipe where nothing else runs. FOLDER/kills.jsonl holds what happened when; where that was stopped the same
command goes on, and --report writes the row alone.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rows import parsed, replace

from langevin.recipes.opening import read_recipe

RESULTS = Path(__file__).parent / "results"
SEEN = 2.0
"""Seconds between two looks at the log."""


def step_of(run: Path) -> int:
    """The last update in the log of a run; 0 before the first."""
    path = run / "log.jsonl"
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def chosen(kills: int, updates: int, seed: int) -> list[int]:
    """Updates after which to kill, in rising order."""
    draw = random.Random(seed)
    return sorted(draw.randint(updates // 10, updates * 9 // 10) for _ in range(kills))


def family(pid: int) -> list[int]:
    """A process and all that came of it; a launcher's are not of its group."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone in the meantime
            continue
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def train(command: Sequence[str], run: Path, kills: int, seed: int, told: Path, before: Sequence[Mapping[str, Any]] = ()) -> None:
    """Run a training to its end through `kills`; each event is a line of `told`, after those of `before`, whose time counts.

    Raises:
        SystemExit: if it ends by itself before its time.
    """
    began = time.monotonic() - (before[-1]["seconds"] if before else 0.0)
    done = sum(e["event"] == "killed" for e in before)

    def tell(event: str) -> None:
        with told.open("a") as lines:
            lines.write(json.dumps({"event": event, "step": step_of(run), "seconds": round(time.monotonic() - began, 1)}) + "\n")

    waiting: list[int] | None = None
    while True:
        tell("started")
        child = subprocess.Popen(command)
        trained = False
        while child.poll() is None:
            time.sleep(SEEN)
            if waiting is None and (run / "recipe.json").exists():
                waiting = chosen(kills, read_recipe(run).train.steps, seed)[done:]
            if waiting and step_of(run) >= waiting[0]:
                del waiting[0]
                for pid in family(child.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                child.wait()
                tell("killed")
                break
            if not trained and not waiting and waiting is not None and step_of(run) == read_recipe(run).train.steps:
                trained = True
                tell("trained")
        else:
            if child.returncode or waiting:
                raise SystemExit(f"it ended by itself at update {step_of(run)}, with status {child.returncode}.")
            tell("ended")
            return


def row(run: Path, told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a finished run has to say for itself."""
    recipe, found = read_recipe(run), json.loads((run / "metrics.json").read_text())
    events = list(told)
    last = next(e for e in reversed(events) if e["event"] == "trained")
    return {
        "recipe": recipe.name,
        "updates": recipe.train.steps,
        "kills": sum(e["event"] == "killed" for e in events),
        "minutes": f"{last['seconds'] / 60:.1f}",
        "samples": found["protocol"]["samples"],
        "intended_label": f"{found['metrics']['w=1']['intended_label']:.4g}",
        "of_real": f"{found['metrics']['classifier_accuracy_real']:.4g}",
        "fd_ratio": f"{found['metrics']['w=1']['fd_ratio']:.4g}",
        "evaluations": found["protocol"]["nfe"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--folder", type=Path, required=True, help="where the run goes, FOLDER/run, and what happened to it")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "killed.csv")
    parser.add_argument("--report", action="store_true", help="trains nothing")
    words = [*sys.argv[1:], "--"]
    cut = words.index("--")
    own, more = words[:cut], words[cut + 1 : -1]
    asked = parsed(parser, own)
    run, told = asked.folder / "run", asked.folder / "kills.jsonl"
    events = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    if not asked.report and not (events and events[-1]["event"] == "ended"):
        asked.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "langevin", "train", asked.recipe, "--out", str(run), "--resume", *more]
        train(command, run, asked.kills, asked.seed, told, events)
    found = row(run, map(json.loads, told.read_text().splitlines()))
    replace(asked.out, list(found), [found], ("recipe",))
    print(found)


if __name__ == "__main__":
    main()
