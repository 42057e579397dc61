"""Classifier-free guidance (2207.12598), in the convention belief = null + w (conditional - null).

The paper's own w is ours minus 1. For means this extrapolates means; for categories it extrapolates logits, which is
the distribution p(x|c)^w p(x)^(1-w), normalised.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from langevin.condition_use import RecordingCond, compiled, warn_if_drop_ignored
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, check_entries, dropped
from langevin.core.posterior import Belief, GaussianPosterior, lerp
from langevin.core.tree import leaves, tree, tree_map
from langevin.guidance.means import free_of, with_mean
from langevin.guidance.wrapped import Wrapped

Change = Callable[[GaussianPosterior, GaussianPosterior, Tensor | None], GaussianPosterior]


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance, one batched call of twice the batch per evaluation.

    Args:
        w: strength; 1 is unguided, 0 unconditional.
        interval: levels (low, high) within which to guide; elsewhere w is 1 and the call is half the size (2404.07724), but where
            the guided denoiser is compiled.
        rescale: 0 to 1, how far the deviation of each guided mean is pulled back to the conditional's (2305.08891, sec. 3.4),
            over what is neither known nor padding.
        of: "mean" rescales the belief's mean; "output" what the network says, as published pipelines do (for one Gaussian process
            and a learned denoiser).
        norm: of what the network says under guidance: "sample" scales it down to the conditional's where it is longer (Lumina 2),
            "rows" scales each row of pixels to the conditional's length (diffusers' form of it); "" leaves it.
        null: conditions by name of the half that is guided away from, such as a negative prompt's, (B, ...) or (1, ...) for all
            samples alike; those not named are the first half's own. By default the network's learned null.

    Raises:
        ValueError: if the interval is empty or rescale leaves [0, 1].
    """

    w: float
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    of: str = "mean"
    null: Cond = field(default=None, compare=False, repr=False)
    norm: str = ""

    def __post_init__(self) -> None:
        check_strength(self.w, self.interval)
        check_entries(self.null, field="null")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale is {self.rescale}; it lies in [0, 1], 0 for none.")

        if self.of not in ("mean", "output"):
            raise ValueError(f"of is {self.of!r}; rescale acts on the 'mean' of a belief, or on the 'output' of the network.")

        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; there are {', '.join(map(repr, NORMS))}.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        kinds = [leaf.kind for leaf in denoiser.process.leaves().values()]
        if self.norm and not isinstance(denoiser, Denoiser):
            raise ValueError(f"norm is {self.norm!r} of a network's output, and this denoiser has none of its own; leave it out.")
        if self.rescale and "categorical" in kinds:
            raise ValueError("rescale acts on the deviation of means, and this process has a categorical leaf; set rescale=0.")
        if self.rescale and self.of == "output" and not isinstance(denoiser, Denoiser):
            raise ValueError("of is 'output', and this denoiser has no network of its own; guide a Denoiser, or take of='mean'.")
        if (self.norm or (self.rescale and self.of == "output")) and kinds != ["gaussian"]:
            raise ValueError(f"norm and of='output' are of one Gaussian process, and this has {len(kinds)}; take of='mean'.")
        return _ClassifierFree(denoiser, self)


def check_strength(w: float, interval: tuple[float, float]) -> None:
    """Refuse a strength that is no number, and levels that are no interval."""
    if not hasattr(w, "__float__"):  # CFG itself in place of CFG(2.0), among others
        raise ValueError(f"w is a {type(w).__name__}; give a strength, such as CFG(2.0), 1 for none.")
    if not math.isfinite(w):
        raise ValueError(f"w is {w}; give a finite strength, 1 for none.")
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"interval is {interval}; give levels (low, high) with 0 <= low < high <= 1.")


def inside(interval: tuple[float, float], level: Tensor) -> Tensor:
    """Which of these levels are to be guided at."""
    low, high = interval
    return (level >= low) & (level <= high)


