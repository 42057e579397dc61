"""Whether a network reads cond["drop"]: one that does not cannot be guided, and says nothing of it by itself."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

_ELSEWHERE = {"drop", "to"}
"""Names that are no conditions of the data."""


class RecordingCond(dict[str, Any]):
    """Conditions that record which of them were read. Whoever goes over all of them has read all."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.names: set[str] = set()

    def _all(self) -> None:
        self.names.update(dict.keys(self))

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.update({name} & {"drop"})  # pyright: ignore[reportArgumentType, reportCallIssue]
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.names.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.names.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:  # with this `{**cond}` and `dict(cond)` come by here as well
        self._all()
        return super().__iter__()

    def keys(self) -> Any:
        self._all()
        return super().keys()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def copy(self) -> Any:
        self._all()
        return super().copy()

    def __or__(self, other: Any) -> Any:
        self._all()
        return super().__or__(other)

    @property
    def drop_ignored(self) -> bool:
        """Whether conditions were read, and not which of them are dropped."""
        return bool(self.names - _ELSEWHERE) and "drop" not in self.names


def warn_if_drop_ignored(cond: RecordingCond, what: str, stacklevel: int = 3) -> None:
    """Say in one sentence that `what` is for nothing."""
    if cond.drop_ignored:
        warnings.warn(
            f"this network reads cond[{min(cond.names - _ELSEWHERE)!r}] and ignores cond['drop'], so that {what}; let it answer "
            "without conditions where that is True, see docs/training.md.",
            stacklevel=stacklevel,
        )


def compiled(module: nn.Module) -> bool:
    """Whether a part of it is compiled: other arguments would have it compiled anew."""
    return any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in module.modules())


@contextmanager
def watching_drop(net: nn.Module, what: str) -> Iterator[None]:
    """Warn at the end if `net(z, level, cond, mask)` was called with dropped conditions and did not read which."""
    calls: list[RecordingCond] = []

    def wrap(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) < 3 or not isinstance(args[2], Mapping) or "drop" not in args[2]:
            return None
        calls.append(RecordingCond(args[2]))
        return (*args[:2], calls[-1], *args[3:])

    handle = net.register_forward_pre_hook(wrap)
    try:
        yield
    finally:
        handle.remove()
    for cond in calls[:1]:
        warn_if_drop_ignored(cond, what, 6)


def check_signature(net: nn.Module) -> None:
    """
    Raises:
        ValueError: for a network that cannot be called as a denoiser calls it.
    """
    try:
        inspect.signature(net.forward).bind(0, 0, None, None)
    except TypeError:
        said = f"{type(net).__name__}.forward takes {inspect.signature(net.forward)}"
        raise ValueError(f"net is called as net(z, level, cond, mask), and {said}; wrap it, as docs/training.md shows.") from None
