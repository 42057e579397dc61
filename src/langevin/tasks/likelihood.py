"""The likelihood of data under a flow (FFJORD, 1810.01367; score SDEs, 2011.13456, appendix D.2).

Along dz/dt = v(z, t), from data at t = 0 up to the prior at t = 1,

    log p_0(z_0) = log p_1(z_1) + int_0^1 div v(z_t, t) dt.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level, expand
from langevin.core.noise import Noise
from langevin.core.space import Euclidean
from langevin.core.tree import leaves
from langevin.plans.runge_kutta import TABLEAUS

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(v, z) -> div v (B,), float64, where v (B, *shape) was computed from z."""


def velocity(denoiser: BaseDenoiser, z: Tensor, t: Level, cond: Cond = None) -> Tensor:
    """dz/dt of the model's probability flow at (z, t), (B, *shape). A network that says it is asked, at t = 0 as well; for others
    it follows from the belief, t > 0."""
    level = expand(t, z)
    if isinstance(denoiser, Denoiser) and denoiser.predictions[""].name == "velocity":
        return denoiser.outputs({"": z}, {"": level}, cond, None)[""]
    leaf = denoiser.process.leaves()[""]
    assert isinstance(leaf, Gaussian)
    return leaf.velocity(leaves(denoiser(z, level, cond))[""], z, level)


def exact(v: Tensor, z: Tensor) -> Tensor:
    """The trace of dv/dz, one backward pass for each of the D elements of a sample."""
    flat, total = v.flatten(1), torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for k in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, k].sum(), z, retain_graph=True)
        total += row.flatten(1)[:, k].double()
    return total


def hutchinson(noise: Noise, shape: tuple[int, ...], probes: int = 1) -> Divergence:
    """The mean of e . dv/dz e over Rademacher vectors e, the same at all times: unbiased, and exact where dv/dz is diagonal."""
    signs = [(noise.at(f"probe {k}").uniform(shape) < 0.5).float() * 2 - 1 for k in range(probes)]

    def divergence(v: Tensor, z: Tensor) -> Tensor:
        total = torch.zeros(len(v), dtype=torch.float64, device=v.device)
        for e in (s.to(v) for s in signs):
            (row,) = torch.autograd.grad(v, z, e, retain_graph=True)
            total += (row * e).flatten(1).sum(1).double()
        return total / probes

    return divergence


def standard_normal(std: float) -> Callable[[Tensor], Tensor]:
    """log N(z; 0, std^2), (B,) nats."""
    return lambda z: -0.5 * ((z.double() / std) ** 2 + math.log(2 * math.pi * std**2)).flatten(1).sum(1)


def log_likelihood(
    denoiser: BaseDenoiser,
    x: Tensor,
    *,
    steps: int = 100,
    method: str = "rk4",
    probes: int | None = None,
    log_prior: Callable[[Tensor], Tensor] | None = None,
    cond: Cond = None,
    low: float | None = None,
    seed: int = 0,
    first_id: int = 0,
) -> tuple[Tensor, Tensor]:
    """log p(x) of the model, and where its flow takes x.

    Args:
        denoiser: learned, guided or exact, on one Gaussian process in Euclidean space.
        x: (B, *shape).
        steps: equal steps of t. method: a Runge-Kutta tableau ("midpoint", "heun", "heun3", "rk4").
        probes: estimate the divergence by so many Rademacher vectors (see `hutchinson`); None for the exact trace.
        log_prior: log density at level 1, (B, *shape) -> (B,); by default that of sigma(1) e. For an interpolant, and where
            alpha(1) x is not negligible, give what holds there.
        cond: conditions by name, each (B, ...).
        low: the level x is taken to be at. By default 0 for a network that says the velocity, else the schedule's floor, where
            the density is that of data with the floor's noise in it.
        seed, first_id: name the Rademacher vectors.

    Returns:
        (log p (B,) float64, in nats; z (B, *shape) at level 1).

    Raises:
        ValueError: for another process, or an interpolant without log_prior.
    """
    leaf = denoiser.process.leaves().get("")
    if not isinstance(leaf, Gaussian) or not isinstance(leaf.space, Euclidean):
        raise ValueError(f"a likelihood follows the flow of one Gaussian process in Euclidean space, and this is {leaf}.")
    if method not in TABLEAUS or steps < 1:
        raise ValueError(f"method is {method!r} of {steps} steps; take at least 1 of {', '.join(TABLEAUS)}.")
    if log_prior is None:
        if type(leaf) is not Gaussian:
            raise ValueError("the process begins at data, whose density is not known; pass log_prior=.")
        log_prior = standard_normal(float(leaf.schedule(1.0)[1]))
    said = isinstance(denoiser, Denoiser) and denoiser.predictions[""].name == "velocity"
    start = (0.0 if said else leaf.schedule.floor) if low is None else low
    noise = Noise.of(seed, len(x), first_id, x.device).at("divergence")
    divergence = exact if probes is None else hutchinson(noise, tuple(x.shape[1:]), probes)

    def slopes(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            v = velocity(denoiser, z, t, cond)
            return v.detach(), divergence(v, z).detach()

    was = denoiser.training
    denoiser.eval()
    try:
        z, total = x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        levels = torch.linspace(start, 1, steps + 1, dtype=torch.float64).tolist()
        for t, above in zip(levels[:-1], levels[1:], strict=True):
            met: list[tuple[Tensor, Tensor]] = []  # newest first
            at, level, moved = z, t, total
            for share, weights in TABLEAUS[method][1]:
                met.insert(0, slopes(at, level))
                size, level = share * (above - t), t + share * (above - t)
                at = z + size * sum(w * v for w, (v, _) in zip(weights, met, strict=True))
                moved = total + size * sum(w * d for w, (_, d) in zip(weights, met, strict=True))
            z, total = at, moved
    finally:
        denoiser.train(was)
    return log_prior(z).to(total) + total, z
