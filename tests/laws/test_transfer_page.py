"""What bench/transfer.py says of pictures that were moved, and the page of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.tasks.transport import Transport
from tests.benches import BENCH, bench

PAGE = (Path(__file__).parents[2] / "docs" / "flows.md").read_text()
ROWS = json.loads((BENCH / "results" / "transfer.json").read_text())


@pytest.fixture(scope="module")
def script():
    return bench("transfer")


def test_intervals_hold_the_correlation_as_often_as_they_say(script):
    g, rho, count, sets = np.random.default_rng(0), 0.5, 22, 2000
    a, e = g.standard_normal((2, sets, count))
    b = rho * a + (1 - rho**2) ** 0.5 * e
    found = [script.interval(float(np.corrcoef(x, y)[0, 1]), count) for x, y in zip(a, b, strict=True)]
    assert np.mean([low < rho < high for low, high in found]) == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / sets) ** 0.5)


def test_slant_is_the_shear_and_what_is_kept_is_seen(script):
    # a stroke sheared by k pixels over 8 rows, in ink of some strength
    x = torch.full((40, 1, 9, 19), -1.0)
    shear, ink = torch.linspace(-1, 1, 40), 0.2 + lv.Noise.of(0, 40).uniform(())
    for k in range(40):
        for row in range(9):
            at = 9 + float(shear[k]) * (row - 4)
            low = int(at)
            x[k, 0, row, low] += ink[k] * (1 - (at - low))
            x[k, 0, row, low + 1] += ink[k] * (at - low)
    assert torch.allclose(script.slant(x), shear.double(), atol=1e-6)
    noisy = x + 0.002 * lv.Noise.of(1, 40).normal((1, 9, 19))
    row = script.kept(Transport(0.0, 0.0, x, noisy))
    assert row["slant"] > 0.9 and row["thickness"] > 0.9
    assert row["slant_interval"][0] < row["slant"] < row["slant_interval"][1]
    # another's: neighbours in this order are alike, except for the ink
    assert abs(row["thickness_random"]) < 0.5


def test_the_page_says_what_was_measured(script):
    first, second = (r for r in ROWS if r["split"] == "held out")
    for row in (first, second):
        for name in ("slant", "thickness"):
            assert row[f"{name}_interval"] == pytest.approx(script.interval(row[name], row["pictures"]))
    two = {name: [f"{r[name]:.2f}".lstrip("0") for r in (first, second)] for name in ("slant", "thickness")}
    assert f"thickness is kept with a correlation of {' and '.join(two['thickness'])}" in PAGE.lower()
    assert f"slant with {' and '.join(two['slant'])}" in PAGE
    for name, said in (("thickness", "{} to {} and {} to {} for thickness"), ("slant", "{} to\n{} and {} to {} for slant")):
        ends = [f"{end:.2f}".removeprefix("0") for r in (first, second) for end in r[f"{name}_interval"]]
        assert said.format(*ends) in PAGE
