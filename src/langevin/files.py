"""Files that are there whole or not at all. Imports no torch."""

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
PROBE = 4096
"""Bytes that are written where it is asked whether anything can be: a block of most file systems."""


class DiskFull(OSError):
    """There is no space left to write a file; nothing that was there before is harmed."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOSPC, f"no space is left to write {path}; free some, what was there before is untouched.")

    def __str__(self) -> str:
        return self.strerror or ""


class Unwritable(OSError):
    """A place where nothing can be written, by its permissions, a read-only file system, or what stands there already."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, f"{path} cannot be written ({error.strerror}); make it writable, or name another place.")

    def __str__(self) -> str:
        return self.strerror or ""


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turns the system's word for a full disk, or a quota, into `DiskFull` naming `path`, and that for what may not be written
    into `Unwritable`."""
    try:
        yield
    except (DiskFull, Unwritable):
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(path) from None
        if error.errno in _REFUSED:
            raise Unwritable(path, error) from None
        raise


def writable(path: str | Path, field: str) -> None:
    """Refuse a file, or a folder, that could not be written to, before there is anything to lose. Leaves nothing behind.

    Raises:
        ValueError: where a file stands in the place of a folder, naming the field that asked for it.
        DiskFull: if there is no space at all.
        Unwritable: if the system does not let it be written.
    """
    path = Path(path)
    there = _stands(path if os.path.isdir(path) else path.parent, path, field)
    with telling(path), tempfile.TemporaryFile(dir=there) as probe:
        probe.write(bytes(PROBE))


def outside(path: str | Path, folder: str | Path, field: str) -> None:
    """Refuse to write into a folder that is read, all that lies below it: what is written there would be read the next time.

    Args:
        field: which asked for `path`.

    Raises:
        ValueError: naming both.
    """
    where, read = Path(path).resolve(), Path(folder).resolve()
    if read.is_dir() and where.is_relative_to(read):
        raise ValueError(f"{field} is {path}, within {folder}, all of which is read as data; name a place outside of it.")


def _stands(folder: Path, path: Path, field: str) -> Path:
    """What is there of a folder and those that it stands in, the innermost; a ValueError where that is none."""
    there = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
    if os.path.lexists(there) and not os.path.isdir(there):
        raise ValueError(f"{field} is {path}, and {there} is no directory; give one that is, or that is not there yet.")
    return there


@contextmanager
def best_effort(path: Path) -> Iterator[None]:
    """For files that only spare work or show something: where one cannot be written this is said, and all else goes on."""
    try:
        yield
    except (DiskFull, Unwritable) as error:
        print(f"{str(error).removesuffix('.')}; all else goes on.", file=sys.stderr)
    except OSError as error:
        print(f"{path} cannot be written ({error}); all else goes on.", file=sys.stderr)


def lock(handle: int, wait: bool) -> bool:
    """Hold the system's lock on an open file, which goes with its holder; False where the file system has no locks.

    Args:
        wait: for another holder; otherwise it is an error.

    Raises:
        BlockingIOError: if another process holds it, and without `wait`.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except ImportError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return True


