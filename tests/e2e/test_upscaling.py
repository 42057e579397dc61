"""langevin upscale: train an upscaler, then pictures, arrays and samples through one or several."""

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import plans, tasks
from langevin.cli import main
from langevin.guidance import Tiles
from langevin.recipes.opening import open_run

SHORT = ["--train.steps", "2", "--train.batch", "4", "--samples", "60", "--sample.plan", "ddim:2"]
SMALL = ["--network.width", "8", "--network.blocks", "1", "--network.head-width", "8"]


def test_small_pictures_go_through_any_number_of_runs(tmp_path, capsys):
    up, base = tmp_path / "up", tmp_path / "base"
    main(["train", "digits-4to8", *SHORT, *SMALL, "--out", str(up)])
    assert (up / "samples.png").exists()
    low = open_run(up).test.batch(torch.arange(2)).cond["low"]
    np.save(tmp_path / "low.npy", low.numpy())
    capsys.readouterr()
    out = tmp_path / "large.npy"
    main(["upscale", str(up), str(up), str(tmp_path / "low.npy"), "--out", str(out), "--device", "cpu"])
    assert "4 x 4 -> 8 x 8 -> 16 x 16" in capsys.readouterr().out
    run = open_run(up)
    first = tasks.upscale(run.denoiser, plans.ddim(2), low, 2)
    second = tasks.upscale(run.denoiser, plans.ddim(2), first, 2, noise=0.1, tiles=Tiles(8, 4), first_id=2**32)
    assert torch.allclose(torch.from_numpy(np.load(out)), second, atol=1e-5)
    # as many of the given pictures as are asked for, and no more than there are
    main(["upscale", str(up), str(tmp_path / "low.npy"), "--count", "1", "--out", str(tmp_path / "one.npy"), "--device", "cpu"])
    assert np.allclose(np.load(tmp_path / "one.npy"), first[:1].numpy(), atol=1e-5)
    # a picture of any sides
    Image.fromarray(np.full((6, 10), 90, np.uint8)).save(tmp_path / "wide.png")
    main(["upscale", str(up), str(tmp_path / "wide.png"), "--out", str(tmp_path / "wide.npy"), "--device", "cpu"])
    assert np.load(tmp_path / "wide.npy").shape == (1, 1, 12, 20)
    # what another run draws
    main(["train", "digits-likelihood", *SHORT, *SMALL, "--data.spread", "0", "--out", str(base)])
    main(["upscale", str(up), str(base), "--count", "3", "--out", str(tmp_path / "drawn.png"), "--device", "cpu"])
    assert "8 x 8 -> 16 x 16" in capsys.readouterr().out and (tmp_path / "drawn.png").exists()
    main(["train", "two-moons", *SHORT[:4], "--samples", "0", "--out", str(tmp_path / "moons")])
    (tmp_path / "torn.png").write_bytes((tmp_path / "wide.png").read_bytes()[:40])
    np.save(tmp_path / "bytes.npy", np.full((1, 1, 4, 4), 90.0, np.float32))
    for words, said in (
        ([str(up), str(tmp_path / "moons")], "moons comes last, as IN, and is a run of moons; give one of pictures."),
        ([str(up), str(tmp_path / "torn.png")], "torn.png cannot be read (damaged, or no picture); give a PNG"),
        ([str(up), str(tmp_path / "none.png")], "none.png cannot be read (it is gone); give a PNG"),
        (
            [str(up), str(tmp_path / "bytes.npy")],
            "holds values from 90 to 90, and pictures span [-1, 1]; scale them, or save",
        ),
        ([str(up), str(tmp_path / "low.npy"), "--tile", "0"], "tile is 0; give the side of a tile in pixels"),
        ([str(base), str(tmp_path / "low.npy")], "was not trained to upscale"),
        ([str(up), str(up)], "is an upscaler and comes last"),
        ([str(up)], "needs a run and what to begin with"),
        ([str(up), str(tmp_path / "low.npy"), "--overlap", "2"], "give tile as well"),
        ([str(up), str(tmp_path / "low.npy"), "--count", "3"], "low.npy holds 2; ask for at most as many"),
    ):
        with pytest.raises(SystemExit):
            main(["upscale", *words, "--out", str(out), "--device", "cpu"])
        assert said in capsys.readouterr().err
    # a plan that was fitted to no small pictures is none of theirs
    with pytest.raises(SystemExit):
        main(["tune", str(up), "--steps", "2"])
    assert "this is an upscaler; plans are chosen and tuned for runs that draw from noise alone" in capsys.readouterr().err
