"""What a frozen encoder makes of a data set, computed once and kept: latents of pictures, embeddings of captions.

A cache is a folder of .npy files, one per name and group, which are mapped into memory when read, and a manifest that says
what they were made of and how many rows are whole. Rows are appended in blocks; a block counts once the manifest says so.
"""

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.core.tree import leaves, tree
from langevin.data.progress import shown
from langevin.files import lock, write

FORMAT = 1
MANIFEST = "manifest.json"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def encoder_hash(module: nn.Module) -> str:
    """SHA-256 over an encoder's class and weights: the `key` of what it makes."""
    total = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]


class Stale(ValueError):
    """A cache of something else.

    Attributes:
        field: what is other. wanted: what it would have to be.
    """

    def __init__(self, said: str, field: str, wanted: Any) -> None:
        super().__init__(said)
        self.field, self.wanted = field, wanted


@dataclass(frozen=True)
class _Manifest:
    format: int
    what: str
    source: str
    encoder: str
    dtype: str
    rows: list[int]
    """Per group."""
    shapes: dict[str, list[list[int]]]
    """Of one row, by name and group; filled in as groups are begun."""
    dtypes: dict[str, str]
    """By name."""
    done: int
    """Rows that are whole, counted through the groups."""


def cached(
    source: Any,
    encode: Callable[[Any], Any],
    folder: str | Path,
    key: str,
    dtype: str = "float16",
    batch: int = 64,
    what: Literal["latent", "text"] = "latent",
) -> "Cached":
    """A source that reads what `encode` made of `source`, making first what is missing.

    Making can be stopped at any moment, and goes on where it was. Of several processes one makes and the others wait, where the
    file system has locks. A cache that is whole is only read.

    Args:
        source: with `digest()`; for text, with `captions`.
        encode: for "latent", from x (B, *shape) to latents (B, ...), or a dict of them by leaf, which become x; for "text",
            from a list of B captions to embeddings (B, ...), which become cond["caption"], or a dict by the name of the
            condition, such as {"caption": (B, L, D), "caption_mask": (B, L)}. It is called without gradients, and must give
            the same for the same: put modules in eval mode. Rows of one group have one shape.
        folder: where the cache is, or will be; one per source, split and encoder.
        key: what names the encoder and its settings, such as `encoder_hash(vae)`.
        dtype: floats are kept as "float16" or "float32"; all else stays as it is.
        batch: samples per call, and per block.
        what: "latent" or "text".

    Raises:
        ValueError: if the cache was made of other data, by another encoder, or in another dtype; if a result is not finite,
            naming the sample; if the source has no captions, or changes pixels at random; if rows differ in shape.
        OSError: if the disk is full; the blocks made so far are kept.
    """
    if what not in ("latent", "text"):
        raise ValueError(f"what is {what!r}; choose 'latent' or 'text'.")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}.")
    if batch < 1:
        raise ValueError(f"batch is {batch}; give at least 1.")
    captions = getattr(source, "captions", None)
    if what == "text" and not captions:
        raise ValueError("the source has no captions; give it some, such as Pictures(folder, captions='txt').")
    if what == "latent" and getattr(source, "flip", False):
        raise ValueError("the source flips pictures at random, which kept latents cannot follow; pass flip=False.")
    groups = getattr(source, "groups", None) if what == "latent" else None
    members = _members(len(source), groups)
    digest = source.digest() if what == "latent" else hashlib.sha256(json.dumps(captions).encode()).hexdigest()[:16]
    wanted = _Manifest(FORMAT, what, digest, key, dtype, [len(m) for m in members], {}, {}, 0)
    folder = Path(folder)
    manifest = _read(folder, wanted)
    if manifest.done == len(source) > 0:  # whole: nothing is written, so that it can be read where nothing can be
        return Cached(source, folder, manifest, members)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        manifest = _read(folder, wanted)

        def made(index: Tensor) -> dict[str, np.ndarray]:
            with torch.no_grad():
                result = encode(source.batch(index).x if what == "latent" else [captions[i] for i in index.tolist()])  # pyright: ignore
            named = {"caption": result} if what == "text" and not isinstance(result, Mapping) else leaves(result)
            return {n: _checked(n, v, index, source, dtype) for n, v in named.items()}

        manifest = _make(folder, manifest, members, made, batch)
    return Cached(source, folder, manifest, members)


