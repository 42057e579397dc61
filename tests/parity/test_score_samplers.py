"""Score SDEs' published samplers, written out as loops of numpy beside the tables; one exact score, the same noise, float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Row
from langevin.core.sample import sample
from langevin.guidance import Replaced, operators
from langevin.plans.corrections import Langevin
from langevin.plans.predictor_corrector import PREDICTORS
from tests.laws.leaping import normal
from tests.parity.test_schedulers import feed

N, B, D = 24, 3, 4
LOW, HIGH, BETAS = 0.01, 50.0, (0.1, 20.0)
MEAN = np.array([0.4, -0.3, 0.2, 0.6])
COVARIANCE = 0.3 * np.eye(D) + 0.2
FRESH = Noise.of(3, B * 4 * N).normal((D,)).double().reshape(4 * N, B, D)
FIRST = normal(B, D).double()


def score(x, alpha, sigma):
    return -np.linalg.solve(alpha**2 * COVARIANCE + sigma**2 * np.eye(D), (x - alpha * MEAN).T).T


def loop(kind, predictor, corrector, corrections, snr, eps, denoise=True):
    """The last state. Nothing here is of the library's."""
    fresh = iter(FRESH.numpy())
    b0, b1 = BETAS

    def kernel(t):
        if kind == "ve":
            return 1.0, LOW * (HIGH / LOW) ** t
        log_mean = -0.25 * t**2 * (b1 - b0) - 0.5 * t * b0
        return math.exp(log_mean), math.sqrt(-math.expm1(2 * log_mean)) if kind == "vp" else -math.expm1(2 * log_mean)

    betas, sigmas = np.linspace(b0 / N, b1 / N, N), np.exp(np.linspace(math.log(LOW), math.log(HIGH), N))
    x = FIRST.numpy() * (HIGH if kind == "ve" else 1.0)
    times = np.linspace(1.0, eps, N)
    for k, t in enumerate(times):
        alpha, sigma = kernel(t)
        i = int(np.float32(t) * np.float64(N - 1))
        factor = 1.0 if kind == "ve" else 1 - betas[i]
        for _ in range(corrections):
            s, n = score(x, alpha, sigma), next(fresh)
            if corrector == "langevin":
                ratio = np.linalg.norm(n, axis=1).mean() / np.linalg.norm(s, axis=1).mean()
                size = (snr * ratio) ** 2 * 2 * factor
            else:
                size = (snr * sigma) ** 2 * 2 * factor
            x = x + size * s + math.sqrt(2 * size) * n
        s = score(x, alpha, sigma)
        beta_t = b0 + t * (b1 - b0)
        drift, g2 = (0.0, 2 * sigma**2 * math.log(HIGH / LOW)) if kind == "ve" else (-0.5 * beta_t * x, beta_t)
        if kind == "sub_vp":
            g2 = beta_t * (1 - math.exp(-2 * b0 * t - (b1 - b0) * t**2))
        before = sigmas[i - 1] if i else 0.0
        if predictor == "euler_maruyama" or (predictor == "reverse_diffusion" and kind == "sub_vp"):
            mean, noise = x - (drift - g2 * s) / N, math.sqrt(g2 / N)
        elif predictor == "reverse_diffusion" and kind == "vp":
            mean, noise = x - (math.sqrt(1 - betas[i]) * x - x - betas[i] * s), math.sqrt(betas[i])
        elif kind == "vp":
            mean, noise = (x + betas[i] * s) / math.sqrt(1 - betas[i]), math.sqrt(betas[i])
        else:
            step = sigmas[i] ** 2 - before**2
            mean = x + step * s
            noise = math.sqrt(step) if predictor == "reverse_diffusion" else math.sqrt(before**2 * step / sigmas[i] ** 2)
        x = mean if denoise and k == N - 1 else mean + noise * next(fresh)
    return x


SCHEDULES = {
    "vp": schedules.vp_linear(*BETAS), "sub_vp": schedules.sub_vp(*BETAS), "ve": schedules.edm(HIGH, LOW),
}  # fmt: skip
WAYS = [(kind, p) for kind in SCHEDULES for p in PREDICTORS if (kind, p) != ("sub_vp", "ancestral")]


def exact(kind):
    return oracles.gaussian(Gaussian(SCHEDULES[kind]), torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))


@pytest.mark.parametrize("corrector, corrections", [("langevin", 0), ("langevin", 2), ("ald", 1)])
@pytest.mark.parametrize("kind, predictor", WAYS)
def test_states_are_those_of_the_published_loop(kind, predictor, corrector, corrections):
    options = {"predictor": predictor, "corrector": corrector, "corrections": corrections, "snr": 0.16}
    # a deviation of 1e-4, as of sub-VP at its published end, leaves a score that was told as a belief eight digits
    ends = {"vp": [(1e-3, 1e-10)], "sub_vp": [(0.02, 1e-10), (1e-3, 1e-8)], "ve": [(1e-5, 1e-10)]}[kind]
    for (eps, tolerance), denoise in itertools.product(ends, (True, False)):
        denoiser = exact(kind)
        feed(denoiser.process, {f"noise/{i}": n for i, n in enumerate(FRESH)})
        plan = plans.score_sde(N, **options, lowest=0.0 if eps < 0.01 else eps, sigmas=(LOW, HIGH) if kind == "ve" else None,
                               reference=True, denoise=denoise)  # fmt: skip
        x = sample(denoiser, plan, B, start=FIRST * (HIGH if kind == "ve" else 1.0))
        theirs = loop(kind, eps=eps, denoise=denoise, **options)
        assert np.abs(x.numpy() - theirs).max() < tolerance * max(np.abs(theirs).max(), 1)


