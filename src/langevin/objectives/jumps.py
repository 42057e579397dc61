"""Bounds in continuous time of categories under low-rank kernels alpha I + (1 - alpha) 1 pi^T, in nats per unit of t and element.

Two reverse jump processes have the marginals of the forward one, and each has its bound:

    score entropy   the reversal of the Markov chain that jumps at rate -alpha'/alpha and lands on pi (SEDD, 2310.16834; its
                    rates are those of Campbell et al., 2205.14987); the limit of `ELBO(T)` and of `plans.ddpm`, eta = 1
    flow            the one that moves straight to a draw from the belief, at rate -alpha'/(1 - alpha) (discrete flow matching,
                    2407.15595; its bound 2412.03487); the limit of eta = 0, and of `plans.flow_jumps`

On a mask both are -alpha'/(1 - alpha) times the cross-entropy of what is masked (MDLM, MD4).
"""

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.posterior import CategoricalPosterior


def log_ratios(leaf: Categorical, belief: CategoricalPosterior, z: Tensor, t: Tensor) -> Tensor:
    """log q_t(z with y at this position) / q_t(z) under the belief, (B, *shape, K) float64.

    Args:
        t: expanded.
    """
    alpha = leaf.schedule.alpha(t).to(z.device)[..., None]
    limit = leaf.kernel.limit.to(z.device)
    if belief.evidence is None:  # the belief with its own evidence taken out again
        others = torch.log_softmax(belief.log_probs.double() - leaf.evidence(z, t).clamp(min=-1e4), -1).exp()
    else:
        others = torch.softmax(belief.logits.double(), -1)
    law = alpha * torch.nn.functional.pad(others, (0, leaf.states - leaf.categories)) + (1 - alpha) * limit
    return law[..., : leaf.categories].clamp(min=1e-300).log() - law.gather(-1, z[..., None]).clamp(min=1e-300).log()


def score_entropy(leaf: Categorical, x: Tensor, z: Tensor, log_s: Tensor, t: Tensor) -> Tensor:
    """(-alpha'/alpha) pi(z) sum_{y != z} [s - a log s + a (log a - 1)], a = q(y | x) / q(z | x); (B, *shape) float64.

    Args:
        log_s: log s of each category, (B, *shape, K); see `log_ratios`, or the prediction `ratio`.
        t: expanded.
    """
    alpha, rate = leaf.schedule.alpha(t).to(z.device), -leaf.schedule.rates(t)[0].to(z.device)
    q = leaf.kernel.push(leaf.one_hot(x), alpha[..., None])
    a = q[..., : leaf.categories] / q.gather(-1, z[..., None]).clamp(min=1e-300)
    log_s = log_s.double()
    each = log_s.exp() - a * log_s + torch.special.xlogy(a, a) - a
    each = torch.where(leaf.one_hot(z)[..., : leaf.categories] > 0, 0.0, each)
    jumped = leaf.kernel.limit.to(z.device)[z]  # states the process never jumps to (revealed tokens) are never left
    return torch.where(jumped > 0, rate / alpha.clamp(min=1e-300) * jumped * each.sum(-1), 0.0)


def flow(leaf: Categorical, x: Tensor, z: Tensor, belief: CategoricalPosterior, t: Tensor) -> Tensor:
    """(-alpha'/(1 - alpha)) [1{z = x} - p(z) - 1{z != x} log p(x)]; (B, *shape) float64. t expanded."""
    alpha, rate = leaf.schedule.alpha(t).to(z.device), -leaf.schedule.rates(t)[0].to(z.device)
    log_p, known = belief.log_probs.double(), z < leaf.categories
    own = torch.where(known, log_p.gather(-1, torch.where(known, z, 0)[..., None])[..., 0].exp(), 0.0)
    wanted = log_p.gather(-1, x[..., None])[..., 0]
    return rate / (1 - alpha).clamp(min=1e-12) * torch.where(z == x, 1 - own, -own - wanted)
