"""What a checkpoint's manifest says, and whether the files beside it agree. Imports no torch.

A manifest names every file, its bytes and SHA-256, and the name, dtype and shape of each tensor. Names of files follow from
part and number, and the head of a file follows from its tensors byte for byte: nothing that a file says of itself is
believed, and no name in a manifest leads anywhere.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from langevin.files import open_plain, parse_json, read_plain
from langevin.header import Entry, encode, entry, ordered

FORMAT = 2
MANIFEST = "manifest.json"
LIMIT = 8 * 2**20
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}")
_STEP = re.compile(r"step-(\d{8,18})")
_CHUNK = 2**20


@dataclass(frozen=True)
class Shard:
    """One file of a part. Format 1 told neither size nor tensors: they are None."""

    file: str
    sha256: str
    size: int | None = None
    entries: tuple[Entry, ...] | None = None

    @property
    def head(self) -> bytes:
        """What the file must begin with."""
        return encode(self.entries or ())


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is made of.

    Attributes:
        parts: by name ("model", "optimiser", ...), the files in order.
        code: versions of what wrote it: "langevin", "torch", and "git" where it ran from a checkout.
        digest: SHA-256 of all that the manifest says.
    """

    step: int
    parts: Mapping[str, tuple[Shard, ...]]
    state: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    digest: str = ""

    @property
    def files(self) -> list[str]:
        return [shard.file for shards in self.parts.values() for shard in shards]


def shard_name(part: str, number: int, count: int) -> str:
    """The file of shard `number` (from 1) of `count`."""
    return f"{part}.safetensors" if count == 1 else f"{part}-{number:05d}-of-{count:05d}.safetensors"


