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
            data = save({name: value.detach().cpu().contiguous().clone() for name, value in values.items()})
            hashes[f"{part}.safetensors"] = hashlib.sha256(data).hexdigest()
            _write(partial / f"{part}.safetensors", data)
        manifest = {"format": FORMAT, "step": step, "hashes": hashes, "state": dict(state)}
        manifest["digest"] = _digest(manifest)
        _write(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush(partial)
        if final.exists():
            if _whole(final):  # the same step of the same run: it is the same checkpoint
                shutil.rmtree(partial)
                _prune(folder, keep)
                return final
            shutil.rmtree(final)
        partial.rename(final)
        _flush(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _prune(folder, keep)
    return final


def _prune(folder: Path, keep: int) -> None:
    """Remove what is older than the newest `keep` checkpoints that read back whole; damaged ones do not count."""
    whole = 0
    for path in reversed(_complete(folder)):
        if whole == keep:
            shutil.rmtree(path)
        elif _whole(path):
            whole += 1


def _whole(path: Path) -> bool:
    try:
        read(path)
    except ValueError:
        return False
    return True


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything the manifest says, itself left out."""
    said = {k: v for k, v in manifest.items() if k != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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
        step, hashes, state = int(manifest["step"]), dict(manifest["hashes"]), dict(manifest["state"])
        version, digest = manifest["format"], manifest["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / 'manifest.json'} is missing or damaged ({type(error).__name__}).") from None
    if version != FORMAT:
        raise ValueError(f"{path / 'manifest.json'} has checkpoint format {version}; this version reads {FORMAT}.")
    if digest != _digest(manifest) or path.name != f"step-{step:08d}":
        raise ValueError(f"{path / 'manifest.json'} does not match its own digest or its folder; it was changed.")
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
    """The newest checkpoint in `folder` that is whole, or None if there are none; damaged ones are named on stderr.

    Raises:
        ValueError: if there are checkpoints and none is whole: starting over is the user's decision.
    """
    found = _complete(Path(folder))
    for path in reversed(found):
        try:
            return read(path)
        except ValueError as error:
            print(f"passed over a checkpoint: {error}", file=sys.stderr)
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {folder} is whole; move them away to start over.")
    return None
