"""From prompts to conditions: what each family of networks is given for a text, in one vocabulary.

A conditioner answers with two dicts: the conditions of the prompts, and those they are guided away from (None where the network
has a learned null of its own, or is not guided).

    "tokens" (B, L, D)    "tokens_mask" (B, L) bool    "pooled" (B, P)    "size" (B, n)    "aspect" (B, 1)    "guidance" (B,)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.text.prompts import States, Tokens, encode, tokens, weigh
from langevin.text.tokens import Tokenizer
from langevin.text.words import Table, Words

Cond = dict[str, Tensor]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        prompts: one for each picture. negative: what to lead away from, or None for the family's own default.
        size: (width, height) in pixels.
        guided: whether the second half of guidance is needed.
        clip_skip: layers of CLIP left out from the end.
        weighted, long: see `prompts`.
        length: most tokens of T5 or of the language model.
        extra: further values of a family: original_size (width, height), crop (top, left), target_size and aesthetic_score of
            SDXL, each also as negative_..., and negative_clip_skip for peers that skip no layers there.
    """

    prompts: Sequence[str]
    negative: Sequence[str] | None = None
    size: tuple[int, int] = (512, 512)
    guided: bool = True
    clip_skip: int = 0
    weighted: bool = False
    long: bool = False
    length: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Conditioner(nn.Module, ABC):
    """`conditioner(request) -> (conditions, null)`.

    Attributes:
        reads: which of a request's clip_skip, weighted, long and length it reads. options: the names in `extra` that it takes.
    """

    reads: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        """The conditions of the prompts, and of what they are guided away from."""


