"""What all models that leap have in common: one leap is to land where a smaller move and a further leap land together.

For levels t > u >= s of each sample:   target = leap(move(z_t, t, u), u, s), and the model's own leap(z_t, t, s) is drawn there.

    consistency models        s = 0, u the next level of a grid; a teacher's step or the same noise moves, a slow copy leaps on
    latent consistency        the same with a guided teacher and larger strides
    consistency trajectories  any s
    shortcut models           u half way; the slow copy both moves and leaps on
    progressive distillation  u half way; the teacher does both

Landing points are compared as beliefs, the x with which the deterministic bridge lands there (`Gaussian.aim`).
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, dropped
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.posterior import lerp
from langevin.core.process import Process
from langevin.core.schedule import Schedule
from langevin.core.tree import leaves
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives.base import Loss, Networks, Objective, drop_conditions
from langevin.objectives.coupling import Coupling, partners
from langevin.objectives.coupling import named as coupling_named
from langevin.objectives.distances import Distance
from langevin.objectives.distances import named as distance_named
from langevin.plans.grids import Grid
from langevin.plans.grids import named as grid_named


def one_gaussian(process: Process, renoised: bool = False) -> Gaussian:
    """The process, if it is one Gaussian process.

    Args:
        renoised: samples are noised again, which nothing can do that has data at both ends.

    Raises:
        ValueError: for any other.
    """
    if not isinstance(process, Gaussian):
        raise ValueError(f"this objective follows the flow of one Gaussian process, and the model's is {process}; use Denoising.")
    if isinstance(process, Embedded):
        raise ValueError(f"this objective compares states with data, and the data of the process are ids of {process.categories} "
                         "points; use Denoising, BayesianFlow or Embedding.")  # fmt: skip
    if isinstance(process, Interpolant) and renoised:
        raise ValueError("this objective noises samples again, and an interpolant has data where noise would be; use consistency "
                         "or reflow.")  # fmt: skip
    if isinstance(process, Interpolant) and process.added:
        raise ValueError("this objective moves along paths that have their ends alone, and noise is added to this process on the "
                         "way; use noise=0, or Denoising.")  # fmt: skip
    return process


def alike(one: Gaussian, other: Gaussian) -> bool:
    """Whether levels of both mean the same signal and the same noise."""
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    both = zip(one.schedule(t), other.schedule(t), strict=True)
    return all(torch.allclose(a.detach(), b.detach(), rtol=1e-6, atol=1e-9) for a, b in both)


def agree(teacher: nn.Module, process: Gaussian) -> None:
    """
    Raises:
        ValueError: for a teacher of another schedule than its student's.
    """
    assert isinstance(teacher, BaseDenoiser)
    theirs = one_gaussian(teacher.process)
    if not alike(theirs, process):
        raise ValueError(f"the teacher's schedule is {theirs.schedule}, its student's {process.schedule}, and their levels mean "
                         "other noise; give langevin.objectives.rescheduled.Rescheduled(teacher, model.process).")  # fmt: skip


def aim(process: Gaussian, z: Tensor, landed: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x with which the deterministic bridge from z_t lands at z_s, s < t: the inverse of `Gaussian.land`.

    It is the target of progressive distillation (2202.00512, appendix G) and of all that leaps.
    """
    still = process.land(z, torch.zeros_like(z), t, s)
    return (landed - still) / process.land(torch.zeros_like(z), torch.ones_like(z), t, s)


def belief(model: BaseDenoiser, z: Tensor, t: Tensor, s: Tensor | None, cond: Cond, mask: Tensor | None = None) -> Tensor:
    """The model's x (B, *shape) at level t for the leap to s; t and s expanded, s None for a denoiser's belief."""
    if s is not None and model.leaps:
        cond = {**(cond or {}), "to": s.expand(len(z), *[1] * (z.ndim - 1)).reshape(len(z))}
    return leaves(model(z, t, cond, mask))[""].mean


