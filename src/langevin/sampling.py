"""`lv.sample` and `lv.trajectory`: the loop of the core, told in whatever form callers have it.

Arrays may be tensors, numpy arrays or lists, plans may be words, and what is known may be marked in any shape that broadcasts.
"""

from collections.abc import Generator, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from langevin import plans
from langevin.core import sample as loop
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Options, Step
from langevin.core.tree import Tree, spread, tree_map
from langevin.hearing import check_signature

Planned = Plan | Draft | str
"""A plan, a draft of one, or its word, such as "dpmpp:20"."""


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


def conditions(cond: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Conditions as tensors, by name.

    Raises:
        ValueError: if they have no names, or one is no array.
    """
    if cond is None:
        return None
    if not isinstance(cond, Mapping):
        raise ValueError(f'cond is a {type(cond).__name__}; name the conditions, such as cond={{"label": labels}}.')
    return {name: tensor(value, f"cond[{name!r}]") for name, value in cond.items()}


def arrays(value: Any, field: str) -> Any:
    """A tensor, or a dict of them by leaf. Raises as `tensor` does."""
    return tree_map(lambda v: tensor(v, field), value)


def planned(plan: Any) -> Any:
    """A plan, or a dict of them by leaf, whose words are read."""
    return tree_map(lambda p: plans.parse(p) if isinstance(p, str) else p, plan)


def told(denoiser: BaseDenoiser, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the loop takes them.

    Raises:
        ValueError: for what is no array, for several guidances, and for a network that is called in another way.
    """
    if isinstance(denoiser, Denoiser):
        check_signature(denoiser.net)
    made = dict(options)
    if (cond := conditions(made.get("cond"))) is not None:
        made["cond"] = {name: value if value.ndim else value.expand(count) for name, value in cond.items()}
    for field in ("given", "known", "start", "mask"):
        if made.get(field) is not None:
            made[field] = arrays(made[field], field)
    if isinstance(guidance := made.get("guidance"), (list, tuple)):
        raise ValueError(
            f"guidance is a {type(guidance).__name__} of {len(guidance)}; put one around another, lambda d: outer(inner(d)), "
            "or give one."
        )
    shape = made.get("shape") or denoiser.shape
    if shape is not None and made.get("given") is not None:
        shapes = {n: (count, *s) for n, s in spread(shape, list(denoiser.process.leaves()), "shape").items()}
        for field in ("given", "known"):
            if made.get(field) is not None:
                made[field] = _spread_out(made[field], shapes)
    return made


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
    return loop.trajectory(denoiser, planned(plan), count, **told(denoiser, count, options))


def sample(denoiser: BaseDenoiser, plan: Planned | Mapping[str, Planned], count: int = 1, **options: Unpack[Options]) -> Any:
    """Draw samples.

    Args:
        denoiser: learned, guided or exact.
        plan: a table, a draft such as `plans.dpmpp(20)`, or its word, "dpmpp:20"; for a product, one for all leaves or a dict.
        count: how many.
        options: see `langevin.core.sample.Options`; arrays may be numpy arrays or lists, one number in `cond` stands for all
            samples, and `given` and `known` may have any
            shape that broadcasts to (count, *shape), such as one mask (H, W) for all pictures.

    Returns:
        (count, *shape), or a dict of them for a product.

    Raises:
        ValueError: if plan, process, guidance or arguments do not fit each other.
    """
    return loop.sample(denoiser, planned(plan), count, **told(denoiser, count, options))
