"""`lv.sample` and `lv.trajectory`: the loop of the core, told in whatever form callers have it.

Arrays may be tensors, numpy arrays or lists, plans may be words, and what is known may be marked in any shape that broadcasts.
"""

import math
from collections.abc import Generator, Mapping
from contextlib import suppress
from operator import index
from typing import Any, Unpack
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from langevin import plans
from langevin.condition_use import check_signature
from langevin.core import sample as loop
from langevin.core.denoiser import BaseDenoiser, Denoiser, home
from langevin.core.noise import GOLDEN, Noise, signed
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Options, Step
from langevin.core.tree import Tree, leaves, spread, tree_map
from langevin.devices import device_of, refuse_beyond
from langevin.guidance.own import Guided
from langevin.plans.analysis import warn_if_noisy

Planned = Plan | Draft | str
"""A plan, a draft of one, or its word, such as "dpmpp:20" or "auto:10"."""


def tensor(value: Any, field: str) -> Tensor:
    """A tensor of a tensor, a numpy array or nested lists.

    Raises:
        ValueError: if it is none, naming the field.
    """
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{field} is a {type(value).__name__}; give a tensor, a numpy array or lists of numbers.") from None


def floats(value: Any, field: str) -> Tensor:
    """`tensor`, of floats.

    Raises:
        ValueError: for whole numbers, which a model of floats would take for data far from its own.
    """
    value = tensor(value, field)
    if not value.is_floating_point():
        raise ValueError(f"{field} is {value.dtype}; give floats, scaled as in training (bytes of pictures: x / 127.5 - 1).")
    return value


def conditions(cond: Mapping[str, Any] | None, count: int) -> dict[str, Any] | None:
    """Conditions as tensors, by name; a number is that of each of `count` samples.

    Raises:
        ValueError: if they have no names, or one is no array.
    """
    if cond is None:
        return None
    if not isinstance(cond, Mapping):
        raise ValueError(f'cond is a {type(cond).__name__}; name the conditions, such as cond={{"label": labels}}.')
    if odd := [name for name in cond if not isinstance(name, str)]:
        raise ValueError(f'cond has the name {odd[0]!r}; name conditions by words, such as cond={{"label": labels}}.')
    made = {name: tensor(value, f"cond[{name!r}]") for name, value in cond.items()}
    return {name: value if value.ndim else value.expand(max(count, 0)) for name, value in made.items()}


def arrays(value: Any, field: str) -> Any:
    """A tensor, or a dict of them by leaf. Raises as `tensor` does."""
    return tree_map(lambda v: tensor(v, field), value)


def named(seed: Any, first_id: Any, count: int, device: torch.device | str = "cpu") -> Noise:
    """The noise of samples: first_id, ..., first_id + count - 1 of one seed, or that of lists.

    Args:
        seed: an integer; or one for each sample, which then is the sample `first_id` of its seed.
        first_id: an integer; or the id of each sample.

    Raises:
        ValueError: for what are no integers, for lists of another length, and for ids beyond 64 bits.
    """
    if isinstance(seed, int) and isinstance(first_id, int):  # nothing for each sample
        _check_ids(first_id, first_id + count - 1, first_id, count)
        return Noise.of(seed, count, first_id, device)
    seeds, ids = names(seed, first_id, count)
    # a seed and an id enter noise as one sum, so that samples of other seeds are samples of the first under other ids
    apart = [signed(one + GOLDEN * (own - seeds[0])) for own, one in zip(seeds, ids, strict=True)]
    return Noise.of(seeds[0], count, torch.tensor(apart), device)


def names(seed: Any, first_id: Any, count: int) -> tuple[list[int], list[int]]:
    """The seed and the id of each sample. The arguments, and what is raised, are those of `named`."""
    seeds, ids = (_whole(value, field, count) for value, field in ((seed, "seed"), (first_id, "first_id")))
    if isinstance(ids, int):
        ids = [ids] * count if isinstance(seeds, list) else [ids + k for k in range(count)]
    _check_ids(min(ids), max(ids), first_id, count)
    return [seeds] * count if isinstance(seeds, int) else seeds, ids


