"""Published feature networks from a file: safetensors only, every tensor used or named."""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from langevin.evaluate.clip import CLIP, load_clip
from langevin.evaluate.dinov2 import DINOv2
from langevin.evaluate.inception import InceptionTF
from langevin.spec import nearest

MARKS = {"Mixed_5b.branch1x1.conv.weight": InceptionTF, "blocks.0.attn.qkv.weight": DINOv2}
"""A tensor that only the layout has."""


def load_features(path: str | Path, device: torch.device | str = "cpu") -> InceptionTF | DINOv2 | CLIP:
    """The network a safetensors file holds, told by the names of its tensors, or the CLIP of a folder; nothing is downloaded.

    Raises:
        ValueError: if the file is of another kind or damaged, or its tensors are not exactly those of the layout.
    """
    path = Path(path)
    if path.is_dir():
        return load_clip(path, device)
    tensors, digest = read_safetensors(path)
    kind = next((kind for mark, kind in MARKS.items() if mark in tensors), None)
    if kind is None:
        near = "; ".join(f"{m!r}, nearest {nearest(m, list(tensors))!r}" for m in MARKS) if tensors else "any tensor"
        raise ValueError(f"{path} is neither InceptionTF nor DINOv2 in their published names: it lacks {near}.")
    tensors = {name: value for name, value in tensors.items() if name not in kind.UNUSED and not name.endswith(kind.UNUSED)}
    with torch.device("meta"):
        net = kind.of(tensors)
    load_strict(net, tensors, path)
    net.hash = digest
    return net.eval().requires_grad_(False).to(device)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """(tensors, hash of the file), read once: what is hashed is what is loaded.

    Raises:
        ValueError: if it is no whole safetensors file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}); give a safetensors file of a feature network."
        ) from None
    try:
        return load(data), hashlib.sha256(data).hexdigest()[:16]
    except (SafetensorError, KeyError, ValueError, RuntimeError, struct.error):
        raise ValueError(
            f"{path} is no whole safetensors file, and no other kind is read, since .pth and .ckpt files can run code; convert "
            "it once where you trust it (docs/evaluation.md says how), and give the result."
        ) from None


def load_strict(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `net` (on any device, meta included) these tensors as its own, in float32.

    Raises:
        ValueError: naming the first tensor that is missing, too many, or of another shape.
    """
    wanted, kind = net.state_dict(), type(net).__name__
    for name, value in wanted.items():
        if name not in tensors:
            raise ValueError(f"{path} lacks {name!r}, which {kind} has; its nearest is {nearest(name, list(tensors))!r}.")
        if tensors[name].shape != value.shape:
            raise ValueError(
                f"{path} has {name!r} of shape {tuple(tensors[name].shape)}, and {kind} of {tuple(value.shape)}; "
                "it is another network."
            )
    for name in tensors:
        if name not in wanted:
            raise ValueError(f"{path} has {name!r}, which {kind} has not; its nearest is {nearest(name, list(wanted))!r}.")
    net.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
