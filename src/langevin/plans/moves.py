"""Row kinds that depend on the state or go up in level: fresh noise, Langevin steps, learned variances, adaptive steps."""

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

_STEADY = 8


def _gaussian(leaf: Any, row: StateRow) -> None:
    if not isinstance(leaf, Gaussian):
        raise ValueError(
            f"a {type(row).__name__.lower()} row follows a score, which a {leaf.kind} leaf has none of; use ddpm there."
        )


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
            _gaussian(leaf, self)

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
        _gaussian(leaf, self)

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
        _gaussian(leaf, self)

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        return z / float(leaf.schedule(1.0)[1])


def _ratio(leaf: Gaussian, z: Tensor, score: Tensor, alpha: float, sigma: float, mask: Tensor | None) -> Tensor:
    """|n|^2 / |s|^2 of each sample, steadied: n is worth the number of its elements, and both have eight further elements, at
    which data is normal of unit variance."""
    across = tuple(range(1, z.ndim))
    real = leaf.space.real(z, mask)
    count = z[0].numel() if real is None else real.expand_as(z).sum(across, keepdim=True)
    return (count + _STEADY) / (score.double().square().sum(across, keepdim=True) + _STEADY / (alpha**2 + sigma**2))


@dataclass(frozen=True, kw_only=True)
class Langevin(StateRow):
    """One step of Langevin dynamics at one level (2011.13456, alg. 4 and 5): z + e s + sqrt(2 e) n, s the score.

    Args:
        start, stop: the level.
        snr: r; the step size is e = 2 alpha^2 (r |n| / |s|)^2 with the norms of each sample, so that a sample does not
            depend on its batch (the published code takes means over the batch). In few dimensions a score is often near 0, and
            steps that are longer there spoil the law: both norms therefore count eight further elements of normal data.
        size: the step size itself, in units of sigma^2, instead of r (annealed Langevin, 1907.05600, alg. 1).
        shown: the level the network is told, and the score computed at, where a peer tells it another than the state's.
        together: the norms are means over the batch, as in the published code.
        factor: in place of alpha^2 in the step size; the published one is 1 - beta_i, of a table of betas.
    """

    start: float
    stop: float
    snr: float = 0.16
    size: float | None = None
    shown: float | None = None
    together: bool = False
    factor: float | None = None

    def problem(self, evaluations: int) -> str | None:
        if self.start != self.stop or not 0 < self.start <= 1:
            return f"is a Langevin step from {self.start:g} to {self.stop:g}; it stays at one level above 0"
        return None

    def check(self, leaf: Any) -> None:
        _gaussian(leaf, self)

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> float:
        return self.start if self.shown is None else self.shown

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        alpha, sigma = (float(v) for v in leaf.schedule(self.start if self.shown is None else self.shown))
        score = (belief.mean * alpha - z) / sigma**2
        fresh = leaf.noise(z, noise, mask)
        if self.size is not None:
            size: Any = self.size * sigma**2
        else:
            if self.together:
                across = tuple(range(1, z.ndim))
                means = [u.double().square().sum(across).sqrt().mean().square() for u in (fresh, score)]
                ratio = means[0] / means[1]
            else:
                ratio = _ratio(leaf, z, score, alpha, sigma, mask)
            unit = (max(alpha, 1e-4) * self.snr) ** 2 if self.factor is None else self.factor * self.snr**2
            size = (2 * unit * ratio).to(z.dtype)
        return z + size * score + (2 * size) ** 0.5 * fresh


@dataclass(frozen=True, kw_only=True)
class Split(StateRow):
    """A Langevin correction and a step down by splitting, both by one score (S4; GDSS, 2202.02514, app. B): half of the linear
    part of the reverse equation, the whole drift of the score, the other half.

    The linear part from t to s multiplies by alpha_s / alpha_t and adds noise of variance (alpha_s sigma_t / alpha_t)^2 -
    sigma_s^2, exactly. (The published code adds 1 - alpha_t^2 / alpha_s^2 for a variance-preserving process, the forward
    kernel's, which is less by terms of second order.)

    Args:
        snr: of the correction, as of `Langevin`; 0 leaves it out.
        scale: of the correction's noise.
    """

    start: float
    stop: float
    snr: float = 0.2
    scale: float = 1.0

    def problem(self, evaluations: int) -> str | None:
        if not 0 < self.stop < self.start <= 1:
            return f"goes from {self.start:g} to {self.stop:g}; levels fall, and end above 0"
        return None

    def check(self, leaf: Any) -> None:
        _gaussian(leaf, self)

    def move(self, leaf: Gaussian, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        middle = torch.tensor((self.start + self.stop) / 2, dtype=torch.float64)
        (alpha_t, sigma_t), (alpha, sigma), (alpha_s, sigma_s) = (leaf.schedule(u) for u in (self.start, middle, self.stop))
        score = (belief.mean * float(alpha_t) - z) / float(sigma_t) ** 2
        if self.snr:
            fresh = leaf.noise(z, noise.at("correction"), mask)
            ratio = _ratio(leaf, z, score, float(alpha_t), float(sigma_t), mask)
            size = (2 * (max(float(alpha_t), 1e-4) * self.snr) ** 2 * ratio).to(z.dtype)
            z = z + size * score + self.scale * (2 * size) ** 0.5 * fresh
        alpha_rate, sigma_rate = leaf.schedule.rates(middle)
        squared = 2 * sigma * sigma_rate - 2 * alpha_rate / alpha * sigma**2  # g^2 half way
        half = [(alpha_t, sigma_t, alpha, sigma, "first"), (alpha, sigma, alpha_s, sigma_s, "second")]
        for k, (a, b, c, d, part) in enumerate(half):
            spread = float(((c * b / a) ** 2 - d**2).clamp(min=0).sqrt())
            z = z * float(c / a) + spread * leaf.noise(z, noise.at(part), mask)
            if k == 0:
                z = z + float(squared) * (self.start - self.stop) * score
        return z


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
        _gaussian(leaf, self)

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
class Clipped(StateRow):
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

    def check(self, leaf: Any) -> None:
        _gaussian(leaf, self)

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> float:
        return self.start if self.shown is None else self.shown

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
        _gaussian(leaf, self)

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
