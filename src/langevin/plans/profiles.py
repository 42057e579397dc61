"""Profiles: the samplers of other libraries as tables, number for number, `tests/parity` holds them side by side.

A peer differs from the plans here in two things. Its grid: the values of sigma/alpha that it steps with. And what it tells
the network: an integer timestep i of T, which is our level (i + 1) / T, near the state's own level or not; rows have it as
`shown`. The methods are those of `langevin.plans`, unless a peer's own arithmetic is different, as its docstring then says.

Peers begin with other factors of standard noise than sigma(1); pass theirs as `start=`, divided by sqrt(1 + sigma^2) for
those that carry z / alpha (Euler, Heun, LMS, DPM2). All were read in diffusers 0.42.1 and k-diffusion 0.1.1.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from langevin import spec
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans import few_step
from langevin.plans.first_order import check_steps, ddim, euler, euler_ancestral
from langevin.plans.grids import Grid, given, shift_level
from langevin.plans.inversion import begin
from langevin.plans.moves import Renoise
from langevin.plans.multistep import ADAMS, dpm_solver_multistep, dpmpp, lms, unipc
from langevin.plans.runge_kutta import dpm_2, dpmpp_single, edm_stochastic, heun

Array: TypeAlias = np.ndarray[Any, Any]
Builder: TypeAlias = Callable[[int, Grid], Draft]

FEW = 15
"""Below so many steps diffusers lowers the order of the last ones (`lower_order_final`)."""
LARGEST = math.sqrt(2**24 - 1)
"""diffusers' sigma/alpha where alpha is 0 (`rescale_betas_zero_snr`)."""


# Methods that are a peer's own


def _dpmpp_3m(steps: int, grid: Grid) -> Draft:
    """DPM-Solver++ 3M as diffusers has it: the second difference lacks its factor 2, so the order is below 3.

    Exact weights are `dpmpp(order=3)`. Below 15 steps the last step but one is of order 2.
    """

    def fill(schedule: Schedule) -> Plan:
        plan = dpmpp(steps, 2, grid=grid).on(schedule)
        half = [float(v) / 2 for v in schedule.lam(torch.tensor(plan.levels, dtype=torch.float64))]
        rows = list(plan.rows)
        for i in range(2, steps - 1 - (steps < FEW)):
            h = half[i + 1] - half[i]
            near, far = (half[i] - half[i - 1]) / h, (half[i - 1] - half[i - 2]) / h
            fall = math.expm1(-h)
            slope, bend = -(fall / h + 1) / fall, ((fall + h) / h**2 - 0.5) / fall
            # weights of the two neighbouring differences of beliefs
            p = (slope * (1 + near / (near + far)) + bend / (near + far)) / near
            q = -(slope * near + bend) / (near + far) / far
            rows[i] = dataclasses.replace(_plain(rows[i]), mix=(1 + p, q - p, -q))
        return dataclasses.replace(plan, rows=tuple(rows))

    return Draft(f"dpmpp_3m({steps})", fill)


def _dpmpp_2s(steps: int, grid: Grid) -> Draft:
    """DPM-Solver++ 2S as diffusers has it: `steps` evaluations, every other level of the grid the middle of a step."""

    def fill(schedule: Schedule) -> Plan:
        levels = grid(schedule, steps)
        half = [float(v) / 2 for v in schedule.lam(torch.tensor(levels, dtype=torch.float64))]
        rows = []
        for i in range(steps):
            t, s = levels[i], levels[i + 1]
            if i % 2 == 0 or i == steps - 1:
                rows.append(Row(level=t, start=t, stop=s))
                continue
            weight = (half[i + 1] - half[i - 1]) / (half[i] - half[i - 1]) / 2
            rows.append(Row(level=t, start=levels[i - 1], stop=s, mix=(weight, 1 - weight), anchored=True))
        return Plan(name=f"dpmpp_2s({steps})", basis="x0", order=2, rows=tuple(rows))

    return Draft(f"dpmpp_2s({steps})", fill)


