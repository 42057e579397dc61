"""Tar shards, read front to back: headers are checked, names are names, nothing is ever written to disk.

A sample is a run of members that share their name up to its first dot, as WebDataset writes them:
"000/17.png", "000/17.cls", "000/17.txt".
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 1 << 28
"""Bytes of one member."""
MAX_HEADER = 1 << 16
"""Bytes of an extended header: a name, and what else an archiver says of a member."""
MAX_NAME = 1024


@dataclass(slots=True)
class Member:
    """One file in a shard."""

    name: str
    offset: int
    """Of its first byte."""
    size: int
    data: bytes | None = None
    """What it holds, if it was read."""


@dataclass(slots=True)
class Sample:
    """Members of one key, by extension in small letters."""

    shard: str
    key: str
    members: dict[str, Member] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.key} in {self.shard}"


def samples(file: IO[bytes], shard: str, read: set[str] | None = None) -> Iterator[Sample]:
    """The samples of one shard.

    Args:
        file: an uncompressed tar; one that cannot seek is read.
        shard: its name, for errors.
        read: extensions whose bytes are wanted; None for all.

    Raises:
        ValueError: for names that leave the archive, links, devices, members that are too large, a key or extension that
            comes twice, damaged headers, and a shard that was cut short.
    """
    sample, seen = Sample(shard, ""), set[str]()
    for member in _members(file, shard, read):
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != sample.key:
            if sample.members:
                yield sample
            if key in seen:
                raise ValueError(f"{shard} has the sample {key!r} in two places; keep the files of a sample together.")
            seen.add(key)
            sample = Sample(shard, key)
        if extension.lower() in sample.members:
            raise ValueError(f"{shard} has {member.name!r} twice; keep one.")
        sample.members[extension.lower()] = member
    if sample.members:
        yield sample


def fetch(path: Path, member: Member) -> bytes:
    """The bytes of a member found earlier.

    Raises:
        ValueError: if the shard has shrunk since.
    """
    try:
        with path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read any more ({type(error).__name__}).") from None
    if len(data) != member.size:
        raise ValueError(f"{path} is shorter than when it was scanned; leave shards alone while they are read.")
    return data


def _members(file: IO[bytes], shard: str, read: set[str] | None) -> Iterator[Member]:
    place, said = 0, dict[str, str]()  # `said` by extended headers, of the member that follows
    while True:
        block = file.read(BLOCK)
        place += len(block)
        if len(block) < BLOCK:
            raise ValueError(f"{shard} ends at byte {place:,} without the end of an archive; it was cut short.")
        if block == bytes(BLOCK):
            _nothing_follows(file, shard)
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise ValueError(f"{shard} has no tar header at byte {place - BLOCK:,}; damaged, compressed, or no tar.") from None
        extended = info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE)
        size = info.size if extended else int(said.get("size", info.size))
        name = said.get("path", info.name)
        if not 0 <= size <= (MAX_HEADER if extended else MAX_MEMBER):
            raise ValueError(f"{shard} has {name[:100]!r} of {size:,} bytes; members go up to {MAX_MEMBER:,}.")
        padded = -(-size // BLOCK) * BLOCK
        if extended:
            data = _exactly(file, padded, shard)[:size]
            if info.type == tarfile.GNUTYPE_LONGNAME:
                said["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type != tarfile.XGLTYPE:
                said |= _records(data, shard)
        else:
            said.clear()
            _check(name, info, shard)
            if not info.isdir():
                wanted = read is None or name.rpartition("/")[2].partition(".")[2].lower() in read
                member = Member(name, place, size)
                if wanted:
                    member.data = _exactly(file, padded, shard)[:size]
                else:
                    _skip(file, padded, shard)
                yield member
            else:
                _skip(file, padded, shard)
        place += padded


def _nothing_follows(file: IO[bytes], shard: str) -> None:
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise ValueError(f"{shard} has more after its end, which would be lost; give each shard by itself.")


def _exactly(file: IO[bytes], size: int, shard: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{shard} ends within a member; it was cut short.")
    return data


def _skip(file: IO[bytes], size: int, shard: str) -> None:
    if file.seekable():
        file.seek(size, 1)  # past the end, the next header is found missing
    else:
        _exactly(file, size, shard)


def _records(data: bytes, shard: str) -> dict[str, str]:
    """path and size of a pax header, a list of "LENGTH KEY=VALUE\\n" (POSIX.1-2001)."""
    said = {}
    try:
        while data:
            length = int(data[: data.index(b" ")])
            key, _, value = data[data.index(b" ") + 1 : length - 1].partition(b"=")
            if length < 5 or data[length - 1 : length] != b"\n":
                raise ValueError
            if key in (b"path", b"size"):
                said[key.decode()] = value.decode("utf-8", "surrogateescape")
            if key.startswith(b"GNU.sparse"):
                raise ValueError
            data = data[length:]
        int(said.get("size", 0))
    except ValueError:
        raise ValueError(f"{shard} has a damaged extended header, or a sparse file; write it anew, plainly.") from None
    return said


def _check(name: str, info: tarfile.TarInfo, shard: str) -> None:
    if info.issym() or info.islnk():
        raise ValueError(f"{shard} has {name[:100]!r}, a link; shards hold plain files.")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise ValueError(f"{shard} has {name[:100]!r}, which is neither file nor folder; shards hold plain files.")
    parts = name.split("/")
    if (
        not name
        or len(name) > MAX_NAME
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or name[1:2] == ":"
        or not name.isprintable()
    ):
        raise ValueError(f"{shard} has a member named {name[:100]!r}; names are relative, printable, without '..' "
                         f"or backslash, and at most {MAX_NAME} characters.")  # fmt: skip
