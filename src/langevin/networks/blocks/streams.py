"""Blocks over several streams of tokens that meet in attention: joint, parallel and sandwich blocks.

Shape suffixes: B batch, L tokens, D features, E embedding of level and conditions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks.attention import KVCache, QueryKeyValue, SelfAttention, attend, attend_jointly
from langevin.networks.blocks.feedforward import Gated, gelu_forward
from langevin.networks.blocks.norms import RMSNorm, modulated, modulation
from langevin.networks.linear import Linear


class Stream(nn.Module):
    """One stream's side of a joint block, with weights of its own.

    Args:
        width, heads, emb: D, attention heads, E.
        norm: eps of the norms of queries and keys, None for none.
        answers: False where only its keys and values are of use, as in the last block, after which nobody reads the text.
        alone: a second attention, of the stream to itself only, beside the joint one (Stable Diffusion 3.5 medium).
    """

    def __init__(
        self, width: int, heads: int, emb: int, norm: float | None = None, answers: bool = True, alone: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.vectors = 9 if alone else 6 if answers else 2
        self.modulation = modulation(emb, width, self.vectors)
        self.attention = SelfAttention(width, heads, norm=norm, answers=answers)
        self.alone = SelfAttention(width, heads, norm=norm) if alone else None
        self.feed = gelu_forward(width, 4 * width) if answers else None

    def answer(self, x: Tensor, joint: Tensor, own: Tensor | None, vectors: tuple[Tensor, ...]) -> Tensor:
        """x after attention has said `joint`, and `own` if it is attended alone as well."""
        assert self.feed is not None
        x = torch.addcmul(x, vectors[2], joint)
        if own is not None:
            x = torch.addcmul(x, vectors[8], own)
        return _finite(torch.addcmul(x, vectors[5], self.feed(modulated(self.norm, x, vectors[4], vectors[3]))))


class JointBlock(nn.Module):
    """Text and image, each with weights of its own, attend to both (MMDiT, 2403.03206, fig. 2b).

    Args:
        last: the text is not needed any more after this block.
        alone: the image has a second attention to itself.
    """

    def __init__(self, width: int, heads: int, emb: int, norm: float | None, last: bool = False, alone: bool = False) -> None:
        super().__init__()
        self.text = Stream(width, heads, emb, norm, answers=not last)
        self.image = Stream(width, heads, emb, norm, alone=alone)

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        embs: tuple[Tensor, Tensor],
        rope: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """text (B, M, D), image (B, L, D), the embedding of each (B, 1 or its tokens, E); rope turns the image's tokens only;
        keep (B, M + L) -> text, image."""
        ours = self.text.modulation(embs[0]).chunk(self.text.vectors, dim=-1)
        theirs = self.image.modulation(embs[1]).chunk(self.image.vectors, dim=-1)
        entering = [modulated(s.norm, x, v[1], v[0]) for s, x, v in ((self.text, text, ours), (self.image, image, theirs))]
        *said, heard = attend_jointly([self.text.attention, self.image.attention], entering, [None, rope], keep)
        own = None if self.image.alone is None else self.image.alone(modulated(self.image.norm, image, theirs[7], theirs[6]))
        image = self.image.answer(image, heard, own, theirs)
        return (self.text.answer(text, said[0], None, ours) if said else text), image


class ParallelBlock(nn.Module):
    """Attention and feed-forward of one norm side by side, one product into both and one out of both (2302.05442; FLUX.1)."""

    def __init__(self, width: int, heads: int, emb: int, norm: float | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = modulation(emb, width, 3)
        self.project = QueryKeyValue(width, heads, norm=norm, further=4 * width)
        self.out = Linear(5 * width, width)

    def forward(self, x: Tensor, emb: Tensor, rope: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x (B, L, D), emb (B, 1 or L, E), keep (B, L)."""
        shift, scale, gate = self.modulation(emb).chunk(3, dim=-1)
        q, k, v, further = self.project(modulated(self.norm, x, scale, shift), rope)
        both = torch.cat([attend(q, k, v, keep), F.gelu(further, approximate="tanh")], dim=-1)
        return _finite(torch.addcmul(x, gate, self.out(both)))


class SandwichBlock(nn.Module):
    """Attention and SwiGLU, each between two root mean square norms, behind gates that saturate (Lumina, 2503.21758, sec. 3.2).

    Args:
        width, heads, kv_heads: D, attention heads of queries and of keys.
        inner: features within the feed-forward.
        emb: E; None for a block that no embedding modulates.
        eps: of the norms.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, inner: int, emb: int | None, eps: float) -> None:
        super().__init__()
        self.modulation = None if emb is None else modulation(emb, width, 4)
        self.before, self.after, self.feed_before, self.feed_after = (RMSNorm(width, eps) for _ in range(4))
        self.attention = SelfAttention(width, heads, kv_heads, bias=False, norm=1e-5)
        self.feed = Gated(width, inner, F.silu, bias=False)

    def forward(
        self,
        x: Tensor,
        emb: Tensor | None = None,
        rope: Tensor | None = None,
        keep: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """x (B, L, D), emb (B, 1 or L, E), keep and cache: see `SelfAttention`."""
        if self.modulation is None or emb is None:
            x = x + self.after(self.attention(self.before(x), rope, keep, cache))
            return x + self.feed_after(self.feed(self.feed_before(x)))
        scale, gate, feed_scale, feed_gate = self.modulation(emb).chunk(4, dim=-1)
        x = torch.addcmul(x, gate.tanh(), self.after(self.attention(modulated(self.before, x, scale), rope, keep, cache)))
        return torch.addcmul(x, feed_gate.tanh(), self.feed_after(self.feed(modulated(self.feed_before, x, feed_scale))))


def _finite(x: Tensor) -> Tensor:
    """What float16 cannot hold is its largest number, rather than infinite and then not a number."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x
