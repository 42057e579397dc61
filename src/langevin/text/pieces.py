"""Byte pairs: which letters stand for bytes, and which neighbours are joined (1508.07909)."""

from collections import Counter, defaultdict
from collections.abc import Iterator


def letters() -> list[str]:
    """256 letters that stand for the bytes, in the order of GPT-2's and CLIP's vocabularies: printable bytes for themselves, then
    the rest."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]


def byte_of() -> dict[str, int]:
    """The byte that each of `letters` stands for."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in set(own)]
    return dict(zip(letters(), [*own, *rest], strict=True))


def merges(words: dict[tuple[str, ...], int], most: int) -> Iterator[str]:
    """The pairs that byte-pair encoding joins, "a b", the most frequent one first, of those as frequent the first in order:
    libraries leave ties to chance, and a run is a function of its recipe.

    Args:
        words: how often each word occurs, as letters.
        most: pairs.
    """
    spelled, counts = list(words), list(words.values())
    pairs: Counter[tuple[str, str]] = Counter()
    inside: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(k: int, sign: int) -> None:
        for pair in zip(spelled[k], spelled[k][1:], strict=False):
            pairs[pair] += sign * counts[k]
            inside[pair].add(k)

    for k in range(len(spelled)):
        count(k, 1)
    for _ in range(most):
        often = max(pairs.values(), default=0)
        if often < 2:
            return
        best = min(pair for pair, n in pairs.items() if n == often)
        yield " ".join(best)
        for k in sorted(inside[best]):  # only these are spelled otherwise now
            count(k, -1)
            spelled[k] = _joined(spelled[k], *best)
            count(k, 1)
        del pairs[best]


def _joined(word: tuple[str, ...], first: str, second: str) -> tuple[str, ...]:
    if first not in word:
        return word
    made: list[str] = []
    for letter in word:
        if made and made[-1] == first and letter == second:
            made[-1] = first + second
        else:
            made.append(letter)
    return tuple(made)
