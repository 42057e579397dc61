"""Everything that is wrong with a folder of pictures, found before training; and how it is judged, of any data."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from langevin.data.decode import Unreadable, measure, read_text
from langevin.data.progress import shown
from langevin.files import best_effort, lock, write

T = TypeVar("T")
R = TypeVar("R")

Size = tuple[int, int]
"""(height, width)."""


def check_broken(broken: str) -> None:
    """Raises ValueError for what is no way to treat broken samples."""
    if broken not in ("fail", "skip"):
        raise ValueError(f"broken is {broken!r}; choose 'fail' or 'skip'.")


def check_folder(folder: Path) -> None:
    """
    Raises:
        OSError: for a folder of pictures that is not there, or is a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; give a folder of pictures.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder of pictures.")


def judge(bad: Mapping[str, str], total: int, broken: str, max_skipped: float, what: str = "pictures") -> None:
    """Refuse broken samples, or warn of those that are left out; all are named.

    Args:
        bad: why a sample cannot be read, by its name.
        total: samples, the broken ones among them.
        broken: "fail" refuses any, "skip" more than `max_skipped` of all.
        what: they are, in words.

    Raises:
        ValueError: as `broken` says.
    """
    if not bad:
        return
    listing = "".join(f"\n  {name}: {why}" for name, why in bad.items())
    if len(bad) == 1:
        listing = " " + listing.strip()
    said = f"{len(bad)} of {total} {what} cannot be used"
    many, share = len(bad) > max_skipped * total, f"{math.ceil(100 * len(bad) / total) / 100:g}"
    if broken == "fail":
        further = (f" and, as they are more than {max_skipped:g} of all, max_skipped={share} (--data.max-skipped {share})"
                   if many else "")  # fmt: skip
        raise ValueError(f"{said}; mend them or pass broken='skip' (--data.broken skip){further}:{listing}")
    if many:
        raise ValueError(
            f"{said}, more than max_skipped = {max_skipped:g} lets go; mend them, or pass max_skipped={share} "
            f"(--data.max-skipped {share}):{listing}"
        )
    warnings.warn(f"{said} and are left out:{listing}", stacklevel=4)


@contextmanager
def alone(file: Path | None) -> Iterator[None]:
    """Around a scan that `file` remembers: of several processes one scans, and the others, which wait, find what it found. Where
    the file cannot be locked each scans by itself."""
    handle = None
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = file.with_suffix(".lock").open("w")
            lock(handle.fileno(), wait=True)
        except OSError:
            pass  # such as a folder that may only be read: what is there is still used
    try:
        yield
    finally:
        if handle is not None:
            handle.close()


def looked(look: Callable[[T], R], items: Sequence[T], progress: bool, text: str = "looking at pictures") -> list[R]:
    """`look` at every item, with threads, and with a bar on a terminal if `progress`."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on metadata that we do not use
        return list(shown(pool.map(look, items), len(items), text, progress))


def remember(file: Path, found: object) -> None:
    """Write what a scan found; a folder that may only be read costs the next scan its memory and nothing else."""
    with best_effort(file):
        write(file, json.dumps(found))


def stamp_of(path: Path) -> list[int] | None:
    """[bytes, time of change], which say whether a file is still the one that was read; None where it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def scan(folder: Path, paths: Sequence[Path], file: Path | None = None, progress: bool = True) -> dict[Path, Size | str]:
    """Decode every picture once, with threads: its size, or why it cannot be read.

    Args:
        folder: names in `file` are relative to it.
        paths: the pictures.
        file: JSON in which sizes are remembered; a picture whose bytes and time of change are as they were is not read
            again. A file that is damaged counts as none.
        progress: whether to show a bar, on a terminal.
    """
    with alone(file):
        known = _known(file)
        names = {path: str(path.relative_to(folder)) for path in paths}
        found: dict[Path, Size | str] = {}
        todo = []
        for path in paths:
            stamp = stamp_of(path)
            if stamp is not None and (line := known.get(names[path])) is not None and line[:2] == stamp:
                found[path] = (line[2], line[3])
            else:
                todo.append(path)
        found |= zip(todo, looked(_look, todo, progress), strict=True)
        whole = {n: s for p, n in names.items() if isinstance(s := found[p], tuple)}
        if file is not None and any(isinstance(found[path], tuple) for path in todo):
            remember(file, {n: [*stamp, *s] for n, s in whole.items() if (stamp := stamp_of(folder / n))})
    return {path: found[path] for path in paths}


def _look(path: Path) -> Size | str:
    if path.exists() and not path.is_file():
        return "no plain file"
    try:
        return measure(path)
    except Unreadable as error:
        return str(error)


def _known(file: Path | None) -> dict[str, list[int]]:
    try:
        said = json.loads(file.read_bytes()) if file else {}
        return {str(n): line for n, line in said.items() if len(line) == 4 and all(type(v) is int for v in line)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def captions(folder: Path, paths: Sequence[Path], where: str) -> tuple[dict[Path, str], dict[Path, str]]:
    """The caption of every picture.

    Args:
        where: "txt" for a file picture.txt beside picture.png, or a JSONL file, relative to `folder`, whose lines have
            "file" (relative to `folder` too) and "text".

    Returns:
        (captions, why there is none), each by path.

    Raises:
        ValueError: if the JSONL file cannot be read, has a line that is no such object, or names a picture twice.
    """
    lines = None if where == "txt" else _lines(folder / where)
    texts, missing = {}, {}
    for path in paths:
        try:
            texts[path] = read_text(_beside(path) if lines is None else _line(lines, str(path.relative_to(folder))))
        except Unreadable as error:
            missing[path] = str(error)
    return texts, missing


def _beside(path: Path) -> bytes:
    try:
        return path.with_suffix(".txt").read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"no caption: {path.stem}.txt is missing") from None
    except OSError as error:
        raise Unreadable(f"its caption cannot be read ({type(error).__name__})") from None


def _line(lines: Mapping[str, str], name: str) -> bytes:
    if name not in lines:
        raise Unreadable("no caption: the captions file has no line for it")
    return lines[name].encode("utf-8", "replace")


def _lines(file: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    said = json.loads(line)
                    name, text = said["file"], said["text"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    name = text = None
                if not isinstance(name, str) or not isinstance(text, str):
                    raise ValueError(f'{file} line {number} is not {{"file": ..., "text": ...}}; mend it.')
                if os.path.normpath(name) in texts:
                    raise ValueError(f"{file} line {number} names {name!r} again; keep one line per picture.")
                texts[os.path.normpath(name)] = text
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8; save it so.") from None
    except OSError as error:
        raise ValueError(
            f"captions is {file}, which cannot be read ({type(error).__name__}); give 'txt' or a JSONL file."
        ) from None
    return texts
