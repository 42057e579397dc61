"""diffusers' solvers in log-SNR (DPM-Solver, DPM-Solver++, DEIS, UniPC), by the settings that a scheduler_config.json has."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan, Row, StateRow
from langevin.core.schedule import Schedule
from langevin.plans.grids import Grid
from langevin.plans.moves import FreshNoise
from langevin.plans.multistep import multistep, papers_second_order, rounded
from langevin.plans.profiles.tables import known

FEW = 15
"""Below so many steps diffusers lowers the order of the last ones (`lower_order_final`)."""
MOST = {"multistep": 3, "singlestep": 3, "deis": 3, "unipc": 6}
"""The highest order of each family."""


@dataclass(frozen=True)
class Solver:
    """A solver and its settings.

    Args:
        family: "multistep" (DPMSolverMultistep), "singlestep" (DPMSolverSinglestep), "deis" or "unipc".
        order: `solver_order`.
        basis: what is extrapolated: "x0" (dpmsolver++, `predict_x0`) or "eps" (dpmsolver, DEIS).
        sde: with fresh noise (the types that begin with sde-); "multistep", and "singlestep" on data.
        solver_type: of second order, the slope at the middle of a step ("midpoint") or over it ("heun"); of UniPC "bh1" or "bh2".
        lower_order_final: whether the last steps have a lower order: below 15 steps, of UniPC always.
        euler_at_final: whether the last step is of order 1 in any case.
        disable_corrector: steps from 0 that UniPC does not correct.
    """

    family: str
    order: int = 2
    basis: str = "x0"
    sde: bool = False
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    disable_corrector: tuple[int, ...] = ()

    def problem(self) -> str | None:
        """What is wrong with the settings."""
        most = 2 if self.sde and self.basis == "eps" else MOST[self.family]
        if not 1 <= self.order <= most:
            return f"order is {self.order}; it is 1 to {most} of {self.family}{' on noise, with fresh noise' if self.sde else ''}"
        if self.family == "deis" and self.basis != "eps":
            return "algorithm is 'data_prediction'; deis extrapolates noise"
        types = {"unipc": ("bh1", "bh2"), "deis": ("logrho",)}.get(self.family, ("midpoint", "heun"))
        if self.solver_type not in types:
            return f"solver_type is {self.solver_type!r}; {self.family} has {' and '.join(map(repr, types))}"
        if self.sde and (self.family in ("deis", "unipc") or (self.family == "singlestep" and self.basis == "eps")):
            return f"{self.family} on {self.basis} has no fresh noise; take 'multistep', or 'singlestep' on data"
        if self.euler_at_final and self.family != "multistep":
            return f"euler_at_final is true; {self.family} has none"
        if self.disable_corrector and self.family != "unipc":
            return f"disable_corrector is {list(self.disable_corrector)}; {self.family} corrects nothing"
        return None

    def draft(
        self,
        steps: int,
        grid: Grid,
        asked: int | None = None,
        repeated: bool = False,
        reference: bool = True,
        to_zero: bool = True,
    ) -> Draft:
        """The plan of `steps` evaluations on `grid`.

        Args:
            asked: steps that were asked for, where the grid begins late and has fewer.
            repeated: whether the peer has one more, of size zero, which is left out; of UniPC it corrects the step before.
            reference: with the peer's slips, or with exact weights.
            to_zero: whether the grid ends at clean data.
        """
        if said := self.problem():
            raise ValueError(f"{said}.")
        whole = steps + repeated if asked is None else asked
        if self.family == "singlestep":
            return _singlestep(self, steps, grid, whole, repeated, to_zero, reference)
        few, end = self.lower_order_final and whole < FEW, steps + repeated
        if self.family == "unipc":
            skipped = {i - (whole - end) for i in self.disable_corrector}
            exact = multistep(
                steps, self.basis, "lam", self.order, True, grid=grid, closing=repeated, uncorrected=skipped,
                limit=falling(end) if self.lower_order_final else None,
            )  # fmt: skip
            return Draft(f"unipc({steps})", lambda schedule: rounded(exact.on(schedule), schedule, self.solver_type))

        def limit(i: int) -> int:
            if i == end - 1 and (few or self.euler_at_final):
                return 1
            return 2 if i == end - 2 and few else self.order

        exact = multistep(steps, self.basis, "lam", self.order, tau=float(self.sde), grid=grid, limit=limit)

        def fill(schedule: Schedule) -> Plan:
            plan = exact.on(schedule)
            if self.solver_type == "midpoint" and (reference or self.order == 2):
                plan = papers_second_order(plan, schedule)
            if self.order == 3 and reference and self.family != "deis":
                plan = lacking(plan, schedule, 1.0 + self.sde, self.sde)
            return plan

        return Draft(f"{self.family}({steps}, order={self.order})", fill)


NAMED: dict[str, Solver] = {
    "dpmpp_2m": Solver("multistep"),
    "dpmpp_3m": Solver("multistep", 3),
    "sde_dpmpp_2m": Solver("multistep", sde=True),
    "dpmpp_2s": Solver("singlestep", lower_order_final=False),
    "sde_dpmpp_2s": Solver("singlestep", sde=True, lower_order_final=False),
    "unipc": Solver("unipc", solver_type="bh2"),
    "unipc_3": Solver("unipc", 3, solver_type="bh2"),
    "unipc_bh1": Solver("unipc", solver_type="bh1"),
    "unipc_3_bh1": Solver("unipc", 3, solver_type="bh1"),
    "deis": Solver("deis", basis="eps", solver_type="logrho"),
}
"""Solvers by name, with the settings that each is known for."""


BASES = {"data_prediction": "x0", "noise_prediction": "eps"}
"""The bases by the names that peers have for them (`algorithm`)."""


def chosen(
    sampler: str,
    algorithm: str | None = None,
    order: int | None = None,
    solver_type: str | None = None,
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    disable_corrector: str | Sequence[int] = (),
) -> Solver | None:
    """The solver of a name, with settings of its own where they are said; None for samplers that are none.

    Args:
        disable_corrector: steps, or as a word "0 1 2".

    Raises:
        ValueError: for settings that the sampler does not have.
    """
    if algorithm is not None:
        known(algorithm, list(BASES), "algorithm")
    if isinstance(disable_corrector, str):
        if not all(word.isdecimal() for word in disable_corrector.split()):
            raise ValueError(f"disable_corrector is {disable_corrector!r}; give steps counted from 0, such as '0 1 2'.")
        disable_corrector = [int(word) for word in disable_corrector.split()]
    settings = {
        "basis": BASES.get(algorithm or ""), "order": order, "solver_type": solver_type, "lower_order_final": lower_order_final,
        "euler_at_final": euler_at_final or None, "disable_corrector": tuple(disable_corrector) or None,
    }  # fmt: skip
    said: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    if sampler in NAMED:
        solver = dataclasses.replace(NAMED[sampler], **said)
        if wrong := solver.problem():
            raise ValueError(f"{wrong} (sampler {sampler!r}).")
        return solver
    if wrong := next((key for key in said if sampler != "sa_solver" or key not in ("basis", "lower_order_final")), None):
        what = "algorithm" if wrong == "basis" else wrong
        raise ValueError(f"sampler {sampler!r} has no {what}; leave it out, or choose one of {', '.join(NAMED)}.")
    return None


def falling(end: int) -> Callable[[int], int]:
    """The limit of orders that fall to 3, 2, 1 towards step `end` - 1."""
    return lambda i: end - i


def shares(h: float, basis: str, rate: float = 1.0) -> tuple[float, float]:
    """What a first and half a second difference over a step of h in log(alpha/sigma) count, in units of the step's own weight;
    the second as published, which is right where a factor 2 stands before it. `rate` is 1 + tau^2 of a step with noise."""
    k = h if basis == "eps" else -rate * h
    grown = math.expm1(k)
    return (grown / k - 1) / grown, ((grown - k) / k**2 - 0.5) / grown


def lacking(plan: Plan, schedule: Schedule, rate: float, flipped: bool = False) -> Plan:
    """Rows of three evaluations with half of their second difference, as diffusers and k-diffusion have them, so that the order
    is below 3.

    Args:
        rate: 1 + tau^2.
        flipped: with the sign that diffusers' sde-dpmsolver++ has within the difference's weight.
    """
    half = [float(v) / 2 for v in schedule.lam(torch.tensor(plan.levels, dtype=torch.float64))]
    rows = []
    for i, row in enumerate(plan.rows):
        if len(row.mix) == 3:
            h = half[i + 1] - half[i]
            near, far = (half[i] - half[i - 1]) / h, (half[i - 1] - half[i - 2]) / h
            slope, bend = shares(h, plan.basis, rate)
            if flipped:
                bend += 1 / math.expm1(-rate * h)
            # weights of the two neighbouring differences
            p = (slope * (1 + near / (near + far)) + bend / (near + far)) / near
            q = -(slope * near + bend) / (near + far) / far
            row = dataclasses.replace(plain(row), mix=(1 + p, q - p, -q))
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows))


def plain(row: Any) -> Row:
    """A row of a plan that has no other kind."""
    assert isinstance(row, Row)
    return row


def _orders(steps: int, order: int, lower: bool, to_zero: bool) -> list[int]:
    """DPMSolverSinglestep's orders, evaluation by evaluation: 1, 2, 3, 1, 2, 3, ..."""
    lower = lower or steps % order > 0 or to_zero
    orders = [i % order + 1 for i in range(steps)]
    if to_zero or (lower and steps % order == 0):
        orders[-1] = 1
    return orders


