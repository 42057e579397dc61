"""An autoencoder of our own, and a run in its latents: langevin train digits-autoencoder, then digits-latent."""

import json

import numpy as np
import pytest
import torch

from langevin.cli import main
from langevin.evaluate import psnr
from langevin.recipes.latents import opened
from langevin.recipes.opening import open_run

SHORT = ["--train.batch", "8", "--samples", "60", "--device", "cpu", "--data.no-labels"]
SMALL = ["--network.width", "8", "--network.multipliers", "1", "2"]


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(a) for a in args])
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "coder"
    loop = ["--train.steps", "6", "--train.preview-every", "3", "--evaluation.every", "3", "--evaluation.count", "50"]
    critic = ["--objective.adversarial", "0.1", "--objective.after", "0.3", "--objective.width", "8"]
    main(["train", "digits-autoencoder", *SHORT, *SMALL, *loop, *critic, "--evaluation.features", "pca", "--out", str(out)])
    return out


def test_an_autoencoder_is_trained_shown_and_judged_by_what_it_leaves_of_pictures(coder):
    assert (coder / "samples.png").exists() and (coder / "previews" / "step-00000003.png").exists()
    lines = [json.loads(line) for line in (coder / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3] and set(lines[0]) == {"step", "rfd", "psnr", "ssim"}
    assert "loss/critic" in json.loads((coder / "log.jsonl").read_text().splitlines()[-1])
    said = json.loads((coder / "metrics.json").read_text())
    run = open_run(coder)
    x = run.test.batch(torch.arange(60)).x
    with torch.no_grad():
        left = (((run.denoiser.net(x).clamp(-1, 1) + 1) * 8).round() / 8) - 1  # the digits' own 17 levels
    assert said["metrics"]["psnr"] == pytest.approx(float(psnr(x, left).mean()), rel=1e-5)
    assert said["protocol"]["samples"] == 60 and said["protocol"]["plan"] is None
    assert said["metrics"]["rfd"] > 0.1


def test_its_run_is_the_codec_of_another(coder, tmp_path, capsys):
    out, few = (
        tmp_path / "latent",
        ["--train.steps", "2", "--sample.plan", "ddim:2", "--network.width", "16", "--network.depth", "1"],
    )
    main(["train", "digits-latent", *SHORT, *few, "--codec.origin", str(coder), "--out", str(out)])
    run = open_run(out)
    assert run.facts.shape == (4, 4, 4) and run.facts.codec.pictures == (1, 8, 8)
    z = torch.from_numpy(np.load(out / "latents" / "x-0.npy"))
    assert abs(float(z.std()) - 1) < 0.02 and abs(float(z.mean())) < 0.02  # measured: a run has no scale of its own
    # published, it is the same autoencoder
    capsys.readouterr()
    main(["publish", str(coder), "--out", str(tmp_path / "vae")])
    assert capsys.readouterr().out == f"{tmp_path / 'vae'}: use it as --codec.origin {tmp_path / 'vae'}\n"
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    main(["sample", str(out), "--out", str(tmp_path / "a.npy"), "--count", "3", "--device", "cpu"])
    main(
        [
            "sample",
            str(out),
            "--out",
            str(tmp_path / "b.npy"),
            "--count",
            "3",
            "--codec",
            str(tmp_path / "vae"),
            "--device",
            "cpu",
        ]
    )
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert np.load(tmp_path / "a.npy").shape == (3, 1, 8, 8)
    assert opened(str(coder)).factor == 2
    capsys.readouterr()


def test_what_an_autoencoder_is_not_asked_for(coder, tmp_path, capsys):
    for args in (["sample", coder, "--out", tmp_path / "x.png"], ["sample", coder, "--out", tmp_path / "x.gif"],
                 ["interpolate", coder, "--out", tmp_path / "x.png"], ["likelihood", coder],
                 ["tune", coder, "--steps", "4", "--out", tmp_path / "p.json"]):  # fmt: skip
        assert "draws nothing; train a model in its latents" in refused(capsys, *args, "--device", "cpu")
    for name, value in (("guidance", "1.5"), ("plan", "heun:3")):
        said = refused(capsys, "evaluate", coder, "--count", "60", "--small", f"--{name}", value, "--device", "cpu")
        assert f"{name} is {value}, and an autoencoder draws nothing that it could steer; leave it out" in said
    for recipe, fields, said in (
        ("digits-autoencoder", ["--network.kind", "unet"], "use network 'autoencoder'"),
        ("digits-autoencoder", ["--objective.kind", "denoising"], "use objective 'autoencoding'"),
        ("digits-autoencoder", ["--network.multipliers", "1", "1", "1", "1", "1"], "make the sides multiples"),
        ("digits-autoencoder", ["--codec.origin", coder], "use process 'gaussian'"),
        ("digits-autoencoder", ["--objective.perceptual", "1"], "give both, or neither"),
        ("digits", ["--network.kind", "autoencoder"], "denoises nothing"),
        ("digits", ["--objective.kind", "autoencoding"], "use process 'none'"),
        ("two-moons", ["--process.kind", "none"], "which read pictures"),
    ):
        assert said in refused(capsys, "train", recipe, *fields, "--out", tmp_path / "no")
