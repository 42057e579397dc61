"""Graphs: drawn by springs, judged by distances of degrees, clustering, orbits and spectra beside their floor."""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from langevin import schedules, spec
from langevin.core import prediction
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.prediction import Prediction
from langevin.core.process import LeafProcess, Process, Product
from langevin.core.space import SymmetricEdges
from langevin.data import Graph, Graphs, read_graphs
from langevin.data.graphs import drawn_mask, unpadded
from langevin.data.planar import PLANAR, planar
from langevin.embedded import Embedded, Logits
from langevin.evaluate import Evaluation
from langevin.files import staged, write
from langevin.graphs import drawing, metrics
from langevin.graphs.features import Structural, Valencies
from langevin.graphs.properties import PROPERTIES, properties_of
from langevin.heads import HEADS
from langevin.networks import GraphRegressor, GraphTransformer
from langevin.pictures import save_png
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains import Asked, Domain
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import card
from langevin.recipes.facts import Facts, GraphFacts
from langevin.recipes.processes import scheduled
from langevin.recipes.recorded import record_of

VALID: dict[str, Callable[[Tensor], bool]] = {
    "connected": metrics.connected,
    "planar": lambda graph: metrics.planar(graph) and metrics.connected(graph),
}
"""What makes a sample a valid one, by its name in the settings of the data."""


