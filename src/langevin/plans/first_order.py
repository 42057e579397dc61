"""First order, one evaluation a step: z_s from the bridge, with the belief's mean for x.

DDIM, DDPM, Euler in sigma and Euler-ancestral are one table; the names differ in eta and in the grid they are known for.
"""

from dataclasses import replace

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.schedule import Schedule
from langevin.plans.grids import Grid, named, natural
from langevin.plans.moves import LearnedVariance, Likeliest
from langevin.variances import towards_noise

MOST_STEPS = 100_000
"""More make no sampler better, and their table alone takes minutes."""


def check_steps(steps: int) -> None:
    """Refuse a number of steps beyond 1 .. `MOST_STEPS`. Raises ValueError."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; ask for at least 1.")
    if steps > MOST_STEPS:
        raise ValueError(f"steps is {steps}; ask for at most {MOST_STEPS}.")


def _first_order(name: str, steps: int, eta: float, grid: str | Grid) -> Draft:
    check_steps(steps)
    levels_of = named(grid)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it lies in [0, 1], 0 deterministic and 1 ancestral.")

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)
        rows = tuple(Row(level=t, start=t, stop=s, eta=eta) for t, s in joined(levels))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)


def ddim(steps: int = 50, eta: float = 0.0, grid: str | Grid = "uniform") -> Draft:
    """DDIM (2010.02502, eq. 12). eta 0 is deterministic, 1 is DDPM. `steps` evaluations."""
    return _first_order(f"ddim({steps}, eta={eta:g})", steps, eta, grid)


def ddpm(steps: int = 1000, variance: str = "small", grid: str | Grid = "uniform", end: str = "draw") -> Draft:
    """Ancestral sampling (2006.11239, alg. 2). `steps` evaluations.

    Args:
        variance: "small" is the bridge's own, exact where the data is one point (and the only one for categories); "large" is
            that of the step towards noise, exact where the data is standard normal (sec. 3.2); "belief" adds to the small one
            what the denoiser is unsure of, for denoisers whose beliefs have a variance, and is the network's own for those that
            say it (Improved DDPM, ADM; `langevin.variances`).
        end: how categories are taken from the last step: "draw", as in every other, or the "likeliest", as the published code
            of D3PM does (2107.03006), whose samples no longer have the law of the model. Points have their belief's mean.
    """
    if end not in ("draw", "likeliest"):
        raise ValueError(f"end is {end!r}; categories are a 'draw' of the last step, or its 'likeliest'.")
    if variance not in ("small", "large", "belief"):
        raise ValueError(f"variance is {variance!r}; there are 'small', 'large' and 'belief'.")
    small = _first_order(f"ddpm({steps})", steps, 1.0, grid)
    if end == "likeliest":
        if variance != "small":
            raise ValueError(f"variance is {variance!r} and end 'likeliest'; categories have the small one only, leave it out.")
        return _likeliest(small, f"ddpm({steps}, end=likeliest)")
    if variance == "small":
        return small
    name = f"ddpm({steps}, variance={variance})"

    def fill(schedule: Schedule) -> Plan:
        process, rows = Gaussian(schedule), []
        for t, s in joined(small.on(schedule).levels):
            if variance == "belief":
                rows.append(LearnedVariance(start=t, stop=s))
                continue
            x_weight, z_weight, _ = process.bridge_numbers(t, s)
            c = towards_noise(process, t, s) if s > 0 else 0.0
            rows.append(Row(level=t, start=t, stop=s, a=z_weight, mix=(x_weight,), c=c))
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def _likeliest(draft: Draft, name: str) -> Draft:
    """The same plan, whose last step draws nothing."""

    def fill(schedule: Schedule) -> Plan:
        plan = draft.on(schedule)
        return replace(plan, name=name, rows=(*plan.rows[:-1], Likeliest(start=plan.rows[-1].start, stop=plan.rows[-1].stop)))

    return Draft(name, fill)


def euler(steps: int = 30, grid: str | Grid | None = None) -> Draft:
    """Euler's method on the probability flow (2206.00364, alg. 1 without correction): DDIM's update, and on straight paths the
    step of flow matching.

    Args:
        grid: by default "karras" where t = 1 still holds signal, else "uniform" (`grids.natural`).
    """
    return _first_order(f"euler({steps})", steps, 0.0, natural(grid))


def euler_ancestral(steps: int = 30, eta: float = 1.0, grid: str | Grid | None = None) -> Draft:
    """Euler to a lower level, then noise back up: the ancestral sampler of k-diffusion, which is the bridge at `eta`; grid as
    for `euler`."""
    return _first_order(f"euler_ancestral({steps}, eta={eta:g})", steps, eta, natural(grid))
