"""Discrete flows by conditional rates, as graphs are drawn with few steps (DeFoG, 2410.04263; Campbell et al., 2402.04997).

Time is the keep-probability alpha, from 0 at noise to 1 at data, whatever the schedule: so a model that was trained by
cross-entropy under any of them can be drawn from this way, without training anew. Given x, with m(z) = alpha [z = x] +
(1 - alpha) pi(z) and Z the number of states where m is not 0, a state z jumps to y at the rate

    [m'(y) - m'(z)]_+ / (Z m(z))  +  omega [y = x] / (Z m(z))  +  eta m(y),

the least rate that makes the marginals, a pull towards x, and a rate in detailed balance, which keeps them for every eta. The
denoiser's belief averages over x. A state that is x leaves it by eta alone; for the others the first two rates are

    (1 - pi(x) + pi(z) + omega) to x,   (pi(z) - pi(y))_+ to others,   both over Z (1 - alpha) pi(z),

and they are integrated exactly over a step, with the belief held. For a mask the first alone is the bridge of `ddpm`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical, LowRank
from langevin.core.plan import Draft, Plan, joined
from langevin.core.posterior import CategoricalPosterior
from langevin.core.schedule import Schedule
from langevin.plans.first_order import check_steps
from langevin.plans.tokens import JumpRow, alpha_at, check_categorical, check_falls, taken, where_blank

DISTORTIONS = {
    "none": lambda u: u,
    "polydec": lambda u: 2 * u - u * u,
    "polyinc": lambda u: u * u,
    "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
}
"""From the share of steps to alpha: "polydec" takes small steps where data is near, which is where a graph is spoilt."""


@dataclass(frozen=True, kw_only=True)
class ConditionalJump(JumpRow):
    """A step of the jump process; see the module. No position jumps twice in it; the one to level 0 draws from the belief.

    Args:
        eta: rate of further jumps that keep the marginals, in units of alpha.
        omega: pull towards what the belief holds likely; above 0 the marginals are not kept.
    """

    start: float
    stop: float
    eta: float = 0.0
    omega: float = 0.0

    def __post_init__(self) -> None:
        check_falls(self)
        for name in ("eta", "omega"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number that is not negative.")

    def check(self, leaf: Any) -> None:
        check_categorical(leaf, "defog")
        if not isinstance(leaf.kernel, LowRank):
            raise ValueError(
                f"defog knows the rates of low-rank kernels, and this is a {type(leaf.kernel).__name__} one; use ddpm."
            )

    def probs(self, leaf: Categorical, z: Tensor, belief: CategoricalPosterior) -> Tensor:
        limit, here = leaf.kernel.limit.to(z.device), leaf.one_hot(z)
        # states that noise never makes are data; where they cannot be, there is no belief
        p, padding = belief.probs.double().nan_to_num(), (0, leaf.states - leaf.categories)
        if self.stop == 0:
            return torch.where(limit[z][..., None] > 0, torch.nn.functional.pad(p, padding), here)
        early, late = alpha_at(leaf, self.start), alpha_at(leaf, self.stop)
        jumps = math.log((1 - early) / (1 - late)) * self._table(leaf, limit)[z]  # (B, *shape, K, S)
        hazard = (p[..., None, :] @ jumps)[..., 0, :]
        if self.eta:
            back = ((1 - early) ** 2 - (1 - late) ** 2) / 2
            balanced = torch.nn.functional.pad(p, padding) * (late**2 - early**2) / 2 + back * limit
            hazard = hazard + self.eta * balanced
        hazard = hazard * (1 - here)
        total = hazard.sum(-1, keepdim=True)
        stay = (-total).exp()
        return stay * here + (1 - stay) * hazard / total.clamp(min=1e-300)

    def _table(self, leaf: Categorical, limit: Tensor) -> Tensor:
        """(S, K, S), the rates from z to y given x, times 1 - alpha."""
        eye = torch.eye(leaf.states, dtype=torch.float64, device=limit.device)
        x = eye[: leaf.categories]
        support = (limit > 0) | (x > 0)  # (K, S)
        count = support.sum(-1)[None, :, None]
        at, to = limit[:, None, None], limit[None, None, :]
        least = torch.where(
            x > 0, (1 - limit[: leaf.categories])[None, :, None] + at + self.omega, (at - to).clamp(min=0) * support
        )
        rates = least / (count * at.clamp(min=1e-300))
        return torch.where((at > 0) & (x.T[..., None] == 0), rates, 0.0)


def defog(steps: int = 50, eta: float = 0.0, omega: float = 0.0, distortion: str = "polydec") -> Draft:
    """Discrete flow of graphs (DeFoG, 2410.04263), `steps` evaluations of a model of any schedule. See `ConditionalJump`.

    Args:
        eta: further jumps, which mend what went wrong. omega: pull towards the belief. distortion: of time, of `DISTORTIONS`.
    """
    check_steps(steps)
    if distortion not in DISTORTIONS:
        raise ValueError(f"distortion is {distortion!r}; choose one of {', '.join(DISTORTIONS)}.")
    name = f"defog({steps}, eta={eta:g}, omega={omega:g}, {distortion})"
    row = ConditionalJump(start=1.0, stop=0.0, eta=eta, omega=omega)

    def fill(schedule: Schedule) -> Plan:
        kept = torch.tensor([DISTORTIONS[distortion](i / steps) for i in range(1, steps)], dtype=torch.float64)
        levels = [1.0, *where_blank(schedule, taken("defog", schedule) * (1 - kept)).tolist(), 0.0]
        return Plan(name=name, basis="x0", order=1, rows=tuple(replace(row, start=t, stop=s) for t, s in joined(levels)))

    return Draft(name, fill)
