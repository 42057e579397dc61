"""Where published files lie: ids of repositories, the cache of huggingface_hub, and links. Imports no torch.

A folder that someone else made is read with its links refused: a link may lead to any file of this machine. The one exception is
the layout in which huggingface_hub keeps what it fetched, `models--OWNER--NAME/snapshots/COMMIT/...`, where each file is a link
to `models--OWNER--NAME/blobs/HASH`.
"""

import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import IO, Any

from langevin.files import COMMIT, cached, open_plain, parse_json, read_up_to, write

CONFIG_LIMIT = 2**20
"""Bytes that a configuration may have."""
JSON_LIMIT = 64 * 2**20
"""Bytes that a list of tensors by file, or a vocabulary, may have."""
ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What is fetched from a repository: values, configurations, vocabularies, and the models of tokenizers (not of networks)."""
ADAPTER = "adapter_config.json"
"""peft's settings of the adapters in the same folder."""
_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})"
    r"(?:/(?P<file>(?:[\w][\w.+ -]{0,95}/){0,6}[\w][\w.+ -]{0,200}\.safetensors))?(?:@(?P<revision>[\w./-]{1,200}))?"
)
_DEEPEST = 8


@dataclass(frozen=True)
class Resolved:
    """A folder or file on this machine.

    Args:
        path: without links down to what was named.
        repository: the id that it was fetched by, if it was, with the file where one was named. commit: the 40 digits of what
            was fetched.
    """

    path: Path
    repository: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit}" if self.repository else str(self.path)


def resolve(name: str | Path, revision: str | None = None, variant: str | None = None, fetch: bool = True) -> Resolved:
    """A path that exists, or else the repository "owner/name" or "owner/name@revision" of the Hugging Face hub, fetched; of
    "owner/name/file.safetensors" that file alone, and peft's adapter_config.json beside it.

    Fetched are safetensors, configurations, and the files of tokenizers; nothing that can hold code. Without a network, or with
    HF_HUB_OFFLINE=1, what is in the cache is taken. A revision may be a branch, a tag or a commit; which commit it was is told in
    the result: `str(result)` names it for ever.

    Args:
        variant: such as "fp16"; of parts that have it, nothing else is fetched.
        fetch: if not, what is in the cache is taken without asking.

    Raises:
        ValueError: if it is neither, or the repository cannot be had.
        ImportError: naming the extra that is to be installed.
    """
    path = Path(name).expanduser()
    if _exists(path):
        if revision is not None:
            raise ValueError(f"{path} exists here and has no revision {revision!r}; leave the revision out.")
        real = os.path.realpath  # what the user names may be reached by links; what lies in it may not be one
        return Resolved(Path(real(path)) if path.is_dir() else Path(real(path.parent)) / path.name)
    found = _ID.fullmatch(str(name))
    if found is None or ".." in str(name) or "--" in found["id"]:
        said = str(name)[:200]
        raise ValueError(f"{said} does not exist, and is no id of a repository such as owner/name or owner/name@revision.")
    if found["file"] is not None and _exists(Path(path.parts[0])):  # a slip in a path, and nothing to ask others for
        raise ValueError(f"{str(name)[:200]} does not exist.")
    if revision is not None and found["revision"] is not None:
        raise ValueError(f"{name} names a revision, and revision is {revision!r} too; give one.")
    return _fetched(found["id"], revision or found["revision"], variant, fetch, found["file"])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # names that are too long or hold a zero byte
        return False


def wanted(files: Iterable[str], variant: str | None) -> list[str]:
    """Those of a repository's files that are fetched: no code, no twins of the same weights.

    Where there is a model_index.json, weights are those of its folders, once each: of the variant where there is one.
    """
    kept = [f for f in files if any(fnmatch(f, pattern) for pattern in ALLOWED) and not f.startswith("safety_checker/")]
    if "model_index.json" not in kept:
        return kept
    folders: dict[str, list[str]] = {}
    made = []
    for file in kept:
        if file.endswith(".safetensors") or ".safetensors.index." in file:
            folders.setdefault(file.rpartition("/")[0], []).append(file)
        else:
            made.append(file)
    folders.pop("", None)  # the whole in one file, which the folders hold as well
    for inside in folders.values():
        of_variant = [f for f in inside if variant is not None and _variant(f) == variant]
        made += of_variant or [f for f in inside if _variant(f) is None] or inside
    return made


