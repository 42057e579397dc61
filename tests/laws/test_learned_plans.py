"""Plans chosen for a model, and learned for it."""

import math

import pytest
import torch

from langevin import networks, oracles, plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.sample import sample
from langevin.guidance import CFG
from langevin.plans import tuning
from langevin.plans.choice import Starts, Trial
from langevin.plans.trying import Moved, Yardstick, strengthened
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


def test_gradients_of_networks_that_are_evaluated_again_are_the_same_to_the_bit(monkeypatch):
    torch.manual_seed(0)
    denoiser = Denoiser(networks.MLP(3, width=16, depth=1), Gaussian(schedules.cosine()), "v", shape=(3,)).eval()
    calls = []
    denoiser.net.register_forward_hook(lambda *_: calls.append(1))
    starts = Starts.of(denoiser, 8, 0)
    found = {}
    for least in (0, 2**30):
        monkeypatch.setattr(tuning, "RECOMPUTED", least)
        linear = linearise(plans.trig(4).on(schedules.cosine()), denoiser.process)
        calls.clear()
        with torch.enable_grad():
            tuning._loss(tuning._unroll(linear, starts, denoiser, tuning.DATA_STD), starts.end).backward()
        found[least] = (len(calls), linear.move.grad, linear.share.grad)
    (again, *gradients), (once, *plain) = found.values()
    assert (again, once) == (8, 4) and all(torch.equal(a, b) for a, b in zip(gradients, plain, strict=True))


