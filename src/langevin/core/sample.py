"""The one loop. It runs any plan on any process: evaluate, mix, move.

`trajectory` is a generator that the caller can watch and stop; `sample` is its last state.
"""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Shape, check_conditions, check_entries, evaluating, home
from langevin.core.noise import Noise, Path
from langevin.core.plan import Draft, DrivingRow, Plan, Row, StateRow
from langevin.core.posterior import Belief
from langevin.core.process import LeafProcess, Process
from langevin.core.tree import Tree, leaves, spread, tree

Guidance = Callable[[BaseDenoiser], BaseDenoiser]


@dataclass(frozen=True)
class Step:
    """What the loop shows after each row.

    Args:
        row: its number, 0-based; `rows` how many there are.
        level: the level the state is at now (a dict by leaf for a product).
        z: the state; the loop goes on from this tensor, so copy it before you change it.
        belief: what the denoiser said at its last evaluation (None before the first).
        nfe: evaluations so far.
    """

    row: int
    rows: int
    level: Any
    z: Any
    belief: Belief | None
    nfe: int


@torch.no_grad()  # schedules may be learned
def plans_for(process: Process, plan: Plan | Draft | Mapping[str, Plan | Draft]) -> dict[str, Plan]:
    """The table of each leaf, checked.

    Raises:
        ValueError: if a leaf cannot run its plan, or the leaves' plans do not move row by row together.
    """
    parts = process.leaves()
    for p in spread(plan, list(parts), "plan").values():
        if not isinstance(p, (Plan, Draft)):
            raise ValueError(f"plan is {p!r}; pass a plan, such as langevin.plans.parse('dpmpp:20').")
    plans = {name: p.on(parts[name].schedule) for name, p in spread(plan, list(parts), "plan").items()}
    for name, leaf in parts.items():
        leaf.check(plans[name], name)
        for row in (row for row in plans[name].rows if isinstance(row, StateRow)):
            row.check(leaf)
    kinds = {n: tuple((r.anchored, r.level is None, isinstance(r, DrivingRow)) for r in p.rows) for n, p in plans.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"the plans have { ({n: len(k) for n, k in kinds.items()}) } rows, or rows of other kinds; leaves of a product step "
            "together, so give plans of one length and kind."
        )
    return plans


_Scripted: TypeAlias = tuple[bool, bool, bool, Any, list[Any]]
"""A row as the loop needs it: does it drive, evaluate, start from the anchor; its levels; its leaves' moves."""


