"""Single-step methods: higher order from evaluations at predicted states, then again from the anchor.

A tableau of Runge-Kutta is a list of rows per step: stage j goes from the anchor to the level `c_j` of the way, with its
weights; the last stage goes to the end. In the basis eps the way is measured in sigma/alpha, in velocity in t, and a stage
is then classical; in x0 and eps the exponential methods (DPM-Solver-2, -3 and their ++ forms) measure it in log-SNR.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, karras, log_snr, named, shows_signal
from langevin.plans.moves import Renoise

Stage: TypeAlias = tuple[float, tuple[float, ...]]
"""Where a stage ends, as a share of the step, and the weights that take it there, newest first, summing to 1."""

# c and rows of A (each divided by its sum, for a row's mix sums to 1), then b: Butcher tableaus of the classical methods
TABLEAUS: dict[str, tuple[int, list[Stage]]] = {
    "midpoint": (2, [(1 / 2, (1.0,)), (1.0, (1.0, 0.0))]),
    "heun": (2, [(1.0, (1.0,)), (1.0, (0.5, 0.5))]),
    "heun3": (3, [(1 / 3, (1.0,)), (2 / 3, (1.0, 0.0)), (1.0, (3 / 4, 0.0, 1 / 4))]),
    "rk4": (4, [(1 / 2, (1.0,)), (1 / 2, (1.0, 0.0)), (1.0, (1.0, 0.0, 0.0)), (1.0, (1 / 6, 1 / 3, 1 / 3, 1 / 6))]),
}


def stages(t: float, s: float, tableau: list[Stage], between: Callable[[float], float]) -> list[Row]:
    """The rows of one step from t to s."""
    rows, state = [], t
    for i, (share, mix) in enumerate(tableau):
        stop = s if share == 1 else between(share)
        rows.append(Row(level=state, start=t, stop=stop, mix=mix, anchored=i > 0))
        state = stop
    return rows


def _heun(t: float, s: float) -> list[Row]:
    """Heun's step; Euler's to clean data, where its second slope is 0/0."""
    return stages(t, s, TABLEAUS["heun"][1][: 2 if s > 0 else 1], lambda share: s)


def _check_basis(basis: str | None) -> None:
    if basis not in (None, "eps", "velocity"):
        raise ValueError(f"basis is {basis!r}; the slopes are of 'eps' (in sigma/alpha) or 'velocity' (in t).")


def runge_kutta(method: str, steps: int, basis: str | None = None, grid: str | Grid | None = None) -> Draft:
    """A classical Runge-Kutta method by the name of its tableau ("midpoint", "heun", "heun3", "rk4").

    steps times its stages evaluations. Where a method asks for the slope at the end of a step, which is 0/0 at clean data,
    the step to there is Euler's.

    Args:
        basis: "eps" integrates in sigma/alpha (EDM, k-diffusion), "velocity" in t (flows). By default "eps" where t = 1
            still holds signal, "velocity" where sigma/alpha passes 1000 there.
        grid: by default "karras" for "eps" and "uniform" for "velocity".
    """
    check_steps(steps)
    _check_basis(basis)
    if method not in TABLEAUS:
        raise ValueError(f"method is {method!r}; there are {', '.join(TABLEAUS)}.")
    asked = None if grid is None else named(grid)
    order, tableau = TABLEAUS[method]

    def fill(schedule: Schedule) -> Plan:
        chosen = basis or ("eps" if shows_signal(schedule) else "velocity")
        levels = (asked or named("karras" if chosen == "eps" else "uniform"))(schedule, steps)
        rows: list[Row] = []
        for t, s in joined(levels):
            if s > 0 or all(share < 1 for share, _ in tableau[:-1]):
                rows += stages(t, s, tableau, between(schedule, t, s, "t" if chosen == "velocity" else "sigma"))
            else:
                rows.append(Row(level=t, start=t, stop=s))
        return Plan(name=f"{method}({steps})", basis=chosen, order=order, rows=tuple(rows))

    return Draft(f"{method}({steps})", fill)


def between(schedule: Schedule, t: float, s: float, variable: str) -> Callable[[float], float]:
    """share -> the level that far from t to s, in t, in sigma/alpha, in log sigma, or in log-SNR."""
    if variable == "t":
        return lambda share: t + share * (s - t)
    (lam_t, lam_s) = (float(schedule.lam(v)) for v in (t, s))
    if variable == "sigma":
        from_ratio, to_ratio = math.exp(-lam_t / 2), math.exp(-lam_s / 2)
        return lambda share: float(schedule.invert(-2 * math.log(from_ratio + share * (to_ratio - from_ratio))))
    return lambda share: float(schedule.invert(lam_t + share * (lam_s - lam_t)))


def heun(steps: int = 18, grid: str | Grid | None = None, basis: str | None = None) -> Draft:
    """Heun's second-order method, 2 steps - 1 evaluations: the step to clean data is Euler's (2206.00364, alg. 1)."""
    return runge_kutta("heun", steps, basis, grid)


def midpoint(steps: int = 10, grid: str | Grid | None = None, basis: str | None = None) -> Draft:
    """The midpoint method, 2 steps evaluations."""
    return runge_kutta("midpoint", steps, basis, grid)


def heun3(steps: int = 7, grid: str | Grid | None = None, basis: str | None = None) -> Draft:
    """Heun's third-order method, 3 steps evaluations."""
    return runge_kutta("heun3", steps, basis, grid)


