"""`auto`: the plan that errs least beside published solvers, found by trying plans on the model itself."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Shape
from langevin.core.plan import Draft, Plan, Row, joined
from langevin.core.sample import Guidance
from langevin.core.schedule import Schedule
from langevin.plans.choice import BATCH, TIMESTEPS, Method, Starts, Trial
from langevin.plans.first_order import ddim
from langevin.plans.grids import Grid, given, karras, leading, linspace, log_snr, shows_signal, uniform
from langevin.plans.multistep import multistep
from langevin.plans.runge_kutta import heun3, midpoint, rk4

MODES, REACHES = 4, ((0.4, 4), (0.2, 2), (0.1, 1), (0.05, 1))
"""Waves in which levels and strengths are moved; how far in each sweep, in half the log-SNR and in strength, and of how many
plans."""


def published(steps: int, schedule: Schedule) -> list[Draft]:
    """Solvers as they are published and shipped, on the grids they are used with: what a plan has to beat by any measure.

    Those on noise, and grids in log-SNR, are left out where t = 1 holds no signal, as are single steps of more evaluations than
    there are.
    """
    visible, floor = shows_signal(schedule), schedule.floor
    grids: dict[str, Grid] = {"uniform": uniform(), **({"linspace": linspace()} if steps < TIMESTEPS else {})}
    if visible:
        grids |= {"karras": karras(), "log_snr": log_snr()}
    walked = ("karras", karras(stop=floor)) if schedule.scale == "ve" else ("uniform", uniform(stop=floor))
    out: list[Draft] = []
    for order in (2, 3):
        for grid, made in grids.items():  # DPM-Solver++ and UniPC, which leap to clean data in the end
            for corrector in (False, True):
                method = partial(multistep, steps, "x0", "lam", order, corrector, 1)
                out.append(Method.of(method, made, f"x0/lam order {order}{', corrected' if corrector else ''}, {grid}"))
        # azula's, which walk its own time, and DEIS: they stop at the schedule's floor
        kinds = [("x0", "lam", walked), ("v", "angle", walked)]
        kinds += [("eps", "lam", walked), ("eps", "lam", ("karras", karras(stop=floor)))] if visible else []
        for basis, variable, (grid, made) in kinds:
            method = partial(multistep, steps, basis, variable, order)
            out.append(Method.of(method, made, f"{basis}/{variable} order {order}, {grid} to the floor"))
    if visible:
        out.append(Method.of(partial(multistep, steps, "eps", "sigma", 4), "karras", "eps/sigma order 4, karras"))
    single = ((midpoint, steps // 2), (heun3, steps // 3), (rk4, (steps + 3) // 4))
    out += [make(count) for make, count in single if count > 1]
    return out + ([ddim(steps, grid=leading())] if steps <= TIMESTEPS else [])  # as Stable Diffusion shipped


@dataclass(frozen=True)
class Yardstick:
    """The least errors of published solvers on the same starts, by each measure; no one solver has both."""

    rms: float
    median: float

    @staticmethod
    def of(trials: Sequence[Trial]) -> "Yardstick":
        sound = [t for t in trials if math.isfinite(t.rms)]
        if not sound:
            raise ValueError("no plan that was tried gives finite samples; look at the model's own.")
        return Yardstick(min(t.rms for t in sound), min(t.median for t in sound))

    def regret(self, trial: Trial) -> float:
        """How far the error lies above the least published, as a logarithm: that of the measure in which it does so more. A tenth
        of their mean decides among plans that are equal in that.

        Few steps trade samples that end elsewhere, which rule the RMS, for errors of typical ones, the median. A weighted sum
        of both gives up one of them where the other has much to gain; this gives up neither.
        """
        if not math.isfinite(trial.rms):
            return math.inf
        by = [math.log(max(e, 1e-12) / max(least, 1e-12)) for e, least in ((trial.rms, self.rms), (trial.median, self.median))]
        return max(by) + 0.1 * sum(by) / 2


@torch.no_grad()  # schedules may be learned
def auto(
    denoiser: BaseDenoiser,
    steps: int,
    *,
    cond: Cond = None,
    guidance: Guidance | None = None,
    shape: Shape | None = None,
    start: Tensor | None = None,
    count: int = 512,
    seed: int = 1_000_003,
    batch: int = BATCH,
    plans: Sequence[Draft | Plan] | None = None,
) -> Trial:
    """Try ready-made plans on the model itself, move what is best of them, and keep the best at so many evaluations.

    Args:
        cond: conditions of the starts, `count` each. guidance: as in `sample`; the answer is for this guidance.
        start: states at level 1 to try on; drawn from the prior by default.
        batch: starts evaluated at once; half as many where memory is short.
        plans: the candidates, whose levels are left as they are; by default `published(steps, schedule)`,
            `candidates(steps)`, and two on levels that are placed on the model.

    Plans are judged by `Yardstick.regret`: beside the best published solver by RMS and the best by median, by the worse of both.
    All are tried on a quarter of the starts, the best on all.
    """
    starts = Starts.of(denoiser, count if start is None else len(start), seed, cond, guidance, shape, start, batch=batch)
    if plans is not None:
        return ranked(starts, plans, len(plans))[1][0][0]
    known = published(steps, denoiser.process.leaves()[""].schedule)
    yardstick, tried = ranked(starts, [*known, *starts.candidates(steps)], len(known))
    ours = [(trial, draft.on_grid) for trial, draft in tried if isinstance(draft, Method)]
    # from the best by both errors, by the median alone and by the RMS alone: they lie in different valleys
    sorts: list[Callable[[Trial], float]] = [yardstick.regret, lambda t: t.median, lambda t: t.rms]
    picked = [sorted(ours, key=lambda pair: sorts[i % 3](pair[0]))[i // 3] for i in range(min(REACHES[0][1], len(ours)))]
    distinct = {trial.plan.name: (trial, on_grid) for trial, on_grid in picked}.values()
    moved = [Moved(starts, *pair, yardstick) for pair in distinct]
    for reach, kept in REACHES:
        moved = sorted(moved, key=lambda plan: plan.regret)[:kept]
        for plan in moved:
            plan.sweep(reach)
    return min([tried[0][0], *(plan.trial for plan in moved)], key=yardstick.regret)


def ranked(starts: Starts, plans: Sequence[Draft | Plan], known: int) -> tuple[Yardstick, list[tuple[Trial, Draft | Plan]]]:
    """The least errors of the first `known` plans, and of all plans those that do well on a quarter of the starts, each with its
    error on all of them, best first."""
    few = starts.part(0, max(len(starts.start) // 4, min(32, len(starts.start))))
    first = [few.trial(plan) for plan in plans]
    rough = Yardstick.of(first[:known])
    order = sorted(range(len(first)), key=lambda i: rough.regret(first[i]))
    kept = set(order[: max(len(first) // 6, min(8, len(first)))])
    marks: set[int] = set()
    for measure in (lambda i: first[i].rms, lambda i: first[i].median):
        sound = [i for i in range(known) if math.isfinite(first[i].rms)]
        marks |= set(sorted(sound, key=measure)[:3])
    whole = {i: starts.trial(first[i].plan) for i in sorted(kept | marks)}
    yardstick = Yardstick.of([whole[i] for i in sorted(marks)])
    return yardstick, [(whole[i], plans[i]) for i in sorted(whole, key=lambda i: yardstick.regret(whole[i]))]


class Moved:
    """A plan that errs less and less, as `trial` (pattern search): its levels and the strengths of `strengthened` are moved by
    slow waves over the steps. The first and the last level stay."""

    def __init__(self, starts: Starts, trial: Trial, on_grid: Callable[[Grid], Draft], yardstick: Yardstick) -> None:
        self.starts, self.trial, self.on_grid, self.yardstick = starts, trial, on_grid, yardstick
        self.schedule = starts.denoiser.process.leaves()[""].schedule
        self.first, *between, self.last = trial.plan.levels
        self.lams = self.schedule.lam(torch.tensor(between, dtype=torch.float64))
        anchored = [row.anchored for row in trial.plan.rows if _extrapolates(row)]
        self.waves = [_waves(count) for count in (len(between), anchored.count(False), anchored.count(True))]
        self.numbers = torch.zeros(sum(map(len, self.waves)), dtype=torch.float64)

    @property
    def regret(self) -> float:
        return self.yardstick.regret(self.trial)

    def sweep(self, reach: float) -> None:
        """Every number to and fro, by so much, for as long as it helps."""
        for place in range(len(self.numbers)):
            if not self._went(place, reach):
                self._went(place, -reach)

    def _went(self, place: int, way: float) -> bool:
        found = False
        while True:
            further = self.numbers.clone()
            further[place] += way
            new = self._at(further)
            if new is None or not self.yardstick.regret(new) < self.regret:
                return found
            self.trial, self.numbers, found = new, further, True

    def _at(self, numbers: Tensor) -> Trial | None:
        parts = numbers.split([len(wave) for wave in self.waves])
        further, predictors, correctors = (part @ wave for part, wave in zip(parts, self.waves, strict=True))
        asked = [self.first, *self.schedule.invert(self.lams + 2 * further).tolist(), self.last]
        if any(a - b < 1e-9 for a, b in joined(asked)):
            return None
        plan = self.on_grid(given(asked)).on(self.schedule)
        return self.starts.trial(strengthened(plan, (1 + predictors).tolist(), (1 + correctors).tolist()))


def _waves(count: int) -> Tensor:
    """(up to MODES, count): cosines over so many steps, slowest first."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1)
    return torch.cos(math.pi * torch.arange(min(MODES, count), dtype=torch.float64)[:, None] * places)


def _extrapolates(row: object) -> TypeGuard[Row]:
    return isinstance(row, Row) and len(row.mix) > 1


def strengthened(plan: Plan, predictors: Sequence[float], correctors: Sequence[float]) -> Plan:
    """A multistep plan whose steps use earlier evaluations so much: 0 is a step by one evaluation, 1 the plan's own polynomials.

    Args:
        predictors: of each step from the state that has earlier evaluations to use; correctors: of each of those from the anchor,
            by the evaluation at their end.
    """
    strengths, rows = {False: iter(predictors), True: iter(correctors)}, []
    for row in plan.rows:
        if _extrapolates(row):
            strength, alone = next(strengths[row.anchored]), 1 if row.anchored else 0
            whole = sum(row.mix)
            mix = tuple(strength * w + (1 - strength) * whole * (i == alone) for i, w in enumerate(row.mix))
            row = dataclasses.replace(row, mix=mix)
        rows.append(row)
    whole_use = all(strength == 1 for strength in (*predictors, *correctors))
    return dataclasses.replace(plan, rows=tuple(rows), order=plan.order if whole_use else 1)
