"""What a run has to know of its data to be rebuilt without it."""

import math
from collections.abc import Sequence
from typing import Any

from langevin.config import Closed
from langevin.recipes.captions import Vocabulary
from langevin.text.alphabets import Alphabet

RECIPE_FILE, FACTS_FILE, SCAN_FILE = "recipe.json", "facts.json", "scan.json"
"""What a run's directory says of it, in words."""


class GraphFacts(Closed):
    """What has to be known of graphs."""

    node_types: tuple[str, ...]
    edge_types: tuple[str, ...]
    """The first is "no edge"."""
    nodes: tuple[float, ...]
    """How often each type of node is."""
    edges: tuple[float, ...]
    """How often each type of edge is, among pairs of nodes."""
    sizes: tuple[float, ...]
    """How often graphs have 0, 1, 2, ... nodes."""
    properties: tuple[str, ...] = ()
    """Conditions that are numbers."""
    measured: tuple[tuple[str, float, float], ...] = ()
    """Those that are told less their mean and divided by their deviation, in the units of the data: name, mean, deviation. Of
    molecules these were read from a table; what is computed of them has units of its own."""
    molecules: bool = False


class TableFacts(Closed):
    """What has to be known of a table: a row is mean + scale x for x as the model knows it."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    label: str | None = None
    """The column with the classes."""
    classes: tuple[str, ...] | None = None
    """Their names, where they have names."""


class CodecFacts(Closed):
    """The autoencoder whose latents samples are, and the scale of these: see `langevin.networks.autoencoder.Scale`."""

    origin: str
    """Where it was found."""
    hash: str
    """Of its weights."""
    pictures: tuple[int, ...]
    """Shape of one picture."""
    factor: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Facts(Closed):
    """Written beside the recipe when a run begins; what only some kinds of data have is None for the others."""

    shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    """Of one sample; of its latents, where there is a codec."""
    codec: CodecFacts | None = None
    """Where samples are latents of pictures."""
    classes: int | None
    """Labels run from 0 to classes - 1; None for none."""
    class_names: tuple[str, ...] | None = None
    """What they are called, where the data says it."""
    origin: str | None = None
    """Hash of the weights that the run began with; None for weights that were drawn."""
    teacher: str | None = None
    """Hash of the teacher's weights, where there is one."""
    distance: str | None = None
    """Hash of the data whose classifier measures the objective's distances, where one does."""
    vocabulary: Vocabulary | None = None
    """What captions are split by, where they are conditions."""

    factor: int | None = None
    """By how much the small pictures are smaller that samples are drawn from; None where there are none."""
    alphabet: Alphabet | None = None
    """What texts are written in, where samples are texts."""
    ended: bool = False
    """Whether one more category than the alphabet's ends a text."""

    marginal: tuple[float, ...] | None = None
    """The share of each category in training data, where noise ends there."""
    graph: GraphFacts | None = None
    """Where samples are graphs."""
    table: TableFacts | None = None
    """Where samples are rows of a table."""

    replaced: bool = False
    """Whether training went on on other data than these numbers were measured on."""

    def label(self, said: str) -> int:
        """The number of a class, by its name or as it is.

        Raises:
            ValueError: for what is neither, naming the classes.
        """
        names = self.names
        if said in names:
            return names.index(said)
        if said.isdecimal() and len(said) < 10:
            return int(said)
        known = f"one of {', '.join(names[:20])}, or its number" if names else "a number from 0"
        raise ValueError(f"label is {said!r}; classes of this run are told by {known}.")

    @property
    def names(self) -> tuple[str, ...]:
        """What classes are called, by folders or by the column of a table; () where the data does not say it."""
        return self.class_names or (self.table.classes if self.table else None) or ()

    @property
    def conditional(self) -> bool:
        """Whether there is a condition that guidance can strengthen."""
        return self.classes is not None or self.vocabulary is not None or bool(self.graph and self.graph.properties)


APART = ("origin", "teacher", "distance", "vocabulary.examples", "codec", "replaced")
"""Facts that are not of the data a run learns from, or are compared by themselves."""
MEASURED = (
    "marginal", "table.mean", "table.scale", "graph.nodes", "graph.edges", "graph.sizes", "graph.measured", "vocabulary.merges",
)  # fmt: skip
"""Facts that other data of the same kind changes. A run that goes on on it keeps those that its weights learned by."""


def unlike(was: Closed, now: Closed, within: str = "", apart: Sequence[str] = APART) -> tuple[str, Any, Any] | None:
    """The first of the facts written down, but those `apart`, that is another now, with both; what an older file does not tell
    is not asked."""
    for name in was.__class__.model_fields:
        a, b, said = getattr(was, name), getattr(now, name), within + name
        if name not in was.model_fields_set or said in apart:
            continue
        if isinstance(a, Closed) and isinstance(b, Closed):
            if found := unlike(a, b, f"{said}.", apart):
                return found
        elif not _alike(a, b):
            return said, a, b
    return None


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b


def kept(was: Facts, now: Facts) -> Facts:
    """What is known of other data, with the numbers that a run was begun with."""
    told: dict[str, Any] = {"marginal": was.marginal}
    for name in ("vocabulary", "table", "graph"):
        before, here = getattr(was, name), getattr(now, name)
        if before is not None and here is not None:
            fields = {f: getattr(before if f"{name}.{f}" in MEASURED else here, f) for f in type(here).model_fields}
            told[name] = type(here)(**fields)  # no copy: that would have what a vocabulary has worked out already
    return now.model_copy(update=told)