def guided(
    teacher: BaseDenoiser, z: Tensor, t: Tensor, cond: Cond, mask: Tensor | None = None, w: Tensor | float = 1.0
) -> Tensor:
    """The teacher's x under classifier-free guidance of strength w, a number or (B,); 1 is unguided."""
    if not isinstance(w, Tensor) and w == 1:
        return belief(teacher, z, t, None, cond, mask)
    if cond is None:
        raise ValueError("guidance strengthens a condition, and the data brings none; leave the guidance out.")
    weight = torch.as_tensor(w, dtype=torch.float64, device=z.device)
    weight = weight.reshape(-1, *[1] * (z.ndim - 1)) if weight.ndim else weight
    alone = dropped(cond, torch.ones(len(z), dtype=torch.bool, device=z.device))
    return leaves(lerp(teacher(z, t, alone, mask), teacher(z, t, cond, mask), weight))[""].mean


def check_order(order: int) -> None:
    """Refuse an order that `follow` has not. Raises ValueError."""
    if order not in (1, 2):
        raise ValueError(f"order is {order}; a teacher's step is of order 1 (DDIM) or 2 (Heun).")


def follow(
    teacher: BaseDenoiser,
    z: Tensor,
    t: Tensor,
    u: Tensor,
    cond: Cond,
    mask: Tensor | None = None,
    w: Tensor | float = 1.0,
    order: int = 1,
) -> Tensor:
    """z_u, one step along the teacher's flow from z_t; t and u expanded, by sample.

    order 1 is the bridge (DDIM, which on alpha = 1 and on flows is Euler's step). order 2 is Heun's: the noise believed at both
    ends is averaged, as EDM does in sigma (2206.00364, alg. 1); where u is 0 or t has no signal it is a step of order 1.
    """
    process = one_gaussian(teacher.process)
    x = guided(teacher, z, t, cond, mask, w)
    landed = process.land(z, x, t, u)
    if order == 1:
        return landed
    again = guided(teacher, landed, u, cond, mask, w)
    (alpha_t, sigma_t), (alpha_u, sigma_u) = process.schedule(t), process.schedule(u)
    inner = (u > 0) & (alpha_t > 1e-3 * sigma_t)
    one = torch.where(inner, sigma_u, 1.0)
    e = (z - cast(alpha_t, z) * x) / cast(sigma_t, z) + (landed - cast(alpha_u, z) * again) / cast(one, z)
    mean = (z - cast(sigma_t, z) * e / 2) / cast(torch.where(inner, alpha_t, 1.0), z)
    return process.land(z, torch.where(inner.to(z.device), mean, x), t, u)


@contextmanager
def replayed(device: torch.device) -> Iterator[Any]:
    """A function that winds dropout's generator back to where the block began: two passes drop the same units."""
    state = torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)

    def back() -> None:
        torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)

    yield back