class Loop:
    """One sampling: everything that can be known before the loop, and the loop's body."""

    def __init__(
        self, denoiser: BaseDenoiser, plan: Plan | Draft | Mapping[str, Plan | Draft], count: int, options: "Options"
    ) -> None:
        _check_options(options, count)
        guidance, cond, mask = options.get("guidance"), options.get("cond"), options.get("mask")
        self.parts = parts = denoiser.process.leaves()
        self.plans = plans = plans_for(denoiser.process, plan)
        shape = options.get("shape")
        shape = shape if shape is not None else denoiser.shape
        if shape is None:
            raise ValueError("the shape of a sample is unknown; pass shape=, or build the denoiser with it.")
        place, dtype = home(denoiser)
        device = torch.device(options.get("device") or place)
        model: Any = denoiser if guidance is None else guidance(denoiser)
        self.noise = Noise.of(options.get("seed", 0), count, options.get("first_id", 0), device)
        shapes = {n: (count, *s) for n, s in spread(shape, list(parts), "shape").items()}
        self.held = _known(options.get("given"), options.get("known"), parts, shapes, device)
        begun = _begun(options.get("start"), parts, shapes, plans)
        _warn_of_unseen_levels(denoiser, self.held)
        driven = any(isinstance(row, DrivingRow) for p in plans.values() for row in p.rows)
        if self.held and driven:
            raise ValueError("adaptive steps move all elements at one level, so none can be given; use a plan such as trig.")
        check_conditions(denoiser, cond)  # on the host still, where numbers can be looked at
        cond = None if cond is None else {n: v.to(device, dtype if v.is_floating_point() else None) for n, v in cond.items()}
        self.mask = mask = None if mask is None else mask.to(device)
        self.shapes, self.dtype = shapes, dtype or torch.float32
        self.begun = {n: v.to(device, dtype if v.is_floating_point() else None) for n, v in begun.items()}
        self.depth = {name: p.history for name, p in plans.items()}
        self.rows = next(iter(plans.values())).rows
        self.clocks = _clocks(parts, plans, driven) if options.get("noise") == "path" else {}
        self.told = {name: _levels(plans[name]) for name in parts}
        self.script = self._script()
        own = isinstance(model, BaseDenoiser)  # another's attributes may be those of the model that it stands before
        believe = model.believe if own else (lambda z, t, cond, mask: model(tree(z), tree(t), cond, mask))
        self.aims = _aims(denoiser, plans, count, device)

        def evaluate(states: dict[str, Tensor], levels: dict[str, Any], to: Tensor | None = None) -> Belief:
            self.nfe += 1
            self.belief = believe(states, levels, cond if to is None else {**(cond or {}), "to": to}, mask)
            return self.belief

        self.evaluate = evaluate
        self.begin()

    def _script(self) -> list[_Scripted]:
        """What each row needs, once: its leaves' moves, and its levels as tensors. Levels of elements that are known differ, and
        those of state rows may; they are made when they are needed."""
        numbers, script = {name: leaf.numbers(self.plans[name]) for name, leaf in self.parts.items()}, []
        for i, row in enumerate(self.rows):
            moves = [(n, leaf, r := self.plans[n].rows[i], numbers[n][i], type(r) is not Row) for n, leaf in self.parts.items()]
            levels = None if self.held or any(m[4] for m in moves) else {name: self.told[name][i] for name in self.parts}
            script.append((isinstance(row, DrivingRow), row.level is not None, row.anchored, levels, moves))
        return script

    def begin(self) -> None:
        """Stand at the first level, as a function of the noise's ids, the conditions and the start alone."""
        begun, source = self.begun, self.noise.at("prior")
        z = {
            n: begun[n] if n in begun else leaf.prior(self.shapes[n][1:], source.at(n), self.mask, self.dtype)
            for n, leaf in self.parts.items()
        }
        self.z = {name: self.hold(name, state) for name, state in z.items()}
        self.anchor, self.history = self.z, {name: [] for name in self.parts}
        self.paths = {name: Path(self.noise.at("path").at(name)) for name in self.clocks}
        self.drawn, self.nfe, self.belief = 0, 0, None

    def hold(self, name: str, state: Tensor) -> Tensor:
        """The state, with what is known put back."""
        value, mark = self.held.get(name, (state, None))
        return state if mark is None else torch.where(mark, value.to(state.dtype), state)

    def levels_at(self, i: int) -> dict[str, Any]:
        out = {}
        for name, leaf, row, _, by_state in self.script[i][4]:
            at = row.at(leaf, self.z[name], self.noise.at("level", step=i).at(name)) if by_state else self.told[name][i]
            at = torch.as_tensor(at, dtype=torch.float64)
            # known elements are at level 0
            out[name] = at * ~self.held[name][1] if name in self.held else at
        return out

    def step(self, i: int) -> None:
        """Run row i: evaluate, mix, move."""
        driving, evaluated, anchored, levels, moves = self.script[i]
        z, belief = self.z, self.belief
        if driving:
            self.anchor, self.z = z, self.rows[i].drive(self.evaluate, self.parts, z)  # pyright: ignore
            return
        if evaluated:
            belief = self.evaluate(z, levels or self.levels_at(i), self.aims[i])
        if not anchored:
            self.drawn = i  # a corrector reuses the noise of the row it corrects
        beliefs: Any = belief if type(belief) is dict else {"": belief}
        moved = {}
        for name, leaf, row, number, by_state in moves:
            if by_state:
                noise = self.noise.at("bridge", step=i).at(name)
                if name in self.paths and row.stop < row.start:
                    noise = self.drawing(name, row)
                state = row.move(leaf, z[name], beliefs.get(name), noise, self.mask)
            else:
                history = self.history[name]
                if evaluated:
                    history.insert(0, leaf.observe(beliefs[name], z[name], number))
                    del history[self.depth[name] :]
                begin = self.anchor[name] if anchored else z[name]
                noise = self.drawing(name, row) if leaf.draws(number) else self.noise
                state = leaf.advance(begin, history, beliefs[name], number, noise, self.mask)
            moved[name] = self.hold(name, state) if self.held else state
        if not anchored:
            self.anchor = z
        self.z = moved

    def drawing(self, name: str, row: Row) -> Noise:
        own = Noise(self.noise.seed, self.noise.ids, self.drawn, f"{self.noise.purpose}/bridge/{name}")
        path, lam = self.paths.get(name), self.clocks.get(name, {})
        return own if path is None else path.between(lam[row.start], lam[row.stop], own)


