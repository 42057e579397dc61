"""langevin likelihood: one command for every process, in nats and bits, with an error bar."""

import io
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin.cli import main
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.noise import Noise
from langevin.data import Pictures
from langevin.data.progress import shown as tracked
from langevin.data.progress import stage, watched
from langevin.recipes.likelihood import strange
from langevin.recipes.opening import open_run
from langevin.tasks.elbo import variational_bound
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


def test_the_strangest_are_told_beside_held_out_ones(tmp_path, capsys):
    out = tmp_path / "digits"
    main(["train", "digits", *SHORT[:4], *SMALL, "--samples", "0", "--out", str(out)])
    run = open_run(out)
    held = run.test.batch(torch.arange(40)).x
    noise = Noise.of(7, 2).normal((1, 8, 8)).float()  # nothing that was written by hand
    np.save(tmp_path / "x.npy", torch.cat([held[:5], noise]).clamp(-1, 1).numpy())
    words = [out, tmp_path / "x.npy", "--strangeness", "--draws", 2, "--count", 40]
    said = asked(capsys, *words, "--each", tmp_path / "each.npy")
    scores = torch.from_numpy(np.load(tmp_path / "each.npy"))
    x = dequantised(torch.cat([held[:5], noise]).clamp(-1, 1), 1 / 8, Noise.of(0, 7))
    assert torch.allclose(scores, lv.tasks.strangeness(run.denoiser, x, draws=2), rtol=1e-4)
    usual = lv.tasks.strangeness(run.denoiser, dequantised(held, 1 / 8, Noise.of(0, 40)), draws=2)
    order = scores.argsort(descending=True).tolist()
    assert [one["sample"] for one in said["strangest"]] == order and said["usual"] == pytest.approx(float(usual.mean()), rel=1e-4)
    for one in said["strangest"]:
        assert one["beyond"] == pytest.approx(float((usual < scores[one["sample"]]).double().mean()), abs=1e-3)
    main(["likelihood", str(out), "--strangeness", "--count", "40", "--draws", "2"])
    assert f"beyond {39 / 40:.1%} of those" in capsys.readouterr().out  # of held-out ones the strangest
    with pytest.raises(SystemExit):
        main(["likelihood", str(out), "--strangeness", "--bound"])
    assert "bound is True, of a likelihood" in capsys.readouterr().err
    grey: Any = SimpleNamespace(process=Categorical(17, lv.schedules.keep_linear()))
    with pytest.raises(ValueError, match="strangeness is of one Gaussian process"):
        strange(replace(run, denoiser=grey))


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
    direct, _ = variational_bound(run.denoiser, batch, draws=4, values={"image": torch.arange(17) / 8 - 1})
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


def pictures_in(folder, classes, count=6):
    for k in range(count):
        for c, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(100 * c + k).integers(0, 256, (9, 8), np.uint8)
            Image.fromarray(values).save(folder / name / f"{k}.png")


def test_a_folder_of_pictures_is_read_as_the_run_reads_its_own(tmp_path, capsys):
    pictures_in(tmp_path / "mine", ["cat", "dog"])
    out = tmp_path / "run"
    main(["train", "images", "--data.folder", str(tmp_path / "mine"), "--data.size", "8", "--data.channels", "1", *SMALL,
          "--network.multipliers", "1", "--train.steps", "2", "--train.batch", "4", "--data.held-out", "0.4", "--samples", "0",
          "--out", str(out)])  # fmt: skip
    # subfolders of other names in the order of theirs: a dog is a dog wherever it stands
    pictures_in(tmp_path / "other", ["dog"])
    pictures_in(tmp_path / "other", ["cat"])
    how = ["--solver", "heun", "--steps", 2, "--probes", 1]
    for given in ((), ("--given",)):
        each = tmp_path / "each.npy"
        said = asked(capsys, out, tmp_path / "other", *how, *given, "--each", each)
        run, held = open_run(out), Pictures(tmp_path / "other", 8, 1, split="all")
        x = dequantised(held.batch(torch.arange(12)).x, 2 / 255, Noise.of(0, 12))
        cond = {"label": torch.tensor([0] * 6 + [1] * 6)} if given else None
        direct = lv.log_prob(run.denoiser, x, solver="heun", steps=2, probes=1, cond=cond)
        assert said["samples"] == 12 and said["width"] == 2 / 255
        assert np.load(each) == pytest.approx(direct.nats.numpy(), rel=1e-5)
    # one class alone has its own number, not the first
    (tmp_path / "one").mkdir()
    (tmp_path / "other" / "dog").rename(tmp_path / "one" / "dog")
    pictures_in(tmp_path / "one", ["bird"], 1)
    for words, said in (
        ((tmp_path / "one", "--given"), "label is 'bird'; classes of this run are told by one of cat, dog"),
        ((tmp_path / "other", "--given"), "these samples come without a condition; leave it out"),
        ((tmp_path / "x.txt",), "is a text, and this run's data, 'images', is none; give a .npy of samples of shape (1, 8, 8)."),
    ):
        with pytest.raises(SystemExit):
            main(["likelihood", str(out), *map(str, words)])
        assert said in capsys.readouterr().err


def test_a_text_is_read_by_the_run_s_own_letters(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abcd efgh " * 60)
    out, size = tmp_path / "text", ["--network.width", "16", "--network.depth", "1", "--network.heads", "2"]
    main(["train", "text8-like", "--data.path", str(tmp_path / "a.txt"), "--data.length", "16", *size, "--train.batch", "4",
          "--train.steps", "2", "--samples", "0", "--out", str(out)])  # fmt: skip
    (tmp_path / "b.txt").write_text("Hgfe, dcba! " * 9)
    said = asked(capsys, out, tmp_path / "b.txt", "--draws", 4, "--each", tmp_path / "each.npy")
    run = open_run(out)
    text = " ".join(["hgfe dcba"] * 9)  # as data.clean makes of it
    ids = torch.from_numpy(run.facts.alphabet.ids(text)[: len(text) // 16 * 16].reshape(-1, 16))
    direct, _ = variational_bound(run.denoiser, Batch(ids), draws=4)
    assert np.load(tmp_path / "each.npy") == pytest.approx(direct.nats.numpy(), rel=1e-5)
    assert said["bits_per_character"] == pytest.approx(said["bits_per_element"])
    for name, content, why in (
        ("c.txt", "zzzz " * 9, "'z' is none of the 9 letters"),
        ("d.txt", "abcd", "fewer than a window of 16; make it shorter, or give more text"),
        ("e", "", "e does not exist; give a text"),
    ):
        if content:
            (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit):
            main(["likelihood", str(out), str(tmp_path / name)])
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["likelihood", str(out), "--given"])
    assert "given is True, and these samples come without a condition; leave it out" in capsys.readouterr().err


def test_a_terminal_shows_how_far_it_is(monkeypatch, capsys):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take anything for a terminal
    net = torch.nn.Identity()
    with watched():
        with stage("measuring", 300, net) as done:
            net(torch.ones(1))
            done(100)
        assert not net._forward_pre_hooks
        assert list(tracked("abc", 3, "within")) == ["a", "b", "c"]  # a bar within another
        print("a result")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "measuring" in plain and "100/300" in plain and "1 evaluations" in plain and "within" in plain
    assert capsys.readouterr().out == "a result\n"
    monkeypatch.delenv("FORCE_COLOR")
    shown.truncate(0)
    with watched(), stage("measuring", 300) as done:
        done(100)
    assert shown.getvalue() == ""