class Side(nn.Module):
    """One encoder and its tokenizer."""

    def __init__(self, encoder: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.width = int(cast(Any, encoder).width)

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def tokens(self, texts: Sequence[str], request: Request, length: int | None = None, chunks: int = 1) -> Tokens:
        return tokens(self.tokenizer, texts, length, request.weighted, request.long, chunks)

    def both(self, request: Request, negative: Sequence[str] | None) -> tuple[Tokens, Tokens | None]:
        """Prompts and negatives in equally many chunks."""
        asked = self.tokens(request.prompts, request)
        if negative is None:
            return asked, None
        against = self.tokens(negative, request, chunks=asked.ids.shape[1])
        if against.ids.shape[1] > asked.ids.shape[1]:
            asked = self.tokens(request.prompts, request, chunks=against.ids.shape[1])
        return asked, against

    @property
    def table(self) -> Table:
        """The vectors of the encoder's tokens.

        Raises:
            ValueError: of an encoder that has no such table of its own.
        """
        table = getattr(self.encoder, "token", None)
        if not isinstance(table, (nn.Embedding, Words)):
            raise ValueError(f"{type(self.encoder).__name__} has no table of token vectors here, so it learns no words.")
        return table

    def check_word(self, word: str, vectors: Tensor) -> None:
        """Refuse a word that cannot be learned.

        Raises:
            ValueError: for a word that is there, or is empty, or vectors of another width.
        """
        if word in self.tokenizer.words or not word.strip():
            raise ValueError(f"the word is {word!r}; choose one that is not empty and that the model has not learned already.")
        if vectors.ndim != 2 or vectors.shape[1] != self.table.embedding_dim:
            raise ValueError(
                f"the word {word!r} has vectors of the shape {tuple(vectors.shape)}, and this encoder's are "
                f"{self.table.embedding_dim} wide; it was learned for another model."
            )

    def learn(self, word: str, vectors: Tensor) -> Words:
        """Read a new word as vectors (n, D), each in the place of a token; the table that holds them, frozen.

        Raises:
            ValueError: as `check_word`.
        """
        self.check_word(word, vectors)
        encoder, table = cast(Any, self.encoder), self.table
        if getattr(encoder, "end", 0) is None:
            # pooled where the id is largest, which is at the end as long as no word has a larger one
            encoder.end = self.tokenizer.after[-1]
        encoder.token = Words(table, vectors)
        self.tokenizer.words[word] = list(range(table.num_embeddings, table.num_embeddings + len(vectors)))
        return encoder.token

    def vectors(self, text: str) -> Tensor:
        """The vectors (n, D) of a text's tokens, before any layer."""
        return self.table(torch.tensor(self.tokenizer.plain(text), device=self.device)).detach()

    def states(self, asked: Tokens, masked: bool = False) -> States:
        return encode(self.encoder, asked, masked, self.device)


def _negative(request: Request) -> list[str]:
    return list(request.negative) if request.negative is not None else [""] * len(request.prompts)


def _skip_of_negative(request: Request) -> int:
    return int(request.extra.get("negative_clip_skip", request.clip_skip))


def _skipped(encoder: Any, said: States, skip: int) -> Tensor:
    """The last states, or those `skip` layers earlier after the final norm."""
    if not 0 <= skip < len(said.hidden) - 1:
        raise ValueError(f"clip_skip is {skip} of {len(said.hidden) - 1} layers; leave at least one.")
    return encoder.norm(said.hidden[-(skip + 1)]) if skip else said.last


class CLIPPrompt(Conditioner):
    """Stable Diffusion 1 and 2, and their relatives: the states of one CLIP, 77 tokens, no mask.

    Args:
        guidance: the network is told the strength of guidance (LCM), as request.extra["guidance"].
    """

    reads = frozenset({"clip_skip", "weighted", "long"})
    options = frozenset({"negative_clip_skip"})

    def __init__(self, side: Side, guidance: bool = False) -> None:
        super().__init__()
        self.side, self.guidance = side, guidance

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        asked, against = self.side.both(request, _negative(request) if request.guided else None)

        def states(t: Tokens, skip: int) -> Cond:
            said = self.side.states(t)
            return {"tokens": weigh(_skipped(self.side.encoder, said, skip), t)}

        cond = states(asked, request.clip_skip)
        if self.guidance:
            cond["guidance"] = torch.full((len(request.prompts),), float(request.extra.get("guidance", 8.5)))
        return cond, states(against, _skip_of_negative(request)) if against is not None else None


class SDXLPrompt(Conditioner):
    """SDXL: the penultimate states of both CLIPs side by side, the second's embedding, and sizes.

    Args:
        sides: of the two encoders; the refiner has the second alone.
        zeros: a missing negative prompt is zeros, and not the empty prompt.
        scored: the network is told an aesthetic score and not the target size (the refiner).
    """

    reads = frozenset({"clip_skip", "weighted", "long"})

    def __init__(self, sides: Sequence[Side], zeros: bool = True, scored: bool = False) -> None:
        super().__init__()
        named = ("original_size", "crop", "aesthetic_score" if scored else "target_size")
        self.options = frozenset({"negative_clip_skip", *named, *(f"negative_{name}" for name in named)})
        self.sides, self.zeros, self.scored = nn.ModuleList(sides), zeros, scored

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        guided, zeros = request.guided, request.negative is None and self.zeros
        parts: list[tuple[Tensor, Tensor | None]] = []
        pooled: tuple[Tensor | None, Tensor | None] = (None, None)
        for side in self.sides:
            assert isinstance(side, Side)
            asked, against = side.both(request, _negative(request) if guided and not zeros else None)
            said = [side.states(t) if t is not None else None for t in (asked, against)]
            skips = request.clip_skip, _skip_of_negative(request)
            states = [
                weigh(s.hidden[-(skip + 2)], t) if s is not None and t is not None else None
                for s, t, skip in zip(said, (asked, against), skips, strict=True)
            ]
            assert states[0] is not None
            parts.append((states[0], states[1]))
            pooled = (said[0].pooled if said[0] else None, said[1].pooled if said[1] else None)
        most = max(p[0].shape[1] for p in parts)
        tokens_of = torch.cat([_longer(p[0], most) for p in parts], -1)
        assert pooled[0] is not None
        count = len(request.prompts)
        cond = {"tokens": tokens_of, "pooled": pooled[0], "size": self._sizes(request, count, False)}
        if not guided:
            return cond, None
        null = {"size": self._sizes(request, count, True)}
        if zeros:
            return cond, {**null, "tokens": torch.zeros_like(tokens_of), "pooled": torch.zeros_like(pooled[0])}
        against = [p[1] for p in parts if p[1] is not None]
        assert pooled[1] is not None
        return cond, {**null, "tokens": torch.cat([_longer(a, most) for a in against], -1), "pooled": pooled[1]}

    def _sizes(self, request: Request, count: int, negative: bool) -> Tensor:
        width, height = request.size
        extra = request.extra
        first = "negative_" if negative else ""

        def said(name: str, default: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(extra.get(first + name, extra.get(name, default) if negative else default))

        original = said("original_size", (width, height))  # (width, height), as `size`
        crop = said("crop", (0, 0))
        row = [original[1], original[0], *crop]
        if self.scored:
            row.append(float(extra.get("negative_aesthetic_score", 2.5) if negative else extra.get("aesthetic_score", 6.0)))
        else:
            target = said("target_size", (width, height))
            row += [target[1], target[0]]
        return torch.tensor([row], dtype=torch.float32).expand(count, -1)


def _longer(states: Tensor, length: int) -> Tensor:
    return F.pad(states, (0, 0, 0, length - states.shape[1]))


class SD3Prompt(Conditioner):
    """Stable Diffusion 3: the penultimate states of two CLIPs side by side, filled up with zeros to T5's width, then T5's.

    Args:
        t5: None where it is left out: zeros, as published.
        width: of T5's states, if it is left out.
    """

    reads = frozenset({"clip_skip", "weighted", "length"})

    def __init__(self, sides: Sequence[Side], t5: Side | None, width: int = 4096) -> None:
        super().__init__()
        self.sides, self.t5, self.width = nn.ModuleList(sides), t5, t5.width if t5 is not None else width

    def _one(self, texts: Sequence[str], request: Request) -> Cond:
        states, pooled = [], []
        for side in self.sides:
            assert isinstance(side, Side)
            asked = side.tokens(texts, Request(texts, weighted=request.weighted))
            said = side.states(asked)
            states.append(weigh(said.hidden[-(request.clip_skip + 2)], asked))
            pooled.append(said.pooled)
        clip = torch.cat(states, -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        if self.t5 is None:
            t5 = clip.new_zeros(len(texts), request.length or 256, self.width)
        else:
            asked = self.t5.tokens(texts, Request(texts, weighted=request.weighted), request.length or 256)
            t5 = weigh(self.t5.states(asked).last, asked).to(clip.device)
        return {"tokens": torch.cat([clip, t5.to(clip.dtype)], 1), "pooled": torch.cat(pooled, -1)}

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        if request.long:
            raise ValueError("long is True; Stable Diffusion 3 reads longer prompts by T5: give length=512 instead.")
        return self._one(request.prompts, request), self._one(_negative(request), request) if request.guided else None


class FluxPrompt(Conditioner):
    """FLUX.1: T5's states, whose padding is attended to, and CLIP's pooled state.

    Args:
        length: of T5's tokens; 512, of schnell 256.
        guidance: the network is told the strength of guidance (dev), as request.extra["guidance"].
    """

    reads = frozenset({"weighted", "length"})

    def __init__(self, clip: Side, t5: Side, length: int = 512, guidance: bool = True) -> None:
        super().__init__()
        self.clip, self.t5, self.length, self.guidance = clip, t5, length, guidance

    def _one(self, texts: Sequence[str], request: Request) -> Cond:
        # weights act on T5's states; CLIP's pooled one is that of the text without them
        said = self.clip.states(self.clip.tokens(texts, Request(texts, weighted=request.weighted)))
        asked = self.t5.tokens(texts, Request(texts, weighted=request.weighted), request.length or self.length)
        assert said.pooled is not None
        cond = {"tokens": weigh(self.t5.states(asked).last, asked), "pooled": said.pooled}
        if self.guidance:
            cond["guidance"] = torch.full((len(texts),), float(request.extra.get("guidance", 3.5)))
        return cond

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        cond = self._one(request.prompts, request)
        # guidance is told, not computed, unless a negative prompt asks for it
        return cond, self._one(_negative(request), request) if request.guided else None


class T5Prompt(Conditioner):
    """PixArt: T5's states with the mask of its tokens, in small letters.

    Args:
        length: 120 (alpha) or 300 (sigma).
        sized: the network is told the picture's size and aspect (alpha at 1024 pixels).
    """

    reads = frozenset({"weighted", "length"})

    def __init__(self, t5: Side, length: int = 120, sized: bool = False) -> None:
        super().__init__()
        self.t5, self.length, self.sized = t5, length, sized

    def _one(self, texts: Sequence[str], request: Request) -> Cond:
        texts = [text.lower().strip() for text in texts]
        asked = self.t5.tokens(texts, Request(texts, weighted=request.weighted), request.length or self.length)
        cond = {"tokens": weigh(self.t5.states(asked, masked=True).last, asked), "tokens_mask": asked.mask[:, 0]}
        if self.sized:
            width, height = request.size
            cond["size"] = torch.tensor([[height, width]], dtype=torch.float32).expand(len(texts), -1)
            cond["aspect"] = torch.tensor([[height / width]]).expand(len(texts), -1)
        return cond

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        return self._one(request.prompts, request), self._one(_negative(request), request) if request.guided else None


class LanguagePrompt(Conditioner):
    """Sana and Lumina 2: hidden states of a language model behind an instruction, with the mask of their tokens.

    Args:
        length: of the tokens; 300 and 256.
        instruction: put before every prompt, not before the negative one of Sana.
        layer: which hidden states; -1 after the final norm (Sana), -2 (Lumina 2).
        crop: only the first token and the last `length` - 1 are kept, behind the instruction (Sana).
        both: the instruction goes before the negative prompt as well (Lumina 2).
    """

    reads = frozenset({"length"})

    def __init__(
        self, side: Side, length: int, instruction: str = "", layer: int = -1, crop: bool = False, both: bool = False,
        lower: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.side, self.length, self.instruction, self.layer = side, length, instruction, layer
        self.crop, self.both, self.lower = crop, both, lower

    def _one(self, texts: Sequence[str], request: Request, instructed: bool) -> Cond:
        length = request.length or self.length
        texts = [text.lower().strip() for text in texts] if self.lower else list(texts)
        whole = length
        if instructed and self.instruction:
            texts = [self.instruction + text for text in texts]
            if self.crop:
                whole = length + len(self.side.tokenizer.plain(self.instruction)) + len(self.side.tokenizer.before) - 2
        asked = self.side.tokens(texts, Request(texts), whole)
        said = self.side.states(asked, masked=True)
        states, mask = said.last if self.layer == -1 else said.hidden[self.layer], asked.mask[:, 0]
        if self.crop and whole > length:
            kept = [0, *range(whole - length + 1, whole)]
            states, mask = states[:, kept], mask[:, kept]
        return {"tokens": states, "tokens_mask": mask}

    def forward(self, request: Request) -> tuple[Cond, Cond | None]:
        cond = self._one(request.prompts, request, True)
        return cond, self._one(_negative(request), request, self.both) if request.guided else None
