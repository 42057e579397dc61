"""Bayesian flow networks by recipe: they are those of Python to the bit, and run from data to pictures and bits."""

import json

import numpy as np
import pytest
import torch

import langevin as lv
from langevin import bayesian_flow as bfn
from langevin.cli import main
from langevin.core.noise import Noise
from langevin.embedded import Embedded, Logits
from langevin.recipes import Recipe, recipe
from langevin.recipes.build import build
from langevin.recipes.domains.pictures import as_pictures
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.tasks.elbo import variational_bound

SMALL = {"width": 8, "blocks": 1, "head_width": 8}
WORDS = [word for name, value in SMALL.items() for word in (f"--network.{name.replace('_', '-')}", str(value))]
SHORT = [*WORDS, "--train.steps", "2", "--train.batch", "4", "--samples", "0", "--sample.plan", "bayesian_flow:2"]

FORMS = {
    "discretised": (
        {"data": {"levels": 17}, "process": {"categories": 17}}, lambda: bfn.discretised(17), bfn.Bins, (1, 8, 8)
    ),
    "discrete": (
        {"data": {"levels": 5}, "process": {"categories": 5, "beta_1": 2.0}}, lambda: bfn.discrete(5, 2.0),
        lambda: Logits(shown="probs"), (1, 8, 8, 5),
    ),
    "continuous": (
        {"data": {"form": "image"}, "process": {"sigma_1": 0.02, "bound": 1.2}}, lambda: bfn.continuous(0.02),
        lambda: bfn.ClippedNoise(1.2), (1, 8, 8),
    ),
}  # fmt: skip


def changed(name, *, form=None, **parts):
    base = recipe(name).model_dump()
    base["network"].update(SMALL)
    if form is not None:
        base["process"]["form"] = form
    for part, settings in parts.items():
        base[part].update(settings)
    return Recipe.model_validate(base)


@pytest.mark.parametrize("spread", ["shared", "elements"])
@pytest.mark.parametrize("form", FORMS)
def test_process_prediction_loss_and_samples_are_those_of_python_to_the_bit(form, spread):
    settings, process, prediction, shape = FORMS[form]
    run = build(changed("digits-bfn", form=form, objective={"reconstruction": True, "spread": spread}, **settings))
    with torch.no_grad():  # last layers begin at zero, and would hide what the network is shown
        for k, p in enumerate(run.denoiser.parameters()):
            p.add_(0.05 * Noise.of(k, 1).normal(tuple(p.shape))[0])
    direct = lv.Denoiser(run.denoiser.net, process(), prediction(), shape=shape)
    direct.spread = run.denoiser.spread
    assert run.denoiser.shape == shape and repr(direct.process) == repr(run.denoiser.process)
    assert type(direct.predictions[""]) is type(run.denoiser.predictions[""])
    batch = run.reading.batch(torch.arange(6))
    objective = lv.objectives.BayesianFlow(reconstruction=True, spread=spread, drop=0.1)
    ours, theirs = (f(m.eval(), batch, Noise.of(3, 6)) for f, m in ((run.objective, run.denoiser), (objective, direct)))
    assert torch.equal(ours.total, theirs.total) and ours.total.isfinite() and set(ours.logs) == set(theirs.logs)
    drawn = draw(run, 4, plan="bayesian_flow:3", seed=5)
    x = lv.sample(direct, lv.plans.bayesian_flow(3), 4, seed=5, cond={"label": torch.arange(4)})
    leaf = direct.process
    assert isinstance(leaf, Embedded) == (form != "continuous")
    assert torch.equal(drawn, leaf.round(x) if isinstance(leaf, Embedded) else x)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_belief_about_a_pixel_reaches_its_own_sample_alone(network):
    small = SMALL if network == "unet" else {"kind": "dit", "width": 16, "depth": 1, "heads": 2}
    base = changed("digits-bfn-binary").model_dump()
    base["network"] = {"kind": network, **small}
    net = build(Recipe.model_validate(base)).denoiser.net.eval()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.add_(0.05 * Noise.of(k, 1).normal(tuple(p.shape))[0])
    z = Noise.of(0, 3).normal((1, 8, 8, 2))
    level = torch.full((3,), 300.0)
    out, moved = net(z, level), z.clone()
    moved[0, 0, 2, 5, 1] += 1
    change = (net(moved, level) - out).abs().flatten(1).amax(1)
    assert out.shape == z.shape and change[0] > 1e-5 and (change[1:] == 0).all()


