"""Samplers for categories: leaps of the reverse jump process, masks revealed one by one or by an order, and remasked.

`plans.ddpm` is the ancestral sampler already, and for a mask it keeps what is revealed. Here is what a table of numbers
cannot say, because it depends on the state.

    tau_leaping      rates of the reverse jump process, held over a step          all low-rank limits
    flow_jumps       those of discrete flow matching; see `langevin.plans.jumps`  all low-rank limits
    first_hitting    the exact law, one token an evaluation, at the exact levels  masks
    confidence       the best guesses first: a heuristic, not the model's law     masks
    remask           revealed tokens may be masked again, and guessed anew        masks
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical, LowRank
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan, StateRow, joined
from langevin.core.posterior import CategoricalPosterior, draw
from langevin.core.schedule import Schedule
from langevin.plans.first_order import MOST_STEPS
from langevin.plans.grids import Grid
from langevin.plans.tokens import (
    JumpRow,
    along_grid,
    alpha_at,
    check_categorical,
    check_falls,
    check_masking,
    free_positions,
    masks_of,
    probs_of_states,
    revealed,
    taken,
    where_blank,
)

ORDERS = ("confidence", "entropy", "margin", "random")


@dataclass(frozen=True, kw_only=True)
class TauLeap(JumpRow):
    """Each position jumps at most once, at the rates of the reverse jump process (Campbell et al., 2205.14987, sec. 4.2-4.3).

    Forward, a low-rank kernel jumps from y to z at rate beta pi(z), beta = -alpha' / alpha. Its reversal jumps from z to y at
    beta pi(z) sum_x p(x | z) q_t(y | x) / q_t(z | x), which for y != z is, with p the belief,

        beta [ p(y) alpha / (1 - alpha) + pi(y) ((1 - p(z)) + p(z) pi(z) (1 - alpha) / (alpha + (1 - alpha) pi(z))) ].

    p is held as it was at `start`: that is the approximation. The factors of time are integrated exactly, to the hazards

        log((1 - alpha_t) / (1 - alpha_s)),   B = log(alpha_s / alpha_t),   B - log(m_s / m_t) / (1 - pi(z)),

    m = pi(z) + (1 - pi(z)) alpha. A position jumps with probability 1 - exp(-total hazard), to y in proportion to its hazard.
    This neglects second jumps within a step; a mask can only jump once, so there the destination is exact, the hazard is the
    first term alone, and the row is the bridge of `ddpm`.

    At alpha_t = 0 the last two hazards are infinite: pure noise mixes infinitely fast, which leaves its law as it is, so they
    are left out. On the step to level 0 the first one is: the position is drawn from the belief.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        check_falls(self)

    def check(self, leaf: Any) -> None:
        check_categorical(leaf, "tau_leaping")
        if not isinstance(leaf.kernel, LowRank):
            raise ValueError(
                f"tau_leaping knows the rates of low-rank kernels, and this is a {type(leaf.kernel).__name__} one; use ddpm."
            )

    def probs(self, leaf: Categorical, z: Tensor, belief: CategoricalPosterior) -> Tensor:
        p, here = probs_of_states(leaf, belief), leaf.one_hot(z)
        limit = leaf.kernel.limit.to(z.device)
        pi = limit[z][..., None]
        alpha_t, alpha_s = alpha_at(leaf, self.start), alpha_at(leaf, self.stop)
        if self.stop == 0 or alpha_s == 1:
            return torch.where(pi > 0, p, here)
        hazard = p * math.log((1 - alpha_t) / (1 - alpha_s))
        if alpha_t > 0:
            mixing = math.log(alpha_s / alpha_t)
            rise = (1 - pi) * (alpha_s - alpha_t) / (pi + (1 - pi) * alpha_t)  # m_s / m_t - 1
            own = (p * here).sum(-1, keepdim=True)
            back = mixing - rise.log1p() / (1 - pi).clamp(min=1e-12)
            hazard = hazard + limit * ((1 - own) * mixing + own * back)
        # states the process never jumps to (revealed tokens) are never left
        hazard = torch.where(pi > 0, hazard * (1 - here), 0.0)
        total = hazard.sum(-1, keepdim=True)
        jump = -torch.expm1(-total)
        return (1 - jump) * here + jump * hazard / total.clamp(min=1e-300)


