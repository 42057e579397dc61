"""Multistep: higher order from earlier evaluations, still one evaluation a step.

All are one function, `multistep`: a basis that is integrated exactly where its evaluation does not change, a variable in
which the evaluations are extrapolated, an order, and whether each new evaluation first corrects the step that led to it
(UniPC's corrector, which costs no evaluation). The named methods are its settings; see `langevin.plans.integrals`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.integrals import Integrals


def multistep(
    steps: int = 20,
    basis: str = "x0",
    variable: str = "lam",
    order: int = 3,
    corrector: bool = False,
    final: int = 0,
    data_std: float = 1.0,
    tau: float | Callable[[float], float] = 0.0,
    grid: str | Grid = "log_snr",
    name: str | None = None,
    limit: Callable[[int], int] | None = None,
    corrector_order: int = 0,
    closing: bool = False,
    uncorrected: Collection[int] = (),
) -> Draft:
    """The general multistep method, `steps` evaluations, one more where it is `closing`.

    Args:
        basis: "x0", "eps", "v" or "velocity"; variable: "lam", "angle", "sigma" or "t".
        order: evaluations a step is extrapolated from, and order of convergence from nearly pure noise. (The first steps have
            less history; their error fades with the signal left there, and where some is left, it limits the order to 2, or
            3 with a corrector.) A corrected step uses one more.
        corrector: correct each step once the evaluation at its end is known (UniPC, 2302.04867, alg. 1), with order one
            higher; the corrected state is where the next step starts from. Steps are then of order + 1 in effect.
        final: order of the last step, 0 for no limit. Lower it where the last step is a leap.
        limit: step from 0 -> the most that its order may be, and that of its correction, beside `order`; published codes lower
            the order of their last steps. Instead of `final`.
        corrector_order: evaluations that a correction uses, that at the step's end included; 0 for order + 1.
        closing: one more evaluation, at the last level, to correct the last step; for grids that stop above 0.
        uncorrected: steps, counted from 0, that are not corrected.
        data_std: d of the angle, for basis "v" and variable "angle".
        tau: 0 deterministic, 1 ancestral, between them part of the noise (SA-Solver, 2309.05019); a number, or a function of the
            level that a step begins at. Bases x0 and eps; in eps a step to clean data draws nothing.
    """
    check_steps(steps)
    if not 1 <= order <= 6:
        raise ValueError(f"order is {order}; multistep methods have order 1 to 6.")
    if not 0 <= final <= 6:
        raise ValueError(f"final is {final}; it is the order of the last step, 0 for no limit.")
    if not 0 <= corrector_order <= 7 or (corrector_order and not corrector):
        raise ValueError(f"corrector_order is {corrector_order}, with corrector {corrector}; give 1 to 7 and a corrector, or 0.")
    if closing and not corrector:
        raise ValueError("closing is true without a corrector, which it is an evaluation for; leave it out.")
    if isinstance(tau, (int, float)):
        _check_tau(tau, basis)
    levels_of = named(grid)
    tau_at = tau if callable(tau) else lambda level: tau
    called = name or f"multistep({steps}, {basis}/{variable}, order={order}{', corrector' if corrector else ''})"

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        if closing and levels[-1] == 0:
            raise ValueError(f"{called} is closing, and ends at clean data, where nothing is asked; give a grid with stop=.")
        integrals = Integrals(schedule, basis, variable, data_std)

        def row(i: int, nodes: list[float], level: float | None, anchored: bool) -> Row:
            start, stop = levels[i], levels[i + 1]
            numbers = _numbers(integrals, start, stop, nodes, tau_at(start))
            return Row(level=level, start=start, stop=stop, anchored=anchored, **numbers)

        def most(i: int) -> int:
            """The order that the end leaves to step i."""
            return limit(i) if limit else final if final and i == steps - 1 else order

        rows: list[Row] = []
        visited = [*levels, 0.0] if closing else levels
        for i, (t, s) in enumerate(joined(visited)):
            known = levels[i::-1]
            nodes = known[: integrals.usable(s, known, min(order, i + 1, most(i)))] if i < steps else []
            if corrector and i > 0 and i - 1 not in uncorrected:
                # the evaluation at t corrects the step that led there
                reach = min(corrector_order - 1 if corrector_order else order, i)
                reach = min(reach, most(i - 1)) if limit else reach
                behind = known[1 : 1 + integrals.usable(t, known[1:], reach)] if reach else []
                usable = math.isfinite(integrals.places([t])[0]) and all(math.isfinite(v) for v in integrals.places(behind)[:1])
                rows.append(row(i - 1, [t, *behind] if usable else [known[1]], t, True))
                if not usable:  # nothing to correct with: keep the step as it was
                    rows[-1] = Row(level=t, start=levels[i - 1], stop=t, mix=(0.0, 1.0), anchored=True)
                if nodes:
                    rows.append(row(i, nodes, None, False))
            elif nodes:
                rows.append(row(i, nodes, t, False))
        noisy = any(tau_at(row.start) > 0 for row in rows)
        reached = min(order, 2) if noisy else order + corrector
        return Plan(name=called, basis=basis, order=reached, rows=tuple(rows), data_std=data_std)

    return Draft(called, fill)


def _numbers(integrals: Integrals, start: float, stop: float, nodes: list[float], tau: float) -> dict[str, Any]:
    """How a step mixes the evaluations at `nodes`, newest first: the fields of its `Row` beside the levels."""
    schedule, basis = integrals.schedule, integrals.basis
    _check_tau(tau, basis)
    weights = tuple(integrals.step(start, stop, nodes, 1 + tau**2))
    if basis == "v":
        (angle, norm), (end, growth) = integrals.polar(start), integrals.polar(stop)
        if len(nodes) == 1:  # nothing but one belief: keep x and e themselves, which turns the state by the angle (DDIM)
            return {"a": growth / norm * math.cos(end - angle), "mix": (growth * math.sin(end - angle),)}
        return {"a": growth / norm, "mix": tuple(w * growth for w in weights)}
    if basis == "velocity":
        return {"mix": tuple(w / (stop - start) for w in weights)}
    if basis == "x0":
        return {"mix": weights, "eta": _eta(schedule, start, stop, tau)}
    # without signal at the start noise says nothing, and the sampler refuses the plan in words
    if tau and stop > 0 and float(schedule(start)[0]) > 0:
        a, mix, c = _noisy(schedule, start, stop, tau, weights)
        return {"a": a, "mix": mix, "c": c}
    return {"mix": weights}


def _check_tau(tau: float, basis: str) -> None:
    if not 0 <= tau <= 1 or (tau and basis not in ("x0", "eps")):
        raise ValueError(f"tau is {tau} in basis {basis!r}; tau lies in [0, 1], and above 0 needs the basis 'x0' or 'eps'.")


def _noisy(
    schedule: Schedule, start: float, stop: float, tau: float, weights: tuple[float, ...]
) -> tuple[float, tuple[float, ...], float]:
    """(a, mix, c) of a step of the SDE with constant tau, on noise (SA-Solver, 2309.05019, app. on noise prediction):
    the drift of the noise is 1 + tau^2 times the flow's."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([float(v) for v in schedule(u)] for u in (start, stop))
    ratio_t, ratio_s = sigma_t / alpha_t, sigma_s / alpha_s
    drift = alpha_s * (ratio_s - ratio_t) * (1 + tau**2)
    return alpha_s / alpha_t, tuple(drift * w for w in weights), tau * alpha_s * math.sqrt(ratio_t**2 - ratio_s**2)


