"""What a domain has to say."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from langevin.core.denoiser import BaseDenoiser, Shape
from langevin.core.plan import Draft, Plan
from langevin.core.process import Process
from langevin.core.sample import sample
from langevin.data import Arrays
from langevin.embedded import state_shape
from langevin.evaluate import Evaluation
from langevin.recipes import config as c
from langevin.recipes.facts import Facts
from langevin.recipes.processes import make_process

if TYPE_CHECKING:
    from langevin.recipes.build import Run


@dataclass(frozen=True)
class Asked:
    """What an evaluation is asked for. See `langevin.recipes.evaluation.evaluate`."""

    count: int
    seed: int = 1
    plans: Mapping[float, Plan | Draft] = field(default_factory=dict)
    """By the strength of guidance, for each of `Domain.strengths`."""
    guidance: float | None = None
    features: str | Path = "auto"
    metrics: tuple[str, ...] = ()
    """Empty for the usual ones."""
    small: bool = False
    device: str = "cpu"
    folder: Path | None = None
    against: Any = None
    properties: Mapping[str, float] | None = None
    """What samples are asked for, in its own units."""

    @property
    def plan(self) -> Plan | Draft:
        """That of the first strength."""
        return next(iter(self.plans.values()))


class Domain(ABC):
    """A kind of data, such as pictures.

    Attributes:
        formats: endings of the files that samples can be written to, the usual one first.
        metrics: what its samples can be judged by: names, and what they mean.
        least: held-out samples that its evaluation takes.
    """

    formats: ClassVar[tuple[str, ...]] = (".npy",)
    metrics: ClassVar[Mapping[str, str]] = {}
    least: ClassVar[int] = 1

    # Before there is a run

    @abstractmethod
    def read(self, cfg: Any, scan: Path | None = None) -> tuple[Any, Any]:
        """(training data, held-out data).

        Args:
            scan: JSON in which a scan of the data is remembered, where there is one.
        """

    @abstractmethod
    def facts(self, train: Any, test: Any, recipe: c.Recipe) -> Facts:
        """What has to be known of the data later on."""

    def as_begun(self, train: Any, test: Any, facts: Facts) -> tuple[Any, Any]:
        """(training data, held-out data) in the units that a run was begun with, which are those of its weights: data that has
        changed since, and is meant (--other-data), brings others.

        Raises:
            ValueError: for data that does not fit into what the run knows.
        """
        return train, test

    def process(self, cfg: c.ProcessConfig, facts: Facts) -> tuple[Process, Any]:
        """(process, prediction); dicts by leaf for a product."""
        return make_process(cfg, facts.marginal)

    def states(self, facts: Facts, process: Process) -> Shape:
        """The shape of one state."""
        return state_shape(process, facts.shape)

    @abstractmethod
    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        """A network that fits the data and the process, with conditions `scalars`, and tokens of so many features, besides
        those of the data.

        Args:
            predictions: how its outputs are read, by leaf in a product, which says how many there are (`heads.outputs`).

        Raises:
            ValueError: where it does not fit.
        """

    # Of a run

    def options(self, run: "Run", count: int, seed: int, first: int) -> dict[str, Any]:
        """What `sample` is told of samples first .. first + count - 1, such as a mask; a function of the seed and their ids."""
        return {}

    def conditions(self, run: "Run", properties: Mapping[str, float], count: int) -> dict[str, Any]:
        """Conditions of samples that are to have these properties, told in their own units.

        Raises:
            ValueError: for a run that has none of that name.
        """
        raise ValueError(f"property is {min(properties)!r}, and samples of this run have no properties; leave it out.")

    def rows(self, run: "Run", path: Path, given: bool = False) -> Any:
        """Samples that are handed to the run, as it knows them: of a .npy file, or of what its own data is read from.

        Args:
            given: with their conditions, where they have some.

        Raises:
            ValueError: if they are of another shape, or kind.
        """
        shape = self.shape_of_data(run)
        if path.is_dir() or path.suffix == ".txt":
            what, kind = "a folder" if path.is_dir() else "a text", run.recipe.drawn.kind
            raise ValueError(
                f"{path} is {what}, and this run's data, {kind!r}, is none; give a .npy of samples of shape {shape}."
            )
        data = Arrays(path)
        if data.shape != shape:
            raise ValueError(f"{path} holds samples of shape {data.shape}, this run's have {shape}; make them agree.")
        return data

    def shape_of_data(self, run: "Run") -> Any:
        """Of one sample of the data, where states have another."""
        return run.facts.shape

    def volume(self, run: "Run") -> float:
        """The logarithm of how much larger a volume is in the units of the data than as the run knows it: what its
        log-likelihoods are too high by."""
        return 0.0

    def tokens_per_character(self, run: "Run", source: Any) -> float | None:
        """Of texts, what bits per token are brought to bits per character by; None where elements are no tokens."""
        return None

    def sample(self, model: BaseDenoiser, plan: Any, **options: Any) -> Any:
        """The loop that samples come from."""
        return sample(model, plan, **options)

    def finish(self, run: "Run", x: Any, options: Mapping[str, Any]) -> Any:
        """Samples as they are handed on, such as padding marked, so that they can be read without `options`."""
        return x

    @abstractmethod
    def overview(self, run: "Run", stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """A page of samples at `stem` with the ending of the domain; other options are those of `draw`. All is drawn before
        anything is written: processes that share the weights draw together, and a disk fails in one of them."""

    @abstractmethod
    def write(self, run: "Run", x: Any, path: Path, **options: Any) -> Path:
        """Samples to a file of one of `formats`; options are those of `draw` that they were drawn with."""

    def animation(self, run: "Run", path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
        """How samples come about, step by step; None where there is nothing to see."""
        return None

    @abstractmethod
    def evaluate(self, run: "Run", asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        """The judgement of a run against its held-out data; `sampled` is what the card says of how it was sampled."""

    def strengths(self, run: "Run", guidance: float | None) -> tuple[float, ...]:
        """Strengths of guidance that `evaluate` draws under, of those asked for; None for the usual ones."""
        return (run.recipe.sample.guidance if guidance is None else guidance,)

    def check_way(self, plan: Any, guidance: float | None) -> None:
        """Refuse a plan or a guidance that `evaluate` would leave unread. Raises ValueError."""
        return

    def afford(self, run: "Run", asked: Asked) -> None:
        """Refuse, before training and at no cost, samples too few for `evaluate`. Raises ValueError."""
        return

    def check(self, run: "Run", asked: Asked) -> None:
        """Refuse, before anything is drawn, what `evaluate` could not measure. Raises ValueError."""
        return

    def reference(self, run: "Run", features: str | Path, folder: Path | None, device: str) -> Any:
        """What does not change from one evaluation of a run to the next (`Asked.against`); None for nothing."""
        return None

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Metrics that are measured as a model trains, of those that the recipe names."""
        return tuple(metrics)

    def pages(self, run: "Run", out: Path) -> Iterator[Callable[[], Path | None]]:
        """What a trained run leaves to look at, one at a time."""
        yield lambda: self.overview(run, out / "samples")
        yield lambda: self.animation(run, out / "denoising.gif")
