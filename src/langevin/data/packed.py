"""Short texts one after the other, so that no place of a sample is spent on filling it up."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.data.text import Documents


class Packed:
    """Windows of `length` tokens of texts one after the other, each with the token that ends it: x (B, length) int64.

    A window is one sample, whose texts see each other, and where they end is learned and paid for like any other token.

    Args:
        documents: the texts.
        length: tokens of a window.
        stride: tokens from one window to the next; by default windows do not overlap. What does not fill a window is left out.
        apart: tell the condition "document" (B, length), which numbers the texts within a window, for networks that let no text
            see another. It says where texts end: bounds are then of texts whose lengths are known, and samples need a layout too.

    Raises:
        ValueError: if the texts do not fill a window.
    """

    groups = None

    def __init__(self, documents: Documents, length: int = 256, stride: int | None = None, apart: bool = False) -> None:
        self.documents, self.length, self.stride, self.apart = documents, length, stride or length, apart
        rows, end = documents.tokens, documents.end
        used = (rows == end).argmax(1) + 1  # every text has a token that ends it
        kept = np.arange(rows.shape[1]) < used[:, None]
        self.tokens, self.number = rows[kept], np.repeat(np.arange(len(rows)), used)
        self.letters = documents.letters + len(rows)
        if len(self.tokens) < length:
            raise ValueError(
                f"the split {documents.split!r} has {len(self.tokens)} tokens, fewer than a window of {length}; make it shorter, "
                "or give more text."
            )

    @property
    def alphabet(self) -> Any:
        return self.documents.alphabet

    @property
    def categories(self) -> int:
        return self.documents.categories

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def __len__(self) -> int:
        return (len(self.tokens) - self.length) // self.stride + 1

    def batch(self, index: Tensor) -> Batch:
        at = index.numpy()[:, None] * self.stride + np.arange(self.length)
        x, number = torch.from_numpy(self.tokens[at].astype(np.int64)), torch.from_numpy(self.number[at])
        return Batch(x, {"document": number - number[:, :1]} if self.apart else None)

    def part(self, split: str, stride: int | None = None) -> "Packed":
        """Another split, of the same alphabet."""
        return Packed(self.documents.part(split), self.length, stride or self.stride, self.apart)

    def digest(self) -> str:
        how = "packed" if self.apart else "joined"
        return hashlib.sha256(f"{self.documents.digest()} {how} in {self.length} every {self.stride}".encode()).hexdigest()[:16]
