"""Two folders of pictures whose names tell pairs, from the command line: sketches, and what is painted over them."""

import numpy as np
import pytest
import torch
from PIL import Image

from langevin.cli import main
from langevin.core.tree import leaves
from langevin.data import Pictures
from langevin.recipes import recipe
from langevin.recipes.build import data
from langevin.recipes.config import ImagesData, TransferData

COUNT, HELD = 160, 8
SIDE = {"size": 8, "channels": 1}


def drawn(count, seed):
    """(sketches, pictures) (count, 8, 8) uint8: outlines of boxes, and the boxes filled."""
    g = np.random.default_rng(seed)
    sketches, boxes = np.zeros((2, count, 8, 8), np.uint8)
    for sketch, box in zip(sketches, boxes, strict=True):
        height, width = g.integers(3, 7, 2)
        top, left = g.integers(0, 9 - height), g.integers(0, 9 - width)
        sketch[top : top + height, left : left + width] = 255
        sketch[top + 1 : top + height - 1, left + 1 : left + width - 1] = 0
        box[top : top + height, left : left + width] = 255
    return sketches, boxes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures under names of another order than they were drawn in; their endings differ, and so would their splits."""
    place = tmp_path_factory.mktemp("pairs")
    names = [f"{(37 * k) % COUNT:03d}" for k in range(COUNT)]
    for folder, ending, some in zip(("sketches", "painted"), ("png", "bmp"), drawn(COUNT, 0), strict=True):
        (place / folder / "own").mkdir(parents=True)
        for name, picture in zip(names, some, strict=True):
            Image.fromarray(picture).save(place / folder / "own" / f"{name}.{ending}")
    return place


def pairs_of(place):
    painted, sketches = (ImagesData(folder=str(place / name), **SIDE) for name in ("painted", "sketches"))
    return data(TransferData(target=painted, source=sketches, paired=True))


def test_pairs_are_told_by_their_names_and_split_together(folders):
    train, test = pairs_of(folders)
    outlines, filled = drawn(COUNT, 0)
    of = {filled[k].tobytes() + outlines[k].tobytes() for k in range(COUNT)}
    assert len(train) + len(test) == COUNT and len(test) > 5
    for part in (train, test):
        batch = part.batch(torch.arange(len(part)))
        ends, begins = (((v[:, 0] + 1) * 127.5).round().byte().numpy() for v in (leaves(batch.x)[""], batch.source))
        assert all(a.tobytes() + b.tobytes() in of for a, b in zip(ends, begins, strict=True))
        assert [p.stem for p in part.source.paths] == [p.stem for p in part.data.paths]
    # alone, either folder holds out others
    alone = Pictures(folders / "sketches", split="test", **SIDE)
    assert {p.stem for p in alone.paths} != {p.stem for p in test.data.paths}
    assert train.digest() != test.digest()


def test_a_picture_without_its_partner_is_named(folders, tmp_path):
    outlines, filled = drawn(30, 1)
    for folder, some in (("sketches", outlines), ("painted", filled)):
        (tmp_path / folder).mkdir()
        for k, picture in enumerate(some):
            Image.fromarray(picture).save(tmp_path / folder / f"{k:02d}.png")
    (tmp_path / "painted" / "07.png").unlink()
    with pytest.raises(ValueError, match=r"sketches/07.png has no picture of its name in .*painted, .* out of .*sketches"):
        pairs_of(tmp_path)
    (tmp_path / "sketches" / "07.png").unlink()
    (tmp_path / "sketches" / "03.png").rename(tmp_path / "sketches" / "03b.png")
    with pytest.raises(ValueError, match=r"painted/03.png has no picture of its name in .*sketches"):
        pairs_of(tmp_path)
    (tmp_path / "sketches" / "03b.png").rename(tmp_path / "sketches" / "03.png")
    Image.fromarray(outlines[3]).save(tmp_path / "sketches" / "03.bmp")
    with pytest.raises(ValueError, match=r"03.bmp and .*03.png have one name, by which pairs are told"):
        pairs_of(tmp_path)


def test_sketches_are_painted_by_what_was_learned_from_pairs(folders, tmp_path):
    out, ends = tmp_path / "run", {"target": "painted", "source": "sketches"}
    where = [word for side, name in ends.items() for word in (f"--data.{side}.folder", str(folders / name))]
    small = [word for side in ends for word in (f"--data.{side}.size", "8", f"--data.{side}.channels", "1")]
    paired = ["--data.paired", "--objective.coupling", "paired"]
    net = ["--network.width", "16", "--network.multipliers", "1", "2", "--network.attention", "--network.head-width", "8"]
    rates = ["--train.steps", "120", "--train.batch", "32", "--train.lr", "4e-3", "--train.warmup", "640", "--train.ema", "0.97"]
    more = ["--sample.plan", "heun:5:grid=uniform", "--samples", "0", "--out", str(out)]
    main(["train", "transfer", *where, *small, *paired, *net, *rates, *more])
    assert recipe("transfer").objective.coupling == "ot"  # which would part them
    sketches, truth = drawn(HELD, 2)  # boxes that it has not seen
    (tmp_path / "mine").mkdir()
    for k, sketch in enumerate(sketches):
        Image.fromarray(sketch).save(tmp_path / "mine" / f"{k}.png")
    main(["sample", str(out), "--source", str(tmp_path / "mine"), "--out", str(tmp_path / "painted.npy")])
    painted = (np.load(tmp_path / "painted.npy")[:, 0] + 1) * 127.5

    def off(some):
        return np.abs(some - truth.astype(float)).mean()

    assert off(painted) < off(sketches) / 4
