"""Guidance by a linear measurement y = A x + std n: posterior sampling with an unconditional model, under any plan.

Bayes' rule on beliefs: x^ becomes E[x | z_t, y]. With gamma = sigma^2 / alpha and J = d x^ / d z, gamma J is the covariance of x
given z_t (Tweedie), and methods differ in what they take it for:

    Moments    gamma J itself, so exact on normal data (MMPS, 2405.13712)
    PiGDM      r^2 I where residuals are weighed, gamma J where they are carried back (ReView 9_gsMA8MRKQ)
    DPS        nothing where residuals are weighed (2209.14687)
    ByLevels   nothing at all: the measurement is evidence of its own, at its own level of noise, for models that know levels
               per element; exact for them
    Replaced   the part that is known is replaced in the state, drawn anew, and in the belief (2011.13456, app. I.2; RePaint)

`Observed` changes no belief; it tells plans that read the measurement themselves (`plans.ddrm`, `plans.ddnm`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.core.tree import leaves, tree
from langevin.guidance.means import with_mean
from langevin.guidance.operators import Operator
from langevin.guidance.wrapped import Wrapped


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What all guidance by a measurement is told.

    Args:
        operator: A.
        y: (B, *measured), or (1, *measured) for all samples alike.
        std: of the noise in y.
    """

    operator: Operator
    y: Tensor
    std: float = 0.0

    def __post_init__(self) -> None:
        if tuple(self.y.shape[1:]) != self.operator.measured:
            raise ValueError(
                f"y has shape {tuple(self.y.shape)}, and {self.operator.name} gives (B, "
                f"{', '.join(str(n) for n in self.operator.measured)}); give one measurement for each sample, or one for all."
            )
        if not bool(self.y.isfinite().all()):
            raise ValueError("y holds values that are not finite; a measurement is finite.")
        if not self.std >= 0:
            raise ValueError(f"std is {self.std}; it is the standard deviation of the noise in y, at least 0.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: unless the process is one Gaussian process.
        """
        if not isinstance(denoiser.process, Gaussian):
            raise ValueError(f"measurements guide one Gaussian process, and this is {denoiser.process}; use given=, or Value.")
        self.check(denoiser)
        return _Measuring(denoiser, self)

    def check(self, denoiser: BaseDenoiser) -> None:
        """Refuse a model the method cannot work with."""

    def residual(self, x: Tensor) -> Tensor:
        """y - A x."""
        return self.y.to(x) - self.operator(x)

    def believe(self, ask: "Ask", z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        """The belief given y as well; `ask(z, t)` is the model's."""
        raise NotImplementedError


Ask = Callable[[Tensor, Tensor], GaussianPosterior]


class _Measuring(Wrapped):
    guidance: Measurement

    def __init__(self, denoiser: BaseDenoiser, guidance: Measurement) -> None:
        super().__init__(denoiser, guidance)
        self.calls = 0

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> GaussianPosterior:
        state, leaf = z[""], self.process.leaves()[""]
        many = len(self.guidance.y)
        if many not in (1, len(state)):
            raise ValueError(f"y has {many} measurements for {len(state)} samples; give one each, or one for all.")
        assert isinstance(leaf, Gaussian)
        self.calls += 1

        def ask(state: Tensor, level: Tensor) -> GaussianPosterior:
            return leaves(self.denoiser(tree({"": state}), tree({"": level}), cond, mask))[""]

        if isinstance(self.guidance, Replaced):
            return self.guidance.replaced(ask, state, t[""], leaf, self.calls)
        return self.guidance.believe(ask, state, t[""], leaf)


def visible(leaf: Gaussian, t: Tensor, like: Tensor) -> Tensor:
    """The level at which a model's Jacobian is read for t: t, or where alpha / sigma is 1e-3 (float64) or 0.02 if that is lower.

    Above it beliefs hardly depend on the state, and their covariance is a small difference times a large factor.
    """
    ratio = 1e-3 if like.dtype == torch.float64 else 0.02
    lam = 2 * torch.tensor(ratio, dtype=torch.float64).log()
    if bool((leaf.schedule.lam(t) >= lam).all()):
        return t  # nearly all levels of a plan, for one look at the schedule where a bisection takes 64
    return torch.minimum(t, leaf.schedule.invert(lam).to(t.device))


class Tangent:
    """A belief and its derivative: the covariance of x given z_t, gamma J, as a linear map. One backward pass for each use."""

    def __init__(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> None:
        level = visible(leaf, t, z)
        alpha, sigma = leaf.schedule(level)
        self.gamma = cast(torch.where(sigma > 0, sigma**2 / alpha.clamp(min=1e-300), 0.0), z)
        self.variance = sigma**2 / (alpha**2 + sigma**2)
        with torch.enable_grad():
            self.z = z.detach().requires_grad_()
            belief = ask(self.z, level)
            self.attached = belief.mean
        variance = None if belief.variance is None else belief.variance.detach()
        self.belief = replace(with_mean(belief, belief.mean.detach()), variance=variance)
        self.mean = self.belief.mean

    def covariance(self, v: Tensor) -> Tensor:
        """gamma J^T v. J is symmetric for an exact model."""
        if not self.attached.requires_grad:
            return torch.zeros_like(self.mean)  # this belief does not depend on the state
        return self.gamma * torch.autograd.grad(self.attached, self.z, v, retain_graph=True)[0]

    def with_mean(self, mean: Tensor) -> GaussianPosterior:
        return self.belief.with_params(mean)


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments(Measurement):
    """Moment matching (MMPS, 2405.13712, sec. 4.2): x^ + V A^T (std^2 + A V A^T)^-1 (y - A x^), V = gamma J.

    Args:
        iterations: of GMRES at most, each one backward pass through the model. Exact on normal data once as many as there are
            different singular values of A V A^T; 1 does most of it.
    """

    iterations: int = 5

    def believe(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        at = Tangent(ask, z, t, leaf)
        a, variance = self.operator, self.std**2
        u = solve(lambda v: variance * v + a.forward(at.covariance(a.transposed(v))), self.residual(at.mean), self.iterations)
        return at.with_mean(at.mean + at.covariance(a.transposed(u)))


@dataclass(frozen=True, eq=False, kw_only=True)
class PiGDM(Measurement):
    """Pseudo-inverse guidance: x^ + gamma J^T A^T (std^2 + r^2 A A^T)^-1 (y - A x^), r^2 = v sigma^2 / (v alpha^2 + sigma^2).

    One backward pass. form "likelihood" is exact where data is normal with variance v, the same in all directions.

    form "step" is the paper's algorithm 1: after each of `steps` DDIM steps of this eta a push of alpha_t J^T A^+ (y - A x^),
    which does not become smaller where steps do, so that many steps hold the sample to the measurement; they find the right
    mode of mixtures more often, and make samples of normal data too alike. As a belief it is that push divided by what a step of
    1 / steps makes of beliefs, so under `plans.ddim(steps, eta)` it is the algorithm. Noise of y damps it as in the other form.

    form "clean" pushes the clean part of each such step alone, z_s = alpha_s (x^ + alpha_t J^T A^+ (y - A x^)) + ..., and leaves
    the estimated noise as it is (azula has it so): the step form times alpha_s, gentler where much noise is left.

    Args:
        variance: v, of the data; 1 is the paper's.
        iterations: of GMRES, for operators whose singular values are not known; they cost no evaluation.
        steps, eta: of the plan, for forms "step" and "clean".
        scale: of their pushes; 1 is the paper's.
    """

    variance: float = 1.0
    iterations: int = 50
    form: str = "likelihood"
    steps: int = 1000
    eta: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("likelihood", "step", "clean"):
            raise ValueError(f"form is {self.form!r}; there are 'likelihood', 'step' and 'clean'.")

    def believe(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        at = Tangent(ask, z, t, leaf)
        alpha, sigma = leaf.schedule(visible(leaf, t, z))
        r2 = cast(self.variance * sigma**2 / (self.variance * alpha**2 + sigma**2), z)
        if r2.ndim:
            r2 = r2.flatten(1)
            if r2.shape[1] > 1:
                raise ValueError("pseudo-inverse guidance weighs residuals by one level, and these differ by element.")
        a, residual = self.operator, self.residual(at.mean)
        if a.spectrum is not None:
            carried = a.whitened(residual, r2, self.std**2)
        else:
            across = r2.reshape(-1, *[1] * (residual.ndim - 1))
            carried = a.transposed(
                solve(lambda v: self.std**2 * v + across * a.forward(a.transposed(v)), residual, self.iterations)
            )
        shift = at.covariance(carried)
        if self.form != "likelihood":
            push = self.scale * r2 * cast(leaf.schedule.alpha(t), z) / (at.gamma * share(leaf, t, self.steps, self.eta))
            if self.form == "clean":
                push = push * cast(leaf.schedule.alpha(after(t, self.steps)), z)
            shift = push.reshape(-1, *[1] * (z.ndim - 1)) * shift
        return at.with_mean(at.mean + shift)


def after(t: Tensor, steps: int) -> Tensor:
    """The level that a step of 1 / steps from t comes to."""
    return (t - 1 / steps).clamp(min=0.0)


def share(leaf: Gaussian, t: Tensor, steps: int, eta: float) -> float:
    """What a step of 1 / steps from the level t makes of a change of the belief.

    Raises:
        ValueError: if levels differ.
    """
    if t.ndim:
        raise ValueError("this form follows steps of one level, and these differ; use form='likelihood'.")
    return leaf.bridge_numbers(float(t), float(after(t, steps)), eta)[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class DPS(Measurement):
    """Diffusion posterior sampling (2209.14687): along the gradient of the residual through the model. One backward pass.

    form "norm" is the paper's algorithm 1, a push of scale / |y - A x^| times the gradient of |y - A x^|^2 / 2 after each of
    `steps` ancestral steps. As a belief it is that push divided by what a step of 1 / steps makes of beliefs, so under
    `plans.ddpm(steps)` it is the algorithm, and under other plans the push of a stretch of levels is the same. Norms are
    each sample's own. With `together` they are the root mean square over the batch, as peers have it (times the root of the
    batch's size): a sample then depends on its neighbours, and is pushed in proportion to its residual.

    form "likelihood" is Bayes' rule with p(y | x^) for p(y | z_t): x^ + scale gamma J^T A^T (y - A x^) / std^2. Far too sure
    of itself where much noise is left, and unstable where std is small.
    """

    scale: float = 1.0
    form: str = "norm"
    steps: int = 1000
    together: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("norm", "likelihood"):
            raise ValueError(f"form is {self.form!r}; there are 'norm' and 'likelihood'.")
        if self.form == "likelihood" and self.std == 0:
            raise ValueError("form 'likelihood' divides by the noise of y, and std is 0; use form='norm'.")

    def believe(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        if self.form == "likelihood":
            at = Tangent(ask, z, t, leaf)
            carried = self.operator.transposed(self.residual(at.mean))
            return at.with_mean(at.mean + self.scale / self.std**2 * at.covariance(carried))
        weight = share(leaf, t, self.steps, 1.0)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            belief = ask(z, t)
            square = self.residual(belief.mean).flatten(1).square().sum(1).clamp(min=1e-30)
            size = square.sum() / (2 * square.detach().mean().sqrt()) if self.together else square.sqrt().sum()
            (gradient,) = torch.autograd.grad(size, z, allow_unused=True)
        belief = with_mean(belief, belief.mean.detach())
        if gradient is None:
            return belief
        return belief.with_params(belief.mean - self.scale / weight * gradient)


@dataclass(frozen=True, eq=False, kw_only=True)
class ByLevels(Measurement):
    """What is known is shown at its own level, for models that know levels per element (`Denoising(spread="elements")`).

    A known element has two witnesses, z_t and y; together they are one state of lower noise, 1 / r^2 = 1 / std^2 +
    alpha^2 / sigma^2. One evaluation, no gradient, exact for an exact model whatever the noise. For `operators.inpaint`.
    """

    def check(self, denoiser: BaseDenoiser) -> None:
        if self.operator.name != "inpaint":
            raise ValueError(f"levels per element tell of elements, and this is {self.operator.name}; use 'mmps' or 'pigdm'.")
        if denoiser.spread in ("shared", "independent"):
            raise ValueError(
                f"the model was trained with spread={denoiser.spread!r} and never saw clean elements beside noisy ones; train "
                "with Denoising(spread='elements'), or use 'mmps'."
            )

    def believe(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        mark = (self.operator.singular("this").values > 0).reshape(-1, *self.operator.shape).to(z.device)
        alpha, sigma = leaf.schedule(t)
        with_y, of_state = self.std**-2 if self.std else torch.inf, alpha**2 / sigma.clamp(min=1e-150) ** 2
        total = with_y + of_state
        share = with_y / total if self.std else torch.ones_like(of_state)  # of y in what both say of x
        rest = alpha / (sigma.clamp(min=1e-150) ** 2 * total) if self.std else torch.zeros_like(of_state)
        x = cast(share, z) * self.y.to(z) + cast(rest, z) * z
        level = leaf.schedule.invert(total.log()) if self.std else torch.zeros_like(total)
        alpha_at = leaf.schedule(level)[0]
        shown = torch.where(mark, cast(alpha_at, z) * x, z)
        levels = torch.where(mark, level, t).expand(len(mark), *z.shape[1:]) if not t.ndim else torch.where(mark, level, t)
        return ask(shown, levels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Replaced(Measurement):
    """What is known replaces its part of the state, with noise drawn anew at each evaluation, and of the belief.

    This is the conditioning of RePaint (2201.09865, eq. 8); under `plans.repaint` it is that paper, with its final pasting. Noise
    in y counts as part of the state's while that is larger, after which the state is left alone (DDRM's rule).

    Args:
        noise: names the samples, `Noise.of(seed, count, first_id)`.
        paste: the belief has what is known, so that samples end with it. Published RePaint leaves it out (False).
        fresh: False keeps the state's own noise instead of drawing anew; then it is `Known`.
    """

    noise: Noise | None = None
    paste: bool = True
    fresh: bool = True

    def check(self, denoiser: BaseDenoiser) -> None:
        self.operator.singular("replacement")

    def replaced(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian, call: int) -> GaussianPosterior:
        s = self.operator.singular("replacement")
        values, y = s.values.to(z), s.left(self.y.to(z))
        measured = values > 0
        known, spread = y / values.clamp(min=1e-30), torch.where(measured, self.std / values.clamp(min=1e-30), 0.0)
        if t.ndim and t[0].numel() > 1:
            raise ValueError("replacement follows one level, and these differ by element; use given=, or ByLevels.")
        alpha, sigma = (c if c.ndim == 0 else c.reshape(-1, 1) for c in (cast(c, z) for c in leaf.schedule(t)))
        shown = z
        left = (sigma**2 - (alpha * spread) ** 2) * measured
        if self.fresh:
            noise = (self.noise or Noise.of(0, len(z), device=z.device)).at("replace", step=call)
            fresh = alpha * known + left.clamp(min=0).sqrt() * s.right(leaf.noise(z, noise))
            shown = z + s.back(torch.where(measured & (left >= 0), fresh - s.right(z), 0.0))
        belief = ask(shown, t)
        if not self.paste:
            return belief
        gap = known - s.right(belief.mean)
        if self.std:  # how much of the gap is news: all while the state says less than y, less after
            gap = gap * torch.where(left >= 0, 1.0, (sigma / (alpha * spread).clamp(min=1e-30)).clamp(max=1) ** 2)
        return belief.with_params(belief.mean + s.back(torch.where(measured, gap, 0.0)))


@dataclass(frozen=True)
class ObservedPosterior(GaussianPosterior):
    """A belief that carries a measurement, for rows that read it."""

    measurement: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Observed(Measurement):
    """Changes no belief, and tells the plan of the measurement: for `plans.ddrm` and `plans.ddnm`."""

    def check(self, denoiser: BaseDenoiser) -> None:
        self.operator.singular("this plan")

    def believe(self, ask: Ask, z: Tensor, t: Tensor, leaf: Gaussian) -> GaussianPosterior:
        belief = ask(z, t)
        return ObservedPosterior(belief.mean, belief.variance, self)


def solve(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-12) -> Tensor:
    """M x = b by GMRES, each sample by itself; `apply` is M on (B, ...). At most `iterations` uses of M.

    Stops where all residuals are below `tolerance` times |b|, or the space is exhausted.

    Raises:
        ValueError: where M x is not finite.
    """
    shape, dtype, b = b.shape, b.dtype, b.flatten(1).double()
    size = b.norm(dim=1)
    basis = [b / size.clamp(min=1e-300)[:, None]]
    columns: list[Tensor] = []
    y = b.new_zeros(len(b), 1)
    for k in range(iterations):
        w = apply(basis[k].reshape(shape).to(dtype)).flatten(1).double()
        column = b.new_zeros(len(b), iterations + 1)
        for _ in range(2):  # twice is enough
            for j, v in enumerate(basis):
                part = (w * v).sum(1)
                column[:, j] += part
                w = w - part[:, None] * v
        rest = w.norm(dim=1)
        spent = rest <= 1e-13 * column.norm(dim=1)
        column[:, k + 1] = torch.where(spent, 0.0, rest)
        columns.append(column)
        h = torch.stack(columns, 2)[:, : k + 2]
        if not bool(h.isfinite().all()):
            raise ValueError(
                "the model's beliefs are not finite beside this measurement, which it may hold impossible; raise std, or measure "
                "what it can draw."
            )
        right = torch.zeros(len(b), k + 2, 1, dtype=b.dtype, device=b.device)
        right[:, 0, 0] = size
        y = (torch.linalg.pinv(h, rtol=1e-13) @ right).squeeze(2)
        left = (right.squeeze(2) - (h @ y[..., None]).squeeze(2)).norm(dim=1)
        if bool(((left <= tolerance * size) | spent).all()):
            break
        basis.append(torch.where(spent[:, None], 0.0, w / rest.clamp(min=1e-300)[:, None]))
    return (torch.stack(basis[: y.shape[1]], 2) @ y[..., None]).reshape(shape).to(dtype)
