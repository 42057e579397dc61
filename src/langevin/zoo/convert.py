"""`langevin convert`: the weights in a file of torch.save, written as safetensors. Nothing in the file is run. Imports no torch.

The values are copied from file to file; what is held in memory is a tensor at most.
"""

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import numpy as np

from langevin.files import new_folder, staged, write
from langevin.header import WIDTHS, Entry, encode
from langevin.zoo.hub import ALLOWED, JSON_LIMIT, copy, open_published, read_object
from langevin.zoo.opcodes import LIMIT, Machine, Named, View, leaves
from langevin.zoo.zipped import Slot, slots

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # at the head of files older than torch 1.6
_CHUNK = 2**20
_SHADOW = "shadow_params"
PARTS = (
    "state_dict", "ema", "model_ema", "ema_state_dict", "params_ema", "model", "model_state_dict", "module", "params", "network",
    "net", "unet", "weights", "generator",
)  # fmt: skip
"""Names under which training programs keep weights, the one to take before the others."""


@dataclass(frozen=True)
class Old:
    """A file of torch.save, open: what it holds, and where the values of its storages begin.

    Attributes:
        tree: dictionaries and lists of tensors, numbers, texts and names.
        sha256: of the whole file, "" if the values were not looked at.
        passed: names in it that were passed over because they were to be ignored.
    """

    path: Path
    file: IO[bytes] = field(repr=False)
    tree: Any = field(repr=False)
    begins: Mapping[str, int] = field(repr=False)
    sha256: str
    passed: Collection[str] = ()

    def read(self, view: View) -> Iterable[bytes | memoryview]:
        """The values of a tensor, one behind the other, in pieces."""
        width = WIDTHS[view.dtype]
        begin = self.begins[view.storage.key] + view.offset * width
        self.file.seek(begin)
        if view.dense:
            yield from _pieces(self.file, view.reach * width, self.path)
            return
        raw = b"".join(_pieces(self.file, view.reach * width, self.path))
        flat = np.frombuffer(raw, dtype=f"V{width}")
        steps = [s * width for s in view.stride]
        yield np.lib.stride_tricks.as_strided(flat, view.shape, steps, writeable=False).tobytes()


@contextmanager
def opened(path: Path, ignored: Collection[str] = (), hashed: bool = True) -> Iterator[Old]:
    """A file of torch.save, old or new.

    Args:
        ignored: names that may stand in it beside those known here.
        hashed: read it whole, and compare the checksums of its values.

    Raises:
        ValueError: naming the file, and what in it is damaged, or no data.
    """
    with open_published(path) as file:
        before = os.fstat(file.fileno())
        start = file.read(4)
        if start == b"PK\x03\x04":
            machine, tree, begins, checks = _zip(file, before.st_size, path, ignored)
        elif start[:1] == b"\x80":
            machine, tree, begins = _old(file, before.st_size, path, ignored)
            checks = []
        else:
            raise ValueError(f"{path} is no file of torch.save: it begins as none.")
        yield Old(path, file, tree, begins, _hashed(file, checks, path) if hashed else "", machine.passed)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ValueError(f"{path} was changed while it was read.")


