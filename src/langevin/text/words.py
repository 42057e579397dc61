"""Words that a text encoder learns (textual inversion, 2208.01618), and networks that are told captions by their number."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Words(nn.Module):
    """A table of token vectors, and behind it some that were learned; those alone can be trained without touching the rest.

    Args:
        table: of the tokens so far.
        vectors: (n, D), of the ids that follow; in float32, whatever the table's dtype, and frozen.
    """

    def __init__(self, table: "Table", vectors: Tensor) -> None:
        super().__init__()
        self.table = table
        place = next(table.parameters())
        self.learned = nn.Parameter(vectors.detach().to(place.device, torch.float32).clone(), requires_grad=False)

    @property
    def num_embeddings(self) -> int:
        return self.table.num_embeddings + len(self.learned)

    @property
    def embedding_dim(self) -> int:
        return self.table.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D), in the table's dtype."""
        first = self.table.num_embeddings
        known = self.table(ids.clamp(max=first - 1))
        new = F.embedding((ids - first).clamp(min=0), self.learned)
        return torch.where((ids >= first)[..., None], new.to(known.dtype), known)


Table = nn.Embedding | Words


class Told(nn.Module):
    """A network that is told captions by their number: cond["caption"] (B,) int64 becomes what its family is given for a text.

    Samples in cond["drop"] are given what the family guides away from, the empty prompt.

    Args:
        net: takes the conditions of `conditioner`.
        conditioner: see `langevin.text.conditioning`.
        texts: the captions.
        size: (width, height) in pixels, for families that are told it.
        learns: whether encoders are trained: they are then part of this module, and asked at every call. Otherwise what they
            say of the last `most` captions is kept.
    """

    def __init__(
        self, net: nn.Module, conditioner: Any, texts: Sequence[str], size: tuple[int, int], learns: bool, most: int = 128
    ) -> None:
        super().__init__()
        self.net, self.texts, self.size, self.most = net, list(texts), size, most
        self.text = conditioner if learns else None
        self._asked = (conditioner,)  # no part of the module, and of its checkpoints, unless it learns
        self._kept: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    def _say(self, number: int) -> dict[str, Tensor]:
        """The conditions (1, ...) of one caption; those of no caption for -1."""
        from langevin.text.conditioning import Request

        conditioner = self._asked[0]
        cond, null = conditioner(Request([self.texts[number] if number >= 0 else ""], None, self.size, number < 0))
        return cond if number >= 0 or null is None else {**cond, **null}

    def _said(self, number: int) -> dict[str, Tensor]:
        if self.text is not None:
            return self._say(number)
        if number not in self._kept:
            self._kept[number] = self._say(number)
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def conditions(self, caption: Tensor, drop: Tensor | None = None) -> dict[str, Tensor]:
        """What the network is given for captions (B,), some of them dropped (B,)."""
        numbers = caption if drop is None else torch.where(drop.to(caption.device), -1, caption)
        said = {n: self._said(n) for n in dict.fromkeys(numbers.tolist())}
        return {name: torch.cat([said[n][name] for n in numbers.tolist()]) for name in next(iter(said.values()))}

    def forward(self, z: Tensor, level: Tensor, cond: Mapping[str, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        given = dict(cond or {})
        said = self.conditions(given.pop("caption"), given.pop("drop", None))
        said = {name: value.to(z.device, z.dtype if value.is_floating_point() else None) for name, value in said.items()}
        return self.net(z, level, {**said, **given}, mask)
