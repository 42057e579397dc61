"""The likelihood of data under the flow of a model (FFJORD, 1810.01367; score SDEs, 2011.13456, appendix D.2).

Along dz/du = v(z, u), from data at level `low` up to the prior at level 1,

    log p_low(z_low) = log p_1(z_1) + int div v du.

u is the angle between data and noise, in which the flow is as smooth on one schedule as on another, for z divided by
n = sqrt(alpha^2 d^2 + sigma^2); or t itself, for networks that say the velocity, and for interpolants.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, evaluating, home
from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level, expand
from langevin.core.noise import Noise
from langevin.core.space import Euclidean
from langevin.core.tree import leaves
from langevin.plans.dormand_prince import State, integrate
from langevin.plans.first_order import MOST_STEPS
from langevin.plans.integrals import level_of, polar
from langevin.plans.runge_kutta import TABLEAUS
from langevin.sampling import conditions, floats
from langevin.tasks.edit import slerp

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(v, z) -> estimates of div v (B, K), float64, where v (B, *shape) was computed from z."""

EXACT_UP_TO, PROBES = 32, 8
"""Elements of a sample up to which the trace is exact by default, and the number of probes beyond."""


@dataclass(frozen=True)
class LogProb:
    """Log densities, or bounds from below on them.

    Attributes:
        nats: (B,) float64.
        error: (B,) float64, the standard error of `nats` from the draws behind it; 0 where nothing was drawn, nan for one draw.
        elements: of a sample.
        latent: (B, *shape), where the flow takes the data at level 1; None for bounds.
        evaluations: of the network.
    """

    nats: Tensor
    error: Tensor
    elements: int
    latent: Tensor | None
    evaluations: int

    def bits(self, width: float = 1.0) -> Tensor:
        """Bits per element (B,) of data that was cut to a grid of this spacing and spread over its cells (`dequantised`):
        -nats / (D ln 2) - log2(width). For 256 levels on [-1, 1] as (x + u) / 256, width = 2 / 256 and the last term is 7.
        """
        return -self.nats / (self.elements * math.log(2)) - math.log2(width)

    def mean_bits(self, width: float = 1.0) -> tuple[float, float]:
        """(mean over samples, its standard error, from their spread) of `bits`."""
        each = self.bits(width)
        return float(each.mean()), float(each.std() / len(each) ** 0.5) if len(each) > 1 else math.nan


def dequantised(x: Tensor, width: float, noise: Noise) -> Tensor:
    """x (B, *shape), whose values lie on a grid of spacing `width`, spread evenly over the cells around them.

    Its density bounds the probability of the values: log P(x) >= E log p(dequantised) + D log width (1511.01844, sec. 3.1).
    """
    return x + ((noise.at("dequantise").uniform(tuple(x.shape[1:])) - 0.5) * width).to(x)


def velocity(denoiser: BaseDenoiser, z: Tensor, t: Level, cond: Cond = None) -> Tensor:
    """dz/dt of the model's probability flow at (z, t), (B, *shape). A network that says it is asked, at t = 0 as well; for others
    it follows from the belief, t > 0."""
    level = expand(t, z)
    if _says_velocity(denoiser):
        assert isinstance(denoiser, Denoiser)
        return denoiser.outputs({"": z}, {"": level}, cond, None)[""]
    leaf = denoiser.process.leaves()[""]
    assert isinstance(leaf, Gaussian)
    return leaf.velocity(leaves(denoiser(z, level, cond))[""], z, level)


def _says_velocity(denoiser: BaseDenoiser) -> bool:
    return isinstance(denoiser, Denoiser) and denoiser.predictions[""].name == "velocity"


def exact(v: Tensor, z: Tensor) -> Tensor:
    """The trace of dv/dz, (B, 1): one backward pass for each of the D elements of a sample."""
    flat, total = v.flatten(1), torch.zeros(len(v), 1, dtype=torch.float64, device=v.device)
    for k in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, k].sum(), z, retain_graph=True)
        total[:, 0] += row.flatten(1)[:, k].double()
    return total


def hutchinson(noise: Noise, shape: tuple[int, ...], probes: int = 1) -> Divergence:
    """e . dv/dz e for Rademacher vectors e, (B, probes), the same at all times: each unbiased, and exact where dv/dz is
    diagonal."""
    signs = [(noise.at(f"probe {k}").uniform(shape) < 0.5).float() * 2 - 1 for k in range(probes)]

    def divergence(v: Tensor, z: Tensor) -> Tensor:
        each = []
        for e in (s.to(v) for s in signs):
            (row,) = torch.autograd.grad(v, z, e, retain_graph=True)
            each.append((row * e).flatten(1).sum(1).double())
        return torch.stack(each, 1)

    return divergence


