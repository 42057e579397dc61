"""langevin augment as a user meets it: a run without labels, few digits with, a folder that training reads."""

import json
import struct
import sys

import numpy as np
import pytest

import langevin as lv
from langevin.cli import main
from langevin.recipes.build import build

SHORT = ["--train.steps", "2", "--train.batch", "8", "--train.save-every", "2", "--samples", "60", "--sample.plan", "dpmpp:2"]
CHEAP = ["--steps", "3", "--jump", "1", "--resample", "2", "--draws", "1", "--limit", "9", "--batch", "5"]


def test_few_digits_become_many_for_training(tmp_path, monkeypatch, capsys):
    digits = lv.data.digits("all")
    grey = np.kron(((digits.x[:80, 0] + 1) * 127.5).round().byte().numpy(), np.ones((1, 2, 2), np.uint8))
    labels = digits.cond["label"][:80].numpy()
    for name, values in (("images-idx3", grey), ("labels-idx1", labels.astype(np.uint8))):
        (tmp_path / "set").mkdir(exist_ok=True)
        head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        (tmp_path / "set" / f"t10k-{name}-ubyte").write_bytes(head + values.tobytes())
    np.save(tmp_path / "x.npy", grey[:12, None])
    np.save(tmp_path / "y.npy", labels[:12])
    run = tmp_path / "run"
    set_ = ["--data.folder", str(tmp_path / "set"), "--data.test", "20", "--network.width", "8"]
    main(["train", "mnist-unlabelled", *SHORT, *set_, "--out", str(run)])
    capsys.readouterr()
    few = [str(run), str(tmp_path / "x.npy"), "--label", str(tmp_path / "y.npy"), *CHEAP, "--thickness", "2", "4"]
    main(["augment", *few, "--out", str(tmp_path / "new")])
    said = json.loads(capsys.readouterr().out.rpartition("}")[0] + "}")
    assert said == json.loads((tmp_path / "new" / "report.json").read_text())
    assert said["drawn"] == said["passed"] == 12 * 2 * 2 and set(said["rmse by thickness"]) == {"2", "4"}
    assert said["plan"] == "repaint(3, jump=1, resample=2)" and said["largest change of a kept pixel"] < 1e-4
    # the first of a set are the same pictures, and so are the new ones
    main(
        [
            "augment",
            str(run),
            str(tmp_path / "set"),
            "--count",
            "12",
            *CHEAP,
            "--thickness",
            "2",
            "4",
            "--out",
            str(tmp_path / "idx"),
        ]
    )
    assert (tmp_path / "new" / "page.png").read_bytes() == (tmp_path / "idx" / "page.png").read_bytes()
    recipe = lv.recipe("images")
    folder = recipe.data.model_copy(update={"folder": str(tmp_path / "new" / "pictures"), "size": 16, "channels": 1})
    again = build(recipe.model_copy(update={"data": folder}))
    assert len(again.train) + len(again.test) == 12 + said["passed"] and again.facts.classes == len(set(labels[:12]))
    np.save(tmp_path / "other.npy", grey[12:20, None])
    monkeypatch.setattr(sys.modules["langevin.tasks.augment"], "restore", None)
    for wrong, why in (
        ([*few, "--mask", "dots"], "mask is 'dots'"),
        ([str(run), str(tmp_path / "set"), "--label", str(tmp_path / "y.npy")], "brings its own labels"),
        ([str(run), str(tmp_path / "x.npy"), "--count", "99"], "count is 99"),
        ([*few, "--test-label", str(tmp_path / "y.npy")], "no test is given"),
        ([*few, "--seed", "1"], "is stale: it holds pictures of other weights, masks, draws, rounds, levels, batch or seed; ask"),
        # before anything is painted, and not after it
        ([*few, "--limit", "nan"], "limit is nan; it is the largest RMSE of a picture whose label stands, above 0"),
        ([str(run), str(tmp_path / "x.npy"), *CHEAP, "--judge"], "judge is asked for, and the pictures have no labels"),
        ([*few, "--test", str(tmp_path / "other.npy")], "a test set is given, and there are no labels to learn or to test"),
    ):
        with pytest.raises(SystemExit):
            main(["augment", *wrong, "--out", str(tmp_path / "new")])
        assert why in capsys.readouterr().err