def rk4(steps: int = 5, grid: str | Grid | None = None, basis: str | None = None) -> Draft:
    """The classical fourth-order method, 4 steps - 3 evaluations."""
    return runge_kutta("rk4", steps, basis, grid)


def dpm_2(steps: int = 10, grid: str | Grid = "karras") -> Draft:
    """DPM2 as k-diffusion has it (2206.00364, alg. 2): a midpoint in log sigma, 2 steps - 1 evaluations."""
    return _exponential(f"dpm_2({steps})", "eps", steps, 2, grid)


def dpm_solver(steps: int = 10, order: int = 2, grid: str | Grid = "log_snr") -> Draft:
    """DPM-Solver-1, -2, -3 (2206.00927, alg. 1 and 2): single step, on noise; order * (steps - 1) + 1 evaluations."""
    return _exponential(f"dpm_solver({steps}, order={order})", "eps", steps, order, grid)


def dpmpp_single(steps: int = 10, order: int = 2, sde: bool = False, grid: str | Grid = "log_snr") -> Draft:
    """DPM-Solver++(2S), (3S) (2211.01095, alg. 1): single step, on data; order * (steps - 1) + 1 evaluations.

    Args:
        sde: the stochastic form (eta = 1), k-diffusion's DPM++ SDE at order 2: middle and end of a step share their noise.
    """
    return _exponential(f"dpmpp_single({steps}, order={order})", "x0", steps, order, grid, float(sde))


def _exponential(name: str, basis: str, steps: int, order: int, grid: str | Grid, eta: float = 0.0) -> Draft:
    check_steps(steps)
    if order not in (1, 2, 3) or (eta and order == 3):
        raise ValueError(f"order is {order}; single-step methods here have orders 1, 2 and 3 (with noise 1 and 2).")
    levels_of = named(grid)

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row] = []
        for t, s in joined(levels_of(schedule, steps)):
            h = float(schedule.lam(s) - schedule.lam(t)) / 2
            if order == 1 or not math.isfinite(h):
                rows.append(Row(level=t, start=t, stop=s, eta=eta))
                continue
            way = between(schedule, t, s, "lam")
            tableau = TABLEAUS["midpoint"][1] if order == 2 else thirds(h, basis)
            rows += [
                Row(level=r.level, start=r.start, stop=r.stop, mix=r.mix, anchored=r.anchored, eta=eta)
                for r in stages(t, s, tableau, way)
            ]
        return Plan(name=name, basis=basis, order=1 if eta else order, rows=tuple(rows))

    return Draft(name, fill)


def thirds(h: float, basis: str) -> list[Stage]:
    """Stages at 1/3 and 2/3 of log-SNR; weights of the exponential integrals, divided by the step's own."""
    k = h if basis == "x0" else -h  # data falls in with exp(-h), noise with exp(h)

    def share(part: float) -> float:
        """phi_2 over phi_1 of a step of part * k: how far a slope carries, in units of that step."""
        x = part * k
        return 1 / -math.expm1(-x) - 1 / x if basis == "x0" else (math.expm1(-x) + x) / (-x * math.expm1(-x))

    # one difference, D = u(1/3) - u(0) over 1/3 of the step, at 2/3; then u(2/3) - u(0) over 2/3, at the end
    middle, end = 2 * share(2 / 3), 3 / 2 * share(1.0)
    return [(1 / 3, (1.0,)), (2 / 3, (middle, 1 - middle)), (1.0, (end, 0.0, 1 - end))]


