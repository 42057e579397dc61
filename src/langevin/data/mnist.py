"""MNIST, and any set in its idx files, gzipped or not."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from langevin.data.arrays import Arrays
from langevin.data.digits import pick

_RATIO = 1032  # deflate makes nothing smaller than this


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes.

    Raises:
        ValueError: if the file is no such file, or shorter or longer than its header says.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08":
                raise ValueError(f"{path} is no idx file of bytes; give the files as they were published.")
            dims = head[3]
            told = file.read(4 * dims)
            if len(told) < 4 * dims:
                raise ValueError(f"{path} ends within its header; fetch it again.")
            shape = struct.unpack(f">{dims}I", told)
            count = math.prod(shape)
            # memory is taken for what the file can hold at most, whatever its header says
            body = file.read(count + 1) if count <= path.stat().st_size * (_RATIO if packed else 1) else b""
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"{path} is damaged and cannot be unpacked; fetch it again.") from None
    if len(body) != count or not 0 < dims <= 32:
        raise ValueError(f"{path} does not hold the values its header says, {str(shape)[:60]}; fetch it again.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def mnist(folder: str | Path, split: str = "train", test: int = 1000) -> Arrays:
    """Pictures x (N, 1, 28, 28) in [-1, 1] with cond["label"], from every images/labels pair of idx files in `folder`.

    The set is split in file order: its last `test` pictures are the test split ("all" gives everything).
    """
    folder = Path(folder)
    images = sorted(p for p in folder.glob("*images*") if p.is_file()) if folder.is_dir() else []
    if not images:
        raise FileNotFoundError(f"{folder} has no idx files named *images*; put the MNIST files there, or pass another folder.")
    pairs = []
    for path in {p.name.removesuffix(".gz"): p for p in images}.values():  # packed and unpacked side by side is one file
        labels = path.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", path.name))
        if labels == path or not labels.exists():
            raise FileNotFoundError(f"{path} has no labels beside it as {labels.name}; put them there.")
        x, y = read_idx(path), read_idx(labels)
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise ValueError(f"{path} holds {x.shape} and {labels.name} {y.shape}; give pictures (N, H, W) and a label for each.")
        if pairs and x.shape[1:] != pairs[0][0].shape[1:]:
            raise ValueError(
                f"{path} has pictures {x.shape[1:]} and others have {pairs[0][0].shape[1:]}; give each its own folder."
            )
        pairs.append((x, y))
    x = torch.from_numpy(np.concatenate([a for a, _ in pairs])).float()[:, None] / 127.5 - 1
    y = torch.from_numpy(np.concatenate([b for _, b in pairs]).astype(np.int64))
    if not 0 < test < len(x):
        raise ValueError(f"{folder} has {len(x)} pictures, with {test} to hold out; make them fit.")
    every = Arrays(x, {"label": y})
    train, held = every.split(len(x) - test)
    return pick(split, {"train": train, "test": held, "all": every})
