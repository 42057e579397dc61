"""Texts of a run, from letters to letters."""

from typing import Any

import torch
from torch import Tensor

from langevin.guidance import Sharpened
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains.text import said
from langevin.recipes.sampling import chosen
from langevin.tasks.writing import blanks_of, write
from langevin.tasks.writing import infill as fill


def written(
    run: Run, *, count: int = 1, prefix: str = "", infill: str | None = None, blank: str = "_", length: int | None = None,
    plan: str | None = None, temperature: float = 1.0, top: float = 1.0, seed: int = 0,
) -> list[str]:  # fmt: skip
    """Texts that begin with `prefix`, or `infill` with its blanks filled; see `langevin.tasks.writing`.

    Raises:
        ValueError: for a run of something else, a letter that it does not know, or a text that it does not see at once.
    """
    if not isinstance(run.recipe.data, c.TextData):
        raise ValueError(f"this run is of {run.recipe.data.kind}, and texts are written by runs of data 'text'.")
    alphabet: Any = run.facts.alphabet
    end = alphabet.size if run.facts.ended else None
    table, sharp = chosen(run, plan), None
    if temperature != 1 or top != 1:
        sharp = Sharpened(temperature, top)

    def ids(text: str) -> Tensor:
        return torch.as_tensor(alphabet.ids(text)).long()

    if infill is not None:
        text, hole = blanks_of(infill, blank, ids)
        if end is not None:  # what is given is a whole text
            text, hole = torch.cat([text, torch.tensor([end])]), torch.cat([hole, torch.tensor([False])])
        found = fill(run.denoiser, table, text, hole, count, seed=seed, guidance=sharp)
    else:
        found = write(run.denoiser, table, count, length, prefix=ids(prefix), end=end, seed=seed, guidance=sharp)
    return [said(run.facts, row) for row in found]