def _zip(file: IO[bytes], size: int, path: Path, ignored: Collection[str]) -> tuple[Machine, Any, dict[str, int], list[Slot]]:
    """(machine, tree, begins, entries) of a file of torch 1.6 or later."""
    entries = slots(file, size, path)
    roots = [name.partition("/")[0] for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1 or any(not name.startswith(roots[0] + "/") for name in entries):
        raise ValueError(f"{path} is an archive, and none that torch.save writes: it should hold one NAME/data.pkl.")
    root = roots[0] + "/"
    if root + "constants.pkl" in entries or any(name.startswith(root + "code/") for name in entries):
        raise ValueError(f"{path} is a program of torch.jit, and no file of weights.")
    if (order := entries.get(root + "byteorder")) is not None and _slot(file, order, 16, path) != b"little":
        raise ValueError(f"{path} was written on a machine of the other byte order; write it again on one of this.")
    machine = Machine(_slot(file, entries[root + "data.pkl"], LIMIT, path), str(path), ignored)
    tree = machine.run()
    begins = {}
    for storage in machine.storages.values():
        slot = entries.get(f"{root}data/{storage.key}")
        if slot is None or slot.size != storage.size:
            there = "none" if slot is None else slot.size
            raise ValueError(f"{path} is damaged: storage {storage.key!r} should have {storage.size} bytes and has {there}.")
        begins[storage.key] = slot.begin
    return machine, tree, begins, list(entries.values())


def _slot(file: IO[bytes], slot: Slot, limit: int, path: Path) -> bytes:
    if slot.size > limit:
        raise ValueError(f"{path} holds {slot.name[:80]!r} of {slot.size} bytes, above the {limit} that it may have.")
    file.seek(slot.begin)
    return b"".join(_pieces(file, slot.size, path))


def _old(file: IO[bytes], size: int, path: Path, ignored: Collection[str]) -> tuple[Machine, Any, dict[str, int]]:
    """(machine, tree, begins) of a file older than torch 1.6: five objects, then storages, each behind its number of values."""
    file.seek(0)
    machine = Machine(file.read(LIMIT), str(path), ignored)
    if machine.run() != _MAGIC or machine.run() != _PROTOCOL:
        raise ValueError(f"{path} is no file of torch.save: it does not begin with its sign.")
    system = machine.run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError(f"{path} was written on a machine of the other byte order; write it again on one of this.")
    tree, keys = machine.run(), machine.run()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(machine.storages):
        raise ValueError(f"{path} is damaged: it does not list the storages that it speaks of.")
    begins, at = {}, machine.at
    for key in map(str, keys):
        storage = machine.storages[key]
        file.seek(at)
        head = file.read(8)
        if len(head) != 8 or struct.unpack("<q", head)[0] != storage.count or at + 8 + storage.size > size:
            raise ValueError(f"{path} is damaged: storage {key!r} is not where it should be.")
        begins[key] = at + 8
        at += 8 + storage.size
    if at != size:
        raise ValueError(f"{path} is damaged: it goes on behind its last storage.")
    return machine, tree, begins


def _hashed(file: IO[bytes], entries: Iterable[Slot], path: Path) -> str:
    """SHA-256 of the file; the checksum of each entry is compared on the way."""
    total = hashlib.sha256()
    file.seek(0)
    at = 0
    for slot in entries:
        for piece in _pieces(file, slot.begin - at, path):
            total.update(piece)
        crc = 0
        for piece in _pieces(file, slot.size, path):
            total.update(piece)
            crc = zlib.crc32(piece, crc)
        if crc != slot.crc:
            raise ValueError(f"{path} is damaged: the checksum of {slot.name[:80]!r} does not agree.")
        at = slot.begin + slot.size
    while piece := file.read(_CHUNK):
        total.update(piece)
    return total.hexdigest()


def _pieces(file: IO[bytes], size: int, path: Path) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, _CHUNK))
        if not piece:
            raise ValueError(f"{path} was cut short while it was read.")
        size -= len(piece)
        yield piece


@dataclass(frozen=True)
class Part:
    """What is taken of a file.

    Attributes:
        name: as `part` asks for it. tensors: by name in the new file.
        left: what else there is, by part: how many tensors.
        others: objects beside tensors in this part, that are no numbers or texts.
    """

    name: str
    tensors: dict[str, View]
    left: dict[str, int]
    others: dict[str, str]


