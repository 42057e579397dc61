"""Restart with several intervals: the published algorithm written out in sigma, and its published numbers of evaluations."""

import pytest
import torch

from langevin import oracles, plans, sample, schedules
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
CIFAR = "0.06 0.3 3 2"
IMAGENET = "19.35 40.79 4 1/1.09 1.92 4 1/0.59 1.09 4 5/0.30 0.59 4 5/0.06 0.30 6 6"


def karras(high, low, n):
    return (torch.linspace(high ** (1 / 7), low ** (1 / 7), n, dtype=torch.float64)) ** 7


@pytest.mark.parametrize(
    ("word", "evaluations"), [(f"restart:18:intervals={CIFAR}", 43), (f"restart:36:intervals={IMAGENET}", 203)]
)
def test_published_settings_take_the_published_number_of_evaluations(word, evaluations):
    assert plans.parse(word).on(schedules.edm()).nfe == evaluations  # 2306.14878, tables 3 and 5


def test_several_intervals_are_the_algorithm_written_out():
    schedule, intervals = schedules.edm(), [(1.0, 3.0, 4, 1), (0.06, 0.3, 3, 2)]
    model = oracles.mixture(Gaussian(schedule), MEANS, 0.3)
    plan = plans.restart(12, intervals=intervals).on(schedule)
    draws = iter([i for i, row in enumerate(plan.rows) if isinstance(row, plans.Renoise)])
    noise, start = Noise.of(0, 8), 80 * Noise.of(3, 8).normal((2,), torch.float64)

    def heun(x, high, low):
        slope = (x - model(x, high / 80).mean) / high
        there = x + (low - high) * slope
        return there if low == 0 else x + (low - high) * (slope + (there - model(there, low / 80).mean) / low) / 2

    sigmas = [*karras(80.0, 0.002, 12).tolist(), 0.0]
    at = {min(sigmas, key=lambda s: abs(s - bottom)): (top, n, repeats) for bottom, top, n, repeats in intervals}
    x = start
    for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = heun(x, high, low)
        top, n, repeats = at.get(low, (0.0, 0, 0))
        for _ in range(repeats):
            fresh = noise.at("bridge", step=next(draws)).at("").normal((2,), torch.float64)
            x = x + (top**2 - low**2) ** 0.5 * fresh
            inner = karras(top, low, n).tolist()
            for above, below in zip(inner[:-1], inner[1:], strict=True):
                x = heun(x, above, below)
    assert next(draws, None) is None
    assert torch.allclose(sample(model, plan, 8, start=start, seed=0), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ("0.06 0.3 3", "give t_min, t_max, n and repeats"),
        ("0.3 0.06 3 2", "0 < t_min < t_max"),
        ("0.06 0.3 1 2", "n of at least 2"),
        ("0.06 0.3 3 2/0.061 0.4 3 2", "two intervals at one level"),
        ("0.06 0.061 3 2", "no level near t_min"),
    ],
)
def test_intervals_that_are_none_are_refused(intervals, message):
    with pytest.raises(ValueError, match=message):
        plans.restart(6, intervals=intervals).on(schedules.edm())