def forward_derivative(f: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(f(*at), its derivative along the tangents), without gradient, by one forward differentiation.

    Autocast is off within: torch's norms answer it with a value of half precision and a tangent of full, which the next layer
    refuses, and a derivative has fewer digits to lose than what it is of. So the answer is that of `at`'s own precision, and a
    tangent of another is brought to it.
    """
    along = tuple(v.to(z.dtype) for z, v in zip(at, along, strict=True))
    with torch.no_grad(), torch.autocast(at[0].device.type, enabled=False):
        return torch.func.jvp(f, at, along)[:2]


def now(value: Any, done: float) -> Any:
    """A setting that is a function of the share of the run that is done, at that share; any other as it is."""
    return value(done) if callable(value) else value


@torch.no_grad()
def trail(slow: nn.Module, model: nn.Module, keep: float) -> None:
    """Move a slow copy towards the model."""
    own = dict(model.named_parameters())
    for name, p in slow.named_parameters():
        p.lerp_(own[name].to(p.dtype), 1 - keep)
    now = dict(model.named_buffers())
    for name, b in slow.named_buffers():  # such as statistics of batches
        b.copy_(now[name])


class Ladder:
    """The levels of a grid, from data up, for as many steps as training is at; the last that was asked for is kept."""

    def __init__(self, grid: str | Grid) -> None:
        self.grid, self._kept = grid_named(grid), (0, torch.empty(0))
        self.says = grid if isinstance(grid, str) else getattr(grid, "__name__", "given")

    def __call__(self, schedule: Schedule, steps: int) -> Tensor:
        """Levels 0 = t_0 < t_1 < ... < t_N = 1, float64, on the CPU."""
        if self._kept[0] != steps:
            self._kept = steps, torch.tensor(self.grid(schedule, steps)[::-1], dtype=torch.float64)
        return self._kept[1]


class Leaps(Objective):
    """The part that is the same for all of them; see the module.

    Attributes:
        decay: share that a slow copy of the model, `nets["slow"]`, keeps at each update; a number or a function of the share of
            the run that is done. None for no such copy.

    Args:
        distance: between two beliefs: a name ("squared", "absolute", "huber", "pseudo_huber") or any d(a, b) -> (B,).
        drop: probability that a sample's conditions are dropped.
        coupling: which noise meets which data.
    """

    decay: Any = None

    def __init__(self, distance: str | Distance = "squared", drop: float = 0.0, coupling: str | Coupling = "independent") -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}; it is a probability below 1.")
        self.distance = distance_named(distance)
        self.says = f"distance={distance if isinstance(distance, str) else type(distance).__name__}, drop={drop:g}"
        self.drop, self.coupling, self.nets, self.done = drop, coupling_named(coupling), Networks(), 0.0

    def extra_repr(self) -> str:
        return self.says

    @property
    def paced(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return callable(self.decay)

    def prepare(self, model: Denoiser) -> None:
        process = one_gaussian(model.process)
        if "teacher" in self.nets:
            agree(self.nets["teacher"], process)
        if self.decay is not None:
            self.nets["slow"] = copy.deepcopy(model).requires_grad_(False).eval()

    def begin(self, model: Denoiser, step: int, done: float) -> None:
        self.done = done

    def end(self, model: Denoiser) -> None:
        if self.decay is not None:
            trail(self.nets["slow"], model, now(self.decay, self.done))

    @abstractmethod
    def levels(self, process: Gaussian, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t > u >= s, expanded."""

    @abstractmethod
    def move(self, model: Denoiser, z: Tensor, x: Tensor, e: Tensor, t: Tensor, u: Tensor, cond: Cond, mask: Any) -> Tensor:
        """z_u, from z_t = alpha_t x + sigma_t e."""

    @abstractmethod
    def ahead(self, model: Denoiser) -> BaseDenoiser:
        """What leaps on from u."""

    def conditions(self, batch: Batch, noise: Noise, like: Tensor) -> Cond:
        """What model, slow copy and teacher are told; `like` has the dtype of the states."""
        return drop_conditions(batch.cond, noise, self.drop)

    def weight(self, process: Gaussian, t: Tensor, u: Tensor, s: Tensor) -> Tensor:
        """What the distance counts."""
        return torch.ones_like(t)

    def onward(self, u: Tensor, s: Tensor) -> Tensor:
        """What the second leap, from u to s, is told to reach."""
        del u
        return s

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, x = one_gaussian(model.process), leaves(batch.x)[""]
        t, u, s = self.levels(process, noise.at("levels"), x)
        cond = self.conditions(batch, noise, x)
        e = partners(self.coupling, process, batch, noise.at("noise"))
        z = process.mix(x, e, t)
        with replayed(z.device) as back:
            with torch.no_grad():
                between = self.move(model, z, x, e, t, u, cond, batch.mask)
                back()
                ahead = self.ahead(model)
                landed = process.land(between, belief(ahead, between, u, self.onward(u, s), cond, batch.mask), u, s)
                target = aim(process, z, landed, t, s)
            back()
            own = belief(model, z, t, s, cond, batch.mask)
        each = self.distance(own, target) * cast(self.weight(process, t, u, s), own).reshape(-1)
        loss = each.mean()
        return Loss(loss, {"loss": loss.detach()}, {"": t.reshape(-1).to(each.device)}, {"": each.detach()})
