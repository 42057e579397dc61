"""The evidence lower bound of data under one Gaussian process, with the decoder at its data end (VDM, 2107.00630, sec. 4).

    -log p(x) <= KL(q(z_1 | x) || p(z_1)) + 1/2 int SNR E |x - x^|^2 d lam + E[-log p(x | z_low)],

the integral over log-SNR from lam(1) to lam(low): the bound of infinitely many steps. Sums over steps are the objective `ELBO`.
For categories, and products, see `of_categories`.
"""

import math

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.categorical import Categorical, LowRank
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.process import LeafProcess
from langevin.core.space import Centred, Euclidean
from langevin.core.tree import leaves, tree
from langevin.embedded import Embedded
from langevin.objectives import ELBO, Denoising, Objective
from langevin.objectives.masking import block_of, counted
from langevin.plans.unmasking import _free
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
    was = denoiser.training
    denoiser.eval()
    each = []
    for k in range(draws):
        part = (k + noise.at(f"level {k}").uniform(())) / draws
        lam = bottom + (top - bottom) * part.cpu()
        t = expand(leaf.schedule.invert(lam).clamp(low, 1.0), x)
        z = leaf.marginal(x, t, noise.at(f"noise {k}"))
        error = (x - leaves(denoiser(z, t, cond))[""].mean).double().flatten(1).square().sum(1)
        each.append((top - bottom) / 2 * lam.exp().to(error) * error)
    denoiser.train(was)
    terms = torch.stack(each, 1)
    if values is None:
        decoded = torch.full_like(fixed, elements / 2 * (math.log(2 * math.pi) - top + 1))
        spread = torch.zeros_like(fixed)
    else:
        chosen = torch.stack([_of_values(leaf, x, values, low, noise.at(f"decoder {k}")) for k in range(draws)], 1)
        decoded, spread = chosen.mean(1), chosen.var(1) / draws
    # levels are spread over the whole range, so that the true error is below that of independent draws
    error = (terms.var(1) / draws + spread).sqrt() if draws > 1 else torch.full_like(fixed, math.nan)
    return LogProb(-(fixed + terms.mean(1) + decoded), error, elements, None, draws)