@pytest.mark.parametrize("kind, predictor", WAYS)
def test_by_default_steps_go_from_level_to_level_and_end_in_the_belief(kind, predictor):
    """Whatever the last level is, and each sample by itself; the published form depends on its batch."""
    start = FIRST * (HIGH if kind == "ve" else 1.0)
    denoiser = exact(kind)
    options = {"predictor": predictor, "lowest": 0.0 if kind == "ve" else 0.05, "snr": 0.3}
    plan = plans.score_sde(N, **options).on(SCHEDULES[kind])
    assert plan.levels[0] == 1 and plan.levels[-1] == 0 and plan.nfe == 2 * N
    last = plan.rows[-1]
    assert isinstance(last, Row) and last.a is None and last.mix == (1.0,) and last.level == pytest.approx(plan.levels[-2])
    whole = sample(denoiser, plan, B, start=start, seed=4)
    assert torch.allclose(sample(denoiser, plan, 1, start=start[1:2], seed=4, first_id=1), whole[1:2], atol=1e-12)
    theirs = plans.score_sde(N, reference=True, **options)
    one, all_of_them = (sample(denoiser, theirs, len(z), start=z, seed=4, first_id=k) for z, k in ((start[1:2], 1), (start, 0)))
    assert (one - all_of_them[1:2]).abs().max() > 1e-4


def test_langevin_steps_of_vp_have_the_papers_factor():
    """1 - beta_i, and not the signal's own square, under which corrections near noise would be none."""
    schedule = SCHEDULES["vp"]
    rows = [r for r in plans.score_sde(N, reference=True).on(schedule).rows if isinstance(r, Langevin)]
    assert rows[0].factor == pytest.approx(1 - BETAS[1] / N) and rows[-1].factor == pytest.approx(1 - BETAS[0] / N)
    # by default beta is not held over a step: the factor is the square of what the signal shrinks by
    ours = [r for r in plans.score_sde(N).on(schedule).rows if isinstance(r, Langevin)]
    shrunk = float(schedule(ours[5].start)[0] / schedule(ours[6].start)[0])
    assert ours[5].factor == pytest.approx(shrunk**2)
    assert not [r for r in plans.score_sde(N, corrections=0).on(schedule).rows if isinstance(r, Langevin)]
    ald = plans.score_sde(N, corrector="ald", snr=0.2, reference=True).on(schedule).rows[0]
    assert isinstance(ald, Langevin) and ald.size == pytest.approx(2 * (1 - BETAS[1] / N) * 0.2**2)


def test_the_published_inpainting_keeps_the_noise_of_its_last_step():
    """It takes the mean of what is noisy already: what is not known keeps sqrt(beta_1) n, which `denoise=False` is."""
    known = torch.tensor([True, True, False, False])
    y = torch.from_numpy(MEAN)[None] + 0.1
    found = {}
    for denoise in (True, False):
        denoiser = exact("vp")
        fed = {f"noise/{i}": n for i, n in enumerate(FRESH)}
        drawn = feed(denoiser.process, fed)
        plan = plans.score_sde(N, corrections=0, reference=True, denoise=denoise)
        measured = operators.inpaint(known, shape=(D,))
        guidance = Replaced(operator=measured, y=measured(y.expand(B, -1)), noise=Noise.of(1, B))
        found[denoise] = sample(denoiser, plan, B, start=FIRST, guidance=guidance)
        last = FRESH[drawn[-1]] if not denoise else None
    left = found[False] - found[True]
    assert last is not None and torch.allclose(left, math.sqrt(BETAS[0] / N) * last, atol=1e-12)
    # by default the end is the belief, whose known part is what was measured
    x = sample(exact("vp"), plans.score_sde(N, corrections=0), B, start=FIRST, guidance=guidance)
    assert torch.allclose(x[:, known], y[:, known].expand(B, -1), atol=1e-12)


def test_refusals():
    schedule = schedules.sub_vp()
    with pytest.raises(ValueError, match="no ancestral predictor of sub-VP"):
        plans.score_sde(N, predictor="ancestral").on(schedule)
    with pytest.raises(ValueError, match="steps is 20, of which the first has beta_i = 1; give 21 at least"):
        plans.score_sde(20, reference=True).on(schedules.vp_linear())
    with pytest.raises(ValueError, match="is of VP, sub-VP and VE processes, and the schedule is Formula"):
        plans.score_sde(N).on(schedules.flow())
    with pytest.raises(ValueError, match="corrector is 'mala'; there are langevin, ald"):
        plans.score_sde(N, corrector="mala")
    with pytest.raises(ValueError, match="give reference=True with it"):
        plans.score_sde(N, denoise=False)
    with pytest.raises(ValueError, match="which VE alone has, and the schedule is"):
        plans.score_sde(N, sigmas=(0.01, 5.0)).on(schedules.vp_linear())
    with pytest.raises(ValueError, match=r"lowest is 0\.1, and steps from level to level of VE end at the smallest of sigmas"):
        plans.score_sde(N, lowest=0.1).on(schedules.ve())
    with pytest.raises(ValueError, match="no signal at level 1"):
        plans.score_sde(N, reference=True).on(schedules.cosine())
