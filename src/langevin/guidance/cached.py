"""Networks that are asked only where something has changed since they were asked."""

import copy

import torch
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser


class Cached:
    """A guidance for networks that are not told the level, as those of masks need not be (2406.03736): what one says of a state
    holds until the state changes, so that a step which reveals nothing in a sample asks nothing for it (MDLM's cached sampler,
    2406.07524). Samples are those without it. Other guidance goes around it.

    MDLM's sampler asks for the whole batch as soon as one sample has changed; here each goes by itself.

    Args:
        together: as MDLM has it, for networks that cannot be asked for a part of the batch.

    Attributes:
        computed, left: evaluations of single samples that were made, and left out, since it last went around a denoiser.
    """

    def __init__(self, together: bool = False) -> None:
        self.together = together
        self.computed = self.left = 0

    def __call__(self, denoiser: BaseDenoiser) -> Denoiser:
        """
        Raises:
            ValueError: for what has no network of its own, and for a network that does not say that it is not told the level, by
                an attribute `timed` that is False.
        """
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"{type(denoiser).__name__} asks another denoiser; let Cached go around that, and guidance around it."
            )
        if getattr(denoiser.net, "timed", True):
            raise ValueError(
                f"{type(denoiser.net).__name__} is told the level, or does not say otherwise (timed = False), and so changes its "
                "mind of a state that stands still; leave Cached out."
            )
        self.computed = self.left = 0
        made = copy.copy(denoiser)
        made._modules = {**denoiser._modules, "net": _Kept(denoiser.net, self)}
        return made


class _Kept(nn.Module):
    """A network and what it last said; it shares weights with the one that it is made of."""

    timed = False

    def __init__(self, net: nn.Module, cached: Cached) -> None:
        super().__init__()
        self.net, self.cached = net, cached
        self.told: dict[str, Tensor] = {}
        self.said = torch.empty(0)

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():  # what is kept has no gradient
            return self.net(z, level, cond, mask)
        told = {"": z, **{f"cond {name}": value for name, value in (cond or {}).items()}}
        if mask is not None:
            told["mask"] = mask
        rows = self._changed(told).nonzero()[:, 0]
        if len(rows) == len(z) or (self.cached.together and len(rows)):
            rows, said = torch.arange(len(z), device=z.device), self.net(z, level, cond, mask)
        else:
            said = self.said.clone()
            if len(rows):
                some = None if cond is None else {name: value[rows] for name, value in cond.items()}
                at = level[rows] if len(level) == len(z) else level
                said[rows] = self.net(z[rows], at, some, None if mask is None else mask[rows])
        self.cached.computed, self.cached.left = self.cached.computed + len(rows), self.cached.left + len(z) - len(rows)
        # whoever watches the loop may change a state in place
        self.told, self.said = {name: value.clone() for name, value in told.items()}, said
        return said.clone()

    def _changed(self, told: dict[str, Tensor]) -> Tensor:
        """(B,) bool, the samples of which something is not as it was."""
        before = self.told
        if before.keys() != told.keys() or any(before[name].shape != value.shape for name, value in told.items()):
            return torch.ones(len(told[""]), dtype=torch.bool)
        return torch.stack([(before[name] != value).reshape(len(value), -1).any(1) for name, value in told.items()]).any(0)
