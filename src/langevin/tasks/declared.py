"""Networks compiled for requests of declared sizes: all of it before the first request, and nothing again after."""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from langevin.tasks.generate import Generator
from langevin.tasks.memory import arranged

Sizes = Sequence[tuple[int, int]]


class Declared:
    """Calls of a network, compiled for the shapes that it met while it was open, and as they are for all others.

    A compiler would take any other shape for a reason to compile again, which takes a request minutes; or, once it has compiled
    often enough, for one to give up on all shapes. Here it is never asked.

    Args:
        net: whose calls they are; it is left as it is. backend: of torch.compile.
    """

    def __init__(self, net: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
        self._plain: Callable[..., Any] = net._call_impl
        self._made = torch.compile(self._plain, backend=backend, dynamic=False)
        self._known: set[Any] = set()
        self.open = True

    @property
    def shapes(self) -> int:
        """How many kinds of calls were met."""
        return len(self._known)

    def __call__(self, *args: Any, **options: Any) -> Any:
        key = (torch.is_grad_enabled(), _key(args), _key(options))
        if key not in self._known:
            if not self.open:
                warnings.warn(
                    "a request has a size, a batch or conditions that were not declared, and runs uncompiled; declare it, see "
                    "langevin.tasks.declared.",
                    stacklevel=3,
                )
                return self._plain(*args, **options)
            self._known.add(key)
        return self._made(*args, **options)


def declared(
    model: Generator,
    sizes: Sizes,
    batches: Sequence[int] = (1,),
    guidance: Sequence[float | None] = (None, 1.0),
    also: Sequence[Mapping[str, Any]] = ({},),
    backend: str | Callable[..., Any] = "inductor",
) -> Generator:
    """Compile the network of a generator for every combination of these, by drawing one picture of each in two steps.

    Afterwards requests of these sizes and batches compile nothing, in whatever order they come, whatever their prompts, plans,
    numbers of steps, seeds, strengths of guidance and of adapters. One of another size runs uncompiled and says so. Adapters are
    added before. Text encoders and autoencoders, which run once a picture, stay as they are.

    Args:
        sizes: (width, height) in pixels.
        batches: pictures in one call of the network (`batch` of a request, its `count` where it says none).
        guidance: kinds of strength: None for the model's own, 1 for none, which halves the batch of a call.
        also: what else requests differ in as far as shapes go: options of `Generator.run`, one mapping for each kind, such as
            {"prompt": ..., "long": True} or {"image": ..., "mask": ...}.
        backend: of torch.compile.

    Returns:
        The same generator, whose network is compiled in place.

    Raises:
        ValueError: for no sizes, a model that is arranged in a budget of memory or compiled already, and as `Generator.run`.
    """
    net = _network(model)
    if not sizes or not batches or not guidance or not also:
        raise ValueError("sizes, batches, guidance and also need an entry each; declare at least one size.")
    if (why := arranged(model)) is not None:
        raise ValueError(f"the model was loaded in a budget, where {why}, and no graph holds that; load it without one.")
    if net._compiled_call_impl is not None:
        raise ValueError("the network is compiled already; load it anew to declare other sizes.")
    made = Declared(net, backend)
    net._compiled_call_impl = made  # what nn.Module.compile sets, and copies leave out
    asked = {} if model.conditioner is None else {"prompt": ""}
    kinds = list(itertools.product(sizes, batches, guidance, also))
    try:
        with torch._dynamo.config.patch(
            recompile_limit=max(8, 4 * len(kinds)), accumulated_recompile_limit=max(256, 8 * len(kinds))
        ):
            for size, batch, strength, more in kinds:
                model.run(**{**asked, "steps": 2, **more, "size": size, "count": batch, "guidance": strength})
    except BaseException:
        net._compiled_call_impl = None
        raise
    made.open = False
    return model


def is_declared(model: Generator) -> bool:
    """Whether the network of a generator is compiled for declared sizes."""
    return isinstance(getattr(getattr(model.denoiser, "net", None), "_compiled_call_impl", None), Declared)


def _network(model: Generator) -> nn.Module:
    net = getattr(model.denoiser, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError(f"the denoiser is a {type(model.denoiser).__name__} without a network of its own; compile what it asks.")
    return net


def _key(value: Any) -> Any:
    """All of the arguments of a call that a graph is made for."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, Mapping):
        return tuple((name, _key(one)) for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(_key, value))
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value)
