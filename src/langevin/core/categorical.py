"""The categorical process: D3PM, DiGress and masked diffusion as one short law.

Kernels Qbar_t[x, z] = q(z_t = z | x), rows summing to 1:

    low rank   Qbar_t = alpha_t I + (1 - alpha_t) 1 pi^T        pi uniform, a marginal, or all on a mask
    general    Qbar_t = exp(-log(alpha_t) R)                    R a small matrix of rates
    others     see `langevin.kernels`: chains of matrices, large matrices of rates

alpha is the schedule's, read as the probability that nothing has happened yet. For R = 1 pi^T - I both agree.
The bridge at eta = 1 is Bayes' rule averaged over the belief p (D3PM, 2107.03006, eq. 3),

    q(z_s | z_t) = Q_{t|s}[z_s, z_t] sum_x p(x) Qbar_s[x, z_s] / Qbar_t[x, z_t],

and at eta = 0, for low-rank kernels, the one that draws no fresh noise (DDIM for categories, 2010.02502, app. A),
z_s = z_t with probability w = (1 - alpha_s) / (1 - alpha_t), else a draw from p. Mixtures of the two keep the marginals
too, so every eta in [0, 1] is legal. For a mask both are the same law: reveal with probability 1 - w.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from langevin.core.levels import Level, broadcastable
from langevin.core.messages import leaf_name
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row
from langevin.core.posterior import CategoricalPosterior
from langevin.core.process import LeafProcess, check_descent, check_eta, check_ids, check_schedule
from langevin.core.schedule import Schedule
from langevin.core.space import Euclidean, Space


class Kernel(ABC):
    """Transition probabilities Q_{t|s} between S states, applied to vectors and never built per token.

    `keep` is alpha_t / alpha_s with one trailing axis of size 1, `since` alpha_s like it; kernels that are the same at every
    level do not look at the latter.
    """

    limit: Tensor
    """(S,) float64, where every state ends."""

    def near(self, name: str, device: torch.device) -> Tensor:
        """The tensor of that name on a device, copied there once: copies wait for a GPU, and a graph of one cannot hold them."""
        kept = vars(self).setdefault("_near", {})
        if (name, device) not in kept:
            kept[name, device] = getattr(self, name).to(device)
        return kept[name, device]

    @abstractmethod
    def push(self, p: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        """p Q, for rows p (..., S)."""

    @abstractmethod
    def column(self, z: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        """Q[., z], (..., S): how likely each earlier state makes z."""


class LowRank(Kernel):
    """keep I + (1 - keep) 1 pi^T, in O(S) per token."""

    def __init__(self, limit: Tensor) -> None:
        self.limit = limit

    def push(self, p: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        return keep * p + (1 - keep) * p.sum(-1, keepdim=True) * self.near("limit", p.device)

    def column(self, z: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        limit = self.near("limit", z.device)
        return keep * torch.nn.functional.one_hot(z, len(limit)) + (1 - keep) * limit[z][..., None]


class General(Kernel):
    """exp(-log(keep) R) = V keep^(-eigenvalues of R) V^-1, in O(S^2) per token."""

    def __init__(self, rates: Tensor) -> None:
        size = rates.shape[0]
        off_diagonal = rates - torch.diag(rates.diagonal())
        if rates.shape != (size, size) or bool((off_diagonal < 0).any()) or bool((rates.sum(1).abs() > 1e-9).any()):
            raise ValueError(
                f"rates have shape {tuple(rates.shape)}; give (S, S), non-negative off the diagonal, rows summing to 0."
            )
        if torch.equal(rates, rates.T):
            values, self._left = torch.linalg.eigh(rates)
            self._right = self._left.T
        else:
            values, self._left = torch.linalg.eig(rates)
            self._right = torch.linalg.inv(self._left)
        if bool(torch.linalg.cond(self._left) > 1e8):
            raise ValueError("the rates cannot be diagonalised stably; perturb them slightly or use a low-rank limit.")
        self._decay = -values
        if int((values.abs() < 1e-9).sum()) != 1:
            raise ValueError("the rates have several limits, so no prior; connect all states with each other.")
        self.limit = self.push(torch.eye(size, dtype=torch.float64)[0], torch.zeros(1, dtype=torch.float64)).clamp(min=0)

    def _fade(self, keep: Tensor) -> Tensor:
        decay = self.near("_decay", keep.device)
        faded = torch.exp(decay * keep.clamp(min=1e-300).log())
        return torch.where(decay.abs() < 1e-9, torch.ones_like(faded), torch.where(keep > 0, faded, torch.zeros_like(faded)))

    def push(self, p: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        left, right = self.near("_left", p.device), self.near("_right", p.device)
        return (((p.to(left.dtype) @ left) * self._fade(keep)) @ right).real.clamp(min=0)

    def column(self, z: Tensor, keep: Tensor, since: Tensor | float = 1.0) -> Tensor:
        left, right = self.near("_left", z.device), self.near("_right", z.device)
        return ((right.T[z] * self._fade(keep)) @ left.T).real.clamp(min=0)


def _there(number: Tensor, z: Tensor) -> Tensor:
    """What depends on the level, on the device of z, with one axis more. A single number is filled in there: copies wait."""
    if number.device != z.device and number.ndim == 0 and not number.requires_grad:
        return torch.full((1,), number.item(), dtype=number.dtype, device=z.device)
    return number[..., None].to(z.device)


class _Numbers(NamedTuple):
    start: Tensor
    stop: Tensor
    eta: float
    mix: tuple[float, ...]


class Categorical(LeafProcess):
    """States z in {0, ..., S - 1}, int64; data uses the first K of them.

    Args:
        categories: K.
        schedule: its alpha is the keep-probability, e.g. `schedules.keep_linear()`.
        limit: "uniform", "mask" (one more state, K, is added), or (K,) probabilities ("marginal").
        rates: (K, K) instead of a limit, for kernels that are not low rank (ordinal, nearest-neighbour).
        kernel: instead of both, any kernel between the K categories; see `langevin.kernels`.
        space: ties between positions (symmetric edges); Euclidean by default.
    """

    kind = "categorical"

    def __init__(
        self,
        categories: int,
        schedule: Schedule,
        limit: str | Tensor = "uniform",
        rates: Tensor | None = None,
        space: Space | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        check_schedule(schedule)
        if categories < 2:
            raise ValueError(f"categories is {categories}; give at least 2.")
        self.categories, self.schedule, self.space = categories, schedule, space or Euclidean()
        own = rates is not None or kernel is not None
        self.masked = isinstance(limit, str) and limit == "mask" and not own
        self.states = categories + self.masked
        if own and not (isinstance(limit, str) and limit == "uniform" and (rates is None or kernel is None)):
            raise ValueError("rates and kernels have their own limit; give one of rates, kernel and limit, not both.")
        if rates is not None:
            kernel = General(torch.as_tensor(rates, dtype=torch.float64))
        self.kernel = kernel if kernel is not None else LowRank(self._limit(limit))
        if self.kernel.limit.shape != (self.states,):
            raise ValueError(f"the kernel has {len(self.kernel.limit)} states for {categories} categories; make them agree.")

    def _limit(self, limit: str | Tensor) -> Tensor:
        if isinstance(limit, str):
            if limit == "uniform":
                return torch.full((self.categories,), 1 / self.categories, dtype=torch.float64)
            if limit == "mask":
                return torch.eye(self.states, dtype=torch.float64)[-1]
            raise ValueError(f"limit is {limit!r}; use 'uniform', 'mask', or a tensor of {self.categories} probabilities.")
        pi = torch.as_tensor(limit, dtype=torch.float64)
        if pi.shape != (self.categories,) or bool((pi < 0).any()) or abs(float(pi.sum()) - 1) > 1e-6:
            raise ValueError(f"limit has shape {tuple(pi.shape)}; give {self.categories} probabilities summing to 1.")
        return pi / pi.sum()

    def extra_repr(self) -> str:
        return f"categories={self.categories}, kernel={type(self.kernel).__name__}, masked={self.masked}, space={self.space}"

    def _alpha(self, t: Level, z: Tensor) -> Tensor:
        return _there(self.schedule.alpha(broadcastable(t, z)), z)

    def _keep(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.where(s > 0, t / s.clamp(min=1e-300), 0.0)

    def check_data(self, x: Tensor, what: str = "data") -> None:
        if x.dtype != torch.int64:
            raise ValueError(f"{what} for a categorical process is {x.dtype}; give int64 categories, as x.long() makes them.")
        if x.device.type == "cpu" and x.numel() and not (int(x.min()) >= 0 and int(x.max()) < self.categories):
            raise ValueError(f"{what} spans {int(x.min())} .. {int(x.max())}; categories run from 0 to {self.categories - 1}.")

    def one_hot(self, x: Tensor) -> Tensor:
        """(B, *shape, S) float64."""
        return torch.nn.functional.one_hot(x, self.states).double()

    def marginal_probs(self, x: Tensor, t: Level) -> Tensor:
        """q(z_t | x), (B, *shape, S) float64."""
        return self.kernel.push(self.one_hot(x), self._alpha(t, x))

    def marginal(self, x: Tensor, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        self.check_data(x)
        check_ids(x, noise)
        return self.draw(self.marginal_probs(x, t), noise, mask)

    def prior(
        self, shape: tuple[int, ...], noise: Noise, mask: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        limit = self.kernel.near("limit", noise.ids.device)
        return self.draw(limit.expand(len(noise.ids), *shape, self.states), noise, mask)

    def draw(self, probs: Tensor, noise: Noise, mask: Tensor | None) -> Tensor:
        """States (B, *shape) of the space, drawn from probabilities (B, *shape, S), padding 0."""
        gumbel = self.space.project(noise.gumbel(tuple(probs.shape[1:])).to(probs.device))
        z = (probs.log() + gumbel).argmax(-1)
        return self.space.project(z, mask)

    def evidence(self, z: Tensor, t: Level) -> Tensor:
        """log q(z_t = z | x = k) for each category k, (B, *shape, K) float64. A state that none makes, as where padding is a
        category and all else is masked, says nothing."""
        column = self.kernel.column(z, self._alpha(t, z))[..., : self.categories]
        return torch.where(column.any(-1, keepdim=True), column, 1.0).log()

    def bridge_probs(self, z: Tensor, p: Tensor, t: Level, s: Level, eta: float = 1.0) -> Tensor:
        """q(z_s | z_t, belief), (B, *shape, S) float64, for p (B, *shape, K) the probabilities of x."""
        check_eta(eta)
        if eta != 1 and not isinstance(self.kernel, LowRank):
            raise ValueError(f"eta is {eta:g}, but a general kernel has only its Bayes bridge; use eta = 1, as ddpm does.")
        # level 0 is data, also on a schedule that keeps a little noise there
        clean = _there(broadcastable(s, z) == 0, z)
        alpha_t, alpha_s = self._alpha(t, z), torch.where(clean, 1.0, self._alpha(s, z))
        check_descent(broadcastable(t, z), broadcastable(s, z))
        p = torch.nn.functional.pad(p.double(), (0, self.states - self.categories))
        out = torch.zeros_like(p)
        if eta > 0:
            evidence = self.kernel.column(z, alpha_t)
            # beliefs that the state itself rules out (possible with prediction "posterior") carry no weight
            weight = torch.where(evidence > 0, p / evidence.clamp(min=1e-300), 0.0)
            bayes = self.kernel.push(weight, alpha_s) * self.kernel.column(z, self._keep(alpha_t, alpha_s), alpha_s)
            mass = bayes.sum(-1, keepdim=True)
            out = eta * torch.where(mass > 0, bayes / mass.clamp(min=1e-300), self.one_hot(z))
        if eta < 1:
            stay = torch.where(alpha_t < 1, (1 - alpha_s) / (1 - alpha_t).clamp(min=1e-300), 1.0)
            out = out + (1 - eta) * (stay * self.one_hot(z) + (1 - stay) * p)
        return out

    def bridge(
        self, z: Tensor, belief: CategoricalPosterior, t: Level, s: Level, noise: Noise, eta: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return self.draw(self.bridge_probs(z, belief.probs, t, s, eta), noise, mask)

    def renoise(self, z: Tensor, s: Level, t: Level, noise: Noise, mask: Tensor | None = None) -> Tensor:
        since = self._alpha(s, z)
        return self.draw(self.kernel.push(self.one_hot(z), self._keep(self._alpha(t, z), since), since), noise, mask)

    def kl(self, x: Tensor, belief: CategoricalPosterior, z: Tensor, t: Level, s: Level) -> Tensor:
        if bool((self._alpha(s, z) == 1).all()):  # the reconstruction, kept in logarithms
            return -belief.log_probs.double().gather(-1, x[..., None])[..., 0]
        truth = torch.nn.functional.one_hot(x, self.categories)
        q = self.bridge_probs(z, truth, t, s)
        p = self.bridge_probs(z, belief.probs, t, s)
        return (torch.special.xlogy(q, q) - torch.where(q > 0, q * p.clamp(min=1e-300).log(), 0.0)).sum(-1)

    def prior_kl(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || limit) per element, in nats: the prior term of the ELBO."""
        q = self.marginal_probs(x, 1.0)
        limit = self.kernel.near("limit", x.device).clamp(min=1e-300)
        return (torch.special.xlogy(q, q) - q * limit.log()).sum(-1)

    def check(self, plan: Plan, leaf: str) -> None:
        at = leaf_name(leaf)
        if plan.basis != "x0":
            raise ValueError(f"plan {plan.name} keeps a {plan.basis}, which {at} (categorical) does not have; "
                             "use a plan in the x0 basis, such as ddim or dpmpp.")  # fmt: skip
        rows = [row for row in plan.rows if isinstance(row, Row)]
        if any(row.a is not None for row in rows):
            raise ValueError(f"plan {plan.name} writes out the factor of the state, which {at} (categorical) has none of; "
                             "use a plan that leaves the step to the process, such as dpmpp.")  # fmt: skip
        if any(row.anchored for row in rows):
            raise ValueError(f"plan {plan.name} corrects a step from its anchor, which {at} (categorical) cannot undo; "
                             "use a multistep plan such as dpmpp.")  # fmt: skip
        if not isinstance(self.kernel, LowRank) and any(row.eta != 1 for row in rows):
            raise ValueError(f"plan {plan.name} has eta below 1, but the general kernel of {at} has only its Bayes bridge; "
                             "use ddpm, or a low-rank limit.")  # fmt: skip

    def numbers(self, plan: Plan) -> list[_Numbers | None]:
        ends = [torch.tensor([row.start, row.stop], dtype=torch.float64).unbind() for row in plan.rows]
        return [_Numbers(at[0], at[1], row.eta, row.mix) if isinstance(row, Row) else None for row, at in zip(plan.rows, ends)]

    def observe(self, belief: CategoricalPosterior, z: Tensor, number: _Numbers) -> Tensor:
        return belief.logits

    def advance(
        self, start: Tensor, history: list[Tensor], belief: CategoricalPosterior, number: _Numbers, noise: Noise,
        mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        logits = history[0]
        if len(number.mix) > 1:
            logits = logits * number.mix[0]
            for weight, u in zip(number.mix[1:], history[1:], strict=False):
                logits = torch.add(logits, u, alpha=weight)
        return self.bridge(start, belief.with_params(logits), number.start, number.stop, noise, number.eta, mask)