@dataclass(frozen=True, kw_only=True)
class Remask(JumpRow):
    """A step that may mask revealed tokens again (ReMDM, 2503.00307). With rho in [0, min(1, (1 - alpha_s) / alpha_t)],

        z_t revealed   keep it with probability 1 - rho, else mask it
        z_t a mask     reveal a draw from the belief with probability (alpha_s - (1 - rho) alpha_t) / (1 - alpha_t)

    so that every token is revealed with probability alpha_t (1 - rho) + alpha_s - (1 - rho) alpha_t = alpha_s: the marginals
    are kept whatever rho.

    Args:
        strength: rho over its maximum; 0 is `ddpm`.
    """

    start: float
    stop: float
    strength: float = 0.5

    def __post_init__(self) -> None:
        check_falls(self)
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; give the share of the largest remasking, in [0, 1].")

    def check(self, leaf: Any) -> None:
        check_masking(leaf, "remask")

    def probs(self, leaf: Categorical, z: Tensor, belief: CategoricalPosterior) -> Tensor:
        alpha_t, alpha_s = alpha_at(leaf, self.start), 1.0 if self.stop == 0 else alpha_at(leaf, self.stop)
        rho = self.strength * (min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0)
        reveal = min(1.0, (alpha_s - (1 - rho) * alpha_t) / max(1 - alpha_t, 1e-300))
        blank = leaf.kernel.limit.to(z.device)
        told = reveal * probs_of_states(leaf, belief) + (1 - reveal) * blank
        return torch.where((z == leaf.categories)[..., None], told, (1 - rho) * leaf.one_hot(z) + rho * blank)


@dataclass(frozen=True, kw_only=True)
class FirstHitting(StateRow):
    """One token is revealed, at the level where that happens (Zheng et al., 2409.02908, sec. 4).

    Every token has its own level of masking, with 1 - alpha uniform. So with n masks left at t the next one to be revealed is
    found at 1 - alpha(t') = (1 - alpha(t)) u^(1/n), it is each of the n with equal chances, and its token is a draw from the
    belief at t'. Rows before this one had n + 1, n + 2, ... masks, which makes t' a function of n and their draws alone.
    Samples without masks stay as they are. `start` and `stop` are the levels at which such a share is masked on average.
    Exact on one leaf: leaves of a product each reveal a token at once.

    Args:
        index: rows of this kind before it.
        length: masks that it can begin with.
    """

    start: float
    stop: float
    index: int
    length: int

    def __post_init__(self) -> None:
        check_falls(self)

    def check(self, leaf: Any) -> None:
        check_masking(leaf, "first_hitting")

    def at(self, leaf: Any, z: Tensor, noise: Noise) -> Tensor:
        """(B, 1, ..., 1) float64, the level of the next event; 0 where nothing is masked."""
        left = (free_positions(leaf, z, None) & masks_of(leaf, z)).sum(1)
        if self.index == 0 and int(left.max()) > self.length:
            raise ValueError(
                f"length is {self.length} and a sample has {int(left.max())} masks; use first_hitting({int(left.max())})."
            )
        u = replace(noise, step=noise.step - self.index).uniform((self.index + 1,))  # row by row, all from the first row's draw
        ago = torch.arange(self.index, -1, -1, device=z.device)
        share = (u.log() / (left[:, None] + ago).clamp(min=1)).sum(1).exp()
        level = where_blank(leaf.schedule, (1 - alpha_at(leaf, 1.0)) * share.clamp(min=1e-12))
        return torch.where(left > 0, level, 0.0).reshape(-1, *[1] * (z.ndim - 1))

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        masked = free_positions(leaf, z, mask) & masks_of(leaf, z)
        score = noise.at("position").uniform((masked.shape[1],))
        place = torch.where(masked, score, -1.0).argmax(1, keepdim=True)
        log_probs = belief.log_probs.reshape(*masked.shape, leaf.categories)
        token = draw(log_probs.take_along_dim(place[..., None], 1), noise.at("token"))
        chosen = masked & (torch.arange(masked.shape[1], device=z.device) == place)
        return revealed(leaf, z, chosen, token.expand(chosen.shape), mask)


