"""DiGress, end to end: marginal noise, the likelihood of its own sampler, guidance, and a run from its recipe to its files."""

import json
import math
from dataclasses import replace

import numpy
import pytest
import torch
from PIL import Image

from langevin import oracles, schedules
from langevin.core.batch import Batch
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.core.process import Product
from langevin.core.schedule import Formula
from langevin.core.space import SymmetricEdges
from langevin.data import Graphs
from langevin.objectives import ELBO
from langevin.tasks.elbo import variational_bound
from tests.laws.test_objectives import Believing

TABLE = torch.tensor([[0.35, 0.05, 0.05], [0.05, 0.2, 0.02], [0.03, 0.05, 0.2]], dtype=torch.float64)


def test_marginal_noise_keeps_the_marginals_and_draws_each_edge_once():
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    leaf = Categorical(3, schedules.keep_cosine(), shares, space=SymmetricEdges())
    noise, n = Noise.of(0, 4000), 5
    mask = (torch.arange(n) < torch.tensor([5, 4])[torch.arange(4000) % 2][:, None]).expand(4000, n)
    x = leaf.prior((n, n), noise.at("x"), mask)
    for t in (0.2, 0.6, 1.0):
        level = torch.full((4000, 1, 1), t, dtype=torch.float64)
        z = leaf.marginal(x, level, noise.at("z"), mask)
        assert torch.equal(z, z.transpose(1, 2)) and not z.diagonal(dim1=1, dim2=2).any()
        real = mask[:, :, None] & mask[:, None] & torch.ones(n, n, dtype=torch.bool).triu(1)
        assert not z[~(real | real.transpose(1, 2))].any()
        drawn = z[real]
        found = torch.bincount(drawn, minlength=3).double() / len(drawn)
        assert bool(((found - shares).abs() < 4 * (shares * (1 - shares) / len(drawn)).sqrt()).all())


def _chain(steps: int, joint: bool) -> float:
    """Nats of the bound over `steps` steps beyond the entropy, by enumeration of two variables. `joint` weighs the posterior
    of x by q(z_s, z_t | x) in place of q(z_s | z_t, x), as the published likelihood does for a sampler of the other form."""
    leaf = Categorical(3, schedules.keep_cosine(), TABLE.sum(1))
    exact = oracles.enumerated(leaf, TABLE)
    x = torch.tensor([[i, j] for i in range(3) for j in range(3)])
    p_x, total = TABLE.flatten(), 0.0
    for k in range(steps, 0, -1):
        t, s = k / steps, (k - 1) / steps
        level = torch.full((1, 1), t, dtype=torch.float64)
        for z in x:  # every state
            q_z = leaf.marginal_probs(x, level).gather(-1, z.expand(9, 2)[..., None])[..., 0].prod(1)
            state = z.expand(1, 2)
            belief = exact(state, t)
            probs = belief.probs
            if joint:  # the evidence of z_t, which the posterior holds already, once more
                probs = torch.softmax(belief.log_probs + leaf.evidence(state, level), -1)
            at = torch.full((1, 1), s, dtype=torch.float64)
            model = leaf.bridge_probs(state, probs, level, at) if s else belief.probs
            truth = leaf.bridge_probs(state.expand(9, 2), torch.nn.functional.one_hot(x, 3).double(), level, at)
            kl = (torch.special.xlogy(truth, truth) - torch.special.xlogy(truth, model)).sum((1, 2))
            total += float((p_x * q_z * kl).sum())
    return total - float(torch.special.entr(p_x).sum())


