"""Predictions: what a network's output means, and how a belief about x is recovered from it.

For a Gaussian process a prediction is a pair (p_x, p_e): the network predicts F = p_x x + p_e e. With z = alpha x + sigma e
this is one 2x2 system, so

    x = (sigma F - p_e z) / D,   D = p_x sigma - p_e alpha.

    x0 (1, 0)    eps (0, 1)    v (-sigma, alpha)    velocity (alpha', sigma')    score (0, -1/sigma)
    edm: F = (x - c_skip z) / c_out, the pair ((1 - c_skip alpha) / c_out, -c_skip sigma / c_out)

For categories the network gives logits h over the K categories:

    logits     h leaves its own position out: belief = softmax(h + log q(z_t | x = k)). VLB and cross-entropy then share
               one optimum; for a mask, tokens already revealed are carried over by themselves.
    posterior  belief = softmax(h), as the D3PM paper writes it
    subs       the masked-diffusion substitution (MDLM, 2406.07524, sec. 3.2): `logits`, on mask processes only
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.levels import KeptByLevel, cast
from langevin.core.messages import leaf_name
from langevin.core.posterior import CategoricalPosterior, GaussianPosterior
from langevin.core.process import LeafProcess


def _timestep(place: Tensor) -> Tensor:
    """A place among published timesteps, whole where it misses a whole number by rounding."""
    return torch.where((place - place.round()).abs() < 1e-6, place.round(), place)


# The number a network is shown for its level. Networks embed it by sinusoids, so about 0..1000 is a good range.
LEVEL_LABELS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "1000t": lambda schedule, t: 1000 * t,
    "999t": lambda schedule, t: 999 * t,
    "t": lambda schedule, t: t,
    "index": lambda schedule, t: (t * schedule.size).round() - 1,
    "timestep": lambda schedule, t: _timestep(schedule.size * t - 1),
    "sigma": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t),
    "lam": lambda schedule, t: schedule.lam(t).clamp(-30, 30),
    "log_sigma/4": lambda schedule, t: (schedule.sigma(t) / schedule.alpha(t)).clamp(1e-20, 1e20).log() / 4,
    "250log_sigma": lambda schedule, t: (schedule.sigma(t) / schedule.alpha(t)).clamp(1e-20, 1e20).log() * 250,
}


class Prediction(ABC):
    """How one leaf's network output becomes a belief.

    Args:
        level: which number the network is shown, a key of `LEVEL_LABELS`.
    """

    name: str
    kind: str

    def __init__(self, level: str = "1000t") -> None:
        if level not in LEVEL_LABELS:
            raise ValueError(f"level label is {level!r}; a network can be shown {', '.join(LEVEL_LABELS)}.")
        self.level_name = level

    def __repr__(self) -> str:
        return f"{self.name}(level={self.level_name!r})"

    def label(self, process: LeafProcess, t: Tensor) -> Tensor:
        """The number shown to the network, float32, shape of t."""
        return LEVEL_LABELS[self.level_name](process.schedule, t).float()

    def check(self, process: LeafProcess, leaf: str) -> None:
        if process.kind != self.kind:
            at = leaf_name(leaf)
            other = "'v', 'x0' or 'eps'" if process.kind == "gaussian" else "'logits'"
            raise ValueError(f"prediction {self.name!r} is for {self.kind} processes, but {at} is {process.kind}; use {other}.")

    def input(self, process: LeafProcess, z: Tensor, t: Tensor) -> Tensor:
        """What the network is given for z."""
        return z

    @abstractmethod
    def check_output(self, process: Any, output: Tensor, z: Tensor) -> None:
        """Refuse an output whose shape does not answer for z: broadcasting would hide it."""

    @abstractmethod
    def posterior(self, process: Any, output: Tensor, z: Tensor, t: Tensor) -> Any:
        """The belief about x."""


class GaussianPrediction(Prediction):
    """A pair (p_x, p_e); see the module."""

    kind = "gaussian"

    def __init__(self, name: str, pair: Callable[[Any, Tensor], tuple[Tensor, Tensor]], level: str = "1000t") -> None:
        super().__init__(level)
        self.name, self._pair = name, pair
        self._kept = KeptByLevel()

    def check_output(self, process: Gaussian, output: Tensor, z: Tensor) -> None:
        if output.shape != z.shape:
            raise ValueError(
                f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return one value per element."
            )

    def answer(self, output: Tensor) -> Tensor:
        """What of an output `target` is asked for, (B, *shape)."""
        return output

    def pair(self, process: Gaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p_x, p_e) at t, float64."""
        return self._pair(process.schedule, t)

    def target(self, process: Gaussian, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """p_x x + p_e e, what the network should have said."""
        p_x, p_e = self.pair(process, t)
        return cast(p_x, x) * x + cast(p_e, x) * e

    def parts(self, process: Gaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        """(weight of the output, weight of z) in the belief's mean: the 2x2 solve."""
        alpha, sigma = process.schedule(t)
        p_x, p_e = self.pair(process, t)
        determinant = p_x * sigma - p_e * alpha
        # where sigma = 0 (elements that are known) the state is the data
        return torch.where(sigma > 0, sigma / determinant, 0.0), torch.where(sigma > 0, -p_e / determinant, 1 / alpha)

    def posterior(self, process: Gaussian, output: Tensor, z: Tensor, t: Tensor) -> GaussianPosterior:
        output_part, state_part = self.at_level(process, "parts", t)
        if isinstance(output_part, float):
            return GaussianPosterior((z * state_part).add_(output, alpha=output_part))
        return GaussianPosterior(cast(output_part, z) * output + cast(state_part, z) * z)

    def at_level(self, process: Gaussian, method: str, t: Tensor) -> tuple[Any, ...]:
        """The numbers of a method at t: floats kept from the last time for one shared level, else tensors. Schedules that are
        learned are asked anew."""
        if t.ndim or torch.is_grad_enabled() or torch.compiler.is_compiling() or process.schedule.learned:
            return getattr(self, method)(process, t)
        key = (process.schedule, method, float(t))
        return self._kept.get_or(key, lambda: tuple(float(v) for v in getattr(self, method)(process, t)))

    def check(self, process: LeafProcess, leaf: str) -> None:
        super().check(process, leaf)
        one = torch.ones((), dtype=torch.float64)
        if self.name == "velocity" and not all(bool(r.isfinite()) for r in process.schedule.rates(one)):
            raise ValueError("prediction 'velocity' is infinite at t = 1 of this schedule; use 'v' or 'x0'.")
        if self.level_name in ("index", "timestep") and not hasattr(process.schedule, "size"):
            raise ValueError(f"level label {self.level_name!r} counts a table's levels, and this schedule is none; use '1000t'.")
        if self.name in ("eps", "score") and float(process.schedule.alpha(torch.ones((), dtype=torch.float64))) == 0:
            said = f"prediction {self.name!r} says nothing about x where alpha is 0, as it is at t = 1 of this schedule"
            raise ValueError(f"{said}; use 'v', 'x0' or 'velocity'.")

    def output(self, process: Gaussian, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The inverse of `posterior`: what the network says when it believes x (sigma > 0)."""
        alpha, sigma = process.schedule(t)
        p_x, p_e = self.pair(process, t)
        return cast(p_x - p_e * alpha / sigma, z) * x + cast(p_e / sigma, z) * z

    def eps_per_output(self, process: Gaussian, t: Tensor) -> Tensor:
        """|d e^ / d F|: an error in the output is this many times larger as an error in the noise."""
        alpha, sigma = process.schedule(t)
        p_x, p_e = self.pair(process, t)
        return (alpha / (p_x * sigma - p_e * alpha)).abs()


class Preconditioned(GaussianPrediction):
    """EDM's preconditioning (2206.00364, table 1), for any alpha: c_in keeps the input at unit variance.

    Args:
        sigma_data: standard deviation of the data.
        sigma_min: sigma/alpha at which the network's output is worth nothing and the state stands for the data (consistency
            models, 2303.01469, app. C; 0 is EDM's own).
    """

    def __init__(self, sigma_data: float = 0.5, level: str = "log_sigma/4", sigma_min: float = 0.0) -> None:
        super().__init__("edm", self._edm_pair, level)
        if not sigma_data > 0:
            raise ValueError(f"sigma_data is {sigma_data}; it is the data's standard deviation, above 0.")
        self.sigma_data, self.sigma_min = sigma_data, sigma_min

    def coefficients(self, schedule: Any, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in)."""
        alpha, sigma = schedule(t)
        total = alpha**2 * self.sigma_data**2 + sigma**2
        if not self.sigma_min:
            return alpha * self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt()
        past = sigma - alpha * self.sigma_min
        skip = alpha * self.sigma_data**2 / (alpha**2 * self.sigma_data**2 + past**2)
        return skip, past * self.sigma_data / total.sqrt(), total.rsqrt()

    def _edm_pair(self, schedule: Any, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        c_skip, c_out, _ = self.coefficients(schedule, t)
        return (1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out

    def scale(self, process: Gaussian, t: Tensor) -> tuple[Tensor]:
        """(c_in,)."""
        return (self.coefficients(process.schedule, t)[2],)

    def input(self, process: Any, z: Tensor, t: Tensor) -> Tensor:
        (c_in,) = self.at_level(process, "scale", t)
        return z * (c_in if isinstance(c_in, float) else cast(c_in, z))

    def parts(self, process: Gaussian, t: Tensor) -> tuple[Tensor, Tensor]:
        # the 2x2 solve, written so that sigma = 0 gives z / alpha rather than 0 / 0
        c_skip, c_out, _ = self.coefficients(process.schedule, t)
        return c_out, c_skip

    def eps_per_output(self, process: Gaussian, t: Tensor) -> Tensor:
        alpha, sigma = process.schedule(t)
        return alpha / sigma * self.coefficients(process.schedule, t)[1]


class CategoricalPrediction(Prediction):
    """Logits over the K data categories; see the module."""

    kind = "categorical"

    def __init__(self, name: str, evidence: bool, masked_only: bool = False, level: str = "1000t") -> None:
        super().__init__(level)
        self.name, self._evidence, self._masked_only = name, evidence, masked_only

    def check(self, process: LeafProcess, leaf: str) -> None:
        super().check(process, leaf)
        if self._masked_only and isinstance(process, Categorical) and not process.masked:
            raise ValueError("prediction 'subs' replaces mask tokens, but this process has none; use 'logits' or limit='mask'.")

    def check_output(self, process: Categorical, output: Tensor, z: Tensor) -> None:
        if output.shape != (*z.shape, process.categories):
            raise ValueError(
                f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return logits "
                f"{(*z.shape, process.categories)}, categories last."
            )

    def posterior(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> CategoricalPosterior:
        return CategoricalPosterior(output, process.evidence(z, t) if self._evidence else None)


def x0(level: str = "1000t") -> GaussianPrediction:
    """The network predicts the data."""
    return GaussianPrediction("x0", lambda s, t: (torch.ones_like(t), torch.zeros_like(t)), level)


def eps(level: str = "1000t") -> GaussianPrediction:
    """The network predicts the noise (DDPM). Undefined where alpha = 0."""
    return GaussianPrediction("eps", lambda s, t: (torch.zeros_like(t), torch.ones_like(t)), level)


def v(level: str = "1000t") -> GaussianPrediction:
    """v = alpha e - sigma x (2202.00512, app. D)."""
    return GaussianPrediction("v", lambda s, t: (-s.sigma(t), s.alpha(t)), level)


def velocity(level: str = "1000t") -> GaussianPrediction:
    """dz/dt = alpha' x + sigma' e (flow matching; for the flow schedule, e - x)."""
    return GaussianPrediction("velocity", lambda s, t: s.rates(t), level)


def score(level: str = "1000t") -> GaussianPrediction:
    """grad log q(z_t), -e / sigma (score SDEs). Undefined where alpha = 0 or sigma = 0."""
    return GaussianPrediction("score", lambda s, t: (torch.zeros_like(t), -1 / s.sigma(t)), level)


def edm(sigma_data: float = 0.5, level: str = "log_sigma/4") -> Preconditioned:
    """EDM's preconditioned network; see `Preconditioned`."""
    return Preconditioned(sigma_data, level)


def logits(level: str = "1000t") -> CategoricalPrediction:
    """Logits that leave their own position out; see the module."""
    return CategoricalPrediction("logits", evidence=True, level=level)


def posterior(level: str = "1000t") -> CategoricalPrediction:
    """The belief itself, softmax(h); see the module."""
    return CategoricalPrediction("posterior", evidence=False, level=level)


def subs(level: str = "1000t") -> CategoricalPrediction:
    """The masked-diffusion substitution; see the module."""
    return CategoricalPrediction("subs", evidence=True, masked_only=True, level=level)


PREDICTIONS: dict[str, Callable[..., Prediction]] = {
    "x0": x0, "eps": eps, "v": v, "velocity": velocity, "score": score, "edm": edm,
    "logits": logits, "posterior": posterior, "subs": subs,
}  # fmt: skip


def named(prediction: "str | Prediction") -> Prediction:
    """A prediction by name, or the one given."""
    if isinstance(prediction, Prediction):
        return prediction
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}; choose one of {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[prediction]()
