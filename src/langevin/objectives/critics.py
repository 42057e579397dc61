"""Critics: small heads on the features that a frozen denoiser's network has of real and of made samples, both noised.

The hinge loss of a critic D is E max(0, 1 - D(real)) + E max(0, 1 + D(made)), 2 where the two laws are one; the generator's is
-E D(made). Both stand in one total whose gradients keep apart: the generator is judged by detached heads, and the critic sees
detached samples. So one optimiser and one checkpoint serve both.
"""

import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, home
from langevin.core.noise import Noise
from langevin.devices import seeded
from langevin.objectives.base import mean_over_elements


class Head(nn.Module):
    """Scores (B, P) of features (B, P, C), each position by itself; a projection on the label is added (1802.05637).

    Args:
        channels: C. width: inside.
        classes: of cond["label"]; None for no projection. A sample that is dropped, or has no label, has a class of its own.
    """

    def __init__(self, channels: int, width: int, classes: int | None) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(channels, elementwise_affine=False), nn.Linear(channels, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
        )  # fmt: skip
        self.leave = nn.Linear(width, 1)
        self.label = None if classes is None else nn.Embedding(classes + 1, width)

    def forward(self, features: Tensor, cond: Cond) -> Tensor:
        h = self.inner(features)
        score = self.leave(h)[..., 0]
        if self.label is None:
            return score
        null = self.label.num_embeddings - 1
        label = None if cond is None else cond.get("label")
        index = torch.full((len(h),), null, device=h.device) if label is None else label.long()
        if cond is not None and "drop" in cond:
            index = torch.where(cond["drop"], null, index)
        return score + (h * self.label(index)[:, None]).sum(-1) / math.sqrt(h.shape[-1])