def standard_normal(std: float) -> Callable[[Tensor], Tensor]:
    """log N(z; 0, std^2), (B,) nats."""
    return lambda z: -0.5 * ((z.double() / std) ** 2 + math.log(2 * math.pi * std**2)).flatten(1).sum(1)


class _Flow:
    """The flow of a denoiser from level `low` to 1, in the variable it is integrated in.

    Attributes:
        span: the variable at `low` and at 1.
        calls: evaluations so far.
    """

    def __init__(
        self, denoiser: BaseDenoiser, cond: Cond, low: float | None, along: str | None, data_std: float, most: int | None
    ) -> None:
        leaf = denoiser.process.leaves().get("")
        if not isinstance(leaf, Gaussian) or not isinstance(leaf.space, Euclidean):
            raise ValueError(f"a likelihood follows the flow of one Gaussian process in Euclidean space, and this is {leaf}.")
        said = _says_velocity(denoiser)
        along = along or ("t" if said or type(leaf) is not Gaussian else "angle")
        if along not in ("angle", "t") or (along == "angle" and type(leaf) is not Gaussian):
            raise ValueError(f"along is {along!r}; follow a flow along 'angle' or 't', an interpolant's along 't'.")
        self.denoiser, self.cond, self.leaf, self.angle, self.d = denoiser, cond, leaf, along == "angle", data_std
        self.low = (0.0 if said and not self.angle else leaf.schedule.floor) if low is None else low
        noiseless = float(self.leaf.schedule(self.low)[1]) == 0  # some schedules keep noise at level 0
        if noiseless and not (said and not self.angle):
            raise ValueError("low is 0, where the flow of a belief is 0/0; give a level above 0, such as the schedule's floor.")
        self.calls, self.most = 0, most
        self.span = (self.place(self.low), self.place(1.0)) if self.angle else (self.low, 1.0)

    def place(self, t: float) -> float:
        return float(polar(self.leaf.schedule, t, self.d)[0])

    def scale(self, t: float) -> float:
        """What z is divided by at level t."""
        return float(polar(self.leaf.schedule, t, self.d)[1]) if self.angle else 1.0

    def level(self, u: Tensor) -> Tensor:
        if not self.angle:
            return u
        low, high = self.span
        at = level_of(self.leaf.schedule, u, self.d)
        return torch.where(u <= low + 1e-12, self.low, torch.where(u >= high - 1e-12, 1.0, at))

    def slope(self, y: Tensor, u: Tensor) -> Tensor:
        """dy/du at u, one number or (B,)."""
        self.calls += 1
        if self.most is not None and self.calls > self.most:
            raise ValueError(f"most is {self.most}, and this flow needs more evaluations; raise it, or the tolerances.")
        at = self.level(u)
        if not self.angle:
            return velocity(self.denoiser, y, at, self.cond)
        axes = (-1, *[1] * (y.ndim - 1))
        parts = [polar(self.leaf.schedule, at, self.d)[1], *self.leaf.slope(at, self.d)]
        scale, x_part, z_part = (p.reshape(axes).to(y) if p.ndim else float(p) for p in parts)
        z = y * scale
        return leaves(self.denoiser(z, at, self.cond))[""].mean * x_part + z * z_part


