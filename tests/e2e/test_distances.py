"""Distances of pictures by word, in recipes and from the command line: --objective.distance lpips:weights=FILE, or classifier."""

from functools import partial
from pathlib import Path

import pytest
import torch

from langevin.cli import main
from langevin.evaluate import classifier as classifiers
from langevin.evaluate.perceptual import LPIPS, features, lpips
from langevin.objectives.distances import Frozen
from langevin.recipes import Recipe, recipe
from langevin.recipes.distances import check
from langevin.recipes.distillation import student
from langevin.recipes.facts import CodecFacts
from langevin.recipes.objectives import AutoencodingConfig
from langevin.recipes.opening import open_run, read_facts, read_recipe
from langevin.recipes.starting import start
from langevin.tensors import save
from langevin.training import load_latest

NET = {"kind": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_width": 8}
TRAIN = {"steps": 4, "batch": 4, "warmup": 0, "save_every": 2}


@pytest.fixture(scope="module", autouse=True)
def quick_classifiers():
    """Classifiers of a few updates: what is tested here is where they go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "train_classifier", partial(classifiers.train_classifier, steps=5))
        yield


def changed(name: str, **parts) -> Recipe:
    made = recipe(name).model_dump()
    for part, fields in {"network": NET, "train": TRAIN, **parts}.items():
        made[part] = fields if part == "network" else made[part] | fields
    return Recipe.model_validate(made)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    start(changed("digits", sample={"plan": "ddim:2"}), out)[1].run(progress=False)
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of LPIPS."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alexnet.safetensors"
    save(file, LPIPS("alexnet").state_dict())
    return file


def refused(capsys, *args) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(a) for a in args])
    return capsys.readouterr().err


@pytest.mark.parametrize("to", ["consistency", "lcm", "progressive", "trajectory", "shortcut", "reflow"])
def test_every_student_that_compares_learns_by_what_a_classifier_sees(teacher, tmp_path, to):
    made = student(read_recipe(teacher), teacher, to, 1).model_dump()
    made["train"] |= TRAIN | {"steps": 1}
    made["objective"] |= {"distance": "classifier", **({"pairs": 20} if to == "reflow" else {})}
    run, trainer = start(Recipe.model_validate(made), tmp_path)
    kept = next(tmp_path.glob("classifier-*.safetensors"))
    judge = run.domain.reference(run, "classifier", tmp_path, "cpu").judge  # that of evaluations is the same
    assert kept.stem == f"classifier-{run.train.digest()}" == f"classifier-{read_facts(tmp_path).distance}"
    assert isinstance(run.objective.distance, Frozen) and judge.digest() in repr(run.objective.distance)
    a, b = (torch.linspace(-1, 1, 128).sin().roll(k).reshape(2, 1, 8, 8) for k in (0, 5))
    assert torch.equal(run.objective.distance(a, b), features(judge)(a, b))
    trainer.run(progress=False)
    found = load_latest(tmp_path / "checkpoints")
    assert not [name for name in found.tensors["objective"] if name.startswith("distance")]


def test_a_run_that_was_stopped_goes_on_with_the_same_classifier_to_the_bit(teacher, tmp_path):
    made = student(read_recipe(teacher), teacher, "consistency", 1).model_dump()
    made["train"] |= TRAIN
    made["objective"]["distance"] = "classifier"
    made = Recipe.model_validate(made)
    start(made, tmp_path / "whole")[1].run(progress=False)
    for lost in (False, True):
        out = tmp_path / f"lost-{lost}"
        trainer = start(made, out)[1]
        for _ in range(2):
            trainer.update()
        trainer.save()
        trainer.close()
        kept = next(out.glob("classifier-*.safetensors"))
        if lost:  # the same data and seed give the same weights
            kept.unlink()
        start(made, out, resume=True)[1].run(progress=False)
        one, other = (load_latest(folder / "checkpoints").tensors for folder in (tmp_path / "whole", out))
        assert all(torch.equal(v, other[part][n]) for part in one for n, v in one[part].items())
        assert kept.exists()
    # other weights are another distance
    torch.manual_seed(1)
    other = classifiers.Classifier(1, 8, 10)
    save(kept, {**other.state_dict(), classifiers.DIGEST: torch.tensor(list(other.digest().encode()))})
    with pytest.raises(ValueError, match=f"objective is .*{other.digest()}.* but the run in .* was begun with"):
        start(made, out, resume=True)


def test_a_run_on_other_data_is_measured_by_the_classifier_it_was_begun_with(tmp_path):
    x, y = torch.linspace(-1, 1, 60 * 64).sin().reshape(60, 1, 8, 8), torch.arange(60) % 3

    def write(values):
        import numpy as np

        np.save(tmp_path / "x.npy", values.numpy())
        np.save(tmp_path / "y.npy", y.numpy())

    write(x)
    data = {"kind": "arrays", "x": str(tmp_path / "x.npy"), "label": str(tmp_path / "y.npy"), "test": 10}
    made = changed("digits-consistency", objective={"distance": "classifier"}).model_dump()
    made = Recipe.model_validate({**made, "data": data, "train": {**TRAIN, "steps": 6}})
    out = tmp_path / "run"
    trainer = start(made, out)[1]
    trainer.update()
    trainer.save()
    trainer.close()
    began = read_facts(out).distance
    write(x.flip(0))
    run, trainer = start(made, out, resume=True, other_data=True)
    assert run.train.digest() != began == read_facts(out).distance
    trainer.close()
    (out / f"classifier-{began}.safetensors").unlink()
    with pytest.raises(ValueError, match=r"classifier of the data it was begun with, .* put the file back, or the data"):
        start(made, out, resume=True, other_data=True)


def test_lpips_from_the_command_line(teacher, weights, tmp_path):
    out = tmp_path / "student"
    word = f"lpips:weights={weights},size=32"
    main(["distill", str(teacher), "--to", "consistency", "--objective.distance", word, "--train.steps", "2",
          "--train.batch", "4", "--train.warmup", "0", "--samples", "0", "--device", "cpu", "--out", str(out)])  # fmt: skip
    assert read_recipe(out).objective.distance == word
    run, trainer = start(read_recipe(out), out, resume=True)
    trainer.close()
    a, b = (torch.linspace(-1, 1, 128).sin().roll(k).reshape(2, 1, 8, 8) for k in (0, 5))
    assert torch.equal(run.objective.distance(a, b), lpips(weights, size=32)(a, b))
    # samples need no file
    moved = weights.rename(weights.with_suffix(".moved"))
    try:
        assert open_run(out).recipe.objective.distance == word
        with pytest.raises(ValueError, match="cannot be read"):
            start(read_recipe(out), out, resume=True)
    finally:
        moved.rename(weights)


def test_an_autoencoder_has_the_same_words(weights, tmp_path):
    fields = ["--network.width", "8", "--network.multipliers", "1", "2", "--train.steps", "2", "--train.batch", "4"]
    word = f"lpips:weights={weights},size=32"
    main(["train", "digits-autoencoder", *fields, "--objective.perceptual", "0.5", "--objective.distance-of-features", word,
          "--objective.distance", "classifier", "--data.labels", "--samples", "0", "--device", "cpu",
          "--out", str(tmp_path / "a")])  # fmt: skip
    run, trainer = start(read_recipe(tmp_path / "a"), tmp_path / "a", resume=True)
    trainer.close()
    assert "LPIPS(alexnet" in repr(run.objective.distance_of_features) and "Features(" in repr(run.objective.distance)
    # recipes of earlier versions have the file in a field of its own
    old = {"kind": "autoencoding", "perceptual": 0.5, "lpips": str(weights)}
    assert AutoencodingConfig.model_validate(old).distance_of_features == f"lpips:weights={weights}"
    assert AutoencodingConfig.model_validate({"lpips": None}) == AutoencodingConfig()


def test_what_compares_no_pictures_is_refused(teacher, weights, tmp_path, capsys):
    few, out = ["--train.steps", "1", "--samples", "0", "--device", "cpu"], tmp_path / "no"
    distil = ["distill", teacher, "--to", "consistency", *few, "--out", out, "--objective.distance"]
    assert "say lpips:weights=FILE" in refused(capsys, *distil, "lpips")
    assert "objective.distance is 'lpip'; did you mean 'lpips'?" in refused(capsys, *distil, "lpip")
    assert "has no option 'weight'; did you mean 'weights'" in refused(capsys, *distil, f"lpips:weight={weights}")
    assert "at least 31 pixels a side: resize smaller ones, by size=64" in refused(capsys, *distil, f"lpips:weights={weights}")
    assert "cannot be read" in refused(capsys, *distil, f"lpips:weights={tmp_path / 'none'}")
    consistency = ["--objective.kind", "consistency", "--objective.distance", "classifier", *few, "--out", out]
    said = refused(capsys, "train", "two-moons", *consistency)
    assert "objective.distance is 'classifier', which compares pictures, and samples of data 'moons'" in said
    assert "use one of squared, absolute, pseudo_huber, huber" in said
    assert "this data has no labels; use lpips:weights=FILE" in refused(
        capsys, "train", "digits", *consistency, "--data.no-labels"
    )
    assert not (out / "checkpoints").exists()
    made = changed("digits-consistency", objective={"distance": "classifier"})
    coded = CodecFacts(origin="somewhere", hash="", pictures=(1, 8, 8))
    with pytest.raises(ValueError, match=r"compares pictures, and samples are latents of codec.origin somewhere"):
        check(made, read_facts(teacher).model_copy(update={"codec": coded}))
