"""Thinning of bench/sketches.py: lines of one pixel that keep a shape's pieces and holes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import langevin as lv
from tests.benches import BENCH, bench


@pytest.fixture(scope="module")
def sketches():
    return bench("sketches")


def pieces(ink):
    """(Pieces of ink, whose pixels meet at corners; pieces of paper, which do not)."""
    return ndimage.label(ink, np.ones((3, 3)))[1], ndimage.label(~np.pad(ink, 1))[1]


def test_a_bar_becomes_its_line_and_a_ring_stays_one(sketches):
    bar, ring = np.zeros((2, 20, 20), bool)
    bar[4:16, 7:12] = True
    ring[3:17, 3:17] = True
    ring[7:13, 7:13] = False
    line, loop = sketches.thinned(np.stack([bar, ring]))
    assert line.sum(1).max() == 1 and set(np.flatnonzero(line.any(0))) == {9} and line.sum() >= 7
    assert pieces(loop) == pieces(ring) == (1, 2) and loop.sum() < ring.sum() / 3
    assert not (loop & ~ring).any()


def test_digits_keep_their_pieces_and_holes(sketches):
    x = lv.data.digits("test").x[:100, 0]
    ink = np.kron((x > 0).numpy(), np.ones((1, 3, 3), bool))
    thin = sketches.thinned(ink)
    assert all(pieces(a) == pieces(b) for a, b in zip(ink, thin, strict=True))
    assert thin.sum() < 0.35 * ink.sum()
    # what is thin stays as it is
    assert (sketches.thinned(thin) == thin).all()


def test_the_page_says_what_was_measured():
    with (BENCH / "results" / "sketches.csv").open(newline="") as lines:
        found = {r["measure"].partition(": ")[2]: float(r["value"]) for r in csv.DictReader(lines)}
    page = (Path(__file__).parents[2] / "docs" / "flows.md").read_text()
    best = min(value for name, value in found.items() if name.startswith("widened"))
    made, sketch, best = (f"{value:.3f}".lstrip("0") for value in (found["made"], found["the sketch itself"], best))
    assert f"on average {made} from their digits" in page and f"are {sketch} from them" in page
    assert f"the best that convolving lines can do is {best}" in page
