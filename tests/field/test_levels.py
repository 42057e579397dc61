"""OneTrainer#615 and SimpleTuner#2649: a sampler that spends its steps where training hardly went, and nobody is told."""

import json

import pytest
import torch

import langevin as lv
from langevin import plans, schedules
from langevin.cli import main
from langevin.core.plan import Row
from langevin.objectives import Denoising
from langevin.tasks import LevelsMet, levels_met


def model(schedule):
    return lv.oracles.mixture(lv.Gaussian(schedule), torch.eye(2), 0.3)


def test_onetrainer_615_steps_where_training_hardly_goes_are_told():
    # there: the sampler shifts by e^1.15, training draws logit-normal levels without; 6 of 20 steps are at .9 or above
    objective, flow = Denoising(levels="logit_normal"), model(schedules.flow())
    shifted = plans.euler(20, grid="shifted;shift=3.16")
    met = levels_met(objective, flow, shifted)
    assert sum(met.trained) == pytest.approx(1) and met.asked == pytest.approx([1 / 20] * 20)
    levels = [row.level for row in shifted.on(schedules.flow()).rows]
    assert sum(t >= 0.9 for t in levels) == 6 and met.edges[6] == pytest.approx((levels[5] + levels[6]) / 2)
    beyond = torch.special.ndtr(-torch.logit(torch.tensor(met.edges[6], dtype=torch.float64)))
    assert sum(met.trained[:6]) == pytest.approx(float(beyond), abs=1e-4) and float(beyond) < 0.02
    assert met.neglected >= 0.3 and met.warning is not None and met.warning in str(met) and "near noise" in met.warning
    # one law of levels for both: each step has its share of training
    assert levels_met(objective, flow, plans.euler(20)).warning is None
    agreed = levels_met(Denoising(levels="logit_normal:mean=1.15"), flow, shifted)
    assert agreed.warning is None and agreed.neglected < 0.21


def test_near_data_as_well():
    met = levels_met(Denoising(levels="logit_normal:mean=2"), model(schedules.flow()), plans.euler(20))
    assert met.warning is not None and "near data" in met.warning


def test_a_plan_of_the_levels_of_training_asks_where_it_was_met():
    # levels at the quantiles of the density, whatever schedule they are levels of
    for density, schedule in (("uniform", schedules.cosine()), ("lognormal_sigma", schedules.edm()), ("beta", schedules.flow())):
        objective = Denoising(levels=density)
        u = torch.linspace(1, 0, 11, dtype=torch.float64)[:-1].clamp(max=1 - 1e-6)
        levels = [*objective.levels.quantile(u, schedule).tolist(), 0.0]
        table = lv.Plan(name="q", basis="x0", order=1,
                        rows=tuple(Row(level=a, start=a, stop=b) for a, b in zip(levels, levels[1:], strict=False)))  # fmt: skip
        met = levels_met(objective, model(schedule), table)
        assert (
            met.neglected < 0.11 and sum(met.trained) == pytest.approx(1) and min(met.trained[1:]) > 0.04
        )  # the first is an end


def test_edms_published_settings_dwell_at_high_noise_as_the_page_says():
    met = levels_met(Denoising("edm", "lognormal_sigma"), model(schedules.edm()), plans.edm(18))
    assert isinstance(met, LevelsMet) and 0.45 < met.neglected < 0.7 and met.warning is not None


def test_many_evaluations_are_told_in_parts():
    met = levels_met(Denoising(), model(schedules.cosine()), plans.ddpm(1000, grid="uniform"), parts=10)
    assert met.asked == pytest.approx([0.1] * 10) and met.trained == pytest.approx([0.1] * 10, abs=1e-3) and met.neglected == 0
    twice = levels_met(Denoising(), model(schedules.cosine()), plans.predictor_corrector(10))  # two at each level but one
    assert len(twice.asked) <= 20 and sum(twice.asked) == pytest.approx(1)


def test_what_draws_no_levels_is_refused():
    with pytest.raises(ValueError, match="which finds its levels as it goes"):
        levels_met(Denoising(), model(schedules.cosine()), plans.PLANS["adaptive"]())
    with pytest.raises(ValueError, match="draws no levels from a density"):
        levels_met(torch.nn.Identity(), model(schedules.cosine()), plans.ddim(5))


def test_all_leaves_of_a_product_are_told():
    process = lv.Product({"a": lv.Gaussian(schedules.flow()), "b": lv.Gaussian(schedules.cosine())})
    denoiser = lv.Denoiser(torch.nn.Identity(), process, {"a": "velocity", "b": "v"}, {"a": (2,), "b": (2,)})
    met = levels_met(Denoising(), denoiser, plans.ddim(10, grid="uniform"))
    assert isinstance(met, dict) and set(met) == {"a", "b"} and all(sum(one.asked) == pytest.approx(1) for one in met.values())


def test_levels_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "two-moons", "--train.steps", "2", "--train.batch", "8", "--network.width", "8", "--samples", "20",
          "--objective.levels", "uniform:margin=0.3", "--out", str(out)])  # fmt: skip
    capsys.readouterr()
    main(["plan", "levels", str(out), "--plan", "ddim:20:grid=uniform"])
    said = capsys.readouterr().out
    assert "1.0000 - 0.9750      0.0%         5.0%" in said
    assert "of the evaluations, most of them near" in said and "less than 5% of the training samples" in said
    main(["plan", "levels", str(out), "--plan", "ddim:20", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert len(told["trained"]) == len(told["asked"]) == 20 and told["neglected"] > 0.25
    with pytest.raises(SystemExit):
        main(["plan", "level", str(out)])
    assert "did you mean 'levels'" in capsys.readouterr().err