class Cached:
    """A source with x, or some conditions, from a cache; made by `cached`. All else is the source's own.

    Latents are given as floats32; with groups, `shape` is that of the squarest.
    """

    def __init__(self, source: Any, folder: Path, manifest: _Manifest, members: list[Tensor]) -> None:
        self._source, self._what = source, manifest.what
        self._files = {n: [_mapped(folder, n, g, manifest) for g in range(len(members))] for n in manifest.shapes}
        self._row, self._group = torch.empty(2, len(source), dtype=torch.int64)
        for g, index in enumerate(members):
            self._row[index], self._group[index] = torch.arange(len(index)), g
        self.groups, self.captions = getattr(source, "groups", None), getattr(source, "captions", None)
        self.labels, self.classes = getattr(source, "labels", None), getattr(source, "classes", None)
        latents = {n: min((tuple(s) for s in shapes), key=_squareness) for n, shapes in manifest.shapes.items()}
        self.shape: Any = tree(latents) if manifest.what == "latent" else source.shape
        self._digest = hashlib.sha256(json.dumps(asdict(manifest)).encode())

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, index: Tensor) -> Batch:
        if self._what == "latent":
            return Batch(tree(self._kept(index)), self.conditions(index))
        return replace(self._source.batch(index), cond=self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without reading x where the source can do so."""
        cheap = getattr(self._source, "conditions", None)
        given = cheap(index) if cheap is not None else self._source.batch(index).cond
        return {**(given or {}), **self._kept(index)} if self._what == "text" else given

    def _kept(self, index: Tensor) -> dict[str, Tensor]:
        groups = self._group[index].unique().tolist()
        if len(groups) > 1:
            raise ValueError(f"the batch mixes {len(groups)} shapes; read by an Order with groups=source.groups.")
        rows = {n: files[groups[0]][self._row[index]] for n, files in self._files.items()}
        return {n: v.float() if v.is_floating_point() else v for n, v in rows.items()}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The source's own, where x is the source's."""
        own = getattr(self._source, "augment", None) if self._what == "text" else None
        return batch if own is None else own(batch, noise)

    def digest(self) -> str:
        """Hash of the source, the encoder, and how its results are kept."""
        total = self._digest.copy()
        total.update(self._source.digest().encode())
        return total.hexdigest()[:16]


def _squareness(shape: tuple[int, ...]) -> float:
    return abs(math.log(shape[-1] / shape[-2])) if len(shape) > 1 else 0.0


def _members(size: int, groups: Tensor | None) -> list[Tensor]:
    if groups is None:
        return [torch.arange(size)]
    return [(groups == g).nonzero().flatten() for g in groups.unique()]


def _checked(name: str, value: Any, index: Tensor, source: Any, dtype: str) -> np.ndarray:
    """What encode gave, as it is kept."""
    if not isinstance(value, Tensor) or len(value) != len(index):
        raise ValueError(f"encode gave {type(value).__name__} for {len(index)} samples; give tensors with a row for each.")
    if not (name == "" or name.isidentifier()):
        raise ValueError(f"encode names a result {name!r}; names are identifiers.")
    value = value.detach().cpu()
    kept = value.to(_DTYPES[dtype]) if value.is_floating_point() else value
    if kept.is_floating_point() and not (finite := kept.isfinite().flatten(1).all(1)).all():
        k = int(finite.logical_not().nonzero()[0])
        where = f"sample {int(index[k])}" + (f" ({paths[int(index[k])]})" if (paths := getattr(source, "paths", None)) else "")
        cure = "keep it as float32" if value[k].isfinite().all() else "look at it, or mend the encoder"
        raise ValueError(f"encode gave values that are not finite in {kept.dtype} for {where}; {cure}.".replace("torch.", ""))
    return kept.contiguous().numpy()


def _make(
    folder: Path, manifest: _Manifest, members: list[Tensor], made: Callable[[Tensor], dict[str, np.ndarray]], batch: int
) -> _Manifest:
    todo, first = [], 0
    for g, index in enumerate(members):
        start = min(max(manifest.done - first, 0), len(index))
        todo += [(g, start + k * batch, part) for k, part in enumerate(index[start:].split(batch)) if len(part)]
        first += len(index)
    for g, start, index in shown(todo, len(todo), "encoding"):
        block = made(index)
        shapes, dtypes = {n: list(v.shape[1:]) for n, v in block.items()}, {n: str(v.dtype) for n, v in block.items()}
        before = {n: s[g] if start else shapes.get(n) for n, s in manifest.shapes.items()}
        if manifest.done and (shapes != before or dtypes != manifest.dtypes):
            raise ValueError(
                f"encode gave {shapes} of {dtypes} where it gave {before} of {manifest.dtypes} before; rows must have one shape "
                "(within a group), such as captions padded to one length."
            )
        for name, rows in block.items():
            head = _header((len(members[g]), *rows.shape[1:]), rows.dtype)
            with _file(folder, name, g).open("r+b" if start else "wb") as file:
                file.truncate(len(head) + start * rows[0].nbytes if start else 0)
                file.seek(0, os.SEEK_END)
                file.write((b"" if start else head) + rows.tobytes())
                file.flush()
                os.fsync(file.fileno())
        known = {n: manifest.shapes.get(n, [])[:g] + [s] for n, s in shapes.items()}
        manifest = replace(manifest, shapes=known, dtypes=dtypes, done=manifest.done + len(index))
        _write(folder / MANIFEST, manifest)
    return manifest


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue()


def _file(folder: Path, name: str, group: int) -> Path:
    return folder / f"{name or 'x'}-{group}.npy"


def _mapped(folder: Path, name: str, group: int, manifest: _Manifest) -> Tensor:
    path = _file(folder, name, group)
    try:
        mapped = np.lib.format.open_memmap(path, mode="c")
        if [*mapped.shape] != [manifest.rows[group], *manifest.shapes[name][group]] or str(mapped.dtype) != manifest.dtypes[name]:
            raise ValueError
        return torch.from_numpy(mapped)
    except Exception:  # numpy has Python's own parser read the header, whose errors are of many kinds
        raise ValueError(f"{path} is missing, or not what {MANIFEST} says; delete {folder} to make it anew.") from None


def _write(path: Path, manifest: _Manifest) -> None:
    write(path, json.dumps(asdict(manifest), indent=1))


def _read(folder: Path, wanted: _Manifest) -> _Manifest:
    """The manifest in `folder`, or `wanted` where there is none."""
    path = folder / MANIFEST
    try:
        found = _Manifest(**json.loads(path.read_bytes()))
        total = sum(found.rows)
        names = all(n == "" or n.isidentifier() for n in found.shapes)
        known = all(type(d) is str for d in found.dtypes.values()) and found.dtypes.keys() >= found.shapes.keys()
        told = all(type(n) is int for shapes in found.shapes.values() for shape in shapes for n in shape)
        if not (isinstance(found.done, int) and 0 <= found.done <= total and names and known and told):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return wanted
    except (OSError, ValueError, TypeError, RecursionError, AttributeError):
        raise ValueError(f"{path} is damaged; delete {folder} to make it anew.") from None
    for field in ("format", "what", "source", "encoder", "dtype", "rows"):
        was, now = getattr(found, field), getattr(wanted, field)
        if was != now:
            said = f"{folder} is stale: its {field} is {str(was)[:80]}, and {now} is wanted; delete it, or give another folder."
            raise Stale(said, field, now)
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with its holder, however that ends."""
    with (folder / "lock").open("w") as file:
        if not lock(file.fileno(), wait=True):
            print(f"{folder} cannot be locked here; let one process make it.", file=sys.stderr)
        yield
