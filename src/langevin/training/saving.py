"""The keeper of a run's checkpoints: what is saved, in the background if wished, what is kept, and what is removed."""

import json
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.files import flush, telling
from langevin.manifest import MANIFEST, Manifest, named_manifest, read_manifest, step_name, step_of, steps, verify
from langevin.training.checkpoint import Checkpoint, Parts, describe_all, load_latest, read, write_into

MARKER = "unfinished"
_PARTIAL, _REPLACED = ".partial", ".replaced"
_LEFTOVER = re.compile(r"step-\d{8,18}\.(partial|replaced)")
_OURS = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.]*(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(MANIFEST)}|{MARKER}")


class Checkpoints:
    """The checkpoints of one run, in one folder. Whoever writes holds the run's `Lock`; readers need none.

    A checkpoint is written beside its place, flushed to the disk, read back from there and compared with the hashes of what
    was written, and renamed: it is there whole or not at all. Only then are older ones removed, and only folders that are
    shown by their manifest to be checkpoints and hold nothing else.

    Args:
        folder: made at the first save.
        keep: how many whole ones are kept, at least 2; damaged ones do not count.
        keep_every: those of every so many steps are never removed.
        shard_bytes: a part with more values than this is split over several files, between tensors.
    """

    def __init__(self, folder: str | Path, keep: int = 2, keep_every: int | None = None, shard_bytes: int = 4 * 2**30) -> None:
        if keep < 2:
            raise ValueError(f"keep is {keep}; keep at least 2 checkpoints, so that one may be damaged.")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every is {keep_every}; give a number of steps above 0, or None.")
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes is {shard_bytes}; give a number of bytes above 0.")
        self.folder, self.keep, self.keep_every, self.shard_bytes = Path(folder), keep, keep_every, shard_bytes
        self._sound: dict[Path, tuple[Any, ...]] = {}  # what was read back whole, and how its files looked then
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._written: Path | None = None
        self._clean = False

    # Reading

    def list(self) -> Sequence[Path]:
        """Folders of checkpoints, oldest first; whether they are whole is not asked."""
        return steps(self.folder)

    def read(self, path: str | Path) -> Checkpoint:
        """One checkpoint, as `langevin.training.checkpoint.read`."""
        return read(path)

    def latest(self, fallback: bool = True) -> Checkpoint | None:
        """The newest whole checkpoint, as `load_latest`; a save under way is waited for."""
        self.wait()
        return load_latest(self.folder, fallback=fallback)

    # Saving

    def save(self, step: int, tensors: Parts, state: Mapping[str, Any], wait: bool = True) -> Path | None:
        """Write a checkpoint.

        Args:
            step: its number.
            tensors: by part and name; strided, on any device.
            state: what JSON can say.
            wait: False copies the tensors to the host, into buffers that are used again, and writes in the background.
                The bytes are the same. Saves never overlap: a second one waits for the first.

        Returns:
            Its folder, or None if it is being written in the background.

        Raises:
            DiskFull: if there is no space; what was there before is untouched.
            OSError: if the folder cannot be written, or does not give back what was written.
            ValueError: if something cannot be saved.
            All of these also for an earlier save in the background that failed; this one is then not begun.
        """
        self.wait()
        describe_all(tensors)
        try:
            said = json.loads(json.dumps(dict(state), allow_nan=False))  # as it is now, however it changes meanwhile
        except (TypeError, ValueError) as error:
            raise ValueError(f"the state of step {step} is not what JSON can say: {error}.") from None
        if not self._clean:
            self.clean()
        if wait:
            return self._write(step, tensors, said)
        copies = self._copied(tensors)
        # not a daemon: the interpreter ends only when the checkpoint is written
        self._thread = threading.Thread(target=self._work, args=(step, copies, said), name=f"checkpoint {step}")
        self._thread.start()
        return None

    def check(self) -> Path | None:
        """The last checkpoint written, without waiting for one under way. Raises what a save in the background raised."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._written

    def wait(self) -> Path | None:
        """Wait for the save under way, if there is one, then as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self.check()

    def close(self) -> None:
        """Wait, raise as `check` does, and let go of the buffers."""
        try:
            self.wait()
        finally:
            self._buffers.clear()

    def _copied(self, tensors: Parts) -> dict[str, dict[str, Tensor]]:
        made: dict[str, dict[str, Tensor]] = {}
        buffers, self._buffers = self._buffers, {}
        devices = set()
        for part, values in tensors.items():
            made[part] = {}
            for name, value in values.items():
                buffer = buffers.get((part, name))
                if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                    buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                buffer.copy_(value.detach(), non_blocking=value.is_cuda)
                made[part][name] = self._buffers[part, name] = buffer
                if value.is_cuda:
                    devices.add(value.device)
        for device in devices:
            torch.cuda.synchronize(device)
        return made

    def _work(self, step: int, tensors: Parts, state: Mapping[str, Any]) -> None:
        try:
            self._write(step, tensors, state)
        except Exception as error:
            # said at once as well: the process may end before anybody asks
            print(f"the checkpoint of step {step} was not written: {error}", file=sys.stderr)
            self._failure = error

    def _write(self, step: int, tensors: Parts, state: Mapping[str, Any]) -> Path:
        final = self.folder / step_name(step)
        partial = final.with_name(final.name + _PARTIAL)
        with telling(partial):
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                flush(self.folder.parent)
            if os.path.lexists(partial) and not _remove(partial):
                raise FileExistsError(f"{partial} is in the way and holds files that are not ours; move it away.")
            partial.mkdir()
            try:
                (partial / MARKER).touch()  # before anything else: it says that the folder may be removed
                flush(partial)
                manifest = write_into(partial, step, tensors, state, self.shard_bytes)
                try:
                    verify(partial, manifest, cold=True)
                except ValueError as error:
                    raise OSError(f"the disk does not give back what was written to it: {error}") from None
                (partial / MARKER).unlink()
                flush(partial)
                self._place(partial, final, manifest)
            except Exception:
                _remove(partial)
                raise
            self._written = final
            self._retire()
        return final

    def _place(self, partial: Path, final: Path, manifest: Manifest) -> None:
        aside = final.with_name(final.name + _REPLACED)
        if os.path.lexists(final):
            there = _ours(final)
            if there is not None and there.digest == manifest.digest and self._whole(final, there):
                _remove(partial)  # the same step of the same run: it is the same checkpoint
                return
            if there is None or (os.path.lexists(aside) and not _remove(aside)):
                aside = _free(final)  # perhaps somebody's work, perhaps a damaged manifest: set aside, never removed
                print(f"{final} is not a checkpoint that can be read; it was set aside as {aside.name}.", file=sys.stderr)
            final.rename(aside)
        try:
            partial.rename(final)
        except OSError:
            if os.path.lexists(aside) and not os.path.lexists(final):
                aside.rename(final)
            raise
        flush(self.folder)
        self._sound[final] = _look(final)
        if aside.name.endswith(_REPLACED) and os.path.lexists(aside):
            _remove(aside)

    # Keeping and removing

    def clean(self) -> Sequence[Path]:
        """Remove what an interrupted save left behind, and nothing else; returns the folders that are gone."""
        self._clean = True
        gone = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if not _LEFTOVER.fullmatch(path.name):
                continue
            place = path.with_suffix("")
            if path.suffix == _REPLACED and not os.path.lexists(place) and _ours(path, named=False):
                path.rename(place)  # died between the two renames of a replacement
            elif _remove(path):
                gone.append(path)
        return gone

    def _retire(self) -> None:
        """Remove what is older than the newest `keep` whole ones."""
        whole = 0
        for path in reversed(self.list()):
            manifest = _ours(path)
            if whole < self.keep:
                whole += manifest is not None and self._whole(path, manifest)
            elif manifest is not None and not (self.keep_every and step_of(path) % self.keep_every == 0):
                partial = path.with_name(path.name + _PARTIAL)
                try:
                    if not os.path.lexists(partial) and set(os.listdir(path)) <= {*manifest.files, MANIFEST}:
                        path.rename(partial)  # at once: half of a checkpoint must not look like one
                        _remove(partial)
                        self._sound.pop(path, None)
                except OSError as error:
                    print(f"{path} could not be removed ({type(error).__name__}).", file=sys.stderr)

    def _whole(self, path: Path, manifest: Manifest) -> bool:
        """Whether every file has its hash; read again only if it looks different from when it was last found whole."""
        look = _look(path)
        if self._sound.get(path) == look:
            return True
        try:
            verify(path, manifest)
        except ValueError:
            return False
        self._sound[path] = look
        return True