@dataclass(frozen=True, kw_only=True)
class Reveal(StateRow):
    """As many tokens are revealed as the schedule says, in an order; see `confidence`. NOT ancestral.

    After the row round(L (1 - alpha_s)) masks are left of L tokens, and at least one fewer than before. L are the real
    positions; where tokens were given L is what the masks that are left imply, so that these are spread evenly as well.

    Args:
        order: "confidence", the belief in the drawn token; "entropy", the lowest; "margin", the belief in the best token less
            that in the second; "random".
        temperature: of the drawn tokens; 0 takes the likeliest.
        noise: scale of the Gumbel noise on the order, times (1 - progress) = `stop`.
        block: tokens of a block; those of the first block that has masks go before all others, and order decides within it.
        threshold, bound: what else may be revealed in that block; see `confidence`.
    """

    start: float
    stop: float
    order: str = "confidence"
    temperature: float = 1.0
    noise: float = 0.0
    block: int | None = None
    threshold: float | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        check_falls(self)
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}; choose one of {', '.join(ORDERS)}.")
        for name in ("temperature", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number that is not negative.")
        if self.block is not None and self.block < 1:
            raise ValueError(f"block is {self.block}; a block has at least 1 token, and None is for no blocks.")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; give a probability below 1, above which tokens are revealed.")
        if self.bound is not None and not 0 <= self.bound < math.inf:
            raise ValueError(f"bound is {self.bound}; give nats of entropy, at least 0, and None for no bound.")

    def check(self, leaf: Any) -> None:
        check_masking(leaf, "confidence")

    def left(self, leaf: Categorical, masks: Tensor, real: Tensor) -> Tensor:
        """(B,) int64, the masks after the row, from those before it and the number of real positions, both (B,)."""
        if self.stop == 0:
            return torch.zeros_like(masks)
        before, after = 1 - alpha_at(leaf, self.start), 1 - alpha_at(leaf, self.stop)
        on_course = masks == (real * before).round()
        whole = torch.where(on_course, real, torch.minimum(masks / before, real))
        return torch.minimum((whole * after).round().long(), masks - 1).clamp(min=0)

    def move(self, leaf: Any, z: Tensor, belief: Any, noise: Noise, mask: Tensor | None) -> Tensor:
        free = free_positions(leaf, z, mask)
        masked = free & masks_of(leaf, z)
        log_probs = belief.log_probs.double().reshape(*free.shape, leaf.categories)
        token = draw(log_probs / self.temperature, noise.at("token")) if self.temperature else log_probs.argmax(-1)
        score = self._score(log_probs, token, noise.at("order"))
        order = torch.where(masked, score, -math.inf).sort(dim=1, descending=True, stable=True).indices
        current = masked
        if self.block is not None:  # of equal blocks the order stays
            at = torch.where(masked, torch.arange(masked.shape[1], device=z.device) // self.block, masked.shape[1])
            order = order.gather(1, at.gather(1, order).sort(dim=1, stable=True).indices)
            current = masked & (at == at.amin(1, keepdim=True))
        place = order.argsort(1)
        count = masked.sum(1)
        chosen = place < (count - self.left(leaf, count, free.sum(1)))[:, None]
        if self.threshold is not None:
            chosen = chosen | (current & (log_probs.gather(-1, token[..., None])[..., 0] > math.log(max(self.threshold, 1e-300))))
        if self.bound is not None:
            entropy = torch.where(current, torch.special.entr(log_probs.exp()).sum(-1), math.inf)
            along = entropy.gather(1, order)
            within = along.cumsum(1) - along.cummax(1).values <= self.bound  # inf - inf is no number, and not within
            chosen = chosen | within.gather(1, place)
        return revealed(leaf, z, masked & chosen, token, mask)

    def _score(self, log_probs: Tensor, token: Tensor, noise: Noise) -> Tensor:
        """(B, P), larger is earlier, from log-probabilities (B, P, K) and drawn tokens (B, P)."""
        gumbel = noise.gumbel(tuple(token.shape[1:])) if self.order == "random" or self.noise else torch.zeros(())
        if self.order == "random":
            return gumbel
        if self.order == "confidence":
            score = log_probs.gather(-1, token[..., None])[..., 0]
        elif self.order == "entropy":
            score = -torch.special.entr(log_probs.exp()).sum(-1)
        else:
            best = log_probs.exp().topk(2, dim=-1).values
            score = best[..., 0] - best[..., 1]
        return score + self.noise * self.stop * gumbel.to(score.device)


def tau_leaping(steps: int = 50, grid: str | Grid = "uniform") -> Draft:
    """Tau-leaping of the reverse jump process (2205.14987), `steps` evaluations; of first order. See `TauLeap`."""
    return along_grid(f"tau_leaping({steps})", TauLeap(start=1.0, stop=0.0), steps, grid)


def remask(steps: int = 50, strength: float = 0.5, grid: str | Grid = "uniform") -> Draft:
    """Masked diffusion that can take a token back (ReMDM with its rescaled schedule, 2503.00307), `steps` evaluations."""
    row = Remask(start=1.0, stop=0.0, strength=strength)
    return along_grid(f"remask({steps}, strength={strength:g})", row, steps, grid)


def confidence(
    steps: int = 16,
    order: str = "confidence",
    temperature: float = 1.0,
    noise: float = 0.0,
    block: int | None = None,
    threshold: float | None = None,
    bound: float | None = None,
    grid: str | Grid = "uniform",
) -> Draft:
    """The surest tokens first (MaskGIT, 2202.04200, sec. 3.2), at most `steps` evaluations. See `Reveal`.

    A heuristic, NOT ancestral: it does not sample the model's law. To choose a token for what was drawn there favours likely
    tokens, and tokens revealed together are drawn as if they were independent. (One at a time at temperature 1, the orders
    that look at beliefs alone do sample the law of an exact denoiser.) With fewer tokens than steps the last rows do nothing.

    Args:
        order: "confidence", "entropy", "margin" or "random".
        temperature: of the drawn tokens; 0 takes the likeliest.
        noise: scale of the Gumbel noise on the order, which falls to 0 along the plan (MaskGIT uses 4.5).
        block: tokens of a block, of which one is finished after the other, from left to right (LLaDA, 2502.09992, sec. 2.4);
            with temperature 0 this is how LLaDA writes.
        threshold: beside the schedule's number, each token that the model believes with more than this probability (Fast-dLLM,
            2505.22618, sec. 3.3; LLaDA 2).
        bound: beside it, the first so many in that order whose entropies, without the largest, sum to no more than so many nats:
            what is lost by drawing them as if they were independent is at most that (EB-Sampler, 2505.24857).

    With either, a plan of a row for each token takes as many evaluations as a text needs: rows that have nothing left to reveal
    ask nothing under `guidance.Cached`.
    """
    row = Reveal(
        start=1.0, stop=0.0, order=order, temperature=temperature, noise=noise, block=block, threshold=threshold, bound=bound
    )
    further = {"block": block, "threshold": threshold, "bound": bound}
    told = "".join(f", {name}={value:g}" for name, value in further.items() if value is not None)
    return along_grid(f"confidence({steps}, order={order}, temperature={temperature:g}, noise={noise:g}{told})", row, steps, grid)


def first_hitting(length: int = 64) -> Draft:
    """The exact sampler of masked processes (2409.02908): one token an evaluation, `length` evaluations. See `FirstHitting`.

    Args:
        length: tokens to be drawn, at least as many as any sample has masks.
    """
    if not 1 <= length <= MOST_STEPS:
        raise ValueError(f"length is {length}; give the number of tokens to be drawn, 1 to {MOST_STEPS}.")
    name = f"first_hitting({length})"

    def fill(schedule: Schedule) -> Plan:
        shares = torch.arange(length - 1, 0, -1, dtype=torch.float64) / length
        levels = [1.0, *where_blank(schedule, taken("first_hitting", schedule) * shares).tolist(), 0.0]
        rows = tuple(FirstHitting(start=t, stop=s, index=i, length=length) for i, (t, s) in enumerate(joined(levels)))
        return Plan(name=name, basis="x0", order=1, rows=rows)

    return Draft(name, fill)
