"""The text encoder of CLIP (2103.00020): a causal transformer over token ids, in the form that text-to-image models read.

Shape suffixes: B batch, L tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond, check_heads, dot_product_attention
from langevin.networks.linear import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
}


@dataclass(frozen=True)
class Text:
    """What an encoder says of token ids (B, L).

    Args:
        hidden: the states (B, L, D) before the first layer and after each: depth + 1 of them, none through the last norm.
        last: the states after the last layer, normed.
        pooled: (B, D) the normed state at the end of the text, projected where the encoder has a projection.
    """

    hidden: list[Tensor]
    last: Tensor
    pooled: Tensor


class TextBlock(nn.Module):
    """Pre-norm attention, causal unless told otherwise, then a feed-forward network. x (B, L, D)."""

    def __init__(self, width: int, heads: int, inner: int, activation: str, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.activation, self.causal = heads, activation, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.grow, self.shrink = Linear(width, inner), Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        h = dot_product_attention(q, k, v, causal=self.causal)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.shrink(ACTIVATIONS[self.activation](self.grow(self.norm2(x))))


class TextEncoder(nn.Module):
    """Token ids (B, L) int64 -> `Text`.

    Args:
        vocabulary: number of tokens.
        width, depth, heads: of the transformer; CLIP-L is 768, 12, 12.
        length: most tokens it has positions for.
        inner: width of the feed-forward networks, 4 width by default.
        activation: "quick_gelu" (CLIP) or "gelu" (OpenCLIP).
        projection: features of the pooled state, or None for none.
        end: the token that ends a text, whose first place is pooled. None pools where the id is largest, as CLIP does, whose
            end has the largest id.

    Raises:
        ValueError: for heads that do not divide the width, an unknown activation, or a text longer than `length`.
    """

    def __init__(
        self,
        vocabulary: int = 49408,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        length: int = 77,
        inner: int | None = None,
        activation: str = "quick_gelu",
        projection: int | None = None,
        end: int | None = None,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        self.length, self.end, self.width = length, end, width
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(TextBlock(width, heads, inner or 4 * width, activation) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = None if projection is None else Linear(width, projection, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)

    def forward(self, ids: Tensor) -> Text:
        if ids.shape[1] > self.length:
            raise ValueError(f"the text has {ids.shape[1]} tokens, and this encoder reads {self.length}; cut it.")
        h = self.token(ids) + self.position[: ids.shape[1]]
        hidden = [h]
        for block in self.blocks:
            hidden.append(block(hidden[-1]))
        last = self.norm(hidden[-1])
        at = ids.argmax(1) if self.end is None else (ids == self.end).int().argmax(1)
        pooled = last[torch.arange(len(ids), device=ids.device), at]
        return Text(hidden, last, pooled if self.project is None else self.project(pooled))


class PictureEncoder(nn.Module):
    """CLIP's picture transformer: (B, 3, side, side), normalised, -> `Text`, the class token first and pooled.

    Args:
        side: pixels of a picture's side. patch: of a token's.
        width, depth, heads, inner, activation, projection: as for `TextEncoder`.
    """

    def __init__(
        self,
        side: int = 224,
        patch: int = 14,
        channels: int = 3,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        inner: int | None = None,
        activation: str = "quick_gelu",
        projection: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads or side < patch:
            raise ValueError(f"width is {width} for {heads} heads, side {side} for patches of {patch}; make them fit.")
        self.side, self.patch_side, self.width = side, patch, width
        self.first = nn.Parameter(torch.empty(width))
        self.patch = nn.Conv2d(channels, width, patch, patch, bias=False)
        self.position = nn.Parameter(torch.empty((side // patch) ** 2 + 1, width))
        self.norm_in, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        inner = inner or 4 * width
        self.blocks = nn.ModuleList(TextBlock(width, heads, inner, activation, causal=False) for _ in range(depth))
        self.project = None if projection is None else Linear(width, projection, bias=False)
        nn.init.normal_(self.first, std=width**-0.5)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, pictures: Tensor) -> Text:
        if pictures.shape[-2:] != (self.side, self.side):
            raise ValueError(f"the picture is {tuple(pictures.shape[-2:])} pixels, and this encoder sees {self.side} on a side.")
        h = self.patch(pictures).flatten(2).transpose(1, 2)
        h = torch.cat([self.first.expand(len(h), 1, -1), h], 1) + self.position
        hidden = [self.norm_in(h)]
        for block in self.blocks:
            hidden.append(block(hidden[-1]))
        pooled = self.norm(hidden[-1][:, 0])
        return Text(hidden, hidden[-1], pooled if self.project is None else self.project(pooled))


class Prompted(nn.Module):
    """A network with a text encoder of its own, which is trained with it: cond["ids"] (B, L) int64 become cond["tokens"].

    Samples in cond["drop"], and all when there is neither ids nor tokens, are given the empty text.

    Args:
        net: takes cond["tokens"] (B, L, D).
        encoder: its states after the last norm are the tokens.
        empty: ids (L,) of the empty text.
    """

    empty: Tensor

    def __init__(self, net: nn.Module, encoder: TextEncoder, empty: Tensor) -> None:
        super().__init__()
        self.net, self.encoder = net, encoder
        self.register_buffer("empty", empty, persistent=False)

    def tokens(self, ids: Tensor) -> Tensor:
        """(B, L, D), which may be given as cond["tokens"] again and again in place of the ids."""
        return self.encoder(ids).last

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        given = dict(cond or {})
        drop, ids = given.pop("drop", None), given.pop("ids", None)
        if "tokens" not in given:
            ids = self.empty.expand(len(z), -1) if ids is None else ids
            given["tokens"] = self.tokens(ids if drop is None else torch.where(drop[:, None], self.empty, ids))
        elif drop is not None:
            given["tokens"] = torch.where(drop[:, None, None], self.tokens(self.empty[None]), given["tokens"])
        return self.net(z, level, given, mask)
