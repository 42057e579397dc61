"""Row kinds that depend on the state or go up in level: fresh noise, learned variances, adaptive steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import DrivingRow, StateRow
from langevin.plans.dormand_prince import State, integrate
from langevin.plans.integrals import level_of, polar
from langevin.variances import step_deviation


def refuse_scoreless(leaf: Any, row: StateRow) -> None:
    """Raises ValueError for a leaf that has no score to follow."""
    if not isinstance(leaf, Gaussian):
        raise ValueError(
            f"a {type(row).__name__.lower()} row follows a score, which a {leaf.kind} leaf has none of; use ddpm there."
        )


class Shown:
    """Of rows that follow a score, and may tell the network another level than the state's, `shown`."""

    start: float
    shown: float | None

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)  # pyright: ignore[reportArgumentType]

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> float:
        return self.start if self.shown is None else self.shown


@dataclass(frozen=True, kw_only=True)
class Renoise(StateRow):
    """Forward along the process, from level `start` up to `stop`. No evaluation.

    Args:
        factor: of the standard deviation of the noise (EDM's S_noise; Gaussian only).
    """

    start: float
    stop: float
    factor: float = 1.0

    @property
    def level(self) -> None:
        return None

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.start < self.stop <= 1:
            return f"adds noise from {self.start:g} to {self.stop:g}; the end lies above"
        return None

    def check(self, leaf: Any) -> None:
        if self.factor != 1:
            refuse_scoreless(leaf, self)

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        raised = leaf.renoise(z, self.start, self.stop, noise, mask)
        if self.factor == 1:
            return raised
        carried = z * float(leaf.schedule(self.stop)[0] / leaf.schedule(self.start)[0])
        return carried + (raised - carried) * self.factor


@dataclass(frozen=True, kw_only=True)
class FreshNoise(StateRow):
    """Noise of its own where a row from the anchor has led: z + c noise. No evaluation, and the anchor stays.

    A row from the anchor has the noise that the row before it drew. Published single-step solvers with noise draw anew for each
    of their stages: a row from the anchor without noise, and this one.

    Args:
        start: the level of the anchor. stop: the level of the state, before and after.
        c: standard deviation of the noise (Gaussian only).
    """

    anchored: ClassVar[bool] = True
    start: float
    stop: float
    c: float

    @property
    def level(self) -> None:
        return None

    def problem(self, evaluations: int) -> str | None:
        if not (0 <= self.stop < self.start <= 1 and self.c >= 0):
            return f"adds {self.c:g} of noise to a step from {self.start:g} to {self.stop:g}; steps go down, and c is 0 or more"
        return None

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return z.add(leaf.noise(z, noise, mask), alpha=self.c)


@dataclass(frozen=True, kw_only=True)
class Standard(StateRow):
    """The prior's draw at level 1, sigma e, becomes e: samples begin at N(0, I) whatever the schedule. No evaluation."""

    start: float = 1.0
    stop: float = 1.0

    @property
    def level(self) -> None:
        return None

    def problem(self, evaluations: int) -> str | None:
        if self.start == self.stop == 1:
            return None
        return f"makes a standard normal of the prior's draw, at level {self.start:g} where there is none; leave standard out"

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return z / float(leaf.schedule(1.0)[1])


def clipped(x: Tensor, bound: float | None, quantile: float | None) -> Tensor:
    """x within [-bound, bound], or as `Clipped` says of quantiles."""
    if bound is None:
        return x
    if quantile is None:
        return x.clamp(-bound, bound)
    most = torch.quantile(x.abs().flatten(1).float(), quantile, dim=1).clamp(min=1).clamp(max=bound)
    most = most.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return x.clamp(-most, most) / most


@dataclass(frozen=True, kw_only=True)
class LearnedVariance(StateRow):
    """Ancestral step whose variance the belief brings (`belief.variance`, that of x given z):

    Var(z_s) = c^2 + w^2 Var(x), the exact variance of the bridge averaged over the belief, element by element
    (Analytic-DPM, 2201.06503, eq. 8). Where the network itself says the variance of steps, it is that (`WithVariance`).

    Args:
        bound, quantile: as of `Clipped`; the mean alone is clipped.
    """

    start: float
    stop: float
    bound: float | None = None
    quantile: float | None = None

    def problem(self, evaluations: int) -> str | None:
        return f"clips to {self.bound:g}; give a bound above 0" if self.bound is not None and not self.bound > 0 else None

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        said = step_deviation(leaf, belief, self.start, self.stop)
        if said is None and belief.variance is None:
            raise ValueError(
                "the denoiser's belief has no variance; use ddpm with variance 'small' or 'large' instead of 'belief'."
            )
        weight, keep, deviation = leaf.bridge_numbers(self.start, self.stop, 1.0)
        mean = clipped(belief.mean, self.bound, self.quantile) * weight + z * keep
        if self.stop == 0:
            return mean
        spread = (deviation**2 + weight**2 * belief.variance).sqrt() if said is None else said
        return mean + spread * leaf.noise(z, noise, mask)


