"""Diffusion on graphs: mass, constants, semigroup, limits, and agreement with series written out and with networkx."""

import math

import networkx
import pytest
import torch

from langevin.core.noise import Noise
from langevin.graphs import operators as g


def f64(graph):
    return torch.tensor(networkx.to_numpy_array(graph, weight=None), dtype=torch.float64)


STAR = f64(networkx.star_graph(4))
HUB = torch.eye(5, dtype=torch.float64)[:, :1]
KARATE = f64(networkx.karate_club_graph())


def random_graphs(count, n, seed=0):
    """Padded random graphs with a node without edges, (B, N, N) and mask (B, N)."""
    u = Noise.of(seed, count).uniform((n, n))
    graph = (u < 0.4).double().triu(1)
    graph = graph + graph.mT
    graph[:, 1], graph[:, :, 1] = 0, 0
    mask = torch.arange(n) < torch.arange(n - count + 1, n + 1)[:, None]
    return g.masked(graph, mask), mask


def test_a_signal_is_smoothed_and_a_probability_is_moved():
    step = g.transition(STAR)
    # one step from the hub: P e makes 4.0 of a probability of 1, P^T e keeps it
    assert float(g.smooth(HUB, step).sum()) == pytest.approx(4.0, abs=1e-14)
    assert float(g.walk(HUB, step).sum()) == pytest.approx(1.0, abs=1e-14)
    ones = torch.ones(5, 1, dtype=torch.float64)
    assert torch.equal(g.smooth(ones, step, 7), ones)
    assert not torch.allclose(g.walk(ones, step), ones)