@pytest.mark.parametrize(
    ("name", "more", "levels"),
    [
        ("digits-bfn", [], 17),
        ("digits-bfn-binary", [], 2),
        ("digits-bfn", ["--process.form", "continuous", "--data.form", "image"], None),
    ],
)
def test_a_run_trains_samples_is_judged_and_has_a_likelihood(name, more, levels, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", name, *SHORT, *more, "--out", str(out)])
    for path in (tmp_path / "x.png", tmp_path / "x.npy"):
        main(["sample", str(out), "--count", "3", "--seed", "2", "--out", str(path)])
    x, run = np.load(tmp_path / "x.npy"), open_run(out)
    assert x.shape == (3, 1, 8, 8)
    if levels is None:
        assert x.dtype == np.float32 and np.abs(x).max() <= 1
    else:
        assert x.dtype == np.int64 and x.min() >= 0 and x.max() < levels
        grey = as_pictures(run, torch.from_numpy(x))
        assert torch.equal(grey, torch.from_numpy(x).float() * 2 / (levels - 1) - 1)
    main(["evaluate", str(out), "--small", "--count", "20", "--features", "pca", "--metrics", "fd"])
    capsys.readouterr()
    main(["likelihood", str(out), "--count", "5", "--draws", "4", "--json", *(["--bound"] if levels is None else [])])
    said = json.loads(capsys.readouterr().out)
    assert said["elements"] == 64 and said["nats_per_element"] > 0
    if levels is None:
        return
    direct, how = variational_bound(run.denoiser, run.test.batch(torch.arange(5)), draws=4)
    assert said["nats_per_element"] == pytest.approx(-float(direct.nats.mean()) / 64, rel=1e-5)
    assert said["how"] == how and said["width"] is None
    # samples are data of the run; points in place of ids are not
    main(["likelihood", str(out), str(tmp_path / "x.npy"), "--draws", "2"])
    np.save(tmp_path / "floats.npy", x.astype(np.float32))
    for words, error in (
        (["likelihood", str(out), str(tmp_path / "floats.npy")], "bound of points is of their ids"),
        (["interpolate", str(out), "--out", str(tmp_path / "i.png")], "draws categories of grey"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parts", "words"),
    [
        ("digits-bfn", {"data": {"form": "image"}}, "this data is numbers; use process.form continuous, or data.form categories"),
        ("digits-bfn", {"form": "continuous"}, "this data is of categories; use discretised, or data.form image"),
        ("digits-bfn", {"data": {"form": "joint"}}, "product of leaves; use data.form"),
        ("digits-bfn", {"data": {"levels": 16}}, "process.categories is 17, and data.levels is 16; make them agree"),
        ("digits-bfn", {"form": "discrete"}, "process.beta_1 is not given"),
        (
            "digits-bfn",
            {"process": {"beta_1": 2.0}},
            "process.beta_1 is 2, and process.form 'discretised' goes by process.sigma_1",
        ),
        ("digits-bfn-binary", {"process": {"sigma_1": 0.1}}, "process.sigma_1 is 0.1, and process.form 'discrete' goes by"),
        (
            "digits-bfn",
            {"form": "continuous", "data": {"form": "image"}, "process": {"bound": 0.5}},
            "data reaches to 1; raise it",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(name, parts, words):
    with pytest.raises(ValueError, match=words) as refused:
        build(changed(name, **parts))
    assert str(refused.value).count(". ") == 0 and str(refused.value).endswith(".")
