"""Counts against brute force, coefficients against networkx, discrepancies against sums written out."""

import itertools
import json
import math

import networkx
import pytest
import torch

from langevin.core.noise import Noise
from langevin.graphs import metrics as m
from langevin.graphs.orbits import orbits


def f64(graph):
    return torch.tensor(networkx.to_numpy_array(graph, weight=None), dtype=torch.float64)


def drawn(count, n, p, seed=0):
    upper = (Noise.of(seed, count).uniform((n, n)) < p).double().triu(1)
    return list(upper + upper.mT)


# (nodes, sorted degrees) of connected graphs of up to four nodes -> orbit by degree
SMALL = {
    (1, 1): {1: 0},
    (1, 1, 2): {1: 1, 2: 2},
    (2, 2, 2): {2: 3},
    (1, 1, 2, 2): {1: 4, 2: 5},
    (1, 1, 1, 3): {1: 6, 3: 7},
    (2, 2, 2, 2): {2: 8},
    (1, 2, 2, 3): {1: 9, 2: 10, 3: 11},
    (2, 2, 3, 3): {2: 12, 3: 13},
    (3, 3, 3, 3): {3: 14},
}


def by_hand(graph):
    g, out = m.as_networkx(graph), torch.zeros(len(graph), 15, dtype=torch.int64)
    for size in (2, 3, 4):
        for nodes in itertools.combinations(range(len(graph)), size):
            part = g.subgraph(nodes)
            degrees = tuple(sorted(d for _, d in part.degree))
            if degrees in SMALL and networkx.is_connected(part):
                for node, degree in part.degree:
                    out[node, SMALL[degrees][degree]] += 1
    return out


def test_orbits_by_brute_force():
    graphs = [
        *drawn(12, 8, 0.5),
        *drawn(6, 10, 0.3, 1),
        *drawn(4, 7, 0.85, 2),
        torch.ones(6, 6) - torch.eye(6),
        torch.zeros(3, 3),
    ]
    for graph in graphs:
        assert torch.equal(orbits(graph), by_hand(graph))


def test_clustering_planarity_and_connection_are_those_of_networkx():
    graphs = [*drawn(20, 9, 0.35), torch.zeros(1, 1), f64(networkx.karate_club_graph()), f64(networkx.complete_graph(5))]
    for graph in graphs:
        g = m.as_networkx(graph)
        expected = torch.tensor([networkx.clustering(g)[i] for i in range(len(graph))], dtype=torch.float64)
        assert torch.allclose(m.clustering(graph), expected, atol=1e-12)
        assert m.connected(graph) == networkx.is_connected(g)
    assert m.planar(f64(networkx.grid_2d_graph(4, 5))) and not m.planar(f64(networkx.complete_graph(5)))


def test_padding_changes_nothing():
    graphs = drawn(5, 7, 0.5)
    batch = torch.zeros(5, 11, 11, dtype=torch.float64)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    batch[:, :7, :7] = torch.stack(graphs)
    mask = (torch.arange(11) < 7).expand(5, 11)
    for s in m.STATISTICS:
        same = m.mmd(m.unpad(batch[:, order][:, :, order], mask[:, order]), graphs, s)
        assert same == pytest.approx(0, abs=1e-12)
    assert m.mmd(m.unpad(batch), graphs, "degree") > 0.01


def earth_moved(p, q):
    """Units times bins, by carrying what is over to the next bin."""
    carried, total = 0.0, 0.0
    for a, b in zip(p, q, strict=True):
        carried += a - b
        total += abs(carried)
    return total


@pytest.mark.parametrize("kernel", m.KERNELS)
def test_discrepancies_are_the_sums_they_say(kernel):
    a, b = drawn(4, 8, 0.3), drawn(3, 9, 0.6, 5)

    def histogram(graph):
        out = [0.0] * 9
        for d in (graph > 0).sum(1).tolist():
            out[d] += 1 / len(graph)
        return out

    def k(x, y):
        p, q = histogram(x), histogram(y)
        d = earth_moved(p, q) if kernel == "emd" else sum(abs(s - t) for s, t in zip(p, q, strict=True)) / 2
        return math.exp(-(d**2) / 2)

    def mean(x, y):
        return sum(k(u, v) for u in x for v in y) / len(x) / len(y)

    assert m.mmd(a, b, "degree", kernel) == pytest.approx(mean(a, a) + mean(b, b) - 2 * mean(a, b), abs=1e-12)
    u, v = (torch.stack([by_hand(g).double().mean(0) for g in s]) for s in (a, b))

    def gaussian(x, y):
        d = x[:, None] - y
        d = d.norm(dim=-1) if kernel == "emd" else d.abs().sum(-1) / 2
        return float(torch.exp(-(d**2) / 2 / 30**2).mean())

    assert m.mmd(a, b, "orbit", kernel) == pytest.approx(gaussian(u, u) + gaussian(v, v) - 2 * gaussian(u, v), abs=1e-12)


