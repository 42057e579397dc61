"""One picture or array, from bytes that may be anything. Limits are checked before memory is given; the words of errors
are ours, since a library's text may carry anything."""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.noise import Noise

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
MAX_PIXELS = 64_000_000
MAX_SIDE = 20_000
MAX_TEXT = 65_536
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # all else that Pillow knows stays shut
_ORIENTATION = 0x0112


class Unreadable(ValueError):
    """Why something cannot be read, as the end of a sentence."""


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Around the reading of one picture that was asked for: an `Unreadable` becomes a ValueError that names the file."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"{path} cannot be read ({error}); give a PNG, JPEG, WEBP, BMP or GIF.") from None


def measure(file: Path | IO[bytes]) -> tuple[int, int]:
    """Decode a picture and forget it.

    Returns:
        (height, width) in pixels, as it is meant to be seen.

    Raises:
        Unreadable: if it cannot be decoded, or is too large to try.
    """
    try:
        with _open(file) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            picture.load()
            return (picture.width, picture.height) if turned else (picture.height, picture.width)
    except Exception as error:
        raise _why(file, error) from None


def decode(file: Path | IO[bytes], size: tuple[int, int], channels: int) -> Tensor:
    """A picture cropped in its middle to the aspect of `size` and resized: (C, H, W) uint8. Transparency becomes white, of
    an animation the first frame counts, and the camera's rotation is undone.

    Raises:
        Unreadable: as `measure`.
    """
    try:
        with _open(file) as picture:
            flat = _upright(picture)
        if flat.mode in ("RGBA", "LA", "PA", "P"):
            flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat.convert("RGBA"))
        flat = ImageOps.fit(flat.convert("RGB" if channels == 3 else "L"), (size[1], size[0]), Image.Resampling.LANCZOS)
    except Exception as error:
        raise _why(file, error) from None
    return torch.from_numpy(np.array(flat)).reshape(*size, -1).permute(2, 0, 1)


def picture_of(file: Path, mode: str = "RGB") -> Image.Image:
    """A picture in its own size, in a mode of Pillow's. The camera's rotation is undone; what transparency hides is shown.

    Raises:
        Unreadable: as `measure`.
    """
    try:
        with _open(file) as picture:
            return _upright(picture).convert(mode)
    except Exception as error:
        raise _why(file, error) from None


def _upright(picture: Image.Image) -> Image.Image:
    """As it is meant to be seen, in 8 bits."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits, which convert() would clip
        picture = Image.fromarray((np.asarray(picture).astype(np.float64) / 257).round().astype(np.uint8))
    return picture


def _open(file: Path | IO[bytes]) -> Image.Image:
    """The header, before anything is decoded."""
    picture = Image.open(file, formats=_FORMATS)
    why = None
    if picture.width * picture.height > MAX_PIXELS:
        why = f"is above {MAX_PIXELS:,} pixels"
    elif max(picture.size) > MAX_SIDE:
        why = f"has a side above {MAX_SIDE:,} pixels"
    if why is not None:
        picture.close()
        raise Unreadable(f"{picture.width} x {picture.height} {why}")
    return picture


def _why(file: Path | IO[bytes], error: Exception) -> Unreadable:
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, FileNotFoundError):
        return Unreadable("the link leads nowhere" if isinstance(file, Path) and file.is_symlink() else "it is gone")
    if isinstance(error, PermissionError):
        return Unreadable("not allowed to read it")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Unreadable(f"above {MAX_PIXELS:,} pixels")
    with suppress(OSError):
        if (file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)) == 0:
            return Unreadable("empty")
    return Unreadable("damaged, or no picture")


def npy_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether it is column by column, dtype) of an .npy file of `size` bytes, which is left at its first value.

    Raises:
        Unreadable: if it is no such file, holds Python objects, or more or less than its header says.
    """
    try:
        try:
            shape, fortran, dtype = _npy_header(file)
        except SystemError:
            # before 3.11.9 and 3.12.3 the interpreter's parser fails where garbage is collected while it is at work (gh-106905)
            shape, fortran, dtype = _npy_header(file)
    except Exception as error:
        raise Unreadable(f"damaged, or no .npy file ({type(error).__name__})") from None
    if dtype.hasobject:
        raise Unreadable("it holds Python objects")
    body = size - file.tell()
    if min(shape, default=1) < 0 or body != math.prod(shape) * dtype.itemsize:
        raise Unreadable(f"it holds {body} bytes where its header says {str(tuple(shape))[:80]} of {str(dtype)[:80]}")
    return shape, fortran, dtype


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def read_npy(data: bytes) -> np.ndarray:
    """An array from the bytes of an .npy file.

    Raises:
        Unreadable: as `npy_header`, and for more dimensions than numpy has.
    """
    file = io.BytesIO(data)
    shape, fortran, dtype = npy_header(file, len(data))
    try:
        return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    except ValueError:  # numpy's own words, of which there are many
        raise Unreadable(f"its header says {str(shape)[:80]}, which is no shape") from None


def read_text(data: bytes) -> str:
    """A caption.

    Raises:
        Unreadable: if it is empty, too long, or not UTF-8.
    """
    if len(data) > MAX_TEXT:
        raise Unreadable(f"its caption is above {MAX_TEXT:,} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise Unreadable("its caption is not UTF-8") from None
    if not text:
        raise Unreadable("its caption is empty")
    return text


def to_unit(x: Tensor) -> Tensor:
    """uint8 is a picture: 0 .. 255 becomes floats in [-1, 1]. All else stays as it is."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def mirror(batch: Batch, noise: Noise) -> Batch:
    """Pictures x (B, C, H, W), each flipped left to right with probability 1/2."""
    x = batch.x
    assert isinstance(x, Tensor)
    return replace(batch, x=torch.where((noise.uniform() < 0.5)[:, None, None, None], x.flip(-1), x))


class Kept:
    """What was decoded once, up to `limit` bytes; what comes later is decoded each time.

    Nothing is dropped for something newer: a shuffled reading comes back to each sample equally late, so that would only
    lower the share that is found.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._known: dict[int, Tensor] = {}

    def get(self, key: int, make: Callable[[], Tensor]) -> Tensor:
        if (found := self._known.get(key)) is not None:
            return found
        made = make()
        if made.nbytes <= self._left:
            self._left -= made.nbytes
            self._known[key] = made
        return made
