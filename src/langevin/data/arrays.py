"""Data sets that are arrays, in memory or in .npy files."""

import hashlib
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.tree import leaves, tree, tree_map
from langevin.data.decode import Unreadable, npy_header, to_unit


class Arrays:
    """Tensors, in memory or in files that are read row by row.

    Args:
        x: (N, *shape), or a dict of them by leaf; tensors, numpy arrays, or paths of .npy files, which are mapped into
            memory rather than loaded. Floats for Gaussian processes, int64 for categorical ones; uint8 is pictures, which
            `batch` gives as floats in [-1, 1].
        cond: conditions by name, each (N, ...), in the same forms.

    Raises:
        ValueError: if the numbers of rows differ or are 0, or a file is no .npy file of numbers.
    """

    def __init__(self, x: Any, cond: Mapping[str, Any] | None = None) -> None:
        if cond is not None and not isinstance(cond, Mapping):
            raise ValueError(f'cond is a {type(cond).__name__}; name the conditions, such as Arrays(x, {{"label": labels}}).')
        x, cond = tree_map(_usable, x), {n: _tensor(c, f"cond[{n!r}]") for n, c in (cond or {}).items()}
        sizes = {len(v) for v in [*leaves(x).values(), *(cond or {}).values()]}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"the arrays have {sorted(sizes)} rows; give the same number, above 0, everywhere.")
        self.x, self.cond = x, dict(cond) if cond else None
        self.shape = tree({n: tuple(v.shape[1:]) for n, v in leaves(x).items()})

    def __len__(self) -> int:
        return len(next(iter(leaves(self.x).values())))

    def batch(self, index: Tensor) -> Batch:
        cond = None if self.cond is None else {n: c[index] for n, c in self.cond.items()}
        return Batch(tree_map(lambda v: to_unit(v[index]), self.x), cond)

    def split(self, at: int) -> "tuple[Arrays, Arrays]":
        """The first `at` rows, and the rest; nothing is copied."""

        def part(rows: slice) -> Arrays:
            return Arrays(tree_map(lambda v: v[rows], self.x), {n: c[rows] for n, c in (self.cond or {}).items()})

        return part(slice(at)), part(slice(at, None))

    def digest(self) -> str:
        """SHA-256 of all values, for protocol cards."""
        total = hashlib.sha256()
        for name, value in sorted({**leaves(self.x), **(self.cond or {})}.items()):
            total.update(name.encode() + str(tuple(value.shape)).encode())
            for rows in value.split(1024):
                total.update(rows.contiguous().numpy())
        return total.hexdigest()[:16]


_UNUSABLE = {torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.complex64, torch.complex128}
"""No numbers of data, nor a scale that pictures have: 16 bits are brought to [-1, 1] by whoever knows their largest value."""


def _usable(value: Any) -> Tensor:
    """`_tensor` of samples."""
    made = _tensor(value, "x")
    if made.dtype in _UNUSABLE:
        what = value if isinstance(value, (str, Path)) else "x"
        raise ValueError(f"{what} is {made.dtype}; give floats, int64 for categories, or uint8 for pictures.")
    return made


def _tensor(value: Any, field: str) -> Tensor:
    """A tensor (N, ...) of what stands in memory, or in a file."""
    if not isinstance(value, (str, Path)):
        made = numbers(value, field)
        if not made.ndim:
            raise ValueError(f"{field} is the number {made.item()}; give one entry for each sample, (N, ...).")
        return made
    try:
        with open(value, "rb") as file:
            shape, fortran, dtype = npy_header(file, os.fstat(file.fileno()).st_size)
            start = file.tell()
        if not shape or not shape[0]:
            raise Unreadable(f"it has the shape {shape}, without a row")
        # "c" is "r" without torch's warning of read-only memory: a write would stay in memory, and there are none
        order = "F" if fortran else "C"
        rows = np.memmap(value, dtype, "c", start, shape, order) if math.prod(shape) else np.empty(shape, dtype, order)
        return torch.from_numpy(rows)
    except FileNotFoundError:
        raise FileNotFoundError(f"{value} does not exist; give an .npy file.") from None
    except (OSError, ValueError, TypeError) as error:
        why = str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: no numbers that tensors hold"
        raise ValueError(
            f"{value} cannot be read as one array of numbers ({why}); save it with numpy.save (an .npz file array by array)."
        ) from None


def numbers(value: Any, field: str, remedy: str = "give a tensor, a numpy array, or lists of one length") -> Tensor:
    """A tensor of a tensor, array, number or lists, which share their memory where they can.

    Args:
        field: what it is, and `remedy` what to do, for a sentence.

    Raises:
        ValueError: for what is no array of numbers.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        if not value.dtype.isnative or any(stride < 0 for stride in value.strides):
            if isinstance(value, np.memmap):
                raise ValueError(f"{field} is mapped in another order of bytes or rows; save it anew as a plain .npy.")
            value = np.asarray(value, value.dtype.newbyteorder("="), "C")
        with warnings.catch_warnings():  # of memory that may only be read: nothing here writes into it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(value)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{field} is a {type(value).__name__} that is no array of numbers; {remedy}.") from None
