"""The header of a safetensors file: what is in it, told without torch and without reading the values.

Eight bytes of length, a JSON object {name: {dtype, shape, data_offsets}}, then the values. The rules are the format's
(https://github.com/huggingface/safetensors#format); what a reader may be lax about is refused here: a name that stands
twice, bytes that belong to no tensor or to two, a shape that does not fit its bytes.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from langevin.files import open_plain, parse_json

LIMIT = 100_000_000
# bytes of one value; tensors stand in this order in a file, so that each begins at a multiple of its own size
WIDTHS = {
    "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2,
    "F8_E5M2FNUZ": 1, "F8_E4M3FNUZ": 1, "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(WIDTHS)}
_MAX = 2**63 - 1


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, dtype as the format calls it, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return self.count * WIDTHS[self.dtype]


def entry(name: object, dtype: object, shape: object) -> Entry:
    """An entry from values that come from a file.

    Raises:
        ValueError: saying what is wrong, to be set behind the name of the file.
    """
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ValueError(f"gives tensor {str(name)[:80]!r} the dtype {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(type(n) is int and 0 <= n <= _MAX for n in shape):
        raise ValueError(f"gives tensor {name[:80]!r} the shape {str(shape)[:40]}")
    made = Entry(name, dtype, tuple(shape))
    if math.prod(max(n, 1) for n in shape) * WIDTHS[dtype] > _MAX:
        raise ValueError(f"gives tensor {name[:80]!r} a shape beyond 2^63 bytes")
    return made


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in the order in which we write them, which is the safetensors library's."""
    return sorted(entries, key=lambda e: (_ORDER[e.dtype], e.name))


@dataclass(frozen=True)
class Header:
    """Tensors in the order of their values, metadata, and all bytes before the values."""

    entries: list[Entry]
    metadata: dict[str, str]
    raw: bytes


def encode(entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> bytes:
    """Everything of a file that comes before the values, which are those of `entries` in this order without a gap."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for e in entries:
        fields[e.name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [begin, begin + e.size]}
        begin += e.size
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LIMIT:
        name, value = max((metadata or {"": ""}).items(), key=lambda item: len(item[1]))
        why = f", most of them metadata {name!r}" if 2 * len(value) > len(text) else ""
        raise ValueError(
            f"a header of {len(fields)} entries would take {len(text)} bytes{why}, above the {LIMIT} it may have, and no library "
            "would read the file; say less in it."
        )
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path) -> Header:
    """The header of a safetensors file.

    Raises:
        ValueError: if the file is not one, or its header does not describe its bytes, each exactly once.
    """
    with open_plain(path) as file:
        return header_of(file, path)


def header_of(file: IO[bytes], path: Path) -> Header:
    """As `read_header`, of a file that is open at its beginning; it is left at the first value."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 1 < length <= min(LIMIT, size - 8):
        raise ValueError(f"{path} is no safetensors file: its header would have {length} of {size} bytes.")
    raw = file.read(length)
    if raw[:1] != b"{":
        raise ValueError(f"{path} is no safetensors file: its header does not begin with '{{'.")
    fields = parse_json(raw, path)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{path} is damaged: its metadata is not text by name.")
    placed: list[tuple[int, int, Entry]] = []
    for name, values in fields.items():
        if not isinstance(values, dict) or set(values) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{path} is damaged: tensor {name[:80]!r} is not told by dtype, shape and data_offsets.")
        try:
            made = entry(name, values["dtype"], values["shape"])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: it {error}.") from None
        offsets = values["data_offsets"]
        if not isinstance(offsets, list) or [type(o) for o in offsets] != [int, int] or offsets[1] - offsets[0] != made.size:
            raise ValueError(f"{path} is damaged: the offsets of tensor {name[:80]!r} do not fit its shape.")
        placed.append((offsets[0], offsets[1], made))
    reached = 0
    placed.sort(key=lambda p: p[:2])
    for begin, end, made in placed:
        if begin != reached:
            raise ValueError(f"{path} is damaged: tensor {made.name[:80]!r} begins at byte {begin}, the last ended at {reached}.")
        reached = end
    if reached != size - 8 - length:
        raise ValueError(f"{path} holds {size - 8 - length} bytes of values where its header says {reached}.")
    return Header([made for _, _, made in placed], metadata, start + raw)
