"""What bench/editing.py puts on its page keeps what each edit is to keep."""

from types import SimpleNamespace

import pytest
import torch

import langevin as lv
from tests.benches import bench


@pytest.fixture(scope="module")
def rows():
    every = lv.data.digits("test").batch(torch.arange(40))
    model = lv.oracles.dataset(lv.Gaussian(lv.schedules.edm()), every.x, every.cond["label"])
    return bench("editing").edits(
        SimpleNamespace(denoiser=model), every.x[:6], every.cond["label"][:6], "consistency:3:grid=angle", 0.01, 0.3
    )


def test_what_is_known_is_kept(rows):
    x = rows["pictures"]
    assert torch.equal(rows["painted in"][..., :4, :], x[..., :4, :]) and bool((rows["half hidden"][..., 4:, :] == 0).all())
    small = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.allclose(torch.nn.functional.avg_pool2d(rows["enlarged"], 2), small, atol=1e-5)
    assert torch.equal(rows["averages"][..., ::2, ::2], small)


def test_noise_is_of_the_deviation_that_is_asked_for_and_goes(rows):
    off = (rows["under noise"] - rows["pictures"]).std()
    assert float(off) == pytest.approx(0.3, rel=0.15)
    # of forty pictures one alone fits what is left under so little noise
    assert torch.allclose(rows["without noise"], rows["pictures"], atol=1e-3)
