"""Plans whose rows depend on the state: Langevin corrections, annealed Langevin, adaptive steps, learned variances."""

import torch

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.corrections import Langevin, Split
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.moves import Adaptive, Standard

PREDICTORS = ("ancestral", "reverse_diffusion", "euler_maruyama")


def predictor_corrector(
    steps: int = 500,
    snr: float = 0.16,
    corrections: int = 1,
    eta: float = 1.0,
    grid: str | Grid = "uniform",
    predictor: str = "ancestral",
    standard: bool = False,
) -> Draft:
    """Score SDEs' predictor-corrector (2011.13456, alg. 1): at each level Langevin steps, then a step down.

    The published code corrects first, so that the last state is a denoised one. The last step is the belief itself (Tweedie)
    under every predictor. steps (1 + corrections) evaluations.

    Args:
        snr: of the Langevin steps. corrections: how many at each level, 0 for the predictor alone.
        eta: of the ancestral predictor, whose 0 is the flow's.
        predictor: "ancestral", the bridge (eq. 4 and app. F); "reverse_diffusion", the forward step from s to t turned round (eq.
            46); "euler_maruyama" of the reverse SDE, with drift and diffusion of any schedule (eq. 6).
        standard: samples begin at N(0, I) whatever the schedule, as in GDSS's code; see `splitting`.

    Raises:
        ValueError: for a predictor that needs the drift of a schedule with no signal at level 1.
    """
    check_steps(steps)
    if corrections < 0 or not snr > 0:
        raise ValueError(f"corrections is {corrections} and snr {snr}; give a whole number and a value above 0.")
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is {predictor!r}; there are {', '.join(PREDICTORS)}.")
    if predictor != "ancestral" and eta != 1:
        raise ValueError(f"eta is {eta:g}, which the predictor {predictor!r} has none of; use 'ancestral', or leave eta out.")
    levels_of = named(grid)
    name = f"predictor_corrector({steps}, snr={snr:g}, corrections={corrections})"
    if predictor != "ancestral":
        name = f"{name[:-1]}, {predictor})"
    name = _begun(name, standard)

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        rows = _start(levels, standard)
        numbers = None if predictor == "ancestral" else _numbers(schedule, levels, predictor)
        for i, (t, s) in enumerate(joined(levels)):
            rows += [Langevin(start=t, stop=t, snr=snr)] * corrections
            if s == 0 or numbers is None:
                rows.append(Row(level=t, start=t, stop=s, eta=eta))
            else:
                a, w, c = numbers[i]
                rows.append(Row(level=t, start=t, stop=s, a=a, mix=(w,), c=c))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def _numbers(schedule: Schedule, levels: list[float], predictor: str) -> list[tuple[float, float, float]]:
    """(a, w, c) of z_s = a z_t + w x^ + c e, for each step down.

    reverse_diffusion: forward is z_t = r z_s + G e, back is (2 - r) z_t + G^2 score + G e. euler_maruyama: dz = f z dt + g dw
    with f = alpha' / alpha and g^2 = (sigma^2)' - 2 f sigma^2, of which back is (1 - f h) z_t + g^2 h score + g sqrt(h) e,
    h = t - s. The score is (alpha x^ - z) / sigma^2.
    """
    t, s = (torch.tensor(part, dtype=torch.float64) for part in (levels[:-1], levels[1:]))
    (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(s)
    if not bool((alpha > 0).all()):
        raise ValueError(f"schedule {schedule} has no signal at level {levels[0]:g}; {predictor} needs some, use 'ancestral'.")
    if predictor == "reverse_diffusion":
        ratio = alpha / alpha_s
        ahead, square = 2 - ratio, sigma**2 - (ratio * sigma_s) ** 2
    else:
        alpha_rate, sigma_rate = schedule.rates(t)
        drift = alpha_rate / alpha
        ahead, square = 1 - drift * (t - s), 2 * sigma * (sigma_rate - drift * sigma) * (t - s)
    square = square.clamp(min=0)
    part = square / sigma**2
    return list(zip((ahead - part).tolist(), (part * alpha).tolist(), square.sqrt().tolist(), strict=True))


def _begun(name: str, standard: bool) -> str:
    return f"{name[:-1]}, standard)" if standard else name


def _start(levels: list[float], standard: bool) -> list[Row | StateRow]:
    """The rows before the first step. A plan that begins below level 1 draws nothing from the prior."""
    return [Standard()] if standard and levels[0] == 1 else []


def splitting(
    steps: int = 1000, snr: float = 0.2, scale: float = 1.0, grid: str | Grid = "uniform", standard: bool = False
) -> Draft:
    """GDSS's S4 (2202.02514): a predictor and a corrector by one evaluation a step; see `Split`. The last step denoises.

    Args:
        snr: of the corrections. scale: of their noise.
        standard: samples begin at N(0, I) whatever the schedule, as in the published code, and not at the process's own prior,
            N(0, sigma(1)^2 I). Its settings want it: `vp_linear(0.1, 1)` leaves 0.76 of the data at level 1 beside noise of
            deviation 0.65, so that data of unit variance has variance 1 there, and from its own prior comes out too narrow.
            (A start that is given is divided by sigma(1) as well.)
    """
    check_steps(steps)
    if not snr >= 0 or not scale >= 0:
        raise ValueError(f"snr is {snr} and scale {scale}; give numbers that are not negative.")
    levels_of = named(grid)
    name = _begun(f"splitting({steps}, snr={snr:g}, scale={scale:g})", standard)

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        rows = _start(levels, standard)
        for t, s in joined(levels):
            rows.append(Split(start=t, stop=s, snr=snr, scale=scale) if s > 0 else Row(level=t, start=t, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def annealed_langevin(steps: int = 10, per_level: int = 100, size: float = 0.1, grid: str | Grid = "log_snr") -> Draft:
    """Annealed Langevin dynamics (NCSN, 1907.05600, alg. 1): per_level steps at each of `steps` falling levels, and a last
    denoising (2006.09011, sec. 3). Between levels the state is left alone: the next level takes it as it is.

    Args:
        size: step size in units of sigma^2 at each level.
    """
    check_steps(steps)
    if per_level < 1 or not size > 0:
        raise ValueError(f"per_level is {per_level} and size {size}; give at least 1, and a value above 0.")
    levels_of = named(grid)
    name = f"annealed_langevin({steps}, {per_level} each)"

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        for t, s in joined(levels_of(schedule, steps)):
            rows += [Langevin(start=t, stop=t, size=size)] * per_level
            # the signal's scale follows the level (a Gaussian of another width is what Langevin mends); the end is denoised
            scale = float(schedule(s)[0] / schedule(t)[0]) if float(schedule(t)[0]) > 0 else 1.0
            if s > 0:
                rows.append(Row(level=None, start=t, stop=s, mix=(0.0,), a=scale))
            else:
                rows.append(Row(level=t, start=t, stop=s))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def adaptive(rtol: float = 1e-3, atol: float = 1e-3, most: int = 1000, data_std: float = 1.0) -> Draft:
    """The probability flow by Dormand-Prince 5(4) with error control; `Step.nfe` tells the evaluations it took."""
    name = f"adaptive(rtol={rtol:g}, atol={atol:g})"
    row = Adaptive(start=1.0, stop=0.0, rtol=rtol, atol=atol, most=most, data_std=data_std)
    return Draft(name, lambda schedule: Plan(name=name, basis="v", order=5, rows=(row,), data_std=data_std))
