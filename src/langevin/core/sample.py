"""The one loop. It runs any plan on any process: evaluate, mix, move.

`trajectory` is a generator that the caller can watch and stop; `sample` is its last state.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Shape
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
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
        z: the state.
        belief: what the denoiser said at the row's evaluation.
    """

    row: int
    rows: int
    level: Any
    z: Any
    belief: Belief


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
    lengths = {name: (p.nfe, tuple(r.anchored for r in p.rows)) for name, p in plans.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the plans have { ({n: v[0] for n, v in lengths.items()}) } rows; leaves of a product step together, "
            "so give plans of one length and kind."
        )
    return plans


def trajectory(
    denoiser: BaseDenoiser,
    plan: Plan | Draft | Mapping[str, Plan | Draft],
    count: int = 1,
    *,
    seed: int = 0,
    cond: Cond = None,
    guidance: Guidance | None = None,
    shape: Shape | None = None,
    given: Tree | None = None,
    known: Tree | None = None,
    start: Tree | None = None,
    mask: Tensor | None = None,
    first_id: int = 0,
    device: torch.device | str | None = None,
) -> Generator[Step, None, Tree]:
    """Run a plan, one `Step` after each row. The arguments are those of `sample` (see `Options`)."""
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 sample.")
    if guidance is not None and not callable(guidance):
        raise ValueError(f"guidance is {guidance!r}; pass a guidance such as CFG({guidance!r}).")
    parts = denoiser.process.leaves()
    plans = plans_for(denoiser.process, plan)
    for name, value in (cond or {}).items():
        if len(value) != count:
            raise ValueError(f"cond[{name!r}] has {len(value)} entries for {count} samples; give one each.")
    shape = shape if shape is not None else denoiser.shape
    if shape is None:
        raise ValueError("the shape of a sample is unknown; pass shape=, or build the denoiser with it.")
    weights = [p for p in denoiser.parameters() if p.is_floating_point()]
    device = torch.device(device) if device is not None else (weights[0].device if weights else torch.device("cpu"))
    dtype = weights[0].dtype if weights else None
    model = denoiser if guidance is None else guidance(denoiser)
    noise = Noise.of(seed, count, first_id, device)
    shapes = {n: (count, *s) for n, s in spread(shape, list(parts), "shape").items()}
    held = _known(given, known, parts, shapes)
    with torch.no_grad():
        begun = _begun(start, parts, shapes, plans)
    _warn_of_unseen_levels(denoiser, held)
    cond = None if cond is None else {name: value.to(device) for name, value in cond.items()}
    mask = None if mask is None else mask.to(device)

    with torch.no_grad():
        numbers = {name: leaf.numbers(plans[name]) for name, leaf in parts.items()}
        z = {
            name: begun[name].to(device, dtype if begun[name].is_floating_point() else None)
            if name in begun
            else leaf.prior(shapes[name][1:], noise.at("prior").at(name), mask, dtype or torch.float32)
            for name, leaf in parts.items()
        }
    depth = {name: p.history for name, p in plans.items()}
    z = {name: _hold(state, held.get(name)) for name, state in z.items()}
    anchor, history = dict(z), {name: [] for name in parts}
    rows = next(iter(plans.values())).rows
    for i, row in enumerate(rows):
        levels = {name: _level(plans[name].rows[i].level, held.get(name)) for name in parts}
        with torch.no_grad(), _evaluating(denoiser):
            belief = model(tree(z), tree(levels), cond, mask)
            beliefs = leaves(belief)
            moved = {}
            for name, leaf in parts.items():
                number = numbers[name][i]
                history[name] = [leaf.observe(beliefs[name], z[name], number), *history[name]][: depth[name]]
                begin = anchor[name] if row.anchored else z[name]
                step_noise = noise.at("bridge", step=i).at(name)
                state = leaf.advance(begin, history[name], beliefs[name], number, step_noise, mask)
                moved[name] = _hold(state, held.get(name))
        if not row.anchored:
            anchor = z
        z = moved
        yield Step(i, len(rows), tree({name: plans[name].rows[i].stop for name in parts}), tree(z), belief)
    return tree(z)


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
        first_id: identity of the first sample.
        device: where to sample; where the denoiser's weights are by default.
    """

    seed: int
    cond: Cond
    guidance: Guidance | None
    shape: Shape | None
    given: Tree | None
    known: Tree | None
    start: Tree | None
    mask: Tensor | None
    first_id: int
    device: torch.device | str | None


def sample(
    denoiser: BaseDenoiser,
    plan: Plan | Draft | Mapping[str, Plan | Draft],
    count: int = 1,
    **options: Unpack[Options],
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
    steps = trajectory(denoiser, plan, count, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _known(
    given: Tree | None, known: Tree | None, parts: Mapping[str, LeafProcess], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """(value, mark) of each leaf that is known in part or whole."""
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
        held[name] = (value, mark)
    return held


def _begun(
    start: Tree | None,
    parts: Mapping[str, LeafProcess],
    shapes: Mapping[str, tuple[int, ...]],
    plans: Mapping[str, Plan],
) -> dict[str, Tensor]:
    """The states to begin with, checked; and that plans which begin late have one."""
    begun = leaves(start) if start is not None else {}
    for name, value in begun.items():
        if name not in parts or value.shape != shapes[name]:
            expected = shapes.get(name, f"the leaves {list(parts)}")
            raise ValueError(f"start has shape {tuple(value.shape)} where the samples have {expected}; make them agree.")
    for name, leaf in parts.items():
        level = plans[name].rows[0].start
        if name not in begun and float(leaf.schedule.lam(level)) > max(float(leaf.schedule.lam(1.0)), -2.0) + 1.0:
            raise ValueError(f"plan {plans[name].name} begins at level {level:g}, where data is still visible and no prior is "
                             "known; pass start=, or begin at 1.")  # fmt: skip
    return begun


def _warn_of_unseen_levels(denoiser: BaseDenoiser, held: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    seen = getattr(denoiser, "spread", None)
    if seen in (None, "elements"):
        return
    if any(not bool(mark.all()) for _, mark in held.values()) or (held and seen == "shared"):
        warnings.warn(
            f"this model was trained with spread={seen!r}, and never saw some elements clean beside noisy ones; "
            "train with Denoising(spread='elements') (or 'independent' for whole leaves) to sample well given them.",
            stacklevel=4,
        )


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """No dropout while sampling; the mode is put back, since the caller of a generator may be training."""
    was = module.training
    if was:
        module.eval()
    try:
        yield
    finally:
        if was:
            module.train()


def _hold(state: Tensor, held: tuple[Tensor, Tensor] | None) -> Tensor:
    return state if held is None else torch.where(held[1].to(state.device), held[0].to(state.device, state.dtype), state)


def _level(level: float, held: tuple[Tensor, Tensor] | None) -> Any:
    return level if held is None else torch.where(held[1], 0.0, torch.tensor(level, dtype=torch.float64))