def _dpm_2_ancestral(steps: int, grid: Grid) -> Draft:
    """DPM2 to the lower level of the ancestral step, and noise back up (k-diffusion's `sample_dpm_2_ancestral`)."""

    def fill(schedule: Schedule) -> Plan:
        rows, process = [], Gaussian(schedule)
        for t, s in joined(grid(schedule, steps)):
            if s == 0:
                rows.append(Row(level=t, start=t, stop=s))
                continue
            alpha, sigma = (float(v) for v in schedule(s))
            noise = process.bridge_numbers(t, s)[2]
            half = [math.exp(-float(schedule.lam(t)) / 2), math.sqrt(sigma**2 - noise**2) / alpha]
            middle = float(schedule.invert(-math.log(half[0] * half[1])))
            rows.append(Row(level=t, start=t, stop=middle))
            rows.append(Row(level=middle, start=t, stop=s, anchored=True, eta=1.0))
        return Plan(name=f"dpm_2_ancestral({steps})", basis="eps", order=1, rows=tuple(rows))

    return Draft(f"dpm_2_ancestral({steps})", fill)


def _unipc(steps: int, grid: Grid, order: int, variant: str = "bh2") -> Draft:
    """UniPC with diffusers' `lower_order_final`: orders fall to 3, 2, 1 towards the end, correctors with them."""

    def fill(schedule: Schedule) -> Plan:
        plan = unipc(steps, order, variant, 1, grid).on(schedule)
        if order < 3:
            return plan
        lower = unipc(steps, order - 1, variant, 1, grid).on(schedule)
        last = max(2 * steps - 4, 0)  # the predictor of the last step but one
        return dataclasses.replace(plan, rows=(*plan.rows[:last], *lower.rows[last:]))

    return Draft(f"unipc({steps}, order={order})", fill)


def _deis(steps: int, grid: Grid) -> Draft:
    """DEIS in log rho, which is DPM-Solver on noise with exact integrals."""
    return dpm_solver_multistep(steps, 2, int(steps < FEW), grid)


SIGMA: dict[str, Builder] = {  # diffusers' schedulers that step in sigma/alpha; k-diffusion has the same
    "euler": lambda n, grid: euler(n, grid),
    "euler_ancestral": lambda n, grid: euler_ancestral(n, grid=grid),
    "heun": lambda n, grid: heun(n, grid, "eps"),
    "lms": lambda n, grid: lms(n, grid=grid),
    "dpm_2": dpm_2,
    "dpm_2_ancestral": _dpm_2_ancestral,
}
SOLVER: dict[str, Builder] = {  # and those that step in log-SNR
    "dpmpp_2m": lambda n, grid: dpmpp(n, grid=grid),
    "dpmpp_3m": _dpmpp_3m,
    "sde_dpmpp_2m": lambda n, grid: dpmpp(n, sde=True, grid=grid),
    "dpmpp_2s": _dpmpp_2s,
    "unipc": lambda n, grid: _unipc(n, grid, 2),
    "unipc_3": lambda n, grid: _unipc(n, grid, 3),
    "unipc_bh1": lambda n, grid: _unipc(n, grid, 2, "bh1"),
    "unipc_3_bh1": lambda n, grid: _unipc(n, grid, 3, "bh1"),
    "deis": _deis,
}
EXACT: dict[str, Builder] = {**SIGMA, **SOLVER, "dpmpp_3m": lambda n, grid: dpmpp(n, 3, grid=grid)}
"""The same methods without a peer's slips."""
K_DIFFUSION: dict[str, Builder] = {
    **SIGMA,
    "dpmpp_2m": SOLVER["dpmpp_2m"],
    "dpmpp_2s": lambda n, grid: dpmpp_single(n, grid=grid),
}
EDM: dict[str, Builder] = {name: {**SIGMA, **SOLVER}[name] for name in ("heun", "euler", "dpmpp_2m", "dpmpp_3m")}
INDEXED = ("ddim", "ddpm", "pndm")


# The peers