@torch.no_grad()
def of_categories(denoiser: Denoiser, batch: Batch, *, draws: int = 16, seed: int = 0, first_id: int = 0) -> tuple[LogProb, str]:
    """A lower bound of log p(x) for any process, in continuous time where there is such a bound, and how it was had.

        a mask                   by counting masks (`langevin.objectives.Masking`); exact where blocks are single tokens
        low-rank kernels         the score entropy
        other processes          the sum of 100 steps, `langevin.objectives.ELBO`

    The last two with the prior's term of each leaf, and that of the decoder, -log p(x | z_0), where categories have a schedule
    that stops short of data (`schedules.clipped`); Gaussian leaves stop short of the decoder.

    Args:
        draws: numbers of masks, or levels, for each sample; numbers of masks are spread evenly.
    """
    x, parts = leaves(batch.x), denoiser.process.leaves()
    sizes = elements_of(denoiser, batch)
    count, place = len(next(iter(x.values()))), next(iter(x.values())).device
    leaf, noise = parts.get(""), Noise.of(seed, count, first_id, place)
    low_rank = isinstance(leaf, Categorical) and isinstance(leaf.kernel, LowRank)
    fixed = torch.zeros(count, dtype=torch.float64, device=place)
    each: list[Tensor] = []
    if isinstance(leaf, Categorical) and leaf.masked and batch.mask is None and isinstance(leaf.space, Euclidean):
        tokens = math.prod(x[""].shape[1:])
        size = block_of(denoiser, tokens)
        draws = 1 if size == 1 else draws
        part = noise.at("part").uniform((tokens // size,))
        for k in range(draws):
            share = (part + k / draws) % 1
            number = (share * size).floor().clamp(max=size - 1).long() + 1
            each.append(counted(denoiser, leaf, batch, number, noise.at(f"draw {k}"), batch.cond)[0].double().mean(1) * tokens)
        how = "exact, one token after the other" if size == 1 else f"the bound in continuous time, {draws} numbers of masks"
    else:
        objective: Objective = Denoising("elbo") if low_rank else ELBO(100)
        for name, part in parts.items():
            fixed = fixed + (_prior(part, x[name]) * _counted(part, x[name], batch.mask)).sum(1)
        for k in range(draws):
            loss = objective(denoiser, batch, noise.at(f"draw {k}"))
            nats = torch.stack([loss.each[name].double() * size for name, size in sizes.items()]).sum(0)
            each.append(nats + _decoded(denoiser, batch, noise.at(f"decoder {k}")))
        how = f"the bound {'in continuous time' if low_rank else 'of 100 steps'}, {draws} draws"
    terms = torch.stack(each, 1)
    spread = terms.std(1) / draws**0.5 if draws > 1 else torch.full_like(fixed, 0.0 if "exact" in how else math.nan)
    return LogProb(-(fixed + terms.mean(1)), spread, int(sum(size.max() for size in sizes.values())), None, draws), how


def elements_of(denoiser: BaseDenoiser, batch: Batch) -> dict[str, Tensor]:
    """Elements of each sample by leaf, (B,): without padding, and what a space ties together (an edge told twice) once."""
    x = leaves(batch.x)
    return {name: _counted(leaf, x[name], batch.mask).sum(1) for name, leaf in denoiser.process.leaves().items()}


def _counted(leaf: LeafProcess, x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, P) bool, the elements whose nats add up: all coordinates of centred points, whose squares are those of the whole."""
    real = leaf.space.real(x, mask)
    if real is None:
        return torch.ones(len(x), math.prod(x.shape[1:]), dtype=torch.bool, device=x.device)
    return real.expand(x.shape).flatten(1) if isinstance(leaf.space, Centred) else _free(leaf, x, mask)


def _decoded(denoiser: Denoiser, batch: Batch, noise: Noise) -> Tensor:
    """-log p(x | z_0) (B,), nats, of one draw of z_0, of categories that level 0 does not show as they are."""
    x, parts = leaves(batch.x), denoiser.process.leaves()
    total = torch.zeros(len(noise.ids), dtype=torch.float64, device=noise.ids.device)
    short = {n: leaf for n, leaf in parts.items() if isinstance(leaf, Categorical) and float(leaf.schedule(0.0)[0]) < 1}
    if not short:
        return total
    zero = torch.zeros((), dtype=torch.float64)
    z = {n: leaf.marginal(x[n], zero, noise.at(n), batch.mask) for n, leaf in parts.items()}
    belief = leaves(denoiser(tree(z), zero, batch.cond, batch.mask))
    for name, leaf in short.items():
        nats = -belief[name].log_probs.double().gather(-1, x[name][..., None])[..., 0]
        total = total + (nats.flatten(1) * _counted(leaf, x[name], batch.mask)).sum(1)
    return total


def _prior(leaf: LeafProcess, x: Tensor) -> Tensor:
    """KL(q(z_1 | x) || p(z_1)) of each element, (B, P) nats."""
    if isinstance(leaf, Categorical):
        return leaf.prior_kl(x).flatten(1)
    alpha, sigma = (float(v) for v in leaf.schedule(1.0))
    points = leaf.embed(x) if isinstance(leaf, Embedded) else x
    square = points.double().square().reshape(len(x), math.prod(x.shape[1:]), -1).sum(-1)
    return 0.5 * (alpha / sigma) ** 2 * square


def _of_values(leaf: Gaussian, x: Tensor, values: Tensor, low: float, noise: Noise) -> Tensor:
    """-log p(x | z) (B,), nats, of one draw of z at `low`, where p is proportional to q(z | value)."""
    grid = values.double().to(x.device)
    apart = (x.double()[..., None] - grid).abs()
    if float(apart.min(-1).values.max()) > 1e-4:
        raise ValueError("x is not on the grid of values; give data as it was before anything was added, or values=None.")
    alpha, sigma = (float(v) for v in leaf.schedule(low))
    z = leaf.marginal(x.double(), torch.tensor(low, dtype=torch.float64), noise)
    logits = -0.5 * ((z[..., None] - alpha * grid) / sigma) ** 2
    said = torch.log_softmax(logits, -1).gather(-1, apart.argmin(-1, keepdim=True))[..., 0]
    return -said.flatten(1).sum(1)