def select(old: Old, part: str | None = None) -> Part:
    """The weights in what a training program has saved.

    Args:
        part: a name in the file, nested ones with a dot, such as "ema" or "optimizer.state"; "all" for everything, under dotted
            names. By default what holds tensors at once, else the first of `PARTS`; where an average is kept as a list without
            names (score_sde), model and average together.

    Raises:
        ValueError: naming the parts that there are.
    """
    what = str(old.path)
    found = list(leaves(old.tree, what))
    counts: dict[str, int] = {}
    for way, value in found:
        if isinstance(value, View):
            name = way[0] if len(way) > 1 else ""
            counts[name] = counts.get(name, 0) + 1
    if isinstance(old.tree, Named):
        raise ValueError(f"{what} holds a {old.tree} and no tensors by name; save its state_dict() instead.")
    if not counts:
        raise ValueError(f"{what} holds no tensors.")
    tree = old.tree if isinstance(old.tree, dict) else {}
    chosen: tuple[str, ...]
    if part == "all" or (part is None and "" in counts):
        chosen, name = ("",), "all"
    elif part is not None:
        chosen, name = (part,), part
    elif "ema" in counts and "model" in counts and isinstance(tree.get("ema"), dict) and _SHADOW in tree["ema"]:
        chosen, name = ("model", "ema"), "model and ema"
    else:
        name = next((p for p in PARTS if p in counts), next(iter(counts)) if len(counts) == 1 else None)
        if name is None:
            raise ValueError(f"{what} holds tensors in {_listed(counts)}; choose one with --part.")
        chosen = (name,)
    tensors: dict[str, View] = {}
    others: dict[str, str] = {}
    for way, value in found:
        dotted = ".".join(way)
        under = next((c for c in chosen if not c or dotted.startswith(c + ".")), None)
        if under is None or not isinstance(value, (View, Named, bytes)):
            continue
        target = dotted[len(under) + 1 :] if under and len(chosen) == 1 else dotted
        if not isinstance(value, View):
            others[target] = str(value) if isinstance(value, Named) else "bytes"
        elif target in tensors or not target:
            raise ValueError(f"{what} holds two tensors that would be called {target[:80]!r}.")
        else:
            tensors[target] = value
    if not tensors:
        raise ValueError(f"{what} has no tensors in the part {part!r}; there are {_listed(counts)}.")
    if others and name != "all":
        first = next(iter(others))
        raise ValueError(f"{what}: {first[:80]!r} in part {name!r} is a {others[first]}, and no tensor; nothing here reads it.")
    total, limit = sum(_entry(n, v).size for n, v in tensors.items()), 4 * os.fstat(old.file.fileno()).st_size
    if total > limit:
        raise ValueError(
            f"{what} would become {total} bytes, more than four times its own; it uses the same values again and again."
        )
    left = {n or "others": c for n, c in counts.items() if "" not in chosen and n not in {c.partition(".")[0] for c in chosen}}
    return Part(name, tensors, left, others)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name[:60]!r} ({count})" for name, count in list(counts.items())[:12])


def _entry(name: str, view: View) -> Entry:
    return Entry(name, view.dtype, view.shape)


@dataclass(frozen=True)
class Written:
    """What a conversion made."""

    source: Path
    target: Path
    part: Part
    sha256: str
    """Of the source."""
    size: int
    """Bytes of the target."""

    def __str__(self) -> str:
        count = len(self.part.tensors)
        lines = [
            f"{self.target}: {count} tensors, {self.size:,} bytes, from part {self.part.name!r} of {self.source.name}",
            f"  the source has SHA-256 {self.sha256}",
        ]
        if self.part.left:
            lines.append(f"  left out: {_listed(self.part.left)} tensors; --part takes one of these")
        if self.part.others:
            lines.append(f"  left out: {len(self.part.others)} objects that are no tensors")
        return "\n".join(lines)


def convert_file(source: Path, target: Path, part: str | None = None, ignored: Collection[str] = ()) -> Written:
    """Write the weights of a file of torch.save as safetensors; whole or not at all.

    Raises:
        ValueError: naming what cannot be read, or a name to be ignored that nothing would have refused; nothing is then written.
    """
    with opened(source, ignored) as old:
        _check_met(ignored, old.passed, source)
        return _write(old, target, part)


def _check_met(ignored: Collection[str], passed: Collection[str], source: Path) -> None:
    """Refuse names to be ignored that stand nowhere, or that are known and passed over anyway."""
    if idle := next((name for name in ignored if name not in passed), None):
        raise ValueError(f"ignore is {idle[:160]}, and {source} has no such name that would be refused; leave it out.")