def _eta(schedule: Schedule, start: float, stop: float, tau: float) -> float:
    """The bridge's eta whose noise is that of the SDE with constant tau: 1 - exp(-tau^2 dlam) = eta^2 (1 - exp(-dlam))."""
    if tau in (0.0, 1.0):
        return tau
    gap = float(schedule.lam(stop) - schedule.lam(start))
    return math.sqrt(math.expm1(-(tau**2) * gap) / math.expm1(-gap))


def dpmpp(steps: int = 20, order: int = 2, sde: bool = False, grid: str | Grid = "log_snr") -> Draft:
    """DPM-Solver++ multistep (2211.01095, alg. 2), `steps` evaluations.

    Order 2 uses the paper's weights 1 + 1/(2r), -1/(2r). Order 3 uses the exact third-order weights: published codes
    lack a factor 2 on the second difference and converge at less. Steps without enough history, and the leap to clean
    data, are of lower order.

    Args:
        order: 1, 2 or 3.
        sde: the stochastic form (eta = 1), of weak order 2 at most.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}; dpmpp has orders 1, 2 and 3.")
    name = f"dpmpp({steps}, order={order}{', sde' if sde else ''})"
    exact = multistep(steps, "x0", "lam", order, tau=float(sde), grid=grid, name=name)
    return Draft(name, lambda schedule: papers_second_order(exact.on(schedule), schedule)) if order == 2 else exact


def papers_second_order(plan: Plan, schedule: Schedule) -> Plan:
    """Rows of two evaluations as DPM-Solver++(2M) has them (2211.01095, alg. 2): the step to t_i by

        D_i = (1 + 1/(2 r_i)) x^_{i-1} - 1/(2 r_i) x^_{i-2},   h_i = l(t_i) - l(t_{i-1}),   r_i = h_{i-1} / h_i,

    l = lam / 2 being the papers' log(alpha/sigma). Its slope is that at the middle of the step, whatever the weight over it."""
    rows, before = [], None
    for row in plan.rows:
        assert isinstance(row, Row) and row.level is not None
        if len(row.mix) == 2 and before is not None:
            last, now, then = (float(schedule.lam(t)) / 2 for t in (before, row.start, row.stop))
            h, h_before = then - now, now - last
            half_over_r = h / h_before / 2
            whole = 1.0 if row.a is None else sum(row.mix)  # the weight of the step, where it is written out
            row = dataclasses.replace(row, mix=(whole * (1 + half_over_r), -whole * half_over_r))
        rows.append(row)
        before = row.start
    return dataclasses.replace(plan, rows=tuple(rows))


