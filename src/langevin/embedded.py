"""Categories as points of a Euclidean space: data are ids, the process between them and noise is Gaussian.

    id w  ->  x0 ~ N(E_w, std^2)  ->  z_t = alpha_t x0 + sigma_t e

With a learned table E this is Diffusion-LM (2205.14217); with centred one-hot vectors, or the centres of bins, and the schedules
of Bayesian flow networks it is those (`langevin.bayesian_flow`). A network may predict the point (any Gaussian prediction) or
say logits over the categories (`Logits`), whose belief is the mean of the points under them. So plans, guidance and the loop are
those of Gaussian processes. Samples are points; `Embedded.round` makes ids of them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.denoiser import Shape
from langevin.core.gaussian import Gaussian
from langevin.core.levels import Level, broadcastable, cast
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process
from langevin.core.schedule import Schedule
from langevin.core.space import Space
from langevin.core.tree import leaves, tree


@dataclass(frozen=True, kw_only=True)
class EmbeddedPosterior(CategoricalPosterior):
    """Probabilities of each category, and the points the categories stand at. Beliefs mix in their logits.

    Args:
        points: (B, K, D), or (B, K) where points are numbers: the table, the same for all samples.
    """

    points: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of the points, (B, *shape, D) or (B, *shape)."""
        return self.probs.to(self.points.dtype) @ self.points[0]

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate of the points, like `mean`."""
        return (self.probs.to(self.points.dtype) @ self.points[0].square() - self.mean.square()).clamp(min=0)

    def sample(self, noise: Noise) -> Tensor:
        """The point of one category drawn by its probability."""
        return self.points[0][super().sample(noise)]

    def likeliest(self) -> Tensor:
        """The point of the likeliest category."""
        return self.points[0][self.log_probs.argmax(-1)]


class Embedded(Gaussian):
    """A Gaussian process whose data are the points of categories.

    Data are ids (B, *shape), int64, or points as `embed` makes them; states are points (B, *shape, D), or (B, *shape) where the
    table is of numbers.

    Args:
        table: (K, D) or (K,), the point of each category.
        schedule: see `langevin.schedules`.
        std: standard deviation of x0 about its point; 0 puts data on the points.
        learned: the table is trained with the model.
        space: Euclidean by default.

    Raises:
        ValueError: if the table has another shape, or std is negative.
    """

    def __init__(
        self, table: Tensor, schedule: Schedule, std: float = 0.0, learned: bool = False, space: Space | None = None
    ) -> None:
        super().__init__(schedule, space)
        if table.ndim not in (1, 2) or len(table) < 2 or not table.is_floating_point():
            raise ValueError(f"table is {table.dtype} of shape {tuple(table.shape)}; give (K, D) or (K,) floats, K at least 2.")
        if not std >= 0:
            raise ValueError(f"std is {std}; a standard deviation is not negative.")
        self.categories, self.std = len(table), float(std)
        self.table: Tensor
        if learned:
            self.table = nn.Parameter(table.detach().clone())
        else:
            self.register_buffer("table", table.detach().clone())

    def extra_repr(self) -> str:
        learned = isinstance(self.table, nn.Parameter)
        return f"table={tuple(self.table.shape)}, std={self.std:g}, learned={learned}, {super().extra_repr()}"

    @property
    def vectors(self) -> bool:
        """Whether points have coordinates, so that states have one axis more than ids."""
        return self.table.ndim == 2

    def confined(self, belief: Any, mask: Tensor | None) -> Any:
        return belief  # it mixes in logits, and its mean is one of points

    def check_data(self, x: Tensor, what: str = "data") -> None:
        if x.is_floating_point():
            if self.vectors and (not x.ndim or x.shape[-1] != self.table.shape[1]):
                raise ValueError(
                    f"{what} has shape {tuple(x.shape)} and points {self.table.shape[1]} coordinates; make them agree."
                )
            return
        if x.dtype != torch.int64:
            raise ValueError(f"{what} for an embedded process is {x.dtype}; give int64 ids, or floats as embed() makes them.")
        if x.device.type == "cpu" and x.numel() and not (int(x.min()) >= 0 and int(x.max()) < self.categories):
            raise ValueError(f"{what} spans {int(x.min())} .. {int(x.max())}; ids run from 0 to {self.categories - 1}.")

    def embed(self, x: Tensor) -> Tensor:
        """The points of ids; points stay what they are."""
        self.check_data(x)
        return x if x.is_floating_point() else self.table[x]

    def levels(self, t: Level, x: Tensor) -> Tensor:
        """A level that was expanded for x, ids or points, expanded for states."""
        level = broadcastable(t, x)
        return level[..., None] if level.ndim and self.vectors and not x.is_floating_point() else level

    def start(self, x: Tensor, noise: Noise) -> Tensor:
        """x0 given ids or points: they, with noise of deviation std."""
        points = self.embed(x)
        return points + self.std * self.noise(points, noise.at("start")) if self.std else points

    def mix(self, x: Tensor, e: Tensor, t: Level) -> Tensor:
        """alpha_t x0 + sigma_t e, x0 the points themselves; t expanded for ids, if these are given, or for states."""
        return super().mix(self.embed(x), e, self.levels(t, x))

    def marginal(self, x: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        x0 = self.start(x, noise)
        return self.mix(x0, self.noise(x0, noise, mask), self.levels(t, x))

    def kl(self, x: Tensor, belief: Any, z: Tensor, t: Level, s: Level) -> Tensor:
        """As of the Gaussian process, summed over the coordinates of each point: (B, *shape) like ids. std counts for nothing."""
        error = super().kl(self.embed(x), belief, z, self.levels(t, x), self.levels(s, x))
        return error.sum(-1) if self.vectors else error

    def logits(self, x0: Tensor) -> Tensor:
        """log p(w | x0) up to a constant, (B, *shape, K): E x0 for vectors (tied rounding, bias free, 2205.14217, sec. 4.1),
        minus the squared distance for numbers."""
        if self.vectors:
            return x0 @ self.table.to(x0.dtype).T
        return -((x0[..., None] - self.table.to(x0.dtype)) ** 2)

    def log_probs(self, x0: Tensor) -> Tensor:
        """log p(w | x0), (B, *shape, K)."""
        return torch.log_softmax(self.logits(x0), dim=-1)

    def round(self, x0: Tensor) -> Tensor:
        """The likeliest ids of points, argmax p(w | x0)."""
        return self.logits(x0).argmax(-1)

    def nearest(self, x0: Tensor) -> Tensor:
        """The ids of the nearest points of the table."""
        if not self.vectors:
            return self.round(x0)
        return (self.logits(x0) - self.table.to(x0.dtype).square().sum(1) / 2).argmax(-1)

    def clamp(self, x0: Tensor) -> Tensor:
        """The nearest points of the table (the clamping trick of 2205.14217, sec. 4.2). Clamped twice is clamped once."""
        return self.table.to(x0.dtype)[self.nearest(x0)]

    def evidence(self, z: Tensor, t: Level) -> Tensor:
        """log q(z_t = z | w) up to a constant, (B, *shape, K); t expanded for z. It is finite where sigma is 0 as well."""
        alpha, sigma = self.schedule(broadcastable(t, z))
        variance = (sigma**2 + alpha**2 * self.std**2).clamp(min=1e-12)
        gain, table = cast(alpha / variance, z), self.table.to(z.dtype)
        if self.vectors:
            return (gain * z) @ table.T - 0.5 * cast(alpha**2 / variance, z) * table.square().sum(1)
        scale, shrink = gain * z, cast(alpha**2 / variance, z)
        return scale[..., None] * table - 0.5 * (shrink[..., None] if shrink.ndim else shrink) * table.square()

    def believed(self, logits: Tensor, evidence: Tensor | None = None) -> EmbeddedPosterior:
        """The belief with these logits."""
        table = self.table.to(logits.dtype)
        return EmbeddedPosterior(logits, evidence, points=table.expand(len(logits), *table.shape))


def state_shape(process: Process, shape: Shape) -> Shape:
    """The shape of one state, where `shape` is that of one sample of the data: ids of vectors have an axis less."""
    parts, given = process.leaves(), leaves(shape)
    spread = {n: (*s, parts[n].table.shape[1]) if _vectors(parts.get(n)) else s for n, s in given.items()}  # pyright: ignore
    return tree(spread)


def _vectors(leaf: LeafProcess | None) -> bool:
    return isinstance(leaf, Embedded) and leaf.vectors


class Logits(Prediction):
    """The network says logits over the categories of an `Embedded` process, (B, *shape, K).

    Args:
        evidence: the logits leave their own position out, and what the state says of it is added, as prediction "logits" of
            categorical processes does; False for a network whose softmax is the whole belief.
        shown: "state" shows the network z, (B, *shape, D); "probs" the probabilities that the state alone gives each category,
            2 p - 1, (B, *shape, K): the input of Bayesian flow networks (2308.07037, sec. 6).
        level: the number the network is shown for its level.
    """

    kind = "gaussian"
    name = "embedded"

    def __init__(self, evidence: bool = True, shown: str = "state", level: str = "1000t") -> None:
        super().__init__(level)
        if shown not in ("state", "probs"):
            raise ValueError(f"shown is {shown!r}; a network is shown the 'state', or the 'probs' it gives.")
        self.with_evidence, self.shown = evidence, shown

    def check(self, process: LeafProcess, leaf: str) -> None:
        check_embedded(process, leaf, self.name)

    def input(self, process: Embedded, z: Tensor, t: Tensor) -> Tensor:
        return z if self.shown == "state" else 2 * torch.softmax(process.evidence(z, t), dim=-1) - 1

    def check_output(self, process: Embedded, output: Tensor, z: Tensor) -> None:
        wanted = (*(z.shape[:-1] if process.vectors else z.shape), process.categories)
        if output.shape != wanted:
            raise ValueError(f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return logits {wanted}.")

    def posterior(self, process: Embedded, output: Tensor, z: Tensor, t: Tensor) -> EmbeddedPosterior:
        return process.believed(output, process.evidence(z, t) if self.with_evidence else None)


def check_embedded(process: LeafProcess, leaf: str, prediction: str) -> None:
    """Refuse a prediction of categories for a process without. Raises ValueError."""
    if not isinstance(process, Embedded):
        at = leaf_name(leaf)
        raise ValueError(
            f"prediction {prediction!r} says categories of an embedded process, and {at} is {process.kind}; use another."
        )
