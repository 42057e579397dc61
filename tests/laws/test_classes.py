"""Which classes training and held-out data have, and grey values with a density."""

import pytest
import torch

from langevin.core.tree import leaves
from langevin.data import digits
from langevin.recipes import config as c
from langevin.recipes.domains.pictures import read


def test_a_class_left_out_is_held_out_alone():
    train, test = read(c.DigitsData(without=3))
    assert set(train.cond["label"].tolist()) == set(range(10)) - {3}
    whole = digits("train")
    assert torch.equal(train.x, whole.x[whole.cond["label"] != 3])
    assert torch.equal(test.x, digits("test").x) and 3 in test.cond["label"].tolist()
    bare, held = read(c.DigitsData(without=3, labels=False))
    assert bare.cond is None and held.cond is None and torch.equal(bare.x, train.x)
    with pytest.raises(ValueError, match="one of them"):
        read(c.DigitsData(only=2, without=3))
    with pytest.raises(ValueError, match="'joint'; spread"):
        read(c.DigitsData(form="joint", labels=False))


def test_spread_values_fill_their_cells_evenly_and_never_leave_them():
    train, test = read(c.DigitsData(spread=4, labels=False))
    whole = leaves(digits("train").x)[""]
    inside = (leaves(train.x)[""].reshape(4, *whole.shape) - whole) * 8 + 0.5  # (0, 1) within a cell
    assert float(inside.min()) >= -1e-4 and float(inside.max()) <= 1 + 1e-4
    share = torch.histc(inside, 10, 0, 1) / inside.numel()
    assert (share - 0.1).abs().max() < 4 * (0.09 / inside.numel()) ** 0.5
    assert float((inside[0] - inside[1]).abs().mean()) == pytest.approx(1 / 3, abs=0.01)  # each copy anew
    assert torch.equal(test.x, digits("test").x)  # held-out data is spread by who asks for a likelihood