def trig(
    steps: int = 20,
    order: int = 3,
    data_std: float = 0.8,
    corrector: bool = True,
    grid: str | Grid = "angle;center=0.5;power=0.73",
) -> Draft:
    """Adams' method in the angle between data and noise, predicting and correcting: the library's own, `steps` evaluations.

    In phi = arctan(sigma / (alpha d)), with d the data's standard deviation, the flow is smooth from pure noise to clean data
    and the same on every schedule: both ends are ordinary points. The last step is of full order and ends at exactly 0. In the
    end the first steps, which have little history, rule: it converges at order 3 (2 without corrector), whatever `order` is.
    """
    name = f"trig({steps}, order={order}, data_std={data_std:g}{'' if corrector else ', no corrector'})"
    made = multistep(steps, "v", "angle", order, corrector, data_std=data_std, grid=grid, name=name)
    reached = min(order + corrector, 2 + corrector)
    return Draft(name, lambda schedule: dataclasses.replace(made.on(schedule), order=reached))


def unipc(steps: int = 20, order: int = 3, variant: str = "exact", final: int = 1, grid: str | Grid = "log_snr") -> Draft:
    """UniPC (2302.04867): DPM-Solver++'s predictor, corrected by the next evaluation, `steps` evaluations.

    Args:
        order: of the predictor.
        variant: "exact" integrates all polynomials exactly. The published "bh1" and "bh2" differ from it where only one
            difference is used, whose weight they round to 1/2.
        final: order of the last step, which leaps to clean data.
    """
    if variant not in ("exact", "bh1", "bh2"):
        raise ValueError(f"variant is {variant!r}; there are 'exact', 'bh1' and 'bh2'.")
    name = f"unipc({steps}, order={order}{'' if variant == 'exact' else ', ' + variant})"
    exact = multistep(steps, "x0", "lam", order, True, final, grid=grid, name=name)
    return exact if variant == "exact" else Draft(name, lambda schedule: rounded(exact.on(schedule), schedule, variant))


