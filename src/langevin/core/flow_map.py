"""Flow maps: network + process + prediction, told where to go. `flow_map.jump(z, t, s, cond)` is the state at level s.

The belief x^(z, t, s) is that x with which the deterministic bridge from z lands where the probability flow ends at s:

    jump(z, t, s) = A z + B x^(z, t, s),   A = sigma_s / sigma_t,   B = alpha_s - A alpha_t.

One form serves all: on the flow schedule with prediction "velocity" the network's output is the mean velocity between t and s
(MeanFlow, 2505.13447; shortcut models, 2410.12557), jump = z - (t - s) u; with s = 0 it is a consistency function
(2303.01469); for EDM's sigma it is the (s / t) z + (1 - s / t) g of consistency trajectories (2310.02279). jump(z, t, t) = z
holds by construction, and the belief at s = t is that of a denoiser.
"""

from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level, expand
from langevin.core.tree import leaves


class FlowMap(Denoiser):
    """A denoiser that is also told the level to go to, as cond["to"], (B,) or per element; without it, it is a denoiser.

    Args:
        net: as for `Denoiser`, with a condition "span" (B,): the number shown for t less the one shown for s.
        process: one Gaussian process. prediction, shape: as for `Denoiser`.

    Raises:
        ValueError: for any other process.
    """

    leaps = True

    def __init__(self, net: Any, process: Any, prediction: Any = "velocity", shape: Any = None) -> None:
        if not isinstance(process, Gaussian):
            raise ValueError(f"a flow map leaps along the flow of one Gaussian process, and this is {process}; use a Denoiser.")
        super().__init__(net, process, prediction, shape)
        self.leaf = process

    def outputs(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> dict[str, Tensor]:
        given = dict(cond or {})
        state, level, to = z[""], t[""], given.pop("to", None)
        batch = len(state)
        if to is None:
            given["span"] = torch.zeros(batch, device=state.device)
        else:
            label = self.predictions[""].label
            span = label(self.leaf, level) - label(self.leaf, expand(to, state))
            span = span.flatten(1).amax(1) if span.ndim else span  # of elements that are known it is 0
            given["span"] = span.expand(batch).to(state.device)
        return super().outputs(z, t, given, mask)

    def jump(self, z: Tensor, t: Level, s: Level, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z_s (B, *shape), where the flow takes z (B, *shape) from level t to s <= t.

        Args:
            t, s: one number, (B,), or one per element.
        """
        t, s = expand(t, z), expand(s, z)
        to = s.expand(len(z), *s.shape[1:]) if s.ndim else s.expand(len(z))
        belief = leaves(self(z, t, {**(cond or {}), "to": to}, mask))[""]
        return self.leaf.land(z, belief.mean, t, s)