def trajectory(
    denoiser: BaseDenoiser, plan: Plan | Draft | Mapping[str, Plan | Draft], count: int = 1, **options: Unpack["Options"]
) -> Generator[Step, None, Tree]:
    """Run a plan, one `Step` after each row. The arguments are those of `sample`."""
    with torch.no_grad():
        run = Loop(denoiser, plan, count, options)
    for i in range(len(run.rows)):
        with torch.no_grad(), evaluating(denoiser):
            run.step(i)
        stops = tree({name: p.rows[i].stop for name, p in run.plans.items()})
        yield Step(i, len(run.rows), stops, tree(run.z), run.belief, run.nfe)
    return tree(run.z)


class Options(TypedDict, total=False):
    """What `sample` and `trajectory` can be told besides denoiser, plan and count.

    Attributes:
        seed: any integer. Sample k depends on (seed, first_id + k) alone, whatever the batch.
        cond: conditions by name, each (count, ...).
        guidance: e.g. `CFG(2.0)`; a function of the denoiser.
        shape: shape of one sample, if the denoiser does not know it.
        given: data that is already known, (count, *shape); for a product, a dict of the known leaves. Known elements stay
            as they are, and the network is told that their level is 0.
        known: bool, True where `given` is known; without it all of `given` is.
        start: the state to begin with, at the plan's first level, instead of the prior.
        mask: (count, N) bool, the real nodes of padded sets.
        first_id: identity of the first sample; or (count,) int64, that of each.
        device: where to sample; where the denoiser's weights are by default.
        noise: "step" draws fresh noise for each row; "path" takes it from one Brownian path of each sample, indexed by
            level, so that one seed gives comparable samples at any number of steps.
    """

    seed: int
    cond: Cond
    guidance: Guidance | None
    shape: Shape | None
    given: Tree | None
    known: Tree | None
    start: Tree | None
    mask: Tensor | None
    first_id: int | Tensor
    device: torch.device | str | None
    noise: str


def sample(
    denoiser: BaseDenoiser, plan: Plan | Draft | Mapping[str, Plan | Draft], count: int = 1, **options: Unpack[Options]
) -> Any:
    """Draw samples.

    Args:
        denoiser: learned, guided or exact.
        plan: a table, or a draft such as `plans.dpmpp(20)`; for a product, one for all leaves or a dict.
        count: how many.
        options: see `Options`.

    Returns:
        (count, *shape), or a dict of them for a product.

    Raises:
        ValueError: if plan, process, guidance or arguments do not fit each other.
    """
    with torch.no_grad(), evaluating(denoiser):
        run = Loop(denoiser, plan, count, options)
        for i in range(len(run.rows)):
            run.step(i)
    return tree(run.z)


def _check_options(options: Options, count: int) -> None:
    """Refuse options that there are not, and values that are none of theirs."""
    if unknown := set(options) - set(Options.__annotations__):
        raise TypeError(f"sample() has no option {min(unknown)!r}; there are {', '.join(Options.__annotations__)}.")
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 sample.")
    guidance, kind = options.get("guidance"), options.get("noise", "step")
    if guidance is not None and not callable(guidance):
        raise ValueError(f"guidance is {guidance!r}; pass a guidance such as CFG({guidance!r}).")
    if not isinstance(options.get("seed", 0), int):
        raise ValueError(f"seed is {options.get('seed')!r}; give an integer.")
    if kind not in ("step", "path"):
        raise ValueError(f"noise is {kind!r}; it is drawn per 'step', or along one 'path' whatever the number of steps.")
    check_entries(options.get("cond"), count)


def _clocks(parts: Mapping[str, LeafProcess], plans: Mapping[str, Plan], driven: bool) -> dict[str, dict[float, float]]:
    """The times of a Brownian path, lam at each level of each leaf's plan."""
    clocks = {}
    for name, leaf in parts.items():
        at = sorted({level for row in plans[name].rows for level in (row.start, row.stop)})
        if leaf.kind != "gaussian" or driven or any(row.stop > row.start for row in plans[name].rows):
            raise ValueError(f"noise is 'path', which runs once down the levels of Gaussian processes; {plans[name].name} on "
                             f"a {leaf.kind} one does not: use noise='step'.")  # fmt: skip
        lam = leaf.schedule.lam(torch.tensor(at, dtype=torch.float64)).tolist()
        clocks[name] = dict(zip(at, lam, strict=True))
    return clocks


