"""Conditions of graphs: a number or a class of each, from a file or computed, in the data's own units, and guided by."""

import json

import networkx as nx
import pytest
import torch

from langevin.cli import main
from langevin.data import read_graphs
from langevin.graphs.properties import PROPERTIES, properties_of
from langevin.recipes import recipe
from langevin.recipes.build import build
from langevin.recipes.config import GraphsData
from langevin.recipes.domains.graphs import adjacency
from langevin.recipes.drawing import draw
from langevin.recipes.evaluation import evaluate
from langevin.recipes.opening import open_run
from langevin.recipes.starting import start


def _file(path, count=60):
    """Graphs of 3 or 4 nodes without edges, of class 0 and weight 10, and complete ones, of class 1 and weight 30."""
    made = []
    for k in range(count):
        n, whole = 3 + k // 2 % 2, k % 2
        edges = [[i, j] for j in range(n) for i in range(j)] if whole else []
        made.append({"n": n, "edges": edges, "label": whole, "properties": {"weight": 10 + 20 * whole, "id": k}})
    path.write_text(json.dumps(made))
    return path


def _of(file, steps=1, **data):
    base = recipe("community").model_dump()
    base["data"].update({"path": str(file), "held_out": 0.3, **data})
    base["network"].update(width=16, edge_width=16, whole=16, depth=1, features=("size",))
    base["objective"]["drop"] = 0.2
    base["train"].update(steps=steps, batch=32, lr=1e-2, ema=0.9, preview_every=10_000, save_every=10_000, warmup=64)
    base["sample"]["plan"] = "ddpm:8"
    return type(recipe("community")).model_validate(base)


def _trained(made, out):
    _, trainer = start(made, out)
    trainer.run()
    trainer.close()
    return open_run(out)


def test_computed_properties_are_those_of_networkx():
    for seed in range(5):
        g = nx.gnp_random_graph(9, 0.4, seed=seed)
        found = dict(
            zip(PROPERTIES, properties_of([torch.tensor(nx.to_numpy_array(g))], tuple(PROPERTIES))[0].tolist(), strict=True)
        )
        expected = {
            "nodes": 9, "edges": g.number_of_edges(), "density": nx.density(g), "clustering": nx.average_clustering(g),
            "triangles": sum(nx.triangles(g).values()) / 3, "pieces": nx.number_connected_components(g),
        }  # fmt: skip
        assert found == pytest.approx(expected)


def test_a_file_tells_numbers_and_classes(tmp_path):
    file = _file(tmp_path / "some.json")
    read = read_graphs(file, ("weight", "id"))
    mean, deviation = read.measured["weight"]
    assert (mean, deviation) == (20, 10) and read.cond["weight"][:2].tolist() == [-1, 1]
    part = read.part(torch.tensor([3, 0]))
    assert part.batch(torch.tensor([0, 1])).cond["weight"].tolist() == [1, -1]
    assert read_graphs(file, labels=True).batch(torch.tensor([0, 3])).cond["label"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="tells no number 'mass'; give each one, or do not ask for it"):
        read_graphs(file, ("mass",))
    file.write_text(json.dumps([{"n": 2, "edges": [], "label": 0.5}]))
    with pytest.raises(ValueError, match="label that is no whole number from 0"):
        read_graphs(file, labels=True)
    with pytest.raises(ValueError, match="give one kind of condition"):
        GraphsData(labels=True, properties=("density",))
    with pytest.raises(ValueError, match="planar graphs tell nothing of themselves; name one of nodes, edges"):
        build(_of("planar", properties=("weight",)))


def test_a_number_that_is_asked_for_is_had(tmp_path, capsys):
    run = _trained(_of(_file(tmp_path / "some.json"), 60, properties=("density,weight",)), tmp_path / "run")
    assert run.facts.conditional and run.facts.graph.properties == ("density", "weight")
    told = run.domain.conditions(run, {"weight": 40.0, "density": 0.5}, 2)
    mean, deviation = {n: v for n, *v in run.facts.graph.measured}["weight"]
    assert told["weight"].tolist() == pytest.approx([(40 - mean) / deviation] * 2)
    for weight, density in ((10.0, 0.0), (30.0, 1.0)):
        x = draw(run, 40, seed=1, properties={"weight": weight, "density": density}, guidance=1.5)
        found = properties_of([adjacency(g) for g in run.domain.graphs(run, x)], ("density",))
        assert abs(float(found.mean()) - density) < 0.15
    free = properties_of([adjacency(g) for g in run.domain.graphs(run, draw(run, 40, seed=1))], ("density",))
    assert 0.25 < float(free.mean()) < 0.75
    judged = evaluate(run, count=20, small=True, properties={"weight": 30.0, "density": 1.0}, guidance=1.5)
    assert judged["density_mae"].value < 0.2 < judged["density_mae_unconditional"].value
    assert "weight was measured, and cannot be computed of samples" in capsys.readouterr().err
    out = tmp_path / "x.json"
    main(["sample", str(tmp_path / "run"), "--property", "weight=30", "density=1", "--count", "4", "--out", str(out)])
    assert all(len(g["edges"]) >= g["n"] * (g["n"] - 1) / 4 for g in json.loads(out.read_text()))


def test_a_class_that_is_asked_for_is_had(tmp_path):
    run = _trained(_of(_file(tmp_path / "some.json"), 60, labels=True), tmp_path / "run")
    assert run.facts.classes == 2 and not run.facts.graph.properties
    for label in (0, 1):
        x = draw(run, 40, seed=1, label=label, guidance=1.5)
        found = properties_of([adjacency(g) for g in run.domain.graphs(run, x)], ("density",))
        assert abs(float(found.mean()) - label) < 0.15
    with pytest.raises(ValueError, match="label is 2; classes run from 0 to 1"):
        draw(run, 1, label=2)
