"""Plans chosen for a model, and learned for it."""

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.sample import sample
from langevin.guidance import CFG
from langevin.plans.choice import Starts
from langevin.plans.tuning import linearise, plan_of

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)


def exact(schedule=None, std=0.1, label=None):
    return oracles.mixture(Gaussian(schedule or schedules.vp_linear()), MEANS.float(), std, label=label)


LINEAR = {
    "trig": plans.trig(7),
    "unipc": plans.unipc(7),
    "dpmpp": plans.dpmpp(7),
    "midpoint": plans.midpoint(4),
    "lms": plans.lms(7),
    "ddim": plans.ddim(7),
}


@pytest.mark.parametrize("schedule", ["vp_linear", "edm", "flow"])
@pytest.mark.parametrize("name", LINEAR)
def test_every_plan_without_noise_is_a_matrix(name, schedule):
    # the same plan, its correctors and bases folded into levels and weights, ends where it ended
    if schedule == "flow" and name == "lms":
        pytest.skip("noise says nothing about data where alpha is 0")
    denoiser = exact(getattr(schedules, schedule)())
    process = denoiser.process
    start = process.prior((2,), Noise.of(0, 32), dtype=torch.float64)
    plan = LINEAR[name].on(process.schedule)
    linear = linearise(plan, process)
    assert linear is not None and linear.matrix().shape == (plan.nfe, plan.nfe + 1)
    folded = plan_of(linear, process, "folded")
    assert folded.nfe == plan.nfe
    ends = [sample(denoiser, p, 32, start=start) for p in (plan, folded)]
    assert torch.allclose(*ends, atol=1e-7)
    assert Plan.from_json(folded.to_json()) == folded


def test_plans_with_noise_are_no_matrix():
    process = exact().process
    for draft in (plans.ddpm(4), plans.consistency(3), plans.adaptive(), plans.heun(4), plans.rk4(2)):
        assert linearise(draft.on(process.schedule), process) is None


@pytest.mark.parametrize("guided", [False, True])
def test_tuning_beats_the_best_ready_made_plan_on_starts_it_has_not_seen(guided):
    label = torch.tensor([0, 1, 1]) if guided else None
    denoiser = exact(label=label)
    cond = {"label": torch.arange(256) % 2} if guided else None
    tuned, ready = plans.tune(
        denoiser, 5, cond=cond, guidance=CFG(2.0) if guided else None, count=192, held_out=64, iterations=300, batch=64
    )
    assert tuned.plan.nfe == ready.plan.nfe == 5
    assert tuned.score < ready.score - 0.1
    # and on still other ones, by the plain call
    other = Starts.of(denoiser, 256, 5, cond, CFG(2.0) if guided else None)
    assert other.trial(tuned.plan).score < other.trial(ready.plan).score


def test_tuning_resumes_to_the_same_plan(tmp_path, monkeypatch):
    from langevin.plans import tuning

    whole, _ = plans.tune(exact(), 3, count=64, held_out=64, iterations=240, batch=32, checkpoint=tmp_path / "a.safetensors")
    saves = []
    save = tuning._save

    def stop_after_two(file, runs, settings):
        save(file, runs, settings)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_save", stop_after_two)
    options = {"count": 64, "held_out": 64, "iterations": 240, "batch": 32, "checkpoint": tmp_path / "b.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        plans.tune(exact(), 3, **options)
    monkeypatch.setattr(tuning, "_save", save)
    resumed, _ = plans.tune(exact(), 3, **options)
    assert plans.compare(whole.plan, resumed.plan) == "the same"
    with pytest.raises(ValueError, match="another tuning"):
        plans.tune(exact(), 3, **{**options, "iterations": 300})


def test_auto_is_the_best_of_what_it_tries():
    denoiser = exact(std=0.3)  # wide enough that no start ends at another mode, which would rule the error
    bad, good = plans.ddim(8), plans.trig(8)
    assert plans.auto(denoiser, 8, plans=[bad, good], count=64).plan.name == good.name
    found = plans.auto(denoiser, 8, count=128)
    starts = Starts.of(denoiser, 256, 9)
    assert found.plan.nfe == 8
    # on other starts it is close to the best of all candidates, or is it
    trials = [starts.trial(draft) for draft in plans.candidates(8)]
    assert starts.trial(found.plan).score < min(t.score for t in trials) + 0.15


def test_levels_by_dynamic_programming_beat_equal_steps():
    denoiser = exact()
    levels = plans.optimal_levels(denoiser, 8, fine=60)
    assert (
        levels[0] == 1
        and levels[-1] == 0
        and len(levels) == 9
        and all(a > b for a, b in zip(levels[:-1], levels[1:], strict=True))
    )
    starts = Starts.of(denoiser, 256, 3)
    placed = starts.trial(plans.ddim(8, grid=plans.grids.given(levels)))
    for grid in ("uniform", "log_snr", "karras"):
        assert placed.rms < starts.trial(plans.ddim(8, grid=grid)).rms
    with pytest.raises(ValueError, match="fewer, or raise fine"):
        plans.optimal_levels(denoiser, 8, fine=4)


def test_refusals():
    with pytest.raises(ValueError, match="one Gaussian process"):
        plans.auto(oracles.enumerated(Categorical(3, schedules.keep_linear()), torch.ones(3, 3) / 9), 4)
    with pytest.raises(ValueError, match="at least 1"):
        plans.tune(exact(), 0)