def _variant(file: str) -> str | None:
    """The variant in the name of a file of weights."""
    found = re.search(r"\.(?:index\.)?(?P<variant>\w+?)(?:-\d{5}-of-\d{5})?\.(?:safetensors|json)$", file)
    return None if found is None or found["variant"] in ("safetensors", "index") else found["variant"]


def _fetched(repository: str, revision: str | None, variant: str | None, fetch: bool, file: str | None = None) -> Resolved:
    at = f" at {revision}" if revision else ""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise ImportError(
            f"{repository} does not exist here, and fetching it needs huggingface_hub; pip install 'langevin[hub]'."
        ) from None
    try:
        try:
            info = HfApi().model_info(repository, revision=revision) if fetch else None
        except (OSError, ValueError):  # no network, or told to do without
            info = None
        if info is None:  # what is in the cache
            path = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        else:
            there = [s.rfilename for s in info.siblings or []]
            files = wanted(there, variant) if file is None else [f for f in (file, _beside(file)) if f in there]
            path = Path(snapshot_download(repository, revision=info.sha, allow_patterns=[escape(f) for f in files]))
    except Exception as error:  # of many kinds, of the libraries beneath as well
        why = type(error).__name__
        raise ValueError(
            f"{repository}{at} does not exist here and could not be fetched ({why}); check the id, the revision, the network and "
            "whether the repository wants you to log in."
        ) from None
    commit = path.name if COMMIT.fullmatch(path.name) else None
    if file is None:
        return Resolved(path, repository, commit)
    if not is_file(path / file):
        raise ValueError(f"{repository}{at} has no file {file}, or it is not in the cache; see its page for the files there are.")
    return Resolved(path / file, f"{repository}/{file}", commit)


def _beside(file: str) -> str:
    """Where peft says how strong the adapters of a file are."""
    return f"{file.rpartition('/')[0]}/{ADAPTER}".removeprefix("/")


def open_published(path: Path) -> IO[bytes]:
    """A plain file of a published folder, open to read. Its folder is no link, nor is it, but for the cache of huggingface_hub.

    Raises:
        ValueError: naming the file and why it cannot be read.
    """
    try:
        if path.parent.is_symlink():
            raise ValueError(f"{path.parent} is a link, and may lead anywhere; give the folder that it leads to.")
        linked = path.is_symlink()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}).") from None
    return open_plain(cached(path) if linked else path)


def is_file(path: Path) -> bool:
    """Whether there is something by this name that `open_published` could be asked for."""
    try:
        return path.is_file() or path.is_symlink()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, limit: int) -> bytes:
    """A published file of at most `limit` bytes. Raises as `open_published` does."""
    with open_published(path) as file:
        return read_up_to(limit, file, path)


def copy(path: Path, target: Path) -> None:
    """A published file as it is: values of any size, and texts up to `JSON_LIMIT`. Raises as `open_published` does."""
    if path.suffix != ".safetensors":
        write(target, read_bytes(path, JSON_LIMIT))
        return
    with open_published(path) as file, target.open("wb") as made:
        shutil.copyfileobj(file, made, 2**20)


def read_object(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object of a published file, such as config.json: no name twice, no NaN, at most 8 deep, no number beyond 1e38 but
    infinity, which schedulers' files have.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    made = parse_json(read_bytes(path, limit), path, infinite=True)
    if not isinstance(made, dict):
        raise ValueError(f"{path} holds a {type(made).__name__} where an object should be.")
    _sane(made, path, 0)
    return made


def _sane(value: Any, path: Path, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"{path} is nested more than {_DEEPEST} deep.")
    if isinstance(value, Mapping):
        for inner in value.values():
            _sane(inner, path, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _sane(inner, path, depth + 1)
    elif isinstance(value, (int, float)) and 10**38 < abs(value) < math.inf:
        raise ValueError(f"{path} holds a number beyond 1e38.")
