"""The adaptive DPM-Solver and k-diffusion's, side by side, and what it keeps on its own."""

from typing import Any

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.sample import sample, trajectory
from tests.parity.test_samplers import COUNT, MEANS, TOLERANCE, Watched, X, k_sampling

CASES: dict[str, dict[str, float]] = {
    "23": {},
    "12": {"order": 2},
    "23, finer": {"rtol": 1e-3, "atol": 1e-4},
    "12, finer": {"rtol": 1e-2, "atol": 1e-3, "order": 2},
    "PID": {"rtol": 1e-3, "atol": 1e-4, "pcoeff": 0.4, "icoeff": 0.7, "dcoeff": 0.1},
    "a first step that is refused": {"rtol": 1e-3, "atol": 1e-4, "h_init": 3.0, "accept_safety": 0.9},
}
OURS = {"pcoeff": "proportional", "icoeff": "integral", "dcoeff": "derivative", "h_init": "first", "accept_safety": "safety"}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_k_diffusion(name):
    low, high = 0.03, 15.0
    network, asked = Watched(schedules.edm(sigma_max=120.0)), 0

    def model(x, sigma):
        nonlocal asked
        asked += 1
        return network.exact(x, float(sigma[0]) / 120).mean

    # in float64: in float32 the errors of the first steps, which decide on the next ones, are rounding
    settings, solver = CASES[name], k_sampling().DPMSolver(model)
    ends = [solver.t(torch.tensor(sigma, dtype=torch.float64)) for sigma in (high, low)]
    end, info = solver.dpm_solver_adaptive(X.double() * high, *ends, **settings)
    assert info["nfe"] == asked and info["n_reject"] > 0
    said: dict[str, Any] = {OURS.get(key, key): value for key, value in settings.items()}
    draft = plans.dpm_adaptive(**said, together=True, sigma_min=low, sigma_max=high, denoise=False)
    *_, last = trajectory(network.exact, draft, COUNT, start=X.double() * high, seed=0)
    assert last.nfe == info["nfe"]
    assert float((last.z - end).abs().max() / end.abs().max()) < TOLERANCE


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("schedule", ["vp_linear", "edm"])
def test_errors_fall_with_the_tolerance(schedule, order):
    process = Gaussian(getattr(schedules, schedule)())
    denoiser = oracles.mixture(process, MEANS, 0.5)
    start = process.prior((2,), Noise.of(0, 32), dtype=torch.float64)
    truth = sample(denoiser, plans.trig(300, 4), 32, start=start)
    errors, evaluations = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        *_, last = trajectory(denoiser, plans.dpm_adaptive(tolerance, tolerance / 5, order), 32, start=start)
        errors.append(float((last.z - truth).square().mean().sqrt()))
        evaluations.append(last.nfe)
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 5e-3
    assert evaluations[0] < evaluations[1] < evaluations[2] < 600


def test_samples_have_steps_of_their_own():
    process = Gaussian(schedules.vp_linear())
    denoiser = oracles.mixture(process, MEANS, 0.5)
    start = process.prior((2,), Noise.of(0, 16), dtype=torch.float64)
    draft = plans.dpm_adaptive(1e-3, 1e-3)
    alone, together = sample(denoiser, draft, 1, start=start[5:6]), sample(denoiser, draft, 16, start=start)
    assert torch.allclose(alone[0], together[5], atol=1e-9)
    shared = plans.dpm_adaptive(1e-3, 1e-3, together=True)
    one, many = sample(denoiser, shared, 1, start=start[5:6]), sample(denoiser, shared, 16, start=start)
    assert not torch.allclose(one[0], many[5], atol=1e-9)


def test_it_is_a_plan_like_any_other():
    plan = plans.parse("dpm_adaptive:rtol=0.01,order=2").on(schedules.vp_linear())
    assert plan == Plan.from_json(plan.to_json()) and plan.nfe == 1001 and str(plan).startswith("dpm_adaptive(rtol=0.01")
    assert plans.counted("dpm_adaptive", 20) == ("dpm_adaptive", None)


def test_what_cannot_be_is_refused():
    denoiser = oracles.mixture(Gaussian(schedules.vp_linear()), MEANS, 0.5)
    with pytest.raises(ValueError, match="most is 20 and dpm_adaptive needs more"):
        sample(denoiser, plans.dpm_adaptive(1e-5, 1e-5, most=20), 4)
    with pytest.raises(ValueError, match="order 4; there are 2 and 3"):
        plans.dpm_adaptive(order=4).on(schedules.vp_linear())
    with pytest.raises(ValueError, match="lower sigma_max"):
        plans.dpm_adaptive(sigma_max=99.0).on(schedules.edm())
    with pytest.raises(ValueError, match="tolerances and the first step are above 0"):
        plans.dpm_adaptive(first=0.0).on(schedules.vp_linear())