@dataclass(frozen=True, kw_only=True)
class Likeliest(StateRow):
    """The likeliest category of each position under the ancestral step, and no draw from it; points move to the step's mean."""

    start: float
    stop: float

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        t, s = (torch.tensor(v, dtype=torch.float64) for v in (self.start, self.stop))
        if not isinstance(leaf, Categorical):
            return leaf.land(z, belief.mean, t, s)
        return leaf.space.project(leaf.bridge_probs(z, belief.probs, t, s).argmax(-1), mask)


@dataclass(frozen=True, kw_only=True)
class Clipped(Shown, StateRow):
    """A step z_s = a z + w clip(x^) + u x^ + c noise, whose belief is clipped to the data's range.

    The bridge with the clipped belief has a = spread, w = alpha_s - spread alpha_t (guided-diffusion). A peer that clips the
    belief but keeps the noise it predicted has w = alpha_s, u = -spread alpha_t (diffusers' DDIM).

    Args:
        bound: beliefs are clipped to [-bound, bound]; None leaves them.
        quantile: each sample's bound is this quantile of its |x^|, between 1 and `bound`, and the belief is divided by it
            (dynamic thresholding, 2205.11487, sec. 2.3).
        shown: the level the network is told, where that is not the state's.
    """

    start: float
    stop: float
    a: float
    w: float
    u: float = 0.0
    c: float = 0.0
    bound: float | None = 1.0
    quantile: float | None = None
    shown: float | None = None

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        if self.bound is not None and not self.bound > 0:
            return f"clips to {self.bound:g}; give a bound above 0"
        return None

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        out = z * self.a
        if self.w:
            out.add_(clipped(belief.mean, self.bound, self.quantile), alpha=self.w)
        if self.u:
            out.add_(belief.mean, alpha=self.u)
        return out.add_(leaf.noise(z, noise, mask), alpha=self.c) if self.c else out


@dataclass(frozen=True, kw_only=True)
class Adaptive(DrivingRow):
    """Dormand-Prince of order 5(4) with error control, along the angle between data and noise.

    Each sample has its own step sizes, so it does not depend on its batch; all are evaluated together until the hardest
    arrives. Where `stop` is 0 the network is not asked below the schedule's floor, and the rest is extrapolated.

    Args:
        rtol, atol: error allowed per step, of the state scaled to about unit variance.
        most: evaluations after which it gives up.
        data_std: standard deviation of the data, the unit of the angle.
    """

    start: float
    stop: float
    rtol: float = 1e-3
    atol: float = 1e-3
    most: int = 1000
    data_std: float = 1.0

    @property
    def nfe(self) -> int:
        return self.most

    def problem(self, evaluations: int) -> str | None:
        if not 0 <= self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall within [0, 1]"
        if not (self.rtol >= 0 and self.atol > 0):
            return f"has rtol {self.rtol:g} and atol {self.atol:g}; the tolerances are above 0"
        return None

    def check(self, leaf: Any) -> None:
        refuse_scoreless(leaf, self)

    def drive(self, evaluate: Callable[[Any, Any], Any], parts: Any, z: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(parts) > 1:
            raise ValueError("adaptive steps follow one process and this is a product; use a fixed plan such as trig.")
        ((name, leaf),) = parts.items()
        state, axes = z[name], (-1, *[1] * (z[name].ndim - 1))
        schedule, d = leaf.schedule, self.data_std

        calls = 0

        def slope(state: State, phi: Tensor) -> State:
            nonlocal calls
            calls += 1
            if calls > self.most:
                raise ValueError(
                    f"most is {self.most} and the adaptive plan needs more evaluations; raise it, or the tolerances."
                )
            (y,) = state
            at = torch.where(phi >= top - 1e-12, self.start, level_of(schedule, phi, d))
            scaled = y * polar(schedule, at, d)[1].to(y).reshape(axes)
            belief = evaluate({name: scaled}, {name: expand(at, scaled)})
            x_part, z_part = leaf.slope(at, d)
            mean = belief.mean if name == "" else belief[name].mean
            return (mean * x_part.reshape(axes).to(y) + scaled * z_part.reshape(axes).to(y),)

        top, scale = (float(v) for v in polar(schedule, self.start, d))
        end = float(polar(schedule, max(self.stop, schedule.floor), d)[0])
        (y,), (first,), (older,), older_phi = integrate(slope, (state / scale,), top, end, self.rtol, self.atol)
        if self.stop > 0:
            return {name: y * float(polar(schedule, self.stop, d)[1])}
        # from the floor to clean data along the slope and its change over the last step
        bend = (first - older) / (end - older_phi).reshape(axes).to(y)
        return {name: (y - end * (first - end / 2 * bend)) * d}