def log_prob(
    denoiser: BaseDenoiser,
    x: Any,
    *,
    solver: str = "adaptive",
    steps: int = 100,
    probes: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    most: int = 4000,
    log_prior: Callable[[Tensor], Tensor] | None = None,
    cond: Cond = None,
    low: float | None = None,
    along: str | None = None,
    data_std: float = 1.0,
    seed: int = 0,
    first_id: int = 0,
) -> LogProb:
    """log p(x) of the model, by its probability flow.

    Args:
        denoiser: learned, guided or exact, on one Gaussian process in Euclidean space.
        x: (B, *shape), floats, a numpy array as well; data from a grid of values is spread over its cells first (`dequantised`).
        solver: "adaptive" (Dormand-Prince, steps of each sample for itself), or a Runge-Kutta tableau ("midpoint", "heun",
            "heun3", "rk4") of equal steps.
        steps: of a tableau.
        probes: Rademacher vectors that estimate the divergence (see `hutchinson`); 0 for the exact trace, one backward pass for
            each element. By default exact up to 32 elements, else 8.
        rtol, atol: of "adaptive", per step, of the state at about unit variance and of the integral in nats.
        most: evaluations after which "adaptive" gives up.
        log_prior: log density at level 1, (B, *shape) -> (B,); by default that of sigma(1) e. For an interpolant, and where
            alpha(1) x is not negligible, give what holds there.
        cond: conditions by name, each (B, ...).
        low: the level x is taken to be at. By default 0 for a network that says the velocity, else the schedule's floor, where
            the density is that of data with the floor's noise in it.
        along: "angle" or "t", what is integrated over; "t" for networks that say the velocity and for interpolants.
        data_std: standard deviation of the data, the unit of the angle.
        seed, first_id: name the Rademacher vectors.

    Raises:
        ValueError: for another process, an interpolant without log_prior, or data of whole numbers.
    """
    _check(solver, steps, rtol, atol)
    x = floats(x, "x")
    x, cond = at_home(denoiser, x, cond)
    if not bool(x.isfinite().all()):
        raise ValueError("x holds values that are not finite, which have no density; look at the data.")
    if probes is not None and probes < 0:
        raise ValueError(f"probes is {probes}; give how many Rademacher vectors, or 0 for the exact trace.")
    flow = _Flow(denoiser, cond, low, along, data_std, most if solver == "adaptive" else None)
    if log_prior is None:
        if type(flow.leaf) is not Gaussian:
            raise ValueError("the process begins at data, whose density is not known; pass log_prior=.")
        log_prior = standard_normal(float(flow.leaf.schedule(1.0)[1]))
    elements = math.prod(x.shape[1:])
    count = (0 if elements <= EXACT_UP_TO else PROBES) if probes is None else probes
    noise = Noise.of(seed, len(x), first_id, x.device).at("divergence")
    divergence = hutchinson(noise, tuple(x.shape[1:]), count) if count else exact

    def slope(state: State, u: Tensor) -> State:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            v = flow.slope(y, u)
            return v.detach(), divergence(v, y).detach()

    start = (x / flow.scale(flow.low), torch.zeros(len(x), max(count, 1), dtype=torch.float64, device=x.device))
    with evaluating(denoiser):
        y, totals = _run(slope, start, flow.span, solver, steps, rtol, atol)
    z, total = y * flow.scale(1.0), totals.mean(1)
    error = (
        torch.zeros_like(total) if not count else totals.std(1) / count**0.5 if count > 1 else torch.full_like(total, math.nan)
    )
    # a density of z is one of z / n, divided by n for each element
    stretched = elements * (math.log(flow.scale(1.0)) - math.log(flow.scale(flow.low)))
    return LogProb(log_prior(z).to(total) + total + stretched, error, elements, z, flow.calls)