def test_starts_are_evaluated_in_pieces_and_in_smaller_ones_where_memory_is_short():
    denoiser, seen, most = exact(), [], [1000]

    def watch(module, args):
        seen.append(len(args[0][""]))
        if seen[-1] > most[0]:
            raise torch.OutOfMemoryError("no")

    denoiser.register_forward_pre_hook(watch)
    whole = Starts.of(denoiser, 40, 0)
    assert set(seen) == {40}
    seen.clear()
    pieces = Starts.of(denoiser, 40, 0, batch=16)
    assert set(seen) == {16, 8} and torch.allclose(pieces.end, whole.end, atol=1e-6)
    trials = [starts.trial(plans.trig(5)) for starts in (whole, pieces)]
    assert trials[0].rms == pytest.approx(trials[1].rms, rel=1e-4)
    linear = linearise(plans.trig(5).on(denoiser.process.schedule), denoiser.process)
    checked = [tuning._Descent(linear, starts, denoiser, 0.1, 0.1).least for starts in (whole, pieces)]
    assert checked[0] == pytest.approx(checked[1], abs=1e-4)
    most[0] = 5
    seen.clear()
    short = Starts.of(denoiser, 40, 0)
    assert {n for n in seen if n <= 5} == {5} and torch.allclose(short.end, whole.end, atol=1e-6)
    most[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        whole.run(plans.trig(2))
    # and a tuning of small batches evaluates no large ones
    most[0] = 1000
    seen.clear()
    plans.tune(denoiser, 2, count=40, held_out=20, iterations=4, batch=2, begin=1)
    assert max(seen) == 16


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


def forty(schedule):
    """Forty narrow modes, among which a start ends elsewhere where a plan errs early."""
    return oracles.mixture(Gaussian(schedule), Noise.of(1, 40).normal((16,)), 0.05)


@pytest.mark.parametrize("steps", [5, 8])
@pytest.mark.parametrize("name", ["cosine", "edm"])
def test_auto_gives_up_neither_the_rms_nor_the_median(name, steps):
    # on starts it has not seen it is at most a tenth above the best published solver of each
    denoiser = forty(getattr(schedules, name)())
    found, starts = plans.auto(denoiser, steps), Starts.of(denoiser, 512, 9)
    known = [starts.trial(draft) for draft in plans.published(steps, denoiser.process.schedule)]
    got = starts.trial(found.plan)
    assert got.plan.nfe == steps
    assert got.rms < 1.1 * min(t.rms for t in known) and got.median < 1.1 * min(t.median for t in known)


def test_regret_is_that_of_the_worse_measure():
    plan, yardstick = plans.ddim(4).on(schedules.cosine()), Yardstick(0.1, 0.01)
    even, torn, worse = (Trial(plan, *errors) for errors in ((0.1, 0.009), (0.2, 0.001), (0.11, 0.01)))
    assert yardstick.regret(even) < yardstick.regret(worse) < yardstick.regret(torn)
    assert even.score > torn.score  # which a weighted sum has the other way round
    assert yardstick.regret(Trial(plan, math.nan, 0.01)) == math.inf
    assert Yardstick.of([even, torn, Trial(plan, math.nan, math.nan)]) == Yardstick(0.1, 0.001)
    with pytest.raises(ValueError, match="no plan that was tried gives finite samples"):
        Yardstick.of([Trial(plan, math.nan, math.nan)])


def test_a_plan_is_moved_to_err_less_and_begins_and_ends_where_it_did():
    denoiser = exact(std=0.3)  # wide enough that no start ends at another mode
    fit, held = Starts.of(denoiser, 256, 1), Starts.of(denoiser, 256, 2)
    (draft,) = [m for m in fit.candidates(6) if m.name == "x0/lam order 2 angle;center=1.0;power=1.0"]
    trial = fit.trial(draft)
    yardstick = Yardstick(trial.rms, trial.median)
    search = Moved(fit, trial, draft.on_grid, yardstick)
    regrets = [search.regret]
    for reach in (0.4, 0.2, 0.1):
        search.sweep(reach)
        regrets.append(search.regret)
    assert regrets == sorted(regrets, reverse=True)
    new = search.trial
    assert yardstick.regret(new) < -0.3 and new.plan.name == f"{draft.name}, moved" and new.plan.nfe == 6
    assert new.plan.levels[0] == 1 and new.plan.levels[-1] == 0 and new.plan.levels != trial.plan.levels
    before, after = (held.trial(plan) for plan in (trial.plan, new.plan))  # and so it is on other starts
    assert after.rms < 0.8 * before.rms and after.median < 0.8 * before.median


def test_strengths_lie_between_a_step_by_one_evaluation_and_the_plans_own():
    schedule = schedules.cosine()
    plan = plans.unipc(6, 2, final=0).on(schedule)
    using = [row for row in plan.rows if len(row.mix) > 1]
    predictors, correctors = (sum(row.anchored is anchored for row in using) for anchored in (False, True))
    assert strengthened(plan, predictors * [1.0], correctors * [1.0]) == plan
    plain = sample(exact(schedule), strengthened(plan, predictors * [0.0], correctors * [0.0]), 16, seed=0)
    assert torch.allclose(plain, sample(exact(schedule), plans.ddim(6, grid="log_snr"), 16, seed=0), atol=1e-5)
    strengths = [0.5 + 0.1 * i for i in range(predictors)]
    part, told = strengthened(plan, strengths, correctors * [1.0]), iter(strengths)
    assert part.order == 1
    for row, own in zip(part.rows, plan.rows, strict=True):
        assert sum(row.mix) == pytest.approx(1)
        if not own.anchored and len(own.mix) == 2:
            assert row.mix[1] == pytest.approx(own.mix[1] * next(told))
    assert next(told, None) is None


@pytest.mark.parametrize(("schedule", "wanted"), [("scaled_linear", "uniform"), ("cosine", "optimal")])
def test_equal_steps_and_placed_levels_end_fewest_starts_elsewhere_on_some_targets(schedule, wanted):
    tried = Starts.of(forty(schedules.betas(schedule)), 128, 1)
    best = min((tried.trial(draft) for draft in tried.candidates(4)), key=lambda trial: trial.rms)
    assert best.plan.name.split()[-1] == wanted


def test_a_word_leaves_its_levels_to_a_model():
    schedule = schedules.vp_linear()
    levels = [1.0, 0.8, 0.3, 0.0]
    for word, same in (("dpmpp:3:grid=optimal", {}), ("dpmpp:3:order=3,grid=optimal", {"order": 3}),
                       ("dpmpp:grid=optimal,steps=3", {})):  # fmt: skip
        assert plans.placed(word)
        made = plans.parse(word, plans.grids.given(levels)).on(schedule)
        assert made == plans.dpmpp(3, grid=plans.grids.given(levels), **same).on(schedule)
    assert not plans.placed("dpmpp:3:grid=karras")
    with pytest.raises(ValueError, match="placed on a model"):
        plans.parse("dpmpp:3:grid=optimal")
    with pytest.raises(ValueError, match="adaptive has no grid"):
        plans.parse("adaptive:grid=optimal", plans.grids.uniform())


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
