"""langevin design, and what steers samples: langevin regress, langevin classify."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse
from langevin.config import TrainConfig
from langevin.recipes.config import GraphTransformerConfig, VectorsConfig
from langevin.recipes.config.designing import Rounds
from langevin.recipes.config.regressing import CLASSIFIER, CLASSIFIER_TRAIN, NETWORK, TRAIN


@dataclass(frozen=True)
class _Design:
    run: Positional[Path]
    """Run directory, of molecules."""
    out: Path
    """Directory for best.smi, best.png, designs.json and rounds.jsonl; one that has some is gone on with."""
    goal: tuple[str, ...] = ("qed", "sa")
    """What is wanted: qed, sa (1 is easy to make), lipinski, or a property in a range, such as logp=1..3."""
    property: tuple[str, ...] = ()
    """Conditions of a run that has such, as in logp=2."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    how: Annotated[Rounds, tyro.conf.arg(name="")] = field(default_factory=Rounds)


def properties_of(words: Sequence[str]) -> dict[str, float] | None:
    """{"logp": 2.0} from "logp=2"; None for no words.

    Raises:
        Refusal: for what is no property and number.
    """
    found = {}
    for word in words:
        name, _, value = word.rpartition("=")  # a heading may have one of its own
        if name in found:
            raise Refusal(f"property is {word!r}, and {name} is asked for twice; give one number for it.")
        try:
            found[name] = float(value if name else "")
        except ValueError:
            raise Refusal(f"property is {word!r}; give a name and a number, as in logp=2.") from None
        if not math.isfinite(found[name]):
            raise Refusal(f"property is {word!r}; give a finite number, as in logp=2.")
    return found or None


@dataclass(frozen=True)
class _Regress:
    run: Positional[Path]
    """Run directory, of graphs or molecules as types (process graph)."""
    property: tuple[str, ...]
    """What is to be read from noisy graphs: what --data.properties of such data can be, such as logp or qed."""
    out: Path
    """Directory for the regressor."""
    network: GraphTransformerConfig = NETWORK
    train: TrainConfig = TRAIN
    resume: bool = False
    """Go on with the regressor in that directory."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def regress(args: Sequence[str]) -> None:
    """Learn to read properties from a run's noisy graphs, by which its samples are steered: langevin sample RUN --steer DIR."""
    asked = parse(_Regress, args, "langevin regress")
    from langevin.recipes.opening import open_run
    from langevin.recipes.regressing import regress as learned

    learned(open_run(asked.run, device=asked.device), asked.property, asked.out, network=asked.network, train=asked.train,
            resume=asked.resume, device=asked.device)  # fmt: skip
    print(asked.out)


@dataclass(frozen=True)
class _Classify:
    run: Positional[Path]
    """Run directory, of sentences as points of words (Diffusion-LM)."""
    attributes: tuple[str, ...]
    """What is to be read from noisy sentences, as the names of the data's texts tell it, such as "area : riverside"."""
    out: Path
    """Directory for the classifier."""
    network: VectorsConfig = CLASSIFIER
    train: TrainConfig = CLASSIFIER_TRAIN
    resume: bool = False
    """Go on with the classifier in that directory."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def classify(args: Sequence[str]) -> None:
    """Learn to tell attributes from a run's noisy sentences, by which its texts are controlled: langevin write RUN --classifier
    DIR --attributes A."""
    asked = parse(_Classify, args, "langevin classify")
    from langevin.recipes.classifying import classify as learned
    from langevin.recipes.opening import open_run

    learned(open_run(asked.run, device=asked.device), asked.attributes, asked.out, network=asked.network, train=asked.train,
            resume=asked.resume, device=asked.device)  # fmt: skip
    print(asked.out)


def design(args: Sequence[str]) -> None:
    """Generate, score, filter, guide, and again."""
    asked = parse(_Design, args, "langevin design")
    from langevin.recipes.design import Asked, goals_of
    from langevin.recipes.design import design as rounds
    from langevin.recipes.opening import open_run

    how = Asked(goals_of(asked.goal), properties=properties_of(asked.property), **vars(asked.how))
    rounds(open_run(asked.run, device=asked.device), how, asked.out)
    best = asked.out / "best.png"
    print(best if best.exists() else f"no molecule of any round was kept, and there is no {best}; see rounds.jsonl beside it.")
