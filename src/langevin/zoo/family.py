"""What a family says of itself: how a published configuration becomes a network of ours, and under which names."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from langevin.zoo.keys import KeyMap, match, to_ours, to_theirs

_LAYERS = 1000
_MARK = "_published_as"
HALVES = (torch.float16, torch.bfloat16)
Config = Mapping[str, Any]
"""A config.json as published."""
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Component:
    """One class of the published layout, such as UNet2DConditionModel.

    Args:
        name: the value of `_class_name`.
        build: config -> network. Keys that are missing have today's defaults of the class; keys that do not matter are passed
            over; a value that no network of ours computes is a ValueError that names key and value.
        keys: (config, network) -> the key map.
        config: the inverse of `build`, for networks trained here: network -> config, or None where that is not written yet. Of
            another kind of network it raises `OtherKind`, and ValueError of one of this kind that the class cannot describe.
        islands: patterns of parameter names that stay in float32 when the rest is loaded in half precision.
        overflows: whether a network leaves the range of float16, and stays in float32 as a whole where that is asked for.
    """

    name: str
    build: Callable[[Config], nn.Module]
    keys: Callable[[Config, nn.Module], KeyMap]
    config: Callable[[nn.Module], dict[str, Any]] | None = None
    islands: tuple[str, ...] = field(default=())
    overflows: Callable[[nn.Module], bool] = lambda net: False


class OtherKind(Exception):
    """A network, or a part of one, is of another kind than a published class has words for."""


def of_kind(part: object, kind: type[Kind]) -> Kind:
    """A network, or a part of one, of the kind that a `Component.config` has words for.

    Raises:
        OtherKind: for another.
    """
    if not isinstance(part, kind):
        raise OtherKind(f"a {type(part).__name__} is no {kind.__name__}")
    return part


class _Unset(TorchFunctionMode):
    """Leaves what would be drawn at random as it is in memory, untouched."""

    _drawing = frozenset({
        Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_,
        nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.zeros_, nn.init.ones_,
        nn.init.constant_, torch.randn,
    })  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._drawing:
            return func(*args, **kwargs)
        return torch.empty(*args, **kwargs) if func is torch.randn else (args[0] if args else kwargs["tensor"])


@contextmanager
def unset() -> Iterator[None]:
    """Networks made in the block have parameters of no value: no time is spent on weights that a file will replace."""
    with _Unset():
        yield


def built(part: Component, config: Config, what: str) -> nn.Module:
    """A network of a published configuration, its parameters of no value yet.

    Args:
        what: where the configuration comes from, for messages.

    Raises:
        ValueError: for a configuration of no network: of its own, or where building one fails, in one sentence.
    """
    for key, value in config.items():  # what the building would run through
        counts = value if isinstance(value, (list, tuple)) else [value]
        if "layers" in key and any(isinstance(n, (int, float)) and abs(n) > _LAYERS for n in counts):
            raise ValueError(f"{what}: {key[:80]} is {str(value)[:80]}, and no network has more than {_LAYERS} of them.")
    try:
        with unset():
            return part.build(config)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    except (TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ValueError(f"{what}: this configuration makes no {part.name} ({said}).") from None


def parameters(net: nn.Module) -> dict[str, Tensor]:
    """Everything of a network that a file holds, by our names."""
    return dict(net.state_dict(keep_vars=True))


def load_into(
    net: nn.Module,
    keys: KeyMap,
    names: list[str],
    read: Callable[[str], Tensor],
    what: str,
    dtype: torch.dtype | None = None,
    islands: Sequence[str] = (),
) -> nn.Module:
    """Give a network the tensors of a file. Nothing is copied where names answer one to one and dtypes agree.

    Args:
        names: of the file's tensors. read: one of them, by the file's name.
        dtype: of floating tensors afterwards; the file's by default, and bfloat16 of a file in 8 bits, in which nothing computes.
        islands: patterns of our names that are in float32 where that would be half precision.

    Raises:
        ValueError: naming what is missing, left over, or of another shape; the network is then as it was.
    """
    ours = parameters(net)
    rows = keys.rows(ours)
    stored = match(rows, names, keys, what)

    wide = {n for row in rows for n in row.theirs if any(re.fullmatch(pattern, row.ours) for pattern in islands)}

    def one(name: str) -> Tensor:
        value = read(stored[name])
        if not value.is_floating_point():
            return value
        if dtype is None and value.element_size() == 1:
            eighths.append(name)
        wanted = dtype or (torch.bfloat16 if eighths else value.dtype)
        return value.to(torch.float32 if name in wide and wanted in HALVES else wanted)

    eighths: list[str] = []
    shapes = {n: tuple(p.shape) for n, p in ours.items()}
    made = to_ours(rows, shapes, one, what)
    if eighths:  # what else the file has in other numbers would not go together with them
        made = to_ours(rows, shapes, one, what)
    net.load_state_dict(made, assign=True)
    return net


def fill(part: Component, net: nn.Module, config: Config, source: Any, what: str, dtype: torch.dtype | None = None) -> nn.Module:
    """`load_into` as the family says: with its names, its islands in float32, and in float32 what overflows float16.

    Args:
        source: has `names` and `read`, as `store.Weights` and `layouts.Piece` do.
    """
    if dtype == torch.float16 and part.overflows(net):
        dtype = torch.float32
    return load_into(net, part.keys(config, net), source.names, source.read, what, dtype, part.islands)


def mark(net: nn.Module, kind: str, config: Config) -> nn.Module:
    """Keep with a network the class and the configuration that it was made of, so that it can be saved again."""
    setattr(net, _MARK, (kind, config))
    return net


def marked(net: nn.Module) -> tuple[str, Config] | None:
    """What `mark` has kept, also with a copy of the network."""
    return getattr(net, _MARK, None)


def published(net: nn.Module, keys: KeyMap) -> dict[str, Tensor]:
    """The network's tensors under their names, as they are saved."""
    ours = {name: value.detach() for name, value in parameters(net).items()}
    return to_theirs(keys.rows(ours), ours)
