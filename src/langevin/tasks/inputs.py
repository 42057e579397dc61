"""Pictures, masks and hints of a request as tensors, and tensors as pictures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Picture = Image.Image | Tensor
Pictures = Picture | Sequence[Picture]
"""One or several: (3, H, W), (B, 3, H, W), or a list of such tensors or PIL images."""


def as_bytes(x: Tensor) -> np.ndarray[Any, Any]:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    if not bool(x.isfinite().all()):
        raise ValueError("the pictures hold values that are not finite; the model or the plan diverged.")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def tensor_of(image: Picture) -> Tensor:
    """A picture (1, 3, H, W) in [-1, 1]."""
    if isinstance(image, Tensor):
        x = image if image.ndim == 4 else image[None]
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not bool(x.isfinite().all()) or float(x.abs().max()) > 1.001:
            raise ValueError(
                f"a picture has shape {tuple(image.shape)}; give (3, H, W) or (B, 3, H, W) in [-1, 1], or a PIL image."
            )
        return x.float()
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def each(pictures: Pictures) -> list[Picture]:
    """The pictures, or masks, one by one."""
    if isinstance(pictures, Tensor):
        return [pictures] if pictures.ndim < 4 else list(pictures)
    return [pictures] if isinstance(pictures, Image.Image) else [one for some in pictures for one in each(some)]


def several(pictures: Pictures) -> list[Tensor]:
    """The pictures, (1, 3, H, W) each, in [-1, 1].

    Raises:
        ValueError: for none, or one of another shape or range.
    """
    found = [tensor_of(one) for one in each(pictures)]
    if not found:
        raise ValueError("a list of pictures is empty; give one at least, or leave it out.")
    return found


def mask_of(mask: Picture, size: tuple[int, int] | None = None) -> Tensor:
    """(1, 1, H, W) in [0, 1], scaled to (width, height); tensors are taken as they are."""
    if isinstance(mask, Tensor):
        x = mask.float().reshape(1, 1, *mask.shape[-2:])
        if float(x.min()) < 0 or float(x.max()) > 1:
            raise ValueError(f"mask spans [{x.min():g}, {x.max():g}]; give 1 where the picture is painted anew and 0 elsewhere.")
    else:
        x = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32) / 255)[None, None]
    return x if size is None or x.shape[-2:] == (size[1], size[0]) else F.interpolate(x, (size[1], size[0]))


def sized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures scaled to (width, height) in pixels."""
    if x.shape[-2:] == (size[1], size[0]):
        return x
    shrinking = math.prod(x.shape[-2:]) > size[0] * size[1]
    return F.interpolate(x, (size[1], size[0]), mode="bicubic", antialias=shrinking).clamp(-1, 1)