def diffusers(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    sigmas: str | None = None,
    timesteps: int = 1000,
    offset: int = 1,
    set_alpha_to_one: bool = False,
    eta: float = 0.0,
    final: str = "zero",
    start: float = 1.0,
    reference: bool = True,
) -> Draft:
    """diffusers' schedulers for variance-preserving tables (`schedules.betas`), faults included:

    - The network is told integer timesteps beside exact sigmas: rounded for "karras" and "lu", cut for "exponential" (the first
      to T - 2 on Stable Diffusion's table, as here, and by luck of float32 to T - 1 on DDPM's).
    - "linspace" leaves timestep 0 out for the solvers in log-SNR, which leap to clean data from far above it.
    - DDIM and PNDM step down by T // n whatever the network is told: where n does not divide T, "trailing" drifts from it.
    - DEIS with "karras" or "exponential" repeats its last sigma. That evaluation does nothing, and is left out here.
    - "dpmpp_3m" lacks a factor 2.

    Not reproduced: PNDM begun late, for a picture, whose second evaluation the peer takes for one of a level higher; steps of
    size zero of DDIM and PNDM with "linspace" (refused); the step more than asked, at timestep -1,
    which "trailing" makes at n = 61, 103 and others; DPM-Solver++ on cosine tables, which cuts timesteps where this rounds;
    crashes.

    Args:
        steps: evaluations (Heun and DPM2 make 2 steps - 1, PNDM steps + 1).
        sampler: "ddim", "ddpm", "pndm" (without its Runge-Kutta start, as Stable Diffusion has it); "euler",
            "euler_ancestral", "heun", "lms", "dpm_2", "dpm_2_ancestral"; "dpmpp_2m", "dpmpp_3m", "sde_dpmpp_2m", "dpmpp_2s",
            "unipc", "unipc_3" (bh2, of order 2 and 3), "unipc_bh1", "unipc_3_bh1", "deis".
        sigmas: "linspace", "leading", "trailing", "karras", "exponential", or "lu" (multistep DPM-Solver++ alone); by default
            the scheduler's own, "leading" for the first three and "linspace" for the rest.
        timesteps: T.
        offset: `steps_offset` of "leading"; Stable Diffusion has 1.
        set_alpha_to_one: whether "ddim" and "pndm" end at clean data, or at timestep 0, as Stable Diffusion does.
        eta: of "ddim".
        final: where the solvers and Euler end, at "zero", or at "sigma_min", the table's lowest level.
        start: the level to begin at, for a picture that is noised to it: the peer's own levels below it follow.
        reference: with the slips of the peer's methods ("dpmpp_3m"), or without.
    """
    check_steps(steps)
    sampler = _known(sampler, [*INDEXED, *SIGMA, *SOLVER], "sampler")
    spaced = ["linspace", "leading", "trailing"]
    legal = spaced if sampler != "dpmpp_2s" else spaced[:1]
    legal = legal if sampler in INDEXED else [*legal, "karras", "exponential"]
    legal = [*legal, "lu"] if sampler in ("dpmpp_2m", "dpmpp_3m", "sde_dpmpp_2m") else legal
    kind = _known(sigmas or ("leading" if sampler in INDEXED else "linspace"), legal, "sigmas")
    if sampler != "ddim" and (eta or (set_alpha_to_one and sampler != "pndm")):
        raise ValueError(f"sampler {sampler!r} has neither eta nor set_alpha_to_one; leave them out, or choose 'ddim'.")
    name = f"diffusers({steps}, {sampler}, {kind})"

    def fill(schedule: Schedule) -> Plan:
        if schedule.scale != "vp":
            raise ValueError(f"{name} needs a variance-preserving table, such as schedules.betas(); for flows there is sd3.")
        if sampler in INDEXED:
            told = _spaced(kind, steps, timesteps, offset).round().astype(int).tolist()
            if start < 1:
                begin = max(round(start * timesteps) - 1, 0)
                told = [begin, *(i for i in told if i < begin)]
            last = 0.0 if set_alpha_to_one or sampler == "ddpm" else 1 / timesteps
            stride, eta_of = 0 if start < 1 else timesteps // steps, 1.0 if sampler == "ddpm" else eta
            return _by_index(schedule, name, sampler, told, stride, timesteps, last, eta_of)
        table = _table(schedule, timesteps)
        told, ratios = (_sigma_grid if sampler in SIGMA else _solver_grid)(kind, steps, table, offset)
        if sampler.startswith("dpm_2") and kind == "karras":
            told = told.round()
        build = ({**SIGMA, **SOLVER} if reference else EXACT)[sampler]
        if sampler != "deis":
            ratios = np.append(ratios, 0.0 if final == "zero" else table[0])
        elif kind in spaced:
            ratios = np.append(ratios, table[0])
        elif steps == 1:
            raise ValueError(f"{name} is one step of size zero; ask for at least 2.")
        else:  # the step whose order is lowered is the one left out
            build = lambda n, grid: dpm_solver_multistep(n, 2, grid=grid, final=0)  # noqa: E731
        levels = levels_at(schedule, ratios, name)
        if start < 1:
            below = [(level, t) for level, t in zip(levels, told, strict=False) if level < start - 1e-9]
            first = float(_timestep(math.exp(-float(schedule.lam(start)) / 2), table))
            first = next((t for level, t in zip(levels, told, strict=False) if abs(level - start) < 1e-9), first)
            levels, told = [start, *(b[0] for b in below), levels[-1]], np.array([first, *(b[1] for b in below)])
        plan = build(len(levels) - 1, given(levels)).on(schedule)
        shown = {level: float(t) for level, t in zip(levels, told, strict=False)}
        return dataclasses.replace(_told(plan, schedule, shown, table), name=name)

    return Draft(name, fill)