def edm_stochastic(
    steps: int = 18,
    churn: float = 40.0,
    low: float = 0.05,
    high: float = 50.0,
    noise: float = 1.003,
    grid: str | Grid = "karras",
    method: str = "heun",
) -> Draft:
    """EDM's stochastic sampler (2206.00364, alg. 2): a little fresh noise, then Heun's step, 2 steps - 1 evaluations.

    Args:
        churn: S_churn, spread over the steps. low, high: sigma/alpha between which noise is added (S_min, S_max).
        noise: S_noise, the factor of the added noise's standard deviation.
        method: the step after it, "heun", or as k-diffusion has it "euler" (`steps` evaluations) or "dpm_2".
    """
    check_steps(steps)
    if method not in ("heun", "euler", "dpm_2"):
        raise ValueError(f"method is {method!r}; there are 'heun', 'euler' and 'dpm_2'.")
    levels_of = named(grid)
    gamma = min(churn / steps, math.sqrt(2) - 1)

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        top = float(schedule.lam(1.0))
        for t, s in joined(levels_of(schedule, steps)):
            ratio = math.exp(-float(schedule.lam(t)) / 2)
            lam = -2 * math.log(ratio * (1 + gamma))
            if gamma and low <= ratio <= high and lam > top:
                raised = float(schedule.invert(lam))
                rows.append(Renoise(start=t, stop=raised, factor=noise))
                t = raised
            if method == "heun":
                rows += _heun(t, s)
            elif method == "euler" or s == 0:
                rows.append(Row(level=t, start=t, stop=s))
            else:
                rows += stages(t, s, TABLEAUS["midpoint"][1], between(schedule, t, s, "lam"))
        return Plan(name=f"edm_stochastic({steps}, churn={churn:g})", basis="eps", order=1, rows=tuple(rows))

    return Draft(f"edm_stochastic({steps}, churn={churn:g})", fill)


def restart(
    steps: int = 18,
    times: int = 2,
    low: float = 0.1,
    high: float = 1.0,
    inner: int = 4,
    grid: str | Grid = "karras",
    intervals: str | Sequence[tuple[float, float, int, int]] = "",
) -> Draft:
    """Restart (2306.14878, alg. 1): Heun, and when sigma/alpha passes `low`, back up to `high` and down again, `times` times.

    Deterministic steps make small errors, noise forgets them: 2 steps - 1 + times (2 inner) evaluations.

    Args:
        intervals: several of them as published (tables 3 and 5), instead of one: (t_min, t_max, n, repeats) each, in sigma/alpha.
            Each begins at the grid's level nearest t_min, and goes down again on n of Karras's levels, both ends among them,
            which is n - 1 steps. As a word "0.06 0.3 3 2/1.09 1.92 4 1". 2 steps - 1 + sum of repeats (2 n - 2) evaluations.
    """
    check_steps(steps)
    if not 0 < low < high or times < 0 or inner < 1:
        raise ValueError(f"low is {low}, high {high}, times {times}, inner {inner}; give 0 < low < high, and whole counts.")
    listed = _intervals(intervals)
    levels_of = named(grid)
    name = f"restart({steps}, {len(listed)} intervals)" if listed else f"restart({steps}, times={times})"

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        loops: dict[float, tuple[int, list[float]]] = {}  # where the way down is interrupted: repeats, and levels of the loop
        for bottom, top, count, repeats in listed:
            at = min(levels[1:-1], key=lambda t: abs(math.exp(-float(schedule.lam(t)) / 2) - bottom), default=None)
            again = float(schedule.invert(-2 * math.log(top)))
            if at is None or at >= again:
                raise ValueError(
                    f"{name} has no level near t_min = {bottom:g} and below t_max = {top:g} to go back from; take more steps, or "
                    "move them apart."
                )
            if at in loops:
                raise ValueError(
                    f"{name} has two intervals at one level, near t_min = {bottom:g}; take more steps, or leave one out."
                )
            loops[at] = repeats, karras(start=again, stop=at)(schedule, count - 1)
        # the first level below `low`, or the last there is; a single step has none
        below = [t for t in levels[1:-1] if math.exp(-float(schedule.lam(t)) / 2) <= low] or levels[1:-1][-1:]
        if below and not listed:
            again = float(schedule.invert(-2 * math.log(high)))
            if below[0] >= again:
                raise ValueError(
                    f"restart({steps}) has no level between low = {low:g} and high = {high:g} to go back from; take more steps, "
                    "or move them apart."
                )
            loops[below[0]] = times, log_snr(again, below[0])(schedule, inner)
        rows: list[Row | StateRow] = []
        for t, s in joined(levels):
            rows += _heun(t, s)
            repeats, loop = loops.get(s, (0, []))
            for _ in range(repeats):
                rows.append(Renoise(start=s, stop=loop[0]))
                rows += [row for step in joined(loop) for row in _heun(*step)]
        return Plan(name=name, basis="eps", order=1, rows=tuple(rows))

    return Draft(name, fill)


def _intervals(said: str | Sequence[tuple[float, float, int, int]]) -> list[tuple[float, float, int, int]]:
    """Restart's intervals, from a word or as they are."""
    parts: Sequence[Any] = [part.split() for part in said.split("/") if part.strip()] if isinstance(said, str) else said
    out = []
    for part in parts:
        try:
            bottom, top, count, repeats = float(part[0]), float(part[1]), int(part[2]), int(part[3])
            if len(part) != 4 or not 0 < bottom < top < math.inf or count < 2 or repeats < 0:
                raise ValueError
        except (ValueError, IndexError, TypeError):
            raise ValueError(
                f"intervals has {part!r}; give t_min, t_max, n and repeats, with 0 < t_min < t_max and n of at least 2, such as "
                "'0.06 0.3 3 2'."
            ) from None
        out.append((bottom, top, count, repeats))
    return out