def outside(interval: tuple[float, float], level: Tensor) -> bool:
    """Whether there is nothing to guide at these levels. A compiler cannot ask, nor can a graph of a GPU of levels there."""
    if interval == (0.0, 1.0) or torch.compiler.is_compiling():
        return False
    if level.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not bool(inside(interval, level).any())


class Apart(Protocol):
    """What a guidance away from a null condition says of itself: see `CFG`."""

    @property
    def w(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def null(self) -> Cond: ...


class Halves(Wrapped):
    """A denoiser guided away from a null condition: both beliefs in one call of twice the batch, and `between` makes one of them.
    Where w is 1, or no level is within the interval, it is the denoiser itself."""

    def __init__(self, denoiser: BaseDenoiser, guidance: Apart) -> None:
        super().__init__(denoiser, guidance)
        self.null = guidance.null
        self.drop_checked = guidance.null is not None or compiled(denoiser)

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        g = self.guidance
        if g.w == 1 or all(outside(g.interval, level) for level in t.values()):
            return self.denoiser(tree(z), tree(t), cond, mask)
        weights = {name: self._weight(level) for name, level in t.items()}
        batch, device = len(next(iter(z.values()))), next(iter(z.values())).device
        two_z, two_t = tree_map(lambda a: torch.cat([a, a]), z), tree_map(_double, t)
        if self.null is not None and any(v.device != device for v in self.null.values()):
            # once: copies from the host wait for a GPU, and a graph of it cannot hold them
            self.null = {name: value.to(device) for name, value in self.null.items()}
        both = twice(cond, batch, device) if self.null is None else against(cond, self.null, batch)
        both_masks = None if mask is None else torch.cat([mask, mask])
        if self.drop_checked or both is None or torch.compiler.is_compiling():
            belief = self.denoiser(tree(two_z), tree(two_t), both, both_masks)
        else:  # at the first evaluation, by what the network looks at: nothing waits for the device
            recorded, self.drop_checked = RecordingCond(both), True
            belief = self.denoiser(tree(two_z), tree(two_t), recorded, both_masks)
            warn_if_drop_ignored(recorded, "classifier-free guidance does nothing", 5)
        conditional = tree_map(lambda p: _half(p, slice(None, batch)), belief)
        null = tree_map(lambda p: _half(p, slice(batch, None)), belief)
        return self.between(null, conditional, weights, tree(z), tree(t), mask)

    @abstractmethod
    def between(self, null: Any, conditional: Any, weights: dict[str, Tensor], z: Any, t: Any, mask: Tensor | None) -> Belief:
        """The guided belief, of the two and a weight for each leaf that broadcasts against its levels."""

    def _weight(self, level: Tensor) -> Tensor:
        return torch.where(inside(self.guidance.interval, level), torch.full_like(level, self.guidance.w), 1.0)


class _ClassifierFree(Halves):
    guidance: CFG

    def between(self, null: Any, conditional: Any, weights: dict[str, Tensor], z: Any, t: Any, mask: Tensor | None) -> Belief:
        g = self.guidance
        guided = lerp(null, conditional, tree(weights))
        if g.norm:
            guided = self._by_output(guided, conditional, z, t, mask, NORMS[g.norm])
        if not g.rescale:
            return guided
        if g.of == "output":
            return self._by_output(guided, conditional, z, t, mask, lambda a, b, free: _rescaled(a, b, g.rescale, free))
        free = {n: free_of(leaf, leaves(z)[n], leaves(t)[n], mask) for n, leaf in self.process.leaves().items()}
        return tree_map(lambda a, b, f: _rescaled(a, b, g.rescale, f), guided, conditional, tree(free))

    def _by_output(self, guided: Any, conditional: Any, z: Any, t: Any, mask: Tensor | None, change: Change) -> Belief:
        assert isinstance(self.denoiser, Denoiser)
        prediction, process = cast(Any, self.denoiser.predictions)[""], self.process
        said = [prediction.output(process, b.mean, z, t) for b in (guided, conditional)]
        free = free_of(process.leaves()[""], z, t, mask)
        if free is not None:  # the network says nothing of what is known, nor of padding
            said = [torch.where(free, s, 0.0) for s in said]
        changed = change(GaussianPosterior(said[0]), GaussianPosterior(said[1]), free).mean
        if free is None:
            return prediction.posterior(process, changed, z, t)
        belief = prediction.posterior(process, torch.where(free, changed, 0.0), z, t)
        return with_mean(belief, torch.where(free, belief.mean, guided.mean))


def _double(level: Tensor) -> Tensor:
    return level if level.ndim == 0 or len(level) == 1 else torch.cat([level, level])


def _half(posterior: Any, part: slice) -> Any:
    held = {f.name: getattr(posterior, f.name) for f in dataclasses.fields(posterior)}
    return dataclasses.replace(posterior, **{name: value[part] for name, value in held.items() if value is not None})


def _deviation(x: Tensor, axes: tuple[int, ...], free: Tensor | None) -> Tensor:
    """Over the elements marked free, 1 where these are not two; over all where none is marked."""
    if free is None:
        return x.std(axes, keepdim=True)
    count, dtype = free.sum(axes, keepdim=True), x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))  # sums over a sample
    off = torch.where(free, x - (x * free).sum(axes, keepdim=True) / count.clamp(min=1), 0.0)
    return torch.where(count > 1, (off.square().sum(axes, keepdim=True) / (count - 1).clamp(min=1)).sqrt(), 1.0).to(dtype)


