"""langevin restore: the page, with an exact model of digits in place of a run's."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import data, oracles, schedules, tasks
from langevin.cli import main
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.guidance import operators
from langevin.recipes import config as c
from langevin.recipes import restoring


def run() -> Any:
    held = data.digits("test")
    model = oracles.dataset(Gaussian(schedules.cosine()), held.batch(torch.arange(60)).x)
    objective = SimpleNamespace(ends=False, kind="denoising", scalars=())
    facts = SimpleNamespace(shape=(1, 8, 8), factor=None, codec=None, classes=None)
    return SimpleNamespace(facts=facts, denoiser=model, test=held, recipe=SimpleNamespace(objective=objective, process=None))


def test_what_is_known_well_is_restored_whole(tmp_path):
    """With a finite data set, half a picture and little noise tell which one it is."""
    found = restoring.restoration(
        run(), "inpaint", tmp_path / "page.png", amount=0.5, noise=0.02, method="levels", rows=3, count=19, seed=1
    )
    assert found["rmse of a sample"] < 0.05 and found["deviation"] < 0.05 and 0 <= found["coverage of 90 %"] <= 1
    with Image.open(tmp_path / "page.png") as page:
        assert page.size[0] / page.size[1] == pytest.approx((10 * 9 + 1) / (3 * 9 + 1), rel=0.01)  # 10 columns, 3 rows
    Image.new("L", (8, 8), 128).save(tmp_path / "one.png")
    for task, measured in (("super-resolution", (1, 4, 4)), ("deblur", (1, 8, 8)), ("sense", (16,))):
        assert restoring.operator_of(task, (1, 8, 8)).measured == measured
    hidden = Image.new("L", (8, 8))
    hidden.paste(255, (2, 3, 5, 8))
    hidden.save(tmp_path / "mask.png")
    op = restoring.operator_of("inpaint", (1, 8, 8), mask=tmp_path / "mask.png")
    kept = op(torch.ones(1, 1, 8, 8))[0, 0]
    assert not kept[3:8, 2:5].any() and kept.sum() == 64 - 15
    one = restoring.restoration(run(), "sense", tmp_path / "s.png", method="ddrm", pictures_of=tmp_path / "one.png", count=2)
    assert "coverage of 90 %" not in one


def test_white_on_the_page_is_the_largest_deviation(tmp_path, monkeypatch):
    samples = torch.zeros(2, 3, 1, 8, 8)
    samples[1, 0, 0, 2, 3], samples[1, 2, 0, 5, 6] = 0.4, 0.2
    monkeypatch.setattr(restoring, "restore", lambda *_, **__: tasks.Restored(samples, torch.zeros(3, 1, 8, 8)))
    found = restoring.restoration(run(), "inpaint", tmp_path / "page.png", rows=3, count=2)
    assert found["largest deviation"] == pytest.approx(float(samples.std(0).max()), abs=1e-4)
    with Image.open(tmp_path / "page.png") as page:
        side = page.size[0] / (6 * 9 + 1)  # of a pixel: 6 columns, 8 wide, lines of 1 between

        def shade(row, y, x):
            found = page.convert("L").getpixel((int((5 * 9 + x + 1.5) * side), int((row * 9 + y + 1.5) * side)))
            assert isinstance(found, int)
            return found

        assert shade(0, 2, 3) == 255 and shade(2, 5, 6) in (127, 128) and shade(1, 2, 3) == 0


def test_the_page_shows_measurements_as_they_are():
    """The pseudo-inverse of black is not black, and that of a blur is its noise."""
    truth = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for task in ("colourise", "deblur", "inpaint", "super-resolution"):
        op = restoring.operator_of(task, (3, 4, 4))
        y = op(truth)
        shown = restoring.page(truth, op, tasks.Restored(truth[None], y)).reshape(3, 5, 3, 4, 4)[:, 1]
        small = task == "super-resolution"
        assert torch.allclose(shown, y.repeat_interleave(2, 2).repeat_interleave(2, 3) if small else y.expand(-1, 3, -1, -1))


def test_noise_alone_is_a_measurement(tmp_path):
    """On normal data the posterior of x + noise n is known, its mean c / (c + noise^2) y, its variance c noise^2 / (c + noise^2);
    what a run that leaps to the end says in one evaluation is here that mean, under any schedule."""
    c, noise = 0.25, 0.5
    for schedule in (schedules.cosine(), schedules.edm(), schedules.flow()):
        of = run()
        of.denoiser = oracles.mixture(Gaussian(schedule), torch.zeros(1, 1, 8, 8), c**0.5)
        of.recipe.objective.ends = True
        truth = data.digits("test").batch(torch.arange(3)).x
        y = truth + noise * Noise.of(4, 3).at("measurement").normal((1, 8, 8))
        said = restoring.restoration(of, "denoise", tmp_path / "d.png", rows=3, noise=noise, seed=4)
        expected = c / (c + noise**2) * y
        assert said["rmse of a sample"] == pytest.approx(float((expected - truth).square().mean().sqrt()), abs=6e-5)
        with pytest.raises(ValueError, match="noise is 0, and denoise takes away what there is"):
            restoring.restoration(of, "denoise", tmp_path / "d.png", noise=0.0)
    of.recipe.objective.ends = False
    said = restoring.restoration(of, "denoise", tmp_path / "d.png", rows=3, noise=noise, count=40, seed=4)
    assert said["method"] == "mmps" and said["deviation"] == pytest.approx((c * noise**2 / (c + noise**2)) ** 0.5, rel=0.05)
    assert said["rmse of the mean"] == pytest.approx(float((expected - truth).square().mean().sqrt()), rel=0.05)


def test_a_measurement_that_is_given_is_restored_without_a_truth(tmp_path):
    """What is measured of a picture elsewhere, by a file of pixels or of numbers, is what it was when it is measured here."""
    held: Any = data.digits("test").batch(torch.arange(3)).x
    op = operators.super_resolution((1, 8, 8), 2)
    y = op(held[:1])
    small = ((y[0, 0] + 1) * 127.5).round().byte()
    Image.fromarray(small.numpy()).save(tmp_path / "small.png")
    np.save(tmp_path / "small.npy", (small.float() / 127.5 - 1)[None, None].numpy())
    files = [tmp_path / name for name in ("small.png", "small.npy")]
    ways: dict[str, Any] = {"method": "ddrm", "count": 2}
    found = [
        restoring.restoration(run(), "super-resolution", tmp_path / "p.png", measured=f, samples=tmp_path / "s.npy", **ways)
        for f in files
    ]
    assert found[0] == found[1] and "rmse of a sample" not in found[0]
    direct = tasks.restore(run().denoiser, op, (small.float() / 127.5 - 1)[None, None], 0.05, **ways).samples
    assert np.allclose(np.load(tmp_path / "s.npy"), direct.numpy(), atol=1e-6)
    off = float((op(direct[:, 0]) - (small.float() / 127.5 - 1)).square().mean().sqrt())
    assert found[0]["rms of the measurement's residual"] == pytest.approx(off, abs=1e-4) != 0
    with Image.open(tmp_path / "p.png") as page:
        assert page.size[0] / page.size[1] == pytest.approx((5 * 9 + 1) / (9 + 1), rel=0.01)  # 5 columns: no truth among them
    # what is hidden does not count, whatever stands there
    for shade in (0, 200):
        picture = Image.fromarray(((held[0, 0] + 1) * 127.5).round().byte().numpy())
        picture.paste(shade, (0, 4, 8, 8))
        picture.save(tmp_path / f"{shade}.png")
        restoring.restoration(run(), "inpaint", tmp_path / "p.png", measured=tmp_path / f"{shade}.png",
                              samples=tmp_path / f"{shade}.npy", **ways)  # fmt: skip
    assert np.array_equal(np.load(tmp_path / "0.npy"), np.load(tmp_path / "200.npy"))
    np.save(tmp_path / "wide.npy", np.zeros((2, 1, 8, 8), np.float32))
    for task, name, said in (
        ("super-resolution", "wide.npy", r"wide.npy, of shape \(2, 1, 8, 8\), and super-resolution 2x measures \(1, 4, 4\)"),
        ("super-resolution", "0.png", "is 8 x 8, and what is measured is 4 x 4"),
        ("sense", "0.png", r"is no picture; give a .npy of shape \(16,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            restoring.restoration(run(), task, tmp_path / "p.png", measured=tmp_path / name)


def test_a_class_that_is_told_is_that_of_the_samples(tmp_path):
    """Of a mixture of two kinds, of which the upper half alone is seen, which is the same in both."""
    kinds = torch.full((2, 1, 8, 8), -0.5)
    kinds[1, :, 4:] = 0.5
    of = run()
    of.denoiser = oracles.mixture(Gaussian(schedules.cosine()), kinds, 0.1, label=torch.tensor([0, 1]))
    of.facts.classes, of.facts.conditional, of.facts.codec = 2, True, None
    of.recipe.objective.scalars, of.recipe.sample = (), SimpleNamespace(guidance=1.0)
    Image.new("L", (8, 8), 64).save(tmp_path / "half.png")
    for label, guidance in ((0, None), (1, None), (1, 2.0)):
        restoring.restoration(of, "inpaint", tmp_path / "p.png", method="ddrm", measured=tmp_path / "half.png", label=label,
                              guidance=guidance, count=4, samples=tmp_path / "s.npy")  # fmt: skip
        lower = np.load(tmp_path / "s.npy")[..., 4:, :]
        assert lower.mean() == pytest.approx(label - 0.5, abs=0.06)
    for label, guidance, said in ((2, None, "has classes 0 to 1"), (None, 2.0, "of a class, and label says of which")):
        with pytest.raises(ValueError, match=said):
            restoring.restoration(of, "inpaint", tmp_path / "p.png", rows=1, label=label, guidance=guidance)
    with pytest.raises(ValueError, match="label is 0, and this run has no classes"):
        plain = run()
        plain.facts.classes = None
        restoring.restoration(plain, "inpaint", tmp_path / "p.png", rows=1, label=0)


def test_refusals(tmp_path, capsys):
    with pytest.raises(ValueError, match="task is 'x'"):
        restoring.operator_of("x", (1, 8, 8))
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="is 9 x 8, and the run draws 8 x 8"):
        restoring.restoration(run(), "sense", tmp_path / "s.png", pictures_of=tmp_path / "wide.png")
    for task, amount, said in (("deblur", None, "leave it out"), ("inpaint", 0.5, "leave it out")):
        with pytest.raises(ValueError, match=said):
            restoring.operator_of(task, (1, 8, 8), amount, tmp_path / "wide.png")
    for task, amount, said in (
        ("inpaint", 1.5, "amount is 1.5 of task inpaint; it is the share of the height that is hidden, above 0 and at most 1"),
        ("inpaint", float("nan"), "amount is nan"),
        ("sense", 0, "amount is 0"),
        ("deblur", -1, "it is the pixels of the blur, above 0"),
        ("deblur", float("inf"), "amount is inf"),
        ("super-resolution", 2.5, "it is a whole factor"),
        ("super-resolution", 3, "amount is 3 of task super-resolution, for pictures of 8 x 8; give a factor of both"),
        ("colourise", 1, "leave it out"),
        ("inpaint", 0.01, "amount is 0.01, which hides nothing of the 8 rows of a picture; give a share between"),
        ("inpaint", 1.0, "amount is 1, which hides all of the 8 rows of a picture"),
        ("colourise", None, "task is 'colourise', and the run draws 1 channel where colours are 3; ask a run of colours"),
    ):
        with pytest.raises(ValueError, match=said):
            restoring.operator_of(task, (1, 8, 8), amount)
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="it is the deviation of the noise in the measurement, 0 or more"):
            restoring.restoration(run(), "sense", tmp_path / "s.png", noise=noise)
    for rows in (0, 10_000):
        with pytest.raises(ValueError, match=f"rows is {rows}, and there are 297 held-out pictures; give 1 to as many"):
            restoring.restoration(run(), "sense", tmp_path / "s.png", rows=rows)
    for more, said in (
        (["--rows", "2"], "rows is 2, of held-out pictures, and --picture a.png is one; leave rows out."),
        (["--pictures", "b"], "pictures is b, and --picture a.png is what is restored; give one of them."),
        (["--measured", "y.npy"], "picture is a.png, and --measured y.npy is what is restored; give one of them."),
        (["--samples", "x.png"], "samples is x.png; write a .npy."),
    ):
        with pytest.raises(SystemExit):
            main(["restore", str(tmp_path), "--task", "sense", "--out", "page.png", "--picture", "a.png", *more])
        assert said in capsys.readouterr().err
    between, grey = run(), run()
    between.recipe.process, grey.denoiser = c.InterpolantConfig(), SimpleNamespace(process=Categorical(17, schedules.cosine()))
    for of, said in ((between, "restore needs a run that draws from noise alone, and this one begins at other pictures"),
                     (grey, "restore works on numbers, and this run draws categories of grey")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            restoring.restoration(of, "sense", tmp_path / "s.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    with pytest.raises(ValueError, match="which hides all"):
        restoring.operator_of("inpaint", (1, 8, 8), mask=tmp_path / "white.png")
    upscaler, student, flat = run(), run(), run()
    upscaler.facts.factor, student.recipe.objective.ends, flat.facts.shape = 2, True, (64,)
    for of, said in ((upscaler, "is an upscaler"), (student, "ask its teacher"), (flat, "is not of pictures")):
        with pytest.raises(ValueError, match=said):
            restoring.restoration(of, "sense", tmp_path / "s.png", method="mmps")
    with pytest.raises(ValueError, match="label is 3, and this run has no classes"):
        restoring.restoration(run(), "sense", tmp_path / "s.png", label=3)
    with pytest.raises(SystemExit):
        main(["restore", str(tmp_path), "--task", "inpaint", "--out", "page.jpg"])
    assert "write a .png" in capsys.readouterr().err
