"""Plans: a sampler is a table of numbers, one row per network evaluation.

A row evaluates the network at the current state, mixes this evaluation with earlier ones, and moves from level `start`
to level `stop`. Most rows start where the state is; a corrector row (Heun, Runge-Kutta) starts again from the anchor,
the state before the last row that moved on. Evaluations are kept in the plan's basis:

    "x0"        beliefs about clean data (DDIM, DDPM, DPM-Solver++); for categories, their logits
    "eps"       beliefs about the noise (Heun in sigma)
    "velocity"  dz/dt of the probability flow (Euler and Runge-Kutta for flows)

A `Plan` is a value with its levels written out. A `Draft` is what `langevin.plans.dpmpp(20)` returns: it fills the
table once it meets a process, since levels and weights follow from the schedule.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langevin.core.schedule import Schedule

BASES = ("x0", "eps", "velocity")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation and one move.

    Args:
        level: where the network is evaluated, the level of the current state.
        start: level of the state the move starts from (`level`, or the anchor's).
        stop: level the move ends at, below `start`.
        mix: weights of this evaluation and the earlier ones, newest first, summing to 1.
        eta: how much of the removed noise is drawn afresh: 0 none (deterministic), 1 all (ancestral). Multiplies
            the standard deviation.
        anchored: start from the anchor rather than from the current state.
    """

    level: float
    start: float
    stop: float
    mix: tuple[float, ...] = (1.0,)
    eta: float = 0.0
    anchored: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A table of rows.

    Args:
        name: what it is called, with its arguments.
        basis: "x0", "eps" or "velocity".
        order: the order of convergence it claims (of the probability flow for eta = 0; weak for eta > 0).
        rows: the table.

    Raises:
        ValueError: if the rows do not join into one descent, or their weights do not sum to 1.
    """

    name: str
    basis: str
    order: int
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ValueError(f"basis is {self.basis!r}; a plan keeps its evaluations as one of {', '.join(BASES)}.")
        if not self.rows:
            raise ValueError(f"plan {self.name} has no rows; ask for at least 1 step.")
        state, anchor = self.rows[0].start, self.rows[0].start
        for i, row in enumerate(self.rows):
            if row.level != state or row.start != (anchor if row.anchored else state):
                raise ValueError(
                    f"row {i} of {self.name} is evaluated at {row.level:g} from {row.start:g}, but the "
                    f"state stands at {state:g} (anchor {anchor:g}); let each row begin where the last ended."
                )
            if not 0 <= row.stop < row.start <= 1:
                raise ValueError(f"row {i} of {self.name} goes from {row.start:g} to {row.stop:g}; levels fall within [0, 1].")
            if not abs(sum(row.mix) - 1) <= 1e-9 or len(row.mix) > i + 1:
                raise ValueError(
                    f"row {i} of {self.name} mixes {len(row.mix)} evaluations with weights summing to "
                    f"{sum(row.mix):g}; use at most the {i + 1} made so far, summing to 1."
                )
            if not 0 <= row.eta <= 1:
                raise ValueError(f"row {i} of {self.name} has eta {row.eta:g}; eta lies in [0, 1].")
            state, anchor = row.stop, (anchor if row.anchored else row.start)

    @property
    def nfe(self) -> int:
        """Network evaluations: one per row (a guided one counts once, it is one batched call)."""
        return len(self.rows)

    @property
    def levels(self) -> list[float]:
        """The levels the state rests at, first to last (predictors of a corrected step left out)."""
        kept = [r.stop for r, after in zip(self.rows, [*self.rows[1:], None], strict=True) if not (after and after.anchored)]
        return [self.rows[0].start, *kept]

    @property
    def history(self) -> int:
        """How many evaluations the loop has to remember."""
        return max(len(row.mix) for row in self.rows)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The plan saved by `to_json`; unknown or missing fields are refused."""
        try:
            data = json.loads(text)
            rows = tuple(_row(row) for row in data.pop("rows"))
            return Plan(rows=rows, **{**data, "order": int(data["order"])})
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no saved plan ({error}); write one with Plan.to_json().") from None

    def __str__(self) -> str:
        head = f"{self.name}: {self.nfe} evaluations, basis {self.basis}, order {self.order}"
        lines = [f"{'row':>4} {'level':>9} {'start':>9} {'stop':>9} {'eta':>5}  mix (newest first)"]
        lines += [
            f"{i:>4} {r.level:>9.5f} {r.start:>9.5f} {r.stop:>9.5f} {r.eta:>5.2f}  "
            + " ".join(f"{w:+.4f}" for w in r.mix) + ("  from the anchor" if r.anchored else "")
            for i, r in enumerate(self.rows)
        ]  # fmt: skip
        return "\n".join([head, *lines])

    def on(self, schedule: Schedule) -> "Plan":
        """A written-out plan is the same on every schedule."""
        del schedule
        return self


@dataclass(frozen=True)
class Draft:
    """A plan before it knows its process: `fill(schedule)` writes the table."""

    name: str
    fill: Callable[[Schedule], Plan] = field(repr=False)

    def on(self, schedule: Schedule) -> Plan:
        return self.fill(schedule)

    def __str__(self) -> str:
        return self.name


def _row(saved: dict[str, Any]) -> Row:
    numbers = {k: float(v) for k, v in saved.items() if k not in ("mix", "anchored")}
    return Row(**numbers, mix=tuple(float(w) for w in saved["mix"]), anchored=bool(saved["anchored"]))
