"""Texts, written token by token: pages of samples, bits per character, and perplexity beside entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from langevin.core.categorical import Categorical
from langevin.core.process import Process
from langevin.core.sample import sample
from langevin.data import Documents, Packed, Text
from langevin.data.text import until
from langevin.evaluate import Evaluation
from langevin.evaluate.ngrams import NGrams, entropy_bits
from langevin.files import write
from langevin.heads import outputs
from langevin.networks import SequenceTransformer
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.domains.pictures import write_numbers
from langevin.recipes.domains.written import WrittenDomain, share_known
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import card
from langevin.recipes.facts import Facts
from langevin.recipes.likelihood import likelihood
from langevin.recipes.processes import make_process
from langevin.tasks.writing import write as go_on

ORDER, TOKENS = 5, 2**15


class TextDomain(WrittenDomain):
    """Texts as categories."""

    formats: ClassVar[tuple[str, ...]] = (".txt", ".npy")
    metrics: ClassVar[Mapping[str, str]] = {
        "bits_per_character": "of held-out text, an upper bound where the model has one",
        "perplexity": "exp of the nats per token of the same",
        "entropy": "bits of the shares of tokens, of samples and of held-out text",
        "ngrams": f"bits per token of samples under runs of {ORDER} tokens counted on training text, and those of held-out text",
        "words": "share of words of samples that training text has, and of held-out text",
        "copied": "share of runs of 32 tokens (a text, if shorter) of samples that training text has, and of held-out text",
    }

    def read(self, cfg: c.TextData, scan: Path | None = None) -> tuple[Any, Any]:
        train = _read(cfg, cfg.path, cfg.alphabet, "train", cfg.stride)
        return train, train.part("test", stride=cfg.length)

    def rows(self, run: Run, path: Path, given: bool = False) -> Any:
        """Of a text, or a folder of such, as well: all of it, by the run's alphabet."""
        cfg = run.recipe.drawn
        assert isinstance(cfg, c.TextData)
        return super().rows(run, path) if path.suffix == ".npy" else _read(cfg, path, run.facts.alphabet, "all")

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        process, net = recipe.process, recipe.network
        if not isinstance(process, c.CategoricalConfig):
            raise ValueError(f"process is {process.kind!r}, and texts are categories; use 'categorical'.")
        block = getattr(net, "block", None)
        whole = block is None or train.length % block == 0
        if block is not None and (process.limit != "mask" or recipe.objective.kind != "masking" or not whole):
            raise ValueError(
                f"network.block is {block}; blocks are learned with process.limit mask, objective masking, and a length that is "
                "a whole number of them."
            )
        blank = process.limit == "mask" and process.kernel is None
        if not blank and not getattr(net, "timed", True):
            raise ValueError(
                f"network.timed is False and process.limit {process.limit!r}; without masks a text does not show how much "
                "noise it has, so say --network.timed, or use limit mask."
            )
        ended = isinstance(train, Packed)
        return Facts(shape=train.shape, classes=None, alphabet=train.alphabet, ended=ended)

    def process(self, cfg: c.ProcessConfig, facts: Facts) -> tuple[Process, Any]:
        assert isinstance(cfg, c.CategoricalConfig) and facts.alphabet is not None
        sized = cfg.model_copy(update={"categories": facts.alphabet.size + facts.ended})
        return make_process(sized, facts.marginal)

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        if not isinstance(cfg, c.SequenceConfig) or scalars or tokens is not None:
            raise ValueError(f"network is {cfg.kind!r}, and texts take 'sequence', without conditions; use it.")
        assert isinstance(process, Categorical)
        options = cfg.model_dump(exclude={"kind"})
        return SequenceTransformer(process.states, outputs(predictions, process), **options)

    def sample(self, model: Any, plan: Any, **options: Any) -> Any:
        """A network of blocks goes on block by block, under a plan of one block; others by `sample` itself."""
        if getattr(model.net, "block", None) is None:
            return sample(model, plan, **options)
        kept = {name: options[name] for name in ("count", "seed", "first_id", "guidance")}
        return go_on(model, plan, **kept)

    def texts(self, run: Run, x: Tensor) -> list[str]:
        """What samples (N, L) say. Of packed lines each is a line, of which the first and the last may be cut."""
        return [said(run.facts, ids) for ids in x.cpu()]

    def write(self, run: Run, x: Tensor, path: Path, **options: Any) -> Path:
        if path.suffix == ".npy":
            return write_numbers(x.cpu(), path)
        return write(path, "\n----\n".join(self.texts(run, x)) + "\n")

    def tokens_per_character(self, run: Run, source: Any) -> float | None:
        letters = getattr(source, "letters", None)
        return None if not letters else len(source.tokens) / letters

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        if asked.metrics or str(asked.features) != "auto" or asked.guidance not in (None, 1.0):
            raise ValueError("texts are judged by all of their metrics, without guidance; leave these out.")
        length = int(run.facts.shape[0])  # pyright: ignore[reportArgumentType]
        count = min(
            asked.count, max(2, TOKENS // length)
        )  # texts; held-out windows, of which each is judged once, are not so dear
        x = draw(run, count, seed=asked.seed, plan=asked.plan).cpu()
        train, test = np.asarray(run.train.tokens), np.asarray(run.test.tokens)
        found = likelihood(run, count=asked.count, seed=asked.seed).said()
        k = run.train.categories
        counted = NGrams(train, k, next(n for n in range(ORDER, 0, -1) if k**n < 2**62))
        drawn, held = list(x.numpy()), [test[i : i + length] for i in range(0, min(len(test) - length, TOKENS), length)]
        words, size = set(" ".join(_lines(run, train)).split()), min(32, length)
        runs = _runs([train], size)
        real = _lines(run, np.concatenate(held))
        values: dict[str, Any] = {
            "bits_per_character": found["bits_per_character"],
            "perplexity": float(np.exp(found["nats_per_element"])),
            "entropy": entropy_bits(x.numpy(), k), "entropy_real": entropy_bits(test, k),
            "ngrams": counted.bits(drawn), "ngrams_real": counted.bits(held),
            "words": share_known(" ".join(self.texts(run, x)).split(), words),
            "words_real": share_known(" ".join(real).split(), words),
            "copied": float(np.isin(_runs(drawn, size), runs).mean()),
            "copied_real": float(np.isin(_runs(held, size), runs).mean()),
        }  # fmt: skip
        told = {
            **self.metrics,
            "bits_per_character": f"{self.metrics['bits_per_character']}: {found['how']}; {found['samples']} windows",
        }
        blocks = -(-length // (getattr(run.denoiser.net, "block", None) or length))  # each has the plan's evaluations
        sampled = {**sampled, "samples": count, "nfe": sampled["nfe"] * blocks}
        made = card(sampled, small=asked.small, pixels="none: texts", metrics=told)
        return Evaluation(metrics=values, protocol=made)


def _read(cfg: c.TextData, path: Any, alphabet: Any, split: str, stride: int | None = None) -> Text | Packed:
    """A split of texts; windows do not overlap where no stride is given."""
    if not cfg.lines:
        return Text(path, alphabet, cfg.length, split, cfg.held_out, stride, cfg.vocabulary, clean=cfg.clean)
    if cfg.clean is not None:
        raise ValueError(f"clean is {cfg.clean!r}, and lines are read as they are; leave it out.")
    return Packed(Documents(path, cfg.key, alphabet, 2**12, split, cfg.held_out, cfg.vocabulary), cfg.length, stride)


def said(facts: Facts, ids: Tensor) -> str:
    """What tokens (L,) say; every text that ends is a line."""
    alphabet: Any = facts.alphabet
    if not facts.ended:
        return alphabet.text(ids.numpy())
    lines, rest = [], ids
    while len(rest):
        text = until(rest, alphabet.size)
        lines.append(alphabet.text(text.numpy()))
        rest = rest[len(text) + 1 :]
    return "\n".join(lines)


def _lines(run: Run, tokens: np.ndarray) -> list[str]:
    return said(run.facts, torch.from_numpy(tokens.astype(np.int64))).split("\n")


def _runs(texts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """A number for each run of so many tokens; arithmetic modulo 2^64 tells them apart."""
    factor, found = np.int64(6364136223846793005), []
    for text in texts:
        whole = np.asarray(text).astype(np.int64) + 1
        code = np.zeros(len(whole) - length + 1, np.int64)
        for k in range(length):
            code = code * factor + whole[k : len(whole) - length + 1 + k]
        found.append(code)
    return np.concatenate(found)


DOMAIN = TextDomain()
