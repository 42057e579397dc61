"""The bounds of Bayesian flow networks (2308.07037), in continuous time and over n steps, for every leaf that is Gaussian.

    L_inf = E_t -1/2 SNR'(t) |x - x^|^2           for sigma_1, -ln sigma_1 sigma_1^(-2 (1 - t)) |x - x^|^2 (eq. 101);
                                                  for categories, K beta_1 (1 - t) |e_x - e^|^2 (eq. 205)
    L_n   = n E_i KL(sender | receiver)           the sender says x with accuracy SNR(s) - SNR(t), the receiver expects
                                                  whatever the belief at t does: one normal law, or a mixture of K

The bound on -log p(x) is either one plus the reconstruction, -log p(x) under the belief at level 0.
"""

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.process import LeafProcess
from langevin.core.tree import leaves
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives.base import SPREADS, Loss, Objective, draw_levels, drop_conditions, mean_over_elements
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.levels import named as levels_named


class BayesianFlow(Objective):
    """Nats per element (per id, for points of categories), summed over leaves, each an unbiased estimate.

    Args:
        steps: n; None for continuous time.
        reconstruction: add -log p(x) at level 0, for leaves whose belief has probabilities, which makes the total the bound. It
            costs another evaluation and no sampler needs it trained; without it the bound is not logged either.
        levels: the density levels are drawn from in continuous time; the loss is divided by it.
        spread: one level per sample ("shared"), per leaf ("independent") or per element ("elements"); "shared" for n steps.
        clean: for products, probability that one leaf is given clean.
        drop: probability that a sample's conditions are dropped.

    Raises:
        ValueError: for settings out of range; when first called, for a leaf that is not Gaussian.
    """

    def __init__(
        self,
        steps: int | None = None,
        reconstruction: bool = False,
        levels: str | LevelDensity = "uniform",
        spread: str = "shared",
        clean: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}; the chain has at least 1, or None for continuous time.")
        for field, value in (("clean", clean), ("drop", drop)):
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}; it is a probability below 1.")
        if spread not in SPREADS or (steps is not None and (spread != "shared" or clean)):
            raise ValueError(f"spread is {spread!r}; choose one of {', '.join(SPREADS)}, and 'shared' over n steps.")
        if steps is not None and levels != "uniform":
            raise ValueError(f"levels is {levels!r} of continuous time, and steps is {steps}; leave one of them out.")
        self.steps, self.reconstruction, self.levels = steps, reconstruction, levels_named(levels)
        self.spread, self.clean, self.drop = spread, clean, drop

    def extra_repr(self) -> str:
        return f"steps={self.steps}, reconstruction={self.reconstruction}, spread={self.spread}, drop={self.drop:g}"

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        parts, x = model.process.leaves(), leaves(batch.x)
        for name, leaf in parts.items():
            check(leaf, name)
        cond = drop_conditions(batch.cond, noise, self.drop)
        t, s = self._levels(parts, x, noise)
        z, told = {}, {}
        for name, leaf in parts.items():
            z[name] = leaf.marginal(x[name], t[name], noise.at("noise").at(name), batch.mask)
            told[name] = leaf.levels(t[name], x[name]) if isinstance(leaf, Embedded) else t[name]
        belief = leaves(model.posteriors(model.outputs(z, told, cond, batch.mask), z, told, batch.mask))
        total, logs, levels, losses = torch.zeros((), device=next(iter(z.values())).device), {}, {}, {}
        for name, leaf in parts.items():
            tag = f"/{name}" if name else ""
            assert isinstance(leaf, Gaussian)
            drawn = t[name] > 0  # elements that are given teach nothing
            at = torch.where(drawn, t[name], 0.5)
            if s is None:
                error = self.rate(leaf, x[name], belief[name], at) / cast(self.levels.density(at, leaf.schedule), at).float()
            else:
                error = self.steps * self.sent(leaf, x[name], belief[name], at, s[name], noise.at("sent").at(name))  # pyright: ignore
            error = torch.where(drawn.to(error.device), error, torch.zeros_like(error))
            real = leaf.space.real(error, batch.mask)
            each = mean_over_elements(error, real)
            total = total + each.mean()
            logs[f"nats{tag}"] = each.mean().detach()
            levels[name] = (at.expand(error.shape) * drawn).reshape(-1) if at.numel() > len(at) else (at * drawn).reshape(-1)
            losses[name] = error.detach().reshape(-1) if at.numel() > len(at) else each.detach()
        if self.reconstruction:
            for name, value in self.reconstructed(model, batch, noise, cond).items():
                logs[f"reconstruction/{name}" if name else "reconstruction"] = value.detach()
                total = total + value
        return Loss(total, {"loss": total.detach(), **logs}, levels, losses)

    def _levels(
        self, parts: dict[str, LeafProcess], x: dict[str, Tensor], noise: Noise
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        if self.steps is None:
            return draw_levels(self.levels, parts, x, noise, self.spread, self.clean), None
        index = (stratified(noise.at("levels")) * self.steps).floor()
        t = {n: ((index + 1) / self.steps).reshape(-1, *[1] * (v.ndim - 1)).to(v.device) for n, v in x.items()}
        return t, {n: (v - 1 / self.steps).clamp(min=0) for n, v in t.items()}

    @staticmethod
    def rate(leaf: Gaussian, x: Tensor, belief: object, t: Tensor) -> Tensor:
        """-1/2 SNR'(t) |x - x^|^2 per element of x, t in (0, 1) expanded for x."""
        gain = -0.5 * leaf.schedule.lam(t).exp() * leaf.schedule.lam_rate(t)
        square = squared(leaf, x, belief)
        return cast(gain, square) * square

    @staticmethod
    def sent(leaf: Gaussian, x: Tensor, belief: object, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """KL(sender | receiver) between the levels s < t, per element of x; for beliefs with probabilities its estimate from
        two opposite messages of the sender, whose errors of first order cancel."""
        gain = leaf.schedule.lam(s).exp() - leaf.schedule.lam(t).exp()
        if not isinstance(belief, CategoricalPosterior) or not isinstance(leaf, Embedded):
            square = squared(leaf, x, belief)
            return 0.5 * cast(gain, square) * square
        # the message is x + e / sqrt(gain): relative to x, category k makes it likelier by exp(-gain d.d / 2 - sqrt(gain) e.d),
        # d = x - x_k taken with its sign
        points = leaf.embed(x)
        table = leaf.table.to(points.dtype)
        e = noise.normal(tuple(points.shape[1:]), points.dtype).to(points.device)
        if leaf.vectors:
            square = points.square().sum(-1, keepdim=True) - 2 * points @ table.T + table.square().sum(1)
            along = e @ table.T - (e * points).sum(-1, keepdim=True)
        else:
            apart = table - points[..., None]
            square, along = apart.square(), e[..., None] * apart
        gain = cast(gain, points)
        gain = gain[..., None] if gain.ndim else gain
        base, noisy = belief.log_probs - 0.5 * gain * square.clamp(min=0), gain.sqrt() * along
        return -0.5 * (torch.logsumexp(base + noisy, dim=-1) + torch.logsumexp(base - noisy, dim=-1))

    @staticmethod
    def reconstructed(model: Denoiser, batch: Batch, noise: Noise, cond: object) -> dict[str, Tensor]:
        """-log p(x) under the belief at level 0, nats per element, by leaf, for leaves whose belief has probabilities."""
        parts, x = model.process.leaves(), leaves(batch.x)
        zero = torch.zeros((), dtype=torch.float64)
        z = {n: leaf.marginal(x[n], zero, noise.at("reconstruction").at(n), batch.mask) for n, leaf in parts.items()}
        t = dict.fromkeys(parts, zero)
        belief = leaves(model.posteriors(model.outputs(z, t, cond, batch.mask), z, t, batch.mask))  # pyright: ignore
        out = {}
        for name, leaf in parts.items():
            if isinstance(belief[name], CategoricalPosterior):
                error = -belief[name].log_probs.gather(-1, x[name][..., None])[..., 0]
                out[name] = mean_over_elements(error, leaf.space.real(error, batch.mask)).mean()
        return out


def squared(leaf: Gaussian, x: Tensor, belief: object) -> Tensor:
    """|x - x^|^2 per element of x, summed over the coordinates of points."""
    if not isinstance(leaf, Embedded):
        return (x - belief.mean) ** 2  # pyright: ignore
    square = (leaf.embed(x) - belief.mean) ** 2  # pyright: ignore
    return square.sum(-1) if leaf.vectors else square


def check(leaf: LeafProcess, name: str) -> None:
    """Refuse a leaf that has no Bayesian flow. Raises ValueError."""
    at = leaf_name(name)
    if isinstance(leaf, Embedded) and leaf.std:
        raise ValueError(f"std is {leaf.std:g} and {at} has data about its points; use the Embedding objective, or std=0.")
    if isinstance(leaf, Interpolant):
        raise ValueError(f"Bayesian flow begins at noise, and {at} is an interpolant, with data at both ends; use Denoising.")
    if not isinstance(leaf, Gaussian):
        raise ValueError(f"Bayesian flow is a bound of Gaussian processes, and {at} is {leaf.kind}; use ELBO or Denoising there.")
