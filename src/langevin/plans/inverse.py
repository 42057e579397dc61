"""Plans for inverse problems: RePaint's walk up and down, and steps that read a measurement (DDRM, DDNM).

What was measured comes with the belief: run `repaint` under `guidance.Replaced`, the others under `guidance.Observed`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, Row, StateRow, joined
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.grids import Grid, named
from langevin.plans.moves import Renoise


def repaint(
    steps: int = 250, jump: int = 10, resample: int = 10, eta: float = 1.0, grid: str | Grid = "uniform", clean: bool = False
) -> Draft:
    """RePaint (2201.09865, alg. 1 and app. B): down `steps` levels, and from every `jump`-th of them `jump` steps back up and
    down again, `resample` - 1 times, so that what is new and what is known come to agree.

    250 / 10 / 10 is 4570 moves: 2410 evaluations and 2160 steps of noise; places to jump from are levels 0, 10, ..., 230, where 0
    is one step above clean data.

    Args:
        jump: steps up at a time. resample: how often each stretch is walked down; 1 is plain ancestral sampling.
        eta: 1 is ancestral. clean: jump from clean data as well, as azula does with jump = 1.
    """
    check_steps(steps)
    if jump < 1 or resample < 1 or not 0 <= eta <= 1:
        raise ValueError(f"jump is {jump}, resample {resample} and eta {eta}; give whole numbers from 1, and eta in [0, 1].")
    levels_of = named(grid)
    name = f"repaint({steps}, jump={jump}, resample={resample}{', clean' if clean else ''})"

    def fill(schedule: Schedule) -> Plan:
        levels = levels_of(schedule, steps)[::-1]  # clean data first; place k of the paper is level k + 1
        left = dict.fromkeys(range(-1 if clean else 0, steps - jump, jump), resample - 1)
        rows: list[Row | StateRow] = []
        place = steps - 1
        while place >= 0:
            rows.append(Row(level=levels[place + 1], start=levels[place + 1], stop=levels[place], eta=eta))
            place -= 1
            if left.get(place, 0):
                left[place] -= 1
                rows += [Renoise(start=levels[k + 1], stop=levels[k + 2]) for k in range(place, place + jump)]
                place += jump
        return Plan(name=name, basis="x0", order=1, rows=tuple(rows))

    return Draft(name, fill)


@dataclass(frozen=True, kw_only=True)
class Restored(StateRow):
    """A step by the singular values of what was measured; see `ddrm` and `ddnm`."""

    start: float
    stop: float
    eta: float
    eta_b: float = 1.0
    rule: str = "ddrm"

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        if not (0 <= self.eta <= 1 and 0 <= self.eta_b <= 1):
            return f"has eta {self.eta:g} and eta_b {self.eta_b:g}; they lie in [0, 1]"
        return None if self.rule in ("ddrm", "ddnm") else f"has the rule {self.rule!r}; there are 'ddrm' and 'ddnm'"

    def check(self, leaf: Any) -> None:
        if not isinstance(leaf, Gaussian):
            raise ValueError(f"a restoring row moves coefficients of one Gaussian process, and the leaf is {leaf.kind}.")

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        told = getattr(belief, "measurement", None)
        if told is None:
            raise ValueError(
                "this plan reads a measurement, and the belief brings none; use guidance.Observed around the others."
            )
        s = told.operator.spectrum
        values, fresh = s.values.to(z), leaf.noise(z, noise, mask)
        measured = values > 0
        known = s.left(told.y.to(z)) / values.clamp(min=1e-30)
        spread = torch.where(measured, told.std / values.clamp(min=1e-30), 0.0)
        move = self._ddrm if self.rule == "ddrm" else self._ddnm
        return move(leaf, z, belief.mean, fresh, s, measured, known, spread)

    def _ddrm(
        self, leaf: Gaussian, z: Tensor, x: Tensor, fresh: Tensor, s: Any, measured: Tensor, known: Tensor, spread: Tensor
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha, sigma) = ([float(v) for v in leaf.schedule(t)] for t in (self.start, self.stop))
        noise, keep = sigma / alpha, (1 - self.eta**2) ** 0.5  # sigma_s in units of data
        free = x + keep * noise / sigma_t * (z - alpha_t * x) + self.eta * noise * fresh
        u, n = s.right(x), s.right(fresh)
        quiet = u + keep * noise * (known - u) / spread.clamp(min=1e-30) + self.eta * noise * n
        left = (noise**2 - (spread * self.eta_b) ** 2).clamp(min=0).sqrt()
        loud = (1 - self.eta_b) * u + self.eta_b * known + left * n
        told = torch.where(noise < spread, quiet, loud)
        return alpha * (free + s.back(torch.where(measured, told - s.right(free), 0.0)))

    def _ddnm(
        self, leaf: Gaussian, z: Tensor, x: Tensor, fresh: Tensor, s: Any, measured: Tensor, known: Tensor, spread: Tensor
    ) -> Tensor:
        weight, keep, deviation = leaf.bridge_numbers(self.start, self.stop, self.eta)
        alpha, sigma = (float(v) for v in leaf.schedule(self.stop))
        free = weight * x + keep * z + deviation * fresh
        # y's noise is the same in every step: while the noise of the next state covers it, it stands for that much of it, and
        # below y leads less and less (the published code's rule; the paper's takes it off each step's own draw, and errors of
        # one y then add up over the steps)
        covers = sigma >= alpha * spread
        loud = alpha * known + (sigma**2 - (alpha * spread) ** 2).clamp(min=0).sqrt() * s.right(fresh)
        share = sigma * (1 - self.eta**2) ** 0.5 / (alpha * spread).clamp(min=1e-30)
        u, plain = s.right(x), s.right(free)
        quiet = alpha * (u + share * (known - u)) + self.eta * sigma * s.right(fresh)
        told = torch.where(spread > 0, torch.where(covers, loud, quiet), plain + weight * (known - u))
        return free + s.back(torch.where(measured, told - plain, 0.0))


def _restoring(name: str, steps: int, grid: str | Grid, **settings: Any) -> Draft:
    check_steps(steps)
    levels_of = named(grid)

    def fill(schedule: Schedule) -> Plan:
        rows = tuple(Restored(start=t, stop=s, **settings) for t, s in joined(levels_of(schedule, steps)))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)


def ddrm(steps: int = 20, eta: float = 0.85, eta_b: float = 1.0, grid: str | Grid = "uniform") -> Draft:
    """DDRM (2201.11793, eq. 7 and 8), under `guidance.Observed`: coefficients that y knows better than the state are drawn around
    y, those it knows worse are led towards it, those it does not know move by DDIM with their own eta."""
    return _restoring(f"ddrm({steps}, eta={eta:g}, eta_b={eta_b:g})", steps, grid, eta=eta, eta_b=eta_b, rule="ddrm")


def ddnm(steps: int = 100, eta: float = 0.85, grid: str | Grid = "uniform") -> Draft:
    """DDNM+ (2212.00490, sec. 3.3), under `guidance.Observed`: states take the measured part of y as long as their noise covers
    that of y, which stands for part of it; below, beliefs are led towards y, less and less, by steps of this eta (at eta 1 not
    at all). Without noise in y it is `guidance.Known` under ddim(steps, eta)."""
    return _restoring(f"ddnm({steps}, eta={eta:g})", steps, grid, eta=eta, rule="ddnm")
