"""How levels, conditions and positions become vectors.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import zero
from langevin.networks.blocks.norms import RMSNorm
from langevin.networks.linear import Linear

Cond = Mapping[str, Tensor] | None


def sinusoid(value: Tensor, width: int, longest: float = 10000.0, shift: float = 0.0, sines_first: bool = False) -> Tensor:
    """value (...) -> (..., width): cosines, then sines, of value over geometrically spaced periods (1706.03762).

    Args:
        shift: 1 where the longest period is the last one, 0 where it would be the next.
        sines_first: the other order.
    """
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=value.device, dtype=torch.float32) / (half - shift))
    angle = value.float()[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()] if sines_first else [angle.cos(), angle.sin()], dim=-1)


class Sinusoid(nn.Module):
    """`sinusoid` with the order and the periods of a published network: value (...) -> (..., features)."""

    def __init__(self, features: int, shift: float = 0.0, sines_first: bool = False) -> None:
        super().__init__()
        self.features, self.shift, self.sines_first = features, shift, sines_first

    def forward(self, value: Tensor) -> Tensor:
        return sinusoid(value, self.features, shift=self.shift, sines_first=self.sines_first)


class Fourier(nn.Module):
    """sigma (...) -> (..., features): sines, then cosines, of ln(sigma) at frequencies drawn once (2006.10739; NCSN++,
    2011.13456, app. C.2).

    Args:
        scale: standard deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(self, features: int, scale: float = 16.0) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("frequencies", nn.init.normal_(torch.empty(features // 2), std=scale))

    def forward(self, value: Tensor) -> Tensor:
        # what is known has the level 0, whose logarithm no number holds
        angle = value.float().clamp(min=1e-20).log()[..., None] * self.frequencies.float() * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


Waves = Sinusoid | Fourier


class LevelEmbedding(nn.Module):
    """level (...) -> (..., E) by sinusoids and a two-layer network.

    Args:
        guidance: features of an embedding of the strength of guidance that enters beside the sinusoids; None for none
            (latent consistency, 2310.04378, app. D).
        waves: in place of `inner` sinusoids.
    """

    def __init__(
        self, width: int, inner: int = 256, zero_out: bool = False, guidance: int | None = None, waves: Waves | None = None
    ) -> None:
        super().__init__()
        self.waves = Sinusoid(inner) if waves is None else waves
        inner = self.waves.features
        self.first, self.second = Linear(inner, width), Linear(width, width)
        self.guidance = None if guidance is None else Linear(guidance, inner, bias=False)
        if zero_out:
            zero(self.second)

    def forward(self, level: Tensor, guidance: Tensor | None = None) -> Tensor:
        """guidance (..., features), as `LevelEmbedding(guidance=features)` was told."""
        waves = self.waves(level).to(self.first.weight.dtype)
        if self.guidance is not None and guidance is not None:
            waves = waves + self.guidance(guidance.to(waves.dtype))
        return self.second(F.silu(self.first(waves)))


class Conditions(nn.Module):
    """cond -> (a vector (B, E) to add to the level's embedding, tokens (B, L, E) to attend to, or None).

    Conditions are "label" (B,) int64, or its vectors (B, E), and "tokens" (B, L, features). Samples in cond["drop"], and all
    samples when cond is None, get the learned null condition. `scalars` names numbers (B,) that are embedded as the level is,
    such as "span" (how far a flow map leaps) or "guidance"; a network that is given them knows nothing of them yet, and one that
    is not given a value leaves it out.

    Args:
        waves: with which scalars are embedded, in place of sinusoids.
        null: False for published networks that learned none: every condition must then be given.
    """

    def __init__(
        self,
        width: int,
        classes: int | None = None,
        tokens: int | None = None,
        scalars: Sequence[str] = (),
        waves: Waves | None = None,
        null: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.width, self.learned_null = classes, width, null
        self.label = None if classes is None else nn.Embedding(classes + null, width)
        self.tokens = None if tokens is None else Linear(tokens, width)
        self.null = None if tokens is None else nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.scalars = nn.ModuleDict({n: LevelEmbedding(width, min(width, 256), zero_out=True, waves=waves) for n in scalars})
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    @property
    def names(self) -> list[str]:
        return [*(n for n, m in (("label", self.label), ("tokens", self.tokens)) if m is not None), *self.scalars]

    def _labels(self, label: Tensor, batch: int) -> Tensor:
        if label.shape != (batch,) or label.dtype.is_floating_point:
            raise ValueError(f"label is {label.dtype} of shape {tuple(label.shape)}; give ({batch},) integers, or vectors.")
        label = label.long()
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_label(label, self.classes or 0)
            return label
        # on a GPU the check would wait for the device, in a compiled network it would cut the graph. The row after the last class
        # is the null: a label beyond the last is moved past that, where the table itself has an end and says so
        return label + (label >= (self.classes or 0))

    def check_conditions(self, cond: Cond) -> None:
        """Refuse labels that are no classes; to be asked while they are on the host, for on a GPU nobody looks."""
        if self.classes is not None:
            _check_labels_of(cond, self.classes)

    def forward(self, cond: Cond, batch: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        cond = cond or {}
        refuse_unknown({name: value for name, value in cond.items() if name != "drop"}, self.names)
        drop = cond.get("drop")
        if not self.learned_null and (drop is not None or any(name not in cond for name in self.names)):
            raise ValueError(
                f"this network learned no null condition, and needs {', '.join(self.names)} of every sample; "
                "guide it away from other conditions, with CFG(w, null=...)."
            )
        vector = context = None
        if self.label is not None and self.classes is not None:
            index = cond.get("label")
            if index is not None and index.is_floating_point() and index.shape == (batch, self.width):
                vector = index if drop is None else torch.where(drop[:, None], self.label.weight[-1].to(index), index)
            else:
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


class Captions(nn.Module):
    """cond -> (a vector (B, E) to add to the level's embedding, tokens (B, L, E) to attend to, their mask): texts pass two
    layers as they enter (PixArt, 2310.00426, sec. 2.3). There is no null: such models are guided away from other texts.

    Conditions are "tokens" (B, L, D) with "tokens_mask" (B, L) bool; "size" (B, 2), height and width in pixels, and "aspect"
    (B, 1), height over width, where there are `sizes`; "guidance" (B,) where its strength is embedded.

    Args:
        width: E.
        tokens: D.
        sizes: whether size and aspect enter, each number a third of the embedding.
        norm: eps of a root mean square norm of the entered tokens, None for none.
        guidance: what the strength of guidance is multiplied by before it is embedded; None for none.
    """

    def __init__(
        self, width: int, tokens: int, sizes: bool = False, norm: float | None = None, guidance: float | None = None
    ) -> None:
        super().__init__()
        if sizes and width % 3:
            raise ValueError(f"width is {width}, and three numbers share it; make it a multiple of 3.")
        self.tokens, self.scale = tokens, guidance
        self.enter = nn.Sequential(Linear(tokens, width), nn.GELU(approximate="tanh"), Linear(width, width))
        self.norm = None if norm is None else RMSNorm(width, norm)
        self.size = LevelEmbedding(width // 3) if sizes else None
        self.aspect = LevelEmbedding(width // 3) if sizes else None
        self.guidance = None if guidance is None else LevelEmbedding(width)

    @property
    def names(self) -> list[str]:
        sizes = ["size", "aspect"] if self.size is not None else []
        return ["tokens", "tokens_mask", *sizes, *(["guidance"] if self.guidance is not None else [])]

    def forward(self, cond: Cond, batch: int, device: torch.device) -> tuple[Tensor | None, Tensor, Tensor | None]:
        given = _needed(cond, self.names, {"tokens_mask"})
        vector = None
        if self.size is not None and self.aspect is not None:
            numbers = [self.size(given["size"]), self.aspect(given["aspect"])]
            vector = torch.cat([entered.flatten(1) for entered in numbers], dim=-1)
        if self.guidance is not None and self.scale is not None:
            strength = self.guidance(self.scale * given["guidance"].float())
            vector = strength if vector is None else vector + strength
        tokens, there = given["tokens"], given["tokens"].shape[-1]
        if there != self.tokens:
            raise ValueError(f"tokens have {there} features, this network reads {self.tokens}; encode text as it learned.")
        entered = self.enter(tokens.to(cast(Linear, self.enter[0]).weight.dtype))
        return vector, entered if self.norm is None else self.norm(entered), given.get("tokens_mask")


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

    def check_conditions(self, cond: Cond) -> None:
        """As `Conditions.check_conditions`."""
        if self.label is not None:
            _check_labels_of(cond, self.label.num_embeddings)

    def forward(self, cond: Cond, batch: int) -> tuple[Tensor | None, Tensor, Tensor | None]:
        given = _needed(cond, self.names, {"tokens_mask"})
        vector = None if self.label is None else self.label(given["label"].long())
        if self.added is not None and self.first is not None and self.second is not None:
            sizes = sinusoid(given["size"], self.added.width).flatten(1)
            features = torch.cat([given["pooled"], sizes.to(given["pooled"].dtype)], dim=-1)
            entered = self.second(F.silu(self.first(features.to(self.first.weight.dtype))))
            vector = entered if vector is None else vector + entered
        return vector, given["tokens"], given.get("tokens_mask")


def _check_labels_of(cond: Cond, classes: int) -> None:
    label = None if cond is None else cond.get("label")
    if label is not None and not label.is_floating_point():
        _check_label(label, classes)


def _check_label(label: Tensor, classes: int) -> None:
    if label.device.type == "cpu" and label.numel() and not (int(label.min()) >= 0 and int(label.max()) < classes):
        raise ValueError(f"label spans {int(label.min())} .. {int(label.max())}; classes run from 0 to {classes - 1}.")


def _needed(cond: Cond, names: Sequence[str], optional: Collection[str]) -> Mapping[str, Tensor]:
    """The conditions of a network that needs all of `names` but the optional ones."""
    given = cond or {}
    refuse_unknown(given, names)
    for name in names:
        if name not in given and name not in optional:
            raise ValueError(f"this network reads the condition {name!r}, which is missing; give it, (B, ...).")
    return given


def refuse_unknown(cond: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse a condition that is none of `names`: guidance towards it would be nothing without a word."""
    for name in cond:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0)
            hint = f"did you mean {near[0]!r}? Leave it out, " if near else "leave it out, "
            raise ValueError(
                f"this network takes no condition {name!r}; {hint}or build the network with classes=, tokens= or scalars=."
            )


def grid_positions(height: int, width: int, features: int) -> Tensor:
    """(height * width, features): 2D sinusoids, half of the features for each axis."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    half = features // 2
    return torch.cat([sinusoid(rows.flatten(), half), sinusoid(columns.flatten(), features - half)], dim=-1)


def stretched_positions(height: int, width: int, features: int, span: float) -> Tensor:
    """(height * width, features): sinusoids of the column, then of the row, each sines and then cosines. Positions run over
    0 .. span along both sides, whatever the number of rows and columns (2310.00426, sec. 2.4); float32, from float64."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(features // 4, dtype=torch.float64) / (features // 4))

    def waves(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64)[:, None] * (span / count) * rates
        return torch.cat([angle.sin(), angle.cos()], -1).float()

    both = waves(width).expand(height, -1, -1), waves(height)[:, None].expand(-1, width, -1)
    return torch.cat(both, -1).flatten(0, 1)


def kept_positions(height: int, width: int, features: int, span: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`stretched_positions`, kept per arguments; compilers keep it themselves."""
    if torch.compiler.is_compiling():
        return stretched_positions(height, width, features, span).to(device, dtype)
    return _kept_positions(height, width, features, span, device, dtype)


@lru_cache(maxsize=32)
def _kept_positions(height: int, width: int, features: int, span: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.device("cpu"):  # training could not use a table kept from inference
        return stretched_positions(height, width, features, span).to(device, dtype)


def rope_table(length: int, features: int, device: torch.device, longest: float = 10000.0) -> Tensor:
    """Rotations of pairs of features by positions 0 .. length - 1 (RoFormer, 2104.09864, eq. 34).

    Returns:
        (length, features / 2, 2): cosine and sine of position * longest ** (-2 i / features), float32 whatever the network's
        dtype, from angles in float64: bfloat16 knows an angle of 1000 to 2 radians only. Kept per arguments.

    Raises:
        ValueError: if features is odd.
    """
    if features % 2:
        raise ValueError(f"features is {features}; rotations turn pairs, make it even.")
    if torch.compiler.is_compiling():
        return _rope_table(length, features, device, longest)
    return _kept_rope_table(length, features, device, longest)


def _rope_table(length: int, features: int, device: torch.device, longest: float) -> Tensor:
    rates = longest ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float().to(device)


@lru_cache(maxsize=32)
def _kept_rope_table(length: int, features: int, device: torch.device, longest: float) -> Tensor:
    with torch.inference_mode(False), torch.device("cpu"):  # training could not use a table kept from inference
        return _rope_table(length, features, device, longest)


def rope_grid(height: int, width: int, features: Sequence[int], device: torch.device) -> Tensor:
    """Rotations of pictures' tokens, row by row: (height * width, sum(features) / 2, 2), the first features turned by the row,
    the next by the column."""
    rows, columns = (rope_table(n, f, device) for n, f in zip((height, width), features, strict=True))
    both = (rows[:, None].expand(-1, width, -1, -1), columns.expand(height, -1, -1, -1))
    return torch.cat(both, dim=-2).flatten(0, 1)


def rotated(x: Tensor, rope: Tensor) -> Tensor:
    """x (B, L, heads, d) with neighbouring features (2 i, 2 i + 1) turned by rope (B or 1, L, d / 2, 2), in float32."""
    pairs = (x if x.dtype == torch.float64 else x.float()).unflatten(-1, (-1, 2))
    turn = rope[:, :, None]
    if torch.compiler.is_compiling():  # compilers know no complex numbers; elsewhere they are one pass over memory, not seven
        (a, b), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        out = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:
        out = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return out.flatten(-2).to(x.dtype)
