"""Bayesian flow networks (2308.07037), whose states are the parameters of a belief and whose steps are Bayesian updates.

Nothing here is a process of its own: after division by its scale each kind is a Gaussian process, whose signal-to-noise ratio is
the accuracy of all that has been seen, whose bridge at eta = 1 is a Bayesian update, and whose continuous-time bound is their
loss L_inf. Their time is 1 - t.

    continuous    z = mu / sqrt(g),  g = 1 - sigma_1^(2 (1 - t))               real numbers
    discretised   the same; the network says a distribution over K bins        numbers of K values in [-1, 1]
    discrete      z in proportion to the logits y, centred one-hot points      categories

What is theirs is in the predictions here, in `objectives.BayesianFlow` and in `plans.bayesian_flow`.
"""

import torch
from torch import Tensor

from langevin import schedules
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.posterior import GaussianPosterior
from langevin.core.prediction import GaussianPrediction, Prediction
from langevin.core.process import LeafProcess
from langevin.embedded import Embedded, EmbeddedPosterior, check_embedded

_FAINT = 1e-6
"""alpha^2 below which nothing is divided by alpha: data are believed to be at 0 there (their t_min, sec. 4.4)."""


def continuous(sigma_1: float = 0.001) -> Gaussian:
    """Real numbers: the Gaussian process on `schedules.bayesian_flow`."""
    return Gaussian(schedules.bayesian_flow(sigma_1))


def discretised(bins: int, sigma_1: float | None = None) -> Embedded:
    """Numbers that take `bins` values, ids 0 .. bins - 1, at the centres of equal bins of [-1, 1] (sec. 5).

    Args:
        sigma_1: by default 0.001 from 256 bins on, and sqrt(0.001) below (sec. 7.2).
    """
    std = (0.001 if bins >= 256 else 0.001**0.5) if sigma_1 is None else sigma_1
    centres = (2 * torch.arange(bins, dtype=torch.float64) + 1) / bins - 1
    return Embedded(centres.float(), schedules.bayesian_flow(std))


def discrete(categories: int, beta_1: float) -> Embedded:
    """Categories, at e_k - 1 / K (sec. 6). beta_1 was 9 for binary MNIST and 0.5625 for text8."""
    points = torch.eye(categories, dtype=torch.float64) - 1 / categories
    return Embedded(points.float(), schedules.bayesian_flow_categories(categories, beta_1))


def simplex(process: Embedded, z: Tensor, t: Tensor) -> Tensor:
    """theta (B, *shape, K), the probabilities that a state of `discrete` stands for; t expanded for z."""
    return torch.softmax(process.evidence(z, t), dim=-1)


class ClippedNoise(GaussianPrediction):
    """The network predicts the noise, and its belief is clipped to the range of data; where nothing is seen it is 0 (sec. 4.4).

    Unlike "eps" it may be asked where alpha is 0, as it is at level 1 of these schedules.

    Args:
        bound: beliefs are clipped to [-bound, bound]; None leaves them.
        level: the number the network is shown for its level.
    """

    def __init__(self, bound: float | None = 1.0, level: str = "1000t") -> None:
        super().__init__("clipped_noise", lambda s, t: (torch.zeros_like(t), torch.ones_like(t)), level)
        if bound is not None and not bound > 0:
            raise ValueError(f"bound is {bound}; give a number above 0, or None.")
        self.bound = bound

    def posterior(self, process: Gaussian, output: Tensor, z: Tensor, t: Tensor) -> GaussianPosterior:
        alpha, sigma = process.schedule(t)
        seen = alpha**2 >= _FAINT
        z_part = torch.where(seen, 1 / alpha.clamp(min=1e-12), 0.0)
        mean = cast(z_part, z) * z - cast(z_part * sigma, z) * output
        return GaussianPosterior(mean if self.bound is None else mean.clamp(-self.bound, self.bound))


class Bins(Prediction):
    """The network says, as noise, the mean and log-deviation of a normal law over data, whose mass in each bin is the belief
    (sec. 5, eq. 105-110). Its outputs have twice the channels of z (B, C, ...): first the means, then the log-deviations.

    With z = alpha x + sigma e the law has mean (z - sigma e^) / alpha and deviation sigma / alpha exp(l); the first and last bin
    take the tails beyond [-1, 1]. Where nothing is seen it is the standard normal.
    """

    kind = "gaussian"
    name = "bins"

    def check(self, process: LeafProcess, leaf: str) -> None:
        check_embedded(process, leaf, self.name)
        if isinstance(process, Embedded) and process.vectors:
            raise ValueError("prediction 'bins' says which of a row of numbers data is, and these are vectors; use Logits().")

    def check_output(self, process: Embedded, output: Tensor, z: Tensor) -> None:
        wanted = (len(z), 2 * z.shape[1], *z.shape[2:]) if z.ndim > 1 else (2 * len(z),)
        if output.shape != wanted:
            raise ValueError(f"the network returned {tuple(output.shape)} for states {tuple(z.shape)}; return {wanted}.")

    def posterior(self, process: Embedded, output: Tensor, z: Tensor, t: Tensor) -> EmbeddedPosterior:
        said, spread = output.chunk(2, dim=1)
        alpha, sigma = process.schedule(t)
        seen = alpha**2 >= _FAINT
        z_part = cast(torch.where(seen, 1 / alpha.clamp(min=1e-12), 0.0), z)
        ratio = cast(torch.where(seen, sigma / alpha.clamp(min=1e-12), 1.0), z)
        mean = z_part * z - torch.where(seen.to(z.device), ratio * said, 0.0)
        deviation = ratio * torch.where(seen.to(z.device), spread, 0.0).exp()
        return process.believed(self.log_masses(process.table, mean, deviation))

    @staticmethod
    def log_masses(centres: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """log of the mass of N(mean, deviation^2) in each bin, (B, *shape, K)."""
        edges = (centres[1:] + centres[:-1]).to(mean) / 2
        place = (edges - mean[..., None]) / deviation[..., None].clamp(min=1e-12)
        # the masses of lower and of upper tails are differenced on the side where they are small
        below, above = torch.special.log_ndtr(place), torch.special.log_ndtr(-place)
        low = _difference(below[..., 1:], below[..., :-1])
        high = _difference(above[..., :-1], above[..., 1:])
        inner = torch.where(place[..., 1:] + place[..., :-1] < 0, low, high)
        return torch.cat([below[..., :1], inner, above[..., -1:]], dim=-1)


def _difference(more: Tensor, less: Tensor) -> Tensor:
    """log(exp(more) - exp(less)), more >= less."""
    gap = (less - more).clamp(max=-1e-7)
    return more + torch.log(-torch.expm1(gap))