def _singlestep(solver: Solver, steps: int, grid: Grid, whole: int, repeated: bool, to_zero: bool, reference: bool) -> Draft:
    """DPM-Solver 1 to 3, single step: every evaluation is at a level of the grid, which is then the middle of a step. With noise
    each stage draws its own, as in diffusers."""
    end = steps + repeated
    orders = _orders(whole, solver.order, solver.lower_order_final, to_zero)[whole - end :]
    name = f"singlestep({steps}, order={solver.order})"

    def fill(schedule: Schedule) -> Plan:
        levels = grid(schedule, steps)
        levels = [*levels, levels[-1]] if repeated else levels
        half = [float(v) / 2 for v in schedule.lam(torch.tensor(levels, dtype=torch.float64))]
        rows: list[Row | StateRow] = []
        order, process = 0, Gaussian(schedule)
        for i, wanted in enumerate(orders):
            order = min(wanted, order + 1)  # a grid that begins late begins with order 1
            begun = i + 1 - order
            if order == 1 and levels[i] == levels[i + 1]:
                continue
            mix = _weights(solver, order, [v - half[begun] for v in half[begun + 1 : i + 2]], reference)
            ends = {"start": levels[begun], "stop": levels[i + 1]}
            if order == 1 or not solver.sde:
                rows.append(Row(level=levels[i], **ends, mix=mix, anchored=order > 1, eta=float(solver.sde)))
                continue
            x_weight, z_weight, c = process.bridge_numbers(levels[begun], levels[i + 1], 1.0)
            rows.append(Row(level=levels[i], **ends, mix=tuple(x_weight * w for w in mix), anchored=True, a=z_weight))
            rows.append(FreshNoise(**ends, c=c))
        return Plan(name=name, basis=solver.basis, order=solver.order, rows=tuple(rows))

    return Draft(name, fill)


def _weights(solver: Solver, order: int, ways: list[float], reference: bool) -> tuple[float, ...]:
    """Of a step from the anchor, newest first; `ways` in log(alpha/sigma) to the evaluations after it, and to the step's end.
    With noise the peer's second difference has a sign wrong, as its multistep solver's (`lacking`): with `reference` here too."""
    if order == 1:
        return (1.0,)
    h, last = ways[-1], ways[-2] / ways[-1]
    slope, bend = shares(h, solver.basis, 1.0 + solver.sde)
    if solver.sde and reference:
        bend += 1 / math.expm1(-2 * h)
    if solver.solver_type == "heun" and order == 3:  # the parabola through both differences
        middle = ways[0] / h
        p, q = (2 * bend - slope * middle) / (last - middle) / last, (slope * last - 2 * bend) / (last - middle) / middle
        return p, q, 1 - p - q
    slope = 0.5 if solver.solver_type == "midpoint" and order == 2 else slope
    return (slope / last, *[0.0] * (order - 2), 1 - slope / last)
