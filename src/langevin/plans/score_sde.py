"""The samplers that score SDEs were published with, as tables (2011.13456; read in score_sde_pytorch and diffusers 0.42.1).

N levels, t = 1 down to `lowest` in equal steps; at each Langevin steps, then a predictor. With the score s, standard normal n,
beta = -2 alpha'/alpha and g^2 of the schedule, and beta_i = beta(i / (N - 1)) / N, the published predictors are

    reverse_diffusion   VP      z <- (2 - sqrt(1 - beta_i)) z + beta_i s + sqrt(beta_i) n             (eq. 46, 47)
                        sub-VP  as euler_maruyama
                        VE      z <- z + (sigma_i^2 - sigma_(i-1)^2) s + sqrt(sigma_i^2 - sigma_(i-1)^2) n
    ancestral           VP      z <- (z + beta_i s) / sqrt(1 - beta_i) + sqrt(beta_i) n               (eq. 4)
                        VE      reverse_diffusion's, with less noise: times sigma_(i-1) / sigma_i     (app. F)
    euler_maruyama              z <- z + (beta / 2 z + g^2 s) / N + g / sqrt(N) n                     (eq. 6)

and a Langevin step of size e is z <- z + e s + sqrt(2 e) n, e = 2 (1 - beta_i) (snr |n| / |s|)^2 (alg. 4 and 5), or
2 (1 - beta_i) (snr sigma)^2 ("ald"). VE has no beta_i.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from langevin.core.plan import Draft, Plan, Row, StateRow
from langevin.core.schedule import Schedule
from langevin.plans.corrections import Langevin
from langevin.plans.first_order import check_steps
from langevin.plans.grids import given
from langevin.plans.moves import Clipped
from langevin.plans.predictor_corrector import PREDICTORS, predictor_corrector
from langevin.plans.profiles.tables import levels_of

CORRECTORS = ("langevin", "ald")


@dataclasses.dataclass(frozen=True)
class _Step:
    """z <- a z + part s + noise n from the level `at`, where the network is told `told`; `factor` is that of Langevin steps."""

    at: float
    told: float
    a: float
    part: float
    noise: float
    factor: float = 1.0


def score_sde(
    steps: int = 2000,
    snr: float = 0.15,
    corrections: int = 1,
    lowest: float = 0.0,
    sigmas: tuple[float, float] | None = None,
    reference: bool = False,
    predictor: str = "reverse_diffusion",
    corrector: str = "langevin",
    denoise: bool = True,
) -> Draft:
    """Score SDEs' predictor-corrector on their own levels, for `schedules.vp_linear()`, `sub_vp()`, `ve()`, or `edm(sigma_max)`,
    whose time is sigma. Published runs of DDPM++ take 1000 steps of euler_maruyama and no corrections; of NCSN++ 1000 or 2000 of
    reverse_diffusion with one.

    Args:
        steps: N; N (1 + corrections) evaluations.
        snr: of the Langevin steps. corrections: how many at each level, 0 for none.
        lowest: the last level; by default 1e-5 for VE, with `reference`, and 1e-3 else.
        sigmas: of VE, the smallest and the largest; by default the schedule's.
        reference: as shipped, number for number. Then the Langevin step is one for the batch, by mean norms; steps are 1/N wide
            whatever the levels are; the last one is the predictor's without its noise; and of VE the network is told
            sigma_min ratio^t beside the sigmas that are stepped between. By default each sample is to itself, steps go from level
            to level, and the last is the belief (Tweedie). `ancestral` is then the bridge.
        predictor: "reverse_diffusion", "ancestral" (not of sub-VP), or "euler_maruyama".
        corrector: "langevin", or "ald", annealed Langevin, whose step is in units of the level's variance.
        denoise: False keeps the noise of the last step, with `reference`. The published inpainting and colouring return that
            under any setting, as they take the mean of what is noisy already.

    Raises:
        ValueError: for other words, for a schedule that is none of these or has no use for a setting, and, with `reference`, for
            so few steps that a beta_i would be 1 or more.
    """
    check_steps(steps)
    if corrections < 0 or not snr > 0:
        raise ValueError(f"corrections is {corrections} and snr {snr}; give a whole number and a value above 0.")
    if predictor not in PREDICTORS:
        raise ValueError(f"predictor is {predictor!r}; there are {', '.join(PREDICTORS)}.")
    if corrector not in CORRECTORS:
        raise ValueError(f"corrector is {corrector!r}; there are {', '.join(CORRECTORS)}, and corrections=0 for none.")
    if not denoise and not reference:
        raise ValueError("denoise is False, which is how published code ends; give reference=True with it.")
    if not 0 <= lowest < 1:
        raise ValueError(f"lowest is {lowest:g}; it is the last level, above 0 and below 1, or 0 for the published one.")
    told = "" if predictor == "reverse_diffusion" else f", {predictor}"
    name = f"score_sde({steps}, snr={snr:g}{told})"

    def fill(schedule: Schedule) -> Plan:
        kind = kind_of(schedule, name)
        if kind == "sub_vp" and predictor == "ancestral":
            raise ValueError("the paper has no ancestral predictor of sub-VP processes; use reverse_diffusion, or the bridge of "
                             "plans.predictor_corrector.")  # fmt: skip
        if sigmas is not None and kind != "ve":
            raise ValueError(f"sigmas is {sigmas}, which VE alone has, and the schedule is {schedule}; leave it out.")
        if lowest and kind == "ve" and not reference:
            raise ValueError(
                f"lowest is {lowest:g}, and steps from level to level of VE end at the smallest of sigmas; give that."
            )
        end = lowest or (1e-5 if kind == "ve" else 1e-3)
        high, low = (math.exp(-lam / 2) for lam in schedule.lam_range)
        low, high = sigmas or (low, high)

        def correct(begin: float, factor: float, shown: float | None = None) -> Langevin:
            size = 2 * factor * snr**2 if corrector == "ald" else None
            return Langevin(start=begin, stop=begin, snr=snr, size=size, shown=shown, together=reference, factor=factor)

        if not reference:
            levels = np.linspace(1.0, end, steps).tolist()
            if kind == "ve":
                levels = levels_of(schedule, np.exp(np.linspace(math.log(high), math.log(low), steps)), name)
            signal = [float(schedule(t)[0]) for t in [*levels, 0.0]]
            factors = {t: (a / b) ** 2 for t, a, b in zip(levels, signal, signal[1:], strict=False)}  # 1 - beta_i
            plain = predictor_corrector(steps, snr, corrections, grid=given([*levels, 0.0]), predictor=predictor).on(schedule)
            mended = [correct(r.start, factors[r.start]) if isinstance(r, Langevin) else r for r in plain.rows]
            return dataclasses.replace(plain, name=name, rows=tuple(mended))
        made = (
            _exploding(schedule, name, steps, end, low, high, predictor)
            if kind == "ve"
            else _preserving(schedule, kind, steps, end, predictor)
        )
        rows: list[Row | StateRow] = []
        begin = made[0].at
        for i, step in enumerate(made):
            rows += [correct(begin, step.factor, None if step.told == begin else step.told)] * corrections
            last = i == steps - 1
            alpha, sigma = (float(v) for v in schedule(step.told))
            stop, c = 0.0 if last else made[i + 1].at, 0.0 if last and denoise else step.noise
            a, w = step.a - step.part / sigma**2, step.part * alpha / sigma**2
            if step.told == begin:
                rows.append(Row(level=begin, start=begin, stop=stop, a=a, mix=(w,), c=c))
            else:  # the score is that of the level told
                rows.append(Clipped(start=begin, stop=stop, a=a, w=0.0, u=w, c=c, shown=step.told, bound=None))
            begin = rows[-1].stop
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


def kind_of(schedule: Schedule, name: str) -> str:
    """ "vp", "sub_vp" or "ve".

    Raises:
        ValueError: for another schedule.
    """
    if schedule.scale in ("vp", "ve"):
        return schedule.scale
    alpha, sigma = (float(v) for v in schedule(0.3))
    if abs(sigma - (1 - alpha**2)) < 1e-9:
        return "sub_vp"
    raise ValueError(f"{name} is of VP, sub-VP and VE processes, and the schedule is {schedule}; use predictor_corrector.")


def _places(times: Any) -> list[int]:
    """Of the tables, which the published code looks up by a time in float32."""
    return [int(float(np.float32(t)) * (len(times) - 1)) for t in times]


def _preserving(schedule: Schedule, kind: str, steps: int, lowest: float, predictor: str) -> list[_Step]:
    def rates(at: Any) -> tuple[Any, Any]:
        """(beta, g^2)."""
        t = torch.tensor(at, dtype=torch.float64)
        (alpha, sigma), (alpha_rate, sigma_rate) = schedule(t), schedule.rates(t)
        drift = alpha_rate / alpha
        return (-2 * drift).numpy(), (2 * sigma * (sigma_rate - drift * sigma)).numpy()

    times = np.linspace(1.0, lowest, steps)
    if not bool(schedule(1.0)[0] > 0):
        raise ValueError(f"schedule {schedule} has no signal at level 1, and its beta is infinite there; use vp_linear.")
    width = 1 / steps
    beta, squared = rates(times)
    table = rates(np.array(_places(times)) / max(steps - 1, 1))[0] * width
    if table.max() > 1 - 1e-9:
        least = math.ceil(table.max() * steps - 1e-6) + 1
        raise ValueError(f"steps is {steps}, of which the first has beta_i = {table.max():.3g}; give {least} at least.")
    made = []
    for t, b, g2, b_i in zip(times.tolist(), beta, squared, table, strict=True):
        shrunk = math.sqrt(1 - b_i)
        of_table = kind == "vp" and predictor != "euler_maruyama"
        a, part = (2 - shrunk if of_table else 1 + b * width / 2), (b_i if of_table else g2 * width)
        noise = math.sqrt(part)
        if predictor == "ancestral":
            a, part = 1 / shrunk, b_i / shrunk
        made.append(_Step(t, t, a, part, noise, 1 - b_i))
    return made


def _exploding(schedule: Schedule, name: str, steps: int, lowest: float, low: float, high: float, predictor: str) -> list[_Step]:
    ratio = math.log(high / low)
    times = np.linspace(1.0, lowest, steps)
    told, table = low * np.exp(ratio * times), np.exp(np.linspace(math.log(low), math.log(high), steps))
    places = _places(times)
    if len(set(places)) < steps:
        raise ValueError(f"lowest is {lowest:g}, with which two of {steps} steps have one sigma; give 1e-5.")
    now = table[places]
    below = np.array([table[p - 1] if p > 0 else 0.0 for p in places])
    at = levels_of(schedule, now, name)
    shown = levels_of(schedule, told, name)
    part = now**2 - below**2
    noise = np.sqrt(part) * (below / now if predictor == "ancestral" else 1.0)
    if predictor == "euler_maruyama":
        part = 2 * ratio * told**2 / steps
        noise = np.sqrt(part)
    return [_Step(t, u, 1.0, float(p), float(n)) for t, u, p, n in zip(at, shown, part, noise, strict=True)]
