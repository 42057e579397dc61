"""Plans: a sampler is a table of numbers, one row per move.

A row evaluates the network at the current state, mixes this evaluation with earlier ones, and moves from level `start`
to level `stop`. Most rows start where the state is; a corrector row (Heun, Runge-Kutta, UniPC) starts again from the
anchor, the state before the last row that moved on, and reuses the noise that row drew. Evaluations are kept in the
plan's basis:

    "x0"        beliefs about clean data (DDIM, DDPM, DPM-Solver++, UniPC); for categories, their logits
    "eps"       beliefs about the noise (DPM-Solver, DEIS, LMS, PNDM, Heun in sigma)
    "velocity"  dz/dt of the probability flow (Euler, Adams-Bashforth and Runge-Kutta for flows)
    "v"         cos(phi) e - sin(phi) x / d, phi = arctan(sigma / (alpha d)): the slope in the angle in which data of
                standard deviation d and noise turn into each other (TrigFlow, 2410.11081)

What depends on the state (Langevin steps, adaptive error control, the order in which tokens are revealed) is a
`StateRow`. A `Plan` is a value with its levels written out. A `Draft` is what `langevin.plans.dpmpp(20)` returns: it
fills the table once it meets a process, since levels and weights follow from the schedule.
"""

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from langevin.core.levels import Level
from langevin.core.messages import one_line
from langevin.core.noise import Noise
from langevin.core.schedule import Schedule

BASES = ("x0", "eps", "velocity", "v")


@dataclass(frozen=True, kw_only=True)
class Row:
    """At most one evaluation, and one move.

    Args:
        level: where the network is evaluated, the level of the current state; None reuses earlier evaluations.
        start: level of the state the move starts from (the current state's, or the anchor's).
        stop: level the move ends at, below `start`.
        mix: weights of the evaluations, newest first. They sum to 1, and the process supplies the rest of the step; where
            `a` is written out they are the step's weights themselves.
        eta: how much of the removed noise is drawn afresh: 0 none (deterministic), 1 all (ancestral). Multiplies
            the standard deviation.
        anchored: start from the anchor rather than from the current state.
        a: the factor of the state, for steps that are not the process's own (Gaussian processes only).
        c: the standard deviation of fresh noise, beside `a`.
        shown: the level the network is told, where a peer tells it another than the state's (see `plans.profiles`).
    """

    level: float | None
    start: float
    stop: float
    mix: tuple[float, ...] = (1.0,)
    eta: float = 0.0
    anchored: bool = False
    a: float | None = None
    c: float = 0.0
    shown: float | None = None

    @property
    def nfe(self) -> int:
        return int(self.level is not None)

    def problem(self, evaluations: int) -> str | None:
        """What is wrong with the row, after so many evaluations (its own included)."""
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        total = sum(self.mix)
        if (self.a is None and not abs(total - 1) <= 1e-9) or not 0 < len(self.mix) <= evaluations:
            return (
                f"mixes {len(self.mix)} evaluations with weights summing to {total:g}; use at most the {evaluations} made so "
                "far, summing to 1"
            )
        if not 0 <= self.eta <= 1:
            return f"has eta {self.eta:g}; eta lies in [0, 1]"
        if self.a is None and (self.c or self.shown is not None):
            return "writes out c or the level shown, but not a; give all of a step's numbers or none"
        return None

    def __str__(self) -> str:
        level = "   reuses" if self.level is None else f"{self.level:>9.5f}"
        state = "" if self.a is None else f"  a {self.a:+.4f}  c {self.c:.4f}"
        state += "" if self.shown is None else f"  shown {self.shown:.5f}"
        mix = " ".join(f"{w:+.4f}" for w in self.mix) + ("  from the anchor" if self.anchored else "")
        return f"{level} {self.start:>9.5f} {self.stop:>9.5f} {self.eta:>5.2f}  {mix}{state}"


