"""What a path is, told from names and headers alone: nothing is loaded, and torch is not imported."""

import json
import math
import struct
from pathlib import Path
from typing import Any

HEADER_LIMIT = 100_000_000
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def describe(path: str | Path) -> str:
    """A few lines about a run directory, a checkpoint, or a safetensors file.

    Raises:
        ValueError: if it is none of these, or damaged.
    """
    path = Path(path)
    try:
        return _describe(path)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}).") from None


def _describe(path: Path) -> str:
    if (path / "recipe.json").is_file():
        return _run(path)
    if (path / "manifest.json").is_file():
        return _checkpoint(path)
    if path.suffix == ".safetensors" and path.is_file():
        return "\n".join(_tensors(path, names=True))
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    raise ValueError(f"{path} is no run directory, checkpoint or safetensors file; give one of these.")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is missing or damaged ({type(error).__name__}).") from None


def _run(path: Path) -> str:
    recipe = _json(path / "recipe.json")
    steps = sorted(p for p in (path / "checkpoints").glob("step-????????") if (p / "manifest.json").is_file())
    lines = [
        f"run of recipe {recipe.get('name')}: {recipe.get('about')}",
        f"process {json.dumps(recipe.get('process'))}",
        f"network {json.dumps(recipe.get('network'))}",
        f"samples with {json.dumps(recipe.get('sample'))}",
    ]
    if not steps:
        return "\n".join([*lines, "no checkpoint yet"])
    total = recipe.get("train", {}).get("steps")
    return "\n".join([*lines, f"newest checkpoint of {len(steps)}, out of {total} steps:", _checkpoint(steps[-1])])


def _checkpoint(path: Path) -> str:
    manifest = _json(path / "manifest.json")
    lines = [f"{path.name}: step {manifest.get('step')}, {manifest.get('state', {}).get('samples')} samples seen"]
    for name in sorted(manifest.get("hashes", {})):
        if Path(name).name != name:
            raise ValueError(f"{path} names the file {name!r}; files stand beside the manifest.")
        if (path / name).is_file():
            lines += [f"  {line}" for line in _tensors(path / name, names=False)]
        else:
            lines.append(f"  {name}: missing")
    return "\n".join(lines)


def _tensors(path: Path, names: bool) -> list[str]:
    header = read_header(path)
    entries = {n: e for n, e in header.items() if n != "__metadata__"}
    count = sum(math.prod(e["shape"]) for e in entries.values())
    size = sum(math.prod(e["shape"]) * _BYTES.get(e["dtype"], 0) for e in entries.values())
    lines = [f"{path.name}: {len(entries)} tensors, {count:,} values, {size / 2**20:.1f} MiB in memory"]
    if names:
        lines += [f"  {n}  {e['dtype']} {tuple(e['shape'])}" for n, e in sorted(entries.items())]
    return lines


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file.

    Raises:
        ValueError: if the file is not one, or its header does not describe its bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(HEADER_LIMIT, size - 8):
            raise ValueError(f"{path} is no safetensors file: its header would be {length} of {size} bytes.")
        try:
            header = json.loads(file.read(length))
            ends = [e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError, AttributeError):
            raise ValueError(f"{path} has a damaged safetensors header.") from None
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(f"{path} holds {size - 8 - length} bytes of tensors where its header says {max(ends, default=0)}.")
    return header