def test_the_likelihood_is_that_of_its_own_sampler():
    gaps = [_chain(steps, joint=False) for steps in (8, 16)]
    assert 0 < gaps[1] < 0.6 * gaps[0] and gaps[1] < 0.03  # what independent draws within a step cost: it halves
    published = [_chain(steps, joint=True) for steps in (8, 16)]
    assert published[0] > 10 * gaps[0] and published[1] > 20 * gaps[1]  # of another sampler than the one that draws
    # the objective is the same in either form, by name
    n, entropy = 20_000, float(torch.special.entr(TABLE).sum())
    x = torch.multinomial(TABLE.flatten(), n, True, generator=torch.Generator().manual_seed(0))
    model = Believing(oracles.enumerated(Categorical(3, schedules.keep_cosine(), TABLE.sum(1)), TABLE), "logits")
    for form, gap in (("exact", gaps[0]), ("joint", published[0])):
        found = ELBO(8, form=form)(model, Batch(torch.stack([x // 3, x % 3], 1)), Noise.of(0, n))
        each = 2 * found.each[""].double()
        assert abs(float(each.mean()) - gap - entropy) < 4 * float(each.std()) / n**0.5


def test_the_bound_of_graphs_counts_each_edge_once_and_no_padding():
    # graphs of two nodes are one edge: the bound of the product is that of one variable
    share = torch.tensor([0.25, 0.75], dtype=torch.float64)
    leaf = Categorical(2, schedules.keep_linear(), share, space=SymmetricEdges())
    process = Product({"edges": leaf})

    class Exact(torch.nn.Module):  # edges are independent of one another, so that what is known of one is its own state
        def forward(self, z, level, cond=None, mask=None):
            return {"edges": share.log().float().expand(*z["edges"].shape, 2)}

    denoiser = Denoiser(Exact(), process, "logits", shape={"edges": (3, 3)})
    data = Graphs([{"n": 2, "edges": [[0, 1]]}, {"n": 3, "edges": []}])
    index = torch.arange(2000) % 2
    batch = data.batch(index)
    loss = ELBO(8)(denoiser, Batch(batch.x, None, batch.mask), Noise.of(0, 2000))
    per_edge = loss.each["edges"].double()
    for found, expected in zip((per_edge[0::2], per_edge[1::2]), -share.log().flip(0), strict=True):
        assert abs(float(found.mean() - expected)) < 4 * float(found.std()) / len(found) ** 0.5


def test_the_bound_of_masked_graphs_has_its_least_at_the_truth_whatever_the_padding():
    # at the last level all is masked but padding and diagonal, which say nothing and must leave the gradient alone
    leaf = Categorical(2, schedules.keep_cosine(), "mask", space=SymmetricEdges())
    x = torch.tensor([[0, 1], [1, 0]])
    level = torch.ones(1, 1, 1, dtype=torch.float64)
    assert not leaf.evidence(x[None], level).any() and not leaf.evidence(torch.full((1, 2, 2), 2), level).any()
    assert torch.equal(leaf.evidence(x[None], 0.5 * level).isneginf().sum(-1), torch.ones(1, 2, 2))  # a token seen is known

    class Shares(torch.nn.Module):
        def __init__(self, shares):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor(shares).log())

        def forward(self, z, level, cond=None, mask=None):
            return {"edges": self.logits.expand(*z["edges"].shape, 2)}

    data = Graphs([{"n": 2, "edges": [[0, 1]]}, *[{"n": 3, "edges": []}] * 3])  # of graphs, a quarter have the edge
    batch = data.batch(torch.arange(4000) % 4)
    slopes = {}
    for share in (0.1, 0.25, 0.5):
        net = Shares([1 - share, share])
        denoiser = Denoiser(net, Product({"edges": leaf}), "logits", shape={"edges": (3, 3)})
        loss = ELBO(2)(denoiser, Batch(batch.x, None, batch.mask), Noise.of(0, 4000))
        loss.total.backward()
        slopes[share] = float(net.logits.grad[1])  # pyright: ignore
    assert abs(slopes[0.25]) < 0.03 and slopes[0.1] == pytest.approx(-0.15, abs=0.03)
    assert slopes[0.5] == pytest.approx(0.25, abs=0.03)


def test_the_bound_of_a_product_has_the_prior_in_it():
    # half of what is known of an edge is left at level 1: without KL(q(z_1 | x) || p(z_1)) the bound would be below the entropy
    share = torch.tensor([0.3, 0.7], dtype=torch.float64)
    schedule = Formula("half", lambda t: 1 - 0.5 * t, None, "flow")
    process = Product({"edges": Categorical(2, schedule, share, space=SymmetricEdges())})

    class Exact(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return {"edges": share.log().float().expand(*z["edges"].shape, 2)}

    denoiser = Denoiser(Exact(), process, "logits", shape={"edges": (3, 3)})
    graphs = [{"n": 3, "edges": [[0, 1], [1, 2], [0, 2]][:k]} for k in (3, 3, 3, 3, 3, 3, 3, 0, 0, 0)]
    batch = Graphs(graphs).batch(torch.arange(1000) % 10)  # 7 of 10 edges are there
    found, _ = variational_bound(denoiser, batch, draws=40)
    error = 4 * float(found.error.square().sum().sqrt()) / 1000 / 3
    entropy = float(torch.special.entr(share).sum())
    left = float(process.leaves()["edges"].prior_kl(torch.tensor([0, 1])) @ share)
    assert left > 0.12 > 2 * error and float(found.nats.mean()) / 3 == pytest.approx(-entropy, abs=error)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps on molecules."""
    pytest.importorskip("rdkit")
    from langevin.recipes import recipe
    from langevin.recipes.opening import open_run
    from langevin.recipes.starting import start

    base = recipe("nci-graph").model_dump()
    base["data"].update(largest=6, properties=("logp",))
    base["network"].update(width=16, edge_width=8, whole=8, depth=1)
    base["train"].update(steps=4, batch=8, save_every=4, preview_every=1000, warmup=8)
    base["sample"]["plan"] = "ddpm:6"
    out = tmp_path_factory.mktemp("graph")
    made = type(recipe("nci-graph")).model_validate(base)
    _, trainer = start(made, out)
    trainer.run()
    trainer.close()
    return open_run(out)


def test_a_run_is_rebuilt_without_its_data_and_its_samples_come_back_as_graphs(trained, tmp_path):
    from langevin.recipes.drawing import draw
    from langevin.recipes.report import write_samples

    assert "_splits" not in trained.__dict__
    x = draw(trained, 7, seed=3)
    assert torch.equal(x["edges"], draw(trained, 7, seed=3, plan="ddpm:6")["edges"])
    graphs = trained.domain.graphs(trained, x)
    sizes = torch.tensor(trained.facts.graph.sizes)
    assert all(sizes[len(g.nodes)] > 0 for g in graphs)
    for g, nodes in zip(graphs, x["nodes"], strict=True):
        assert torch.equal(g.nodes, nodes[: len(g.nodes)]) and bool((nodes[len(g.nodes) :] == -1).all())
    path = write_samples(trained, tmp_path / "some.json", 7, seed=3)
    from langevin.data import read_graphs

    back = read_graphs(path)
    assert all(torch.equal(a, b) for k, g in enumerate(graphs) for a, b in zip(back[k], g, strict=True))
    assert write_samples(trained, tmp_path / "some.png", 5).stat().st_size > 1000
    with Image.open(write_samples(trained, tmp_path / "some.gif", 5)) as film:
        last, pictures = film.n_frames - 1, {}
        for k in (0, last):
            film.seek(k)
            pictures[k] = film.convert("RGB").tobytes()
        assert pictures[0] != pictures[last] and film.size == (600, 120)
    assert "_splits" not in trained.__dict__


def test_likelihood_of_graphs_has_the_number_of_nodes_in_it(trained):
    from langevin.recipes.likelihood import likelihood

    found = likelihood(trained, count=6, draws=2)
    sizes = trained.test.sizes[:6]
    assert found.elements == pytest.approx(float((sizes + sizes * (sizes - 1) // 2).double().mean()))
    assert math.isfinite(float(found.nats.mean())) and bool((found.nats < math.log(max(trained.facts.graph.sizes))).all())


def test_molecules_of_a_file_are_judged_with_the_atoms_that_the_run_knows(trained, tmp_path, capsys):
    from rdkit import Chem

    from langevin.cli import main
    from langevin.data import molecules

    known, size = trained.facts.graph.node_types, len(trained.facts.graph.sizes) - 1
    assert not {"Te", "C-"} & set(known) and size == 6 and known[0] == "C"
    said = ["NCCO", "OC=O", "OCCCC"]  # of which O is the commonest atom but carbon, and not in the run
    file, each = tmp_path / "mine.smi", tmp_path / "nats.npy"
    file.write_text("\n".join([*said, "C[Te]C", "[CH2-]C#N", "CCCCCCC"]))
    kekulised = [Chem.MolFromSmiles(word) for word in said]
    for mol in kekulised:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    exact = Graphs([molecules.graph_of_molecule(mol, known) for mol in kekulised], known, molecules.BONDS, size=size)
    read = trained.domain.rows(trained, file, given=True)
    for name, values in exact.batch(torch.arange(3)).x.items():
        assert torch.equal(read.batch(torch.arange(3)).x[name], values)
    asked, unit = molecules.PROPERTIES["logp"]
    assert read.cond["logp"].tolist() == pytest.approx([asked(mol) / unit for mol in map(Chem.MolFromSmiles, said)])
    assert "left out 1 of other elements, 1 of other atoms, 1 too large" in capsys.readouterr().err
    assert trained.domain.rows(trained, file).cond is None

    main(["likelihood", str(trained.folder), str(file), "--draws", "2", "--each", str(each)])
    batch = exact.batch(torch.arange(3))
    bound, _ = variational_bound(trained.denoiser, batch, draws=2)
    sizes = torch.tensor(trained.facts.graph.sizes, dtype=torch.float64)
    alone = (torch.from_numpy(numpy.load(each)) - bound.nats).exp()
    assert torch.allclose(alone, (0.999 * sizes + 0.001 / 6)[batch.mask.sum(1)], rtol=1e-5)
    with pytest.raises(SystemExit):
        main(["likelihood", str(trained.folder), str(tmp_path / "none.smi")])
    assert "none.smi does not exist" in capsys.readouterr().err


def test_graphs_of_a_file_are_judged_as_the_run_knows_them(tmp_path):
    some = Graphs([{"n": 3, "edges": [[0, 1]]}, {"n": 2, "edges": []}])
    wider = some.among(["node"], ["", "single", "double"], 5)
    assert wider.categories == {"edges": 3} and wider.batch(torch.arange(2)).x["edges"].shape == (2, 5, 5)
    assert torch.equal(wider.batch(torch.arange(2)).x["edges"][:, :3, :3], some.batch(torch.arange(2)).x["edges"])
    with pytest.raises(ValueError, match="a graph has 3 nodes, and what is known are graphs of up to 2; leave it out"):
        some.among(["node"], ["", "edge"], 2)
    typed = Graphs([{"n": 2, "edges": [[0, 1]], "kinds": [2], "nodes": [1, 0]}])
    with pytest.raises(ValueError, match="2 types of nodes"):
        typed.among(["node"], ["", "edge", "other"], 2)
    with pytest.raises(ValueError, match="3 types of edges"):
        typed.among(["a", "b"], ["", "edge"], 2)


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path):
    pytest.importorskip("rdkit")
    from langevin.recipes import recipe
    from langevin.recipes.opening import open_run
    from langevin.recipes.starting import start

    file, facts = tmp_path / "some.smi", tmp_path / "run" / "facts.json"
    some = ["C" * k + end for k in range(2, 7) for end in ("N", "O", "C(C)N")] + ["NCCN", "NCCCN"]
    file.write_text("\n".join(some))
    base = recipe("nci-graph").model_dump()
    base["data"].update(path=str(file), held_out=0.3)
    base["network"].update(width=16, edge_width=8, whole=8, depth=1)
    base["train"].update(steps=4, batch=8, save_every=4, preview_every=1000, warmup=8)
    made = type(recipe("nci-graph")).model_validate(base)

    def go_on():
        _, trainer = start(made, tmp_path / "run", resume=True)
        trainer.run()
        trainer.close()

    go_on()
    before = facts.read_text()
    assert json.loads(before)["graph"]["node_types"] == ["C", "N", "O"]
    file.write_text("\n".join(some).translate(str.maketrans("NO", "ON")))  # as long, with more of the other
    with pytest.raises(ValueError, match=r"graph\.node_types is now \('C', 'O', 'N'\)"):
        go_on()
    assert facts.read_text() == before
    file.write_text("\n".join(some))
    older = json.loads(before)
    del older["graph"]["molecules"], older["ended"]  # as before there were such
    older["graph"]["nodes"][0] *= 1 + 1e-15
    facts.write_text(json.dumps(older))
    go_on()
    assert open_run(tmp_path / "run").facts.graph.molecules


def test_a_graph_of_unseen_size_costs_what_is_said_and_not_infinitely_many(trained):
    from langevin.recipes.likelihood import EVEN, likelihood

    before = likelihood(trained, count=6, draws=2)
    assert "never met" not in before.how
    n, law = int(trained.test.sizes[0]), list(trained.facts.graph.sizes)
    seen = law[n]
    law[n] = 0.0
    graph = trained.facts.graph.model_copy(update={"sizes": tuple(law)})
    unseen = replace(trained, facts=trained.facts.model_copy(update={"graph": graph}))
    unseen.__dict__["_splits"] = trained._splits
    after = likelihood(unseen, count=6, draws=2)
    largest = len(law) - 1
    those = trained.test.sizes[:6] == n
    assert f"{int(those.sum())} graphs have a number of nodes" in after.how
    moved = math.log(EVEN / largest) - math.log((1 - EVEN) * seen + EVEN / largest)
    assert torch.allclose(after.nats - before.nats, torch.where(those, moved, 0.0).double(), atol=1e-6)
    total = sum((1 - EVEN) * p + EVEN / largest for p in trained.facts.graph.sizes[1:])
    assert total == pytest.approx(1)  # a law still