def test_pagerank_of_a_star_is_that_of_networkx():
    ours = g.pagerank(STAR, HUB)
    printed = g.pagerank(STAR, HUB, of="signal")
    assert float(ours.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(printed.sum()) == pytest.approx(2.378, abs=5e-4)
    theirs = networkx.pagerank(networkx.star_graph(4), alpha=0.85, personalization={0: 1}, tol=1e-15, max_iter=1000)
    assert torch.allclose(ours[:, 0], torch.tensor([theirs[i] for i in range(5)], dtype=torch.float64), atol=1e-12)


def test_pagerank_solved_summed_and_pushed_agree():
    seeds = torch.eye(34, dtype=torch.float64)[:, [0, 5, 33]]
    solved = g.pagerank(KARATE, seeds)
    theirs = networkx.pagerank(networkx.karate_club_graph(), 0.85, {5: 1}, tol=1e-14, max_iter=1000, weight=None)
    assert torch.allclose(solved[:, 1], torch.tensor([theirs[i] for i in range(34)], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(g.pagerank(KARATE, seeds, steps=200), solved, atol=1e-12)
    # the part of the series left out is exactly its weight
    assert torch.allclose(1 - g.pagerank(KARATE, seeds, steps=9).sum(0), torch.full((3,), 0.85**10, dtype=torch.float64))
    for graph in (KARATE, KARATE.to_sparse()):
        estimate, rest = g.pagerank_push(graph, seeds, tolerance=1e-3)
        assert bool((rest <= 1e-3 * KARATE.sum(1, keepdim=True)).all()) and float(rest.sum()) > 1e-3
        assert torch.allclose(estimate + g.pagerank(KARATE, rest), solved, atol=1e-12)
        assert torch.allclose(g.pagerank_push(graph, seeds, tolerance=1e-15)[0], solved, atol=1e-12)


def test_a_walk_on_a_bipartite_graph_oscillates_and_the_lazy_one_converges():
    plain, lazy = g.transition(STAR), g.transition(STAR, lazy=True)
    assert float(g.walk(HUB, plain, 100)[0]) == pytest.approx(1.0) and float(g.walk(HUB, plain, 101)[0]) == pytest.approx(0.0)
    assert torch.allclose(g.walk(HUB, lazy, 60)[:, 0], g.stationary(STAR), atol=1e-12)
    assert float(g.mixing_rate(STAR)) == pytest.approx(1.0) and float(g.mixing_rate(STAR, lazy=True)) == pytest.approx(0.5)


def test_the_mixing_rate_is_the_rate_of_mixing():
    for lazy in (False, True):
        step, limit = g.transition(KARATE, lazy=lazy), g.stationary(KARATE)[:, None]
        start = torch.eye(34, dtype=torch.float64)
        a, b = (float((g.walk(start, step, k) - limit).norm()) for k in (200, 201))
        assert b / a == pytest.approx(float(g.mixing_rate(KARATE, lazy=lazy)), abs=1e-4)
    values = torch.linalg.eigvals(g.transition(KARATE)).real.sort().values
    assert float(g.mixing_rate(KARATE)) == pytest.approx(max(float(values[-2]), -float(values[0])), abs=1e-12)
    # pieces do not mix, padding does not count
    two = torch.block_diag(STAR, STAR)
    assert float(g.mixing_rate(two, lazy=True)) == pytest.approx(1.0)
    padded = torch.nn.functional.pad(KARATE, (0, 3, 0, 3))
    assert float(g.mixing_rate(padded, torch.arange(37) < 34)) == pytest.approx(float(g.mixing_rate(KARATE)), abs=1e-12)
    assert float(g.mixing_rate(padded)) == pytest.approx(1.0)


def test_heat_keeps_mass_and_constants_and_is_a_semigroup():
    h1, h2, h3 = (g.heat(KARATE, t) for t in (0.3, 0.9, 1.2))
    ones = torch.ones(34, dtype=torch.float64)
    assert torch.allclose(h1 @ h2, h3, atol=1e-12) and torch.allclose(h1, h1.T, atol=1e-12)
    assert torch.allclose(h1.sum(0), ones, atol=1e-12) and torch.allclose(h1.sum(1), ones, atol=1e-12)
    assert torch.allclose(h3, torch.linalg.matrix_exp(-1.2 * g.laplacian(KARATE)), atol=1e-10)
    normal = g.heat(KARATE, 1.2, kind="normalised")
    assert torch.allclose(normal, torch.linalg.matrix_exp(-1.2 * g.laplacian(KARATE, kind="normalised")), atol=1e-10)
    each = g.heat(torch.stack([KARATE, KARATE]), torch.tensor([0.3, 0.9]))
    assert torch.allclose(each[0], h1, atol=1e-12) and torch.allclose(each[1], h2, atol=1e-12)


@pytest.mark.parametrize("time", [0.0, 0.01, 1.0, 20.0])
def test_heat_by_polynomials_is_heat(time):
    values = Noise.of(0, 34).normal((3,), torch.float64)
    exact = torch.linalg.matrix_exp(-time * g.laplacian(KARATE)) @ values
    for graph in (KARATE, KARATE.to_sparse()):
        assert torch.allclose(g.heat_on(values, graph, time), exact, atol=1e-11)
    # a ring of 20,000 nodes: the kernel is that of a walk on the line, exp(-2t) I_k(2t)
    n = 20_000
    i = torch.arange(n)
    ends, ones = torch.stack([i.repeat(2), torch.cat([(i + 1) % n, (i - 1) % n])]), torch.ones(2 * n, dtype=torch.float64)
    ring = torch.sparse_coo_tensor(ends, ones, (n, n), check_invariants=True)
    spread = g.heat_on(torch.eye(n, 1, dtype=torch.float64), ring, time)[:, 0]
    angle = (torch.arange(4000, dtype=torch.float64) + 0.5) * math.pi / 4000
    for k in (0, 1, 5):
        bessel = float((torch.exp(2 * time * (angle.cos() - 1)) * torch.cos(k * angle)).mean())
        assert float(spread[k]) == pytest.approx(bessel, abs=1e-11) and float(spread[-k]) == pytest.approx(bessel, abs=1e-11)


def test_factions_of_the_karate_club():
    # from its two leaders, the larger of the two masses tells each member's side
    side = [networkx.karate_club_graph().nodes[i]["club"] == "Officer" for i in range(34)]
    seeds = torch.eye(34, dtype=torch.float64)[:, [0, 33]]
    for kernel in (g.pagerank(KARATE, seeds), g.heat(KARATE, 0.5) @ seeds):
        right = (kernel[:, 1] > kernel[:, 0]) == torch.tensor(side)
        assert float(right.double().mean()) == pytest.approx(0.971, abs=5e-4)


def test_batches_masks_and_lonely_nodes_against_loops():
    graph, mask = random_graphs(4, 9)
    seeds = torch.zeros(4, 9, 2, dtype=torch.float64)
    seeds[:, 0, 0], seeds[:, 1, 1] = 1, 1  # node 1 has no edges
    out = {
        "walk": g.walk(seeds, g.transition(graph, mask), 3),
        "lazy": g.walk(seeds, g.transition(graph, mask, lazy=True), 3),
        "pagerank": g.pagerank(graph, seeds, mask=mask),
        "heat": g.heat(graph, 0.7, mask) @ seeds,
    }
    for value in out.values():
        assert torch.allclose(value.sum(1), torch.ones(4, 2, dtype=torch.float64), atol=1e-12)
        assert torch.equal(value[:, :, 1], seeds[:, :, 1]) or torch.allclose(value[:, :, 1], seeds[:, :, 1], atol=1e-12)
        assert not bool(value[~mask].any())
    for b in range(4):
        n = int(mask[b].sum())
        a = graph[b, :n, :n]
        step = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            d = float(a[i].sum())
            for j in range(n):
                step[i, j] = a[i, j] / d if d else float(i == j)
        here = seeds[b, :n]
        series, rest = torch.zeros_like(here), here
        for _ in range(400):
            series, rest = series + 0.15 * rest, 0.85 * step.T @ rest
        lazy = (torch.eye(n, dtype=torch.float64) + step) / 2
        truth = {
            "walk": step.T @ step.T @ step.T @ here,
            "lazy": lazy.T @ lazy.T @ lazy.T @ here,
            "pagerank": series,
            "heat": torch.linalg.matrix_exp(-0.7 * (torch.diag(a.sum(1)) - a)) @ here,
        }
        for name, value in truth.items():
            assert torch.allclose(out[name][b, :n], value, atol=1e-12), name


def test_appnp_is_its_own_iteration_and_limit():
    graph, mask = random_graphs(4, 9, seed=1)
    h = Noise.of(2, 4).normal((9, 3), torch.float64) * mask[..., None]
    out = g.appnp(h, graph, steps=3, mask=mask)
    for b in range(4):
        n = int(mask[b].sum())
        a = graph[b, :n, :n] + torch.eye(n, dtype=torch.float64)
        scale = a.sum(1).rsqrt()
        spread = scale[:, None] * a * scale
        z = h[b, :n]
        for _ in range(3):
            z = 0.9 * spread @ z + 0.1 * h[b, :n]
        assert torch.allclose(out[b, :n], z, atol=1e-12) and not bool(out[b, n:].any())
        limit = 0.1 * torch.linalg.inv(torch.eye(n, dtype=torch.float64) - 0.9 * spread) @ h[b, :n]
        assert torch.allclose(g.appnp(h, graph, steps=300, mask=mask)[b, :n], limit, atol=1e-12)


def test_limits_of_smoothing():
    # what is left after many steps: P a constant, the symmetric form the root of the degrees, P^T the degrees
    start = Noise.of(3, 34).uniform((1,))
    step = g.transition(KARATE)
    degree = KARATE.sum(1)
    balanced = torch.eye(34, dtype=torch.float64) - g.laplacian(KARATE, kind="normalised")
    flat, root, walked = g.smooth(start, step, 400), g.smooth(start, balanced, 400), g.walk(start, step, 400)
    assert float(flat.std()) < 1e-10
    assert float((root[:, 0] / degree.sqrt()).std() / (root[:, 0] / degree.sqrt()).mean()) < 1e-10
    assert torch.allclose(walked[:, 0] / start.sum(), degree / degree.sum(), atol=1e-10)
    assert torch.allclose(g.laplacian(KARATE, kind="walk"), torch.eye(34, dtype=torch.float64) - step, atol=1e-14)


def test_refusals():
    for call, words in (
        (lambda: g.transition(torch.ones(3, 4)), "N, N"),
        (lambda: g.transition(-torch.ones(3, 3)), "negative"),
        (lambda: g.transition(torch.ones(3, 3), torch.ones(2, dtype=torch.bool)), "one a node"),
        (lambda: g.pagerank(STAR, HUB, alpha=0.0), "going home"),
        (lambda: g.pagerank(STAR, HUB, of="mass"), "'probability' or 'signal'"),
        (lambda: g.heat(STAR, 1.0, kind="walk"), "not symmetric"),
        (lambda: g.laplacian(STAR, kind="heat"), "choose one of"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
