"""A model of tokens that is counted and not learned: what generated text is read by, and what a network has to beat."""

import numpy as np


class NGrams:
    """P(token | the `order` - 1 before it), with Witten and Bell's weights between long and short contexts (1991):

        P(w | h) = (c(h w) + d(h) P(w | h')) / (c(h) + d(h)),

    c how often, d how many different tokens followed h, h' one token shorter, and at the end the uniform law.

    Args:
        tokens: (N,) whole numbers below `categories`, to count.
        order: tokens of the longest pattern; 3 is a trigram.

    Raises:
        ValueError: for patterns that 64 bits cannot tell apart, or fewer tokens than one takes.
    """

    def __init__(self, tokens: np.ndarray, categories: int, order: int = 5) -> None:
        if order < 1 or categories**order >= 2**62 or len(tokens) < order:
            raise ValueError(f"order is {order} for {categories} categories and {len(tokens)} tokens; give a smaller one.")
        self.categories, self.order = categories, order
        self._tables: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for n in range(order):  # n tokens of context
            codes = _codes(tokens, categories, n + 1)
            patterns, counts = np.unique(codes, return_counts=True)
            contexts, place = np.unique(patterns // categories, return_inverse=True)
            seen = np.bincount(place, counts)
            self._tables.append((patterns, counts, contexts, seen, np.bincount(place)))

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """(N,) float64 log P of each token given those before it in the same text; the first ones have shorter contexts."""
        p = np.full(len(tokens), 1 / self.categories)
        for n, (patterns, counts, contexts, seen, different) in enumerate(self._tables):
            if len(tokens) <= n:
                break
            codes = _codes(tokens, self.categories, n + 1)
            c, d = _found(contexts, seen, codes // self.categories), _found(contexts, different, codes // self.categories)
            both = _found(patterns, counts, codes)
            p[n:] = np.where(c > 0, (both + d * p[n:]) / np.maximum(c + d, 1), p[n:])
        return np.log(p)

    def bits(self, texts: list[np.ndarray]) -> float:
        """Bits per token of texts, each by itself."""
        return -float(np.concatenate([self.log_probs(t) for t in texts]).mean()) / float(np.log(2))


def entropy_bits(tokens: np.ndarray, categories: int) -> float:
    """Of the shares of tokens, in bits: text that repeats itself has little, and then a low perplexity says nothing."""
    share = np.bincount(np.asarray(tokens).reshape(-1), minlength=categories) / np.asarray(tokens).size
    return -float((share[share > 0] * np.log2(share[share > 0])).sum())


def _codes(tokens: np.ndarray, categories: int, n: int) -> np.ndarray:
    """(N - n + 1,) int64, each run of n tokens as one number."""
    whole = np.asarray(tokens).astype(np.int64)
    codes = np.zeros(len(whole) - n + 1, np.int64)
    for k in range(n):
        codes = codes * categories + whole[k : len(whole) - n + 1 + k]
    return codes


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
