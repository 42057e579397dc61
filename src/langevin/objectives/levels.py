"""Level densities: where on [0, 1] training spends its samples.

Each is an inverse distribution function, so that levels come from uniforms that are spread evenly over the batch
(stratified), and a density p(t), by which weights that are meant per unit of t are divided.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from langevin import spec
from langevin.core.noise import Noise
from langevin.core.schedule import Schedule


class LevelDensity(nn.Module, ABC):
    """A density p(t) on (0, 1).

    Attributes:
        wants_losses: it follows the losses it is told of, by `observe`.
    """

    wants_losses = False

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The level below which a share u of the mass lies; float64, shape of u."""

    @abstractmethod
    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """p(t), float64, shape of t."""

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Told the loss (N,) met at levels t (N,), not divided by p(t); level 0 is data that was given, and is passed over."""
        del t, loss


def stratified(noise: Noise) -> Tensor:
    """(B,) uniforms, one in each of B equal strata in random order (VDM, 2107.00630, app. I.1).

    The strata are those of the whole batch, `noise.among`, of which these samples may be a part: how it is divided over passes
    and processes changes nothing.
    """
    ids = noise.ids if noise.among is None else noise.among
    whole = replace(noise, ids=ids)
    rank = whole.at("strata").uniform(()).argsort().argsort()
    offset = whole.at("offset").uniform(())[:1]
    drawn = ((rank + offset) / len(ids)).clamp(1e-9, 1 - 1e-9)
    return drawn if noise.among is None else drawn[torch.searchsorted(ids, noise.ids)]


class Uniform(LevelDensity):
    """p(t) = 1.

    Args:
        margin: left out at both ends, where targets of some paths are infinite.
    """

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin is {margin}; it is left out at both ends, so give at least 0 and below 0.5.")
        self.margin = margin

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}" if self.margin else ""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.margin + (1 - 2 * self.margin) * u

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        inside = (t >= self.margin) & (t <= 1 - self.margin)
        return torch.where(inside, 1 / (1 - 2 * self.margin), 0.0).to(t.dtype)


class Steps(LevelDensity):
    """The levels that Euler's method of `count` equal steps asks for, 1/count, ..., 1, alike: distillation of a flow into so
    many steps (rectified flow, 2209.03003). It has no density; p(t) is that of the uniform it is a grid of."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"count is {count}; a flow is distilled into at least 1 step.")
        self.count = count

    def extra_repr(self) -> str:
        return f"count={self.count}"

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return (u * self.count).ceil().clamp(min=1) / self.count

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(t)


class LogitNormal(LevelDensity):
    """logit(t) ~ N(mean, std^2) (SD3, 2403.03206, eq. 19)."""

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, std={self.std:g}"

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        at = (torch.logit(t) - self.mean) / self.std
        return torch.exp(-(at**2) / 2) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


class LogNormalSigma(LevelDensity):
    """ln(sigma/alpha) ~ N(mean, std^2) (EDM, 2206.00364, table 1)."""

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, std={self.std:g}"

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.invert(-2 * (self.mean + self.std * torch.special.ndtri(u))).clamp(1e-9, 1 - 1e-9)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        at = (-schedule.lam(t) / 2 - self.mean) / self.std
        return torch.exp(-(at**2) / 2) / (self.std * math.sqrt(2 * math.pi)) * schedule.lam_rate(t).abs() / 2


class UniformLogSNR(LevelDensity):
    """lam uniform between `low` and `high`, as far as the schedule goes: every factor of noise is met alike (VDM, 2107.00630,
    whose bound is then the plain error of the noise)."""

    def __init__(self, low: float = -8.0, high: float = 10.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"low is {low:g} and high {high:g}; log-SNRs lie between them, so let low be below high.")
        self.low, self.high = low, high

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}"

    def _ends(self, schedule: Schedule) -> tuple[Tensor, Tensor]:
        reached = schedule.lam(torch.tensor([1.0, 0.0], dtype=torch.float64)).clamp(self.low, self.high)
        return reached[0], reached[1]

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = self._ends(schedule)
        return schedule.invert(high + (low - high) * u).clamp(1e-9, 1 - 1e-9)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        low, high = self._ends(schedule)
        lam = schedule.lam(t)
        return torch.where((lam >= low) & (lam <= high), schedule.lam_rate(t).abs() / (high - low), 0.0)


class Importance(LevelDensity):
    """Proportional to any positive function of t, held as a table of equal cells; draws and density agree exactly."""

    def __init__(self, f: Callable[[Tensor], Tensor], cells: int = 1000) -> None:
        super().__init__()
        middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        mass = f(middle).double()
        if mass.shape != middle.shape or not bool((mass > 0).all()):
            raise ValueError(f"the importance has shape {tuple(mass.shape)}; f(t) must be positive on (0, 1), shape of t.")
        self.register_buffer("mass", mass / mass.sum())

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        mass = self.get_buffer("mass")
        edges = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
        cell = (torch.searchsorted(edges, u.contiguous(), right=True) - 1).clamp(0, len(mass) - 1)
        return ((cell + (u - edges[cell]) / mass[cell]) / len(mass)).clamp(1e-9, 1 - 1e-9)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        mass = self.get_buffer("mass")
        return mass[(t * len(mass)).long().clamp(0, len(mass) - 1)] * len(mass)


def beta(a: float = 2.0, b: float = 2.0) -> Importance:
    """Beta(a, b), as a table of 1,000 cells."""
    if not (a > 0 and b > 0):
        raise ValueError(f"beta has a = {a} and b = {b}; both lie above 0.")
    return Importance(lambda t: t ** (a - 1) * (1 - t) ** (b - 1))


