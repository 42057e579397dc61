"""What a control may ask of texts: log p(c | x) as functions of points of words, for `guidance.Control`.

They are probabilities under p(w | x0) at every position, as if positions were independent; with `of="belief"` they see what the
model believes, and need no classifier. An attribute for which there is a classifier of states goes in as it is.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from langevin.core.denoiser import Cond
from langevin.core.levels import Level
from langevin.embedded import Embedded

LogProb = Callable[[Tensor, Level, Cond], Tensor]
_LEAST = 1e-9


def contains(process: Embedded, tokens: int | Sequence[int]) -> LogProb:
    """That one word stands somewhere: log(1 - prod_l (1 - p_l)), p_l the probability that its tokens begin at l.

    Args:
        tokens: the word, one id or several in a row.

    Raises:
        ValueError: for no tokens.
    """
    word = [tokens] if isinstance(tokens, int) else list(tokens)
    if not word:
        raise ValueError("tokens is empty; name at least 1.")

    def log_prob(x: Tensor, t: Level, cond: Cond) -> Tensor:
        said = process.log_probs(x)
        last = said.shape[1] - len(word) + 1
        begun = torch.stack([said[:, k : k + last, token] for k, token in enumerate(word)]).sum(0)
        missing = torch.log1p(-begun.exp().clamp(max=1 - 1e-6)).sum(1)
        return torch.log(-torch.expm1(missing) + _LEAST)

    return log_prob


def of_length(process: Embedded, end: int, length: int) -> LogProb:
    """That a text has `length` tokens: from there on all are the one that ends, and before it none is.

    Args:
        end: the token that ends, and fills up, a text (`langevin.data.Documents.end`).
    """
    if length < 0:
        raise ValueError(f"length is {length}; a text has at least 0 tokens.")

    def log_prob(x: Tensor, t: Level, cond: Cond) -> Tensor:
        ends = process.log_probs(x)[..., end]
        going = torch.log1p(-ends.exp().clamp(max=1 - 1e-6))
        return going[:, :length].sum(1) + ends[:, length:].sum(1)

    return log_prob
