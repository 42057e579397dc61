"""What the domains of texts have in common: pages of lines, a tokenizer to read them with, and shares of what is known."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.data import Documents
from langevin.embedded import Embedded
from langevin.files import write
from langevin.recipes.build import Run
from langevin.recipes.domains import Domain
from langevin.recipes.drawing import draw
from langevin.text.tokenizer_json import to_json


class WrittenDomain(Domain):
    """Texts, token by token. What differs is what a state says, and how texts are judged."""

    @abstractmethod
    def texts(self, run: Run, x: Tensor) -> list[str]:
        """What samples (N, ...) say."""

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """So many texts."""
        return self.write(run, draw(run, rows, seed=seed, label=label, **options), stem.with_suffix(".txt"))

    def pages(self, run: Run, out: Path) -> Iterator[Callable[[], Path | None]]:
        yield lambda: self.overview(run, out / "samples")
        yield lambda: tokenizer(run, out / "tokenizer.json")

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        return ()  # judged once, by all of them


def texts_of(source: Documents) -> list[str]:
    """All texts of a data set."""
    x = source.batch(torch.arange(len(source))).x
    assert isinstance(x, Tensor)
    return [source.text(ids) for ids in x]


def word_pairs(text: str) -> list[tuple[str, str]]:
    """The pairs of neighbouring words of a text."""
    words = text.split()
    return list(zip(words[:-1], words[1:], strict=True))


def share_known(items: Iterable[Any], known: Collection[Any]) -> float:
    """The share of items that are among those known; 0 of none."""
    found = [item in known for item in items]
    return sum(found) / max(len(found), 1)


def tokenizer(run: Run, path: Path) -> Path:
    """Write a run's alphabet as tokenizers and transformers read it, with the tokens that end and that mask where it has such."""
    process: Any = run.denoiser.process
    assert run.facts.alphabet is not None
    ended = run.facts.ended or isinstance(process, Embedded)
    return write(path, to_json(run.facts.alphabet, ended, getattr(process, "masked", False)))
