"""How unlike its training data a sample is, by how badly a model denoises it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, evaluating
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.tasks.likelihood import at_home


def strangeness(
    denoiser: BaseDenoiser,
    x: Tensor,
    lams: Sequence[float] = (6, 5, 4, 3, 2, 1, 0),
    draws: int = 4,
    cond: Cond = None,
    seed: int = 0,
    first_id: int = 0,
) -> Tensor:
    """Anomaly scores (B,) of x (B, *shape): the mean over levels and `draws` of the squared error of the noise per element,
    exp(lam) |x - x^(z_t)|^2.

    These are terms of the bound on -log p(x), without those of the finest details, of which every picture has its own. High where
    the model does not know what it sees: it makes of the noisy sample something that it knows. len(lams) * draws evaluations.

    Args:
        lams: log-SNRs of the levels; from details to where the kind of thing is decided.
        seed, first_id: name the draws.

    Raises:
        ValueError: for another process than one Gaussian process, or no levels or draws.
    """
    leaf = denoiser.process.leaves().get("")
    if not isinstance(leaf, Gaussian):
        raise ValueError(f"this score is of one Gaussian process, and this is {denoiser.process}; use elbo.")
    if not lams or draws < 1:
        raise ValueError(f"lams is {tuple(lams)} and draws {draws}; give at least one of each.")
    x, cond = at_home(denoiser, x, cond)
    noise = Noise.of(seed, len(x), first_id, x.device).at("strangeness")
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with torch.no_grad(), evaluating(denoiser):
        for lam in lams:
            t = float(leaf.schedule.invert(lam))
            for k in range(draws):
                z = leaf.marginal(x, t, noise.at(f"{lam:g}/{k}"))
                error = x - leaves(denoiser(z, expand(t, x), cond))[""].mean
                total += math.exp(lam) * error.double().flatten(1).square().mean(1)
    return total / (len(lams) * draws)


def auroc(scores: Tensor, outlier: Tensor) -> float:
    """The probability that an outlier (bool, (N,)) has a higher score (N,) than another sample; ties count half.

    Raises:
        ValueError: unless there are both.
    """
    if not bool(outlier.any()) or bool(outlier.all()):
        raise ValueError("there are no outliers, or nothing else; give some of both.")
    high, low = scores[outlier].double(), scores[~outlier].double()
    ranked = low.sort().values
    below, up_to = (torch.searchsorted(ranked, high, right=right).double() for right in (False, True))
    return float((below + up_to).mean()) / (2 * len(low))
