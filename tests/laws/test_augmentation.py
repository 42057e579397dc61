"""Augmentation: what is kept is kept to the bit, what is new follows the model, and a stop changes nothing."""

import csv
import hashlib
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from langevin import data, oracles, plans, schedules
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.data import Arrays, Pictures
from langevin.data.distort import elastic, shift
from langevin.recipes import augmenting
from langevin.recipes.config import MnistData
from langevin.recipes.config.augmenting import Wanted
from langevin.recipes.domains import domain_of
from langevin.tasks.augment import augment, stripes
from tests.benches import BENCH, bench

COSINE = Gaussian(schedules.cosine())
SIDE = 8
PLACE = torch.arange(SIDE, dtype=torch.float64)
NEAR = 0.9 ** (PLACE[:, None] - PLACE).abs()
COVARIANCE = 0.1 * torch.kron(NEAR, NEAR)
"""Of normal pictures 8 x 8 whose neighbours are alike."""


def normal(dtype: torch.dtype = torch.float32) -> Any:
    model = oracles.gaussian(COSINE, torch.zeros(64, dtype=torch.float64), COVARIANCE)

    class Picture(BaseDenoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process, self.shape = COSINE, (1, SIDE, SIDE)

        def forward(self, z: Any, t: Any, cond: Any = None, mask: Any = None) -> Any:
            belief: Any = model(z[""].flatten(1).double(), t[""])
            return belief.with_params(belief.mean.reshape(z[""].shape).to(z[""]))

    return Picture()


def drawn(count: int, seed: int = 3) -> torch.Tensor:
    root = torch.linalg.cholesky(COVARIANCE)
    return (Noise.of(seed, count).normal((64,), torch.float64) @ root.T).reshape(-1, 1, SIDE, SIDE).float()


def test_stripes_alternate_and_begin_with_the_new():
    """As measured on the published masks: 256 x 256, 4 pixels new and 4 kept, exactly half of each."""
    upright, across = stripes((256, 256)), stripes((256, 256), direction="horizontal")
    assert upright.double().mean() == 0.5 and bool((upright == across.T).all())
    assert bool((upright[:, :248] == upright[:, 8:]).all()) and upright[0, :9].tolist() == [False] * 4 + [True] * 4 + [False]
    for wide in (2, 4, 8, 16):
        other = stripes((256, 256), wide, first="kept")
        assert bool((stripes((256, 256), wide) ^ other).all())
        assert int((other[:, 1:] != other[:, :-1]).any(0).sum()) == 256 // wide - 1  # every border, and no other
    assert stripes((28, 28)).double().mean() == 12 / 28  # seven stripes, four of them new


def test_a_mask_of_ones_own_is_white_where_pictures_are_painted_anew(tmp_path):
    hole = Image.new("L", (8, 6))
    hole.paste(255, (2, 1, 5, 4))
    hole.save(tmp_path / "a-hole.png")
    ((name, kept),) = augmenting.masks_of(Wanted(mask=str(tmp_path / "a-hole.png")), (3, 6, 8)).items()
    new = torch.zeros(6, 8, dtype=torch.bool)
    new[1:4, 2:5] = True
    assert name == "a_hole" and torch.equal(kept, ~new)
    for wanted, said in (
        (Wanted(mask=str(tmp_path / "a-hole.png"), thickness=(2,)), r"thickness is \(2,\), of stripes"),
        (Wanted(mask=str(tmp_path / "none.png")), "none.png cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            augmenting.masks_of(wanted, (3, 6, 8))


def test_kept_pixels_stay_to_the_bit_and_new_ones_are_the_models(tmp_path):
    """With an exact model of normal pictures what is new has the moments of its posterior given what is kept, but for the bias
    that RePaint leaves, and is the further from the source the wider the stripes."""
    x = drawn(1).expand(400, -1, -1, -1).contiguous()
    masks = {f"vertical-{wide}": stripes((SIDE, SIDE), wide) for wide in (1, 2, 4)}
    made = augment(normal(), Arrays(x), masks, tmp_path, plan=plans.repaint(30, 5, 8), draws=1, batch=400)
    new = made.new(torch.arange(400))
    for k, mask in enumerate(made.masks.values()):
        assert torch.equal(new[:, k][:, mask], x[:, mask])
    found = made.check()
    assert float(found.slip.max()) < 1e-4 and bool(found.passed.all())
    wide = found.repainted.square().mean(0).sqrt()
    assert float(wide[0]) < float(wide[1]) < float(wide[2])
    for k, mask in enumerate(made.masks.values()):
        at, to = mask.flatten().nonzero()[:, 0], (~mask.flatten()).nonzero()[:, 0]
        gain = COVARIANCE[to][:, at] @ torch.linalg.inv(COVARIANCE[at][:, at])
        mean = gain @ x[0].flatten().double()[at]
        spread = COVARIANCE[to][:, to] - gain @ COVARIANCE[at][:, to]
        got = new[:, k].flatten(1).double()[:, to]
        assert (got.mean(0) - mean).norm() < 0.35 * mean.norm()
        assert abs(float(torch.cov(got.T).trace() / spread.trace()) - 1) < 0.25


def test_a_second_round_keeps_to_the_first(tmp_path):
    """Round two begins with what round one drew, and keeps of it what its own mask says."""
    x, cross = drawn(6), {"v": stripes((SIDE, SIDE), 2), "h": stripes((SIDE, SIDE), 2, "horizontal")}
    every, plan = torch.arange(6), plans.repaint(6, 2, 2)
    one = augment(normal(), Arrays(x), cross, tmp_path / "1", plan=plan, draws=1).new(every)
    two = augment(normal(), Arrays(x), cross, tmp_path / "2", plan=plan, draws=1, rounds=2).new(every)
    for k, (first, second) in enumerate((("v", "h"), ("h", "v"))):
        assert torch.equal(two[:, k, :, cross[second]], one[:, k, :, cross[second]])
        fresh = ~cross[second]
        assert bool((two[:, k, :, fresh] != one[:, k, :, fresh]).all())
        both = cross[first] & cross[second]
        assert both.double().mean() == 0.25 and torch.equal(two[:, k, :, both], x[:, :, both])


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file, by name; but for locks."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Stopped(Exception):
    pass


def run(stop: int | None = None) -> Any:
    """What `augmentation` needs of a run of digits: an exact model in place of a trained one, which stops after so many calls."""
    train, test = data.digits("train"), data.digits("test")
    model = oracles.dataset(COSINE, train.batch(torch.arange(200, 260)).x)

    class Counting(BaseDenoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process, self.shape, self.calls, self.model = COSINE, (1, 8, 8), 0, model

        def forward(self, z: Any, t: Any, cond: Any = None, mask: Any = None) -> Any:
            self.calls += 1
            if stop is not None and self.calls > stop:
                raise Stopped
            return self.model(z[""], t[""], cond, mask)

    facts = SimpleNamespace(shape=(1, 8, 8), classes=None, factor=None, codec=None)
    told = SimpleNamespace(objective=SimpleNamespace(ends=False, kind="denoising"), process=None)
    return SimpleNamespace(facts=facts, denoiser=Counting(), train=train, test=test, recipe=told)


WANTED = Wanted(thickness=(2,), draws=2, steps=8, jump=2, resample=2, batch=4, limit=0.4)


def test_a_stop_changes_no_byte_and_the_seed_names_the_pictures(tmp_path):
    source = data.digits("train").split(10)[0]
    whole = augmenting.augmentation(run(), source, tmp_path / "whole", WANTED)
    with pytest.raises(Stopped):
        augmenting.augmentation(run(stop=100), source, tmp_path / "torn", WANTED)
    assert not (tmp_path / "torn" / "report.json").exists()
    again = run()
    augmenting.augmentation(again, source, tmp_path / "torn", WANTED)
    assert tree(tmp_path / "torn") == tree(tmp_path / "whole")
    first = run()
    augmenting.augmentation(first, source, tmp_path / "first", WANTED)
    assert 0 < again.denoiser.calls < first.denoiser.calls  # what was made was not made again
    done = run()
    assert augmenting.augmentation(done, source, tmp_path / "whole", WANTED) == whole and not done.denoiser.calls
    with pytest.raises(ValueError, match=r"is stale: it holds pictures of other weights, .* or seed; ask for the same"):
        augmenting.augmentation(run(), source, tmp_path / "whole", Wanted(**{**vars(WANTED), "seed": 1}))
    other = augmenting.augmentation(run(), source, tmp_path / "other", Wanted(**{**vars(WANTED), "seed": 1}))
    assert other["rmse by thickness"] != whole["rmse by thickness"]


def test_what_is_written_is_read_by_training_and_labels_stand_only_where_the_check_passed(tmp_path):
    source = data.digits("train").split(12)[0]
    said = augmenting.augmentation(run(), source, tmp_path, WANTED)
    rows = list(csv.DictReader((tmp_path / "augmented.csv").read_text().splitlines()))
    passed = [r for r in rows if r["passed"] == "1"]
    assert len(rows) == said["drawn"] == 48 and len(passed) == said["passed"] and 0 < len(passed) < 48
    labels = [str(k) for k in source.cond["label"].tolist()]
    assert all((float(r["moved"]) <= 0.4) == (r["passed"] == "1") for r in rows)
    assert all(r["label"] == labels[int(r["source"])] for r in rows)
    read = Pictures(tmp_path / "pictures", 8, 1, split="all")
    assert len(read) == 12 + len(passed) and read.classes is not None
    mask = {name: stripes((8, 8), 2, name.split("-")[0]) for name in ("vertical-2", "horizontal-2")}
    place = {str(p.relative_to(tmp_path / "pictures")): k for k, p in enumerate(read.paths)}
    for r in passed:
        found = read.batch(torch.tensor([place[r["file"]]]))
        kept, whole = mask[r["mask"]], read.batch(torch.tensor([place[f"{r['label']}/{int(r['source']):06d}.png"]])).x[0]
        assert read.classes[int(found.cond["label"])] == r["label"] and torch.equal(found.x[0, :, kept], whole[:, kept])
    # a stricter limit takes pictures away again
    strict = augmenting.augmentation(run(), source, tmp_path, Wanted(**{**vars(WANTED), "limit": 0.2}))
    assert len(Pictures(tmp_path / "pictures", 8, 1, split="all")) == 12 + strict["passed"] < 12 + said["passed"]
    bare = augmenting.augmentation(run(), source, tmp_path, Wanted(**{**vars(WANTED), "originals": False}))
    assert len(Pictures(tmp_path / "pictures", 8, 1, split="all")) == bare["passed"]


def test_a_judge_of_the_command_line_is_trained_on_the_sources(tmp_path, monkeypatch):
    source, seen = data.digits("train").split(12)[0], []

    def stub(x, y, folder, digest):
        seen.append((x, y, folder, digest))
        return SimpleNamespace(label=lambda new: torch.full((len(new),), 3))

    monkeypatch.setattr(augmenting, "kept_classifier", stub)
    wanted = Wanted(**{**vars(WANTED), "limit": 9.0, "judge": True, "first": ("new", "kept")})
    said = augmenting.augmentation(run(), source, tmp_path, wanted)
    (x, y, folder, digest), threes = seen[0], int((source.cond["label"] == 3).sum())
    assert torch.equal(x, source.x) and torch.equal(y, source.cond["label"]) and (folder, digest) == (tmp_path, source.digest())
    assert said["drawn"] == 12 * 8 and said["passed"] == threes * 8
    names = {r["mask"] for r in csv.DictReader((tmp_path / "augmented.csv").read_text().splitlines())}
    assert names == {"vertical-2", "horizontal-2", "vertical-kept-2", "horizontal-kept-2"}


def test_a_judge_takes_labels_away_and_without_them_nothing_is_gained(tmp_path):
    few, plan = data.digits("train").split(6)[0], plans.repaint(4, 2, 1)
    made = augment(run().denoiser, few, {"m": lambda shape: stripes(shape[1:], 2)}, tmp_path, plan=plan)
    none, all_ = made.check(9.0, lambda x: torch.full((len(x),), -1)), made.check(9.0, lambda x: made.labels.repeat_interleave(2))
    assert not bool(none.passed.any()) and bool(all_.passed.all())
    # with nothing new nothing is gained
    accuracy = augmenting.gain(made, none, data.digits("test"), steps=20)
    assert accuracy["sources"] == accuracy["with the new"]
    pictures, rows, variants = made.passing(all_)
    assert len(pictures) == 12 and rows.tolist() == [k // 2 for k in range(12)] and variants.tolist() == [0, 1] * 6


def idx(folder: Path, count: int = 12) -> Path:
    """Pictures and labels as MNIST has them; picture k is grey k."""
    folder.mkdir()
    grey = bytes(k for k in range(count) for _ in range(64))
    (folder / "t-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 8, 8) + grey)
    (folder / "t-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(k % 10 for k in range(count)))
    return folder


def test_labels_are_left_unread_where_that_is_asked(tmp_path):
    folder = str(idx(tmp_path / "set"))
    read = domain_of(MnistData(folder=folder)).read
    with_labels, without = read(MnistData(folder=folder, test=2))[0], read(MnistData(folder=folder, test=2, labels=False))[0]
    few, last = (augmenting.read(Path(folder), (1, 8, 8), split=split, held_out=2, count=2) for split in ("train", "test"))
    assert few.cond["label"].tolist() == [0, 1] and last.x.flatten(1)[:, 0].tolist() == pytest.approx(
        [10 / 127.5 - 1, 11 / 127.5 - 1]
    )
    assert len(augmenting.read(Path(folder), (1, 8, 8))) == 12
    assert without.cond is None and torch.equal(without.x, with_labels.x) and with_labels.cond["label"].tolist() == [*range(10)]


def test_refusals(tmp_path):
    few, model = data.digits("train").split(4)[0], run().denoiser
    good = {"m": stripes((8, 8), 2)}
    for masks, said in (
        ({}, "masks is empty"),
        ({"m": torch.ones(8, 8, dtype=torch.bool)}, "keeps all"),
        ({"m": torch.zeros(8, 8, dtype=torch.bool)}, "keeps nothing"),
        ({"m": torch.ones(8, 8)}, "give bools"),
        ({"m": stripes((4, 8), 2)}, "give bools"),
        ({"../m": stripes((8, 8), 2)}, "files are named after it"),
    ):
        with pytest.raises(ValueError, match=said):
            augment(model, few, masks, tmp_path)
    with pytest.raises(ValueError, match="rounds 0"):
        augment(model, few, good, tmp_path, rounds=0)
    with pytest.raises(ValueError, match="draws is 0"):
        augment(model, few, good, tmp_path, draws=0)
    with pytest.raises(ValueError, match="the model draws"):
        augment(model, Arrays(torch.zeros(2, 1, 6, 6)), {"m": stripes((6, 6), 2)}, tmp_path)
    with pytest.raises(ValueError, match="augment pictures"):
        augment(model, Arrays(torch.zeros(2, 5)), good, tmp_path)
    for wrong in ({"thickness": 0}, {"thickness": 8}, {"direction": "round"}, {"first": "last"}):
        with pytest.raises(ValueError, match=r"give 1 to 7|there are"):
            stripes((8, 8), **wrong)
    with pytest.raises(ValueError, match="limit is 0"):
        augment(model, few, good, tmp_path, plan=plans.repaint(2, 1, 1)).check(0)
    two = run()
    two.facts.classes = 2
    with pytest.raises(ValueError, match=r"the run knows 2 classes; say --no-told"):
        augmenting.augmentation(two, few, tmp_path / "two", WANTED)
    with pytest.raises(ValueError, match="mask is 'dots'"):
        augmenting.masks_of(Wanted(mask="dots"), (1, 8, 8))
    with pytest.raises(ValueError, match="resize them first"):
        torch_file = tmp_path / "x.npy"
        import numpy as np

        np.save(torch_file, np.zeros((3, 1, 6, 6), np.uint8))
        augmenting.read(torch_file, (1, 8, 8))


def test_distortions_keep_what_they_should():
    """A shift moves whole pixels; a bend of 0 is the identity, and the field has the deviation that is asked for."""
    noise = Noise.of(0, 400)
    ramp = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy")).expand(400, -1, -1, -1)
    assert torch.allclose(elastic(ramp, noise, 0.0), ramp, atol=1e-4)
    inner = (elastic(ramp, noise, 1.5, 4.0) - ramp)[:, :, 8:-8, 8:-8]  # on a ramp the change is the displacement
    assert inner.std() == pytest.approx(1.5, rel=0.05) and abs(float(inner.mean())) < 0.2
    beside = (inner[..., 1:] * inner[..., :-1]).mean() / inner.square().mean()
    assert float(beside) == pytest.approx(float(torch.exp(torch.tensor(-1 / (4 * 4.0**2)))), abs=0.01)  # smooth as asked
    moved = shift(ramp[:, :1], noise) - ramp[:, :1]
    assert set(moved[:, 0, 8, 8].tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match="smooth 0"):
        elastic(ramp, noise, 1.0, 0)


def test_gains_are_paired_by_subset_and_the_table_is_summed_up_from_its_rows(tmp_path):
    made = bench("augment")
    path = BENCH / "results" / "augment.csv"
    made.save(tmp_path / "augment.csv", made.kept(path))
    assert (tmp_path / "augment.csv").read_bytes() == path.read_bytes()
    values = {"none": (0.8, 0.9), "classical": (0.85, 0.96), "halves": (0.83, 0.92)}
    lines = [("accuracy", arm, k, v, 0) for arm, each in values.items() for k, v in enumerate(each)]
    found = {line[:2]: line[3] for line in made.summary([*lines, ("accuracy", "stripes", 0, 0.7, 0)])}
    assert found["gain over none", "halves"] == pytest.approx(0.025)
    assert found["standard error of the gain over none", "halves"] == pytest.approx(0.005)
    assert found["gain over classical", "halves"] == pytest.approx(-0.03)
    assert ("median accuracy", "stripes") not in found  # of one subset
