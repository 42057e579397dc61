"""What the tests of checkpoints share: tensors of every kind, and a checkpoint that may be damaged."""

import torch

from langevin.tensors import DTYPES
from langevin.training import Checkpoints

SMALL = {"model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}, "empty": {}}


def every_kind():
    """Tensors of every dtype that the format has, without axes, without values, and out of order in memory."""
    plain = torch.arange(1, 7).reshape(2, 3)
    kinds = {f"of.{name}": plain.to(torch.float32).to(dtype) for name, dtype in DTYPES.items()}
    shapes = {
        "scalar": torch.tensor(-2.5), "none": torch.zeros(0, 3, dtype=torch.bfloat16), "turned": plain.float().t(),
        "every other": torch.arange(10)[::2], "expanded": torch.ones(1).expand(4), "é\"\\": torch.ones(1),
        "not finite": torch.tensor([float("nan"), float("-inf"), -0.0]), "conjugate": torch.tensor([1 + 2j]).conj(),
    }  # fmt: skip
    return {"kinds": kinds, "shapes": shapes, "nothing": {}}


def raw(value):
    """The bytes of a tensor: equality that tells NaN from NaN and -0 from 0."""
    return value.resolve_conj().contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    """Whether two mappings of parts hold the same tensors, bit for bit."""
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys()
        for name, value in a[part].items():
            other = b[part][name]
            assert value.dtype == other.dtype and value.shape == other.shape and torch.equal(raw(value), raw(other)), name
    return True


def files(folder):
    """Every file below a folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def save(folder, step, tensors=SMALL, state=None, keep=2, **settings):
    return Checkpoints(folder, keep, **settings).save(step, tensors, state or {})
