"""Batches as a network in training reads them: looked at on the host, then where the network is, at the size that is due."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.tree import leaves, tree_map


class Readied:
    """Makes batches ready for `denoiser`.

    Args:
        resolutions: pairs (share of the run, side): pictures have that side until then, and their own after the last.
        device, dtype: of the network; integers keep their type.
    """

    def __init__(
        self, denoiser: Denoiser, resolutions: Sequence[tuple[float, int]], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.denoiser, self.resolutions, self.device, self.dtype = denoiser, resolutions, device, dtype
        # a part of a network that reads conditions may refuse some of them
        checks = [getattr(part, "check_conditions", None) for part in denoiser.net.modules()]
        self._checks: list[Callable[..., object]] = [check for check in checks if callable(check)]

    def __call__(self, batch: Batch, done: float) -> Batch:
        """`batch`, when a share `done` of the run is behind.

        Raises:
            ValueError: if categories or conditions are out of range.
        """
        self._check(batch)
        cond = None if batch.cond is None else {n: self._moved(c) for n, c in batch.cond.items()}
        mask = None if batch.mask is None else batch.mask.to(self.device, non_blocking=True)
        side = next((side for until, side in self.resolutions if done < until), None)

        def ready(v: Tensor) -> Tensor:
            v = self._moved(v)
            return F.interpolate(v, side, mode="area") if side and v.ndim == 4 and v.is_floating_point() else v

        source = None if batch.source is None else tree_map(ready, batch.source)
        return Batch(tree_map(ready, batch.x), cond, mask, source)

    def _check(self, batch: Batch) -> None:
        """Refuse categories and labels that are out of range while they are on the host: on a GPU a look at them would wait for
        the device, so that nobody looks there."""
        parts = self.denoiser.process.leaves()
        for name, x in leaves(batch.x).items():
            if hasattr(parts.get(name), "categories") and not x.is_floating_point():
                parts[name].check_data(x)
        for check in self._checks:
            check(batch.cond)

    def _moved(self, v: Tensor) -> Tensor:
        return v.to(self.device, self.dtype if v.is_floating_point() else None, non_blocking=True)