class LossAware(Importance):
    """Loss-second-moment sampling (2102.09672, sec. 3.3): p ~ sqrt(mean of recent squared losses), per cell.

    Uniform until every cell has `history` losses; mixed with a little of the uniform so that no cell starves. The
    history is part of the state that checkpoints keep. The density moves when losses are observed: after an update, by those
    of all its passes and processes.

    Args:
        cells: equal parts of [0, 1].
        history: losses kept per cell.
        floor: share of the uniform.
    """

    wants_losses = True

    def __init__(self, cells: int = 100, history: int = 10, floor: float = 0.001) -> None:
        if history < 1 or not 0 < floor <= 1:
            raise ValueError(f"loss_aware has history {history} and floor {floor}; give at least 1 loss, and a share above 0.")
        super().__init__(torch.ones_like, cells)
        self.floor = floor
        self.register_buffer("losses", torch.zeros(cells, history, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(cells, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, t: Tensor, loss: Tensor) -> None:
        losses, seen, mass = (self.get_buffer(n) for n in ("losses", "seen", "mass"))
        t, loss = t.to(mass.device), loss.to(mass.device)
        count, length = losses.shape
        cells = torch.where(t > 0, (t * count).long().clamp(0, count - 1), count)  # a last cell for what is passed over
        cells, order = cells.sort(stable=True)
        met = torch.bincount(cells, minlength=count + 1)
        rank = torch.arange(len(cells), device=cells.device) - (met.cumsum(0) - met)[cells]
        # each cell is a ring; of more than a ring's length in one batch only the last are kept, so that no place is written twice
        place = (torch.cat([seen, seen[:1]])[cells] + rank) % length
        target = torch.where(met[cells] - rank <= length, cells, count)
        ring = torch.cat([losses, losses[:1]])
        ring[target, place] = loss.double()[order]
        losses.copy_(ring[:count])
        seen += met[:count]
        root = losses.square().mean(1).sqrt()
        ready = (seen >= length).all() & (root.sum() > 0)
        share = root / root.sum().clamp(min=torch.finfo(root.dtype).tiny)
        mass.copy_(torch.where(ready, (1 - self.floor) * share + self.floor / count, mass))


class LevelBins:
    """Mean loss by level, gathered over a stretch of training: where a model learns, and where it does not yet.

    Args:
        bins: equal parts of [0, 1].
    """

    def __init__(self, bins: int = 10) -> None:
        if bins < 1:
            raise ValueError(f"bins is {bins}; levels are told apart by at least 1.")
        self.bins = bins
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, levels: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
        """Take in `Loss.levels` and `Loss.each`; level 0, data that was given, is passed over. Waits for no device."""
        for name, t in levels.items():
            for held in (self._sums, self._counts):
                held[name] = (held[name] if name in held else torch.zeros(self.bins, dtype=torch.float64)).to(t.device)
            cells = (t * self.bins).long().clamp(0, self.bins - 1)
            met = (t > 0).double()
            self._sums[name].index_add_(0, cells, torch.where(t > 0, losses[name].to(t.device).double(), 0.0))
            self._counts[name].index_add_(0, cells, met)

    @property
    def tensors(self) -> list[Tensor]:
        """Sums and counts; a run of several processes adds these up, in place, before it reads the logs."""
        return [*self._sums.values(), *self._counts.values()]

    def state(self) -> dict[str, list[list[float]]]:
        """Sums and counts by name, for JSON, which keeps them to the bit."""
        return {name: [sums.tolist(), self._counts[name].tolist()] for name, sums in self._sums.items()}

    def load(self, state: Mapping[str, Sequence[Sequence[float]]], mine: bool = True) -> None:
        """Continue from a `state`; `mine` is False in all processes of a run but one, which begin at 0."""
        read = {n: [torch.tensor(v, dtype=torch.float64) * mine for v in pair] for n, pair in state.items()}
        self._sums, self._counts = {n: sums for n, (sums, _) in read.items()}, {n: counts for n, (_, counts) in read.items()}

    def logs(self) -> dict[str, float]:
        """The mean of each bin that met a loss, by name, as "levels/0.1-0.2" ("levels/<leaf>/0.1-0.2" for a product), and
        begin again."""
        out = {}
        for name, sums in self._sums.items():
            counts = self._counts[name]
            for i, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
                if count:
                    where = f"{i / self.bins:.4g}-{(i + 1) / self.bins:.4g}"
                    out[f"levels/{name}/{where}" if name else f"levels/{where}"] = total / count
        self._sums, self._counts = {}, {}
        return out


LEVELS: dict[str, Callable[..., LevelDensity]] = {
    "uniform": Uniform, "logit_normal": LogitNormal, "lognormal_sigma": LogNormalSigma, "beta": beta, "loss_aware": LossAware,
    "uniform_log_snr": UniformLogSNR,
}  # fmt: skip


def named(levels: str | LevelDensity, followed: bool = False) -> LevelDensity:
    """A density by name, with its options ("beta:a=2,b=2"), or the one given.

    Args:
        followed: the objective tells it of losses, which it divides by the density.

    Raises:
        ValueError: for another name, and for a density that follows losses of which nobody would tell it.
    """
    density = spec.parse(levels, LEVELS, "levels") if isinstance(levels, str) else levels
    if density.wants_losses and not followed:
        said = levels if isinstance(levels, str) else type(levels).__name__
        raise ValueError(f"levels is {said!r}, which follows losses, and the Denoising objective alone tells it of them; use "
                         "'uniform', or another density.")  # fmt: skip
    return density