def _rescaled(
    guided: GaussianPosterior, conditional: GaussianPosterior, amount: float, free: Tensor | None = None
) -> GaussianPosterior:
    if guided.mean[0].numel() < 2:
        return guided  # one number has no deviation
    axes = tuple(range(1, guided.mean.ndim))
    ratio = _deviation(conditional.mean, axes, free) / _deviation(guided.mean, axes, free).clamp(min=1e-12)
    mean = guided.mean * (amount * ratio + (1 - amount))
    return with_mean(guided, mean if free is None else torch.where(free, mean, guided.mean))


def _no_longer(guided: GaussianPosterior, conditional: GaussianPosterior, free: Tensor | None = None) -> GaussianPosterior:
    own, wanted = (p.mean.flatten(1).norm(dim=1) for p in (guided, conditional))
    factor = (wanted / own.clamp(min=1e-12)).clamp(max=1.0)
    return with_mean(guided, guided.mean * factor.reshape(-1, *[1] * (guided.mean.ndim - 1)))


def _as_long_by_rows(guided: GaussianPosterior, conditional: GaussianPosterior, free: Tensor | None = None) -> GaussianPosterior:
    own, wanted = (p.mean.norm(dim=-1, keepdim=True) for p in (guided, conditional))
    return with_mean(guided, guided.mean * (wanted / own))


NORMS: dict[str, Any] = {"": None, "sample": _no_longer, "rows": _as_long_by_rows}


def against(cond: Cond, null: Cond, batch: int) -> Cond:
    """Conditions for one call that answers with `cond` and, in the second half of the batch, with `null`.

    Raises:
        ValueError: if they differ in names or shapes.
    """
    cond, null = cond or {}, null or {}
    if unknown := set(null) - set(cond):
        raise ValueError(f"null has the condition {min(unknown)!r} and cond does not; name it in both.")
    both = {}
    for name, value in cond.items():
        other = null.get(name, value)
        if len(other) not in (1, batch) or other.shape[1:] != value.shape[1:]:
            raise ValueError(
                f"null[{name!r}] has shape {tuple(other.shape)} where the condition has {tuple(value.shape)}; make them agree."
            )
        both[name] = torch.cat([value, other.to(value).expand_as(value)])
    return both


def twice(cond: Cond, batch: int, device: torch.device) -> Cond:
    """Conditions for one call that answers with them and, in the second half of the batch, without."""
    if not set(cond or ()) - {"to", "drop"}:
        raise ValueError("classifier-free guidance has no condition to strengthen; pass cond=, or leave guidance out.")
    assert cond is not None
    second = torch.arange(2 * batch, device=device) >= batch
    return dropped({name: torch.cat([c, c]) for name, c in cond.items()}, second)
