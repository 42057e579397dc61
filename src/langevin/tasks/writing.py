"""Texts: going on from a beginning, filling blanks in any order, and texts longer than what a model sees at once.

All is `sample` with what is known given. A network of blocks writes block after block and keeps what it has read
(`langevin.networks.sequence.SequenceCache`), so that every token before is read once; one that sees whole texts writes
windows, each given the end of the one before (semi-autoregressive, MDLM, 2406.07524, sec. 4.2).
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Denoiser, home
from langevin.core.plan import Draft, Plan
from langevin.core.sample import sample
from langevin.guidance import Cached


@runtime_checkable
class Caches(Protocol):
    """A network of sequences, as `langevin.networks.SequenceTransformer`."""

    block: int | None

    def new_cache(self) -> Any: ...

    def extend(self, z: Tensor, level: Tensor, cache: Any) -> Tensor: ...


def write(
    denoiser: BaseDenoiser,
    plan: Plan | Draft,
    count: int = 1,
    length: int | None = None,
    *,
    prefix: Tensor | None = None,
    stride: int | None = None,
    end: int | None = None,
    seed: int = 0,
    first_id: int = 0,
    guidance: Any = None,
) -> Tensor:
    """Texts that begin with `prefix`: (count, length) int64, with the prefix.

    Args:
        denoiser: on one masked or uniform process over sequences.
        plan: of a window, or of one block.
        length: tokens in all; those of the model's windows by default.
        prefix: (P,) or (count, P) int64.
        stride: tokens that a window adds to a text longer than the model's; half of it by default.
        end: a token after which nothing is to be written: once all texts have it, what is left is filled with it.
        guidance: a function of the denoiser, such as `Sharpened(0.8)`.

    Raises:
        ValueError: for a prefix that is longer than the text, or holds what is no category.
    """
    leaf, window = _sequence(denoiser)
    length = window if length is None else length
    before = torch.zeros(count, 0, dtype=torch.int64) if prefix is None else prefix.expand(count, -1)
    if before.shape[1] > length or length < 1:
        raise ValueError(f"length is {length} and the prefix has {before.shape[1]} tokens; let the text be longer.")
    leaf.check_data(before, "prefix")
    told: dict[str, Any] = {"first_id": first_id, "guidance": _around(denoiser, guidance)}
    net = getattr(denoiser, "net", None)
    if isinstance(net, Caches) and net.block is not None:
        assert isinstance(denoiser, Denoiser)
        told["guidance"] = _around(denoiser, guidance, together=True)  # one memory of keys for the batch
        return _by_blocks(denoiser, net, plan, before, length, end, seed, told)
    stride = window // 2 if stride is None else stride
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride} for windows of {window}; give at least 1 token, and at most a window.")
    text, part = before, 0
    while text.shape[1] < length:
        kept = text[:, max(text.shape[1] - (window - stride if text.shape[1] >= window else window), 0) :]
        size = min(window, length - text.shape[1] + kept.shape[1])
        drawn = sample(denoiser, plan, count, shape=(size,), seed=_seed(seed, part), **_given(kept, size), **told)
        text = torch.cat([text, drawn[:, kept.shape[1] :].cpu()], 1)
        part += 1
        if end is not None and bool((text == end).any(1).all()):
            return _ended(text, length, end)
    return text if end is None else _ended(text, length, end)


def infill(
    denoiser: BaseDenoiser,
    plan: Plan | Draft,
    text: Tensor,
    blank: Tensor,
    count: int = 1,
    *,
    seed: int = 0,
    first_id: int = 0,
    guidance: Any = None,
) -> Tensor:
    """A text (L,) int64 with its blanks (L,) bool written anew, given all the rest: (count, L).

    The order of tokens is the plan's: `ddpm` and `first_hitting` any order by chance, `confidence` an order by what is sure.

    Raises:
        ValueError: for a network of blocks, which does not see what comes after.
    """
    leaf, window = _sequence(denoiser)
    net = getattr(denoiser, "net", None)
    if isinstance(net, Caches) and net.block is not None and net.block < len(text):
        raise ValueError(f"this network writes blocks of {net.block} and sees nothing after them; fill blanks by one without.")
    if len(text) > window:
        raise ValueError(f"the text has {len(text)} tokens and the model sees {window}; give a part of it.")
    leaf.check_data(torch.where(blank, 0, text), "text")
    known = ~blank.expand(count, -1)
    given = torch.where(blank, 0, text).expand(count, -1)
    told: dict[str, Any] = {"first_id": first_id, "guidance": _around(denoiser, guidance)}
    return sample(denoiser, plan, count, shape=(len(text),), seed=seed, given=given, known=known, **told).cpu()


def _around(denoiser: BaseDenoiser, guidance: Any, together: bool = False) -> Any:
    """The guidance, and within it, where the network is not told the level, that it is asked only about what has changed."""
    if not isinstance(denoiser, Denoiser) or getattr(denoiser.net, "timed", True):
        return guidance
    cached = Cached(together)
    return cached if guidance is None else lambda inner: guidance(cached(inner))


def blanks_of(text: str, sign: str, ids: Any) -> tuple[Tensor, Tensor]:
    """The tokens (L,) of a text and which of them are blank (L,): every `sign` stands for one token.

    Args:
        ids: from a text to its tokens.
    """
    tokens: list[int] = []
    blank: list[bool] = []
    for k, part in enumerate(text.split(sign)):
        if k:
            tokens.append(0)
            blank.append(True)
        said = [int(i) for i in ids(part)] if part else []
        tokens += said
        blank += [False] * len(said)
    return torch.tensor(tokens), torch.tensor(blank, dtype=torch.bool)


class _Next(nn.Module):
    """What follows all that is kept, as a network."""

    def __init__(self, net: Any, cache: Any) -> None:
        super().__init__()
        self.net, self.cache, self.timed = net, cache, getattr(net, "timed", True)

    def forward(self, z: Tensor, level: Tensor, cond: Any = None, mask: Tensor | None = None) -> Tensor:
        return self.net.extend(z, level, self.cache)


def _by_blocks(
    denoiser: Denoiser, net: Caches, plan: Plan | Draft, before: Tensor, length: int, end: int | None, seed: int,
    told: dict[str, Any],
) -> Tensor:  # fmt: skip
    assert net.block is not None
    place, size, count = home(denoiser)[0], net.block, len(before)
    cache, none = net.new_cache(), torch.zeros(count, device=place)
    following = Denoiser(_Next(net, cache), denoiser.process, denoiser.predictions[""], (size,))
    whole = before.shape[1] // size * size
    parts = [before[:, :whole]] if whole else []
    with torch.no_grad():
        if whole:
            net.extend(before[:, :whole].to(place), none, cache)
            cache.commit(before[:, :whole].to(place))
        for at in range(whole, length, size):
            part = sample(following, plan, count, seed=_seed(seed, at), device=place, **_given(before[:, at:], size), **told)
            parts.append(part.cpu())
            if end is not None and bool((torch.cat(parts, 1) == end).any(1).all()):
                break
            if size > 1:  # of single tokens the last evaluation has read what stands before
                net.extend(part, none, cache)
            cache.commit(part)
    text = torch.cat(parts, 1)[:, :length]
    return text if end is None else _ended(text, length, end)


def _given(known: Tensor, size: int) -> dict[str, Any]:
    if not known.shape[1]:
        return {}
    given = torch.nn.functional.pad(known, (0, size - known.shape[1]))
    return {"given": given, "known": (torch.arange(size) < known.shape[1]).expand_as(given)}


def _ended(text: Tensor, length: int, end: int) -> Tensor:
    over = (text == end).int().cumsum(1) > 0
    return torch.nn.functional.pad(torch.where(over, end, text), (0, length - text.shape[1]), value=end)


def _seed(seed: int, part: int) -> int:
    """Another seed for each part of a text."""
    return seed if part == 0 else seed * 1_000_003 + 7919 * part


def _sequence(denoiser: BaseDenoiser) -> tuple[Categorical, int]:
    leaf, shape = denoiser.process.leaves().get(""), denoiser.shape
    if not isinstance(leaf, Categorical) or not isinstance(shape, tuple) or len(shape) != 1:
        raise ValueError(f"texts are written by one categorical process over sequences, and this is {leaf} of shape {shape}.")
    return leaf, int(shape[0])
