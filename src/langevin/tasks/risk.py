"""Choosing among samples the one that the others agree with most: minimum Bayes risk decoding (2205.14217, sec. 4.4)."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

Tokens = Sequence[Hashable]


def bleu(candidate: Tokens, reference: Tokens, order: int = 4) -> float:
    """BLEU of one sequence against one other (Papineni et al. 2002), in [0, 1]; n-grams above 1 are smoothed by adding one
    (Lin and Och 2004), so that short sequences can be told apart."""
    if order < 1:
        raise ValueError(f"order is {order}; count n-grams of at least 1 token.")
    if not candidate or not reference:
        return float(list(candidate) == list(reference))
    total = 0.0
    for n in range(1, order + 1):
        ours, theirs = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (candidate, reference))
        met, made = sum((ours & theirs).values()), sum(ours.values())
        if n == 1 and not met:
            return 0.0
        total += math.log((met + (n > 1)) / (made + (n > 1)))
    brevity = min(0.0, 1 - len(reference) / len(candidate))
    return math.exp(total / order + brevity)


def least_risk(candidates: Sequence[Any], likeness: Callable[[Any, Any], float] = bleu) -> int:
    """The index of the candidate whose mean likeness to the others is largest, the first of them: its expected risk,
    1 - likeness, is least when the others stand for what the model may mean.

    Args:
        candidates: samples for one and the same condition, at least one.
        likeness: (candidate, other) -> number; `bleu` of sequences of tokens.
    """
    if not candidates:
        raise ValueError("candidates is empty; draw at least 1 sample to choose from.")
    means = [sum(likeness(a, b) for j, b in enumerate(candidates) if j != i) for i, a in enumerate(candidates)]
    return max(range(len(candidates)), key=means.__getitem__)
