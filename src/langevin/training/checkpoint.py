"""Checkpoints: a folder of safetensors files and a manifest with their hashes. Never a pickle.

A checkpoint is written beside its place, flushed to disk, and renamed: it is there whole or not at all. It is read only
if every hash agrees; the newest one that does is used, and what was passed over is said.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by part and name, and the numbers beside them."""

    path: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write `folder/step-XXXXXXXX`, then remove all but the newest `keep`.

    Raises:
        OSError: if the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"{final.name}{_PARTIAL}"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        hashes = {}
        for part, values in tensors.items():
            data = save({name: value.detach().cpu().contiguous() for name, value in values.items()})
            hashes[f"{part}.safetensors"] = hashlib.sha256(data).hexdigest()
            _write(partial / f"{part}.safetensors", data)
        manifest = {"format": FORMAT, "step": step, "hashes": hashes, "state": dict(state)}
        _write(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush(partial)
        replaced = folder / f"{final.name}.replaced"
        if final.exists():  # the same step again: step aside rather than be gone for a moment
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        partial.rename(final)
        _flush(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _complete(folder: Path) -> list[Path]:
    """Checkpoints by age; only names this module writes, so that nothing foreign is ever read or removed."""
    return sorted(p for p in folder.glob("step-????????") if p.is_dir() and p.name[5:].isdigit())


def read(path: Path) -> Checkpoint:
    """One checkpoint, every byte checked against its manifest before it is used.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        step, hashes, state = int(manifest["step"]), manifest["hashes"], manifest["state"]
        if manifest["format"] != FORMAT:
            raise ValueError(f"{path} has checkpoint format {manifest['format']}; this version reads {FORMAT}.")
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'manifest.json'} is missing or damaged ({type(error).__name__}).") from None
    tensors = {}
    for name, expected in hashes.items():
        if Path(name).name != name:
            raise ValueError(f"{path} names the file {name!r}; files stand beside the manifest.")
        try:
            data = (path / name).read_bytes()  # read once: what is checked is what is loaded
        except OSError as error:
            raise ValueError(f"{path / name} cannot be read ({type(error).__name__}).") from None
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{path / name} does not match its hash; it was cut short or changed.")
        tensors[name.removesuffix(".safetensors")] = load(data)
    return Checkpoint(path, step, tensors, state)


def load_latest(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint in `folder` that is whole, or None if there is none; damaged ones are named on stderr."""
    for path in reversed(_complete(Path(folder))):
        try:
            return read(path)
        except ValueError as error:
            print(f"passed over a checkpoint: {error}", file=sys.stderr)
    return None