def _check_ids(low: int, high: int, first_id: Any, count: int) -> None:
    if not -(2**63) <= low <= high < 2**63 - 1:
        raise ValueError(f"first_id is {first_id} for {count} samples; ids are integers from -2**63 to 2**63 - 2.")


def _whole(value: Any, field: str, count: int) -> int | list[int]:
    """An integer, or one for each sample."""
    try:
        return index(value)
    except TypeError:
        pass
    try:
        values = [index(one) for one in value]
    except TypeError:
        raise ValueError(f"{field} is {value!r}; give an integer, or a list of one for each sample.") from None
    if len(values) != count:
        raise ValueError(f"{field} has {len(values)} entries for {count} samples; give one for all, or one each.")
    return values


def planned(plan: Any, denoiser: BaseDenoiser | None = None, count: int = 1, options: Mapping[str, Any] | None = None) -> Any:
    """A plan, or a dict of them by leaf, whose words are read; "auto:10" is found on the denoiser, where one is given, under
    the condition and the guidance of the options, as callers give them."""

    def read(p: Any) -> Any:
        if not isinstance(p, str):
            return p
        steps = None if denoiser is None else plans.tried(p)
        return plans.parse(p) if steps is None else _tried(denoiser, steps, count, options or {})

    return tree_map(read, plan)


TRIED = 512
"""Starts on which plans are tried."""
_FOUND: WeakKeyDictionary[Any, dict[Any, Plan]] = WeakKeyDictionary()


def _tried(denoiser: Any, steps: int, count: int, options: Mapping[str, Any]) -> Plan:
    """What `plans.auto` finds, once for a model, its weights, guidance and conditions, as long as the model lives."""
    cond, guidance, shape = conditions(options.get("cond"), count), options.get("guidance"), options.get("shape")
    cond = None if cond is None else {name: value.cpu() for name, value in cond.items()}
    said = [(n, v.dtype, tuple(v.shape), v.contiguous().view(torch.uint8).numpy().tobytes()) for n, v in (cond or {}).items()]
    weights = tuple(float(v.double().sum()) for v in denoiser.state_dict().values())
    key = (steps, guidance, shape, tuple(said), weights)
    known = _FOUND.setdefault(denoiser, {})
    with suppress(TypeError):  # a guidance that holds arrays is another each time
        if key in known:
            return known[key]
    many = None if cond is None else {name: value[torch.arange(TRIED) % len(value)] for name, value in cond.items()}
    around = (lambda model: guided(model, guidance)) if callable(guidance) else guidance
    found = plans.auto(denoiser, steps, cond=many, guidance=around, shape=shape, count=TRIED).plan
    with suppress(TypeError):
        known[key] = found
    return found


