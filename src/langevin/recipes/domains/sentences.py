"""Short texts, as points of words: pages of samples, rounding, and how far their words and pairs of words are the data's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from langevin import schedules, spec
from langevin.core import prediction
from langevin.core.denoiser import Shape
from langevin.core.process import Process
from langevin.data import Documents
from langevin.embedded import Embedded
from langevin.evaluate import Evaluation
from langevin.files import write
from langevin.networks import JointTransformer, VectorPort
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked
from langevin.recipes.domains.written import WrittenDomain, share_known, texts_of, word_pairs
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import card
from langevin.recipes.facts import Facts


class SentenceDomain(WrittenDomain):
    """Texts of a line."""

    formats: ClassVar[tuple[str, ...]] = (".txt",)
    metrics: ClassVar[Mapping[str, str]] = {
        "rounding": "share of tokens at which argmax p(w | x) is the nearest point",
        "words": "share of words of samples that the training texts have",
        "pairs": "share of neighbouring words of samples that stand so in training texts; of held-out texts beside it",
        "unique": "share of samples that are no other sample",
        "copies": "share of samples that are training texts",
    }

    def read(self, cfg: c.SentencesData, scan: Path | None = None) -> tuple[Any, Any]:
        train = Documents(cfg.path, cfg.key, cfg.alphabet, cfg.length, "train", cfg.held_out, cfg.vocabulary)
        return train, train.part("test")

    def rows(self, run: Run, path: Path, given: bool = False) -> Any:
        """Of lines of a text, or of a folder of such, as well: all that are short enough, by the run's alphabet."""
        cfg = run.recipe.drawn
        assert isinstance(cfg, c.SentencesData) and run.facts.alphabet is not None
        if path.suffix == ".npy":
            return super().rows(run, path)
        return Documents(path, cfg.key, run.facts.alphabet, cfg.length, "all")

    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        process = recipe.process
        if not isinstance(process, c.EmbeddedConfig):
            raise ValueError(f"process is {process.kind!r}, and sentences are points of words here; use process 'embedded'.")
        return Facts(shape=(*train.shape, process.width), classes=None, alphabet=train.alphabet)

    def process(self, cfg: c.ProcessConfig, facts: Facts) -> tuple[Process, Any]:
        assert isinstance(cfg, c.EmbeddedConfig) and facts.alphabet is not None
        # a table of normal numbers is drawn like any first weight, as a function of the recipe's seed
        table = nn.Embedding(facts.alphabet.size + 1, cfg.width).weight.detach()
        schedule = spec.parse(cfg.schedule, schedules.SCHEDULES, "schedule")
        predicted = spec.parse(cfg.prediction, prediction.PREDICTIONS, "prediction")
        return Embedded(table, schedule, cfg.std, learned=True), predicted

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        if not isinstance(cfg, c.VectorsConfig) or scalars or tokens is not None:
            raise ValueError(f"network is {cfg.kind!r}, and sequences of points take 'vectors', without conditions; use it.")
        length, width = facts.shape  # pyright: ignore[reportAssignmentType]
        port = VectorPort(cfg.width, int(width), int(length))
        return JointTransformer({"": port}, cfg.width, cfg.depth, cfg.heads, cfg.dropout)

    def states(self, facts: Facts, process: Process) -> Shape:
        return facts.shape  # its facts tell of points

    def shape_of_data(self, run: Run) -> Any:
        assert isinstance(run.facts.shape, tuple)
        return run.facts.shape[:-1]  # ids have an axis less than the points they stand for

    def texts(self, run: Run, x: Tensor) -> list[str]:
        """What samples (N, L, D) say."""
        return [run.test.text(ids) for ids in self._leaf(run).round(x).cpu()]

    @staticmethod
    def _leaf(run: Run) -> Embedded:
        leaf = run.denoiser.process
        assert isinstance(leaf, Embedded)
        return leaf

    def write(self, run: Run, x: Tensor, path: Path, **options: Any) -> Path:
        return write(path, "".join(" ".join(text.split("\n")) + "\n" for text in self.texts(run, x)))

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        if asked.metrics or str(asked.features) != "auto" or asked.guidance not in (None, 1.0):
            raise ValueError("sentences are judged by their words alone, without guidance; leave these out.")
        x = draw(run, asked.count, seed=asked.seed, plan=asked.plan)
        leaf = self._leaf(run)
        said = self.texts(run, x)
        train, test = (texts_of(s) for s in (run.train, run.test))
        words = Counter(w for text in train for w in text.split())
        joined = {pair for text in train for pair in word_pairs(text)}
        values: dict[str, Any] = {
            "rounding": float((leaf.round(x) == leaf.nearest(x)).float().mean()),
            "words": share_known((w for text in said for w in text.split()), words),
            "pairs": share_known((p for text in said for p in word_pairs(text)), joined),
            "pairs_real": share_known((p for text in test for p in word_pairs(text)), joined),
            "unique": len(set(said)) / len(said),
            "copies": share_known(said, set(train)),
        }
        made = card(sampled, small=asked.small, pixels="none: texts", metrics=dict(self.metrics))
        return Evaluation(metrics=values, protocol=made)


DOMAIN = SentenceDomain()
