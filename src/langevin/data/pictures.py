"""A folder of pictures, scanned before training and decoded as it is read."""

import copy
import hashlib
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise
from langevin.data.decode import SUFFIXES, Kept, Unreadable, decode, mirror, to_unit
from langevin.data.scan import captions as read_captions
from langevin.data.scan import check_broken, check_folder, judge, scan
from langevin.data.split import check_split, empty, in_split


class Pictures:
    """Every picture below a folder, cropped in its middle and resized; classes by subfolder.

    Args:
        folder: where the pictures are; hidden files and folders are passed over. If all stand in subfolders, the names of these,
            sorted, are the classes 0, 1, ...; pictures beside such folders leave none, and that is said.
        size: side in pixels; with `aspect` the side of the square with as many pixels.
        channels: 3 for colour, 1 for grey.
        broken: "fail" refuses a folder with pictures that cannot be read, naming each; "skip" leaves them out and says so.
        held_out: share of pictures kept for testing, chosen by a hash of the name.
        split: "train", "test" or "all".
        aspect: keep shapes: each picture goes to the (height, width) of nearest aspect among `buckets(size, bucket_step)`,
            and batches are of one shape. `shape` is then that of the square.
        bucket_step: heights and widths are multiples of it.
        captions: None for none; "txt" for picture.txt beside picture.png; or a JSONL file in the folder whose lines have
            "file" and "text". A picture without one counts as broken.
        flip: training sees half of the pictures mirrored, chosen by (seed, place).
        max_skipped: largest share of broken pictures that "skip" may leave out.
        keep: bytes of decoded pictures kept in memory, in each process that reads.
        scan_file: JSON in which the scan is remembered, for pictures whose size and time of change stay as they are.
        progress: show a bar while scanning, on a terminal.
        labels: False leaves the subfolders' names unread.

    Attributes:
        paths: of the split's pictures.
        captions: one per picture, or None. Text is no tensor, so it is not in batches: `langevin.data.cached` turns it into
            cond["caption"] with an encoder.
        groups: (N,) int64, which of `sizes` a picture has; None without `aspect`.

    Raises:
        FileNotFoundError: if there are no pictures. NotADirectoryError: for a file.
        ValueError: if some cannot be read and broken is "fail", or are more than max_skipped.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int = 64,
        channels: int = 3,
        broken: str = "fail",
        held_out: float = 0.1,
        split: str = "train",
        aspect: bool = False,
        bucket_step: int = 8,
        captions: str | None = None,
        flip: bool = False,
        max_skipped: float = 0.01,
        keep: int = 1 << 29,
        scan_file: str | Path | None = None,
        progress: bool = True,
        labels: bool = True,
    ) -> None:
        check_folder(Path(folder))
        check_broken(broken)
        check_split(split, held_out)
        self.folder, self.size, self.channels = Path(folder), size, channels
        self.shape = (channels, size, size)
        self.sizes = buckets(size, bucket_step) if aspect else [(size, size)]
        self.flip, self._share, self._limit = flip, held_out, keep
        every = (p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
        found = sorted(p for p in every if not self._hidden(p))
        if not found:
            raise FileNotFoundError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}); pass a folder that has.")
        seen = scan(self.folder, found, None if scan_file is None else Path(scan_file), progress)
        bad = {p: why for p, why in seen.items() if isinstance(why, str)}
        texts: dict[Path, str] = {}
        if captions is not None:
            texts, without = read_captions(self.folder, found, captions)
            bad = {p: bad.get(p) or without[p] for p in found if p in bad or p in without}
        judge({str(p.relative_to(self.folder)): why for p, why in bad.items()}, len(found), broken, max_skipped)
        good = [p for p in found if p not in bad]
        parents = [p.relative_to(self.folder).parts[0] if p.parent != self.folder else "" for p in good]
        names = sorted(set(parents))
        if labels and (beside := parents.count("")) and len(names) > 2:
            first = good[parents.index("")].name
            warnings.warn(
                f"{folder} has {len(names) - 1} folders and {beside} pictures beside them ({first}), so there are no classes; "
                "move those into a folder, or say that none are meant: labels=False (--data.no-labels).",
                stacklevel=2,
            )
        self.classes = names if labels and "" not in names and len(names) > 1 else None
        self._paths, self._texts = good, [texts[p] for p in good] if captions is not None else None
        self._labels = torch.tensor([names.index(p) for p in parents]) if self.classes else None
        self._groups = torch.tensor([_nearest(seen[p], self.sizes) for p in good]) if aspect else None
        self._choose(split)

    def _hidden(self, path: Path) -> bool:
        """Thumbnails, waste, what notebooks keep: their folders are no classes."""
        return any(part.startswith(".") for part in path.relative_to(self.folder).parts)

    def part(self, split: str, aspect: bool = True) -> "Pictures":
        """Another split of the same scan; aspect False reads it as squares."""
        check_split(split, self._share)
        other = copy.copy(self)
        if not aspect:
            other.sizes, other._groups = [self.shape[1:]], None
        other._choose(split)
        return other

    def beside(self, other: "Pictures") -> "Pictures":
        """The pictures of this folder that have the names of another's, in its order and of its split: where its pairs begin.

        A name is the path within the folder, without its ending: a/1.png and a/1.jpg are a pair.

        Raises:
            ValueError: naming the first picture of either folder that the other has no one of, or has two of.
        """
        own, theirs = self._named(), other._named()
        for here, there, names, others in ((other, self, theirs, own), (self, other, own, theirs)):
            if alone := next((name for name in names if name not in others), None):
                raise ValueError(
                    f"{names[alone]} has no picture of its name in {there.folder}, and pairs are told by their names; give "
                    f"it one, or take it out of {here.folder}."
                )
        made = copy.copy(self)
        at = {path: k for k, path in enumerate(self._paths)}
        made._take([at[own[other._name(path)]] for path in other.paths])
        return made

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).with_suffix("").as_posix()

    def _named(self) -> dict[str, Path]:
        """Every picture, of all splits, by its name."""
        found: dict[str, Path] = {}
        for path in self._paths:
            if (name := self._name(path)) in found:
                raise ValueError(f"{found[name]} and {path} have one name, by which pairs are told; take one of them out.")
            found[name] = path
        return found

    def _choose(self, split: str) -> None:
        chosen = [i for i, p in enumerate(self._paths) if in_split(str(p.relative_to(self.folder)), self._share, split)]
        if not chosen:
            raise FileNotFoundError(empty(split, self._share, len(self._paths), f"pictures in {self.folder}"))
        self._take(chosen)

    def _take(self, chosen: list[int]) -> None:
        self.paths = [self._paths[i] for i in chosen]
        self.captions = None if self._texts is None else [self._texts[i] for i in chosen]
        self.labels = None if self._labels is None else self._labels[chosen]
        self.groups = None if self._groups is None else self._groups[chosen]
        self._kept = Kept(self._limit)

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> Tensor:
        """(C, H, W) uint8."""
        path, size = self.paths[index], self.sizes[0 if self.groups is None else int(self.groups[index])]
        try:
            return self._kept.get(index, lambda: decode(path, size, self.channels))
        except Unreadable as error:
            raise ValueError(f"{path} was whole when it was scanned and cannot be read any more: {error}.") from None

    def batch(self, index: Tensor) -> Batch:
        if self.groups is not None and len(shapes := self.groups[index].unique()) > 1:
            raise ValueError(
                f"the batch mixes {len(shapes)} shapes; read by an Order with groups=source.groups, or with aspect=False."
            )
        x = to_unit(torch.stack([self._read(i) for i in torch.as_tensor(index).tolist()]))
        return Batch(x, self.conditions(index))

    def conditions(self, index: Tensor) -> dict[str, Tensor] | None:
        """What `batch` gives as cond, without decoding."""
        return None if self.labels is None else {"label": self.labels[index]}

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """The batch as training sees it."""
        return mirror(batch, noise) if self.flip else batch

    def digest(self) -> str:
        """SHA-256 over names, contents, captions, and what pictures are made into, for protocol cards and caches."""
        total = hashlib.sha256(str((self.shape, self.sizes)).encode())
        for k, path in enumerate(self.paths):
            total.update(str(path.relative_to(self.folder)).encode() + path.read_bytes())
            total.update(b"" if self.captions is None else self.captions[k].encode())
        return total.hexdigest()[:16]


def buckets(size: int, step: int = 8) -> list[tuple[int, int]]:
    """Shapes (height, width) of about size^2 pixels, with sides that are multiples of `step` and aspects from 1:4 to 4:1.

    One width for each height and one height for each width, as in SDXL (Podell et al., 2307.01952, appendix I).

    Raises:
        ValueError: if size is no multiple of step.
    """
    if size < 1 or step < 1 or size % step:
        raise ValueError(f"size is {size} and bucket_step {step}; make size a multiple of bucket_step.")
    sides = {(a, round(size**2 / a / step) * step) for a in range(step, 2 * size + 1, step) if size <= 2 * a}
    sides = {(a, b) for a, b in sides if b}  # steps as long as a side leave no room for every aspect
    return sorted(sides | {(b, a) for a, b in sides})


def _nearest(seen: tuple[int, int] | str, sizes: list[tuple[int, int]]) -> int:
    assert not isinstance(seen, str)
    aspect = math.log(seen[0] / seen[1])
    return min(range(len(sizes)), key=lambda k: abs(math.log(sizes[k][0] / sizes[k][1]) - aspect))
