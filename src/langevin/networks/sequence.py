"""Transformers over sequences of categories: text that sees all of itself, or block after block, or token after token.

Shape suffixes: B batch, L tokens, D features, E embedding of the level.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import (
    Cond,
    KVCache,
    LevelEmbedding,
    RMSNorm,
    SandwichBlock,
    check_heads,
    refuse_unknown,
    rope_table,
    zero,
)
from langevin.networks.linear import Linear


class SequenceCache:
    """What a sequence that is being written has said so far: keys and values of every layer.

    Attributes:
        length: tokens kept. last: (B, 1) the last of them, None at the beginning.
    """

    def __init__(self, depth: int) -> None:
        self.layers = [KVCache() for _ in range(depth)]
        self.length = 0
        self.last: Tensor | None = None

    def commit(self, z: Tensor) -> None:
        """Keep the tokens z (B, l), which the network has just read: they are final."""
        for layer in self.layers:
            layer.commit()
        self.length += z.shape[1]
        self.last = z[:, -1:]


class SequenceTransformer(nn.Module):
    """Categories (B, L) int64 -> logits (B, L, categories), by blocks with rotary positions.

    Args:
        states: of the process (one more than categories where there is a mask). categories: K, or as many numbers as a
            prediction reads at each position (`langevin.heads.outputs`).
        width, depth, heads: of the trunk.
        block: tokens of a block, each of which sees itself and the blocks before it (block diffusion, BD3-LM, 2503.09573); 1 is
            autoregression; None lets all tokens see all others.
        timed: it is told the level. Networks of masks can do without: the number of masks says it (2406.03736).
        inner: features within the feed-forward, 8/3 of the width by default.

    A network with blocks is trained on the condition "text" (B, L), the clean tokens, of which each block sees those before it:
    all blocks are learned at once. Without it those before are read from z itself, where they are known by then.
    The condition "document" (B, L) numbers the texts that are packed into one sequence; tokens see their own alone.
    """

    def __init__(
        self,
        states: int,
        categories: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        block: int | None = None,
        timed: bool = False,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        if block is not None and block < 1:
            raise ValueError(f"block is {block}; a block has at least 1 token, and None is for no blocks.")
        check_heads(width, heads, turned=True)
        self.block, self.timed, self.head_width, self.depth = block, timed, width // heads, depth
        self.embed = nn.Embedding(states + (block == 1), width)  # the last row is what stands before the first token
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.level = LevelEmbedding(width) if timed else None
        inner = inner or 8 * width // 3 // 8 * 8
        emb = width if timed else None
        self.trunk = nn.ModuleList(SandwichBlock(width, heads, heads, inner, emb, 1e-6) for _ in range(depth))
        self.norm = RMSNorm(width, 1e-6)
        self.final = zero(Linear(width, categories))

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        """z (B, L); level (B,) or (B, L); mask (B, L) bool hides padding."""
        given = cond or {}
        refuse_unknown(given, ("text", "document", "drop"))
        text, document = given.get("text"), given.get("document")
        twice = text is not None and self.block is not None and self.block > 1
        keep = None if self.block is None else _pattern(z.shape[1], self.block, twice, z.device)
        for apart in () if document is None else (document[:, :, None] == document[:, None, :],):
            apart = apart.repeat(1, 2, 2) if twice else apart
            keep = apart if keep is None else keep & apart
        if mask is not None:
            real = (mask.repeat(1, 2) if twice else mask)[:, None]
            keep = real if keep is None else keep & real
        read = self._shifted(z if text is None else text, None, document) if self.block == 1 else z
        rope = rope_table(z.shape[1], self.head_width, z.device)[None]
        if twice and text is not None:
            read, rope = torch.cat([read, text], 1), rope.repeat(1, 2, 1, 1)
            level = level[:, None] if level.ndim == 1 else level
            level = torch.cat([level.expand(z.shape), torch.zeros_like(z, dtype=level.dtype)], 1)
        return self._run(read, level, rope, keep, None, z.shape[1])

    def new_cache(self) -> SequenceCache:
        """Of a text that is to be written, empty."""
        return SequenceCache(self.depth)

    def extend(self, z: Tensor, level: Tensor, cache: SequenceCache) -> Tensor:
        """The logits of z (B, l), which follow what is kept; of a network with blocks whole blocks, or the last one."""
        first, last = cache.length, cache.length + z.shape[1]
        keep = None  # one block, which sees all
        if self.block is not None and z.shape[1] > self.block:
            keep = _pattern(last, self.block, False, z.device)[:, first:]
        read = self._shifted(z, cache.last, None) if self.block == 1 else z
        rope = rope_table(-(-last // 256) * 256, self.head_width, z.device)[None, first:last]  # one table for many lengths
        return self._run(read, level, rope, keep, cache, z.shape[1])

    def _shifted(self, text: Tensor, before: Tensor | None, document: Tensor | None) -> Tensor:
        """The token before each."""
        begin = self.embed.num_embeddings - 1
        if before is None:
            before = torch.full_like(text[:, :1], begin)
        read = torch.cat([before, text[:, :-1]], 1)
        if document is not None:
            new = F.pad(document[:, 1:] != document[:, :-1], (1, 0))
            read = torch.where(new, begin, read)
        return read

    def _run(
        self, read: Tensor, level: Tensor, rope: Tensor, keep: Tensor | None, cache: SequenceCache | None, count: int
    ) -> Tensor:
        h = self.embed(read)
        emb = None if self.level is None else self.level(level[:, None] if level.ndim == 1 else level)
        layers = [None] * self.depth if cache is None else cache.layers
        for block, layer in zip(self.trunk, layers, strict=True):
            h = block(h, emb, rope, keep, layer)
        return self.final(self.norm(h[:, :count]))


@lru_cache(maxsize=32)
def _pattern(length: int, block: int, twice: bool, device: torch.device) -> Tensor:
    """(1, L, L) bool, True where a token sees another: its own block and those before. Twice: (1, 2 L, 2 L), where the first L
    are the noisy tokens, which see their own block and the clean ones of blocks before."""
    number = torch.arange(length, device=device) // block
    seen = number[:, None] >= number
    if not twice:
        return seen[None]
    own, before = number[:, None] == number, number[:, None] > number
    return torch.cat([torch.cat([own, before], 1), torch.cat([torch.zeros_like(seen), seen], 1)])[None]
