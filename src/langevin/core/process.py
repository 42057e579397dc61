"""Processes: known ways to destroy data, and the two laws from which everything else is written once.

    marginal(x, t)               draws z_t given x
    bridge(z_t, belief, t, s)    draws z_s (s < t) given z_t and a belief about x

and the prior, the marginal at t = 1. Levels handed to a process are already expanded (see `levels`).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.levels import Level
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.schedule import Schedule
from langevin.core.space import Space


class Process(nn.Module, ABC):
    """Anything with leaves: a single process is its own leaf `""`, a product has several."""

    @abstractmethod
    def leaves(self) -> "dict[str, LeafProcess]":
        """The leaf processes by name."""

    def __format__(self, _: str) -> str:
        """In messages: one line, where a module's own form has many."""
        parts = ", ".join(f"{name}: {type(leaf).__name__}" for name, leaf in self.leaves().items() if name)
        return type(self).__name__ + f"({parts})" * bool(parts)


class LeafProcess(Process):
    """A process on one tensor.

    Attributes:
        schedule: how far the data is destroyed at each level.
        space: where states and noise live.
        kind: "gaussian" or "categorical", for messages and for the parts that exist for one kind only.
    """

    schedule: Schedule
    space: Space
    kind: str

    def leaves(self) -> "dict[str, LeafProcess]":
        return {"": self}

    def confined(self, belief: Any, mask: Tensor | None) -> Any:
        """A belief whose mean lies in the space; beliefs in categories are where states are drawn."""
        return belief

    @abstractmethod
    def check_data(self, x: Tensor, what: str = "data") -> None:
        """Refuse data of the wrong type, or out of range."""

    @abstractmethod
    def marginal(self, x: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        """z_t given x. x (B, *shape), t expanded, result like x."""

    @abstractmethod
    def prior(
        self, shape: tuple[int, ...], noise: Noise, mask: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(B, *shape), the marginal at t = 1 of data that is forgotten there; dtype is that of continuous states."""

    @abstractmethod
    def bridge(
        self, z: Tensor, belief: Any, t: Level, s: Level, noise: Noise, eta: float = 1.0, mask: Tensor | None = None
    ) -> Tensor:
        """z_s given z_t and a belief about x, s < t. Every eta in [0, 1] keeps the marginals."""

    @abstractmethod
    def renoise(self, z: Tensor, s: Level, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        """z_t given z_s, s < t: the process itself, from s on."""

    @abstractmethod
    def kl(self, x: Tensor, belief: Any, z: Tensor, t: Level, s: Level) -> Tensor:
        """KL(q(z_s | z_t, x) || q(z_s | z_t, belief)) per element, (B, *shape), in nats: the ELBO term at eta = 1."""

    @abstractmethod
    def check(self, plan: Plan, leaf: str) -> None:
        """Refuse a plan that this process cannot run.

        Raises:
            ValueError: in one sentence that names the leaf and the remedy.
        """

    # What the sampling loop asks of a leaf. Numbers are made once, before the loop.

    @abstractmethod
    def numbers(self, plan: Plan) -> list[Any]:
        """What each row needs, computed in float64 before the loop."""

    def draws(self, number: Any) -> bool:
        """Whether a row draws fresh noise."""
        return True

    @abstractmethod
    def observe(self, belief: Any, z: Tensor, number: Any) -> Tensor:
        """The evaluation in the plan's basis."""

    @abstractmethod
    def advance(
        self, start: Tensor, history: list[Tensor], belief: Any, number: Any, noise: Noise, mask: Tensor | None
    ) -> Tensor:
        """The state after the row: `start` moved by the mixed evaluations in `history`, newest first."""


class Product(Process):
    """A dict of processes, one per modality, each at its own level. One network call serves them all.

    States, data and levels are dicts by leaf name; a bare level is shared by all leaves.
    """

    def __init__(self, leaves: dict[str, LeafProcess]) -> None:
        super().__init__()
        if not leaves:
            raise ValueError("a product has no leaves; give a dict of processes by name.")
        for name, leaf in leaves.items():
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                raise ValueError(f"a leaf is named {name!r}; use a plain word that is no method of a module dict.")
            if not isinstance(leaf, LeafProcess):
                raise ValueError(f"leaf {name!r} is a {type(leaf).__name__}; leaves are Gaussian or Categorical processes.")
        self._leaves = nn.ModuleDict(leaves)

    def leaves(self) -> dict[str, LeafProcess]:
        return {name: leaf for name, leaf in self._leaves.items() if isinstance(leaf, LeafProcess)}

    def _lift(self, method: str, noise: Noise | None, *trees: dict[str, Any], **shared: Any) -> dict[str, Any]:
        def keys(name: str) -> dict[str, Any]:
            return {**shared, "noise": noise.at(name)} if noise is not None else shared

        return {n: getattr(leaf, method)(*(tree[n] for tree in trees), **keys(n)) for n, leaf in self.leaves().items()}

    def _levels(self, t: Any) -> dict[str, Any]:
        return t if isinstance(t, dict) else dict.fromkeys(self._leaves, t)

    def marginal(self, x: dict[str, Tensor], t: Any, noise: Noise) -> dict[str, Tensor]:
        return self._lift("marginal", noise, x, self._levels(t))

    def prior(self, shape: dict[str, tuple[int, ...]], noise: Noise) -> dict[str, Tensor]:
        return self._lift("prior", noise, shape)

    def bridge(
        self, z: dict[str, Tensor], belief: dict[str, Any], t: Any, s: Any, noise: Noise, eta: float = 1.0
    ) -> dict[str, Tensor]:
        return self._lift("bridge", noise, z, belief, self._levels(t), self._levels(s), eta=eta)

    def kl(self, x: dict[str, Tensor], belief: dict[str, Any], z: dict[str, Tensor], t: Any, s: Any) -> dict[str, Tensor]:
        return self._lift("kl", None, x, belief, z, self._levels(t), self._levels(s))


def check_schedule(schedule: object) -> None:
    """Refuse what is no schedule. Raises ValueError."""
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule is {schedule!r}; pass a schedule, such as schedules.cosine() or core.schedule.Formula(...).")
    schedule.check()


def check_ids(x: Tensor, noise: Noise) -> None:
    """Refuse noise for another number of samples. Raises ValueError."""
    if len(noise.ids) != len(x):
        raise ValueError(f"noise is for {len(noise.ids)} samples and there are {len(x)}; make it with Noise.of(seed, {len(x)}).")


def check_eta(eta: float) -> None:
    """Refuse an eta beyond [0, 1]. Raises ValueError."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it lies in [0, 1], 0 deterministic and 1 ancestral.")


def check_descent(t: Tensor, s: Tensor) -> None:
    """Refuse a bridge that climbs, of levels on the CPU. Raises ValueError."""
    # on a GPU the check would wait for the device
    if t.device.type == s.device.type == "cpu" and not bool((s <= t).all()):
        raise ValueError("the bridge goes from t down to s, but s > t somewhere; swap the two levels.")
