"""Words of plans that are found on a model, and written plans that leave noise in what they draw."""

import dataclasses

import pytest
import torch

import langevin as lv
from langevin import plans, sampling
from langevin.plans.choice import Trial
from langevin.tasks.edit import image_to_image, stroke

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]])
COSINE = lv.Gaussian(lv.schedules.cosine())


def exact():
    return lv.oracles.mixture(COSINE, MEANS, 0.1)


def test_auto_is_what_trying_finds(monkeypatch):
    monkeypatch.setattr(sampling, "TRIED", 8)  # more take seconds
    model = exact()
    found = plans.auto(model, 2, count=8).plan
    assert found.nfe == 2 and not torch.equal(lv.sample(model, "default:2", 4), lv.sample(model, found, 4))
    assert torch.equal(lv.sample(model, "auto:2", 4), lv.sample(model, found, 4))
    assert torch.equal(list(lv.trajectory(model, "auto:2", 4))[-1].z, lv.sample(model, found, 4))


def test_auto_is_tried_once_for_what_it_was_tried_under(monkeypatch):
    asked = []

    def tried(denoiser, steps, **how):
        asked.append((steps, how))
        return Trial(plans.ddim(steps).on(denoiser.process.schedule), 0.0, 0.0)

    monkeypatch.setattr(plans, "auto", tried)
    net = lv.networks.MLP(2, 8, 1, classes=3)
    model, label = lv.Denoiser(net, COSINE, "v", shape=(2,)), {"label": torch.tensor([2, 0, 1])}
    drawn = lv.sample(model, "auto:3", 3, cond=label, guidance=lv.CFG(2.0))
    assert torch.equal(drawn, lv.sample(model, "ddim:3", 3, cond=label, guidance=lv.CFG(2.0)))
    (steps, how), count = asked[0], len(asked)
    assert steps == 3 and torch.equal(how["cond"]["label"], torch.tensor([2, 0, 1]).repeat(171)[:512])
    z = torch.ones(6, 2)
    cond = {"label": how["cond"]["label"][:6]}  # of the guidance, and not of what it is without
    assert torch.equal(how["guidance"](model)(z, 0.5, cond).mean, lv.CFG(2.0)(model)(z, 0.5, cond).mean)
    for same in (lambda: lv.sample(model, "auto:3", 3, cond=label, guidance=lv.CFG(2.0), seed=9),
                 lambda: lv.captured(model, "auto:3", 3, cond=label, guidance=lv.CFG(2.0))):  # fmt: skip
        same()
        assert len(asked) == count
    for other in (
        lambda: lv.sample(model, "auto:4", 3, cond=label, guidance=lv.CFG(2.0)),
        lambda: lv.sample(model, "auto:3", 3, cond=label, guidance=lv.CFG(3.0)),
        lambda: lv.sample(model, "auto:3", 3, cond={"label": torch.tensor([2, 1, 0])}, guidance=lv.CFG(2.0)),
        lambda: stroke(model, "auto:3", z),
        lambda: next(net.parameters()).data.add_(1),
        lambda: lv.sample(model, "auto:3", 3, cond=label, guidance=lv.CFG(2.0)),
    ):
        other()
    assert len(asked) == count + 5  # changed weights are another model


def test_auto_says_where_there_is_no_model_to_try_on():
    with pytest.raises(ValueError, match=r"found by trying plans on a model.*plans.auto\(denoiser, 3\).plan"):
        plans.parse("auto:3")
    with pytest.raises(ValueError, match="say how many evaluations, as in 'auto:10'"):
        lv.sample(exact(), "auto", 4)
    with pytest.raises(ValueError, match="plans are chosen and tuned for one Gaussian process"):
        lv.sample(lv.oracles.dataset(lv.Categorical(3, lv.schedules.keep_linear()), torch.tensor([[0], [1]])), "auto:3", 4)


def test_a_plan_that_was_cut_is_said_to_leave_noise(tmp_path):
    model, whole = exact(), plans.ddim(8).on(COSINE.schedule)
    cut = dataclasses.replace(whole, rows=whole.rows[:5])
    (tmp_path / "cut.json").write_text(cut.to_json())
    for plan in (cut, str(tmp_path / "cut.json"), {"": cut}):
        with pytest.warns(UserWarning, match=r"ends at level 0.375, so that samples keep noise of 0.68 times the signal's size"):
            noisy = lv.sample(model, plan, 500)
    # which they do: there is more in them than the mixture has
    nearest = torch.cdist(noisy.double(), MEANS.double()).amin(1)
    assert float(nearest.median()) > 3 * 0.1
    # where it is meant nothing is said (and warnings are errors here): a grid that is told to stop, a way that is walked state by
    # state, image-to-image, and noise that a picture is carried up to
    lv.sample(model, "ddim:4:grid=uniform", 4)
    stopped = lv.sample(model, plans.ddim(5, grid=plans.grids.uniform(stop=0.375)), 500)
    assert torch.allclose(stopped, noisy, atol=1e-6)
    last = list(lv.trajectory(model, cut, 500))[-1]
    assert last.level == 0.375 and torch.equal(last.z, noisy)
    rest = dataclasses.replace(whole, rows=whole.rows[5:])
    assert torch.allclose(lv.sample(model, rest, 500, start=last.z), lv.sample(model, whole, 500), atol=1e-6)
    image_to_image(model, "ddim:4", noisy, 0.5)
    lv.sample(model, plans.inversion(4).on(COSINE.schedule), 500, start=stopped)
    floor = plans.ddim(8, grid=plans.grids.uniform(stop=COSINE.schedule.floor)).on(COSINE.schedule)
    lv.sample(model, floor, 4)  # nobody sees that much


def test_a_plan_that_was_cut_is_said_to_leave_noise_in_samples_of_a_run(tmp_path):
    from langevin.recipes import recipe
    from langevin.recipes.build import build
    from langevin.recipes.drawing import draw

    made = recipe("two-moons")
    run = build(made)
    whole = plans.ddim(8).on(run.denoiser.process.schedule)
    (tmp_path / "cut.json").write_text(dataclasses.replace(whole, rows=whole.rows[:5]).to_json())
    with pytest.warns(UserWarning, match="so that samples keep noise of"):
        draw(run, 3, plan=str(tmp_path / "cut.json"))
