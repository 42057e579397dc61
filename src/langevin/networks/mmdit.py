"""Image transformers of several streams: text and picture each with weights of their own, then one sequence of both.

Stable Diffusion 3 is joint blocks alone, FLUX.1 joint blocks and then parallel ones, Lumina-Image 2.0 sandwich blocks over one
sequence, after some for each stream by itself.

Packing: a picture (B, C, H, W) is cut into patches of patch x patch, one token each, row by row; a token's features are ordered
(channel, row, column within the patch), as `torch.nn.functional.pixel_unshuffle` has them. Further input channels in
cond["concat"] come after the picture's, so their features come after its features.

Shape suffixes: B batch, C channels, H W height and width, L tokens of the picture, M tokens of text, D features, E embedding.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import (
    Cond,
    JointBlock,
    LevelEmbedding,
    ParallelBlock,
    RMSNorm,
    SandwichBlock,
    modulated,
    modulation,
    refuse_unknown,
    rope_grid,
    rope_table,
    stretched_positions,
    zero,
)
from langevin.networks.linear import Linear


class VectorEmbedding(nn.Module):
    """Level, pooled text and strength of guidance -> one embedding (B, 1 or L, E).

    Args:
        emb: E.
        pooled: features of cond["pooled"], None for none.
        guidance: whether cond["guidance"] (B,), the scale as users say it, is embedded, at 1000 times its value.
    """

    def __init__(self, emb: int, pooled: int | None = None, guidance: bool = False) -> None:
        super().__init__()
        self.level = LevelEmbedding(emb)
        self.pooled = None if pooled is None else nn.Sequential(Linear(pooled, emb), nn.SiLU(), Linear(emb, emb))
        self.guidance = LevelEmbedding(emb) if guidance else None

    def forward(self, level: Tensor, cond: Cond) -> Tensor:
        """level (B, 1 or L)."""
        cond = cond or {}
        out = self.level(level)
        if self.guidance is not None:
            out = out + self.guidance(1000 * cond["guidance"].float())[:, None]
        if self.pooled is not None:
            out = out + self.pooled(cond["pooled"].to(out.dtype))[:, None]
        return out


class MMDiT(nn.Module):
    """A transformer over text and a picture (MMDiT, 2403.03206; FLUX.1; Lumina-Image 2.0, 2503.21758).

    Conditions: "tokens" (B, M, tokens), needed; "tokens_mask" (B, M) bool, True where attended to; "pooled" (B, pooled) and
    "guidance" (B,) where the network was built for them, and then needed; "concat" (B, extra, H, W) likewise.

    Args:
        channels: of the picture.
        width, heads: D, attention heads.
        tokens: features of text tokens.
        joint: number of joint blocks.
        single: number of blocks over one sequence, text first.
        kind: of those, "parallel" or "sandwich".
        pooled: features of the pooled text, None for none.
        guidance: whether the strength of guidance is embedded.
        extra: further channels of the input, in cond["concat"].
        out_channels: `channels` by default.
        patch: side of a patch.
        norm: eps of the norms of queries and keys in joint and parallel blocks, None for none.
        unread: whether the last joint block leaves the text as it is, since nobody reads it any more.
        alone: joint blocks in which the picture also attends to itself alone.
        table: side in patches of a table of positions, of which the middle is taken; it is stored with the weights.
        base: side in patches of the pictures that the table was made for, from whose positions it starts.
        axes: features of a head that turn with (text position, row, column); None for no rotation. With sandwich blocks text
            counts its tokens along the first axis and the picture stands behind the last; with others all stand at 0.
        kv_heads, inner: of sandwich blocks: heads of keys, features within the feed-forward.
        refiners: sandwich blocks for each stream by itself, before all others.
        emb: E, `width` by default.
        eps: of the norms of sandwich blocks.
        towards: "noise" where the network is shown the level and says the velocity e - x; "data" where its weights count time
            from noise 0 to data 1 and answer x - e: they are then shown 1 - level / 1000, and the answer is negated, so that
            from outside both are alike.
    """

    def __init__(
        self,
        channels: int = 16,
        width: int = 1536,
        heads: int = 24,
        tokens: int = 4096,
        joint: int = 24,
        single: int = 0,
        kind: Literal["parallel", "sandwich"] = "parallel",
        pooled: int | None = None,
        guidance: bool = False,
        extra: int = 0,
        out_channels: int | None = None,
        patch: int = 2,
        norm: float | None = 1e-6,
        unread: bool = False,
        alone: Sequence[int] = (),
        table: int | None = None,
        base: int | None = None,
        axes: Sequence[int] | None = None,
        kv_heads: int | None = None,
        inner: int | None = None,
        refiners: int = 0,
        emb: int | None = None,
        eps: float = 1e-5,
        towards: Literal["noise", "data"] = "noise",
    ) -> None:
        super().__init__()
        if kind not in ("parallel", "sandwich"):
            raise ValueError(f"kind is {kind!r}; blocks over one sequence are 'parallel' or 'sandwich'.")
        if towards not in ("noise", "data"):
            raise ValueError(f"towards is {towards!r}; the weights' time runs towards 'noise' or 'data'.")
        if axes is not None and (len(axes) != 3 or sum(axes) != width // heads):
            raise ValueError(f"axes is {tuple(axes)}; give three numbers that add up to a head's {width // heads} features.")
        if unread and single:
            raise ValueError(f"unread is True with {single} single blocks, which read the text; leave it out.")
        emb = emb or width
        self.channels, self.extra, self.patch, self.out_channels = channels, extra, patch, out_channels or channels
        self.width, self.heads, self.kind, self.base = width, heads, kind, base or table
        self.normed, self.unread, self.alone = norm, unread, tuple(alone)
        self.axes, self.towards = None if axes is None else tuple(axes), towards
        self.enter = Linear((channels + extra) * patch**2, width)
        self.text_norm = RMSNorm(tokens, eps) if kind == "sandwich" else None
        self.text = Linear(tokens, width)
        self.vector = VectorEmbedding(emb, pooled, guidance)
        self.side = table
        if table is not None:
            self.register_buffer("positions", stretched_positions(table, table, width, base or table)[None])

        def sandwich(modulated: bool) -> SandwichBlock:
            return SandwichBlock(width, heads, kv_heads or heads, inner or 4 * width, emb if modulated else None, eps)

        self.refine_text = nn.ModuleList(sandwich(False) for _ in range(refiners))
        self.refine_image = nn.ModuleList(sandwich(True) for _ in range(refiners))
        self.joint = nn.ModuleList(
            JointBlock(width, heads, emb, norm, unread and i == joint - 1, i in alone) for i in range(joint)
        )
        self.single = nn.ModuleList(
            ParallelBlock(width, heads, emb, norm) if kind == "parallel" else sandwich(True) for _ in range(single)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        # sandwich blocks have no shifts, and neither has what follows them
        self.modulation = modulation(emb, width, 1 if kind == "sandwich" else 2)
        self.leave = zero(Linear(width, self.out_channels * patch**2))

    @property
    def names(self) -> list[str]:
        """Of the conditions that it needs."""
        more = {"pooled": self.vector.pooled is not None, "guidance": self.vector.guidance is not None, "concat": self.extra > 0}
        return ["tokens", *(name for name, there in more.items() if there)]

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, channels, H, W); level (B,) or broadcastable to z, 1000 t; (B, out_channels, H, W).

        Raises:
            ValueError: for sides that patches do not fill, conditions that are missing, unknown or of another size.
        """
        given = self._checked(z, cond, mask)
        size = (z.shape[-2] // self.patch, z.shape[-1] // self.patch)
        packed = F.pixel_unshuffle(z if not self.extra else torch.cat([z, given["concat"].to(z.dtype)], 1), self.patch)
        image = self.enter(packed.flatten(2).transpose(1, 2))
        if self.side is not None:
            image = image + self._cropped(*size)
        text = given["tokens"].to(image.dtype)
        text = self.text(text if self.text_norm is None else self.text_norm(text))
        embs = self._embedded(level, given)
        keep_text = given.get("tokens_mask")
        keep = None
        if keep_text is not None:
            keep = torch.cat([keep_text, keep_text.new_ones(keep_text.shape[0], image.shape[1])], 1)
        turn_text, turn_image = self._turned(text, keep_text, size)

        for block in self.refine_text:
            text = block(text, None, turn_text, keep_text)
        for block in self.refine_image:
            image = block(image, embs[1], turn_image)
        for block in self.joint:
            text, image = block(text, image, embs, turn_image, keep)
        if len(self.single):
            h, emb = torch.cat([text, image], 1), embs[1]
            if emb.shape[1] > 1:
                emb = torch.cat([embs[0].expand(-1, text.shape[1], -1), emb], 1)
            turn = None if turn_image is None or turn_text is None else _one_after_other(turn_text, turn_image)
            for block in self.single:
                h = block(h, emb, turn, keep)
            image = h[:, text.shape[1] :]

        *shift, scale = self.modulation(embs[1]).split(image.shape[-1], dim=-1)
        out = self.leave(modulated(self.norm, image, scale, shift[0] if shift else None))
        out = F.pixel_shuffle(out.transpose(1, 2).unflatten(2, size), self.patch)
        return out if self.towards == "noise" else -out

    def _checked(self, z: Tensor, cond: Cond, mask: Tensor | None) -> dict[str, Tensor]:
        if mask is not None:
            raise ValueError("mask is given, and pictures have no padding; hide text tokens by cond['tokens_mask'].")
        if z.shape[-2] % self.patch or z.shape[-1] % self.patch:
            raise ValueError(f"pictures are {z.shape[-2]} x {z.shape[-1]} for patches of {self.patch}; make the sides multiples.")
        given = dict(cond or {})
        refuse_unknown(given, [*self.names, "tokens_mask"])
        for name in self.names:
            if name not in given:
                raise ValueError(f"this network reads the condition {name!r}, which is missing; give it, (B, ...).")
        tokens, there = self.text.in_features, given["tokens"].shape[-1]
        if tokens != there:
            raise ValueError(f"tokens have {there} features, this network reads {tokens}; encode text as it was trained with.")
        if self.extra and given["concat"].shape[1] != self.extra:
            raise ValueError(
                f"concat has {given['concat'].shape[1]} channels, this network reads {self.extra} beside the picture."
            )
        return given

    def _embedded(self, level: Tensor, given: Cond) -> tuple[Tensor, Tensor]:
        """Embeddings of text (B, 1, E) and picture (B, 1 or L, E): where the level differs between patches, text has its mean."""
        if level.ndim > 1:
            inside = level.float().mean(1, keepdim=True)
            window = [self.patch if n > 1 else 1 for n in inside.shape[-2:]]
            level = F.avg_pool2d(inside, window, window).flatten(1)
        else:
            level = level.float()[:, None]
        level = level if self.towards == "noise" else 1 - level / 1000
        image = self.vector(level, given)
        return (image if level.shape[1] == 1 else self.vector(level.mean(1, keepdim=True), given)), image

    def _cropped(self, height: int, width: int) -> Tensor:
        """The middle of the table of positions, (1, height * width, D)."""
        assert self.side is not None
        if max(height, width) > self.side:
            raise ValueError(
                f"the picture has {height} x {width} patches and the table of positions {self.side} x {self.side}; "
                f"make it smaller, or build the network with a larger table."
            )
        top, left = (self.side - height) // 2, (self.side - width) // 2
        table = self.get_buffer("positions").unflatten(1, (self.side, self.side))
        return table[:, top : top + height, left : left + width].flatten(1, 2)

    def _turned(self, text: Tensor, keep: Tensor | None, size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """Rotations of text (B or 1, M, d / 2, 2) and of the picture (B or 1, L, d / 2, 2)."""
        if self.axes is None:
            return None, None
        length, device = text.shape[1], text.device
        counted = self.kind == "sandwich"
        first = rope_table(length + 1 if counted else 1, self.axes[0], device)
        grid = rope_grid(*size, self.axes[1:], device)[None]
        if not counted:
            place, end = first.expand(length, -1, -1)[None], first[None]
        elif keep is None:
            place, end = first[None, :-1], first[None, -1:]
        else:  # wherever the padding is, tokens are counted without it
            place = first[(keep.cumsum(1) - 1).clamp(min=0)]
            end = first[keep.sum(1)][:, None]
        still = rope_table(1, sum(self.axes[1:]), device).expand(*place.shape[:2], -1, -1)
        behind = end.expand(-1, grid.shape[1], -1, -1)
        return torch.cat([place, still], -2), torch.cat([behind, grid.expand(len(end), -1, -1, -1)], -2)


def _one_after_other(text: Tensor, image: Tensor) -> Tensor:
    batch = max(len(text), len(image))
    return torch.cat([text.expand(batch, -1, -1, -1), image.expand(batch, -1, -1, -1)], 1)