def told(denoiser: BaseDenoiser, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the loop takes them.

    Raises:
        ValueError: for what is no array, for several guidances, and for a network that is called in another way.
    """
    if not hasattr(denoiser, "process"):
        raise ValueError(
            f"denoiser is a {type(denoiser).__name__}; give a network with its process, as lv.Denoiser(net, process, 'v')."
        )
    if isinstance(denoiser, Denoiser):
        check_signature(denoiser.net)
    try:
        index(count)
    except TypeError:
        raise ValueError(f"count is {count!r}; give an integer.") from None
    if isinstance(shape := getattr(denoiser, "shape", None), (tuple, dict)):
        each = sum(math.prod(one) for one in leaves(shape).values())
        refuse_beyond("count", count, 2 * count * each, home(denoiser)[0], "draw fewer at a time, from another first_id each")
    made = dict(options)
    if count > 0 and ("seed" in made or "first_id" in made):
        noise = named(made.get("seed", 0), made.get("first_id", 0), count)
        made |= {"seed": noise.seed, "first_id": noise.ids}
    if (cond := conditions(made.get("cond"), count)) is not None:
        made["cond"] = cond
    for field in ("given", "known", "start", "mask"):
        if made.get(field) is not None:
            made[field] = arrays(made[field], field)
    if isinstance(guidance := made.get("guidance"), (list, tuple)):
        raise ValueError(
            f"guidance is a {type(guidance).__name__} of {len(guidance)}; put one around another, lambda d: outer(inner(d)), "
            "or give one."
        )
    if callable(guidance):
        made["guidance"] = lambda model: guided(model, guidance)
    if made.get("device") is not None:
        made["device"] = device_of(made["device"])
    shape = denoiser.shape if made.get("shape") is None else made["shape"]
    if shape is None:
        return made
    shapes = {n: (count, *_sides(s)) for n, s in spread(shape, list(denoiser.process.leaves()), "shape").items()}
    if (mask := made.get("mask")) is not None:
        if mask.dtype != torch.bool or mask.ndim != 2 or any(mask.shape != s[:2] for s in shapes.values() if len(s) > 1):
            wanted = next(iter(shapes.values()))[:2]
            raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; give bools {wanted}, True for real nodes.")
    if made.get("given") is not None:
        for field in ("given", "known"):
            if made.get(field) is not None:
                made[field] = _spread_out(made[field], shapes)
    return made


def guided(denoiser: BaseDenoiser, guidance: Any) -> BaseDenoiser:
    """A denoiser under a guidance, None for none, which may give a function of one's own. Raises as `Guided` does."""
    made = denoiser if guidance is None else guidance(denoiser)
    return made if isinstance(made, BaseDenoiser) else Guided(denoiser, made)


def _sides(shape: Any) -> tuple[int, ...]:
    """The shape of one sample. Raises ValueError for what is none."""
    try:
        sides = tuple(index(side) for side in shape)
    except TypeError:
        sides = (0,)
    if any(side < 1 for side in sides):
        raise ValueError(f"shape is {shape!r}; give that of one sample, such as (3, 32, 32).")
    return sides


def _spread_out(value: Tree, shapes: Mapping[str, tuple[int, ...]]) -> Tree:
    """Every leaf in the shape of its samples, where it broadcasts; where not, the loop has a sentence for it."""

    def whole(v: Tensor, shape: tuple[int, ...] | None) -> Tensor:
        try:
            return v if shape is None else v.expand(shape)
        except RuntimeError:
            return v

    if isinstance(value, Mapping):
        return {name: whole(v, shapes.get(name)) for name, v in value.items()}
    return whole(value, shapes.get(""))


def trajectory(
    denoiser: BaseDenoiser, plan: Planned | Mapping[str, Planned], count: int = 1, **options: Unpack[Options]
) -> Generator[Step, None, Tree]:
    """Run a plan, one `Step` after each row. The arguments are those of `sample`."""
    made = told(denoiser, count, options)
    return loop.trajectory(denoiser, planned(plan, denoiser, count, options), count, **made)


def sample(denoiser: BaseDenoiser, plan: Planned | Mapping[str, Planned], count: int = 1, **options: Unpack[Options]) -> Any:
    """Draw samples.

    Args:
        denoiser: learned, guided or exact.
        plan: a table, a draft such as `plans.dpmpp(20)`, or its word, "dpmpp:20"; for a product, one for all leaves or a dict.
            "auto:10" tries plans of 10 evaluations on the model, under these conditions and this guidance (`plans.auto`), which
            takes as long as thousands of samples; the answer is kept for as long as all of these stay.
        count: how many.
        options: see `langevin.core.sample.Options`; arrays may be numpy arrays or lists, one number in `cond` stands for all
            samples, and `given` and `known` may have any shape that broadcasts to (count, *shape), such as one mask (H, W) for
            all pictures. `seed` may be a list, one for each sample, which then is sample `first_id` of its seed, as it is drawn
            alone; and so may `first_id`.

    Returns:
        (count, *shape), or a dict of them for a product.

    Raises:
        ValueError: if plan, process, guidance or arguments do not fit each other.
    """
    made, way = told(denoiser, count, options), planned(plan, denoiser, count, options)
    warn_if_noisy(way, denoiser.process)
    return loop.sample(denoiser, way, count, **made)
