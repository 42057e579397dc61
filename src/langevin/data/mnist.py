"""MNIST, and any set in its idx files, gzipped or not."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch

from langevin.data.arrays import Arrays
from langevin.data.digits import pick


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes.

    Raises:
        ValueError: if the file is no such file, or shorter or longer than its header says.
    """
    raw = path.read_bytes()
    data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of bytes; give the files as they were published.")
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    body = data[4 + 4 * dims :]
    if len(body) != math.prod(shape):
        raise ValueError(f"{path} holds {len(body)} values where its header says {shape}; fetch it again.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def mnist(folder: str | Path, split: str = "train", test: int = 1000) -> Arrays:
    """Pictures x (N, 1, 28, 28) in [-1, 1] with cond["label"], from every images/labels pair of idx files in `folder`.

    The set is split in file order: its last `test` pictures are the test split ("all" gives everything).
    """
    folder = Path(folder)
    images = sorted(p for p in folder.glob("*images*") if p.is_file()) if folder.is_dir() else []
    if not images:
        raise FileNotFoundError(f"{folder} has no idx files named *images*; put the MNIST files there, or pass another folder.")
    pairs = [(read_idx(p), read_idx(p.with_name(p.name.replace("images-idx3", "labels-idx1")))) for p in images]
    x = torch.from_numpy(np.concatenate([a for a, _ in pairs])).float()[:, None] / 127.5 - 1
    y = torch.from_numpy(np.concatenate([b for _, b in pairs]).astype(np.int64))
    if len(x) != len(y):
        raise ValueError(f"{folder} has {len(x)} pictures and {len(y)} labels; give matching files.")
    every = Arrays(x, {"label": y})
    train, held = every.split(len(x) - test)
    return pick(split, {"train": train, "test": held, "all": every})
