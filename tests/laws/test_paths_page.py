"""The bench of learned paths: its integrals, its checkerboard, and the page that says what it measured."""

import csv
import math
import re
from pathlib import Path

import pytest
import torch

from langevin import schedules
from tests.benches import BENCH, bench


@pytest.fixture(scope="module")
def paths():
    return bench("paths")


def test_energies_are_the_closed_forms(paths):
    # int sin^2 cos^2 / (s^2 cos^2 + sin^2) = pi / (4 (1 + s)^2) over a quarter; V V' of the straight path is linear in t
    m, s = paths.MEAN, paths.STD
    known = {"trigonometric": math.pi**2 / 8 * (m**2 + (1 - s) ** 2), "flow": m**2 + 1 + s**2 - math.pi * s / 2}
    for name, value in known.items():
        assert float(paths.energy(getattr(schedules, name)())) == pytest.approx(value, abs=1e-6)
    # more modes hold a better path, and none is better than optimal transport
    assert m**2 + (1 - s) ** 2 < paths.best(2) < paths.best(1) < known["flow"]


def test_the_checkerboard_is_uniform_on_every_second_square(paths):
    x, count = paths.checkerboard(40_000, 3), 40_000
    i, j = (x + 2).floor().long().unbind(1)
    assert bool(((i + j) % 2 == 0).all()) and int(i.min()) == 0 and int(i.max()) == 3
    squares = torch.bincount(4 * i + j, minlength=16)
    assert int((squares > 0).sum()) == 8  # of area 1: the entropy is log 8
    share = squares[squares > 0] / count
    assert float((share - 1 / 8).abs().max()) < 4 * (1 / 8 * 7 / 8 / count) ** 0.5
    within = (x - x.floor()).mean(0)
    assert torch.allclose(within, torch.full((2,), 0.5), atol=4 * (1 / 12 / count) ** 0.5)


def test_the_page_says_what_was_measured():
    with (BENCH / "results" / "paths.csv").open(newline="") as lines:
        found = {row["what"]: row for row in csv.DictReader(lines)}
    page = (Path(BENCH).parent / "docs" / "flows.md").read_text()
    said = re.search(
        r"energies are ([\d.]+) \(trigonometric\), ([\d.]+) \(linear\), ([\d.]+) and ([\d.]+) .*?([\d.]+) \(learned", page, re.S
    )
    assert said is not None
    order = ("trigonometric path", "straight path", "best of 4 modes", "best of 8 modes", "path learned with its network")
    assert list(said.groups()) == [f"{float(found[name]['value']):.3f}" for name in order]
    nats = re.search(r"says ([\d.]+) nats a held-out point after ([\d,]+) updates .*?log 8 = ([\d.]+)", page, re.S)
    row = found["flow, nats a point"]
    assert nats is not None and nats.groups() == (
        f"{float(row['value']):.3f}", f"{int(row['updates']):,}", f"{math.log(8):.3f}",
    )  # fmt: skip