def k_diffusion(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    noise: float = 1.0,
) -> Draft:
    """k-diffusion's samplers on Karras sigmas, and 0 at the end; on any schedule, whose sigma/alpha is its sigma.

    Args:
        sampler: "euler", "euler_ancestral", "heun", "lms", "dpm_2", "dpmpp_2m", "dpmpp_2s" (`sample_dpmpp_2s_ancestral` at eta
            0). Heun, DPM2 and 2S make 2 steps - 1 evaluations.
        sigma_min, sigma_max: by default those of the schedule.
        churn, low, high, noise: s_churn, s_tmin, s_tmax and s_noise, of "heun". Noise is added only where the schedule has
            room above sigma_max.
    """
    sampler = _known(sampler, list(K_DIFFUSION), "sampler")
    if churn and sampler != "heun":
        raise ValueError(f"churn is {churn:g} for sampler {sampler!r}; only 'heun' has it here.")
    build = (lambda n, grid: edm_stochastic(n, churn, low, high, noise, grid)) if churn else K_DIFFUSION[sampler]
    return _in_sigma(f"k_diffusion({steps}, {sampler})", steps, build, sigma_min, sigma_max, rho)


def edm(steps: int = 18, sampler: str = "heun", sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Draft:
    """EDM's sampler (2206.00364, alg. 1: "heun", 2 steps - 1 evaluations) and diffusers' for EDM: "euler", "dpmpp_2m", and
    "dpmpp_3m", which lacks a factor 2. For `schedules.edm()`.
    """
    sampler = _known(sampler, list(EDM), "sampler")
    return _in_sigma(f"edm({steps}, {sampler})", steps, EDM[sampler], sigma_min, sigma_max, rho)


def sd3(
    steps: int = 28,
    shift: float = 3.0,
    reference: bool = True,
    sampler: str = "euler",
    timesteps: int = 1000,
    lowest: float | None = None,
    terminal: float | None = None,
    start: float = 1.0,
) -> Draft:
    """Stable Diffusion 3's sampler (diffusers' FlowMatchEulerDiscrete, FlowMatchHeunDiscrete), for `schedules.flow()`.

    The shift is part of the plan, so the schedule has none.

    Args:
        shift: t -> shift t / (1 + (shift - 1) t).
        reference: as shipped, where the lowest t, 1/T, is shifted once when the scheduler is made and again with the rest of
            the grid (diffusers#13243): the last level is 0.0089 for shift 3. False shifts every level once: 0.0030.
        sampler: "euler", `steps` evaluations, or "heun", 2 steps - 1.
        timesteps: T.
        lowest: the lowest level before the shift, where that is not 1/T; FLUX has 1/steps.
        terminal: the lowest level after it, to which the grid is stretched (LTX).
        start: the level to begin at, for a picture that is noised to it: the levels below it follow.
    """
    check_steps(steps)
    _known(sampler, ["euler", "heun"], "sampler")
    if not shift > 0:
        raise ValueError(f"shift is {shift}; it multiplies sigma/alpha, so give a number above 0.")
    name = f"sd3({steps}, shift={shift:g}{'' if reference else ', shifted once'}{', heun' if sampler == 'heun' else ''})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        low = (shift_level(1 / timesteps, shift) if reference else 1 / timesteps) if lowest is None else lowest
        levels = shift_level(np.linspace(1.0, low, steps), shift)
        if terminal is not None:
            levels = 1 - (1 - levels) * (1 - terminal) / (1 - levels[-1])
        ends = _below([*levels.tolist(), 0.0], start)
        count, grid = len(ends) - 1, given(ends)
        plan = (ddim(count, grid=grid) if sampler == "euler" else heun(count, grid, "velocity")).on(schedule)
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def flow_solver(
    steps: int = 20,
    sampler: str = "dpmpp_2m",
    shift: float = 3.0,
    reference: bool = True,
    timesteps: int = 1000,
    start: float = 1.0,
) -> Draft:
    """diffusers' DPM-Solver++ and UniPC on flows (`use_flow_sigmas`: Sana, Wan), for `schedules.flow()`. The network is told
    whole thousandths, cut, beside exact levels; `reference=False` tells it the levels.

    Args:
        sampler: "dpmpp_2m", "dpmpp_3m", "unipc", "unipc_3" or "unipc_bh1", "unipc_3_bh1".
        shift, timesteps, start: as for `sd3`.
    """
    check_steps(steps)
    solvers = [s for s in SOLVER if s.startswith(("dpmpp_2m", "dpmpp_3m", "unipc"))]
    _known(sampler, solvers, "sampler")
    name = f"flow_solver({steps}, {sampler}, shift={shift:g})"

    def fill(schedule: Schedule) -> Plan:
        _unshifted(schedule, name)
        if sampler.startswith("unipc"):
            levels = shift_level(np.linspace(1.0, 1 / timesteps, steps + 1)[:-1], shift)
            levels[0] = min(levels[0], 1 - 1e-6)
        else:
            levels = shift_level(1 - np.linspace(1.0, 1 / timesteps, steps + 1), shift)[::-1][:-1]
        levels = _below([*levels.tolist(), 0.0], start)
        plan = (SOLVER if reference else EXACT)[sampler](len(levels) - 1, given(levels)).on(schedule)
        if reference:
            shown = {level: math.floor(level * timesteps + 1e-9) / timesteps for level in levels}
            plan = _shown(plan, schedule, lambda level: shown[level])
        return dataclasses.replace(plan, name=name)

    return Draft(name, fill)


def lcm(
    steps: int = 4,
    original: int = 50,
    timesteps: int = 1000,
    scaling: float = 10.0,
    sigma_data: float = 0.5,
    start: float = 1.0,
) -> Draft:
    """diffusers' LCMScheduler: `plans.lcm`, whose leaps keep c_skip of the state and take c_out of the belief (2310.04378, app.).

    Args:
        scaling, sigma_data: c_skip = sigma_data^2 / ((scaling i)^2 + sigma_data^2) at timestep i.
        start: the level to begin at, for a picture that is noised to it; all leaps are from levels at and below it.
    """
    name = f"lcm({steps}, boundary)"

    def fill(schedule: Schedule) -> Plan:
        plan = begin(few_step.lcm(steps, original, timesteps), start).on(schedule)
        rows = []
        for row in plan.rows:
            if isinstance(row, Row):
                place = scaling * (row.start * timesteps - 1)
                total = place**2 + sigma_data**2
                row = dataclasses.replace(row, a=sigma_data**2 / total, mix=(place / math.sqrt(total),))
            rows.append(row)
        return dataclasses.replace(plan, name=name, rows=tuple(rows))

    return Draft(name, fill)


def tcd(steps: int = 4, gamma: float = 0.3, original: int = 50, timesteps: int = 1000, start: float = 1.0) -> Draft:
    """diffusers' TCDScheduler (2402.19159, alg. 2): leap to the timestep floor((1 - gamma) next), and noise up to the next; the
    last leap ends at timestep 0, which is not quite clean data. `steps` evaluations.

    Args:
        start: as of `lcm`.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it lies in [0, 1], 0 deterministic and 1 a leap to clean data each time.")
    name = f"tcd({steps}, gamma={gamma:g})"

    def fill(schedule: Schedule) -> Plan:
        plan = begin(few_step.lcm(steps, original, timesteps), start).on(schedule)
        levels = [row.start for row in plan.rows if isinstance(row, Row) and (start == 1 or row.start > 1 / timesteps)]
        if not levels:
            raise ValueError(f"start is {start:g}, and {name} ends at level {1 / timesteps:g}; begin above it.")
        rows: list[Row | StateRow] = []
        for t, s in joined([*levels, 1 / timesteps]):
            low = (math.floor((1 - gamma) * round(s * timesteps - 1)) + 1) / timesteps
            rows.append(Row(level=t, start=t, stop=low))
            if low < s:
                rows.append(Renoise(start=low, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def consistency_models(
    steps: int = 1,
    nodes: Sequence[int] | None = None,
    count: int = 40,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    noise: float = 1.0,
) -> Draft:
    """Consistency models' multistep sampler (2303.01469, alg. 1), as published: fresh noise of variance sigma^2 - sigma_min^2.

    Args:
        nodes: which of the `count` Karras levels to leap from, 0 the noisiest; by default every (count // steps)-th.
        noise: factor of the fresh noise.
    """
    check_steps(steps)
    chosen = sorted(nodes if nodes is not None else [i * (count // steps) for i in range(steps)])
    if not all(0 <= i < count for i in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"nodes are {chosen}; they count the {count} levels from 0, each once.")
    ramp = _ramp("karras", sigma_max, sigma_min, count, rho)[chosen]
    name = f"consistency_models({len(chosen)})"

    def fill(schedule: Schedule) -> Plan:
        levels = levels_at(schedule, ramp, name)
        rows: list[Row | StateRow] = []
        for t, s, ratio in zip(levels, [*levels[1:], 0.0], [*ramp[1:], 0.0], strict=True):
            rows.append(Row(level=t, start=t, stop=0.0))
            if ratio > sigma_min:
                rows.append(Renoise(start=0.0, stop=s, factor=noise * math.sqrt(1 - (sigma_min / ratio) ** 2)))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


PEERS: dict[str, Callable[..., Draft]] = {"diffusers": diffusers, "k_diffusion": k_diffusion, "edm": edm, "sd3": sd3}


def profile(peer: str, sampler: str, steps: int, **options: Any) -> Draft:
    """A peer's sampler as a plan: `profile("diffusers", "unipc", 20, sigmas="karras")`. The options are those of the peer's
    function here.
    """
    return PEERS[_known(peer, list(PEERS), "peer")](steps, sampler=sampler, **options)


# Grids, and what the network is told


def _unshifted(schedule: Schedule, name: str) -> None:
    if schedule.scale != "flow" or abs(float(schedule.sigma(torch.tensor(0.5, dtype=torch.float64))) - 0.5) > 1e-12:
        raise ValueError(f"{name} brings its own shift; use it with schedules.flow(), unshifted.")


def _below(levels: list[float], start: float) -> list[float]:
    """The levels from `start` down."""
    return levels if start >= 1 else [start, *(t for t in levels if t < start - 1e-9)]


def _known(value: str, names: Sequence[str], what: str) -> str:
    if value not in names:
        near = spec.nearest(value, list(names))
        raise ValueError(f"{what} is {value!r}; did you mean {near!r}? There are {', '.join(names)}.")
    return value


def _table(schedule: Schedule, timesteps: int) -> Array:
    """sigma/alpha at the published timesteps 0 .. T - 1."""
    lam = schedule.lam(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps)
    return np.minimum((-lam / 2).exp().numpy(), LARGEST)


def _spaced(kind: str, steps: int, size: int, offset: int, extra: int = 0) -> Array:
    """Timesteps from the noisiest down; `extra` more are laid out at the low end and left out."""
    if kind == "linspace":
        return np.linspace(0, size - 1, steps + extra)[::-1][:steps]
    if kind == "trailing":
        return np.arange(size, 0, -size / steps).round()[:steps] - 1
    out = np.arange(steps + extra)[::-1][:steps] * (size // (steps + extra)) + float(offset)
    if out[0] >= size:
        raise ValueError(f"{steps} steps with offset {offset} begin at timestep {out[0]:g} of {size}, where the peer fails.")
    return out


def _ramp(kind: str, high: float, low: float, steps: int, rho: float = 7.0) -> Array:
    if kind == "karras":
        return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def _timestep(ratio: Any, table: Array) -> Any:
    """Where sigma/alpha lies among the published timesteps, log-linear between them."""
    return np.interp(np.log(ratio), np.log(table), np.arange(len(table)))


def _sigma_grid(kind: str, steps: int, table: Array, offset: int) -> tuple[Array, Array]:
    """(told, sigma/alpha) of the schedulers that step in sigma/alpha: timesteps are fractional, and none is left out."""
    told = _spaced(kind if kind in ("leading", "trailing") else "linspace", steps, len(table), offset)
    ratios = np.interp(told, np.arange(len(table)), table)
    if kind in ("karras", "exponential"):
        ratios = _ramp(kind, ratios[0], ratios[-1], steps)
        told = _timestep(ratios, table)
    return told, ratios


def _solver_grid(kind: str, steps: int, table: Array, offset: int) -> tuple[Array, Array]:
    """(told, sigma/alpha) of DPM-Solver, UniPC and DEIS: integer timesteps."""
    if kind in ("linspace", "leading", "trailing"):
        told = _spaced(kind, steps, len(table), offset, extra=1).round()
        return told, table[told.astype(int)]
    ratios = _ramp(kind, table[-1], table[0], steps)
    told = _timestep(ratios, table)
    # the peer computes the first timestep as T - 1 less a rounding of float32, and cuts
    return np.floor(told - 1e-6).clip(min=0) if kind == "exponential" else told.round(), ratios


def levels_at(schedule: Schedule, ratios: Array, name: str) -> list[float]:
    """The levels with these values of sigma/alpha."""
    wanted = torch.from_numpy(-2 * np.log(ratios[ratios > 0]))
    if bool((wanted < schedule.lam(1.0) - 1e-9).any()):
        top = math.exp(-float(schedule.lam(1.0)) / 2)
        raise ValueError(f"{name} begins at sigma/alpha {ratios[0]:g}, above the schedule's {top:g}; lower sigma_max.")
    levels = [1.0 if t > 1 - 1e-9 else t for t in schedule.invert(wanted).tolist()]
    return [*levels, *([0.0] if ratios[-1] == 0 else [])]


def _in_sigma(name: str, steps: int, build: Builder, sigma_min: float | None, sigma_max: float | None, rho: float) -> Draft:
    check_steps(steps)

    def fill(schedule: Schedule) -> Plan:
        high, low = (math.exp(-lam / 2) for lam in schedule.lam_range)
        ratios = _ramp("karras", sigma_max or high, sigma_min or low, steps, rho)
        levels = levels_at(schedule, np.append(ratios, 0.0), name)
        return dataclasses.replace(build(steps, given(levels)).on(schedule), name=name)

    return Draft(name, fill)


def _plain(row: Any) -> Row:
    assert isinstance(row, Row)
    return row


def _told(plan: Plan, schedule: Schedule, shown: dict[float, float], table: Array) -> Plan:
    """The plan whose network is told timesteps, `shown` by level and by interpolation elsewhere (the middle of a step)."""

    def level(at: float) -> float:
        timestep = shown.get(at)
        if timestep is None:
            timestep = float(_timestep(math.exp(-float(schedule.lam(at)) / 2), table))
        return (timestep + 1) / len(table)

    return _shown(plan, schedule, level)


def _shown(plan: Plan, schedule: Schedule, level: Callable[[float], float]) -> Plan:
    """A row that is told another level than the state's has its numbers written out."""
    rows = []
    for row, number in zip(plan.rows, Gaussian(schedule).numbers(plan), strict=True):
        row = _plain(row)
        if row.level is not None and number is not None and abs((told := level(row.level)) - row.level) > 1e-9:
            row = dataclasses.replace(row, eta=0.0, a=number.a, mix=number.w, c=number.c, shown=told)
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows))


