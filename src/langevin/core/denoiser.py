"""Denoisers: network + prediction + process. `denoiser(z, t, cond)` says what the clean data was."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from langevin.core import prediction as predictions
from langevin.core.levels import KeptByLevel, expand
from langevin.core.posterior import Belief
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process
from langevin.core.tree import Tree, leaves, spread, tree

Shape: TypeAlias = tuple[int, ...] | Mapping[str, tuple[int, ...]]
_Parts: TypeAlias = dict[str, Tensor]
Cond: TypeAlias = Mapping[str, Tensor] | None
"""Conditions by name, each (B, ...). The name "drop", (B,) bool, marks samples whose conditions are dropped; a network
answers for them with its own learned null condition, as it does for all samples when cond is None."""


def home(model: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """Device and dtype of the weights; the CPU and None where there are none."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    return (torch.device("cpu"), None) if weights is None else (weights.device, weights.dtype)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """No dropout within. The mode of each part is put back, since the caller may be training, and with parts that are frozen."""
    was = [m for m in module.modules() if m.training] if module.training else []
    if was:
        module.eval()
    try:
        yield
    finally:
        for m in was:
            m.training = True


def check_entries(cond: Cond, count: int | None = None, field: str = "cond") -> None:
    """Refuse a condition that is no tensor with one entry for each sample; `field` names where they are given."""
    # a dict may watch what a network reads of it (`condition_use.RecordingCond`): this look is none of the network's
    for name, value in dict.items(cond) if isinstance(cond, dict) else ():
        if not isinstance(value, Tensor) or not value.ndim:
            raise ValueError(f"{field}[{name!r}] is {type(value).__name__}, no tensor (B, ...); give one: torch.full((B,), 3).")
        if count is not None and len(value) != count:
            raise ValueError(f"{field}[{name!r}] has {len(value)} entries for {count} samples; give one each.")


class BaseDenoiser(nn.Module, ABC):
    """Anything that holds beliefs: learned denoisers, guided ones, exact ones.

    Attributes:
        process: what destroyed the data.
        shape: shape of one sample (a dict by leaf for a product), or None while unknown.
        spread: how levels differed within a sample in training ("shared", "independent", "elements"); None for anything.
        leaps: it answers for the level to go to, cond["to"], as a `FlowMap` does.
    """

    process: Process
    shape: Shape | None = None
    spread: str | None = None
    leaps: bool = False

    def __call__(self, z: Tree, t: Any, cond: Cond = None, mask: Tensor | None = None) -> Belief:
        """The belief about x.

        Args:
            z: (B, *shape), or a dict of them for a product.
            t: level, one number, (B,), or one per element; for a product, a dict of levels or one for all.
            cond: conditions by name, each (B, ...); None drops them.
            mask: (B, N) bool, the real nodes of padded sets.

        Raises:
            ValueError: if a level or a leaf does not fit z, or a condition is no tensor.
        """
        check_entries(cond)
        process = self.process.leaves()
        states = leaves(z)
        if set(states) != set(process):
            raise ValueError(f"z has the leaves {sorted(states)}, the process has {sorted(process)}; give each one.")
        levels = {name: expand(level, states[name]) for name, level in spread(t, list(process), "t").items()}
        return super().__call__(states, levels, cond, mask)

    def believe(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        """`__call__` for the loop, which has its states and levels by leaf, checked and expanded."""
        return super().__call__(z, t, cond, mask)

    @abstractmethod
    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        """The belief, with states and expanded levels by leaf. Its tensors are new at each call: the loop keeps them."""


class Denoiser(BaseDenoiser):
    """A learned denoiser.

    Args:
        net: `net(z, level, cond=None, mask=None)`; for a product, z and level are dicts and so is the result. `level` is
            (B,) or, where levels differ within a sample, broadcastable to z.
        process: what destroys the data.
        prediction: a name ("v", "eps", "x0", "velocity", "score", "edm", "logits", "subs", ...) or a `Prediction`; for a
            product, a dict by leaf.
        shape: shape of one sample, e.g. (3, 64, 64); `fit` fills it in from the data.

    Raises:
        ValueError: if a prediction does not suit its process.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        prediction: str | Prediction | Mapping[str, str | Prediction] = "v",
        shape: Shape | None = None,
    ) -> None:
        super().__init__()
        self.net, self.process, self.shape = net, process, shape
        self._labels = KeptByLevel()
        self.predictions = {n: predictions.named(p) for n, p in spread(prediction, list(process.leaves()), "prediction").items()}
        for name, leaf in process.leaves().items():
            self.predictions[name].check(leaf, name)

    def extra_repr(self) -> str:
        return f"prediction={tree(self.predictions)}, shape={self.shape}"

    def outputs(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> dict[str, Tensor]:
        """What the network itself says, by leaf; levels are expanded. Objectives are computed on this."""
        process = self.process.leaves()
        inputs = {name: self.predictions[name].input(leaf, z[name], t[name]) for name, leaf in process.items()}
        labels = {name: self._label(name, leaf, z[name], t[name]) for name, leaf in process.items()}
        said = self.net(tree(inputs), tree(labels), cond, mask)
        if not isinstance(said, (Tensor, dict)) or hasattr(said, "sample"):
            raise ValueError(f"the network returned a {type(said).__name__}; wrap it to return its tensor, of diffusers .sample.")
        out = leaves(said)
        if set(out) != set(process):
            raise ValueError(f"the network returned the leaves {sorted(out)}, the process has {sorted(process)}; return each.")
        for name, leaf in process.items():
            self.predictions[name].check_output(leaf, out[name], z[name])
        return out

    def _label(self, name: str, leaf: LeafProcess, state: Tensor, t: Tensor) -> Tensor:
        """The number shown to the network: (B,), or per element."""
        if t.ndim or torch.is_grad_enabled() or torch.compiler.is_compiling() or leaf.schedule.learned:
            label = self.predictions[name].label(leaf, t).to(state.device)
            return label.reshape(-1).expand(len(state)) if math.prod(label.shape[1:]) == 1 else label
        # kept on the device it is needed on; the network's own copy is to do with as it likes
        key = (self.predictions[name], leaf.schedule, float(t), state.device)
        return self._labels.get_or(key, lambda: self.predictions[name].label(leaf, t).to(state.device)).repeat(len(state))

    def posteriors(self, out: _Parts, z: _Parts, t: _Parts, mask: Tensor | None = None) -> Belief:
        """Beliefs from what the network said; means lie in the space of their leaf, whatever the network knows of it."""
        process, told = self.process.leaves(), self.predictions
        return tree({n: leaf.confined(told[n].posterior(leaf, out[n], z[n], t[n]), mask) for n, leaf in process.items()})

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        return self.posteriors(self.outputs(z, t, cond, mask), z, t, mask)


def check_conditions(model: nn.Module, cond: Cond) -> None:
    """Let each part of a model that knows its conditions look at their values, which waits for the device they are on.

    Raises:
        ValueError: as the parts do.
    """
    for module in model.modules() if cond else ():
        getattr(module, "check_conditions", lambda cond: None)(cond)


def dropped(cond: Cond, drop: Tensor) -> Cond:
    """`cond` with the samples in `drop` (B,) bool marked as dropped."""
    if cond is None:
        return None
    already = cond.get("drop")
    return {**cond, "drop": drop if already is None else drop | already}
