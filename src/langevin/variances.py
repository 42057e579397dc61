"""Networks that say, beside the mean, how large the variance of a step is (Improved DDPM, 2102.09672, sec. 3.1; ADM, DiT).

Their outputs have twice the channels of the states. The second half, v = (output + 1) / 2, places the log-variance of a step
between that of the bridge (beta tilde, exact where the data is one point) and that of the step towards noise (beta, exact where
it is standard normal): log Var = v log beta + (1 - v) log beta tilde (eq. 15). A step may be of any length: v is the same, the
two ends are those of the step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.gaussian import Gaussian
from langevin.core.posterior import GaussianPosterior
from langevin.core.prediction import GaussianPrediction, Prediction, named


@dataclass(frozen=True)
class RangedPosterior(GaussianPosterior):
    """Mean of x, and v per element: 0 where a step has the bridge's variance, 1 where it has that of the step towards noise."""

    between: Tensor | None = None


class WithVariance(GaussianPrediction):
    """The prediction of a network with twice the channels of z (B, C, ...).

    Args:
        prediction: of the first half, "eps" or "x0", by name or made.
        used: False leaves the second half out, as DiT's own samplers do.

    Training the mean (`Denoising`) leaves the second half alone.

    Raises:
        ValueError: for another prediction.
    """

    def __init__(self, prediction: str | Prediction = "eps", used: bool = True) -> None:
        base = named(prediction)
        if not isinstance(base, GaussianPrediction) or base.name not in ("eps", "x0"):
            raise ValueError(f"prediction is {base.name!r}; networks that say variances predict 'eps' or 'x0' beside them.")
        super().__init__(base.name, base._pair, base.level_name)
        self.used = used

    def __repr__(self) -> str:
        return f"WithVariance({super().__repr__()}, used={self.used})"

    def check_output(self, process: Gaussian, output: Tensor, z: Tensor) -> None:
        wanted = (len(z), 2 * z.shape[1], *z.shape[2:])
        if output.shape != wanted:
            raise ValueError(f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return {wanted}.")

    def answer(self, output: Tensor) -> Tensor:
        return output[:, : output.shape[1] // 2]

    def posterior(self, process: Gaussian, output: Tensor, z: Tensor, t: Tensor) -> GaussianPosterior:
        said, variance = output.chunk(2, dim=1)
        mean = super().posterior(process, said, z, t).mean
        return RangedPosterior(mean, between=(variance + 1) / 2) if self.used else GaussianPosterior(mean)


def step_deviation(process: Gaussian, belief: Any, start: float, stop: float) -> Tensor | None:
    """Standard deviation of z_stop given z_start > z_stop under a belief that says v, per element; None for other beliefs."""
    if not isinstance(belief, RangedPosterior) or belief.between is None:
        return None
    small = torch.tensor(process.bridge_numbers(start, stop, 1.0)[2], dtype=torch.float64).clamp(min=1e-10).log()
    large = torch.tensor(towards_noise(process, start, stop), dtype=torch.float64).clamp(min=1e-10).log()
    return (belief.between * float(large - small) + float(small)).exp()


def towards_noise(process: Gaussian, start: float, stop: float) -> float:
    """Standard deviation of the process's own step from z_stop to z_start, at the scale of z_stop (2006.11239, sec. 3.2)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([float(v) for v in process.schedule(level)] for level in (start, stop))
    scale = (alpha_s**2 + sigma_s**2) ** 0.5 / (alpha_t**2 + sigma_t**2) ** 0.5
    return scale * max(sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2, 0.0) ** 0.5
