"""langevin likelihood: one command for every process, in nats and bits, with an error bar."""

import json
import math

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.cli import main
from langevin.core.noise import Noise
from langevin.recipes.opening import open_run
from langevin.tasks.elbo import of_categories
from langevin.tasks.likelihood import dequantised

SHORT = ["--train.steps", "2", "--train.batch", "4", "--samples", "60"]
SMALL = ["--network.width", "8", "--network.blocks", "1", "--network.head-width", "8"]


def asked(capsys, *words):
    capsys.readouterr()
    main(["likelihood", *map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def test_points_have_the_density_that_log_prob_says(tmp_path, capsys):
    out = tmp_path / "moons"
    main(["train", "two-moons", "--train.steps", "20", "--samples", "60", "--out", str(out)])
    said = asked(capsys, out, "--count", 20, "--each", tmp_path / "each.npy", "--tolerance", 1e-5)
    run = open_run(out)
    x = run.test.batch(torch.arange(20)).x
    direct = lv.log_prob(run.denoiser, x).nats
    nats = torch.from_numpy(np.load(tmp_path / "each.npy"))
    assert torch.allclose(nats, direct, atol=1e-3)
    assert said["nats_per_element"] == pytest.approx(-float(direct.mean()) / 2, abs=1e-3)
    assert said["width"] is None and "exact trace" in said["how"] and said["of_which_drawn"] == 0
    assert said["bits_per_element"] == pytest.approx(said["nats_per_element"] / math.log(2))
    # data of a file, and a file that is none of it
    np.save(tmp_path / "x.npy", x.numpy())
    again = asked(capsys, out, tmp_path / "x.npy", "--tolerance", 1e-5)
    assert again["nats_per_element"] == pytest.approx(said["nats_per_element"], abs=1e-9)
    np.save(tmp_path / "y.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(SystemExit):
        main(["likelihood", str(out), str(tmp_path / "y.npy")])
    assert "make them agree" in capsys.readouterr().err


def test_pictures_are_spread_over_their_cells(tmp_path, capsys):
    out = tmp_path / "digits"
    main(["train", "digits", *SHORT, *SMALL, "--out", str(out)])
    said = asked(capsys, out, "--count", 8, "--solver", "rk4", "--steps", 2, "--probes", 2)
    run = open_run(out)
    x = dequantised(run.test.batch(torch.arange(8)).x, 1 / 8, Noise.of(0, 8))
    direct = lv.log_prob(run.denoiser, x, solver="rk4", steps=2, probes=2)
    assert said["bits_per_element"] == pytest.approx(float(direct.bits(1 / 8).mean()), abs=1e-5)
    assert said["of_which_drawn"] == pytest.approx(float(direct.error.square().sum().sqrt()) / 8 / 64, rel=1e-5)
    main(["likelihood", str(out), "--count", "8", "--bound"])
    assert "bits per dimension" in capsys.readouterr().out


def test_categories_have_their_bound(tmp_path, capsys):
    out = tmp_path / "discrete"
    main(["train", "digits-discrete", *SHORT, *SMALL, "--train.lr", "1e-9", "--out", str(out)])
    said = asked(capsys, out, "--count", 50, "--draws", 8)
    # a network that has learned nothing says each of 16 levels alike
    assert said["bits_per_element"] == pytest.approx(
        4, abs=4 * max(said["error_bits"], said["of_which_drawn"] / math.log(2)) + 0.05
    )
    assert "bound" in said["how"] and said["elements"] == 64


def test_products_have_the_probability_of_picture_and_label(tmp_path, capsys):
    out = tmp_path / "product"
    small = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--network.stem", "8"]
    main(["train", "digits-product", *SHORT, *small, "--sample.plan", "ddpm:2", "--out", str(out)])
    said = asked(capsys, out, "--count", 20, "--draws", 4, "--each", tmp_path / "each.npy")
    assert said["elements"] == 65 and said["width"] is None and "100 steps" in said["how"]
    # by hand, where a decoder chooses among the 17 grey values
    run = open_run(out)
    batch = run.test.batch(torch.arange(20))
    direct, _ = of_categories(run.denoiser, batch, draws=4, values={"image": torch.arange(17) / 8 - 1})
    assert np.load(tmp_path / "each.npy") == pytest.approx(direct.nats.numpy(), rel=1e-5)
    main(["likelihood", str(out), "--count", "4", "--draws", "2"])
    assert "of the values themselves" in capsys.readouterr().out


def test_sentences_have_the_bound_of_diffusion_lm(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(f"a {a} by the {b} is no. {k}\n" for k in range(9) for a in "xyz" for b in "uvw"))
    out = tmp_path / "points"
    main(["train", "e2e-embedding", "--data.path", str(tmp_path / "a.txt"), "--data.alphabet", "characters",
          "--data.length", "24", "--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--train.batch", "8",
          "--train.steps", "2", "--data.key", "None", "--sample.plan", "ddpm:2", "--out", str(out)])  # fmt: skip
    said = asked(capsys, out, "--count", 3, "--draws", 4)
    assert said["elements"] == 24 and "2000 steps" in said["how"] and said["nats_per_element"] > 0
    ids = open_run(out).test.batch(torch.arange(3)).x
    np.save(tmp_path / "ids.npy", ids.numpy())
    assert asked(capsys, out, tmp_path / "ids.npy", "--draws", 4)["nats_per_element"] == said["nats_per_element"]
