"""Tensors in safetensors files, written and read value by value: no second copy in memory, and the hash on the way."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from langevin.files import flush, open_plain, staged, telling
from langevin.header import Entry, encode, header_of, ordered

DTYPES = {
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64, "F32": torch.float32,
    "U32": torch.uint32, "I32": torch.int32, "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16,
    "I16": torch.int16, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def describe(name: str, value: Tensor) -> Entry:
    """What the header says of a tensor.

    Raises:
        ValueError: if it is of a kind that a safetensors file cannot hold.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; save tensors, and numbers in the state.")
    if value.dtype not in _NAMES or value.layout != torch.strided or value.is_meta:
        kind = f"{value.dtype} {str(value.layout).removeprefix('torch.')} tensor on {value.device}"
        raise ValueError(f"{name} is a {kind}, which no safetensors file holds; convert it first.")
    return Entry(name, _NAMES[value.dtype], tuple(value.shape))


def _bytes(value: Tensor) -> memoryview:
    """The values of a dense tensor on the host, as bytes in memory."""
    return memoryview(value.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(_bytes(value))
    return total.hexdigest()


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Write a safetensors file and have it on the disk; (bytes, SHA-256). One tensor at a time is copied to the host.

    Raises:
        DiskFull: if there is no space.
        ValueError: if a tensor is of a kind that such a file cannot hold.
    """
    entries = ordered(describe(name, value) for name, value in tensors.items())
    head = encode(entries, metadata)
    total, size = hashlib.sha256(head), len(head)
    with telling(path), path.open("wb") as file:
        file.write(head)
        for e in entries:
            raw = _bytes(tensors[e.name].detach().resolve_conj().resolve_neg().cpu().contiguous())
            total.update(raw)
            file.write(raw)
            size += len(raw)
    with telling(path):
        flush(path)
    return size, total.hexdigest()


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file whole or not at all. Raises as `write_file` does."""
    with staged(path) as beside:
        write_file(beside, tensors, metadata)
    return Path(path)


def load(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Its structure is checked; whether its values are those once written, it cannot say.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = Path(path)
    with open_plain(path) as file:
        return read_values(file, header_of(file, path).entries, path)


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises as `load` does."""
    with open_plain(Path(path)) as file:
        return header_of(file, Path(path)).metadata


def read_values(file: IO[bytes], entries: Iterable[Entry], path: Path, total: Any = None) -> dict[str, Tensor]:
    """The values that follow in an open file, read straight into their tensors, and into the hash `total` if there is one.

    The file must have been found to hold as many bytes as the entries say: memory is taken for them.
    """
    made = {}
    for e in entries:
        value = torch.empty(e.shape, dtype=DTYPES[e.dtype])
        raw = _bytes(value)
        if file.readinto(raw) != len(raw):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{path} was cut short while it was read.")
        if total is not None:
            total.update(raw)
        made[e.name] = value
    return made
