"""The evidence lower bound as a sum over steps of KL(q(z_s | z_t, x) || q(z_s | z_t, belief)), for every process.

    -log p(x) <= prior KL + sum_{i=1..T} E KL_i,   t = i/T, s = (i - 1)/T.

For categories the term with s = 0 is the reconstruction, -log p(x | z_t). Gaussian leaves stop at the schedule's floor:
the decoder below it depends on how data was made continuous.
"""

import torch

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.tree import leaves, tree
from langevin.objectives.base import Loss, Objective, drop_conditions, mean_over_elements
from langevin.objectives.levels import stratified


class ELBO(Objective):
    """T E_i KL_i with i drawn evenly, in nats per element of each leaf, summed over leaves; an unbiased estimate of
    the sum for one leaf. (The joint bound of a product weighs each leaf by its number of elements: use the logs.)

    Args:
        steps: T, the number of steps of the chain that is bounded.
        drop: probability that a sample's conditions are dropped.
    """

    def __init__(self, steps: int = 100, drop: float = 0.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is {steps}; the chain has at least 1.")
        self.steps, self.drop = steps, drop

    def extra_repr(self) -> str:
        return f"steps={self.steps}, drop={self.drop:g}"

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        parts, x = model.process.leaves(), leaves(batch.x)
        index = (stratified(noise.at("levels")) * self.steps).floor().long()
        t, s, z = {}, {}, {}
        for name, leaf in parts.items():
            shape = (-1, *[1] * (x[name].ndim - 1))
            low = leaf.schedule.floor if isinstance(leaf, Gaussian) else 0.0
            t[name] = (low + (1 - low) * (index + 1).double() / self.steps).reshape(shape)
            s[name] = (low + (1 - low) * index.double() / self.steps).reshape(shape)
            z[name] = leaf.marginal(x[name], t[name], noise.at("noise").at(name), batch.mask)
        belief = leaves(model(tree(z), tree(t), drop_conditions(batch.cond, noise, self.drop), batch.mask))
        each = {
            name: self.steps
            * mean_over_elements(leaf.kl(x[name], belief[name], z[name], t[name], s[name]), leaf.space.real(z[name], batch.mask))
            for name, leaf in parts.items()
        }
        total = torch.stack([e.mean() for e in each.values()]).sum().float()
        logs = {f"nats/{name}" if name else "nats": e.mean().detach() for name, e in each.items()}
        levels = {name: level.reshape(-1).to(each[name].device) for name, level in t.items()}
        return Loss(total, {"loss": total.detach(), **logs}, levels, {name: e.detach() for name, e in each.items()})
