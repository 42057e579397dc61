"""Captions as conditions: a vocabulary learned from them, in the layout of CLIP's tokenizer, and data that brings token ids.

The vocabulary is 256 bytes, the same 256 at the end of a word, one token for each merge, and the two that begin and end a text.
A text is begun, cut to fit, ended, and filled up with ends; the empty text is what a dropped condition becomes.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.config import Closed
from langevin.core.batch import Batch
from langevin.files import write
from langevin.text.pieces import letters, merges

BEGIN, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Vocabulary(Closed):
    """What a run knows of texts."""

    merges: tuple[str, ...]
    """Pairs of tokens, "a b", in the order in which they are joined."""
    length: int
    """Tokens of a text, with those that begin and end it."""
    examples: tuple[str, ...] = ()
    """Held-out captions, to draw when nothing else is asked for."""

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Ids by token."""
        alphabet = letters()
        joined = ["".join(pair.split(" ")) for pair in self.merges]
        return {t: i for i, t in enumerate([*alphabet, *(c + LAST for c in alphabet), *joined, BEGIN, END])}

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        merges = [(a, b) for a, b in (pair.split(" ") for pair in self.merges)]
        made = Tokenizer(BPE(self.tokens, merges, end_of_word_suffix=LAST, unk_token=END))
        made.normalizer, made.pre_tokenizer = _normal(), _split()
        return made

    def ids(self, texts: Sequence[str]) -> Tensor:
        """(B, length) int64."""
        end = self.tokens[END]
        rows = []
        for said in self._tokenizer.encode_batch(list(texts)):
            row = [self.tokens[BEGIN], *said.ids[: self.length - 2], end]
            rows.append(row + [end] * (self.length - len(row)))
        return torch.tensor(rows)

    def conditions(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What texts are to a model that reads them."""
        return {"ids": self.ids(texts)}

    def write(self, folder: Path) -> None:
        """The files of a CLIPTokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "vocab.json", json.dumps(self.tokens, ensure_ascii=False))
        write(folder / "merges.txt", "\n".join(["#version: 0.2", *self.merges]) + "\n")
        said = {
            "tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, "bos_token": BEGIN, "eos_token": END,
            "pad_token": END, "unk_token": END, "do_lower_case": True,
        }  # fmt: skip
        write(folder / "tokenizer_config.json", json.dumps(said, indent=1))


def learn(texts: Sequence[str], size: int, length: int, examples: Sequence[str] = ()) -> Vocabulary:
    """A vocabulary of at most `size` tokens, from captions.

    Raises:
        ImportError: without the tokenizers library (pip install 'langevin[text]').
        ValueError: if size leaves no room for merges.
    """
    if size < 514:
        raise ValueError(f"text.vocabulary is {size}; bytes alone take 514 tokens, so give more.")
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word, _ in _split().pre_tokenize_str(_normal().normalize_str(text)):
            words[(*word[:-1], word[-1] + LAST)] += 1
    return Vocabulary(merges=tuple(merges(dict(words), size - 514)), length=length, examples=tuple(examples))


def _normal() -> Any:
    from tokenizers import Regex, normalizers

    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])


def _split() -> Any:
    """CLIP's way from a text to its words, as letters that stand for bytes."""
    try:
        from tokenizers import Regex, pre_tokenizers
    except ImportError:
        raise ImportError("texts are split by the tokenizers library; pip install 'langevin[text]'.") from None
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


class Captioned:
    """A source whose captions become cond["ids"], (B, length) int64.

    Args:
        source: with `captions`, one for each sample; everything else is its own.
        vocabulary: what texts are split by.
    """

    def __init__(self, source: Any, vocabulary: Vocabulary) -> None:
        self.source, self.vocabulary = source, vocabulary
        self._ids = vocabulary.ids(source.captions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def part(self, split: str, **options: Any) -> "Captioned":
        """Another split of the source, read by the same vocabulary; options are those of the source's `part`."""
        return Captioned(self.source.part(split, **options), self.vocabulary)

    def batch(self, index: Tensor) -> Batch:
        read = self.source.batch(index)
        return Batch(read.x, {**(read.cond or {}), "ids": self._ids[index]}, read.mask, read.source)

    def conditions(self, index: Tensor) -> dict[str, Tensor]:
        """All of `batch`'s, without reading x where the source can do so."""
        cheap = getattr(self.source, "conditions", None)
        given = cheap(index) if cheap is not None else self.source.batch(index).cond
        return {**(given or {}), "ids": self._ids[index]}
