"""The tensors of published files: told by their headers, read when they are asked for, from the file as it lies in memory.

A file is opened once and mapped privately: a tensor's values are pages of the file, read from the disk when they are first looked
at, and shared with whatever else has the file open. Writing to such a tensor changes a page of this process and no file. Since a
file that is replaced (as every writer here does it) keeps its old pages, saving over it is safe; a file that another program
cuts short while it is in use ends this process, as it does everywhere that files are mapped.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langevin.header import WIDTHS, Entry, header_of
from langevin.zoo.hub import JSON_LIMIT, is_file, open_published, read_object

if TYPE_CHECKING:
    from torch import Tensor

STEMS = ("diffusion_pytorch_model", "model", "pytorch_lora_weights", "adapter_model")
"""Names of weights in folders, by which they are looked for in this order."""
OLD = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
"""Suffixes of files that only `langevin convert` reads."""
_SHARD = re.compile(r".+-(?P<number>\d{5})-of-(?P<count>\d{5})(\.\w+)?\.safetensors")
MOST = 256  # files; each keeps a handle of the system's


@dataclass(frozen=True)
class _File:
    """A file that is open and mapped, and where in it each tensor begins."""

    path: Path
    entries: list[Entry]
    begins: dict[str, int]
    metadata: dict[str, str]
    pages: mmap.mmap | None


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, "Tensor"]):
    """Tensors by name, read when asked for.

    Attributes:
        what: the folder or file, for messages.
        files: in order.
        entries: dtype, as the format calls it, and shape of each, without a value being read.
        metadata: of the files, together.
    """

    what: str
    files: list[Path]
    entries: dict[str, Entry]
    metadata: dict[str, str]
    _where: dict[str, _File] = field(repr=False)

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: e.shape for name, e in self.entries.items()}

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return sum(e.size for e in self.entries.values())

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype of its file: pages of the file where it stands as the processor needs it, else a copy.

        Raises:
            KeyError: if there is none of this name.
        """
        import torch

        from langevin.tensors import DTYPES

        e, file = self.entries[name], self._where[name]
        dtype = DTYPES[e.dtype]
        if not e.size or file.pages is None:
            return torch.empty(e.shape, dtype=dtype)
        begin = file.begins[name]
        raw = torch.frombuffer(file.pages, dtype=torch.uint8, count=e.size, offset=begin)
        if begin % WIDTHS[e.dtype]:
            raw = raw.clone()
        return raw.view(dtype).view(e.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_weights(path: str | Path, variant: str | None = None) -> Weights:
    """The tensors of a component's folder, or of one safetensors file; no value is read yet.

    Args:
        path: a folder with diffusion_pytorch_model.safetensors, model.safetensors, or either in several files with an index; or
            a file. Links are followed in the cache of huggingface_hub alone.
        variant: "fp16", "bf16", "non_ema", ...: what stands in the names of the files, of a folder only; by default the ordinary
            ones, else the only variant there is.

    Raises:
        ValueError: naming the file and what is wrong, or the variants that there are; for older files, what converts them.
    """
    path = Path(path)
    if not _is_folder(path):
        if variant is not None:
            raise ValueError(f"variant is {variant!r}, and {path} is no folder with variants; leave it out.")
        return _together(str(path), [_mapped(path)])
    if path.is_symlink():
        raise ValueError(f"{path} is a link, and may lead anywhere; give the folder that it leads to.")
    there = variants(path)
    variant = sole(there) if variant is None else variant
    if variant not in there:
        raise ValueError(_absent(path, variant, there))
    file = there[variant]
    return _sharded(file) if file.suffix == ".json" else _together(str(path), [_mapped(file)])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that lie in a folder itself; where there are none, those of torch.save."""
    names = _names(folder)
    return [folder / n for n in names if n.endswith(".safetensors")] or [folder / n for n in names if n.endswith(OLD)]


def alone(path: Path) -> Path:
    """The one file of weights of a folder without a configuration, as repositories of single files are; else the path itself.

    Raises:
        ValueError: for the directory of a run, whose files are no published model.
    """
    if not _is_folder(path) or is_file(path / "model_index.json") or is_file(path / "config.json"):
        return path
    if is_file(path / "recipe.json"):
        raise ValueError(f"{path} is a run, and no published model; use langevin sample, or lv.open_run.")
    files = weight_files(path)
    return files[0] if len(files) == 1 else path


def file_of(path: Path, names: Sequence[str]) -> Path:
    """A file for itself, and for a folder the file of one of these names in it, or else the only one there is.

    Raises:
        ValueError: if there are several, or none.
    """
    if not _is_folder(path):
        return path
    files = weight_files(path)
    named = [file for name in names for file in files if file.name == name]
    if named or len(files) == 1:
        return (named or files)[0]
    listed = ", ".join(file.name for file in files[:4])
    raise ValueError(f"{path} holds {listed or 'no safetensors file'}; give one file{' of them' if files else ''}.")


def variants(folder: Path) -> dict[str | None, Path]:
    """What weights a folder holds: by variant, None for the ordinary, the file or the index of several."""
    found: dict[str | None, Path] = {}
    names = _names(folder)
    for stem in STEMS:
        singles, indices = {}, {}
        for name in names:
            if one := re.fullmatch(rf"{stem}(?:\.(?P<v>\w+))?\.safetensors", name):
                singles[one["v"]] = folder / name
            elif one := re.fullmatch(rf"{stem}\.safetensors\.index(?:\.(?P<v>\w+))?\.json", name):
                indices[one["v"]] = folder / name
        for variant, file in {**indices, **singles}.items():
            found.setdefault(variant, file)
    return found


def sole(there: Mapping[str | None, Path]) -> str | None:
    """The only variant of weights that are there in one variant alone; None where there are ordinary ones, or several."""
    return next(iter(there)) if len(there) == 1 else None


def check_variant(folder: Path, variant: str) -> None:
    """Refuse a variant that no part of a published folder has: parts without it are read in their ordinary weights.

    Raises:
        ValueError: naming the variants that there are.
    """
    held = [variants(place) for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()))]
    found = sorted({name for there in held for name in there if name is not None})
    if variant not in found:
        has = f"it has {', '.join(repr(name) for name in found)}" if found else "leave it out"
        raise ValueError(f"variant is {variant!r}, of which no part of {folder} has weights; {has}.")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({type(error).__name__}).") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _absent(folder: Path, variant: str | None, there: Mapping[str | None, Path]) -> str:
    if there:
        kinds = ", ".join("the ordinary one" if v is None else repr(v) for v in there)
        return f"{folder} holds no weights of the variant {variant!r}; it has {kinds}." if variant else (
            f"{folder} holds variants of its weights only; choose variant={next(iter(there))!r} (there are {kinds})."
        )  # fmt: skip
    old = [name for name in _names(folder) if name.endswith(OLD)]
    if old:
        return (
            f"{folder} holds its weights as {old[0]}, a kind of file that can run code; make a safe one with "
            f"'langevin convert {folder} NEW_FOLDER'."
        )
    return f"{folder} holds no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors; give the folder of a component."


def refuse_old(path: Path) -> None:
    """Refuse a file that torch.save wrote, by its name.

    Raises:
        ValueError: naming `langevin convert`.
    """
    if path.suffix.lower() in OLD:
        raise ValueError(
            f"{path} is of a kind that can run code; make a safe one with 'langevin convert {path} {path.stem}.safetensors'."
        )


def _mapped(path: Path) -> _File:
    refuse_old(path)
    with open_published(path) as file:
        header = header_of(file, path)
        begin = len(header.raw)
        begins = {}
        for e in header.entries:
            begins[e.name] = begin
            begin += e.size
        return _File(path, header.entries, begins, header.metadata, _pages(file.fileno(), begin, path))


def _pages(handle: int, size: int, path: Path) -> mmap.mmap | None:
    """The file as memory, of this process alone."""
    if size == 0:
        return None
    try:
        if hasattr(mmap, "MAP_PRIVATE") and os.name == "posix":
            # no memory is set aside for pages that are never written to: files may be larger than what there is
            kind = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if os.uname().sysname == "Linux" else 0)
            return mmap.mmap(handle, size, flags=kind, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return mmap.mmap(handle, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be brought into memory ({type(error).__name__}).") from None


def _sharded(index: Path) -> Weights:
    """The files that an index names, if both agree on every tensor."""
    told = read_object(index, JSON_LIMIT).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(v, str) for v in told.values()):
        raise ValueError(f"{index} has no weight_map of tensors and their files.")
    names = sorted(set(told.values()))
    if len(names) > MOST:
        raise ValueError(f"{index} names {len(names)} files, above {MOST}.")
    for name in names:
        shard = _SHARD.fullmatch(name)
        if shard is None or not _plain(name):
            raise ValueError(
                f"{index} names the file {name[:80]!r}; give names beside it such as model-00001-of-00002.safetensors."
            )
        if int(shard["count"]) != len(names):
            raise ValueError(f"{index} names {len(names)} files, one of which is called {name}; some are missing from it.")
    placed: dict[str, set[str]] = {name: set() for name in names}
    for tensor, name in told.items():
        placed[name].add(tensor)
    files = []
    for name in names:
        path = index.parent / name
        if not is_file(path):
            raise ValueError(f"{path} is missing, and {index.name} names it.")
        files.append(_mapped(path))
        here = {e.name for e in files[-1].entries}
        for tensor in sorted(placed[name] ^ here):
            lacks = tensor not in here
            where = f"places in {told[tensor]}" if tensor in told else "does not name"
            said = f"which {index.name} places in it" if lacks else f"which {index.name} {where}"
            raise ValueError(f"{path} {'lacks' if lacks else 'holds'} {tensor[:80]!r}, {said}; the two do not belong together.")
    return _together(str(index.parent), files)


def _plain(name: str) -> bool:
    """Whether a name leads to its own folder and no device, on any system."""
    return re.fullmatch(r"[A-Za-z0-9_][\w.+-]{0,250}", name) is not None and ".." not in name


def _together(what: str, files: list[_File]) -> Weights:
    where = {e.name: file for file in files for e in file.entries}
    entries = {e.name: e for file in files for e in file.entries}
    metadata: dict[str, str] = {}
    for file in files:
        metadata |= file.metadata
    return Weights(what, [file.path for file in files], entries, metadata, where)