def _by_index(
    schedule: Schedule, name: str, sampler: str, told: list[int], stride: int, size: int, last: float, eta: float
) -> Plan:
    """DDIM, DDPM and PNDM: noise carried from timestep i to i - stride, and below 0 to the level `last`."""

    def level(i: int) -> float:
        return (i + 1) / size if i >= 0 else last

    # (timestep told, from, to, weights of the evaluations, whether from the anchor); DDPM goes to the next that is told
    moves: list[tuple[int, int, int, tuple[float, ...], bool]]
    moves = [(i, i, i - stride, (1.0,), False) for i in told]
    if sampler == "ddpm" or not stride:
        moves = [(i, i, j, (1.0,), False) for i, j in zip(told, [*told[1:], -1], strict=True)]
    if sampler == "pndm":
        moves = moves[:1]
        if len(told) > 1:
            moves.append((told[1], told[1] + stride if stride else told[0], told[1], (0.5, 0.5), True))
        for k, (i, j) in enumerate(zip(told[1:], [*told[2:], -1], strict=False), 2):
            # the second evaluation served the corrected first step alone
            used = [j for j in range(k, -1, -1) if j != 1][:4]
            weights = dict(zip(used, ADAMS[len(used)], strict=True))
            target = i - stride if stride else j
            moves.append((i, i, target, tuple(weights.get(m, 0.0) for m in range(k, used[-1] - 1, -1)), False))
    process, rows = Gaussian(schedule), []
    state = anchor = level(told[0])
    for i, source, target, mix, anchored in moves:
        start, stop = anchor if anchored else state, level(target)
        row = Row(level=state, start=start, stop=stop, mix=mix, eta=eta, anchored=anchored)
        if abs(level(i) - state) > 1e-12 or abs(level(source) - start) > 1e-12:
            x_weight, z_weight, c = process.bridge_numbers(level(source), stop, eta)
            alpha, sigma = (float(v) for v in schedule(level(source)))
            if sampler == "pndm":
                weights, a = tuple(-m * x_weight * sigma / alpha for m in mix), z_weight + x_weight / alpha
            else:  # noise is undone at the told level, and the loop undoes it at the state's
                at, away = (float(v) for v in schedule(state))
                part = away * alpha / (sigma * at)
                weights, a = (x_weight / part,), z_weight - x_weight * (1 - away / sigma) / (at * part)
            row = dataclasses.replace(row, eta=0.0, a=a, mix=weights, c=c, shown=level(i))
        rows.append(row)
        state, anchor = stop, start
    return Plan(name=name, basis="eps" if sampler == "pndm" else "x0", order=1, rows=tuple(rows))


__all__ = [
    "PEERS", "consistency_models", "diffusers", "edm", "flow_solver", "k_diffusion", "lcm", "levels_at", "profile", "sd3", "tcd",
]  # fmt: skip