def _known(
    given: Tree | None, known: Tree | None, parts: Mapping[str, LeafProcess], shapes: Mapping[str, Shape], device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """(value, mark) of each leaf that is known in part or whole, on the device."""
    if given is None:
        if known is not None:
            raise ValueError("known marks elements of given, which is missing; pass given= as well.")
        return {}
    values, marks = leaves(given), leaves(known) if known is not None else {}
    for name in [*values, *marks]:
        if name not in parts:
            raise ValueError(f"given names the leaf {name!r}, the process has {list(parts)}; name one of these.")
    held = {}
    for name, value in values.items():
        if value.shape != shapes[name]:
            raise ValueError(f"given has shape {tuple(value.shape)} where the samples have {shapes[name]}; make them agree.")
        parts[name].check_data(value, "given")
        mark = marks.get(name, torch.ones(value.shape, dtype=torch.bool, device=value.device))
        if mark.dtype != torch.bool or mark.shape != value.shape:
            raise ValueError(f"known is {mark.dtype} of shape {tuple(mark.shape)}; give bools of shape {shapes[name]}.")
        if value.is_floating_point() and not bool(value[mark].isfinite().all()):
            raise ValueError("given holds values that are not finite where they are known; mark those as unknown.")
        if (pairs := parts[name].space.real(value, None)) is not None:  # one mark for both directions of an edge
            told = torch.where(mark, value.double(), torch.where(pairs, torch.inf, 0.0))
            if not torch.equal(parts[name].space.project(told), told):
                raise ValueError("given tells the two directions of an edge apart; give, and mark, both alike, and no loops.")
        held[name] = (value.to(device), mark.to(device))
    return held


def _begun(
    start: Tree | None, parts: Mapping[str, LeafProcess], shapes: Mapping[str, tuple[int, ...]], plans: Mapping[str, Plan]
) -> dict[str, Tensor]:
    """The states to begin with, checked; and that plans which begin late have one."""
    begun = leaves(start) if start is not None else {}
    for name, value in begun.items():
        if name not in parts or value.shape != shapes[name]:
            expected = shapes.get(name, f"the leaves {list(parts)}")
            raise ValueError(f"start has shape {tuple(value.shape)} where the samples have {expected}; make them agree.")
        finite = value.device.type != "cpu" or bool(value.isfinite().all())
        if value.is_floating_point() != (parts[name].kind == "gaussian") or not finite:
            raise ValueError(f"start is {value.dtype}, finite: {finite}; give finite floats, or int64 states for categories.")
    for name, leaf in parts.items():
        level = plans[name].rows[0].start
        if name not in begun and float(leaf.schedule.lam(level)) > max(float(leaf.schedule.lam(1.0)), -2.0) + 1.0:
            raise ValueError(f"plan {plans[name].name} begins at level {level:g}, where data is still visible and no prior is "
                             "known; pass start=, or begin at 1.")  # fmt: skip
        if name not in begun and float(leaf.schedule.lam(level)) > max(float(leaf.schedule.lam(1.0)), -8.0) + 1.0:
            warnings.warn(f"plan {plans[name].name} begins at level {level:g} with noise made for level 1; begin at 1, or pass "
                          "start=.", stacklevel=4)  # fmt: skip
    return begun


def _warn_of_unseen_levels(denoiser: BaseDenoiser, held: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    seen = getattr(denoiser, "spread", None)
    if seen in (None, "elements"):
        return
    if any(not bool(mark.all()) for _, mark in held.values()) or (held and seen == "shared"):
        warnings.warn(
            f"this model was trained with spread={seen!r}, and never saw some elements clean beside noisy ones; "
            "train with spread='elements' (--objective.spread elements; 'independent' for whole leaves) to sample well so.",
            stacklevel=4,
        )


def _aims(denoiser: BaseDenoiser, plans: Mapping[str, Plan], count: int, device: torch.device) -> Sequence[Tensor | None]:
    """What a flow map is told to leap to at each row, (B,); None for what is a denoiser there."""
    (plan, *_) = plans.values()
    levels = plan.aims if getattr(denoiser, "leaps", False) else [None] * len(plan.rows)
    return [None if s is None else torch.full((count,), s, dtype=torch.float64, device=device) for s in levels]


def _levels(plan: Plan) -> tuple[Tensor, ...]:
    """What the network is told at each row, 0-dim float64 on the CPU (0 where it is not asked)."""
    levels = [row.level or 0.0 if (shown := getattr(row, "shown", None)) is None else shown for row in plan.rows]
    return torch.tensor(levels, dtype=torch.float64).unbind()
