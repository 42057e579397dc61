"""Attention of tokens to tokens.

Shape suffixes: B batch, C channels, H W height and width, L tokens, D features, E embedding of level and conditions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.common import zero
from langevin.networks.blocks.embeddings import rotated
from langevin.networks.blocks.norms import RMSNorm
from langevin.networks.linear import Linear, transformed


def check_heads(width: int, heads: int, turned: bool = False) -> None:
    """Refuse a width that the heads cannot share; where positions are `turned` by rotation, each head takes pairs of features."""
    each = 2 * heads if turned else heads
    if width % each:
        why = "rotary positions turn pairs within each head, so " * turned
        raise ValueError(
            f"width is {width} for {heads} heads; {why}make width a multiple of {each}, such as {-(-width // each) * each}."
        )


class Attention(nn.Module):
    """Multi-head attention of x (B, L, D) to itself, or to context (B, M, E).

    Args:
        bias: of queries, keys and values; what comes out always has one.
        norm: eps of root mean square norms of queries and keys, across all heads; None for none.
        linear: see `attend_linearly`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context: int | None = None,
        zero_out: bool = False,
        bias: bool = True,
        norm: float | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.linear = heads, linear
        self.norm_query = None if norm is None else RMSNorm(width, norm)
        self.norm_key = None if norm is None else RMSNorm(width, norm)
        self.query = Linear(width, width, bias)
        self.key_value = Linear(width if context is None else context, 2 * width, bias)
        self.out = zero(Linear(width, width)) if zero_out else Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask (B, M) bool, True where attended to."""
        source = x if context is None else context
        q, kv = self.query(x), self.key_value(source).unflatten(-1, (2, self.heads, -1))
        if self.norm_query is not None and self.norm_key is not None:
            q = self.norm_query(q)
            kv = torch.stack([self.norm_key(kv[..., 0, :, :].flatten(-2)).view_as(kv[..., 0, :, :]), kv[..., 1, :, :]], -3)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        keep = None if mask is None else mask[:, None, None, :]
        h = attend_linearly(q, k, v, keep) if self.linear else _attend(q, k, v, keep)
        return self.out(h.transpose(1, 2).flatten(2))


class QueryKeyValue(nn.Module):
    """Queries, keys and values of x (B, L, D) from one product, with heads apart: (B, L, heads, D / heads) each.

    Args:
        width: D.
        heads: of the queries.
        kv_heads: of keys and values, each shared by a group of queries' (2305.13245); as many as queries' by default.
        norm: eps of root mean square norms of queries and keys, each head by itself (2302.05442); None for none.
        further: features of the same product that are no part of attention, handed on as they are.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        bias: bool = True,
        norm: float | None = None,
        further: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        if width % heads or heads % self.kv_heads:
            raise ValueError(
                f"width is {width} for {heads} heads of queries and {self.kv_heads} of keys; make each a multiple of the next."
            )
        self.head_width = width // heads
        self.sizes = [width, self.kv_heads * self.head_width, self.kv_heads * self.head_width]
        self.product = Linear(width, sum(self.sizes) + further, bias)
        self.norm_query = None if norm is None else RMSNorm(self.head_width, norm)
        self.norm_key = None if norm is None else RMSNorm(self.head_width, norm)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, L, D), rope as `rope_table` makes it -> queries, keys, values, and the further features (B, L, further)."""
        made = self.product(x)
        *qkv, further = made.split([*self.sizes, made.shape[-1] - sum(self.sizes)], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_width)) for part in qkv)
        if self.norm_query is not None and self.norm_key is not None:
            q, k = self.norm_query(q), self.norm_key(k)
        if rope is not None:
            q, k = rotated(q, rope), rotated(k, rope)
        return q, k, v, further


class KVCache:
    """Keys and values (B, L, heads, d) of tokens that came before, for sequences that are written bit by bit."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None
        self.latest: tuple[Tensor, Tensor] | None = None

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, then k and v."""
        self.latest = (k, v) if self.kept is None else (torch.cat([self.kept[0], k], 1), torch.cat([self.kept[1], v], 1))
        return self.latest

    def commit(self) -> None:
        """Keep what was read last as well: the tokens it is of are final."""
        self.kept = self.latest


class SelfAttention(nn.Module):
    """Attention of tokens to themselves; several such, one for each stream, attend jointly by `attend_jointly`.

    Args:
        width, heads, kv_heads, bias, norm: see `QueryKeyValue`.
        answers: False for a stream that is only attended to, whose queries nobody asks.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        bias: bool = True,
        norm: float | None = None,
        answers: bool = True,
    ) -> None:
        super().__init__()
        self.project = QueryKeyValue(width, heads, kv_heads, bias, norm)
        self.out = Linear(width, width, bias) if answers else None

    def forward(self, x: Tensor, rope: Tensor | None = None, keep: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """x (B, L, D), keep (B, M), or (B or 1, L, M) by query, bool, True where attended to -> (B, L, D). With a cache the M
        are what it holds, and then x."""
        if cache is None or self.out is None:
            return attend_jointly([self], [x], [rope], keep)[0]
        q, k, v, _ = self.project(x, rope)
        return self.out(attend(q, *cache.extended(k, v), keep))


def attend_jointly(
    parts: Sequence[SelfAttention], xs: Sequence[Tensor], ropes: Sequence[Tensor | None], keep: Tensor | None = None
) -> list[Tensor]:
    """Each stream's queries attend to the keys and values of all streams (MMDiT, 2403.03206, sec. 4).

    Args:
        xs: (B, L_i, D), one for each part. ropes: of each. keep: (B, sum of L_i) bool, True where attended to.

    Returns:
        (B, L_i, D) of those parts that answer.
    """
    made = [part.project(x, rope) for part, x, rope in zip(parts, xs, ropes, strict=True)]
    asked = [m[0] for part, m in zip(parts, made, strict=True) if part.out is not None]
    h = attend(_joined(asked), _joined([m[1] for m in made]), _joined([m[2] for m in made]), keep)
    outs = [part.out for part in parts if part.out is not None]
    return [out(one) for out, one in zip(outs, h.split([q.shape[1] for q in asked], dim=1), strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Queries (B, L, heads, d), keys and values (B, M, heads or fewer, d), keep (B, M) or (B or 1, L, M)
    -> (B, L, heads * d)."""
    if q.shape[2] != k.shape[2]:
        shared = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(shared, dim=2), v.repeat_interleave(shared, dim=2)
    if keep is not None:
        keep = keep[:, None, None] if keep.ndim == 2 else keep[:, None]
    return _attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), keep).transpose(1, 2).flatten(2)


def attend_linearly(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention with weights relu(q)^T relu(k) in place of softmax's, so that its cost grows with the tokens and not with their
    square (2410.10629, sec. 2.2): q (B, heads, L, d), k and v (B, heads, M, d), keep (B, 1, 1, M) bool.

    In float32 at least: the sums over all tokens leave the range of float16.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    weight = F.relu(k).to(wide)
    if keep is not None:
        weight = weight.masked_fill(~keep.transpose(-1, -2), 0)
    # the ones add up the weights, which the answer is divided by
    sums = weight.transpose(-1, -2) @ F.pad(v.to(wide), (0, 1), value=1.0)
    h = F.relu(q).to(wide) @ sums
    return (h[..., :-1] / (h[..., -1:] + 1e-15)).to(q.dtype)


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None, causal: bool = False) -> Tensor:
    """torch's softmax(q k^T / sqrt(d)) v with heads as the second axis, (B, heads, L, d), in the type of q.

    On a CPU its derivative in half precision takes 1.3 (256 keys) to 5 times (64 keys) as long as in float32, so that there what
    will be differentiated is computed in float32.
    """
    kind = q.dtype
    halved = kind in (torch.bfloat16, torch.float16) or (kind == torch.float32 and torch.is_autocast_enabled("cpu"))
    if q.device.type == "cpu" and halved and torch.is_grad_enabled() and q.requires_grad:
        q, k, v = q.float(), k.float(), v.float()
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, is_causal=causal).to(kind)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, is_causal=causal)


def _attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with heads as the second axis; written out where torch's own lacks a forward derivative."""
    if not transformed():
        return dot_product_attention(q, k, v, keep)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if keep is None else scores.masked_fill(~keep, -math.inf)
    return scores.softmax(-1) @ v