def flush(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk itself.

    Raises:
        OSError: if the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, field: str) -> None:
    """A folder, and those that it stands in, where they are not there yet.

    Raises:
        ValueError: where a file stands in the way, naming the field that asked for it.
        OSError: if the disk refuses.
    """
    _stands(path, path, field)
    with telling(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write a file under; it takes the place of `path` in one step if the block ends well.

    A folder that is not there is made: what took long to compute is not lost for want of one. The name keeps the suffix, which
    some writers go by. After an error it is gone, and `path` is as it was.

    Raises:
        DiskFull: if there is no space.
        OSError: if the folder cannot be written.
    """
    path = Path(path)
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with telling(path):
            yield beside
            flush(beside)
            os.replace(beside, path)
            flush(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def refuse_used(path: Path) -> None:
    """Refuse a folder to fill where there is something already, but an empty folder. Raises ValueError."""
    if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir())):
        raise ValueError(f"{path} exists, and holds something already; name a folder that does not.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name `path` in one step if the block ends well, and is gone otherwise.

    Raises:
        ValueError: if there is something at `path` already, but an empty folder.
        DiskFull: if there is no space.
    """
    refuse_used(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with telling(path):
            beside.mkdir(parents=True)
            yield beside
            os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def write(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all; `path` is returned. Raises as `staged` does."""
    with staged(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file to read: never a link, a folder, or a pipe that would keep the reader waiting.

    Raises:
        ValueError: naming the file and why it cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:  # a ValueError for names with a zero byte
        why = "a link, and files stand here themselves" if getattr(error, "errno", 0) == errno.ELOOP else type(error).__name__
        raise ValueError(f"{path} cannot be read ({why}).") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no plain file.")
    return open(handle, "rb")


def cached(path: Path) -> Path:
    """What a link in the cache of huggingface_hub leads to, the one place where links are followed: a blob of its own repository.

    Raises:
        ValueError: for any other link.
    """
    here = Path(os.path.abspath(path))
    for depth, commit in enumerate(here.parents):
        repository = commit.parent.parent
        if commit.parent.name == "snapshots" and COMMIT.fullmatch(commit.name) and repository.name.startswith("models--"):
            inside = list(here.parents)[: depth + 1]
            target = Path(os.path.normpath(here.parent / os.readlink(here)))
            if target.parent == repository / "blobs" and _BLOB.fullmatch(target.name) and not any(p.is_symlink() for p in inside):
                return target
    raise ValueError(f"{path} is a link, which may lead anywhere; only in the cache of huggingface_hub are links followed.")


def parse_json(raw: bytes, path: Path, infinite: bool = False) -> Any:
    """JSON of one meaning: UTF-8, no name twice in an object, no NaN or Infinity.

    Args:
        infinite: bear Infinity and -Infinity, which published schedulers' files have.

    Raises:
        ValueError: naming the file and what is wrong.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return made

    def no_constant(text: str) -> Any:
        if infinite and text != "NaN":
            return float(text)
        raise ValueError(f"{text} is no JSON")

    try:
        return json.loads(raw.decode(), object_pairs_hook=once, parse_constant=no_constant)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is damaged: it is no UTF-8.") from None
    except json.JSONDecodeError:
        raise ValueError(f"{path} is damaged: it is no JSON.") from None
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {str(error)[:80]}.") from None


def read_json(path: Path, limit: int) -> Any:
    """The JSON of a plain file of at most `limit` bytes. Raises as `open_plain` and `parse_json` do."""
    return parse_json(read_plain(path, limit), path)


def drawn_as(record: Path, asked: Mapping[str, Any]) -> None:
    """What the pictures of a folder are drawn by, which are drawn one by one and left where they are there: kept in `record` at
    first. Those of two ways to draw would otherwise stand beside each other, under the captions of one.

    Args:
        asked: plain values, as JSON has them.

    Raises:
        ValueError: if they were drawn otherwise, or there are some and nothing says how.
    """
    folder = record.parent
    if not record.exists():
        if next(folder.glob("*.png"), None) is not None:
            raise ValueError(f"{folder} holds pictures, and no {record.name} that says how they were drawn; remove them, or "
                             "choose another directory.")  # fmt: skip
        write(record, json.dumps(dict(asked), indent=1))
        return
    was = read_json(record, 2**16)
    for name, value in asked.items():
        if not isinstance(was, dict) or was.get(name) != value:
            before = was.get(name) if isinstance(was, dict) else was
            raise ValueError(f"{name} is {value!r} but the pictures in {folder} were drawn with {before!r}; remove them, or "
                             "choose another directory.")  # fmt: skip


def read_plain(path: Path, limit: int) -> bytes:
    """A plain file of at most `limit` bytes.

    Raises:
        ValueError: naming the file and why it cannot be read.
    """
    with open_plain(path) as file:
        return read_up_to(limit, file, path)


def read_up_to(limit: int, file: IO[bytes], path: Path) -> bytes:
    """All of a plain file that is open at its beginning. Raises as `read_plain` does."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise ValueError(f"{path} has {size} bytes, above the {limit} it may have.")
    try:
        return file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}).") from None


def lines_up_to(step: int, lines: Sequence[str]) -> list[str]:
    """The lines of a log, each a JSON object with a "step", before the first that is of a later step or is damaged: what a run
    that goes on from `step` has not to write again."""
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return kept