def step_name(step: int) -> str:
    """The folder of the checkpoint of a step."""
    return f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints are, by step; whether they are whole is not asked."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir() and p.name == step_name(step_of(p))]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a folder's name."""
    return int(path.name[5:])


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of a manifest.

    Raises:
        ValueError: if it is longer than a reader accepts.
    """
    parts = {
        part: [
            {"file": s.file, "bytes": s.size, "sha256": s.sha256,
             "tensors": {e.name: [e.dtype, list(e.shape)] for e in s.entries or ()}}
            for s in shards
        ]
        for part, shards in manifest.parts.items()
    }  # fmt: skip
    fields = {"format": FORMAT, "step": manifest.step, "code": dict(manifest.code), "parts": parts, "state": manifest.state}
    raw = json.dumps({**fields, "digest": _digest(fields)}, allow_nan=False).encode()
    if len(raw) > LIMIT:
        raise ValueError(f"the manifest of step {manifest.step} takes {len(raw)} bytes, above {LIMIT}; keep less in the state.")
    return raw


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, whatever the folder is called.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = folder / MANIFEST
    raw = read_plain(path, LIMIT)
    fields = parse_json(raw, path)
    if not isinstance(fields, dict) or type(fields.get("format")) is not int:
        raise ValueError(f"{path} is no manifest: it does not say its format.")
    version = fields["format"]
    if version not in _READERS:
        raise ValueError(f"{path} has checkpoint format {version}; this version reads 1 to {FORMAT}.")
    # the digest covers what is said, this also how: spaces, the spelling of numbers, bytes behind the end
    if json.dumps(fields, indent=1 if version == 1 else None).encode() != raw:
        raise ValueError(f"{path} is not written as it was; it was changed.")
    digest = fields.pop("digest", None)
    if digest != _digest(fields):
        raise ValueError(f"{path} does not match its own digest; it was changed.")
    try:
        return _READERS[version](fields, digest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no manifest of format {version}: {str(error)[:160]}.") from None


def _first(fields: dict[str, Any], digest: str) -> Manifest:
    parts = {}
    for name, sha256 in _typed(fields, "hashes", dict).items():
        part = name.removesuffix(".safetensors")
        if name != shard_name(part, 1, 1) or not PART.fullmatch(part):
            raise ValueError(f"it names the file {name[:80]!r}, and files stand beside the manifest")
        parts[part] = (Shard(name, sha256),)
    _only(fields, {"format", "step", "hashes", "state"})
    return Manifest(_step(fields), parts, _typed(fields, "state", dict), {}, 1, digest)


def _second(fields: dict[str, Any], digest: str) -> Manifest:
    _only(fields, {"format", "step", "code", "parts", "state"})
    parts = {}
    for part, told in _typed(fields, "parts", dict).items():
        if not PART.fullmatch(part) or not isinstance(told, list) or not told:
            raise ValueError(f"part {part[:80]!r} is not told as it should be")
        shards = []
        for number, one in enumerate(told, 1):
            _only(one, {"file", "bytes", "sha256", "tensors"})
            file = shard_name(part, number, len(told))
            if one["file"] != file:
                raise ValueError(f"it names the file {str(one['file'])[:80]!r} where {file} stands")
            entries = tuple(ordered(entry(n, *values) for n, values in _typed(one, "tensors", dict).items()))
            shard = Shard(one["file"], one["sha256"], one["bytes"], entries)
            if type(shard.size) is not int or shard.size != len(shard.head) + sum(e.size for e in entries):
                raise ValueError(f"{shard.file} would have {shard.size} bytes, which its tensors do not fill")
            shards.append(shard)
        parts[part] = tuple(shards)
    return Manifest(_step(fields), parts, _typed(fields, "state", dict), _typed(fields, "code", dict), 2, digest)


_READERS = {1: _first, 2: _second}


def _typed(fields: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(fields.get(name), kind):
        raise ValueError(f"{name} is no {kind.__name__}")
    return fields[name]


def _only(fields: Any, names: set[str]) -> None:
    if not isinstance(fields, dict) or set(fields) != names:
        raise ValueError(f"it should say {', '.join(sorted(names))} and nothing else")


def _step(fields: dict[str, Any]) -> int:
    if type(fields["step"]) is not int or not 0 <= fields["step"] < 10**18:
        raise ValueError(f"step is {str(fields['step'])[:40]}")
    return fields["step"]


def named_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint in its place: its folder is named after its step. Raises as `read_manifest` does."""
    manifest = read_manifest(folder)
    if folder.name != step_name(manifest.step):
        raise ValueError(f"{folder / MANIFEST} is of step {manifest.step}, which {folder.name} is not named after; it was moved.")
    return manifest


def open_shard(folder: Path, shard: Shard) -> IO[bytes]:
    """A file of a checkpoint, open at its beginning, as long as it should be.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = folder / shard.file
    file = open_plain(path)
    size = os.fstat(file.fileno()).st_size
    if shard.size is not None and size != shard.size:
        file.close()
        raise ValueError(f"{path} has {size} bytes where the manifest says {shard.size}; it was cut short or changed.")
    return file


def check_hash(path: Path, shard: Shard, digest: str) -> None:
    """Refuse a file whose bytes, hashed, are not those that were written."""
    if digest != shard.sha256:
        raise ValueError(f"{path} does not match its hash; it was changed, or is of another step.")


def verify(folder: Path, manifest: Manifest, shards: Iterable[Shard] | None = None, cold: bool = False) -> None:
    """Read every file of a checkpoint and compare its hash; nothing is kept in memory.

    Args:
        shards: these only.
        cold: ask the system to read from the disk rather than from what it remembers of writing.

    Raises:
        ValueError: naming the first file that is not what was written.
    """
    for shard in [s for part in manifest.parts.values() for s in part] if shards is None else shards:
        with open_shard(folder, shard) as file:
            if cold and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            check_hash(folder / shard.file, shard, hash_of(file))


def hash_of(file: IO[bytes]) -> str:
    """SHA-256 of what an open file still holds."""
    total = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        total.update(chunk)
    return total.hexdigest()
