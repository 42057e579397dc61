"""General ODE solvers on the probability flow: torchdiffeq, as libraries of flow matching call it (equal steps of t), and
scipy's RK45, as score_sde calls it. Time is the discrete time, or t, or sigma (edm); then one evaluation denoises.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from quality import noise
from quality.peers.base import Solver, most_steps
from quality.targets import Network
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

COST = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # evaluations a step
SOLVERS = {
    **{f"torchdiffeq_{method}": Solver(("rf",)) for method in COST},
    "torchdiffeq_dopri5": Solver(noise.ALL, adaptive=True),
    "scipy_rk45": Solver(noise.ALL, adaptive=True),
}
Field = Callable[[Tensor, Tensor | float], Tensor]


def _problem(schedule: str, network: Network, start: Tensor) -> tuple[Field, Tensor, float, float, Callable[[Tensor], Tensor]]:
    """dy/dt, y at the start, both ends of time, and what is done last."""
    own = noise.get(schedule)
    if schedule == "rf":
        return network.velocity, start, 1.0, 0.0, lambda y: y
    if schedule == "edm":
        field: Field = lambda y, t: network.eps(y, 1.0, t)  # noqa: E731
        return field, start, own.ratio_max, own.ratio_min, lambda y: network.x0(y, 1.0, own.ratio_min)
    logs = own.log_ratios
    assert logs is not None

    def discrete(y: Tensor, t: Tensor | float) -> Tensor:  # y = z / alpha, dy/dt = e d(ratio)/dt
        t = float(t)
        left = min(int(t), own.last - 1)
        alpha, sigma = own.vp(t)
        return (logs[left + 1] - logs[left]) * (sigma / alpha) * network.eps(y * alpha, alpha, sigma)

    alpha, sigma = own.vp(0)
    return discrete, start / own.alpha, float(own.last), 0.0, lambda y: network.x0(y * alpha, alpha, sigma)


def sample(schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor:
    field, y, begin, end, finish = _problem(schedule, network, start)
    if solver == "scipy_rk45":

        def flat(t: float, v: np.ndarray) -> np.ndarray:
            return field(torch.from_numpy(v).view_as(y), t).flatten().numpy()

        found = solve_ivp(flat, (begin, end), y.flatten().numpy().astype(np.float64), method="RK45", rtol=budget, atol=budget)
        return finish(torch.from_numpy(found.y[:, -1]).view_as(y))
    method, options = solver.split("_")[1], {}
    if method == "dopri5":
        times, options = torch.tensor([begin, end], dtype=torch.float64), {"rtol": budget, "atol": budget}
    else:
        steps = most_steps(budget, lambda n: n * COST[method])
        times = torch.linspace(begin, end, steps + 1, dtype=torch.float64)
    path: Any = odeint(lambda t, v: field(v, t), y, times, method=method, **options)
    return finish(path[-1])
