"""A run's directory: one writer at a time, a log that agrees with the checkpoints."""

import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from torch import Tensor, nn

from langevin import files
from langevin.data.fingerprint import agree
from langevin.objectives.base import Objective
from langevin.training import checkpoint
from langevin.training.checkpoint import Checkpoint, Parts
from langevin.training.ema import Average
from langevin.training.lock import Lock
from langevin.training.saving import Checkpoints, Patience
from langevin.training.snapshots import Snapshots

FREE = {"accumulate", "workers", "wait", "keep", "save_every", "preview_every", "log_every", "valid_every", "hours", "compile",
        "nonfinite", "largest_gradient", "activation_checkpointing", "deterministic"}  # fmt: skip
"""Settings that a resumed run may change: they do not change what is computed, or only from here on."""
SAID = re.compile(r"(?:, |(?<=[( ]))(\w+)=([^,()\[\]{}\s]+)")
"""A setting in an objective's words, where it is one plain value."""
DATA = {"data", "contents"}
"""Facts that a run resumed on other data may change."""


def free(schedule: str, resolutions: Sequence[Any], paced: bool = False) -> set[str]:
    """`FREE`, and the length of a run whose rate, resolution and objective do not depend on it."""
    bound = paced or resolutions or schedule not in ("constant", "inverse_sqrt")
    return FREE if bound else FREE | {"steps", "samples"}


def longer(setting: str) -> str:
    """What else there is to do about a run that is to be of another length, the end of a sentence; "" for other settings."""
    if setting.rpartition(".")[2] not in ("steps", "samples"):
        return ""
    return (
        " and begin there with its weights (--from RUN, or the same denoiser): what was done depends on the length, but under "
        "the schedules constant and inverse_sqrt, whose runs may be lengthened"
    )


def usual(module: nn.Module) -> dict[str, set[str]]:
    """What the settings of a module, and of those within it, are when nothing is said of them, as they would be said."""
    out: dict[str, set[str]] = {}
    for kind in {kind for part in module.modules() for kind in type(part).__mro__ if "__init__" in vars(kind)}:
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            value = parameter.default
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            out.setdefault(name, set()).add(f"{value:g}" if number else str(value))
    return out


def same_words(was: str, now: str, usual: Mapping[str, set[str]]) -> bool:
    """Whether two objectives are one by their words: a setting that only one of them says is at its usual value. So a run that
    was begun before there was a setting, or when it was still said, goes on."""
    if SAID.sub("", was).split() != SAID.sub("", now).split():
        return False
    before, after = (Counter(SAID.findall(words)) for words in (was, now))
    odd = [list((a - b).elements()) for a, b in ((before, after), (after, before))]
    names = [{name for name, _ in settings} for settings in odd]
    return not names[0] & names[1] and all(value in usual.get(name, ()) for settings in odd for name, value in settings)


class RunFolder:
    """The directory that a trainer writes to. Reading it needs no leave; with the first writing it is locked.

    Args:
        path: made if it is not there.
        resume: continue the run in it.
        config, what: settings and facts that a run to be resumed must share.
        objective: whose words are in `what`; it may say more or fewer settings than the run's, see `same_words`.
        keep: checkpoints to keep.
        other_data: the data may be other than it was.

    Raises:
        ValueError: if it holds a run and resume is False, or the run was begun otherwise.
    """

    def __init__(
        self,
        path: Path,
        resume: bool,
        config: dict[str, Any],
        what: dict[str, str],
        objective: Objective,
        keep: int = 2,
        other_data: bool = False,
    ) -> None:
        self.path = path
        self.checkpoints, self._patience = Checkpoints(path / "checkpoints", keep), Patience()
        self.snapshots = Snapshots(path / "averages")
        self._lock: Lock | None = None
        self._log: IO[bytes] | None = None
        self.found: Checkpoint | None = self.checkpoints.latest()
        if self.found is not None:
            if not resume:
                raise ValueError(f"{path} already holds a run at step {self.found.step}; resume it, or choose another directory.")
            was = {**self.found.state["config"], **self.found.state["what"]}
            may_change = free(config["schedule"], config["resolutions"], objective.paced) | (DATA if other_data else set())
            for k, now in {**config, **what}.items():
                if k == "contents" and (k in may_change or agree(was.get(k, now), now)):
                    continue
                if k == "contents":
                    raise ValueError(
                        f"the data is other than that of the run in {path}, though as much; put it back as it was, or say "
                        "other_data=True (--other-data) to go on with what is there now."
                    )
                before = was.get(k, now)
                if k in may_change or before == now:
                    continue
                if k == "objective" and same_words(before, now, usual(objective)):
                    continue
                raise ValueError(
                    f"{k} is {now} but the run in {path} was begun with {before}; resume with the same settings, or "
                    f"choose another directory{longer(k)}."
                )
            _tell_other_code(self.found)
        self._first_lines()

    def open(self) -> None:
        """Be its only writer.

        Raises:
            ValueError: if another trainer is at work in it.
        """
        if self._lock is not None:
            return
        self._lock = Lock(self.path)
        self.snapshots.set_aside(self.found.state["samples"] if self.found else 0)
        log = self.path / "log.jsonl"
        files.write(log, "".join(f"{line}\n" for line in self._first_lines()))
        self._log = log.open("ab", buffering=0)  # a line is in the file, or has failed, when `write` returns

    def _first_lines(self) -> list[str]:
        """The log up to the checkpoint. Later lines will be written again, so they go; a line cut short goes as well."""
        step, path = self.found.step if self.found else 0, self.path / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and '"step"' not in lines[0]:
            raise ValueError(f"{path} is no log of ours and would be overwritten; choose another directory.")
        return files.lines_up_to(step, lines)

    def write(self, line: dict[str, Any]) -> None:
        """A line of the log.

        Raises:
            DiskFull: if there is no space.
        """
        self.open()
        assert self._log is not None
        with files.telling(self.path / "log.jsonl"):
            left = f"{json.dumps(line)}\n".encode()
            while left:  # a disk that fills up takes a part
                left = left[self._log.write(left) :]

    def keep(self, average: Average, step: int, tensors: Mapping[str, Tensor]) -> None:
        """A snapshot of an average, whose tensors are given whole. An OSError is said; what ends a run is the checkpoint of the
        same step, if it fails too."""
        self.open()
        try:
            self.snapshots.save(average, step, tensors=tensors)
        except OSError as error:
            self._patience.say(error)

    def save(self, step: int, tensors: Parts, state: dict[str, Any], wait: bool, last: bool = False) -> None:
        """A checkpoint. A full disk, or any other OSError, is said and outlived: training goes on, and the next save tries again.

        Raises:
            OSError: at the last of several in a row, and if this is the `last` of the run.
        """
        self.open()
        self._patience.save(self.checkpoints, step, tensors, state, wait, last)

    def settle(self) -> None:
        """Until the checkpoint that is being written is there, or cannot be; an OSError is borne."""
        self._patience.wait(self.checkpoints)

    def close(self) -> None:
        """Wait for a checkpoint that is being written; let others in."""
        try:
            self.checkpoints.close()
        finally:
            if self._log is not None:
                self._log.close()
            if self._lock is not None:
                self._lock.release()
            self._log = self._lock = None


def _tell_other_code(found: Checkpoint) -> None:
    now, then = checkpoint.code_version(), dict(found.code)
    if then and then != now:
        written, going = (", ".join(f"{n} {v}" for n, v in code.items()) for code in (then, now))
        print(f"{found.path} was written by {written} and is continued by {going}; what follows may differ.", file=sys.stderr)