class GraphDomain(Domain):
    """Graphs whose nodes and edges are all of one type."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".gif", ".json")
    metrics: ClassVar[Mapping[str, str]] = {
        **{name: f"squared MMD of {name} to held-out graphs, Gaussian kernel of the earth mover's distance; of as many samples "
           f"as there are training graphs at most, and {name}_floor of as many of these" for name in metrics.STATISTICS},
        "ratio": "mean over these of the distance over its floor",
        "valid": "share of samples in one piece; unique and novel up to isomorphism, of these and of those",
    }  # fmt: skip

    computed: ClassVar[Collection[str]] = PROPERTIES
    """Properties that are known of any sample."""

    def read(self, cfg: c.GraphsData, scan: Path | None = None) -> tuple[Graphs, Graphs]:
        return halves(self._every(cfg), cfg)

    def _every(self, cfg: c.GraphsData) -> Graphs:
        """All graphs of a file, with their conditions."""
        own = [name for name in cfg.properties if name not in self.computed]
        if cfg.path == PLANAR and (own or cfg.labels):
            what = "labels is True" if cfg.labels else f"properties has {own[0]!r}"
            raise ValueError(f"{what}, and {PLANAR} graphs tell nothing of themselves; name one of {', '.join(self.computed)}.")
        every = planar() if cfg.path == PLANAR else read_graphs(cfg.path, own, cfg.labels)
        names = [name for name in cfg.properties if name in self.computed]
        values = properties_of([adjacency(g) for g in _all(every)] if names else [], names)
        every = every.told(dict(zip(names, values.unbind(1), strict=True)))
        if cfg.properties and every.cond is not None:
            every.cond = {name: every.cond[name] for name in cfg.properties}  # in the order that is asked for
        return every

    def rows(self, run: Run, path: Path, given: bool = False) -> Graphs:
        """All graphs of a file such as the run's own data is read from, as the run knows them."""
        cfg, known = run.recipe.drawn, of(run.facts)
        assert isinstance(cfg, (c.GraphsData, c.MoleculesData))
        told = {} if given else {"properties": (), **({"labels": False} if isinstance(cfg, c.GraphsData) else {})}
        units = {name: (mean, deviation) for name, mean, deviation in known.measured}
        try:
            every = self._handed(cfg.model_copy(update={"path": str(path), **told}), known).by(units if given else {})
            every = every.among(known.node_types, known.edge_types, len(known.sizes) - 1)
            classes, labels = run.facts.classes, (every.cond or {}).get("label")
            if given and classes and labels is not None and int(labels.max()) >= classes:
                raise ValueError(f"a label is {int(labels.max())}, and this run's are 0 to {classes - 1}; leave it out.")
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
        return every.as_numbers() if cfg.form == "numbers" else every

    def _handed(self, cfg: Any, known: GraphFacts) -> Graphs:
        return self._every(cfg)

    def facts(self, train: Graphs, test: Graphs, recipe: c.Recipe) -> Facts:
        of_types = not isinstance(recipe.process, c.GraphScoresConfig) or recipe.process.of_types
        form = "types" if of_types else "numbers"
        if isinstance(recipe.data, (c.GraphsData, c.MoleculesData)) and recipe.data.form != form:
            kind, said = recipe.process.kind, getattr(recipe.process, "prediction", None)
            raise ValueError(
                f"data.form is {recipe.data.form!r}, and process {kind!r} of prediction {said!r} is of {form}; say --data.form "
                f"{form}."
            )
        shares = train.marginals()
        known = GraphFacts(
            node_types=train.node_types, edge_types=train.edge_types,
            nodes=tuple(shares["nodes"].tolist()) if "nodes" in shares else (1.0,), edges=tuple(shares["edges"].tolist()),
            sizes=tuple(train.size_probs().tolist()), properties=tuple(n for n in train.cond or () if not _classes(train, n)),
            # the weights learned a column in these units; what was left out they never saw, so that it is none of the facts
            measured=tuple((name, *units) for name, units in train.measured.items()),
            molecules=isinstance(recipe.data, c.MoleculesData),
        )  # fmt: skip
        labels = [half.cond["label"] for half in (train, test) if half.cond and _classes(half, "label")]
        return Facts(shape=train.shape, classes=int(torch.cat(labels).max()) + 1 if labels else None, graph=known)

    def as_begun(self, train: Graphs, test: Graphs, facts: Facts) -> tuple[Graphs, Graphs]:
        units = {name: (mean, deviation) for name, mean, deviation in of(facts).measured}
        train, test = train.by(units), test.by(units)
        size = len(of(facts).sizes) - 1
        if train.size == size:
            return train, test
        if train.size > size:
            raise ValueError(
                f"the largest graph has {train.size} nodes, and the run was begun with graphs of up to {size}; leave out those "
                "that are larger, or choose another directory."
            )
        return train.padded(size), test.padded(size)

    def process(self, cfg: c.ProcessConfig, facts: Facts) -> tuple[Process, Any]:
        known = of(facts)
        if isinstance(cfg, c.GraphScoresConfig):
            return _scores(cfg, known, _leaves(facts))
        if not isinstance(cfg, c.GraphConfig):
            raise ValueError(f"process is {cfg.kind!r}, and graphs have nodes and edges; use process 'graph' or 'graph-scores'.")
        shares = {"nodes": known.nodes, "edges": known.edges}
        leaves: dict[str, LeafProcess] = {}
        for name in _leaves(facts):
            schedule = scheduled(cfg.schedule, shares[name], cfg.limit)
            limit = torch.tensor(shares[name], dtype=torch.float64) if cfg.limit == "marginal" else cfg.limit
            space = SymmetricEdges() if name == "edges" else None
            leaves[name] = Categorical(len(shares[name]), schedule, limit, space=space)
        heads = {name: head for name, head in HEADS.items() if name != "logistic"}  # types have no order
        predicted = {name: spec.parse(cfg.prediction, {**prediction.PREDICTIONS, **heads}, "prediction") for name in leaves}
        return Product(leaves), predicted

    def network(
        self,
        cfg: c.NetworkConfig,
        facts: Facts,
        process: Process,
        scalars: Sequence[str] = (),
        tokens: int | None = None,
        predictions: Any = None,
    ) -> nn.Module:
        if not isinstance(cfg, c.GraphTransformerConfig) or scalars or tokens is not None:
            raise ValueError(f"network is {cfg.kind!r}, and graphs take 'graph', without texts and learned guidance; use it.")
        more = {"classes": facts.classes, "properties": of(facts).properties}
        # what says logits has one for each type, and the state's numbers are none of these
        residual = not isinstance(process.leaves()["edges"], Embedded)
        return GraphTransformer(**self._sizes(cfg, facts, process), residual=residual, **more)

    def regressor(self, cfg: c.GraphTransformerConfig, facts: Facts, process: Process, outcomes: int) -> GraphRegressor:
        """A network that reads so many numbers from a noisy graph."""
        return GraphRegressor(outcomes, **self._sizes(cfg, facts, process))

    def _sizes(self, cfg: c.GraphTransformerConfig, facts: Facts, process: Process) -> dict[str, Any]:
        """What a graph transformer is made with, but for its conditions."""
        known, parts = of(facts), process.leaves()
        kinds = tuple(kind for kind in cfg.features if kind != "valencies")
        atoms = self.valencies(known, cfg.published) if "valencies" in cfg.features else None
        states = {name: leaf.states for name, leaf in parts.items() if isinstance(leaf, Categorical)}
        types = bool(states) or isinstance(parts["edges"], Embedded)
        if not states and atoms is not None:
            raise ValueError("features has 'valencies', which are of types, and the process is of numbers; leave it out.")
        size = len(known.sizes) - 1
        features = Structural(kinds, len(known.edge_types), size, atoms, cfg.published) if cfg.features else None
        return {
            "nodes": len(known.node_types), "edges": len(known.edge_types) if types else 1, "width": cfg.width,
            "edge_width": cfg.edge_width, "whole": cfg.whole, "depth": cfg.depth, "features": features,
            "node_states": states.get("nodes"), "edge_states": states.get("edges", 1), "dropout": cfg.dropout,
        }  # fmt: skip

    def valencies(self, known: GraphFacts, published: bool = False) -> Valencies:
        raise ValueError("features has 'valencies', which are of molecules; leave it out.")

    def usual(self, name: str) -> float:
        """What a computed property is divided by that is not in units of its own."""
        return 1.0

    def scored(self, run: Run, graphs: Sequence[Graph], names: Sequence[str]) -> Tensor:
        """Computed properties, (M, P) float64; NaN of what has none."""
        return properties_of([adjacency(g) for g in graphs], names)

    def conditions(self, run: Run, properties: Mapping[str, float], count: int) -> dict[str, Any]:
        known = of(run.facts).properties
        for name in properties:
            if name not in known:
                raise ValueError(f"property is {name!r}; this run has {', '.join(known) or 'none'}.")
        if missing := [name for name in known if name not in properties]:  # training drops all of them or none
            raise ValueError(f"property {missing[0]!r} is not given, and this run learned its properties together; give each.")
        units = {name: (mean, deviation) for name, mean, deviation in of(run.facts).measured}
        cond = {}
        for name, value in properties.items():
            mean, size = units[name] if name in units else (0.0, self.usual(name))
            cond[name] = torch.full((count,), (value - mean) / size)
        return cond

    def options(self, run: Run, count: int, seed: int, first: int) -> dict[str, Any]:
        noise = Noise.of(seed, count, first)
        return {"mask": drawn_mask(torch.tensor(of(run.facts).sizes, dtype=torch.float64), noise)}

    def finish(self, run: Run, x: dict[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Types, where the model has numbers the nearest ones; padding is -1, in edges as well."""
        if x["edges"].is_floating_point():
            x = {n: v.argmax(-1) if n == "nodes" else v.round().clamp(min=0).long() for n, v in x.items()}
        mask = options["mask"].to(x["edges"].device)
        pairs = mask[:, :, None] & mask[:, None, :]
        return {name: torch.where(pairs if name == "edges" else mask, value, -1) for name, value in x.items()}

    def graphs(self, run: Run, x: dict[str, Tensor]) -> list[Graph]:
        """Finished samples without their padding; what is still masked is no edge."""
        mask = x["edges"].diagonal(dim1=1, dim2=2) >= 0
        r = len(of(run.facts).edge_types)
        top = r - 1 if isinstance(run.recipe.process, c.GraphScoresConfig) else 0  # beyond the last type: nearest, or a mask
        edges = torch.where(x["edges"] < 0, 0, torch.where(x["edges"] >= r, top, x["edges"]))
        nodes = {"nodes": x["nodes"].clamp(0, len(of(run.facts).node_types) - 1)} if "nodes" in x else {}
        return unpadded({**nodes, "edges": edges}, mask)

    def picture(self, run: Run, graphs: Sequence[Graph], columns: int) -> Image.Image:
        dense = [adjacency(g) for g in graphs]
        return drawing.page(dense, columns, types=[g.nodes for g in graphs])

    def overview(self, run: Run, stem: Path, rows: int = 10, seed: int = 0, label: int | None = None, **options: Any) -> Path:
        """Samples drawn, five in a row."""
        count = max(10, 2 * rows)
        x = draw(run, count, seed=seed, label=label, **options)
        return save_png(self.picture(run, self.graphs(run, x), 5), stem.with_suffix(".png"))

    def animation(self, run: Run, path: Path, seed: int = 0, count: int | None = None, **options: Any) -> Path | None:
        """How graphs come about, each in the places that its nodes have in the end, in at most 40 pictures."""
        steps = [self.graphs(run, x) for x in draw(run, count or 10, seed=seed, frames=True, **options)]
        shown = sorted({round(k) for k in torch.linspace(0, len(steps) - 1, min(40, len(steps))).tolist()})
        places = [drawing.layout(adjacency(g)) for g in steps[-1]]
        frames = [
            drawing.page([adjacency(g) for g in steps[k]], 5, 120, [g.nodes for g in steps[k]], places).quantize(32)
            for k in shown
        ]
        with staged(path) as beside:
            frames[0].save(beside, save_all=True, append_images=[*frames[1:], *[frames[-1]] * 10], duration=100, loop=0)
        return path

    def write(self, run: Run, x: dict[str, Tensor], path: Path, **options: Any) -> Path:
        """A picture (.png), or a list of nodes and edges (.json), as `read_graphs` takes it."""
        graphs = self.graphs(run, x)
        if path.suffix == ".png":
            return save_png(self.picture(run, graphs, 5), path, record_of(run, len(graphs), **options))
        known = of(run.facts)
        told = []
        for g in graphs:
            one: dict[str, Any] = {"n": len(g.nodes), "edges": g.pairs.tolist()}
            if len(known.node_types) > 1:
                one["nodes"] = g.nodes.tolist()
            if len(known.edge_types) > 2:
                one["kinds"] = g.kinds.tolist()
            told.append(one)
        return write(path, json.dumps(told))

    def evaluate(self, run: Run, asked: Asked, sampled: dict[str, Any]) -> Evaluation:
        if str(asked.features) != "auto" or asked.metrics:
            raise ValueError("graphs are judged by all of their measures at once; leave out metrics and features.")
        if unknown := [name for name in asked.properties or () if name not in self.computed]:
            said = f"{', '.join(unknown)} was measured, and cannot be computed of samples"
            if len(unknown) == len(asked.properties or ()):
                raise ValueError(f"property is {unknown[0]!r}: {said}; judge this run without it.")
            print(f"{said}: how near they come to it is not known.", file=sys.stderr)
        x = draw(run, asked.count, seed=asked.seed, plan=asked.plan, guidance=asked.guidance, properties=asked.properties)
        samples = self.graphs(run, x)
        values, meant, strengths = self.judge(run, samples), dict(self.metrics), ()
        if getattr(run.recipe.data, "valid", None) == "planar":
            meant["valid"] = meant["valid"].replace("in one piece", "planar and in one piece")
        if asked.properties:
            more, words = self.nearness(run, asked, samples)
            values, meant = {**values, **more}, {**meant, **words}
            strengths = (run.recipe.sample.guidance if asked.guidance is None else asked.guidance,)
        made = card(sampled, small=asked.small, pixels="none: graphs", metrics=meant, guidance=strengths)
        return Evaluation(metrics=values, protocol=made)

    def nearness(self, run: Run, asked: Asked, samples: Sequence[Graph]) -> tuple[dict[str, float], dict[str, str]]:
        """How near samples come to the properties they are asked for, (values, what they mean): mean absolute errors of computed
        ones, of valid samples alone, and of as many drawn unconditionally from the same noise."""
        wanted = dict(asked.properties or {})
        names = [name for name in wanted if name in self.computed]
        every = ", ".join(f"{name}={value:g}" for name, value in wanted.items())
        free = self.graphs(run, draw(run, asked.count, seed=asked.seed, plan=asked.plan, guidance=1.0))
        goal = torch.tensor([wanted[name] for name in names], dtype=torch.float64)
        values: dict[str, float] = {}
        for ending, some in (("", samples), ("_unconditional", free)):
            away = (self.scored(run, some, names) - goal).abs()
            away = away[away.isfinite().all(1)]
            if len(away):  # else there is no mean
                values |= {f"{name}_mae{ending}": float(error) for name, error in zip(names, away.mean(0), strict=True)}
        meant = {f"{name}_mae": f"mean |{name} - {wanted[name]:g}| of the valid of the samples, which are asked for {every}; "
                 f"{name}_mae_unconditional is that of as many that are asked for nothing, without guidance, from the same noise"
                 for name in names}  # fmt: skip
        return dict(sorted(values.items())), meant

    def judge(self, run: Run, samples: Sequence[Graph]) -> dict[str, Any]:
        """Measures of samples against held-out graphs."""
        drawn, train, test = ([adjacency(g) for g in some] for some in (samples, _all(run.train), _all(run.test)))
        # of few graphs a distance is larger, whatever their law: as many training graphs, spread over the set, make the floor
        count = min(len(drawn), len(train))
        places = torch.linspace(0, len(train) - 1, count).round().long().tolist()
        found = metrics.compare(drawn[:count], test, [train[k] for k in places])
        values: dict[str, Any] = {name: d.value for name, d in found.items()}
        values |= {f"{name}_floor": d.floor for name, d in found.items()}
        valid = VALID[getattr(run.recipe.data, "valid", "connected")]
        return {**values, "ratio": metrics.mean_ratio(found), **metrics.shares(drawn, train, valid)}

    def in_loop(self, metrics: Sequence[str]) -> tuple[str, ...]:
        return ()  # judged by all at once


def halves(every: Graphs, cfg: c.GraphsData | c.MoleculesData) -> tuple[Graphs, Graphs]:
    """(training graphs, held-out graphs)."""
    every = every.as_numbers() if cfg.form == "numbers" else every
    return every.split("train", cfg.held_out), every.split("test", cfg.held_out)


def of(facts: Facts) -> GraphFacts:
    """What is known of graphs.

    Raises:
        ValueError: for a run of something else.
    """
    if facts.graph is None:
        raise ValueError("this run is not of graphs; use one that is.")
    return facts.graph


def adjacency(graph: Graph) -> Tensor:
    """(n, n) int64, the type of each edge."""
    n = len(graph.nodes)
    out = torch.zeros(n, n, dtype=torch.int64)
    i, j = graph.pairs.unbind(1)
    out[i, j] = out[j, i] = graph.kinds
    return out


def _all(source: Graphs) -> list[Graph]:
    return [source[k] for k in range(len(source))]


def _scores(cfg: c.GraphScoresConfig, known: GraphFacts, names: Sequence[str]) -> tuple[Process, dict[str, Prediction]]:
    """Gaussian processes of edges, which are the numbers of their types, and of nodes, one-hot vectors. Under prediction "logits"
    these are the points of types, of which the network says the probabilities (score interpolation, 2211.15089, sec. 3.1)."""
    count = {"nodes": len(known.node_types), "edges": len(known.edge_types)}
    made: dict[str, LeafProcess] = {}
    for name in names:
        schedule = spec.parse(getattr(cfg, name), schedules.SCHEDULES, "schedule")
        space = SymmetricEdges() if name == "edges" else None
        points = torch.arange(float(count[name])) if name == "edges" else torch.eye(count[name])
        made[name] = Embedded(points, schedule, space=space) if cfg.of_types else Gaussian(schedule, space=space)
    said = {**prediction.PREDICTIONS, "logits": Logits}
    predicted = {name: spec.parse(cfg.prediction, said, "prediction") for name in made}
    if any(isinstance(one, Logits) and one.shown != "state" for one in predicted.values()):
        raise ValueError(f"prediction is {cfg.prediction!r}, and a network of graphs is shown their states; leave shown out.")
    return Product(made), predicted


def _leaves(facts: Facts) -> list[str]:
    assert isinstance(facts.shape, dict)
    return list(facts.shape)


def _classes(source: Graphs, name: str) -> bool:
    """Whether a condition is of classes, and no number."""
    values = (source.cond or {}).get(name)
    return name == "label" and values is not None and not values.is_floating_point()


DOMAIN = GraphDomain()
