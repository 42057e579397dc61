"""The graph transformer knows graphs and not their drawing: order of nodes, padding and direction of edges mean nothing."""

from types import SimpleNamespace

import pytest
import torch

import langevin as lv
from langevin.core import prediction
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.process import Product
from langevin.core.sample import trajectory
from langevin.core.space import SymmetricEdges
from langevin.data import Graphs
from langevin.data.graph import graph_of
from langevin.networks import GraphRegressor, GraphTransformer

NODES, EDGES = 3, 4


def network() -> GraphTransformer:
    torch.manual_seed(0)
    net = GraphTransformer(NODES, EDGES, width=16, edge_width=8, whole=8, depth=2, heads=2).double().eval()
    for parameter in net.parameters():  # what begins at zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def graph(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    edges = torch.randint(EDGES, (2, n, n), generator=generator).triu(1)
    return {"nodes": torch.randint(NODES, (2, n), generator=generator), "edges": edges + edges.transpose(1, 2)}


LEVEL = {"nodes": torch.tensor([0.3, 0.8]).double(), "edges": torch.tensor([0.3, 0.8]).double()}


def test_permuted_nodes_have_permuted_answers():
    net, z, order = network(), graph(6), torch.tensor([3, 0, 5, 1, 4, 2])
    straight = net(z, LEVEL)
    turned = net({"nodes": z["nodes"][:, order], "edges": z["edges"][:, order][:, :, order]}, LEVEL)
    torch.testing.assert_close(turned["nodes"], straight["nodes"][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(turned["edges"], straight["edges"][:, order][:, :, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(straight["edges"], straight["edges"].transpose(1, 2), rtol=0, atol=0)


def test_padding_is_inert():
    net, z = network(), graph(5)
    padded = {"nodes": torch.nn.functional.pad(z["nodes"], (0, 3), value=2),
              "edges": torch.nn.functional.pad(z["edges"], (0, 3, 0, 3), value=1)}  # fmt: skip
    mask = (torch.arange(8) < 5).expand(2, 8)
    alone, beside = net(z, LEVEL), net(padded, LEVEL, mask=mask)
    torch.testing.assert_close(beside["nodes"][:, :5], alone["nodes"], rtol=0, atol=1e-10)
    torch.testing.assert_close(beside["edges"][:, :5, :5], alone["edges"], rtol=0, atol=1e-10)
    assert not beside["nodes"][:, 5:].any() and not beside["edges"][:, 5:].any() and not beside["edges"][:, :, 5:].any()


def test_states_are_graphs_at_every_step():
    keep = lv.schedules.keep_cosine()
    parts = {
        "nodes": Categorical(NODES, keep, torch.tensor([0.5, 0.3, 0.2])),
        "edges": Categorical(EDGES, keep, torch.tensor([0.7, 0.1, 0.1, 0.1]), space=SymmetricEdges()),
    }
    denoiser = Denoiser(
        network().float(), Product(parts), {name: prediction.PREDICTIONS["logits"]() for name in parts},
        shape={"nodes": (6,), "edges": (6, 6)},
    )  # fmt: skip
    mask = torch.arange(6) < torch.tensor([[4], [6], [2]])
    pairs = mask[:, :, None] & mask[:, None, :]
    for step in trajectory(denoiser, lv.plans.ddpm(6), 3, seed=1, mask=mask):
        edges = step.z["edges"]
        assert torch.equal(edges, edges.transpose(1, 2)) and not edges.diagonal(dim1=1, dim2=2).any()
        assert not edges[~pairs].any() and not step.z["nodes"][~mask].any()


def test_graphs_come_back_from_batches():
    nx = pytest.importorskip("networkx")
    made = [nx.path_graph(4), nx.star_graph(5), nx.cycle_graph(3)]
    data = Graphs(made)
    batch = data.batch(torch.arange(3))
    edges = batch.x["edges"] if isinstance(batch.x, dict) else batch.x
    for i, one in enumerate(made):
        n = one.number_of_nodes()
        assert batch.mask is not None and int(batch.mask[i].sum()) == n
        expected = torch.as_tensor(nx.to_numpy_array(one)).long()
        assert torch.equal(edges[i, :n, :n], expected) and not edges[i, n:].any()
    assert Graphs(made).digest() == data.digest() != Graphs(made[:2]).digest()


def test_features_are_exact_under_reduced_precision():
    seen = []

    class Weigh:
        widths = (1, 0, 0)

        def __call__(self, nodes, edges, mask):
            seen.append(nodes @ torch.tensor([[12.011], [14.007], [15.999]]))
            return seen[-1], edges[..., :0], nodes[:, 0, :0]

    net, z = GraphTransformer(NODES, EDGES, 16, 8, 8, 1, heads=2, features=Weigh()), graph(5)
    level = {name: t.float() for name, t in LEVEL.items()}
    net(z, level)
    with torch.autocast("cpu", torch.bfloat16):
        net(z, level)
    assert torch.equal(*seen)  # 14.007 is 14.0 in bfloat16


def test_levels_of_padding_and_of_the_diagonal_mean_nothing():
    net, z = network(), graph(5)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(2, 2, 8, 8, generator=generator).double()
    edges = drawn[0] + drawn[0].transpose(1, 2)
    alone = net(z, {"nodes": drawn[1, :, 0, :5], "edges": edges[:, :5, :5]})
    padded = {"nodes": torch.nn.functional.pad(z["nodes"], (0, 3)), "edges": torch.nn.functional.pad(z["edges"], (0, 3, 0, 3))}
    other = torch.where(torch.eye(8, dtype=torch.bool), 0.9, edges)  # and all beyond the fifth node
    beside = net(padded, {"nodes": drawn[1, :, 0], "edges": other}, mask=(torch.arange(8) < 5).expand(2, 8))
    torch.testing.assert_close(beside["nodes"][:, :5], alone["nodes"], rtol=0, atol=1e-10)
    torch.testing.assert_close(beside["edges"][:, :5, :5], alone["edges"], rtol=0, atol=1e-10)
    one = {name: level.reshape(2, *[1] * k) for k, (name, level) in enumerate(LEVEL.items(), 1)}
    every = {"nodes": one["nodes"].expand(2, 5), "edges": one["edges"].expand(2, 5, 5)}
    for name, said in net(z, every).items():  # one level told of each is one level
        torch.testing.assert_close(said, net(z, one)[name], rtol=0, atol=1e-10)


def test_known_edges_are_told_both_ways():
    edges = Categorical(2, lv.schedules.keep_linear(), space=SymmetricEdges())
    denoiser = Denoiser(
        GraphTransformer(1, 2, 16, 8, 8, 1, heads=2), Product({"edges": edges}), "logits", shape={"edges": (5, 5)}
    )
    given = torch.zeros(6, 5, 5, dtype=torch.int64)
    given[:, 3, 0] = 1
    known = torch.ones_like(given).bool()
    for value, mark in (
        (given, known.tril()),  # one direction alone is marked
        (given, known),  # they are told otherwise
        (given + given.transpose(1, 2) + torch.eye(5).long(), known),  # loops
    ):
        with pytest.raises(ValueError, match="two directions"):
            lv.sample(denoiser, lv.plans.ddpm(5), 6, given={"edges": value}, known={"edges": mark})
    both, some = given + given.transpose(1, 2), torch.zeros_like(known)
    some[:, 3] = some[:, :, 3] = True
    x = lv.sample(denoiser, lv.plans.ddpm(5), 6, given={"edges": both}, known={"edges": some})["edges"]
    assert torch.equal(x, x.transpose(1, 2)) and torch.equal(x[some], both[some]) and bool(x[~some].any())


def test_types_are_told_and_not_guessed_from_features():
    edges = torch.tensor([[0, 1], [1, 2]])
    kinds = torch.tensor([0, 2])
    types = torch.tensor([2, 0, 1])
    hot, hot_kinds = torch.eye(3)[types], torch.eye(3)[kinds]
    for x, attr in ((types, kinds), (types[:, None].float(), kinds[:, None].float()), (hot, hot_kinds), (hot.bool(), hot_kinds)):
        read = graph_of(SimpleNamespace(edge_index=edges, x=x, edge_attr=attr, num_nodes=3))
        assert torch.equal(read.nodes, types) and torch.equal(read.kinds, kinds + 1)
    charged = torch.cat([hot, torch.tensor([[0.2], [-0.1], [1.4]])], 1)  # a charge beside the type
    for x in (charged, hot + torch.eye(3), 0 * hot, 0.5 * hot, types + 0.5, torch.randn(3, 11, generator=torch.Generator())):
        with pytest.raises(ValueError, match=r"x of shape .* tells no types"):
            graph_of(SimpleNamespace(edge_index=edges, x=x, edge_attr=kinds, num_nodes=3))
    with pytest.raises(ValueError, match=r"edge_attr of shape .* tells no types"):
        graph_of(SimpleNamespace(edge_index=edges, x=hot, edge_attr=charged[:2], num_nodes=3))


def test_graphs_of_different_sizes_are_answered_without_the_padding_of_the_largest():
    net, sizes = network(), [9, 40, 12, 39, 8, 10]
    seen = []
    net.trunk[0].register_forward_hook(lambda module, given, said: seen.append(tuple(said[1].shape[:2])))
    z, level = graph(40), torch.linspace(0.1, 0.9, len(sizes)).double()
    rows = torch.arange(len(sizes)) % 2
    mask = torch.arange(40) < torch.tensor(sizes)[:, None]
    z = {"nodes": z["nodes"][rows], "edges": z["edges"][rows]}
    every = level[:, None, None].expand(-1, 40, 40)
    with torch.no_grad():
        said = net(z, {"nodes": level, "edges": every}, mask=mask)
        assert seen == [(2, 40), (4, 12)]
        assert said["nodes"].shape == (6, 40, NODES) and said["edges"].shape == (6, 40, 40, EDGES)
        for row, n in enumerate(sizes):
            assert not said["nodes"][row, n:].any() and not said["edges"][row, n:].any() and not said["edges"][row, :, n:].any()
            alone = net({"nodes": z["nodes"][row : row + 1, :n], "edges": z["edges"][row : row + 1, :n, :n]},
                        {"nodes": level[row : row + 1], "edges": level[row : row + 1]})  # fmt: skip
            torch.testing.assert_close(said["nodes"][row, :n], alone["nodes"][0], rtol=0, atol=1e-10)
            torch.testing.assert_close(said["edges"][row, :n, :n], alone["edges"][0], rtol=0, atol=1e-10)


def test_a_regressor_of_different_sizes_has_the_gradients_of_each_graph():
    torch.manual_seed(0)
    net = GraphRegressor(2, NODES, EDGES, width=16, edge_width=8, whole=8, depth=1, heads=2).double()
    sizes, z = [7, 40, 9, 8], graph(40)
    rows, mask = torch.arange(4) % 2, torch.arange(40) < torch.tensor(sizes)[:, None]
    hot = {name: torch.nn.functional.one_hot(v[rows], NODES if name == "nodes" else EDGES).double() for name, v in z.items()}
    hot = {name: v.requires_grad_() for name, v in hot.items()}
    level = {"nodes": torch.full((4,), 300.0).double(), "edges": torch.full((1, 1, 1), 300.0).double()}
    said = net(hot, level, None, mask)
    (gradient,) = torch.autograd.grad(said[:, 1].sum(), [hot["edges"]])
    for row, n in enumerate(sizes):
        alone = {"nodes": hot["nodes"][row : row + 1, :n].detach(), "edges": hot["edges"][row : row + 1, :n, :n].detach()}
        alone["edges"].requires_grad_()
        own = net(alone, {"nodes": level["nodes"][:1], "edges": level["edges"]})
        torch.testing.assert_close(said[row], own[0], rtol=0, atol=1e-10)
        (expected,) = torch.autograd.grad(own[0, 1], [alone["edges"]])
        torch.testing.assert_close(gradient[row, :n, :n], expected[0], rtol=0, atol=1e-10)
        assert not gradient[row, n:].any()
