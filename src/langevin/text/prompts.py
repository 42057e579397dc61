"""Prompts with weights, `a (red:1.3) bicycle`, and prompts longer than a text encoder takes.

Neither is what published models were trained with; both are asked for by name (`weighted=True`, `long=True`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langevin.text.tokens import Tokenizer

_PIECE = re.compile(r"\\[()\\]|\(|:\s*([+-]?\d*\.?\d+)\s*\)|\)|[^\\():]+|\\|:")
STEP = 1.1
"""The weight of parentheses without a number."""


def parse(prompt: str) -> list[tuple[str, float]]:
    """The pieces of a prompt with their weights. `(text:1.3)` weighs 1.3, `(text)` 1.1, and they multiply when nested; \\( and
    \\) are parentheses.

    Raises:
        ValueError: if a parenthesis is not closed, or never opened.
    """
    stack: list[list[tuple[str, float]]] = [[]]
    for found in _PIECE.finditer(prompt):
        text, number = found.group(0), found.group(1)
        if text == "(":
            stack.append([])
        elif text == ")" or number is not None:
            if len(stack) == 1:
                raise ValueError(f"the prompt closes a parenthesis at {found.start()} that it never opened; write \\) for one.")
            weight = STEP if number is None else float(number)
            inner = stack.pop()
            stack[-1] += [(piece, w * weight) for piece, w in inner]
        else:
            stack[-1].append((text[1:] if len(text) == 2 and text[0] == "\\" else text, 1.0))
    if len(stack) > 1:
        raise ValueError(f"the prompt leaves {len(stack) - 1} of its parentheses open; close them, or write \\( for one.")
    merged: list[tuple[str, float]] = []
    for text, weight in stack[0]:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


@dataclass(frozen=True)
class Tokens:
    """Prompts as an encoder takes them, in `chunks` after each other.

    Args:
        ids: (B, chunks, L). mask: (B, chunks, L) bool. weights: (B, chunks, L) float.
    """

    ids: Tensor
    mask: Tensor
    weights: Tensor


def tokens(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    length: int | None = None,
    weighted: bool = False,
    long: bool = False,
    chunks: int = 1,
) -> Tokens:
    """The tokens of prompts.

    Args:
        length: of a chunk, with what goes around it.
        weighted: read `(text:1.3)`; otherwise parentheses are text.
        long: join chunks instead of cutting what is beyond the first.
        chunks: at least so many, the further ones empty, so that prompts can be batched with longer ones.
    """
    length = length or tokenizer.length
    room = length - len(tokenizer.before) - len(tokenizer.after)
    rows: list[tuple[list[int], list[float]]] = []
    for prompt in prompts:
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in parse(prompt) if weighted else [(prompt, 1.0)]:
            part = tokenizer.plain(text)
            ids += part
            weights += [weight] * len(part)
        rows.append((ids, weights))
    count = max([chunks, *(-(-len(ids) // room) for ids, _ in rows)]) if long else 1
    out_ids = torch.full((len(rows), count, length), tokenizer.pad, dtype=torch.int64)
    mask = torch.zeros(len(rows), count, length, dtype=torch.bool)
    out_weights = torch.ones(len(rows), count, length)
    first = len(tokenizer.before)
    for i, (ids, weights) in enumerate(rows):
        for k in range(count):
            part = ids[k * room : (k + 1) * room]
            framed = tokenizer.frame(part, length)
            out_ids[i, k, : len(framed)] = torch.tensor(framed, dtype=torch.int64)
            mask[i, k, : len(framed)] = True
            out_weights[i, k, first : first + len(part)] = torch.tensor(weights[k * room : (k + 1) * room])
    return Tokens(out_ids, mask, out_weights)


@dataclass(frozen=True)
class States:
    """What an encoder says of prompts.

    Args:
        hidden: (B, L, D) before the first layer and after each. last: after the last, normed.
        pooled: (B, P), of encoders that have such a state.
    """

    hidden: list[Tensor]
    last: Tensor
    pooled: Tensor | None = None


def encode(encoder: nn.Module, asked: Tokens, masked: bool, device: torch.device | str = "cpu") -> States:
    """The states of all chunks, joined along tokens; what is pooled is the first chunk's. With gradients if the encoder learns.

    Args:
        encoder: of ids (B, L), and of a mask where it is told which tokens are padding (`masked`); it answers with hidden, last
            and pooled, as `networks.text` does.
    """
    batch, count, _ = asked.ids.shape
    ids, mask = asked.ids.flatten(0, 1).to(device), asked.mask.flatten(0, 1).to(device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())):
        said = encoder(ids, mask) if masked else encoder(ids)

    def joined(value: Tensor) -> Tensor:
        return value.unflatten(0, (batch, count)).flatten(1, 2)

    def first(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.unflatten(0, (batch, count))[:, 0]

    return States([joined(h) for h in said.hidden], joined(said.last), first(said.pooled))


def weigh(states: Tensor, asked: Tokens) -> Tensor:
    """States (B, L, D) times the weights of their tokens; each prompt keeps its mean, and so the size its network is used to."""
    weights = asked.weights.flatten(1).to(states)
    if bool((weights == 1).all()):
        return states
    out = states * weights[..., None]
    before, after = (s.float().mean((1, 2), keepdim=True) for s in (states, out))
    changed = (weights != 1).any(1)[:, None, None] & (after.abs() > 1e-8)
    return torch.where(changed, out * (before / torch.where(changed, after, 1.0)).to(out.dtype), out)
