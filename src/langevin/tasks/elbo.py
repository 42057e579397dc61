"""The evidence lower bound of data under one Gaussian process, with the decoder at its data end (VDM, 2107.00630, sec. 4).

    -log p(x) <= KL(q(z_1 | x) || p(z_1)) + 1/2 int SNR E |x - x^|^2 d lam + E[-log p(x | z_low)],

the integral over log-SNR from lam(1) to lam(low): the bound of infinitely many steps. Sums over steps are the objective `ELBO`.
For categories, and products, see `variational_bound`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.categorical import Categorical, LowRank
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, evaluating
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.posterior import CategoricalPosterior
from langevin.core.process import LeafProcess
from langevin.core.space import Centred, Euclidean
from langevin.core.tree import leaves, tree
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives import ELBO, BayesianFlow, Denoising, Embedding
from langevin.objectives.levels import LevelDensity, Uniform, UniformLogSNR
from langevin.objectives.masking import block_of, counted
from langevin.plans.tokens import free_positions
from langevin.tasks.likelihood import LogProb, at_home


@torch.no_grad()
def elbo(
    denoiser: BaseDenoiser,
    x: Tensor,
    *,
    draws: int = 16,
    values: Tensor | None = None,
    low: float | None = None,
    cond: Cond = None,
    seed: int = 0,
    first_id: int = 0,
) -> LogProb:
    """A lower bound of log p(x), in expectation over its draws, whose standard error is told.

    Args:
        denoiser: learned, guided or exact, on one Gaussian process in Euclidean space.
        x: (B, *shape).
        draws: levels for each sample, one in each of so many equal parts of log-SNR.
        values: (K,) the grid of values that x is on: the decoder chooses among them, p(x | z) proportional to q(z | x), and the
            bound is on log P(x). None is a Gaussian around z / alpha of the level's own variance, and the bound is on the density
            of x, which must have been made continuous (`langevin.tasks.likelihood.dequantised`).
        low: the level of the decoder, the schedule's floor by default. A level so near to data that a state is of one value
            costs nothing in the second case, and the Gaussian decoder little in the first.
        cond: conditions by name, each (B, ...).
        seed, first_id: name the draws.

    Raises:
        ValueError: for another process, or x that is not on the grid of `values`.
    """
    leaf = denoiser.process.leaves().get("")
    if type(leaf) is not Gaussian or not isinstance(leaf.space, Euclidean):
        raise ValueError(f"this bound is of one Gaussian process in Euclidean space, and this is {leaf}.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; take at least 1.")
    x, cond = at_home(denoiser, x, cond)
    low = leaf.schedule.floor if low is None else low
    elements, noise = math.prod(x.shape[1:]), Noise.of(seed, len(x), first_id, x.device).at("bound")
    alpha_1, sigma_1 = (float(v) for v in leaf.schedule(1.0))
    fixed = (alpha_1 / sigma_1) ** 2 / 2 * x.double().flatten(1).square().sum(1)
    top, bottom = float(leaf.schedule.lam(low)), max(float(leaf.schedule.lam(1.0)), -40.0)
    each = []
    with evaluating(denoiser):
        for k in range(draws):
            part = (k + noise.at(f"level {k}").uniform(())) / draws
            lam = bottom + (top - bottom) * part.cpu()
            t = expand(leaf.schedule.invert(lam).clamp(low, 1.0), x)
            z = leaf.marginal(x, t, noise.at(f"noise {k}"))
            error = (x - leaves(denoiser(z, t, cond))[""].mean).double().flatten(1).square().sum(1)
            each.append((top - bottom) / 2 * lam.exp().to(error) * error)
    terms = torch.stack(each, 1)
    if values is None:
        decoded = torch.full_like(fixed, elements / 2 * (math.log(2 * math.pi) - top + 1))
        spread = torch.zeros_like(fixed)
    else:
        chosen = torch.stack([_of_values(leaf, x, values, low, noise.at(f"decoder {k}")).sum(1) for k in range(draws)], 1)
        decoded, spread = chosen.mean(1), chosen.var(1) / draws
    # levels are spread over the whole range, so that the true error is below that of independent draws
    error = (terms.var(1) / draws + spread).sqrt() if draws > 1 else torch.full_like(fixed, math.nan)
    return LogProb(-(fixed + terms.mean(1) + decoded), error, elements, None, draws)


@torch.no_grad()
def variational_bound(
    denoiser: BaseDenoiser,
    batch: Batch,
    *,
    draws: int = 16,
    values: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    first_id: int = 0,
) -> tuple[LogProb, str]:
    """A lower bound of log p(x) for any process, in continuous time where there is such a bound, and how it was had.

        a mask                   by counting masks (`langevin.objectives.Masking`); exact where blocks are single tokens
        low-rank kernels         the score entropy
        one Gaussian process     1/2 int |x - x^|^2 dSNR, on points of categories as well (`langevin.objectives.BayesianFlow`)
        points with data about   the sum over the schedule's own steps, `langevin.objectives.Embedding("bound")`
          them (std > 0)
        others, and products     the sum of 100 steps, `langevin.objectives.ELBO`, or of as many as a `kernels.Chain` has

    It has the prior's term of each leaf, and that of its decoder, -log p(x | z_low), each leaf at its own lowest level: of
    categories where no step goes to data (in continuous time, on `schedules.clipped`); of points of categories what the network
    believes at the schedule's floor; of numbers a normal law about z / alpha of that level's own variance, so that the bound is
    on a density, or among `values`, so that it is on a probability (as `elbo` has both).

    Args:
        draws: numbers of masks, or levels, for each sample, spread evenly: as many draws as steps meet each step once.
        values: by leaf, the grid (K,) that the numbers of a Gaussian leaf are on.

    Raises:
        ValueError: for draws below 1, interpolants, points in place of ids, a product of points with data about them, or values
            that are not those of x; for categories that a guidance or an oracle believes in, and no network.
    """
    x, parts = leaves(batch.x), denoiser.process.leaves()
    for name, leaf in parts.items():
        if isinstance(leaf, Categorical) and name in x:
            leaf.check_data(x[name])
    _bounded(parts, x, values or {}, draws)
    sizes = elements_of(denoiser, batch)
    count, place = len(next(iter(x.values()))), next(iter(x.values())).device
    with evaluating(denoiser):
        found = _drawn(denoiser, batch, values or {}, draws, Noise.of(seed, count, first_id, place))
    draws = found.each.shape[1]
    error = found.each.std(1) / draws**0.5 if draws > 1 else torch.full_like(found.fixed, 0.0 if found.exact else math.nan)
    elements = int(sum(size.max() for size in sizes.values()))
    return LogProb(-(found.fixed + found.each.mean(1)), error, elements, None, found.calls), found.how


class _Nats(NamedTuple):
    """-log p(x), or a bound: nats (B,) that are computed and nats (B, draws) that are drawn, how they were had, the evaluations,
    and whether one draw is all there is to draw."""

    fixed: Tensor
    each: Tensor
    how: str
    calls: int
    exact: bool = False


def _drawn(denoiser: BaseDenoiser, batch: Batch, values: Mapping[str, Tensor], draws: int, noise: Noise) -> _Nats:
    x, parts = leaves(batch.x), denoiser.process.leaves()
    leaf = parts.get("")
    fixed = torch.zeros(len(noise.ids), dtype=torch.float64, device=noise.ids.device)
    if isinstance(leaf, Categorical) and leaf.masked and batch.mask is None and isinstance(leaf.space, Euclidean):
        each, exact = _by_masks(denoiser, leaf, batch, noise, draws)
        how = "exact, one token after the other" if exact else f"the bound in continuous time, {draws} numbers of masks"
        return _Nats(fixed, each, how, each.shape[1], exact)
    if isinstance(leaf, Embedded) and leaf.std:
        each, steps = _by_points(denoiser, leaf, batch, noise, draws)
        return _Nats(fixed, each, f"the bound of {steps} steps and of their ends, {draws} draws", 2 * draws)
    for name, part in parts.items():
        fixed = fixed + (_prior(part, x[name]) * _counted(part, x[name], batch.mask)).sum(1)
        if type(part) is Gaussian and name not in values:
            fixed = fixed + _density(part, x[name], batch.mask)
    rates = isinstance(leaf, Gaussian) or (isinstance(leaf, Categorical) and isinstance(leaf.kernel, LowRank))
    if rates:
        each, how = _by_rates(denoiser, batch, noise, draws), "in continuous time"
    else:
        each, steps = _by_steps(denoiser, batch, noise, draws)
        how = f"of {steps} steps"
    ends = [_decoded(denoiser, batch, values, rates, noise.at(f"decoder {k}")) for k in range(draws)]
    calls = draws + sum(asked for _, asked in ends)
    return _Nats(fixed, each + torch.stack([nats for nats, _ in ends], 1), f"the bound {how}, {draws} draws", calls)


def _bounded(parts: Mapping[str, LeafProcess], x: Mapping[str, Tensor], values: Mapping[str, Tensor], draws: int) -> None:
    """Refuse what has no bound."""
    if draws < 1:
        raise ValueError(f"draws is {draws}; take at least 1.")
    for name, leaf in parts.items():
        at = leaf_name(name)
        if isinstance(leaf, Embedded) and x[name].is_floating_point():
            raise ValueError(f"x in {at} is {x[name].dtype}, and a bound of points is of their ids; give int64.")
        if isinstance(leaf, Interpolant):
            raise ValueError(f"{at} is an interpolant, whose other end is data as well; ask lv.log_prob with log_prior.")
        if isinstance(leaf, Embedded) and leaf.std and (len(parts) > 1 or not leaf.vectors):
            raise ValueError(
                f"std is {leaf.std:g} in {at}; a bound of points in a product, or of numbers, has data on them, std=0."
            )
    for name in values:
        leaf = parts.get(name)
        if type(leaf) is not Gaussian or isinstance(leaf.space, Centred):
            raise ValueError(f"values has {name!r}, which is no leaf of free numbers; give grids of Gaussian leaves alone.")


def _asked(model: BaseDenoiser) -> Denoiser:
    """The denoiser whose network these bounds ask."""
    if not isinstance(model, Denoiser):
        raise ValueError(
            f"denoiser is a {type(model).__name__}, and the bound of categories is of what a network says; give a Denoiser, "
            "without guidance."
        )
    return model


def _by_masks(model: BaseDenoiser, leaf: Categorical, batch: Batch, noise: Noise, draws: int) -> tuple[Tensor, bool]:
    """Nats (B, draws), and whether they are exact, which one draw then is: where blocks are of one token."""
    model = _asked(model)
    tokens = math.prod(leaves(batch.x)[""].shape[1:])
    size = block_of(model, tokens)
    draws = 1 if size == 1 else draws
    part = noise.at("part").uniform((tokens // size,))
    each: list[Tensor] = []
    for k in range(draws):
        number = (((part + k / draws) % 1) * size).floor().clamp(max=size - 1).long() + 1
        each.append(counted(model, leaf, batch, number, noise.at(f"draw {k}"), batch.cond)[0].double().mean(1) * tokens)
    return torch.stack(each, 1), size == 1


def _by_points(model: BaseDenoiser, leaf: Embedded, batch: Batch, noise: Noise, draws: int) -> tuple[Tensor, int]:
    """Nats (B, draws), the first step in each and one of the others for all of them, and the number of steps."""
    model = _asked(model)
    ids, objective = leaves(batch.x)[""], Embedding("bound")
    steps, part, each = objective.steps_of(leaf), noise.at("part").uniform(()), []
    shape, free = (-1, *[1] * (ids.ndim - 1)), _counted(leaf, ids, batch.mask)
    for k in range(draws):
        own = noise.at(f"draw {k}")
        x0 = leaf.start(ids, own)
        e = leaf.noise(x0, own.at("noise"), batch.mask)
        index = _spread(part, k, draws, steps - 1)
        near, far = (
            objective.terms(model, ids, x0, e, ((i + 1).double() / steps).reshape(shape), batch.cond, batch.mask)
            for i in (torch.zeros_like(index), index + 1)
        )
        terms = near["prior"] + near["start"] + near["rounding"] + near["denoising"] / steps
        if steps > 1:
            terms = terms + far["denoising"] * (steps - 1) / steps
        each.append((terms.double().flatten(1) * free).sum(1))
    return torch.stack(each, 1), steps


def _by_rates(model: BaseDenoiser, batch: Batch, noise: Noise, draws: int) -> Tensor:
    """Nats (B, draws) of one leaf, by its rate at one level in each equal part."""
    x, leaf = leaves(batch.x)[""], model.process.leaves()[""]
    free, each = _counted(leaf, x, batch.mask), []
    if not isinstance(leaf, Gaussian):
        model = _asked(model)
        objective = Denoising("elbo")
        for k in range(draws):
            each.append(objective(model, batch, noise.at(f"draw {k}")).each[""].double() * free.sum(1))
        return torch.stack(each, 1)
    schedule, ends = leaf.schedule, (max(float(leaf.schedule.lam(1.0)), -20.0), float(leaf.schedule.lam(leaf.schedule.floor)))
    levels: LevelDensity = UniformLogSNR(*ends) if schedule.floor else Uniform()  # where level 0 keeps noise all may be met
    part = noise.at("part").uniform(())
    for k in range(draws):
        at = levels.quantile((part + k) / draws, schedule).clamp(1e-9, 1 - 1e-9).reshape(-1, *[1] * (x.ndim - 1))
        z = leaf.marginal(x, at, noise.at(f"draw {k}"), batch.mask)
        belief = leaves(model(z, leaf.levels(at, x) if isinstance(leaf, Embedded) else at, batch.cond, batch.mask))[""]
        rate = BayesianFlow.rate(leaf, x, belief, at).double() / levels.density(at, schedule)
        each.append((rate.flatten(1) * free).sum(1))
    return torch.stack(each, 1)


def _by_steps(model: BaseDenoiser, batch: Batch, noise: Noise, draws: int) -> tuple[Tensor, int]:
    """Nats (B, draws), each by one step for all of them, and the number of steps."""
    x, parts = leaves(batch.x), model.process.leaves()
    # a chain of matrices has steps of its own
    chains = [len(p.kernel.steps) for p in parts.values() if isinstance(p, Categorical) and hasattr(p.kernel, "steps")]  # pyright: ignore
    steps = max(chains) if len(chains) == len(parts) else max([100, *chains])
    objective, part, each = ELBO(steps), noise.at("part").uniform(()), []
    for k in range(draws):
        found, _, _ = objective.terms(
            cast("Denoiser", model), batch, _spread(part, k, draws, steps), noise.at(f"draw {k}"), batch.cond
        )
        free = {n: _counted(leaf, x[n], batch.mask) for n, leaf in parts.items()}
        each.append(steps * torch.stack([(v.double().reshape(free[n].shape) * free[n]).sum(1) for n, v in found.items()]).sum(0))
    return torch.stack(each, 1), steps


def _spread(part: Tensor, k: int, draws: int, steps: int) -> Tensor:
    """(B,) numbers from 0 to below `steps`, the k-th of so many draws spread evenly over them."""
    return (((part + k) / draws) * steps).floor().clamp(max=max(steps - 1, 0)).long()


def elements_of(denoiser: BaseDenoiser, batch: Batch) -> dict[str, Tensor]:
    """Elements of each sample by leaf, (B,): without padding, and what a space ties together (an edge told twice) once."""
    x = leaves(batch.x)
    return {name: _counted(leaf, x[name], batch.mask).sum(1) for name, leaf in denoiser.process.leaves().items()}


def _counted(leaf: LeafProcess, x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, P) bool, the elements whose nats add up: all coordinates of centred points, whose squares are those of the whole."""
    real = leaf.space.real(x, mask)
    if real is None:
        return torch.ones(len(x), math.prod(x.shape[1:]), dtype=torch.bool, device=x.device)
    return real.expand(x.shape).reshape(len(x), -1) if isinstance(leaf.space, Centred) else free_positions(leaf, x, mask)