def _write(old: Old, target: Path, part: str | None) -> Written:
    chosen = select(old, part)
    # by width, so that each begins where the processor can read it, and else in the source's order, which may tell something
    entries = sorted((_entry(name, view) for name, view in chosen.tensors.items()), key=lambda e: -WIDTHS[e.dtype])
    told = {"format": "pt", "source": old.path.name, "source_sha256": old.sha256, "source_part": chosen.name}
    head = encode(entries, told)
    size = len(head)
    with staged(target) as beside, beside.open("wb") as file:
        file.write(head)
        for e in entries:
            written = 0
            for piece in old.read(chosen.tensors[e.name]):
                file.write(piece)
                written += len(piece)
            if written != e.size:
                raise ValueError(f"{old.path} was changed while it was read.")
            size += written
    return Written(old.path, target, chosen, old.sha256, size)


# Folders

_WEIGHTS = re.compile(r"(?P<stem>diffusion_pytorch_model|pytorch_model|pytorch_lora_weights)(?P<rest>[\w.-]*)\.bin")
_INDEX = re.compile(r"(?P<stem>diffusion_pytorch_model|pytorch_model)\.bin\.index(?P<rest>(\.\w+)?)\.json")
_MOST = 10_000


def convert_folder(source: Path, target: Path, ignored: Collection[str] = ()) -> list[str]:
    """A published folder with its weights as safetensors: of a component, or of a pipeline with one folder for each.

    Old weights take the name that safe ones have; configurations, vocabularies and weights that are safe already are copied;
    everything else is left out. Returns a line for each file.

    Raises:
        ValueError: naming what cannot be read, a name to be ignored that would not have been refused in any file, or a target
            that is there; nothing is then written.
    """
    with new_folder(target) as beside:
        passed: set[str] = set()
        lines = _folder(source, beside, "", ignored, passed)
        _check_met(ignored, passed, source)
        if not any(" tensors, " in line for line in lines):
            raise ValueError(f"{source} holds no old weights to convert; it has {'; '.join(lines)[:300] or 'no files'}.")
    return [line.replace(str(beside), str(target)) for line in lines]


def _folder(source: Path, target: Path, inside: str, ignored: Collection[str], passed: set[str]) -> list[str]:
    """A line for each file; `passed` grows by the names that were passed over."""
    names = sorted(os.listdir(source))
    if len(names) > _MOST:
        raise ValueError(f"{source} holds {len(names)} files, more than any published folder.")
    lines = []
    for name in names:
        path, said = source / name, f"{inside}{name}"
        if path.is_dir() and not path.is_symlink():
            if not inside and not name.startswith("."):
                (target / name).mkdir()
                lines += _folder(path, target / name, f"{name}/", ignored, passed)
                if not any((target / name).iterdir()):
                    (target / name).rmdir()
        elif weights := _WEIGHTS.fullmatch(name):
            safe = _safe_name(weights["stem"], weights["rest"])
            if safe in names:
                lines.append(f"{said} left out: {safe} stands beside it")
            else:
                with opened(path, ignored) as old:
                    lines.append(str(_write(old, target / safe, None)))
                passed |= set(old.passed)
        elif index := _INDEX.fullmatch(name):
            safe = _safe_name(index["stem"], "") + f".index{index['rest']}.json"
            if safe not in names:
                write(target / safe, json.dumps(_reindexed(path), indent=1))
        elif any(fnmatch(name, pattern) for pattern in ALLOWED):
            copy(path, target / name)
            lines.append(f"{said} copied")
        else:
            lines.append(f"{said} left out")
    return lines


def _safe_name(stem: str, rest: str) -> str:
    return f"{'model' if stem == 'pytorch_model' else stem}{rest}.safetensors"


def _reindexed(path: Path) -> dict[str, Any]:
    """An index of old files, with their new names."""
    told = read_object(path, JSON_LIMIT)
    files = told.get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{path} has no weight_map of tensors and their files.")
    made = {}
    for tensor, name in files.items():
        found = _WEIGHTS.fullmatch(name) if isinstance(name, str) else None
        if found is None:
            raise ValueError(f"{path} names the file {str(name)[:80]!r}, which is no file of weights beside it.")
        made[tensor] = _safe_name(found["stem"], found["rest"])
    size = told.get("metadata", {})
    return {"metadata": size if isinstance(size, dict) else {}, "weight_map": made}
