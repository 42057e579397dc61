"""Text as categories: windows of one long text, or documents one by one. See `langevin.text.alphabets` for what a category is.

Texts are read in pieces of a million letters, never whole: what is kept is one number for each token, of as few bytes as do.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.data.split import check_split, empty, in_split
from langevin.text.alphabets import Alphabet, learn

PIECE = 2**20
_DIGITS = [" zero ", " one ", " two ", " three ", " four ", " five ", " six ", " seven ", " eight ", " nine "]
_PLAIN = {code: " " for code in range(0x110000) if code < 128 and not chr(code).isalpha()}
_PLAIN |= {ord("0") + k: name for k, name in enumerate(_DIGITS)}


def plain(text: str) -> str:
    """a to z and single spaces, digits spelled out (text8)."""
    said = text.lower().translate(_PLAIN)
    if not said.isascii():
        said = "".join(c if "a" <= c <= "z" else " " for c in said)
    return " ".join(said.split())


CLEAN: dict[str, Callable[[str], str]] = {"plain": plain}


def files_of(path: str | Path | Sequence[str | Path], suffix: str = ".txt") -> list[Path]:
    """The files of a path: itself, or for a folder all below it whose names end so, in the order of their names.

    Raises:
        ValueError: if there are none, or no such path.
    """
    given = [path] if isinstance(path, (str, Path)) else list(path)
    found: list[Path] = []
    for one in map(Path, given):
        inside = sorted(p for p in one.rglob(f"*{suffix}") if p.is_file()) if one.is_dir() else [one] * one.is_file()
        if not one.exists():
            raise ValueError(f"{one} does not exist; give a text, or a folder of {suffix} files.")
        if not inside:
            raise ValueError(f"{one} is no text, and no folder of {suffix} files; give one.")
        found += inside
    return found


def pieces_of(files: Iterable[Path], clean: str | None = None, size: int = PIECE) -> Iterator[str]:
    """The texts of files one after the other, in pieces that end before a space that follows no space, where no word of any
    alphabet goes on.

    Args:
        clean: a name from `CLEAN`: what is made of the text.

    Raises:
        ValueError: if a file is no UTF-8, or another name is given.
    """
    if clean is not None and clean not in CLEAN:
        raise ValueError(f"clean is {clean!r}; choose one of {', '.join(CLEAN)}, or None for the text as it is.")
    begun = False
    for raw in _cut(_letters(files, size)):
        text = raw if clean is None else CLEAN[clean](raw)
        if clean is not None and text and begun:
            text = " " + text
        begun = begun or bool(text)
        if text:
            yield text


def _letters(files: Iterable[Path], size: int) -> Iterator[str]:
    for file in files:
        with file.open(encoding="utf-8", newline="") as opened:  # line ends as they are
            try:
                while text := opened.read(size):
                    yield text
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is no UTF-8 ({error.reason}); convert it, as with iconv.") from None


def _cut(texts: Iterable[str]) -> Iterator[str]:
    left = ""
    for text in texts:
        left += text
        at = len(left) - 1
        while at > 0 and not (left[at].isspace() and not left[at - 1].isspace()):
            at -= 1
        if at > 0:
            yield left[:at]
            left = left[at:]
    if left:
        yield left


def _between(texts: Iterable[str], first: int, last: int) -> Iterator[str]:
    """Letters first, ..., last - 1 of texts one after the other."""
    at = 0
    for text in texts:
        part = text[max(first - at, 0) : max(last - at, 0)]
        at += len(text)
        if part:
            yield part


class Text:
    """Windows of `length` tokens of a long text: x (B, length) int64.

    The last share `held_out` of its letters is the split "test": where it begins does not depend on the alphabet.

    Args:
        path: a file, or a folder of .txt files, whose texts follow one another.
        alphabet: its kind ("bytes", "characters", "pieces"), which is then learned: letters from the whole text, pieces from the
            training split; or the alphabet itself.
        length: tokens of a window.
        split: "train", "test" or "all".
        stride: tokens from one window to the next; by default windows do not overlap. What does not fill a window is left out.
        vocabulary: most pieces.
        clean: what is made of the text first: "plain" for a to z and spaces.

    Attributes:
        alphabet: the one that the tokens are of. categories: its size.
        tokens: all of the split, as few bytes each as do.

    Raises:
        ValueError: if a file is no UTF-8, or the split is shorter than a window.
    """

    groups = None

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        alphabet: str | Alphabet = "characters",
        length: int = 128,
        split: str = "train",
        held_out: float = 0.1,
        stride: int | None = None,
        vocabulary: int = 512,
        clean: str | None = None,
    ) -> None:
        check_split(split, held_out)
        stride = length if stride is None else stride
        for field, value in (("length", length), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{field} is {value}; a window has at least 1 token, and so has its way to the next.")
        self.files, self.length, self.stride, self.clean = files_of(path), length, stride, clean
        self.split, self.held_out = split, held_out
        total = sum(map(len, self._read()))
        cut = round(total * (1 - held_out))
        if isinstance(alphabet, str):
            whole = alphabet == "characters"
            alphabet = learn(alphabet, self._read() if whole else _between(self._read(), 0, cut), vocabulary)
        self.alphabet: Any = alphabet
        first, last = {"train": (0, cut), "test": (cut, total), "all": (0, total)}[split]
        self.letters = last - first
        self.tokens = _packed(alphabet, _between(self._read(), first, last), 4 * self.letters)
        if len(self.tokens) < length:
            raise ValueError(
                f"the split {split!r} has {len(self.tokens)} tokens, fewer than a window of {length}; make it shorter, "
                "or give more text."
            )

    def _read(self) -> Iterator[str]:
        return pieces_of(self.files, self.clean)

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    @property
    def categories(self) -> int:
        return self.alphabet.size

    def __len__(self) -> int:
        return (len(self.tokens) - self.length) // self.stride + 1

    def batch(self, index: Tensor) -> Batch:
        at = index.numpy()[:, None] * self.stride + np.arange(self.length)
        return Batch(torch.from_numpy(self.tokens[at].astype(np.int64)))

    def part(self, split: str, stride: int | None = None) -> "Text":
        """Another split, of the same alphabet."""
        return Text(self.files, self.alphabet, self.length, split, self.held_out, stride or self.stride, clean=self.clean)

    def text(self, ids: Tensor) -> str:
        """What tokens (L,) say."""
        return self.alphabet.text(ids.numpy())

    def digest(self) -> str:
        return _digest(self.alphabet, self.tokens, f"{self.length} every {self.stride}")


class Documents:
    """Short texts, one a sample, each ended and filled up with the token that ends: x (B, length) int64.

    The token that ends is the last category, `alphabet.size`, so that a model says itself where a text is over.

    Args:
        path: a file with one text a line, or a folder of them.
        key: what stands in a line between the name of a text and the text, if it has a name. A name, or else the text itself,
            says by its hash which split it belongs to, so that texts of one name are all on one side.
        alphabet, vocabulary: as for `Text`; all are learned from the training split but letters.
        length: tokens of a sample, with the one that ends. Longer texts are left out.
        split, held_out: as for `Text`.

    Attributes:
        names: of the texts, empty where they have none. left_out: how many were too long.

    Raises:
        ValueError: if no text is left.
    """

    groups = None

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        key: str | None = None,
        alphabet: str | Alphabet = "pieces",
        length: int = 64,
        split: str = "train",
        held_out: float = 0.1,
        vocabulary: int = 512,
    ) -> None:
        check_split(split, held_out)
        if length < 2:
            raise ValueError(f"length is {length}; a text has at least a token and the one that ends it.")
        self.files, self.key, self.length, self.split, self.held_out = files_of(path), key, length, split, held_out
        every = list(self._read())
        if isinstance(alphabet, str):
            used = every if alphabet == "characters" else [d for d in every if in_split(d[0] or d[1], held_out, "train")]
            alphabet = learn(alphabet, (text for _, text in used), vocabulary)
        self.alphabet: Any = alphabet
        kept, self.names, self.letters, self.left_out = [], [], 0, 0
        for name, text in every:
            if not in_split(name or text, held_out, split):
                continue
            ids = alphabet.ids(text)
            if len(ids) >= length:
                self.left_out += 1
                continue
            kept.append(np.concatenate([ids, np.full(length - len(ids), self.end)]).astype(_least(self.categories)))
            self.names.append(name)
            self.letters += len(text)
        if not kept and not self.left_out:
            raise ValueError(empty(split, held_out, len(every), "texts"))
        if not kept:
            raise ValueError(f"the split {split!r} has no text of fewer than {length} tokens; give a larger length.")
        self.tokens = np.stack(kept)

    def _read(self) -> Iterator[tuple[str, str]]:
        """Each text with its name."""
        for file in self.files:
            with file.open(encoding="utf-8") as opened:
                try:
                    for line in opened:
                        before, found, after = line.partition(self.key) if self.key else ("", "", line)
                        name, text = (before.strip(), after.strip()) if found else ("", line.strip())
                        if text:
                            yield name, text
                except UnicodeDecodeError as error:
                    raise ValueError(f"{file} is no UTF-8 ({error.reason}); convert it, as with iconv.") from None

    @property
    def end(self) -> int:
        return self.alphabet.size

    @property
    def categories(self) -> int:
        return self.alphabet.size + 1

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: Tensor) -> Batch:
        return Batch(torch.from_numpy(self.tokens[index.numpy()].astype(np.int64)))

    def part(self, split: str) -> "Documents":
        """Another split, of the same alphabet."""
        return Documents(self.files, self.key, self.alphabet, self.length, split, self.held_out)

    def text(self, ids: Tensor) -> str:
        """What tokens (L,) say, up to where they end."""
        return self.alphabet.text(until(ids, self.end).numpy())

    def digest(self) -> str:
        return _digest(self.alphabet, self.tokens, f"{self.length} ended")


def until(ids: Tensor, end: int) -> Tensor:
    """The tokens (L,) before the first that ends."""
    ended = (ids == end).nonzero()
    return ids[: int(ended[0])] if len(ended) else ids


def _least(categories: int) -> type:
    return next(kind for kind in (np.uint8, np.uint16, np.int32) if categories - 1 <= np.iinfo(kind).max)


def _packed(alphabet: Any, texts: Iterable[str], most: int) -> np.ndarray:
    """The tokens of texts one after the other. No alphabet makes more of a letter than UTF-8 has bytes, 4: what of the room for
    so many is never written takes no memory."""
    out, filled = np.empty(most, _least(alphabet.size)), 0
    for text in texts:
        ids = alphabet.ids(text)
        out[filled : filled + len(ids)] = ids
        filled += len(ids)
    return out[:filled]


def _digest(alphabet: Any, tokens: np.ndarray, form: str) -> str:
    total = hashlib.sha256(f"{alphabet.model_dump_json()} {form} {tokens.shape}".encode())
    total.update(np.ascontiguousarray(tokens).data)
    return total.hexdigest()[:16]