def rounded(plan: Plan, schedule: Schedule, variant: str, tau_at: Callable[[float], float] = lambda level: 0.0) -> Plan:
    """Rows with one difference D of evaluations, written as the papers' code has them (UniPC, 2302.04867):

        x_s = DDIM - alpha_s B(-h) D / 2 on data,   DDIM - sigma_s B(h) D / 2 on noise,   B(h) = h ("bh1") or exp(h) - 1 ("bh2").

    With noise (SA-Solver) h is that of the weight exp((1 + tau^2) u) du."""
    rows = []
    nodes: list[float] = []
    for row in plan.rows:
        assert isinstance(row, Row)
        if row.level is not None:
            nodes.insert(0, row.level)
        if len(row.mix) == 2 and row.stop > 0 and math.isfinite(float(schedule.lam(row.start))):
            half = [float(schedule.lam(t)) / 2 for t in (row.start, row.stop)]
            h = half[1] - half[0]
            # share of the step's weight, 1 - exp(-h) on data and exp(h) - 1 on noise, that B(h) is
            grown = h if plan.basis == "eps" else -(1 + tau_at(row.start) ** 2) * h
            scale = grown / math.expm1(grown) if variant == "bh1" else 1.0
            if row.anchored:
                mix = (scale / 2, 1 - scale / 2)
            else:
                r = (half[0] - float(schedule.lam(nodes[1])) / 2) / h
                mix = (1 + scale / (2 * r), -scale / (2 * r))
            row = dataclasses.replace(row, mix=mix)
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows))


def sa_solver(
    steps: int = 20,
    order: int = 2,
    tau: float = 1.0,
    corrector: bool = True,
    final: int = 1,
    grid: str | Grid = "log_snr",
    low: float = 0.0,
    high: float = math.inf,
    corrector_order: int = 0,
    basis: str = "x0",
) -> Draft:
    """SA-Solver (2309.05019): stochastic Adams, predicting and correcting under one draw of noise, `steps` evaluations.

    Args:
        order, corrector_order: evaluations of the predictor, and of the corrector with its own; 0 for order + 1.
        tau: how stochastic: 0 is UniPC, 1 ancestral.
        low, high: values of sigma/alpha between which tau acts, at the level that a step begins at; outside it is 0. Published
            settings have such windows. `multistep` takes any function of the level.
        basis: "x0" or "eps", which evaluations are extrapolated (the paper prefers x0).
    """
    if basis not in ("x0", "eps"):
        raise ValueError(f"basis is {basis!r}; SA-Solver extrapolates 'x0' or 'eps'.")
    if not 0 <= low < high:
        raise ValueError(f"low is {low:g} and high {high:g}; tau acts where sigma/alpha lies between them, so give low < high.")
    within = "" if (low, high) == (0, math.inf) else f" in [{low:g}, {high:g}]"
    name = f"sa_solver({steps}, order={order}, tau={tau:g}{within}{', eps' if basis == 'eps' else ''})"
    _check_tau(tau, basis)

    def fill(schedule: Schedule) -> Plan:
        def tau_at(level: float) -> float:
            return tau if low <= math.exp(-float(schedule.lam(level)) / 2) <= high else 0.0

        made = multistep(
            steps, basis, "lam", order, corrector, final, tau=tau_at, grid=grid, name=name, corrector_order=corrector_order
        )
        return made.on(schedule)

    return Draft(name, fill)


def dpm_solver_multistep(steps: int = 20, order: int = 2, final: int = 1, grid: str | Grid = "log_snr") -> Draft:
    """DPM-Solver on noise predictions (2206.00927), extrapolated in log-SNR, `steps` evaluations."""
    return multistep(steps, "eps", "lam", order, final=final, grid=grid, name=f"dpm_solver_multistep({steps}, order={order})")


def deis(steps: int = 20, order: int = 3, variable: str = "t", grid: str | Grid = "quadratic") -> Draft:
    """DEIS (2204.13902, tAB; rhoAB for variable "sigma"): exact integrals of extrapolated noise, `steps` evaluations."""
    return multistep(steps, "eps", variable, order, grid=grid, name=f"deis({steps}, order={order}, {variable})")


def lms(steps: int = 20, order: int = 4, grid: str | Grid = "karras") -> Draft:
    """Linear multistep in sigma/alpha (k-diffusion's LMS): Adams-Bashforth for dz/dsigma = e^, `steps` evaluations."""
    return multistep(steps, "eps", "sigma", order, grid=grid, name=f"lms({steps}, order={order})")


def adams_bashforth(steps: int = 20, order: int = 3, grid: str | Grid = "uniform") -> Draft:
    """Adams-Bashforth on dz/dt, for flows, `steps` evaluations."""
    return multistep(steps, "velocity", "t", order, grid=grid, name=f"adams_bashforth({steps}, order={order})")
