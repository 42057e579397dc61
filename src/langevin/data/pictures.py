"""A folder of pictures, scanned before training and decoded as it is read."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from langevin.core.batch import Batch

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
MAX_PIXELS = 64_000_000


class Pictures:
    """Every picture below a folder, cropped to a square in its middle and resized; classes by subfolder.

    Args:
        folder: where the pictures are. If all stand in subfolders, their names, sorted, are the classes.
        size: side in pixels.
        channels: 3 for colour, 1 for grey.
        broken: "fail" refuses a folder with pictures that cannot be read, naming each; "skip" leaves them out and says so.
        held_out: share of pictures kept for testing, chosen by a hash of the name.
        split: "train", "test" or "all".

    Raises:
        FileNotFoundError: if there are no pictures.
        ValueError: if some cannot be read and broken is "fail".
    """

    def __init__(
        self,
        folder: str | Path,
        size: int = 64,
        channels: int = 3,
        broken: str = "fail",
        held_out: float = 0.1,
        split: str = "train",
    ) -> None:
        if broken not in ("fail", "skip"):
            raise ValueError(f"broken is {broken!r}; choose 'fail' or 'skip'.")
        if split not in ("train", "test", "all"):
            raise ValueError(f"split is {split!r}; choose one of train, test, all.")
        self.folder, self.size, self.channels = Path(folder), size, channels
        self.shape = (channels, size, size)
        found = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES) if self.folder.is_dir() else []
        if not found:
            raise FileNotFoundError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}); pass a folder that has.")
        bad = {p: why for p in found if (why := _unreadable(p))}
        if bad:
            listing = "\n".join(f"  {p.relative_to(self.folder)}: {why}" for p, why in bad.items())
            if broken == "fail":
                raise ValueError(
                    f"{len(bad)} of {len(found)} pictures cannot be read; mend them or pass broken='skip':\n{listing}"
                )
            warnings.warn(f"left out {len(bad)} of {len(found)} pictures that cannot be read:\n{listing}", stacklevel=2)
        good = [p for p in found if p not in bad]
        parents = {p.relative_to(self.folder).parts[0] if p.parent != self.folder else "" for p in good}
        self.classes = sorted(parents) if "" not in parents and len(parents) > 1 else None
        self.paths = [p for p in good if split == "all" or self._held(p, held_out) == (split == "test")]
        if not self.paths:
            raise FileNotFoundError(f"the {split} split of {folder} is empty; change held_out or add pictures.")
        self._cache: dict[int, Tensor] = {}

    def _held(self, path: Path, share: float) -> bool:
        name = str(path.relative_to(self.folder)).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little") / 2**32 < share

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> Tensor:
        """(C, H, W) uint8."""
        if index not in self._cache:
            with Image.open(self.paths[index]) as picture:
                flat = ImageOps.exif_transpose(picture)
                if flat.mode.startswith("I"):  # 16 bits, which convert() would clip
                    flat = Image.fromarray((np.asarray(flat).astype(np.float64) / 257).round().astype(np.uint8))
                if flat.mode in ("RGBA", "LA", "P"):
                    flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat.convert("RGBA"))
                flat = ImageOps.fit(
                    flat.convert("RGB" if self.channels == 3 else "L"), (self.size, self.size), Image.Resampling.LANCZOS
                )
            self._cache[index] = torch.from_numpy(np.array(flat)).reshape(self.size, self.size, -1).permute(2, 0, 1)
        return self._cache[index]

    def batch(self, index: Tensor) -> Batch:
        x = torch.stack([self._read(i) for i in index.tolist()]).float() / 127.5 - 1
        if self.classes is None:
            return Batch(x)
        return Batch(x, {"label": torch.tensor([self._label(i) for i in index.tolist()])})

    def _label(self, index: int) -> int:
        assert self.classes is not None
        return self.classes.index(self.paths[index].relative_to(self.folder).parts[0])

    def digest(self) -> str:
        """SHA-256 over names and contents, for protocol cards."""
        return _digest(self.paths)


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for p in paths:
        total.update(p.name.encode() + p.read_bytes())
    return total.hexdigest()[:16]


def _unreadable(path: Path) -> str | None:
    """Why a picture cannot be read, or None. The words are ours: a library's error text may carry anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    return f"{picture.width} x {picture.height} is above {MAX_PIXELS:,} pixels"
                picture.load()
                ImageOps.exif_transpose(picture)  # metadata may be damaged where the picture is not
    except FileNotFoundError:
        return "the link leads nowhere"
    except PermissionError:
        return "not allowed to read it"
    except Image.DecompressionBombError:
        return f"above {MAX_PIXELS:,} pixels"
    except Exception:  # decoders of damaged files raise whatever they stumble on
        return "empty" if path.stat().st_size == 0 else "damaged, or no picture"
    return None
