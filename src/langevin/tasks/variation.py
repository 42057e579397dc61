"""Pictures beside words: variations of a picture, by a network that makes tokens of it (FLUX.1 Redux)."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from langevin.tasks.inputs import sized, tensor_of
from langevin.text.conditioning import Cond, Conditioner, Request


class Varied(Conditioner):
    """A family's conditions, with the tokens of pictures behind those of the text: `model("", like=picture)`.

    An empty prompt counts for nothing, zeros, as published.

    Args:
        inner: of the family. eye: pictures (B, 3, side, side) in [-1, 1] -> tokens. project: those -> tokens of the text's width.
    """

    def __init__(self, inner: Conditioner, eye: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.inner, self.eye, self.project = inner, eye, project
        self.reads, self.options = inner.reads, inner.options | {"like", "like_scale"}

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        extra = dict(request.extra)
        like, scale = extra.pop("like", None), float(extra.pop("like_scale", 1.0))
        cond, null = self.inner(replace(request, extra=extra))
        if like is None:
            if "like_scale" in request.extra:
                raise ValueError("like_scale says how much pictures count, and there are none; give like= as well.")
            return cond, null
        if request.negative is not None:
            raise ValueError("like varies a picture, and a negative prompt leads away from words; leave one of them out.")
        empty = torch.tensor([not prompt for prompt in request.prompts])
        cond = {n: _without(v, empty) if n in ("tokens", "pooled") else v for n, v in cond.items()}
        tokens = self._tokens(like).to(cond["tokens"]) * scale
        if len(tokens) not in (1, len(empty)):
            raise ValueError(f"like has {len(tokens)} pictures for {len(empty)} prompts; give one, or one for each.")
        return {**cond, "tokens": torch.cat([cond["tokens"], tokens.expand(len(empty), -1, -1)], 1)}, None

    @torch.no_grad()
    def _tokens(self, like: Any) -> Tensor:
        side = cast(Any, self.eye).side
        seen = torch.cat([sized(tensor_of(one), (side, side)) for one in (like if isinstance(like, (list, tuple)) else [like])])
        place = next(self.eye.parameters())
        return self.project(self.eye(seen.to(place)).to(next(self.project.parameters()).dtype))


def _without(value: Tensor, empty: Tensor) -> Tensor:
    return torch.where(empty.reshape(-1, *[1] * (value.ndim - 1)).to(value.device), torch.zeros_like(value), value)
