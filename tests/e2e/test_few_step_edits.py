"""Edits of a run that leaps to the end of its flow, from the command line: what is known is kept, strokes, noise, ways."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import plans, tasks
from langevin.cli import main
from langevin.core.tree import leaves
from langevin.interpolants import stochastic
from langevin.recipes import Recipe, recipe
from langevin.recipes.drawing import draw
from langevin.recipes.editing import pictures_of
from langevin.recipes.galleries import ways
from langevin.recipes.opening import open_run
from langevin.recipes.restoring import restoration
from langevin.recipes.starting import start

EIGHT = "consistency:8:grid=angle"


@pytest.fixture(scope="module")
def leaper(tmp_path_factory):
    """A consistency model of the digits, which never learned without a class."""
    made = recipe("digits-consistency").model_dump()
    made["train"] |= {"steps": 4, "batch": 16, "warmup": 0}
    made["network"] = {"kind": "unet", "width": 8, "head_width": 8}
    out = tmp_path_factory.mktemp("runs") / "leaper"
    start(Recipe.model_validate(made), out)[1].run(progress=False)
    return out


def held(run, count):
    batch = run.test.batch(torch.arange(count))
    return leaves(batch.x)[""], {"label": batch.cond["label"]}


def refused(capsys, *words):
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    return capsys.readouterr().err


def test_what_is_known_is_kept_by_what_leaps_to_the_end(leaper, tmp_path, capsys, monkeypatch):
    run = open_run(leaper)
    x, cond = held(run, 3)
    kept = torch.zeros_like(x, dtype=torch.bool)
    kept[..., :4, :] = True
    drawn = {}
    original = tasks.restore

    def watch(*args, **options):
        drawn["made"] = original(*args, **options)
        return drawn["made"]

    monkeypatch.setattr("langevin.recipes.restoring.restore", watch)
    main(
        [
            "restore",
            str(leaper),
            "--task",
            "inpaint",
            "--rows",
            "3",
            "--count",
            "1",
            "--seed",
            "5",
            "--out",
            str(tmp_path / "p.png"),
        ]
    )
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert said["method"] == "known" and said["rmse of a sample"] > 0.05
    # it is the editing of tasks, in the eight evaluations of the method's plan, each picture told its own class
    by_hand = tasks.inpaint(run.denoiser, EIGHT, x, kept, cond=cond, seed=5)
    assert torch.equal(drawn["made"].samples[0], by_hand) and torch.equal(by_hand[kept], x[kept])
    other = tasks.inpaint(run.denoiser, EIGHT, x, kept, cond={"label": (cond["label"] + 1) % 10}, seed=5)
    assert not torch.equal(other, by_hand)
    small = torch.nn.functional.avg_pool2d(x, 2)
    restoration(run, "super-resolution", tmp_path / "s.png", rows=3, count=2, plan="consistency:2:grid=angle", label=4)
    averages = [torch.nn.functional.avg_pool2d(one, 2) for one in drawn["made"].samples]
    assert all(torch.allclose(one, small, atol=1e-5) for one in averages) and len(averages) == 2

    Image.new("L", (8, 8), 128).save(tmp_path / "one.png")
    words = ["restore", leaper, "--task", "inpaint", "--out", tmp_path / "p.png"]
    assert "never learned without one" in refused(capsys, *words, "--picture", tmp_path / "one.png")
    assert "takes beliefs for means" in refused(capsys, *words, "--method", "mmps")
    assert "keeps a measurement as it is, noise and all" in refused(capsys, *words, "--noise", "0.1")
    assert "label is 12" in refused(capsys, *words, "--label", "12")
    main([*map(str, words), "--picture", str(tmp_path / "one.png"), "--label", "4", "--count", "1"])


def test_one_evaluation_says_what_a_noisy_picture_was(leaper, tmp_path, capsys):
    run = open_run(leaper)
    x, cond = held(run, 4)
    calls = [0]
    forward = run.denoiser.net.forward

    def count(*args, **options):
        calls[0] += 1
        return forward(*args, **options)

    run.denoiser.net.forward = count
    said = restoration(run, "denoise", tmp_path / "d.png", rows=4, noise=0.4, seed=2)
    assert calls == [1] and said["method"] == "denoise" and said["deviation"] == 0
    # this process adds noise to data of its own size: the level of deviation 0.4 has sigma 0.4, and the state is the picture
    level = float(run.denoiser.process.leaves()[""].schedule.invert(torch.tensor(-2 * math.log(0.4), dtype=torch.float64)))
    found = tasks.denoise(run.denoiser, x + 0.4 * noise_of(2, x), level, cond=cond)
    assert said["rmse of a sample"] == pytest.approx(float((found - x).square().mean().sqrt()), abs=6e-5)
    words = ["restore", leaper, "--task", "denoise", "--out", tmp_path / "d.png"]
    assert "noise is 0, and denoise takes away what there is" in refused(capsys, *words, "--noise", "0")
    assert "says in one evaluation" in refused(capsys, *words, "--plan", EIGHT)


def noise_of(seed, x):
    from langevin.core.noise import Noise

    return Noise.of(seed, len(x)).at("measurement").normal(tuple(x.shape[1:]))


def test_strokes_are_raised_to_a_level_and_carried_down(leaper, tmp_path, capsys):
    run, plan, seed = open_run(leaper), "consistency:2:grid=angle", 7
    x, _ = held(run, 5)
    files = []
    for k, grey in enumerate(((x[:, 0] + 1) * 127.5).round().byte().numpy()):
        files.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(grey).save(files[-1])
    x = pictures_of(run, [Path(file) for file in files])
    words = ["sample", str(leaper), "--image", *files, "--plan", plan, "--seed", str(seed), "--label", "6"]
    main([*words, "--strength", "0.3", "--out", str(tmp_path / "x.npy")])
    cond = {"label": torch.full((5,), 6)}
    by_hand = tasks.image_to_image(run.denoiser, plan, x, 0.3, cond=cond, seed=seed)
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "x.npy")), by_hand, atol=1e-6)
    # a level of almost nothing gives the picture back, and a higher one less of it
    near, far = (draw(run, 5, plan=plan, image=x, label=6, strength=level) for level in (1e-4, 0.9))
    assert float((near - x).abs().max()) < 0.05 < float((far - x).abs().max())
    # sample k is the same whatever the count
    two, five = (draw(run, count, plan=plan, image=x, label=6, strength=0.5) for count in (2, 5))
    assert torch.allclose(two, five[:2], atol=1e-5)
    assert "above 0 and at most 1" in refused(capsys, *words, "--strength", "0", "--out", tmp_path / "y.png")


def test_ways_between_samples_end_at_samples(leaper, tmp_path, capsys, monkeypatch):
    run = open_run(leaper)
    shown = {}
    monkeypatch.setattr("langevin.pictures.save_images", lambda x, out, columns: shown.update(x=x, columns=columns))
    ways(run, tmp_path / "w.png", rows=2, count=4, seed=10)
    rows = shown["x"].reshape(2, 4, 1, 8, 8)
    for k in range(2):
        for at, seed in ((0, 10 + 2 * k), (-1, 11 + 2 * k)):
            end = draw(run, 1, plan="consistency:1", seed=seed, label=k).clamp(-1, 1)
            assert torch.allclose(rows[k, at], end[0], atol=1e-5)
    monkeypatch.undo()
    main(["interpolate", str(leaper), "--samples", "--rows", "2", "--out", str(tmp_path / "w.png")])
    words = ["interpolate", leaper, "--out", tmp_path / "w.png"]
    assert "go between its own --samples" in refused(capsys, *words)
    assert "seed is 3" in refused(capsys, *words, "--seed", "3")
    assert "tolerance is 0.1" in refused(capsys, *words, "--samples", "--tolerance", "0.1")
    assert stochastic(plans.consistency(2).on(run.denoiser.process.leaves()[""].schedule))
    assert "draws noise of its own" in refused(capsys, *words, "--samples", "--plan", EIGHT)
