"""Couplings: which noise, or which data of another kind, meets which data in a training batch."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from langevin import spec
from langevin.core.batch import Batch
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.interpolants import Interpolant


class Coupling(ABC):
    """Pairs a batch of data with a batch of noise (or other data), by choosing among the noise. Data keeps its place.

    Attributes:
        paired: the data has to bring the other ends itself, as `Batch.source`.
        moves: noise goes to another sample than the one it was drawn for.
    """

    paired, moves = False, True

    @abstractmethod
    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        """Rows of e (B, ...) that meet x (B, ...); `noise` for couplings that draw them."""


class Independent(Coupling):
    """Noise meets data as drawn; the only coupling whose marginals are those of the Gaussian process."""

    moves = False

    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        return e


class Paired(Independent):
    """Each sample meets the `Batch.source` it comes with (rectified flow, 2209.03003); data without one is refused."""

    paired = True


class OptimalTransport(Coupling):
    """Minibatch optimal transport: the exact assignment of least squared distance (2302.00482; 2304.14772).

    Every row of e is used once. Within each class where labels are given: a plan over the whole batch would bias noise given
    the class. Needs scipy (extra `metrics`).
    """

    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise ImportError("optimal transport needs scipy; install the extra: pip install 'langevin[metrics]'.") from None
        out = e.clone()
        groups = torch.zeros(len(x), dtype=torch.int64) if label is None else label.cpu()
        for value in groups.unique():
            index = (groups == value).nonzero()[:, 0].to(x.device)
            cost = torch.cdist(x[index].flatten(1).double(), e[index].flatten(1).double()) ** 2
            rows, columns = linear_sum_assignment(cost.cpu().numpy())
            out[index[torch.from_numpy(rows)]] = e[index[torch.from_numpy(columns)]]
        return out


class Entropic(Coupling):
    """Entropic optimal transport between two batches (Sinkhorn, 1306.0895), in log space.

    With reg = 2 sigma^2 and an `Interpolant(flow(), noise=sigma)` it is Schroedinger-bridge matching (SB-CFM, 2302.00482,
    table 1). The whole batch of data is kept: each x meets one e, drawn from its row of the plan. A row of e may meet
    several x, or none; on average each meets one. Within each class where labels are given, as in `OptimalTransport`.

    Args:
        reg: factor of the entropy, in units of a squared distance.
        iterations: at most so many at the final reg, which is reached by halving.
        tolerance: largest relative error of the plan's marginals.

    Raises:
        ValueError: if reg is not above 0.
    """

    def __init__(self, reg: float = 0.5, iterations: int = 2000, tolerance: float = 1e-3) -> None:
        if not 0 < reg < math.inf or iterations < 1 or not tolerance > 0:
            raise ValueError(f"reg is {reg}, iterations {iterations}, tolerance {tolerance}; all lie above 0.")
        self.reg, self.iterations, self.tolerance = float(reg), iterations, tolerance

    def plan(self, x: Tensor, e: Tensor, label: Tensor | None = None) -> Tensor:
        """log of the plan (B, B), float64; its rows sum to 1/B exactly, its columns within the tolerance."""
        cost = torch.cdist(x.flatten(1).double(), e.flatten(1).double()) ** 2
        if label is not None:
            cost = cost.masked_fill(label[:, None] != label[None], math.inf)
        share, reg = math.log(len(x)), max(self.reg, float(cost[cost.isfinite()].max()))
        f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
        for i in range(self.iterations + 64):
            reg = max(self.reg, reg / 2)
            g = -reg * (torch.logsumexp((f[:, None] - cost) / reg, 0) + share)
            f = -reg * (torch.logsumexp((g - cost) / reg, 1) + share)
            if reg == self.reg and i % 10 == 9:
                log_plan = (f[:, None] + g - cost) / reg
                if float((torch.logsumexp(log_plan, 0) + share).expm1().abs().max()) < self.tolerance:
                    return log_plan
        warnings.warn(f"the plan has not converged in {self.iterations} iterations; raise reg or the tolerance.", stacklevel=3)
        return (f[:, None] + g - cost) / reg

    def __call__(self, x: Tensor, e: Tensor, label: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        if noise is None:
            raise ValueError("an entropic plan is drawn from, and there is no noise to do so; pass noise=.")
        chosen = (self.plan(x, e, label) + noise.gumbel((len(e),)).to(x.device)).argmax(1)
        return e[chosen]


COUPLINGS: dict[str, Callable[..., Coupling]] = {
    "independent": Independent, "paired": Paired, "ot": OptimalTransport, "entropic": Entropic,
}  # fmt: skip


def named(coupling: str | Coupling) -> Coupling:
    """A coupling by name, with its options ("entropic:reg=0.5"), or the one given."""
    return spec.parse(coupling, COUPLINGS, "coupling") if isinstance(coupling, str) else coupling


def partners(coupling: Coupling, leaf: Gaussian, batch: Batch, noise: Noise, name: str = "") -> Tensor:
    """The other end of each sample's path, (B, *shape): the data's own source where it brings one, else fresh noise, as coupled.

    Raises:
        ValueError: if the process or the coupling needs a source and the data brings none, or one of another shape, or if the
            coupling hands noise from sample to sample and these differ in size.
    """
    x = leaves(batch.x)[name]
    if coupling.moves and batch.mask is not None:
        raise ValueError(f"coupling is {type(coupling).__name__}, which would give padded samples the noise of another's size; "
                         "use 'independent'.")  # fmt: skip
    if coupling.moves and name:
        raise ValueError(f"coupling is {type(coupling).__name__}, which would match leaf {name!r} by itself, and a sample has "
                         "one partner; use 'independent' for products.")  # fmt: skip
    source = None if batch.source is None else leaves(batch.source).get(name)
    if source is None:
        if coupling.paired or isinstance(leaf, Interpolant):
            why = "an interpolant" if isinstance(leaf, Interpolant) else "a paired coupling"
            raise ValueError(f"{why} needs the other end of each sample, and the data brings no source; use langevin.data.Pairs.")
        source = leaf.noise(x, noise, batch.mask)
    if source.shape != x.shape:
        raise ValueError(f"source has shape {tuple(source.shape)} and the data {tuple(x.shape)}; make them agree.")
    return coupling(x, source, (batch.cond or {}).get("label"), noise.at("coupling"))