def _density(leaf: Gaussian, x: Tensor, mask: Tensor | None) -> Tensor:
    """E -log N(x; z / alpha, sigma^2 / alpha^2) (B,) at the schedule's floor, nats."""
    free = _counted(leaf, x, mask).sum(1) - (x.shape[-1] if isinstance(leaf.space, Centred) else 0)
    return free.double() / 2 * (math.log(2 * math.pi) + 1 - float(leaf.schedule.lam(leaf.schedule.floor)))


def _decoded(model: BaseDenoiser, batch: Batch, values: Mapping[str, Tensor], rates: bool, noise: Noise) -> tuple[Tensor, bool]:
    """-log p(x | z_low) (B,), nats, of one draw of states in which every leaf is at its own lowest level, and whether the model
    was asked. `rates` says that no step went to data."""
    x, parts = leaves(batch.x), model.process.leaves()
    total = torch.zeros(len(noise.ids), dtype=torch.float64, device=noise.ids.device)
    for name, grid in values.items():
        leaf = parts[name]
        assert isinstance(leaf, Gaussian)
        said = _of_values(leaf, x[name], grid, leaf.schedule.floor, noise.at(name), batch.mask)
        total = total + (said * _counted(leaf, x[name], batch.mask)).sum(1)
    asked = [
        name
        for name, leaf in parts.items()
        if isinstance(leaf, Embedded) or (rates and isinstance(leaf, Categorical) and float(leaf.schedule(0.0)[0]) < 1)
    ]
    if not asked:
        return total, False
    low = {
        n: torch.tensor(leaf.schedule.floor if isinstance(leaf, Gaussian) else 0.0, dtype=torch.float64)
        for n, leaf in parts.items()
    }
    # categories whose last step went to data are there
    given = {n: not rates and isinstance(leaf, Categorical) for n, leaf in parts.items()}
    z = {n: x[n] if given[n] else leaf.marginal(x[n], low[n], noise.at(n), batch.mask) for n, leaf in parts.items()}
    belief = leaves(model(tree(z), tree(low), batch.cond, batch.mask))
    for name in asked:
        leaf, said = parts[name], belief[name]
        if isinstance(said, CategoricalPosterior):
            log_probs = said.log_probs
        else:  # a point is believed in, and no probabilities; the state has its own
            assert isinstance(leaf, Embedded)
            log_probs = torch.log_softmax(leaf.evidence(z[name], low[name]), -1)
        nats = -log_probs.double().gather(-1, x[name][..., None])[..., 0].reshape(len(total), -1)
        total = total + (nats * _counted(leaf, x[name], batch.mask)).sum(1)
    return total, True


