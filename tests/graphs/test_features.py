"""Structural features count what is there: cycles by enumeration, pieces, spectra and walks by networkx, valencies by rdkit."""

import networkx
import numpy as np
import pytest
import torch

from langevin.graphs import features as f
from langevin.graphs.operators import pagerank


def f64(graph):
    return torch.tensor(networkx.to_numpy_array(graph, weight=None), dtype=torch.float64)


def several(count=50):
    """Graphs of 5 to 9 nodes, sparse to dense, padded to 10: (B, 10, 10), mask (B, 10), and the graphs."""
    made = [networkx.gnp_random_graph(5 + k % 5, 0.15 + 0.015 * k, seed=k) for k in range(count)]
    graph, mask = torch.zeros(count, 10, 10, dtype=torch.float64), torch.zeros(count, 10, dtype=torch.bool)
    for k, g in enumerate(made):
        n = len(g)
        graph[k, :n, :n], mask[k, :n] = f64(g), True
    return graph, mask, made


def test_cycles_are_those_that_are_enumerated():
    graph, _, made = several()
    at, total = f.cycles(graph)
    for k, g in enumerate(made):
        through, count = np.zeros((10, 7)), np.zeros(7)
        for cycle in networkx.simple_cycles(g, length_bound=6):
            count[len(cycle)] += 1
            through[cycle, len(cycle)] += 1
        np.testing.assert_array_equal(at[k].numpy(), through[:, 3:6])
        np.testing.assert_array_equal(total[k].numpy(), count[3:])


def test_the_published_count_of_five_is_wrong_beside_a_triangle():
    # a triangle with a tail of two nodes has no cycle of five; without its last terms the formula says otherwise
    a = f64(networkx.Graph([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)]))
    d, t = a.sum(-1), torch.linalg.matrix_power(a, 3).diagonal()
    published = (torch.linalg.matrix_power(a, 5).diagonal() - 2 * t * d - a @ t + t) / 2
    assert published.any()
    assert not f.cycles(a)[0][:, 2].any()
    at, total = f.cycles(a, published=True)
    assert torch.equal(at[:, 2], published) and float(total[2]) == float(published.sum()) / 5
    ours, theirs = f.cycles(a)[0], at  # no other count is touched
    assert torch.equal(ours[:, :2], theirs[:, :2])
    edges, mask = torch.stack([1 - a, a], -1)[None], torch.ones(1, 5, dtype=torch.bool)
    made = [f.Structural(("cycles",), published=flag)(torch.zeros(1, 5, 1), edges, mask)[0][0, :, 2] for flag in (False, True)]
    assert not made[0].any() and torch.allclose(made[1], (published / 10).clamp(max=1).float())


def test_pieces_and_spectrum_are_those_of_networkx():
    graph, mask, made = several()
    size, count = f.pieces(graph, mask)
    values = f.spectrum(graph, 5, mask)
    for k, g in enumerate(made):
        assert int(count[k]) == networkx.number_connected_components(g)
        expected = [len(networkx.node_connected_component(g, i)) for i in g] + [0] * (10 - len(g))
        assert size[k].tolist() == expected
        theirs = np.sort(np.linalg.eigvalsh(networkx.laplacian_matrix(g).toarray()))[int(count[k]) :][:5] / len(g)
        np.testing.assert_allclose(values[k].numpy(), np.pad(theirs, (0, 5 - len(theirs))), atol=1e-12)


def test_walks_heat_and_ranks_are_what_they_say():
    graph, mask, _ = several()
    walks = f.walks(graph, 4, mask)
    for k in range(4):
        assert torch.allclose(walks[..., k].sum(-1), mask.double())  # probabilities
    a = f64(networkx.cycle_graph(6))
    back = f.walks(a, 6).diagonal(dim1=0, dim2=1)[:, 0]
    # 2 of 4, 6 of 16, and 20 + 2 of 64 paths lead back, the last two around
    torch.testing.assert_close(back, torch.tensor([0, 1 / 2, 0, 3 / 8, 0, 22 / 64], dtype=torch.float64))
    karate = f64(networkx.karate_club_graph())
    torch.testing.assert_close(f.ranks(karate), pagerank(karate, torch.eye(34, dtype=torch.float64), 0.15).T, atol=1e-12, rtol=0)
    degree = karate.sum(-1)
    balanced = torch.eye(34, dtype=torch.float64) - karate / (degree[:, None] * degree).sqrt()
    torch.testing.assert_close(f.warmth(karate, (0.7,))[..., 0], torch.linalg.matrix_exp(-0.7 * balanced), atol=1e-12, rtol=0)


def test_powers_are_those_of_the_numbers_themselves_in_units_of_their_own():
    n = 6
    mask = torch.arange(8) < n
    noisy = torch.zeros(1, 8, 8, dtype=torch.float64)
    noisy[0, :n, :n] = torch.sin(torch.arange(36, dtype=torch.float64).reshape(n, n) ** 2).triu(1)
    noisy = noisy + noisy.transpose(1, 2)
    made = f.powers(noisy, 4, mask[None])
    a = noisy[0, :n, :n] / (noisy.square().sum() / (n * (n - 1))).sqrt()
    for k in (2, 3, 4):
        expected = torch.linalg.matrix_power(a, k) / n ** ((k - 1) / 2)
        torch.testing.assert_close(made[0, :n, :n, k - 2], expected, atol=1e-12, rtol=0)
    assert not made[0, n:].any() and not made[0, :, n:].any()
    torch.testing.assert_close(f.powers(7 * noisy, 4, mask[None]), made)
    # a network sees the numbers, of which other features see a cut alone
    edges, nodes = noisy[..., None], torch.ones(1, 8, 1, dtype=torch.float64)
    for kind, same in (("powers", False), ("walks", True)):
        seen = f.Structural((kind,), size=8)
        pair = [seen(nodes, torch.where(edges > 0.5, more * edges, edges), mask[None])[1] for more in (1.0, 1.3)]
        assert torch.equal(*pair) == same