class Critic(nn.Module):
    """One head on each of some modules of a network.

    Args:
        teacher: a learned denoiser of one Gaussian process, whose network is read.
        shape: of one sample.
        at: patterns of module names, joined by "|"; by default the network's main blocks: of the members of its lists of
            modules, the outermost that have weights and answer differently to different states.
        width: of the heads. classes: of the label; None for no projection.
        seed: of the first weights.

    Raises:
        ValueError: if the teacher has no network, or a pattern matches none of its modules.
    """

    def __init__(
        self, teacher: BaseDenoiser, shape: Any, at: str = "", width: int = 64, classes: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if not isinstance(teacher, Denoiser):
            raise ValueError(f"the teacher is a {type(teacher).__name__}; a critic reads the network of a learned Denoiser.")
        found = _read_modules(teacher, tuple(shape), at)
        self.names = list(found)
        with seeded(seed, torch.device("cpu")):  # the same heads, whatever was drawn before
            self.heads = nn.ModuleList(Head(channels, width, classes) for channels in found.values())

    def forward(self, features: Sequence[Tensor], cond: Cond) -> list[Tensor]:
        """Scores (B, P) of each head on features (B, P, C)."""
        return [head(f, cond) for head, f in zip(self.heads, features, strict=True)]

    def read(self, teacher: nn.Module, z: Tensor, t: Tensor, cond: Cond, mask: Tensor | None = None) -> list[Tensor]:
        """The teacher's features of z (B, *shape) at levels t, (B, P, C) each, in the dtype of the heads."""
        kept = _features(teacher, self.names, z, t, cond, mask)
        like = next(self.parameters())
        return [_positions(kept[name]).to(like.dtype) for name in self.names]

    def generator(self, teacher: nn.Module, z: Tensor, t: Tensor, cond: Cond, mask: Tensor | None = None) -> Tensor:
        """-D(z), (B,): a gradient for z and for none of the critic's weights."""
        still = {name: p.detach() for name, p in self.named_parameters()}
        scores = torch.func.functional_call(self, still, (self.read(teacher, z, t, cond, mask), cond))
        return _judged(scores, torch.neg, mask)

    def own(
        self, teacher: nn.Module, real: Tensor, made: Tensor, t: Tensor, cond: Cond, mask: Tensor | None = None, r1: float = 0.0
    ) -> Tensor:
        """The critic's hinge loss and r1 times its R1 penalty, (B,): a gradient for the critic's weights alone."""
        with torch.no_grad():
            of_real, of_made = (self.read(teacher, z.detach(), t, cond, mask) for z in (real, made))
        loss = hinge(self(of_real, cond), self(of_made, cond), mask)
        return loss + r1 * penalty(lambda f: self(f, cond), of_real, mask) if r1 else loss


def hinge(real: Sequence[Tensor], made: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + made) of scores (B, P) by head: means over positions, then over heads, (B,)."""
    return _judged(real, lambda d: F.relu(1 - d), mask) + _judged(made, lambda d: F.relu(1 + d), mask)


def penalty(critic: Callable[[list[Tensor]], Sequence[Tensor]], features: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """R1 on features (1801.04406, eq. 9, without its 1/2; ADD, 2311.17042, sec. 3.2): |d D / d features|^2 at each position of
    features (B, P, C), averaged over positions and heads, (B,)."""
    points = [f.detach().requires_grad_() for f in features]
    with torch.enable_grad():
        total = torch.stack([scores.sum() for scores in critic(points)]).sum()
        slopes = torch.autograd.grad(total, points, create_graph=True)
    return _judged(slopes, lambda g: g.square().sum(-1), mask)


def _judged(scores: Sequence[Tensor], loss: Callable[[Tensor], Tensor], mask: Tensor | None) -> Tensor:
    """The mean over positions that are real, then over heads, (B,)."""
    means = []
    for value in map(loss, scores):
        means.append(mean_over_elements(value, mask if mask is not None and mask.shape == value.shape else None))
    return torch.stack(means).mean(0)


def _positions(f: Tensor) -> Tensor:
    """Features of vectors (B, C), tokens (B, L, C) or grids (B, C, ...) as (B, P, C)."""
    if f.ndim == 2:
        return f[:, None]
    return f if f.ndim == 3 else f.flatten(2).transpose(1, 2)


def _features(
    denoiser: nn.Module, names: Sequence[str], z: Tensor, t: Tensor, cond: Cond, mask: Tensor | None
) -> dict[str, Tensor]:
    """What modules of the network answered, by name; of a module that is called again, the last."""
    modules, kept = dict(denoiser.net.named_modules()), {}  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: kept.__setitem__(name, out)

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        denoiser(z, t, cond, mask)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


@torch.no_grad()
def _read_modules(teacher: Denoiser, shape: tuple[int, ...], at: str) -> dict[str, int]:
    """Channels of the modules to read, by name."""
    modules = dict(teacher.net.named_modules())
    if at:
        chosen = [n for n in modules if n and any(fnmatch.fnmatchcase(n, pattern) for pattern in at.split("|"))]
    else:
        lists = {n for n, m in modules.items() if isinstance(m, nn.ModuleList)}
        chosen = [n for n, m in modules.items() if n.rpartition(".")[0] in lists and next(m.parameters(), None) is not None]
    device, dtype = home(teacher)
    z = Noise.of(0, 2, device=device).at("probe").normal(shape, dtype or torch.float32)
    kept = _features(teacher, chosen, z, torch.full((2,), 0.5, dtype=torch.float64), None, None)
    told = {
        n: f
        for n, f in kept.items()
        if isinstance(f, Tensor) and f.is_floating_point() and f.ndim > 1 and len(f) == 2 and not torch.equal(f[0], f[1])
    }
    found = {
        n: _positions(told[n]).shape[-1] for n in chosen if n in told and not any(n.startswith(f"{m}.") for m in told if m != n)
    }
    if not found:
        raise ValueError(
            f"at is {at!r}, which finds no module of the teacher's network that answers for its state; "
            f"give patterns of names such as {', '.join([n for n in modules if n][:3])}."
        )
    return found