def test_bins_of_clustering_and_spectrum():
    triangle, path = f64(networkx.complete_graph(3)), f64(networkx.path_graph(3))
    # coefficients 1 and 0: the earth moves 99 bins of 0.01
    expected = 2 - 2 * math.exp(-(0.99**2) / 2 / 0.1**2)
    assert m.mmd([triangle], [path], "clustering") == pytest.approx(expected, abs=1e-12)
    # eigenvalues 0, 3/2, 3/2 and 0, 1, 2
    lowest = [int((v + 1e-5) / 2.00001 * 200) for v in (1.5, 1.5, 1.0, 2.0)]
    moved = (abs(lowest[0] - lowest[2]) + abs(lowest[1] - min(lowest[3], 199))) / 3 * 0.01
    assert m.mmd([triangle], [path], "spectral") == pytest.approx(2 - 2 * math.exp(-(moved**2) / 2), abs=2e-3)


def test_the_floor_stands_beside_and_other_laws_are_far_above_it():
    train, test, like, unlike = (drawn(40, 12, p, s) for p, s in ((0.3, 0), (0.3, 1), (0.3, 2), (0.6, 3)))
    near, far = m.compare(like, test, train), m.compare(unlike, test, train)
    for s in m.STATISTICS:
        assert near[s].floor == far[s].floor == pytest.approx(m.mmd(train, test, s))
        assert near[s].ratio < 4 < far[s].ratio, s
    assert m.mean_ratio(near) < 3 and "train against test" in str(near["degree"])


def test_shares_count_isomorphic_graphs_once():
    train = [f64(networkx.cycle_graph(5))]
    shuffled = train[0][[2, 0, 4, 1, 3]][:, [2, 0, 4, 1, 3]]
    path, torn = f64(networkx.path_graph(5)), torch.zeros(4, 4, dtype=torch.float64)
    out = m.shares([shuffled, path, path.flip(0, 1), torn], train)
    assert out == {"valid": 0.75, "unique": pytest.approx(2 / 3), "novel": 0.5}
    # these two have the same orbits everywhere: only the isomorphism itself tells them apart
    two, one = f64(networkx.disjoint_union(*[networkx.cycle_graph(6)] * 2)), f64(networkx.cycle_graph(12))
    assert torch.equal(orbits(two), orbits(one))
    assert m.classes([two, one, two]) == [0, 1, 0]


def test_a_graph_comes_back_from_networkx_as_it_went_there():
    from langevin.data.graph import graph_of, to_networkx

    told = {"n": 4, "edges": [[1, 0], [1, 3]], "nodes": [2, 0, 1, 0], "kinds": [3, 1]}  # node 2 has no edge
    graph = graph_of(told)
    assert all(torch.equal(a, b) for a, b in zip(graph_of(to_networkx(graph)), graph, strict=True))


def test_refusals():
    with pytest.raises(ValueError, match="there are degree"):
        m.mmd(drawn(1, 3, 0.5), drawn(1, 3, 0.5), "diameter")
    with pytest.raises(ValueError, match="at least one"):
        m.mmd([], drawn(1, 3, 0.5), "degree")
    with pytest.raises(ValueError, match="symmetric"):
        orbits(torch.ones(3, 3))


@pytest.mark.parametrize("valid", ["connected", "planar"])
def test_planar_runs_are_judged_by_planarity(valid, tmp_path):
    from langevin.data.graph import graph_of
    from langevin.recipes import recipe
    from langevin.recipes.build import build

    assert recipe("planar").data.valid == "planar"  # pyright: ignore
    rings = [{"n": n, "edges": [[k, (k + 1) % n] for k in range(n - cut)]} for n in (4, 5, 6, 7, 8, 9) for cut in (0, 1)]
    (tmp_path / "rings.json").write_text(json.dumps(rings))
    base = recipe("planar").model_dump()
    base["data"].update(path=str(tmp_path / "rings.json"), valid=valid)
    base["network"].update(width=16, edge_width=8, whole=8, depth=1)
    run = build(type(recipe("planar")).model_validate(base))
    whole = {"n": 5, "edges": [[i, j] for i in range(5) for j in range(i)]}  # K5
    apart = {"n": 5, "edges": [[0, 1], [2, 3], [3, 4]]}
    found = run.domain.judge(run, [graph_of(g) for g in (whole, apart, *rings[:2])])  # pyright: ignore
    assert found["valid"] == (0.5 if valid == "planar" else 0.75)