def test_order_of_nodes_and_padding_mean_nothing():
    graph, mask, _ = several(20)
    edges, nodes = torch.stack([1 - graph, graph], -1), torch.nn.functional.one_hot(graph.sum(-1).long() % 3).double()
    made = f.Structural(tuple(f.KINDS), size=10)
    straight = made(nodes, edges, mask)
    assert tuple(t.shape[-1] for t in straight) == made.widths
    order = torch.tensor([7, 2, 9, 0, 5, 1, 8, 3, 6, 4])
    turned = made(nodes[:, order], edges[:, order][:, :, order], mask[:, order])
    torch.testing.assert_close(turned[0], straight[0][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(turned[1], straight[1][:, order][:, :, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(turned[2], straight[2], rtol=0, atol=1e-10)
    wide = made(torch.nn.functional.pad(nodes, (0, 0, 0, 3)), torch.nn.functional.pad(edges, (0, 0, 0, 3, 0, 3)),
                torch.nn.functional.pad(mask, (0, 3)))  # fmt: skip
    torch.testing.assert_close(wide[0][:, :10], straight[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(wide[1][:, :10, :10], straight[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(wide[2], straight[2], rtol=0, atol=1e-10)
    assert not wide[0][:, 10:].any() and not wide[1][:, 10:].any()
    with pytest.raises(ValueError, match="features has 'cycle'"):
        f.Structural(("cycle",))


def test_valencies_are_sums_of_bond_orders():
    # formaldehyde and hydrogen cyanide's atoms: C=O, C#N, one beside the other
    features = f.Valencies([0, 1, 2, 3], [4, 3, 2], [0, 0, 0], [12.011, 14.007, 15.999])
    nodes = torch.eye(3)[torch.tensor([[0, 2, 0, 1]])]
    kinds = torch.zeros(1, 4, 4, dtype=torch.int64)
    kinds[0, 0, 1] = kinds[0, 1, 0] = 2
    kinds[0, 2, 3] = kinds[0, 3, 2] = 3
    at, _, whole = features(nodes, torch.eye(4)[kinds], torch.ones(1, 4, dtype=torch.bool))
    assert at is not None and whole is not None
    torch.testing.assert_close(at[0, :, 0] * 4, torch.tensor([2.0, 2.0, 3.0, 3.0]))
    torch.testing.assert_close(at[0, :, 1] * 4, torch.tensor([2.0, 0.0, 1.0, 0.0]))  # hydrogens that there is room for
    torch.testing.assert_close(whole[0, 0] * 100, torch.tensor(2 * 12.011 + 14.007 + 15.999))


def test_an_aromatic_bond_counts_one_and_a_half_and_not_its_place_among_the_types():
    # pyridine without its hydrogens, kept aromatic: types of bonds none, single, double, triple, aromatic
    orders, valencies = [0, 1, 2, 3, 1.5], [4, 3]
    ring = torch.zeros(1, 7, 7, dtype=torch.int64)
    for i in range(6):
        ring[0, i, (i + 1) % 6] = ring[0, (i + 1) % 6, i] = 4
    ring[0, 3, 6] = ring[0, 6, 3] = 1  # a methyl group across the nitrogen
    types = torch.tensor([[1, 0, 0, 0, 0, 0, 0]])
    mask = torch.ones(1, 7, dtype=torch.bool)
    found = {}
    for published in (False, True):
        made = f.Valencies(orders, valencies, [0, 0], [12.011, 14.007], published=published)
        found[published] = made(torch.eye(2)[types], torch.eye(5)[ring], mask)[0]
    ours, theirs = (found[k][0] * 4 for k in (False, True))  # pyright: ignore
    bonds = torch.tensor([3.0, 3, 3, 4, 3, 3, 1])
    torch.testing.assert_close(ours[:, 0], bonds)
    torch.testing.assert_close(ours[:, 1], torch.tensor([0.0, 1, 1, 0, 1, 1, 3]))  # as rdkit has hydrogens on them
    # the program: 4 for each aromatic bond, and for the usual valencies 4 and 3 the places of their types, 0 and 1
    torch.testing.assert_close(theirs[:, 0], torch.tensor([8.0, 8, 8, 9, 8, 8, 1]))
    torch.testing.assert_close(theirs[:, 1], torch.tensor([1.0, 0, 0, 0, 0, 0, 0]) - theirs[:, 0])
    chem = pytest.importorskip("rdkit.Chem")
    atoms = list(chem.MolFromSmiles("n1ccc(C)cc1").GetAtoms())
    assert sorted(a.GetTotalNumHs() for a in atoms) == sorted(ours[:, 1].long().tolist())
