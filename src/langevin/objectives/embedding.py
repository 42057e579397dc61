"""Diffusion-LM (2205.14217): words are points that are learned with the network that denoises them.

With x0 ~ N(E_w, s0^2), z_t = alpha_t x0 + sigma_t e, first level t_1, and p(w | x0) = softmax(E x0):

    simple   E |x0 - x^|^2, at t_1 |E_w - x^|^2, + |alpha_1 x0|^2 - log p(w | x0)
    bound    E [ KL(q(z_1 | x0) | N(0, sigma_1^2)) + sum_i KL(q(z_s | z_t, x0) | q(z_s | z_t, x^)) - log N(x0; x^(z_t1), s^2)
                 + log q(x0 | w) - log p(w | x0) ]  >=  -log p(w)

alpha_1 is alpha at t = 1. Without the last term nothing keeps points apart: they fall onto one, where every loss is 0.
"""

import math

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Cond, Denoiser
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.process import LeafProcess
from langevin.core.tree import leaves
from langevin.embedded import Embedded
from langevin.objectives.base import Loss, Objective, draw_levels, drop_conditions, mean_over_elements
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.levels import named as levels_named

FORMS = ("simple", "bound")


class Embedding(Objective):
    """The loss of Diffusion-LM, for one `Embedded` process whose table is learned.

    Args:
        form: "simple", whose squares are means over coordinates, as in the published code; "bound", nats per id, exact over
            `steps` steps: levels i / steps, the first of which is t_1.
        steps: of the bound; and 1 / steps is t_1 of the simple form. By default the size of the schedule's table.
        decoder: standard deviation s of p(x0 | z at t_1) in the bound; by default that of x0 about its point.
        rounding: factor of -log p(w | x0), 1 in both; 0 shows what it is for.
        levels: the density that levels of the simple form are drawn from.
        spread: one level per sample ("shared"), or per id ("elements"), so that some may be given and others found.
        drop: probability that a sample's conditions are dropped.

    Raises:
        ValueError: for settings out of range; when first called, for another process.
    """

    def __init__(
        self,
        form: str = "simple",
        steps: int | None = None,
        decoder: float | None = None,
        rounding: float = 1.0,
        levels: str | LevelDensity = "uniform",
        spread: str = "shared",
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; choose one of {', '.join(FORMS)}.")
        if spread not in ("shared", "elements") or (form == "bound" and spread != "shared"):
            raise ValueError(f"spread is {spread!r}; levels are 'shared', or of 'elements' in the simple form.")
        if (steps is not None and steps < 1) or (decoder is not None and not decoder > 0):
            raise ValueError(f"steps is {steps} and decoder {decoder}; give at least 1 step, and a deviation above 0.")
        if not rounding >= 0 or not 0 <= drop < 1:
            raise ValueError(f"rounding is {rounding} and drop {drop}; give a factor from 0, and a probability below 1.")
        if form == "bound" and levels != "uniform":
            raise ValueError(f"levels is {levels!r} of the simple form, and the bound has even steps; leave it out.")
        self.form, self.steps, self.decoder, self.rounding = form, steps, decoder, rounding
        self.levels, self.spread, self.drop = levels_named(levels), spread, drop

    def extra_repr(self) -> str:
        return f"form={self.form}, steps={self.steps}, rounding={self.rounding:g}, spread={self.spread}, drop={self.drop:g}"

    def prepare(self, model: Denoiser) -> None:
        _process(model.process.leaves())

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        leaf, ids = _process(model.process.leaves()), leaves(batch.x)[""]
        cond = drop_conditions(batch.cond, noise, self.drop)
        if self.form == "simple":
            t = draw_levels(self.levels, {"": leaf}, {"": ids}, noise, self.spread, 0.0)[""]
        else:
            index = (stratified(noise.at("levels")) * self.steps_of(leaf)).floor()
            t = ((index + 1) / self.steps_of(leaf)).reshape(-1, *[1] * (ids.ndim - 1)).to(ids.device)
        x0 = leaf.start(ids, noise)
        e = leaf.noise(x0, noise.at("noise"), batch.mask)
        parts = self.terms(model, ids, x0, e, t, cond, batch.mask)
        denoising, rounding = parts["denoising"], parts["rounding"]
        real = leaf.space.real(rounding, batch.mask)
        each = mean_over_elements(torch.stack(list(parts.values())).sum(0), real)
        logs = {name: mean_over_elements(p, real).mean().detach() for name, p in parts.items()}
        level = t.expand(denoising.shape) if t.numel() > len(t) else t
        losses = denoising.detach() if t.numel() > len(t) else mean_over_elements(denoising, real).detach()
        if real is not None and t.numel() > len(t):
            level = torch.where(real, level, 0.0)
        return Loss(each.mean(), {"loss": each.mean().detach(), **logs}, {"": level.reshape(-1)}, {"": losses.reshape(-1)})

    def terms(
        self, model: Denoiser, ids: Tensor, x0: Tensor, e: Tensor, t: Tensor, cond: Cond = None, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms at one level of each sample, (B, *shape) like ids; their sum is what is averaged.

        Args:
            x0, e: points, and noise, (B, *shape, D). t: levels expanded for ids; of the bound, i / steps.
        """
        leaf = _process(model.process.leaves())
        point, told = leaf.embed(ids), {"": t[..., None]}
        z = {"": leaf.mix(x0, e, told[""])}
        belief = leaves(model.posteriors(model.outputs(z, told, cond, mask), z, told, mask))[""]
        rounding = -self.rounding * leaf.log_probs(x0).gather(-1, ids[..., None])[..., 0]
        if self.form == "bound":
            steps = self.steps_of(leaf)
            denoising = steps * self.step(leaf, x0, belief, t, 1 / steps)
            fixed = self.start(leaf, x0, point)
            return {"denoising": denoising, "prior": self.prior(leaf, x0), "start": fixed, "rounding": rounding}
        first = t <= 1 / self.steps_of(leaf) + 1e-9
        target = torch.where(first[..., None].to(x0.device), point, x0)
        prior = (float(leaf.schedule(1.0)[0]) * x0).square().mean(-1)
        return {"denoising": (target - belief.mean).square().mean(-1), "prior": prior, "rounding": rounding}

    def steps_of(self, leaf: Embedded) -> int:
        """T of the bound, and 1 / t_1 of the simple form."""
        if self.steps is not None:
            return self.steps
        return int(getattr(leaf.schedule, "size", 2000))

    def step(self, leaf: Embedded, x0: Tensor, belief: object, t: Tensor, size: float) -> Tensor:
        """KL(q(z_s | z_t, x0) | q(z_s | z_t, x^)), s = t - size; at the first level -log N(x0; x^, s^2). (B, *shape) nats."""
        square = (x0 - belief.mean).square().sum(-1)  # pyright: ignore[reportAttributeAccessIssue]
        first = t <= size + 1e-9
        s = torch.where(first, t, t - size)
        gain = leaf.schedule.lam(s).exp() - leaf.schedule.lam(t).exp()
        deviation = self._decoder(leaf)
        weight = torch.where(first, 1 / deviation**2, gain)
        constant = torch.where(first, x0.shape[-1] * math.log(2 * math.pi * deviation**2) / 2, 0.0)
        return 0.5 * cast(weight, square) * square + cast(constant, square)

    def _decoder(self, leaf: Embedded) -> float:
        return leaf.std if self.decoder is None else self.decoder

    @staticmethod
    def prior(leaf: Embedded, x0: Tensor) -> Tensor:
        """KL(q(z_1 | x0) | N(0, sigma_1^2)), nats per id."""
        alpha, sigma = (float(v) for v in leaf.schedule(1.0))
        return 0.5 * (alpha / sigma * x0).square().sum(-1)

    @staticmethod
    def start(leaf: Embedded, x0: Tensor, point: Tensor) -> Tensor:
        """log q(x0 | w), nats per id."""
        return -((x0 - point) / leaf.std).square().sum(-1) / 2 - x0.shape[-1] * math.log(2 * math.pi * leaf.std**2) / 2


def _process(parts: dict[str, LeafProcess]) -> Embedded:
    (leaf, *others) = parts.values()
    if others or not isinstance(leaf, Embedded) or not leaf.vectors:
        raise ValueError("the Embedding objective trains one embedded process whose points are vectors; others have theirs.")
    if not leaf.std > 0:
        raise ValueError(
            f"std is {leaf.std}; Diffusion-LM has data about its points, so build Embedded(..., std=0.1) or the like."
        )
    return leaf
