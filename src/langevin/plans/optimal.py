"""Levels by dynamic programming on the model's own local errors (after Watson et al., 2106.03802)."""

import math

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Shape, home
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.sample import Guidance, trajectory
from langevin.plans.first_order import check_steps
from langevin.plans.integrals import polar
from langevin.plans.multistep import trig


def prior(denoiser: BaseDenoiser, count: int, seed: int, shape: Shape | None) -> Tensor:
    """`count` states at level 1 of a denoiser on one Gaussian process."""
    shape = shape if shape is not None else denoiser.shape
    if not isinstance(shape, tuple):
        raise ValueError("the shape of a sample is unknown; pass shape=, or build the denoiser with it.")
    device, dtype = home(denoiser)
    return denoiser.process.leaves()[""].prior(shape, Noise.of(seed, count, device=device), dtype=dtype or torch.float32)


def optimal_levels(
    denoiser: BaseDenoiser,
    steps: int,
    *,
    cond: Cond = None,
    guidance: Guidance | None = None,
    shape: Shape | None = None,
    start: Tensor | None = None,
    count: int = 128,
    fine: int = 100,
    seed: int = 3_000_003,
) -> list[float]:
    """The `steps` + 1 levels whose first-order steps (DDIM's) have the least sum of local errors; for `grids.given`.

    One fine trajectory of `fine` evaluations for `count` samples gives the error of a step between any two of its levels,
    scaled to a state of unit variance: no more evaluations are made, and the best path through the levels is exact.

    Args:
        cond: conditions, `count` of each. guidance: as in `sample`.
        start: states at level 1, `count` of them; drawn from the prior by default.
    """
    check_steps(steps)
    process = denoiser.process
    if not isinstance(process, Gaussian):
        raise ValueError(f"the process is a {type(process).__name__}; levels are placed for one Gaussian process.")
    if steps > fine:
        raise ValueError(f"steps is {steps} of {fine} fine levels; ask for fewer, or raise fine.")
    plan = trig(fine, 3, corrector=False).on(process.schedule)
    levels = [row.start for row in plan.rows] + [0.0]
    states = [prior(denoiser, count, seed, shape) if start is None else start]
    count = len(states[0])
    beliefs = []
    for step in trajectory(denoiser, plan, count, start=states[0], cond=cond, guidance=guidance, shape=shape):
        states.append(step.z)
        beliefs.append(step.belief.mean)  # pyright: ignore
    norms = polar(process.schedule, torch.tensor(levels, dtype=torch.float64), 1.0)[1].tolist()
    errors = [[math.inf] * (fine + 1) for _ in range(fine)]
    for i in range(fine):
        for j in range(i + 1, fine + 1):
            x_weight, z_weight, _ = process.bridge_numbers(levels[i], levels[j], 0.0)
            off = x_weight * beliefs[i] + z_weight * states[i] - states[j]
            errors[i][j] = float(off.double().square().mean().sqrt()) / norms[j]
    least = [[math.inf] * (fine + 1) for _ in range(steps + 1)]
    came = [[0] * (fine + 1) for _ in range(steps + 1)]
    least[0][0] = 0.0
    for n in range(1, steps + 1):
        for j in range(n, fine + 1):
            for i in range(n - 1, j):
                total = least[n - 1][i] + errors[i][j]
                if total < least[n][j]:
                    least[n][j], came[n][j] = total, i
    path = [fine]
    for n in range(steps, 0, -1):
        path.append(came[n][path[-1]])
    return [levels[i] for i in reversed(path)]
