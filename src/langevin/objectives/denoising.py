"""Denoising: mean squared error for Gaussian leaves, cross-entropy for categorical ones, their sum over a product. Of categories
at points it is either, by what the network says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.categorical import Categorical, LowRank
from langevin.core.denoiser import Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.prediction import GaussianPrediction
from langevin.core.process import LeafProcess, Process
from langevin.core.tree import leaves, spread, tree
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives.base import SPREADS, Loss, Objective, draw_levels, drop_conditions, mean_over_elements
from langevin.objectives.coupling import Coupling, Independent, partners
from langevin.objectives.coupling import named as coupling_named
from langevin.objectives.distances import Distance
from langevin.objectives.distances import named as distance_named
from langevin.objectives.jumps import flow, log_ratios, score_entropy
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.levels import named as levels_named
from langevin.objectives.weights import Weight, named

_BOUNDS = ("elbo", "flow")


@runtime_checkable
class Scored(Protocol):
    """A prediction that says the ratios of probabilities itself, as `langevin.heads.ratio` does."""

    def log_ratio(self, process: Categorical, output: Tensor, z: Tensor, t: Tensor) -> Tensor: ...


class Denoising(Objective):
    """E w |target - network|^2 over levels drawn from `levels`; cross-entropy of the belief for categories.

    Args:
        weight: a name ("simple", "elbo", "min_snr", "edm", "sigmoid", "flow") or a `Weight`. For categories "simple" is the
            plain cross-entropy, "elbo" the bound in continuous time (for a mask -alpha' / (1 - alpha) per masked token,
            2406.07524, eq. 10; for other low-rank kernels, and the prediction `ratio`, the score entropy of SEDD), and "flow" the
            bound of discrete flow matching, its generalised KL; see `langevin.objectives.jumps`.
        levels: a name ("uniform", "logit_normal", "lognormal_sigma", "beta", "loss_aware") or a `LevelDensity`.
        spread: one level per sample ("shared"), per leaf ("independent") or per element ("elements").
        clean: for products, probability that one leaf is given clean.
        drop: probability that a sample's conditions are dropped.
        augment: small pictures, cond["low"], get noise of a level drawn evenly from 0 to this for each sample, as the process
            gives it, and cond["augment"] says which (conditioning augmentation, CDM, 2106.15282, sec. 4); 0 leaves them.
        coupling: which noise, or which `Batch.source`, meets which data; Gaussian leaves only.
        leaf_weights: factor of each leaf in the sum; 1 by default.
        distance: d, which compares the belief with the data, E d(x^, x), in place of what the network says with its target: a
            name ("squared", "huber", ...) or any d(a, b) -> (B,), as rectified flow is distilled by LPIPS (2209.03003). Of one
            Gaussian process, under weight "simple" and one level per sample; None for no such.

    Raises:
        ValueError: for a distance under another weight; when first called, if the weight does not exist for a leaf of the
            process, or the distance for the process.
    """

    def __init__(
        self,
        weight: str | Weight = "simple",
        levels: str | LevelDensity = "uniform",
        spread: str = "shared",
        clean: float = 0.0,
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
        leaf_weights: Mapping[str, float] | None = None,
        augment: float = 0.0,
        distance: str | Distance | None = None,
    ) -> None:
        super().__init__()
        self.weight = named(weight)
        if distance is not None and (self.weight.name != "simple" or spread == "elements"):
            raise ValueError(f"distance compares whole beliefs, and weight is {self.weight.name!r}, spread {spread!r}; use "
                             "weight 'simple' and spread 'shared', or leave the distance out.")  # fmt: skip
        self.distance = None if distance is None else distance_named(distance)
        self._distance_said = distance if isinstance(distance, str) else type(distance).__name__
        for field, value in (("clean", clean), ("drop", drop)):
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}; it is a probability below 1.")
        if spread not in SPREADS:
            raise ValueError(f"spread is {spread!r}; choose one of {', '.join(SPREADS)}.")
        self.levels, self.spread, self.clean, self.drop = levels_named(levels, followed=True), spread, clean, drop
        if not 0 <= augment <= 1:
            raise ValueError(f"augment is {augment}; it is the highest level of noise in small pictures, from 0 to 1.")
        self.augment = augment
        self.coupling, self.leaf_weights = coupling_named(coupling), leaf_weights

    @property
    def wants_losses(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.levels.wants_losses

    def observe(self, levels: Mapping[str, Tensor], each: Mapping[str, Tensor]) -> None:
        if self.wants_losses:
            for name, t in levels.items():
                self.levels.observe(t, each[name])

    def extra_repr(self) -> str:
        coupling = type(self.coupling).__name__
        leaf = f", leaf_weights={dict(self.leaf_weights)}" if self.leaf_weights else ""
        drop = f"drop={self.drop:g}, coupling={coupling}{leaf}"
        drop += "" if self.distance is None else f", distance={self._distance_said}"
        return f"weight={self.weight.name}, spread={self.spread}, clean={self.clean:g}, {drop}"

    def check(self, process: Process) -> None:
        """Refuse what this objective cannot train."""
        if self.distance is not None and not isinstance(process, Gaussian):
            raise ValueError(f"distance compares beliefs of one Gaussian process, and the model's is {process}; leave it out.")
        if type(self.coupling) is not Independent and not any(isinstance(leaf, Gaussian) for leaf in process.leaves().values()):
            raise ValueError(f"coupling is {type(self.coupling).__name__}, which pairs data with the other ends of Gaussian "
                             f"paths, and the model's process is {process}; use 'independent'.")  # fmt: skip
        for name, leaf in process.leaves().items():
            at = leaf_name(name)
            if not isinstance(leaf, (Gaussian, Categorical)):
                raise ValueError(
                    f"{at} is {type(leaf).__name__}, neither Gaussian nor Categorical; extend one of these, or write an "
                    "objective of your own, which knows what its network should have said."
                )
            if isinstance(leaf, Categorical):
                if self.weight.name not in ("simple", *_BOUNDS) or (
                    self.weight.name in _BOUNDS and not isinstance(leaf.kernel, LowRank)
                ):
                    raise ValueError(
                        f"weight {self.weight.name!r} does not exist for {at} (categorical); use 'simple', 'elbo' or 'flow' "
                        "where the kernel is low rank, or the ELBO objective."
                    )
            elif self.weight.name == "flow":
                raise ValueError(f"weight 'flow' does not exist for {at} (Gaussian); use 'elbo'.")
            if self.levels.wants_losses and len(process.leaves()) > 1:
                raise ValueError("loss-aware levels keep one history, and a product has a loss per leaf; use levels='uniform'.")
            if isinstance(leaf, Embedded) and leaf.table.requires_grad:
                raise ValueError(
                    f"the points of {at} are learned, and this loss would draw them together, or drive them away from noise; use "
                    "the Embedding objective, or points that are fixed."
                )
            if isinstance(leaf, Interpolant) and leaf.schedule.learned:
                raise ValueError(f"the path of {at} is learned, which is a max-min problem; use the InterFlow objective.")
            if leaf.schedule.learned and self.weight.name != "elbo":
                raise ValueError(
                    f"the schedule of {at} is learned, and under weight {self.weight.name!r} it would only flee "
                    "from hard levels; use weight='elbo'."
                )

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        parts = model.process.leaves()
        self.check(model.process)
        if self.distance is not None and batch.mask is not None:
            raise ValueError("distance compares whole beliefs, and samples are padded to one size; leave it out.")
        x = leaves(batch.x)
        t = draw_levels(self.levels, parts, x, noise, self.spread, self.clean)
        cond = drop_conditions(self._augmented(batch.cond, parts, noise), noise, self.drop)
        z, e, ids = {}, {}, {}
        for name, leaf in parts.items():
            if isinstance(leaf, Embedded):  # from here on its data are points, and levels are of these
                points = leaf.start(x[name], noise.at("noise").at(name))
                ids[name], x[name], t[name] = x[name], points, leaf.levels(t[name], x[name])
        if ids:
            batch = replace(batch, x=tree(x))
        for name, leaf in parts.items():
            draw = noise.at("noise").at(name)
            if isinstance(leaf, Gaussian):
                e[name] = partners(self.coupling, leaf, batch, draw, name)
                if isinstance(leaf, Interpolant):
                    x[name], e[name] = leaf.ends(x[name], e[name], t[name], draw.at("between"), batch.mask)
                z[name] = leaf.mix(x[name], e[name], t[name])
            else:
                z[name] = leaf.marginal(x[name], t[name], draw, batch.mask)
        out = model.outputs(z, t, cond, batch.mask)

        factors = spread(self.leaf_weights or 1.0, list(parts), "leaf_weights")
        total, logs = torch.zeros((), device=next(iter(out.values())).device), {}
        levels, losses = {}, {}
        for name, leaf in parts.items():
            # elements that are given (level 0) have nothing to be learned about them, and some targets are infinite there:
            # the loss is computed at another level and left out, so that its gradient is 0 and not 0 * inf
            drawn = t[name] > 0
            level = torch.where(drawn, t[name], 0.5)
            if isinstance(leaf, Gaussian) and self.distance is not None:
                drawn = drawn.reshape(-1)
                error = self._compared(model, leaf, x[name], z[name], out[name], level)
            elif isinstance(leaf, Embedded) and not isinstance(model.predictions[name], GaussianPrediction):
                error = self._of_ids(model, leaf, name, ids[name], z[name], out[name], t[name], level)
            elif isinstance(leaf, Gaussian):
                error = self._squared_error(model, leaf, name, x[name], e[name], out[name], level)
            else:
                assert isinstance(leaf, Categorical)
                error = self._cross_entropy(model, leaf, name, x[name], z[name], out[name], t[name], level)
            error = torch.where(drawn.to(error.device), error, torch.zeros_like(error))
            real = None if self.distance is not None else leaf.space.real(error, batch.mask)
            each = mean_over_elements(error, real)
            levels[name], losses[name] = self._by_level(leaf, t[name], error.detach(), each.detach(), real)
            total = total + factors[name] * each.mean()
            logs[f"loss/{name}" if name else "loss"] = each.mean().detach()
        if len(parts) > 1:
            logs["loss"] = total.detach()
        return Loss(total, logs, levels, losses)

    def _augmented(self, cond: Cond, parts: Mapping[str, LeafProcess], noise: Noise) -> Cond:
        """Conditions whose small pictures have noise, and its levels."""
        if not self.augment:
            return cond
        leaf = parts.get("")
        if cond is None or "low" not in cond or not isinstance(leaf, Gaussian):
            raise ValueError(f"augment is {self.augment:g}, and there are no small pictures to give noise to; set it to 0.")
        low, level = cond["low"], self.augment * stratified(noise.at("augment"))
        raised = leaf.marginal(low, level.reshape(-1, 1, 1, 1), noise.at("low"))
        return {**cond, "low": raised, "augment": level.to(low)}

    def _by_level(
        self, leaf: Gaussian | Categorical, t: Tensor, error: Tensor, each: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Levels and losses as `Loss` has them: of samples, or of elements where levels differ within a sample."""
        if t.numel() == len(t):
            at, loss = t.reshape(-1), each
        else:
            at = t.expand(error.shape)
            at, loss = (at if real is None else torch.where(real, at, 0.0)).reshape(-1), error.reshape(-1)
        at = at.to(loss.device)
        if self._divided(leaf):
            loss = loss * cast(self.levels.density(torch.where(at > 0, at, 0.5), leaf.schedule), loss)
        return at, loss

    def _divided(self, leaf: Gaussian | Categorical) -> bool:
        """Whether the loss is divided by the density that levels are drawn from."""
        # loss-aware levels are importance sampling: what is minimised must not follow them
        bound = isinstance(leaf, Categorical) and self.weight.name in _BOUNDS
        return bound or self.weight.measure != "drawn" or self.levels.wants_losses

    def _factor(self, leaf: Gaussian | Categorical, t: Tensor) -> Tensor:
        """The weight, with its measure turned into the density that levels are drawn from."""
        factor = self.weight.on(leaf.schedule, t)
        if self.weight.measure == "lam":
            factor = factor * leaf.schedule.lam_rate(t).abs()
        return factor / self.levels.density(t, leaf.schedule) if self._divided(leaf) else factor

    def _squared_error(self, model: Denoiser, leaf: Gaussian, name: str, x: Tensor, e: Tensor, out: Tensor, t: Tensor) -> Tensor:
        prediction = model.predictions[name]
        assert isinstance(prediction, GaussianPrediction)
        error = (prediction.answer(out) - prediction.target(leaf, x, e, t)) ** 2
        factor = self._factor(leaf, t)
        if self.weight.name != "simple":
            factor = factor * prediction.eps_per_output(leaf, t) ** 2
        return cast(factor, error) * error

    def _of_ids(
        self, model: Denoiser, leaf: Embedded, name: str, ids: Tensor, z: Tensor, out: Tensor, at: Tensor, t: Tensor
    ) -> Tensor:
        """The cross-entropy of the ids of points, (B, *shape) or, where points are vectors and levels are of these,
        (B, *shape, 1); t is `at`, but where the data was given."""
        prediction = model.predictions[name]
        if self.weight.name != "simple":
            raise ValueError(
                f"weight {self.weight.name!r} is of squared errors, and a network of prediction {prediction.name!r} says which "
                "category a point is of; use 'simple', or the BayesianFlow objective, which is its bound."
            )
        error = -prediction.posterior(leaf, out, z, at).log_probs.gather(-1, ids[..., None])
        error = error if leaf.vectors else error[..., 0]
        return cast(self._factor(leaf, t), error) * error

    def _compared(self, model: Denoiser, leaf: Gaussian, x: Tensor, z: Tensor, out: Tensor, t: Tensor) -> Tensor:
        """The distance of the belief from the data, (B,)."""
        assert self.distance is not None
        each = self.distance(leaves(model.posteriors({"": out}, {"": z}, {"": t}))[""].mean, x)
        return cast(self._factor(leaf, t).reshape(-1), each) * each

    def _cross_entropy(
        self, model: Denoiser, leaf: Categorical, name: str, x: Tensor, z: Tensor, out: Tensor, at: Tensor, t: Tensor
    ) -> Tensor:
        """The loss of a categorical leaf; t is `at`, but where the data was given."""
        prediction = model.predictions[name]
        belief: CategoricalPosterior = prediction.posterior(leaf, out, z, at)
        ratio = isinstance(prediction, Scored)
        if self.weight.name == "flow" or (self.weight.name == "elbo" and (ratio or not leaf.masked)):
            if self.weight.name == "flow":
                bound = flow(leaf, x, z, belief, t)
            else:
                log_s = prediction.log_ratio(leaf, out, z, t) if ratio else log_ratios(leaf, belief, z, t)
                bound = score_entropy(leaf, x, z, log_s, t)
            return (cast(1 / self.levels.density(t, leaf.schedule), bound) * bound).to(belief.log_probs.dtype)
        error = -belief.log_probs.gather(-1, x[..., None])[..., 0]
        if self.weight.name == "simple":
            return cast(self._factor(leaf, t), error.double()).to(error.dtype) * error
        # only masked tokens are charged, whatever the prediction says of those already revealed
        rate = -leaf.schedule.rates(t)[0] / (1 - leaf.schedule.alpha(t)).clamp(min=1e-12)
        factor = cast(rate / self.levels.density(t, leaf.schedule), error.double()).to(error.dtype)
        return factor * error * (z == leaf.categories)