class StateRow(ABC):
    """A row whose move depends on the state; a frozen dataclass with `start`, `stop` and its own settings.

    Attributes:
        start, stop: the levels it moves between.
        level: where the network is evaluated; None where it is not.
        nfe: evaluations it may take at most.
    """

    start: float
    stop: float
    kinds: ClassVar[dict[str, type["StateRow"]]] = {}
    anchored: ClassVar[bool] = False
    mix: ClassVar[tuple[float, ...]] = (1.0,)

    def __init_subclass__(cls) -> None:
        StateRow.kinds[cls.__name__] = cls

    @property
    def level(self) -> float | None:
        return self.start

    @property
    def nfe(self) -> int:
        return int(self.level is not None)

    def problem(self, evaluations: int) -> str | None:
        """What is wrong with the row, in words."""
        if not (0 <= self.start <= 1 and 0 <= self.stop <= 1):
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        return None

    def check(self, leaf: Any) -> None:  # noqa: B027  most rows run anywhere
        """Refuse a process the row cannot run on."""

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> Level | None:
        """The level of evaluation; it may differ by sample, expanded to broadcast against z."""
        return self.level

    @abstractmethod
    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        """The state after the row."""


class DrivingRow(StateRow):
    """A row that evaluates the network as often as it needs to (adaptive steps). It moves all leaves together."""

    @property
    def level(self) -> None:
        return None

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    @abstractmethod
    def drive(self, evaluate: Callable[[Any, Any], Any], parts: Any, z: dict[str, Tensor]) -> dict[str, Tensor]:
        """The states after the row; `evaluate(states, levels)` gives beliefs, all by leaf."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A table of rows.

    Args:
        name: what it is called, with its arguments.
        basis: "x0", "eps", "velocity" or "v".
        order: the order of convergence it claims (of the probability flow for eta = 0; weak for eta > 0).
        rows: the table.
        data_std: d of the basis "v".

    Raises:
        ValueError: if the rows do not join into one descent, or their weights do not sum to 1.
    """

    name: str
    basis: str
    order: int
    rows: tuple[Row | StateRow, ...]
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ValueError(f"basis is {self.basis!r}; a plan keeps its evaluations as one of {', '.join(BASES)}.")
        if not self.rows:
            raise ValueError(f"plan {self.name} has no rows; ask for at least 1 step.")
        if not 0 < self.data_std < math.inf:
            raise ValueError(f"data_std is {self.data_std}; it is the data's standard deviation, finite and above 0.")
        state, anchor, made = self.rows[0].start, self.rows[0].start, 0
        for i, row in enumerate(self.rows):
            if row.level not in (None, state) or row.start != (anchor if row.anchored else state):
                raise ValueError(
                    f"row {i} of {self.name} is evaluated at {state if row.level is None else row.level:g} from "
                    f"{row.start:g}, but the state stands at {state:g} (anchor {anchor:g}); let each row begin where the "
                    "last ended."
                )
            made += row.nfe
            if problem := row.problem(made):
                raise ValueError(f"row {i} of {self.name} {problem}.")
            if self.basis == "v" and isinstance(row, Row) and row.a is None:
                raise ValueError(f"row {i} of {self.name} leaves a to the process; write it out in the basis 'v'.")
            state, anchor = row.stop, (anchor if row.anchored else row.start)

    @property
    def nfe(self) -> int:
        """Network evaluations (a guided one counts once, it is one batched call); of adaptive rows, the most they may take."""
        return sum(row.nfe for row in self.rows)

    @property
    def levels(self) -> list[float]:
        """The levels the state rests at, first to last (predictors of a corrected step left out)."""
        kept = [r.stop for r, after in zip(self.rows, [*self.rows[1:], None], strict=True) if not (after and after.anchored)]
        return [self.rows[0].start, *kept]

    @property
    def history(self) -> int:
        """How many evaluations the loop has to remember."""
        return max(len(row.mix) for row in self.rows)

    @property
    def aims(self) -> list[float | None]:
        """For each row the level that a flow map is asked to leap to: the row's end, if rows stand for themselves and draw no
        noise. Elsewhere None, and a flow map answers as a denoiser: what is mixed must be beliefs of one kind, and Euler's step
        in t or in the angle is not where a belief lands."""
        alone = all(isinstance(r, StateRow) or (r.mix == (1.0,) and not r.anchored and r.a is None) for r in self.rows)
        return [
            r.stop if alone and isinstance(r, Row) and r.eta == 0 and self.basis in ("x0", "eps") else None for r in self.rows
        ]

    def to_json(self) -> str:
        fields = {"name": self.name, "basis": self.basis, "order": self.order, "data_std": self.data_std}
        return json.dumps({**fields, "rows": [saved(row) for row in self.rows]}, indent=1)

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The plan saved by `to_json`; unknown or missing fields are refused."""
        try:
            data = json.loads(text, parse_int=_whole)
            rows = tuple(_row(row) for row in data.pop("rows"))
            if not isinstance(data["name"], str) or not data["name"].isprintable():
                raise TypeError(f"name is {data['name']!r}")
            return Plan(rows=rows, **{**data, "order": int(data["order"]), "data_std": float(data.get("data_std", 1))})
        except (TypeError, KeyError, AttributeError, IndexError, ValueError, OverflowError, RecursionError) as error:
            # it may quote the file
            raise ValueError(f"this is no saved plan ({one_line(error, 300)}); write one with Plan.to_json().") from None

    def __str__(self) -> str:
        basis = self.basis + (f" (data std {self.data_std:g})" if self.basis == "v" else "")
        most = "at most " if any(isinstance(row, DrivingRow) for row in self.rows) else ""
        head = f"{self.name}: {most}{self.nfe} evaluations, basis {basis}, order {self.order}"
        lines = [f"{'row':>4} {'level':>9} {'start':>9} {'stop':>9} {'eta':>5}  mix (newest first)"]
        return "\n".join([head, *lines, *(f"{i:>4} {row}" for i, row in enumerate(self.rows))])

    def on(self, schedule: Schedule) -> "Plan":
        """A written-out plan is the same on every schedule."""
        del schedule
        return self


@dataclass(frozen=True)
class Draft:
    """A plan before it knows its process: `fill(schedule)` writes the table."""

    name: str
    fill: Callable[[Schedule], Plan] = field(repr=False)

    @torch.no_grad()  # schedules may be learned
    def on(self, schedule: Schedule) -> Plan:
        return self.fill(schedule)

    def __str__(self) -> str:
        return self.name


def saved(row: Any) -> dict[str, Any]:
    """A row as plain values; a state row names its kind."""
    return {**({} if isinstance(row, Row) else {"kind": type(row).__name__}), **dataclasses.asdict(row)}


def _whole(digits: str) -> int:
    if len(digits) > 16:
        raise ValueError("a number is larger than any plan needs")
    return int(digits)


def _row(values: dict[str, Any]) -> Row | StateRow:
    kind = values.pop("kind", None)
    if kind is not None:
        if kind not in StateRow.kinds:
            raise KeyError(f"no row kind {str(kind)[:40]!r}, there are {', '.join(StateRow.kinds)}")
        return StateRow.kinds[kind](**values)
    numbers = {k: v if v is None else float(v) for k, v in values.items() if k not in ("mix", "anchored")}
    if any(v is None and k not in ("level", "a", "shown") for k, v in numbers.items()):
        raise TypeError("a number is missing")
    made = Row(**cast(Any, numbers), mix=tuple(float(w) for w in values["mix"]), anchored=bool(values.get("anchored", False)))
    if not all(math.isfinite(n) for n in (*made.mix, *numbers.values()) if n is not None):
        raise ValueError("a number is not finite")
    return made


def joined(levels: Sequence[float]) -> list[tuple[float, float]]:
    """The steps between neighbouring levels."""
    return list(zip(levels[:-1], levels[1:], strict=True))
