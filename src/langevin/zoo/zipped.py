"""The zip archives that torch.save writes: entries that are stored as they are, each in bytes of its own. Imports no torch.

Nothing is unpacked to the disk and nothing is decompressed. What a reader may be lax about is refused: two entries of one name or
in the same bytes, names that lead elsewhere, entries beyond the archive, bytes before or behind it, compression, encryption.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_MOST = 200_000
_DIRECTORY = 64 * 2**20  # bytes of the list of entries
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Slot:
    """One entry: its bytes are begin to begin + size of the archive."""

    name: str
    begin: int
    size: int
    crc: int


def slots(file: IO[bytes], size: int, path: Path) -> dict[str, Slot]:
    """The entries of an archive of `size` bytes, by name in the order of their bytes.

    Raises:
        ValueError: naming the archive and what is wrong with it.
    """
    begin, length, count = _directory(file, size, path)
    if count > _MOST or length > _DIRECTORY:
        raise ValueError(f"{path} lists {count} entries in {length} bytes, more than any file of weights has.")
    raw = _at(file, begin, length, path)
    found: dict[str, Slot] = {}
    heads: list[tuple[int, Slot]] = []
    for name, slot, head in _listed(raw, count, path):
        if name in found:
            raise ValueError(f"{path} is damaged: it holds {name[:80]!r} twice.")
        found[name] = slot
        heads.append((head, slot))
    heads.sort(key=lambda pair: pair[0])
    made: dict[str, Slot] = {}
    reached = 0
    for i, (head, slot) in enumerate(heads):
        local = _at(file, head, 30, path)
        signature, _, flags, method, _, _, _, _, _, name_length, extra = struct.unpack("<4s5H3I2H", local)
        if signature != b"PK\x03\x04" or flags & 1 or method or _at(file, head + 30, name_length, path) != slot.name.encode():
            raise ValueError(f"{path} is damaged: the list of its entries and the entry {slot.name[:80]!r} do not agree.")
        start = head + 30 + name_length + extra
        end = heads[i + 1][0] if i + 1 < len(heads) else begin
        if head < reached or (i == 0 and head) or start + slot.size > end:
            raise ValueError(f"{path} is damaged: the entry {slot.name[:80]!r} lies on bytes of another.")
        reached = start + slot.size
        made[slot.name] = Slot(slot.name, start, slot.size, slot.crc)
    return made


def _directory(file: IO[bytes], size: int, path: Path) -> tuple[int, int, int]:
    """(begin, bytes, entries) of the list at the end of the archive."""
    end = size - 22
    tail = _at(file, end, 22, path) if end >= 0 else b""
    if tail[:4] != b"PK\x05\x06" or tail[20:] != b"\0\0":
        raise ValueError(f"{path} is no whole archive: it does not end as one; it was cut short, or something stands behind it.")
    disk, other, here, count, length, begin = struct.unpack("<4H2I", tail[4:20])
    told = (count, length, begin)
    locator = _at(file, end - 20, 20, path) if end >= 20 else b""
    if locator[:4] == b"PK\x06\x07":
        _, place, disks = struct.unpack("<IQI", locator[4:])
        wide = _at(file, place, 56, path) if 0 <= place <= end - 76 else b""
        if wide[:4] != b"PK\x06\x06" or disks > 1 or place + 12 + struct.unpack("<Q", wide[4:12])[0] != end - 20:
            raise ValueError(f"{path} is damaged: the end of the archive is not where it says.")
        disk, other, here, count, length, begin = struct.unpack("<2I4Q", wide[16:56])
        end = place
        for narrow, value, full in zip(told, (count, length, begin), (_FULL16, _FULL32, _FULL32), strict=True):
            if narrow not in (full, value):
                raise ValueError(f"{path} is damaged: its end tells two stories.")
    if disk or other or here != count or begin + length != end:
        raise ValueError(f"{path} is damaged: its list of entries does not stand before its end.")
    return begin, length, count


def _listed(raw: bytes, count: int, path: Path) -> Iterator[tuple[str, Slot, int]]:
    """(name, entry without its place, where its own head is) of every row of the list."""
    at = 0
    for _ in range(count):
        fixed = raw[at : at + 46]
        if len(fixed) < 46 or fixed[:4] != b"PK\x01\x02":
            raise ValueError(f"{path} is damaged: its list of entries breaks off.")
        flags, method = struct.unpack("<2H", fixed[8:12])
        crc, packed, size = struct.unpack("<3I", fixed[16:28])
        names, extras, comment = struct.unpack("<3H", fixed[28:34])
        head = struct.unpack("<I", fixed[42:46])[0]
        try:
            name = raw[at + 46 : at + 46 + names].decode()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is damaged: the name of an entry is no UTF-8.") from None
        if not name or re.search(r"[\0\\:]|^/|(^|/)\.\.?(/|$)", name) or name.endswith("/"):
            raise ValueError(f"{path} holds an entry called {name[:80]!r}, which is no name for values.")
        size, packed, head = _wide(raw[at + 46 + names : at + 46 + names + extras], (size, packed, head), path)
        if flags & 1 or method or packed != size:
            raise ValueError(f"{path} holds {name[:80]!r} compressed or encrypted; torch.save stores values as they are.")
        yield name, Slot(name, 0, size, crc), head
        at += 46 + names + extras + comment
    if at != len(raw):
        raise ValueError(f"{path} is damaged: its list of entries goes on behind its end.")


def _wide(extra: bytes, values: tuple[int, int, int], path: Path) -> tuple[int, int, int]:
    """The sizes and the place of an entry, which stand aside if they need more than 32 bits."""
    while len(extra) >= 4 and _FULL32 in values:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1 and length % 8 == 0 and len(extra) >= 4 + length >= 4 + 8 * values.count(_FULL32):
            further = iter(struct.unpack(f"<{length // 8}Q", extra[4 : 4 + length]))
            made = [next(further) if value == _FULL32 else value for value in values]
            return made[0], made[1], made[2]
        extra = extra[4 + length :]
    if _FULL32 in values:
        raise ValueError(f"{path} is damaged: an entry does not tell its size.")
    return values


def _at(file: IO[bytes], begin: int, length: int, path: Path) -> bytes:
    try:
        file.seek(begin)
        raw = file.read(length)
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read at byte {begin} ({type(error).__name__}).") from None
    if len(raw) != length:
        raise ValueError(f"{path} is damaged: it ends within what it says it holds.")
    return raw
