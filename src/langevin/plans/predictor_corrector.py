"""Plans whose rows depend on the state: Langevin corrections, annealed Langevin, adaptive steps, learned variances."""

from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.moves import Adaptive, Langevin, Split


def predictor_corrector(
    steps: int = 500, snr: float = 0.16, corrections: int = 1, eta: float = 1.0, grid: str | Grid = "uniform"
) -> Draft:
    """Score SDEs' predictor-corrector (2011.13456, alg. 1): at each level Langevin steps, then a step down.

    The published code corrects first, so that the last state is a denoised one. steps (1 + corrections) evaluations.

    Args:
        snr: of the Langevin steps. corrections: how many at each level. eta: 1 is the ancestral predictor, 0 the flow's.
    """
    check_steps(steps)
    if corrections < 0 or not snr > 0:
        raise ValueError(f"corrections is {corrections} and snr {snr}; give a whole number and a value above 0.")
    levels_of = named(grid)
    name = f"predictor_corrector({steps}, snr={snr:g}, corrections={corrections})"

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        for t, s in joined(levels_of(schedule, steps)):
            rows += [Langevin(start=t, stop=t, snr=snr)] * corrections
            rows.append(Row(level=t, start=t, stop=s, eta=eta))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def splitting(steps: int = 1000, snr: float = 0.2, scale: float = 1.0, grid: str | Grid = "uniform") -> Draft:
    """GDSS's S4 (2202.02514): a predictor and a corrector by one evaluation a step; see `Split`. The last step denoises.

    Args:
        snr: of the corrections. scale: of their noise.
    """
    check_steps(steps)
    if not snr >= 0 or not scale >= 0:
        raise ValueError(f"snr is {snr} and scale {scale}; give numbers that are not negative.")
    levels_of = named(grid)
    name = f"splitting({steps}, snr={snr:g}, scale={scale:g})"

    def fill(schedule: Schedule) -> Plan:
        rows: list[Row | StateRow] = []
        for t, s in joined(levels_of(schedule, steps)):
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