def at_home(denoiser: BaseDenoiser, x: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
    """Data and conditions, one number of which stands for all, where the weights are and in their precision; as they are where
    there are no weights."""
    (device, dtype), cond = home(denoiser), conditions(cond, len(x))
    if dtype is None:
        return x, cond
    told = None if cond is None else {n: v.to(device, dtype if v.is_floating_point() else None) for n, v in cond.items()}
    return x.to(device, dtype if x.is_floating_point() else None), told


def _check(solver: str, steps: int, rtol: float, atol: float) -> None:
    if (solver != "adaptive" and solver not in TABLEAUS) or not 1 <= steps <= MOST_STEPS:
        few = f"at most {MOST_STEPS}" if steps > MOST_STEPS else "at least 1"
        raise ValueError(f"solver is {solver!r} of {steps} steps; take {few} of {', '.join(TABLEAUS)}, or 'adaptive'.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < math.inf:  # which no step would ever meet, or each
            raise ValueError(f"{name} is {value}; give a tolerance above 0, such as 1e-5.")


def _run(
    slope: Callable[[State, Tensor], State],
    state: State,
    span: tuple[float, float],
    solver: str,
    steps: int,
    rtol: float,
    atol: float,
) -> State:
    """The state at the end of `span`, from that at its beginning."""
    if solver == "adaptive":
        return integrate(slope, state, *span, rtol, atol).state
    nodes = torch.linspace(*span, steps + 1, dtype=torch.float64)
    for begin, end in zip(nodes[:-1], nodes[1:], strict=True):
        met: list[State] = []  # newest first
        now, at, size = state, begin, end - begin
        for share, weights in TABLEAUS[solver][1]:
            met.insert(0, slope(now, at))
            at = begin + share * size
            step = float(share * size)
            now = tuple(
                part + step * sum(w * k[i] for w, k in zip(weights, met, strict=True)) for i, part in enumerate(state)
            )  # fmt: skip
        state = now
    return state


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
    """`log_prob` in equal steps of t, as flows between two distributions are followed.

    Args:
        method: a Runge-Kutta tableau. probes: None for the exact trace.

    Returns:
        (log p (B,) float64, in nats; z (B, *shape) at level 1).
    """
    found = log_prob(
        denoiser, x, solver=method, steps=steps, probes=probes or 0, log_prior=log_prior, cond=cond, low=low, along="t",
        seed=seed, first_id=first_id,
    )  # fmt: skip
    assert found.latent is not None
    return found.nats, found.latent


class Carrying(TypedDict, total=False):
    """How data is carried along the flow; see `log_prob`."""

    solver: str
    steps: int
    rtol: float
    atol: float
    most: int
    cond: Cond
    low: float | None
    data_std: float


def encode(denoiser: BaseDenoiser, x: Tensor, **how: Unpack[Carrying]) -> Tensor:
    """The latent code (B, *shape) of x: where its flow arrives at level 1. Every deterministic plan draws x from it again,
    `sample(denoiser, plans.adaptive(), len(x), start=code)`, up to its own error, and `decode` up to the tolerance.

    Raises:
        ValueError: for another process than one Gaussian process.
    """
    return _carried(denoiser, x, True, **how)


def decode(denoiser: BaseDenoiser, code: Tensor, **how: Unpack[Carrying]) -> Tensor:
    """Data (B, *shape) from its code, at the schedule's floor or `low`: the inverse of `encode`."""
    return _carried(denoiser, code, False, **how)


def between(denoiser: BaseDenoiser, a: Tensor, b: Tensor, count: int = 8, **how: Unpack[Carrying]) -> Tensor:
    """`count` samples (count, *shape) on the way from a picture a to another b, each (*shape): their codes are turned into each
    other along the great circle (`slerp`), and decoded. Conditions are one for the whole way, (1, ...) each.

    Raises:
        ValueError: if count is below 2, conditions are several, or for another process than one Gaussian process.
    """
    if count < 2:
        raise ValueError(f"count is {count}; a way has two ends, so ask for at least 2.")
    ends, way = (one_condition(how, many) for many in (2, count))
    first, last = encode(denoiser, torch.stack([a, b]), **ends)
    share = torch.linspace(0, 1, count, dtype=torch.float64, device=first.device).reshape(-1, *[1] * a.ndim)
    return decode(denoiser, slerp(first.expand(count, *a.shape), last.expand(count, *a.shape), share), **way)


def one_condition(how: Carrying, count: int) -> Carrying:
    """What is asked of a way, with its one condition, (1, ...) each, once for every one of `count` states.

    Raises:
        ValueError: for more than one: ends and states between them are differently many.
    """
    cond = how.get("cond")
    if cond is None:
        return how
    for name, value in cond.items():
        if len(value) != 1:
            raise ValueError(
                f"cond[{name!r}] has {len(value)} entries; a way has one condition from end to end, so give (1, ...)."
            )
    return {**how, "cond": {name: value.expand(count, *value.shape[1:]) for name, value in cond.items()}}


@torch.no_grad()
def _carried(denoiser: BaseDenoiser, z: Tensor, up: bool, **how: Unpack[Carrying]) -> Tensor:
    given: dict[str, Any] = {"solver": "adaptive", "steps": 100, "rtol": 1e-5, "atol": 1e-5, **how}
    solver, steps, rtol, atol = (given[name] for name in ("solver", "steps", "rtol", "atol"))
    _check(solver, steps, rtol, atol)
    most = how.get("most", 4000) if solver == "adaptive" else None
    z = floats(z, "x")
    z, cond = at_home(denoiser, z, how.get("cond"))
    flow = _Flow(denoiser, cond, how.get("low"), "angle", how.get("data_std", 1.0), most)
    (low, high) = flow.span
    span, ends = ((low, high), (flow.low, 1.0)) if up else ((high, low), (1.0, flow.low))
    begin, end = (flow.scale(t) for t in ends)
    with evaluating(denoiser):
        (y,) = _run(lambda state, u: (flow.slope(state[0], u),), (z / begin,), span, solver, steps, rtol, atol)
    return y * end
