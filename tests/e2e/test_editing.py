"""Pictures of one's own changed by a run from the command line: from a noise level, and through their noise."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import langevin as lv
from langevin import tasks
from langevin.cli import main
from langevin.core.sample import sample
from langevin.plans import ddim
from langevin.recipes.editing import changed
from langevin.record import read_record

TRAINED = [
    "train", "digits", "--train.steps", "60", "--train.batch", "32", "--train.lr", "0.01", "--train.warmup", "1",
    "--train.ema", "0", "--network.width", "8", "--network.blocks", "1", "--network.head-width", "8", "--samples", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    main([*TRAINED, "--out", str(out)])
    files = [out.parent / f"{k}.png" for k in range(2)]
    for k, file in enumerate(files):
        values = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(k), dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(file)
    return out, files


def pixels(file):
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture.convert("L"))).float() / 127.5 - 1


def test_samples_begin_at_pictures_as_image_to_image_does(made, tmp_path, capsys):
    out, files = made
    words = ["sample", str(out), "--image", *map(str, files), "--label", "3", "--plan", "ddim:4"]
    main([*words, "--strength", "0.4", "--out", str(tmp_path / "four.npy"), "--count", "4"])
    run = lv.open_run(out)
    x = torch.stack([pixels(file) for file in files])[:, None].repeat(2, 1, 1, 1)
    direct = tasks.image_to_image(run.denoiser, ddim(4), x, 0.4, cond={"label": torch.full((4,), 3)})
    drawn = torch.from_numpy(np.load(tmp_path / "four.npy"))
    assert torch.allclose(drawn, direct, atol=1e-5)
    # the nearer to data, the nearer to the pictures; and pure noise has forgotten them
    off = [float((drawn - x).square().mean())]
    for strength in ("0.1", "1"):
        main([*words, "--strength", strength, "--out", str(tmp_path / "x.npy"), "--count", "4"])
        off.append(float((torch.from_numpy(np.load(tmp_path / "x.npy")) - x).square().mean()))
    assert off[1] < off[0] < off[2]
    main(["sample", str(out), "--label", "3", "--plan", "ddim:4", "--out", str(tmp_path / "y.npy"), "--count", "4"])
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy"))
    main([*words, "--out", str(tmp_path / "page.png")])
    record = read_record(tmp_path / "page.png")
    assert record["count"] == 2 and record["strength"] == 0.5 and len(record["image"]) == 64
    capsys.readouterr()
    main(["inspect", str(tmp_path / "page.png")])
    assert "--strength=0.5 --image IMAGE" in capsys.readouterr().out


def test_the_same_class_gives_the_picture_back_and_another_what_its_noise_becomes(made, tmp_path, capsys):
    out, (file, _) = made
    words = ["edit", str(out), str(file), "3"]
    main([*words, "3", "--steps", "6", "--out", str(tmp_path / "same.png")])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["edited"]["missed"] < 1e-4 and (pixels(tmp_path / "same.png") - pixels(file)).abs().max() < 1 / 100
    run, x = lv.open_run(out), pixels(file)[None, None]
    label = torch.tensor([3])
    main([*words, "8", "--steps", "6", "--out", str(tmp_path / "other.png")])
    other = tasks.change(run.denoiser, x, {"label": label}, {"label": label + 5}, 6)
    assert (pixels(tmp_path / "other.png") - other[0, 0].clamp(-1, 1)).abs().max() < 1 / 100
    assert (other - x).square().mean() > 1e-4  # which is not the picture
    capsys.readouterr()
    main(["inspect", str(tmp_path / "other.png")])
    assert "langevin edit makes it of that again" in capsys.readouterr().out


def test_through_guidance_null_conditions_lead_nearer_to_the_picture(made):
    out, (file, _) = made
    run, x = lv.open_run(out), pixels(file)[None, None]
    _, plain = changed(run, x, "3", "8", steps=6, guidance=4.0, iterations=0)
    made_, led = changed(run, x, "3", "8", steps=6, guidance=4.0, iterations=20)
    assert float(led) < 0.5 * float(plain)
    cond, null = tasks.as_vectors(run.denoiser, {"label": torch.tensor([3])})
    found = tasks.invert_through(run.denoiser, x, cond, null, 4.0, 6, 20)
    eight, _ = tasks.as_vectors(run.denoiser, {"label": torch.tensor([8])})
    direct = sample(run.denoiser, ddim(6), 1, start=found.noise, cond=eight, guidance=found.guidance)
    assert torch.allclose(made_, direct, atol=1e-5)


def test_what_makes_no_sense_is_refused(made, tmp_path, capsys):
    out, (file, _) = made
    for words, said in (
        (["sample", out, "--image", file, "--out", tmp_path / "a.png"], "draws 10 classes; say of which it shall be, by label."),
        (["sample", out, "--image", file, "--label", 3, "--strength", 0, "--out", tmp_path / "a.png"], "above 0 and at most 1."),
        (["sample", out, "--strength", 0.5, "--out", tmp_path / "a.png"], "--image names; leave it out."),
        (["sample", out, "--image", file, "--steer", out, "--out", tmp_path / "a.png"], "is of graphs; leave one of them out."),
        (["edit", out, file, "3", "12"], "the class is 12; classes of this run are 0 to 9."),
        (["edit", out, file, "3", "cat"], "classes of this run are told by"),
        (["edit", out, file, "3", "8", "--budget", "8GB"], "budget is 8GB, which is told of published models"),
        (["edit", out, tmp_path / "none.png", "3", "8"], "none.png cannot be read"),
    ):
        with pytest.raises(SystemExit):
            main(list(map(str, words)))
        assert said in " ".join(capsys.readouterr().err.split())
    run = lv.open_run(out)
    plain = dataclasses.replace(run, facts=run.facts.model_copy(update={"classes": None}))
    with pytest.raises(ValueError, match="knows neither"):
        changed(plain, torch.zeros(1, 1, 8, 8), "3", "8")
    with pytest.raises(ValueError, match="iterations is -1"):
        changed(run, torch.zeros(1, 1, 8, 8), "3", "8", iterations=-1)
