"""How levels, conditions and positions become vectors.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import zero
from langevin.networks.linear import Linear

Cond = Mapping[str, Tensor] | None


def sinusoid(value: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """value (...) -> (..., width): cosines, then sines, of value over geometrically spaced periods (1706.03762)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LevelEmbedding(nn.Module):
    """level (...) -> (..., E) by sinusoids and a two-layer network.

    Args:
        guidance: features of an embedding of the strength of guidance that enters beside the sinusoids; None for none
            (latent consistency, 2310.04378, app. D).
    """

    def __init__(self, width: int, inner: int = 256, zero_out: bool = False, guidance: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.first, self.second = Linear(inner, width), Linear(width, width)
        self.guidance = None if guidance is None else Linear(guidance, inner, bias=False)
        if zero_out:
            zero(self.second)

    def forward(self, level: Tensor, guidance: Tensor | None = None) -> Tensor:
        """guidance (..., features), as `LevelEmbedding(guidance=features)` was told."""
        waves = sinusoid(level, self.inner).to(self.first.weight.dtype)
        if self.guidance is not None and guidance is not None:
            waves = waves + self.guidance(guidance.to(waves.dtype))
        return self.second(F.silu(self.first(waves)))


class Conditions(nn.Module):
    """cond -> (a vector (B, E) to add to the level's embedding, tokens (B, L, E) to attend to, or None).

    Conditions are "label" (B,) int64 and "tokens" (B, L, features). Samples in cond["drop"], and all samples when cond is
    None, get the learned null condition. `scalars` names numbers (B,) that are embedded as the level is, such as "span" (how
    far a flow map leaps) or "guidance"; a network that is given them knows nothing of them yet, and one that is not given a
    value leaves it out.
    """

    def __init__(self, width: int, classes: int | None = None, tokens: int | None = None, scalars: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.label = None if classes is None else nn.Embedding(classes + 1, width)
        self.tokens = None if tokens is None else Linear(tokens, width)
        self.null = None if tokens is None else nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.scalars = nn.ModuleDict({name: LevelEmbedding(width, min(width, 256), zero_out=True) for name in scalars})
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    @property
    def names(self) -> list[str]:
        return [*(n for n, m in (("label", self.label), ("tokens", self.tokens)) if m is not None), *self.scalars]

    def _labels(self, label: Tensor, batch: int) -> Tensor:
        if label.shape != (batch,) or label.dtype.is_floating_point:
            raise ValueError(f"label is {label.dtype} of shape {tuple(label.shape)}; give ({batch},) integers.")
        # on a GPU the check would wait for the device, in a compiled network it would cut the graph
        checked = label.device.type == "cpu" and not torch.compiler.is_compiling()
        if checked and not (int(label.min()) >= 0 and int(label.max()) < (self.classes or 0)):
            last = (self.classes or 0) - 1
            raise ValueError(f"label spans {int(label.min())} .. {int(label.max())}; classes run from 0 to {last}.")
        return label.long()

    def forward(self, cond: Cond, batch: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        cond = cond or {}
        refuse_unknown({name: value for name, value in cond.items() if name != "drop"}, self.names)
        drop = cond.get("drop")
        vector = context = None
        if self.label is not None and self.classes is not None:
            index = cond.get("label")
            index = torch.full((batch,), self.classes, device=device) if index is None else self._labels(index, batch)
            index = index if drop is None else torch.where(drop, self.classes, index)
            vector = self.label(index)
        for name, embedding in self.scalars.items():
            if name in cond:
                if cond[name].shape != (batch,):
                    raise ValueError(f"{name} has shape {tuple(cond[name].shape)}; give one number for each of {batch} samples.")
                entered = embedding(cond[name])
                vector = entered if vector is None else vector + entered
        if self.tokens is not None and self.null is not None:
            if "tokens" in cond:
                context = self.tokens(cond["tokens"])
                if drop is None and self.training:  # a gradient of 0 rather than none, which replicas would wait for
                    drop = torch.zeros(batch, dtype=torch.bool, device=device)
                context = context if drop is None else torch.where(drop[:, None, None], self.null, context)
            else:
                context = self.null.expand(batch, -1, -1)
        return vector, context


@dataclass(frozen=True)
class Added:
    """Conditions that SDXL adds to the level's embedding (2307.01952, sec. 2.2).

    Args:
        pooled: features of cond["pooled"].
        numbers: in cond["size"]: original height and width, the crop's top and left, target height and width; the refiner has an
            aesthetic score in place of the target.
        width: of the sinusoids of each number.
    """

    pooled: int
    numbers: int = 6
    width: int = 256


class TextConditions(nn.Module):
    """cond -> (a vector (B, E) to add to the level's embedding, tokens (B, L, D) as they are, their mask), without a null of its
    own: models of this kind are guided away from other texts, such as the empty one (`CFG(w, null=...)`).

    Conditions are "tokens" (B, L, D) with "tokens_mask" (B, L) bool; "label" (B,) int64 where there are classes, such as the
    levels of noise of an upscaler; "pooled" (B, P) and "size" (B, n) where something is `added`.
    """

    def __init__(self, width: int, classes: int | None = None, added: Added | None = None) -> None:
        super().__init__()
        self.label = None if classes is None else nn.Embedding(classes, width)
        self.added = added
        features = 0 if added is None else added.pooled + added.numbers * added.width
        self.first = None if added is None else Linear(features, width)
        self.second = None if added is None else Linear(width, width)

    @property
    def names(self) -> list[str]:
        more = ["label"] if self.label is not None else []
        return ["tokens", "tokens_mask", *more, *(["pooled", "size"] if self.added is not None else [])]

    def forward(self, cond: Cond, batch: int) -> tuple[Tensor | None, Tensor, Tensor | None]:
        given = cond or {}
        refuse_unknown(given, self.names)
        for name in self.names:
            if name not in given and name != "tokens_mask":
                raise ValueError(f"this network reads the condition {name!r}, which is missing; give it, (B, ...).")
        vector = None if self.label is None else self.label(given["label"].long())
        if self.added is not None and self.first is not None and self.second is not None:
            sizes = sinusoid(given["size"], self.added.width).flatten(1)
            features = torch.cat([given["pooled"], sizes.to(given["pooled"].dtype)], dim=-1)
            entered = self.second(F.silu(self.first(features.to(self.first.weight.dtype))))
            vector = entered if vector is None else vector + entered
        return vector, given["tokens"], given.get("tokens_mask")


def refuse_unknown(cond: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse a condition that is none of `names`: guidance towards it would be nothing without a word."""
    for name in cond:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0)
            hint = f"did you mean {near[0]!r}?" if near else "build the network with classes=, tokens= or scalars=."
            raise ValueError(f"this network takes no condition {name!r}; {hint}")


def grid_positions(height: int, width: int, features: int) -> Tensor:
    """(height * width, features): 2D sinusoids, half of the features for each axis."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    half = features // 2
    return torch.cat([sinusoid(rows.flatten(), half), sinusoid(columns.flatten(), features - half)], dim=-1)