def _look(path: Path) -> tuple[Any, ...]:
    return tuple(sorted((e.name, (s := e.stat()).st_ino, s.st_size, s.st_mtime_ns) for e in os.scandir(path)))


def _ours(path: Path, named: bool = True) -> Manifest | None:
    """The manifest of a folder that is shown by it to be a checkpoint of ours."""
    try:
        return None if path.is_symlink() else (named_manifest if named else read_manifest)(path)
    except ValueError:
        return None


def _remove(path: Path) -> bool:
    """Remove an unfinished or retired checkpoint; False if it is not shown to be one, or holds anything else.

    The marker or the manifest goes last: a removal that is interrupted can be taken up again.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            return False
        there = os.listdir(path)
        known = not there or MARKER in there or _ours(path, named=False) is not None
        if not known or not all(_OURS.fullmatch(name) and not (path / name).is_dir() for name in there):
            return False
        for name in sorted(there, key=lambda n: (n == MARKER, n == MANIFEST)):
            (path / name).unlink()
        path.rmdir()
    except OSError:
        return False
    return True


def _free(path: Path) -> Path:
    """A name beside `path` that nobody has."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.aside-{number}")):
        number += 1
    return free


class Patience:
    """What a run does when the disk is full, or fails otherwise: goes on in memory, tries again at the next save, and in the end
    gives up.

    Args:
        limit: at so many saves in a row that failed, the last error is raised.
    """

    def __init__(self, limit: int = 3) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}; give 1 to stop at the first save that fails, or more.")
        self.limit, self.failures = limit, 0
        self._begun = False

    def save(
        self,
        checkpoints: Checkpoints,
        step: int,
        tensors: Parts,
        state: Mapping[str, Any],
        wait: bool = True,
        last: bool = False,
    ) -> Path | None:
        """As `Checkpoints.save`, but says an OSError on stderr and returns None, until patience ends; for the `last` there is
        none."""
        if last:
            with suppress(OSError):  # of an earlier save, which this one makes up for
                checkpoints.wait()
            return checkpoints.save(step, tensors, state)
        self.wait(checkpoints)
        try:
            made = checkpoints.save(step, tensors, state, wait)
        except OSError as error:
            self.bear(error)
            return None
        if made is None:
            self._begun = True
        else:
            self.failures = 0
        return made

    def wait(self, checkpoints: Checkpoints) -> None:
        """As `Checkpoints.wait`, bearing an OSError."""
        try:
            checkpoints.wait()
            self.failures = 0 if self._begun else self.failures
        except OSError as error:
            self.bear(error)
        self._begun = False

    def bear(self, error: OSError) -> None:
        """Count a save that failed, and say so; raise at the last of several in a row."""
        self.failures += 1
        if self.failures >= self.limit:
            raise error
        self.say(error)

    def say(self, error: OSError) -> None:
        """Say what failed beside a checkpoint, which itself will count if it fails as well."""
        print(f"{str(error).removesuffix('.')}. Training goes on, and tries again at the next save.", file=sys.stderr)
