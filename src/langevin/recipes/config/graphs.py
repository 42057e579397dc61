"""The settings of runs on graphs and molecules. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from langevin.config import Closed
from langevin.recipes.config.places import Placed

Feature = Literal["cycles", "pieces", "spectrum", "walks", "heat", "pagerank", "size", "powers", "valencies"]


def _names(value: Any) -> Any:
    """Names that one word holds, apart by commas; each once."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        return value
    return tuple(dict.fromkeys(name.strip() for word in words for name in word.split(",") if name.strip()))


class MoleculesData(Placed):
    """Molecules from a file of SMILES. See `langevin.data.molecules.read_molecules`."""

    places = ("path",)
    words = ("nci",)

    kind: Literal["molecules"] = "molecules"
    path: str = "data/qm9.csv"
    """File of SMILES, one a line, or a table whose heading names the column; "nci" for those that rdkit brings."""
    column: str | None = None
    """Heading of the column of SMILES; by default canonical_smiles, smiles or isomeric_smiles, in any case."""
    least: int = Field(default=2, ge=1)
    """Heavy atoms of the smallest."""
    largest: int | None = Field(default=None, ge=1)
    """Heavy atoms of the largest; None for all."""
    elements: tuple[str, ...] = ()
    """Those that may occur; none named for all."""
    properties: tuple[str, ...] = ()
    """Conditions: what is computed (qed, sa, logp, weight, lipinski, polar, rings, saturated, donors, acceptors, rotatable), and
    headings of columns of numbers, as in logp,pIC50."""
    count: int | None = Field(default=None, ge=10)
    """The first so many alone."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    form: Literal["types", "numbers"] = "types"
    """"types" for process graph, and graph-scores of prediction logits; "numbers" for graph-scores of others."""

    _apart = field_validator("properties", mode="before")(_names)


class GraphsData(Placed):
    """Graphs without types. See `langevin.data.read_graphs`."""

    places = ("path",)
    words = ("planar",)

    kind: Literal["graphs"] = "graphs"
    path: str = "data/community_small.json"
    """File of a list of {"n": nodes, "edges": [[i, j], ...]}; "planar" for 200 Delaunay triangulations of 64 points."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    valid: Literal["connected", "planar"] = "connected"
    """What samples are judged by: in one piece, or also drawn in the plane without edges that cross."""
    properties: tuple[str, ...] = ()
    """Conditions that are numbers: what is computed (nodes, edges, density, triangles, clustering, pieces), and what entries tell
    under "properties", as in {"n": 3, "edges": [], "properties": {"weight": 3.5}}."""
    labels: bool = False
    """Entries tell a class each, as in {"n": 3, "edges": [], "label": 2}, which is the condition; in place of properties."""
    form: Literal["types", "numbers"] = "types"
    """"types" for process graph, and graph-scores of prediction logits; "numbers" for graph-scores of others."""

    _apart = field_validator("properties", mode="before")(_names)

    @model_validator(mode="after")
    def _one(self) -> "GraphsData":
        if self.labels and self.properties:
            raise ValueError(f"labels is True and properties are {', '.join(self.properties)}; give one kind of condition.")
        return self


class GraphConfig(Closed):
    """Types of nodes and edges that are kept with probability alpha, each by itself (DiGress)."""

    kind: Literal["graph"] = "graph"
    schedule: str = "keep_cosine"
    limit: Literal["marginal", "uniform", "mask"] = "marginal"
    """What noise is: types as often as in the data, all alike, or a mask."""
    prediction: str = "logits"
    """logits, posterior, subs (masks), residual, or ratio."""


class GraphScoresConfig(Closed):
    """Nodes and adjacency as numbers, each under a Gaussian process of its own, coupled by the network (GDSS)."""

    kind: Literal["graph-scores"] = "graph-scores"
    nodes: str = "vp_linear"
    """Schedule of what tells the types of nodes, where there are several."""
    edges: str = "vp_linear"
    """Schedule of the adjacency."""
    prediction: str = "eps"
    """"logits": the network says the probability of each type, of which a mean and a score are made, and is trained by
    cross-entropy on data of form "types"; others (eps, v, x0, edm) by squared error on "numbers"."""

    @property
    def of_types(self) -> bool:
        """Whether data are types, which stand at points, and no numbers."""
        return self.prediction.partition(":")[0] == "logits"


class GraphTransformerConfig(Closed):
    """See `langevin.networks.GraphTransformer`."""

    kind: Literal["graph"] = "graph"
    width: int = Field(default=96, ge=8)
    """Features of nodes."""
    edge_width: int = Field(default=48, ge=4)
    whole: int = Field(default=64, ge=4)
    """Features of the whole graph."""
    depth: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    features: tuple[Feature, ...] = ("cycles", "pieces", "spectrum", "walks", "size")
    """Of structure; see `langevin.graphs.features.Structural`. "powers" are for numbers, "valencies" of molecules."""
    published: bool = False
    """Cycles of five and valencies are counted as in the published program of DiGress: cycles wrongly beside triangles, and the
    place of an atom's type for its usual valency."""
