"""Alphabets: from a text to categories and back, byte for byte.

An alphabet is plain values, so that a run keeps its own. What captions are split by is another matter (`text.tokens`): a
condition may be in small letters and without line ends, a text that is to be written may not.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from langevin.config import Closed
from langevin.text.pieces import byte_of, letters, merges


class Bytes(Closed):
    """The 256 bytes of UTF-8."""

    kind: Literal["bytes"] = "bytes"

    @property
    def size(self) -> int:
        return 256

    def ids(self, text: str) -> np.ndarray:
        """(N,) uint8."""
        return np.frombuffer(text.encode(), np.uint8)

    def bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return bytes(np.asarray(ids, np.uint8))

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """What is no UTF-8 shows as the sign of replacement."""
        return self.bytes(ids).decode(errors="replace")


class Characters(Closed):
    """Letters, each a category of its own."""

    kind: Literal["characters"] = "characters"
    letters: str
    """In the order of their code points, each once."""

    @property
    def size(self) -> int:
        return len(self.letters)

    @cached_property
    def _codes(self) -> np.ndarray:
        return _codes(self.letters)

    def ids(self, text: str) -> np.ndarray:
        """(N,) int64.

        Raises:
            ValueError: for a letter that is none of these.
        """
        codes = _codes(text)
        at = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        unknown = self._codes[at] != codes
        if unknown.any():
            letter = text[int(unknown.argmax())]
            raise ValueError(f"{letter!r} is none of the {self.size} letters that this model knows; write it otherwise.")
        return at

    def bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return self.text(ids).encode()

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._codes[np.asarray(ids)].tobytes().decode("utf-32-le")


class Pieces(Closed):
    """Byte pairs within words, with the space before a word as a part of it (as GPT-2 splits). Needs the extra `text`."""

    kind: Literal["pieces"] = "pieces"
    merges: tuple[str, ...]
    """Pairs of tokens, "a b", in the order in which they are joined."""

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token, as letters that stand for bytes."""
        return tuple(dict.fromkeys([*letters(), *("".join(pair.split(" ")) for pair in self.merges)]))

    @property
    def size(self) -> int:
        return len(self.tokens)

    @cached_property
    def _tokenizer(self) -> Any:
        split = _split()
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        pairs = [(a, b) for a, b in (pair.split(" ") for pair in self.merges)]
        made = Tokenizer(BPE({token: k for k, token in enumerate(self.tokens)}, pairs))
        made.pre_tokenizer = split
        return made

    @cached_property
    def _bytes(self) -> tuple[bytes, ...]:
        value = byte_of()
        return tuple(bytes(value[letter] for letter in token) for token in self.tokens)

    def ids(self, text: str) -> np.ndarray:
        """(N,) int64."""
        return np.asarray(self._tokenizer.encode(text).ids, np.int64)

    def bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return b"".join(self._bytes[k] for k in np.asarray(ids).tolist())

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """What is no UTF-8 shows as the sign of replacement."""
        return self.bytes(ids).decode(errors="replace")


Alphabet: TypeAlias = Annotated[Bytes | Characters | Pieces, Field(discriminator="kind")]
"""`size` categories; `ids(text)`, `bytes(ids)` its inverse, and `text(ids)` to read."""


def learn(kind: str, texts: Iterable[str], most: int = 512) -> Bytes | Characters | Pieces:
    """The alphabet of texts: "bytes", "characters" or "pieces", of which there are at most `most`; or that of a file, a
    tokenizer.json, which learns nothing.

    Raises:
        ImportError: for pieces without the extra `text`.
        ValueError: for another kind, texts without letters, fewer pieces than there are bytes, or as `tokenizer_json.from_json`.
    """
    if kind.endswith(".json"):
        from langevin.text.tokenizer_json import from_json

        return from_json(kind)
    if kind == "bytes":
        return Bytes()
    if kind == "characters":
        met: set[str] = set()
        for text in texts:
            met.update(text)
        if len(met) < 2:
            raise ValueError(f"the text has {len(met)} letters; there is nothing to learn from fewer than 2.")
        return Characters(letters="".join(sorted(met)))
    if kind != "pieces":
        raise ValueError(f"alphabet is {kind!r}; choose one of bytes, characters, pieces, or a tokenizer.json.")
    if most < 257:
        raise ValueError(f"vocabulary is {most}; bytes alone take 256 pieces, so give more.")
    words: Counter[tuple[str, ...]] = Counter()
    split = _split()
    for text in texts:
        words.update(tuple(word) for word, _ in split.pre_tokenize_str(text))
    return Pieces(merges=tuple(merges(dict(words), most - 256)))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


def _split() -> Any:
    """GPT-2's way from a text to its words, as letters that stand for bytes."""
    try:
        from tokenizers import pre_tokenizers
    except ImportError:
        raise ImportError("pieces are made by the tokenizers library; pip install 'langevin[text]'.") from None
    return pre_tokenizers.ByteLevel(add_prefix_space=False)