def _prior(leaf: LeafProcess, x: Tensor) -> Tensor:
    """KL(q(z_1 | x) || p(z_1)) of each element, (B, P) nats."""
    if isinstance(leaf, Categorical):
        return leaf.prior_kl(x).reshape(len(x), -1)
    alpha, sigma = (float(v) for v in leaf.schedule(1.0))
    points = leaf.embed(x) if isinstance(leaf, Embedded) else x
    square = points.double().square().reshape(len(x), math.prod(x.shape[1:]), -1).sum(-1)
    return 0.5 * (alpha / sigma) ** 2 * square


def _of_values(leaf: Gaussian, x: Tensor, values: Tensor, low: float, noise: Noise, mask: Tensor | None = None) -> Tensor:
    """-log p(x | z) of each element, (B, P) nats, of one draw of z at `low`, where p is proportional to q(z | value)."""
    grid = values.double().to(x.device)
    apart = (x.double()[..., None] - grid).abs()
    if float(apart.min(-1).values.max()) > 1e-4:
        raise ValueError("x is not on the grid of values; give data as it was before anything was added, or values=None.")
    alpha, sigma = (float(v) for v in leaf.schedule(low))
    z = leaf.marginal(x.double(), torch.tensor(low, dtype=torch.float64), noise, mask)
    logits = -0.5 * ((z[..., None] - alpha * grid) / sigma) ** 2
    said = torch.log_softmax(logits, -1).gather(-1, apart.argmin(-1, keepdim=True))[..., 0]
    return -said.reshape(len(x), -1)
