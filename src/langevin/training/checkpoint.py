"""Checkpoints: a folder of safetensors files and a manifest with their hashes. Never a pickle.

A checkpoint is read only if every hash agrees; each file is opened once, and what was hashed is what is loaded.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import langevin
from langevin.files import flush, telling
from langevin.header import header_of, ordered
from langevin.manifest import (
    MANIFEST,
    PART,
    Manifest,
    Shard,
    check_hash,
    encode_manifest,
    hash_of,
    named_manifest,
    open_shard,
    shard_name,
    steps,
)
from langevin.tensors import describe, read_values, write_file

Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by part and name, on the CPU, the numbers beside them, and the code that wrote them."""

    path: Path
    step: int
    tensors: Parts
    state: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def code_version() -> dict[str, str]:
    """Versions of langevin and torch, and of the checkout the package runs from, if it does."""
    code = {"langevin": langevin.__version__, "torch": torch.__version__}
    root = Path(__file__).resolve().parents[3]
    if (root / ".git").exists():  # the package's own checkout, not one that an environment happens to stand in
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            asked = subprocess.run(
                command, capture_output=True, text=True, timeout=5, check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
            )
            code["git"] = asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return code


def describe_all(tensors: Parts) -> None:
    """Refuse names of parts, and tensors, that cannot be saved.

    Raises:
        ValueError: naming the part or the tensor.
    """
    for part, values in tensors.items():
        if not PART.fullmatch(part):
            raise ValueError(f"part is {part!r}; name it with letters, digits, points and underscores.")
        for name, value in values.items():
            describe(name, value)


def write_into(folder: Path, step: int, tensors: Parts, state: Mapping[str, Any], shard_bytes: int) -> Manifest:
    """Write the files of a checkpoint and then its manifest into an empty folder, each flushed to the disk.

    Raises:
        DiskFull: if there is no space.
        ValueError: if something cannot be saved.
    """
    describe_all(tensors)
    parts = {}
    for part, values in tensors.items():
        split = _split(values, shard_bytes)
        shards = []
        for number, few in enumerate(split, 1):
            file = shard_name(part, number, len(split))
            size, sha256 = write_file(folder / file, few)
            entries = tuple(ordered(describe(name, value) for name, value in few.items()))
            shards.append(Shard(file, sha256, size, entries))
        parts[part] = tuple(shards)
    manifest = Manifest(step, parts, state, code_version())
    raw = encode_manifest(manifest)
    with telling(folder / MANIFEST):
        (folder / MANIFEST).write_bytes(raw)
        flush(folder / MANIFEST)
        flush(folder)
    return manifest


def _split(values: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """In order, as many tensors a file as stay within `limit` bytes, and at least one."""
    split: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in values.items():
        more = describe(name, value).size
        if split[-1] and size + more > limit:
            split.append({})
            size = 0
        split[-1][name] = value
        size += more
    return split


def read(path: str | Path, parts: Collection[str] | None = None) -> Checkpoint:
    """One checkpoint, every byte checked against its manifest before it is used.

    Args:
        path: a folder `step-XXXXXXXX`.
        parts: read these only, such as ("ema",); all by default.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = Path(path)
    manifest = named_manifest(path)
    if missing := set(parts or ()) - set(manifest.parts):
        raise ValueError(f"{path} has no part {sorted(missing)[0]!r}; it has {', '.join(manifest.parts)}.")
    tensors: dict[str, dict[str, Tensor]] = {}
    for part, shards in manifest.parts.items():
        if parts is None or part in parts:
            tensors[part] = {}
            for shard in shards:
                tensors[part] |= _read_shard(path, shard)
    return Checkpoint(path, manifest.step, tensors, manifest.state, manifest.code)


def _read_shard(folder: Path, shard: Shard) -> dict[str, Tensor]:
    path = folder / shard.file
    with open_shard(folder, shard) as file:
        if shard.entries is None:  # format 1 does not tell what the header must be: believe it once the hash agrees
            check_hash(path, shard, hash_of(file))
            file.seek(0)
            header = header_of(file, path)
            entries, head = header.entries, header.raw
        else:
            entries, head = list(shard.entries), shard.head
            if file.read(len(head)) != head:
                raise ValueError(f"{path} does not hold the tensors its manifest says; it was changed, or is of another step.")
        total = hashlib.sha256(head)
        values = read_values(file, entries, path, total)
        check_hash(path, shard, total.hexdigest())
    return values


def load_latest(folder: str | Path, parts: Collection[str] | None = None, fallback: bool = True) -> Checkpoint | None:
    """The newest checkpoint in `folder` that is whole, or None if there are none. Nothing is written or removed.

    Args:
        folder: where the checkpoints are.
        parts: read and check these only; all by default.
        fallback: pass over damaged checkpoints, naming each on stderr, and use the newest that is whole. False refuses as
            soon as the newest is damaged.

    Raises:
        ValueError: if there are checkpoints and none is whole (starting over is the user's decision), or the newest is not
            and fallback is False.
    """
    found = steps(Path(folder))
    for path in reversed(found):
        try:
            return read(path, parts)
        except ValueError as error:
            if not fallback:
                raise
            print(f"passed over a checkpoint: {error}", file=sys.stderr)
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {folder} is whole; move them away to start over.")
    return None
