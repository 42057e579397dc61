"""The evidence lower bound as a sum over steps of KL(q(z_s | z_t, x) || q(z_s | z_t, belief)), for every process.

    -log p(x) <= prior KL + sum_{i=1..T} E KL_i,   t = i/T, s = (i - 1)/T.

For categories the term with s = 0 is the reconstruction, -log p(x | z_t). Gaussian leaves stop at the schedule's floor:
the decoder below it depends on how data was made continuous (`langevin.tasks.elbo` has it).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.process import LeafProcess
from langevin.core.tree import leaves, tree
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives.base import Loss, Objective, drop_conditions, mean_over_elements
from langevin.objectives.levels import stratified

FORMS = ("exact", "text", "images", "joint")


class ELBO(Objective):
    """T E_i KL_i with i drawn evenly, in nats per element of each leaf, summed over leaves; an unbiased estimate of
    the sum for one leaf. (The joint bound of a product weighs each leaf by its number of elements: use the logs.)

    D3PM (2107.03006, eq. 5) adds lambda times the cross-entropy. Its code does so to the bound's *mean* over the T steps: the
    loss is (L_vb + lambda T CE) / T, so that lambda = 0.001 (images) or 0.01 (text) with T = 1000 weighs CE 1 or 10 times as much
    as the bound. Here the weight stands beside the sum: `cross_entropy` = lambda T; see `hybrid`.

    Args:
        steps: T, the number of steps of the chain that is bounded.
        drop: probability that a sample's conditions are dropped.
        cross_entropy: weight of the cross-entropy of beliefs in categorical leaves, at the levels drawn.
        form: "exact" takes beliefs as they are, softmax(h + log q(z | x = .)), so that bound and cross-entropy have one optimum.
            "text" takes softmax(h) for the cross-entropy, as the paper writes it, and "images" also for the step to data, as its
            image code does: with any kernel but a mask these have two optima, and the bound is worse. "joint" is the likelihood
            that DiGress's code reports (2209.14734), for reading beside its tables: beliefs, posteriors already, are weighed by
            q(z_s, z_t | x), so that the state's evidence counts twice in all steps but that to data. It bounds another sampler
            than the one that draws, and is not to be trained on.
    """

    def __init__(self, steps: int = 100, drop: float = 0.0, cross_entropy: float = 0.0, form: str = "exact") -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is {steps}; the chain has at least 1.")
        if form not in FORMS or not cross_entropy >= 0:
            raise ValueError(
                f"cross_entropy is {cross_entropy} in the form {form!r}; give at least 0, and one of {', '.join(FORMS)}."
            )
        if form == "text" and not cross_entropy:
            raise ValueError("form is 'text', which is how the cross-entropy is taken, and cross_entropy is 0; give its weight.")
        self.steps, self.drop, self.cross_entropy, self.form = steps, drop, cross_entropy, form

    def extra_repr(self) -> str:
        mixed = f", cross_entropy={self.cross_entropy:g}, form={self.form}" if self.cross_entropy or self.form != "exact" else ""
        return f"steps={self.steps}, drop={self.drop:g}{mixed}"

    def _steps(self, leaf: LeafProcess, x: Tensor, belief: Any, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The chain's terms, (B, *shape)."""
        told = belief
        if self.form == "joint" and isinstance(leaf, Categorical):
            told = replace(belief, evidence=leaf.evidence(z, t) + (0 if belief.evidence is None else belief.evidence))
        terms = leaf.kl(x, told, z, t, s)
        if isinstance(leaf, Categorical):
            last = (s == 0).to(terms.device)  # -log p(x | z_t), where kl decides by the whole batch
            raw = replace(belief, evidence=None) if self.form == "images" else belief
            terms = torch.where(last, _surprise(raw, x), terms)
        return terms

    def terms(
        self, model: Denoiser, batch: Batch, index: Tensor, noise: Noise, cond: Cond = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        """Term number `index` (B,), from 0 at the data's end, of each sample: KL_i by leaf, (B, *shape) nats like the data, the
        levels t by leaf, and the belief. The sum over all `steps` terms is the bound's.

        Raises:
            ValueError: for data about its points, of which KL_i would know nothing.
        """
        parts, x = model.process.leaves(), leaves(batch.x)
        t, s, z = {}, {}, {}
        for name, leaf in parts.items():
            if isinstance(leaf, Interpolant):
                raise ValueError(
                    f"{leaf} has data at both ends, and this bound is of processes that end in noise; use Denoising."
                )
            if isinstance(leaf, Embedded) and leaf.std:
                raise ValueError(
                    f"std is {leaf.std:g} and {leaf_name(name)} has data about its points; use the Embedding objective, or std=0."
                )
            shape = (-1, *[1] * (x[name].ndim - 1))
            low = leaf.schedule.floor if isinstance(leaf, Gaussian) else 0.0
            t[name] = (low + (1 - low) * (index + 1).double() / self.steps).reshape(shape)
            s[name] = (low + (1 - low) * index.double() / self.steps).reshape(shape)
            z[name] = leaf.marginal(x[name], t[name], noise.at("noise").at(name), batch.mask)
        told = {n: leaf.levels(t[n], x[n]) if isinstance(leaf, Embedded) else t[n] for n, leaf in parts.items()}
        belief = leaves(model(tree(z), tree(told), cond, batch.mask))
        return {n: self._steps(leaf, x[n], belief[n], z[n], t[n], s[n]) for n, leaf in parts.items()}, t, belief

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        parts, x = model.process.leaves(), leaves(batch.x)
        if (self.cross_entropy or self.form != "exact") and not any(isinstance(leaf, Categorical) for leaf in parts.values()):
            raise ValueError(
                f"cross_entropy is {self.cross_entropy:g} in the form {self.form!r}, of categories, and the model's process is "
                f"{model.process}; leave them out."
            )
        index = (stratified(noise.at("levels")) * self.steps).floor().long()
        terms, t, belief = self.terms(model, batch, index, noise, drop_conditions(batch.cond, noise, self.drop))
        real = {name: leaf.space.real(terms[name], batch.mask) for name, leaf in parts.items()}
        each = {name: self.steps * mean_over_elements(term, real[name]) for name, term in terms.items()}
        total = torch.stack([e.mean() for e in each.values()]).sum().float()
        logs = {f"nats/{name}" if name else "nats": e.mean().detach() for name, e in each.items()}
        for name, leaf in parts.items() if self.cross_entropy else ():
            if isinstance(leaf, Categorical):
                said = belief[name] if self.form == "exact" else replace(belief[name], evidence=None)
                surprise = mean_over_elements(_surprise(said, x[name]), real[name]).mean()
                total = total + self.cross_entropy * surprise.float()
                logs[f"cross_entropy/{name}" if name else "cross_entropy"] = surprise.detach()
        levels = {name: level.reshape(-1).to(each[name].device) for name, level in t.items()}
        return Loss(total, {"loss": total.detach(), **logs}, levels, {name: e.detach() for name, e in each.items()})


def hybrid(steps: int = 100, weight: float = 0.001, form: str = "exact", drop: float = 0.0) -> ELBO:
    """D3PM's L_lambda with its own lambda, times T: L_vb + `weight` T CE (2107.03006, eq. 5)."""
    return ELBO(steps, drop, weight * steps, form)


def _surprise(belief: CategoricalPosterior, x: Tensor) -> Tensor:
    """-log p(x), (B, *shape) float64."""
    return -belief.log_probs.double().gather(-1, x[..., None])[..., 0]
