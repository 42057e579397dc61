"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
A level is (B,), or broadcastable to z where it differs within a sample; embeddings then carry the extra axes.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langevin.networks.linear import Linear, transformed

Cond = Mapping[str, Tensor] | None

# below this many numbers the second computation costs more than the memory is worth
LEAST_RECOMPUTED = 2**17


def recomputed(function: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Tensor:
    """function(x, *rest), computed again in the backward pass instead of keeping what lies between.

    For norms, activations and modulations, which cost next to nothing beside products and convolutions, and whose
    intermediate values are otherwise a quarter of what a backward pass needs. A compiler decides on this by itself.
    """
    if not torch.is_grad_enabled() or x.numel() < LEAST_RECOMPUTED or torch.compiler.is_compiling() or transformed():
        return function(x, *rest)
    out = checkpoint(function, x, *rest, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(out, Tensor)
    return out


def zero(module: nn.Module) -> nn.Module:
    """The module with all parameters 0, so that a residual branch starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def sinusoid(value: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """value (...) -> (..., width): cosines, then sines, of value over geometrically spaced periods (1706.03762)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LevelEmbedding(nn.Module):
    """level (...) -> (..., E) by sinusoids and a two-layer network."""

    def __init__(self, width: int, inner: int = 256, zero_out: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.first, self.second = Linear(inner, width), Linear(width, width)
        if zero_out:
            zero(self.second)

    def forward(self, level: Tensor) -> Tensor:
        waves = sinusoid(level, self.inner).to(self.first.weight.dtype)
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
        for name in cond:
            if name not in (*self.names, "drop"):
                near = difflib.get_close_matches(name, self.names, 1, 0)
                hint = f"did you mean {near[0]!r}?" if near else "build the network with classes=, tokens= or scalars=."
                raise ValueError(f"this network takes no condition {name!r}; {hint}")
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


class Attention(nn.Module):
    """Multi-head attention of x (B, L, D) to itself, or to context (B, M, E)."""

    def __init__(self, width: int, heads: int, context: int | None = None, zero_out: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width} for {heads} heads; make width a multiple of heads.")
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(width if context is None else context, 2 * width)
        self.out = zero(Linear(width, width)) if zero_out else Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask (B, M) bool, True where attended to."""
        source = x if context is None else context
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        keep = None if mask is None else mask[:, None, None, :]
        h = _attend(q, k, v, keep)
        return self.out(h.transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with heads as the second axis; written out where torch's own lacks a forward derivative."""
    if not transformed():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if keep is None else scores.masked_fill(~keep, -math.inf)
    return scores.softmax(-1) @ v


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; the embedding enters; norm, SiLU, conv. x (B, C, H, W), emb (B, 1 or H, 1 or W, E).

    Args:
        time: "scale_shift" modulates the second norm, "add" adds to its input.
    """

    def __init__(self, channels: int, out: int, emb: int, dropout: float, time: str) -> None:
        super().__init__()
        if time not in ("scale_shift", "add"):
            raise ValueError(f"time is {time!r}; the level enters by 'scale_shift' or 'add'.")
        self.time = time
        self.norm1, self.conv1 = group_norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.emb = Linear(emb, 2 * out if time == "scale_shift" else out)
        self.norm2, self.conv2 = group_norm(out), zero(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(recomputed(lambda x: F.silu(self.norm1(x)), x))
        e = self.emb(emb).permute(0, 3, 1, 2)
        h = recomputed(self._enter, h, e)
        return self.skip(x) + self.conv2(self.dropout(h))

    def _enter(self, h: Tensor, e: Tensor) -> Tensor:
        if self.time == "add":
            return F.silu(self.norm2(h + e))
        scale, shift = e.chunk(2, dim=1)
        return F.silu(self.norm2(h) * (1 + scale) + shift)


class SpatialAttention(nn.Module):
    """Attention over the pixels of (B, C, H, W), to themselves and then, if given, to context tokens."""

    def __init__(self, channels: int, heads: int, context: int | None) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads, zero_out=True)
        self.cross_norm = None if context is None else nn.LayerNorm(channels)
        self.cross = None if context is None else Attention(channels, heads, context, zero_out=True)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2).contiguous()  # else each layer that reads it keeps a copy
        h = x.flatten(2).transpose(1, 2) + self.attention(h)
        if self.cross is not None and self.cross_norm is not None:
            h = h + self.cross(self.cross_norm(h), context)
        return h.transpose(1, 2).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, modulated by adaLN-Zero (DiT, 2212.09748, fig. 3). x (B, L, D), emb (B, 1 or L, E)."""

    def __init__(self, width: int, heads: int, emb: int, dropout: float, context: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.feed = nn.Sequential(
            Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Dropout(dropout), Linear(4 * width, width)
        )
        self.modulation = nn.Sequential(nn.SiLU(), zero(Linear(emb, 6 * width)))
        self.cross = None if context is None else Attention(width, heads, context, zero_out=True)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb).chunk(6, dim=-1)
        h = recomputed(lambda x, scale, shift: self.norm1(x) * (1 + scale) + shift, x, scale1, shift1)
        x = x + gate1 * self.attention(h, mask=mask)
        if self.cross is not None:
            x = x + self.cross(x, context)
        h = recomputed(lambda x, scale, shift: self.norm2(x) * (1 + scale) + shift, x, scale2, shift2)
        return x + gate2 * self.feed(h)


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with up to `groups` groups of at least 4 channels: a channel alone in its group would lose any constant
    added to it, and with it the level."""
    return nn.GroupNorm(math.gcd(groups, max(channels // 4, 1)), channels, eps=1e-6)


def grid_positions(height: int, width: int, features: int) -> Tensor:
    """(height * width, features): 2D sinusoids, half of the features for each axis."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    half = features // 2
    return torch.cat([sinusoid(rows.flatten(), half), sinusoid(columns.flatten(), features - half)], dim=-1)
