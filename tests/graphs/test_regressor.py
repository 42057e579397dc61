"""Guidance of graphs by a regressor: what it learns, what its guidance draws, and the way from a run to steered samples."""

import json
import math

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.cli import main
from langevin.config import TrainConfig
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.process import Product
from langevin.core.sample import sample
from langevin.core.space import SymmetricEdges
from langevin.data import Graphs
from langevin.graphs.properties import properties_of
from langevin.guidance import ClassifierGuidance
from langevin.networks import GraphRegressor
from langevin.objectives import Regression
from langevin.recipes import config as c
from langevin.recipes.domains.graphs import adjacency
from langevin.recipes.drawing import draw
from langevin.recipes.opening import open_run
from langevin.recipes.regressing import aimed, open_regressor, regress
from langevin.training import Model, fit
from tests.graphs.test_conditions import _file, _of, _trained

SMALL = c.GraphTransformerConfig(width=16, edge_width=16, whole=16, depth=1, features=())


def test_a_regressor_reads_a_graph_and_neither_its_order_nor_its_padding():
    torch.manual_seed(0)
    net = GraphRegressor(2, 3, 2, width=16, edge_width=8, whole=8, depth=2)
    net.requires_grad_(False)
    for p in net.parameters():
        p.add_(0.3 * torch.randn_like(p))
    nodes, edges = torch.randint(3, (4, 5)), torch.randint(2, (4, 5, 5)).triu(1)
    edges = edges + edges.transpose(1, 2)
    level = {"nodes": torch.full((4,), 300.0), "edges": torch.full((4,), 300.0)}
    said, order = net({"nodes": nodes, "edges": edges}, level), torch.tensor([3, 0, 4, 1, 2])
    assert said.shape == (4, 2) and float(said.std(0).min()) > 1e-3
    moved = net({"nodes": nodes[:, order], "edges": edges[:, order][:, :, order]}, level)
    assert torch.allclose(moved, said, atol=1e-5)
    wide = torch.nn.functional.pad(edges, (0, 2, 0, 2))
    padded = net(
        {"nodes": torch.nn.functional.pad(nodes, (0, 2)), "edges": wide}, level, None, (torch.arange(7) < 5).expand(4, 7)
    )
    assert torch.allclose(padded, said, atol=1e-5)
    hot = {"nodes": torch.nn.functional.one_hot(nodes, 3).float(), "edges": torch.nn.functional.one_hot(edges, 2).float()}
    assert torch.allclose(net(hot, level), said, atol=1e-6)


def test_it_learns_the_mean_of_what_a_noisy_graph_may_have_been():
    # one edge, there in half of the graphs, of a property of -1 or 1: E[y | z_t] is alpha_t times what z_t says
    leaf = Categorical(2, schedules.keep_linear(), torch.tensor([0.5, 0.5]), space=SymmetricEdges())
    data = Graphs([{"n": 2, "edges": []}, {"n": 2, "edges": [[0, 1]]}] * 32, cond={"y": torch.tensor([-1.0, 1.0] * 32)})
    process = Product({"edges": leaf})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(GraphRegressor(1, 1, 2, width=16, edge_width=16, whole=32, depth=1), data.shape)
    fit(model, data, objective=Regression(process, ["y"]), steps=250, batch=64, lr=3e-3, ema=0.98, warmup=64, progress=False)
    z = torch.tensor([[[0, 0], [0, 0]], [[0, 1], [1, 0]]])
    for t in (0.1, 0.5, 0.9):
        with torch.no_grad():
            said = model.net({"edges": z}, {"edges": torch.full((2,), 1000 * t)})[:, 0]
        assert said.tolist() == pytest.approx([-(1 - t), 1 - t], abs=0.12)
    with pytest.raises(ValueError, match="outcomes has 'mass', and the data has y"):
        fit(model, data, objective=Regression(process, ["mass"]), steps=1, progress=False)


class Edge(BaseDenoiser):
    """Graphs of two nodes whose edge has types of known shares."""

    def __init__(self, shares):
        super().__init__()
        leaf = Categorical(3, schedules.keep_linear(), "uniform", space=SymmetricEdges())
        self.process, self.shape = Product({"edges": leaf}), {"edges": (2, 2)}
        self.exact = oracles.enumerated(Categorical(3, schedules.keep_linear(), "uniform"), shares)

    def forward(self, z, t, cond, mask):
        flat = self.exact(z["edges"][:, 0, 1:], t["edges"].reshape(-1, 1))
        belief = Denoiser(lambda *_: None, self.process, "posterior", self.shape)
        logits = flat.log_probs[:, :, None].expand(-1, 2, 2, 3)
        return belief.posteriors({"edges": logits}, z, t)


def _tilted_shares(shares, value, steps):
    """What `steps` steps draw whose next state is weighed by log E[exp(value) | z_t], by chance of 6,000 graphs."""
    model = Edge(shares)

    def log_prob(z, t, cond, mask):
        alpha = 1 - t["edges"].reshape(-1, 1, 1).float()
        q = alpha * torch.eye(3) + (1 - alpha) / 3  # q(z_t | x)
        h = ((shares * value.exp()).float()[:, None] * q).sum(1) / (shares.float()[:, None] * q).sum(1)
        return (z["edges"][:, 0, 1] * h.log()).sum(1)

    guided = ClassifierGuidance(log_prob, 1.0, of="state", padded=True)
    z = sample(model, plans.tilted(steps), 6000, guidance=guided, seed=1, mask=torch.ones(6000, 2, dtype=torch.bool))["edges"]
    assert torch.equal(z, z.transpose(1, 2))
    return torch.bincount(z[:, 0, 1], minlength=3).double() / 6000


def test_graphs_that_are_steered_by_an_exact_regressor_are_of_the_tilted_law():
    shares, value = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    law = shares * value.exp()
    law = law / law.sum()
    error = 4 * (law * (1 - law) / 6000).sqrt()
    assert float((law - shares).abs().max()) > 0.1
    fine, coarse = (_tilted_shares(shares, value, steps) for steps in (48, 3))
    assert bool(((fine - law).abs() < error + 0.02).all())
    assert float((coarse - law).abs().max()) > 0.05  # Bayes' rule to first order in the step


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """(a run of graphs without or with all edges, which knows no property; the directory of a regressor for it)."""
    root = tmp_path_factory.mktemp("regressor")
    run = _trained(_of(_file(root / "some.json"), 60), root / "run")
    small = TrainConfig(steps=120, batch=32, lr=5e-3, ema=0.9, warmup=64, save_every=10_000)
    regress(run, ("density", "weight"), root / "reads", network=SMALL, train=small, say=lambda line: None)
    return run, root / "reads"


def test_its_errors_are_told_in_the_units_of_the_property(steered):
    _, folder = steered
    found = json.loads((folder / "errors.json").read_text())
    assert found["weight"]["deviation"] == pytest.approx(20 * found["density"]["deviation"], rel=1e-4)
    assert found["density"]["0.1"] < 0.15 < 0.3 < found["density"]["0.9"] < 0.7


@pytest.mark.parametrize("plan", ["tilted:12", "ddpm:12"])
def test_samples_of_a_run_that_knows_no_property_move_to_what_is_asked_for(steered, plan, tmp_path):
    run, folder = steered
    regressor = open_regressor(folder, run)
    of = "state" if plan.startswith("tilted") else "belief"

    def mean(**options):
        graphs = run.domain.graphs(run, draw(run, 60, plan=plan, seed=1, **options))
        return float(properties_of([adjacency(g) for g in graphs], ("density",)).mean())

    low, high = (mean(steer=regressor.towards(run, {"density": to}, 3.0, of)) for to in (0.0, 1.0))
    free = mean(steer=regressor.towards(run, {"density": 1.0}, 0.0, of))
    assert free == mean() and low < free - 0.15 and free + 0.15 < high
    out = tmp_path / "x.json"
    asked = ["sample", str(run.folder), "--steer", str(folder), "--plan", plan, "--count", "60", "--seed", "1", "--strength", "3"]
    main([*asked, "--property", "density=1", "--out", str(out)])
    told = json.loads(out.read_text())
    share = [2 * len(g["edges"]) / g["n"] / (g["n"] - 1) for g in told]
    assert sum(share) / 60 == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("of", ["belief", "state"])
def test_a_graph_is_led_as_much_alone_as_beside_others(steered, of):
    # the published loss is a mean over the batch, so that its strength falls with the size of that
    run, folder = steered
    guidance = open_regressor(folder, run).towards(run, {"density": 1.0}, 3.0, of)
    plan = "tilted:8" if of == "state" else "ddpm:8"
    many, free = draw(run, 24, plan=plan, seed=1, steer=guidance), draw(run, 24, plan=plan, seed=1)
    assert not all(torch.equal(free[name], many[name]) for name in many)
    for count in (1, 5):
        few = draw(run, count, plan=plan, seed=1, steer=guidance)
        assert all(torch.equal(few[name], many[name][:count]) for name in many)


def test_a_regressor_of_something_else_is_refused(steered, tmp_path, capsys):
    run, folder = steered
    regressor = open_regressor(folder, run)
    with pytest.raises(ValueError, match="property is 'logp', and this regressor knows density, weight"):
        regressor.towards(run, {"logp": 1.0})
    with pytest.raises(ValueError, match="is no regressor: it has no regressor"):
        open_regressor(tmp_path, run)
    told = json.loads((folder / "regressor.json").read_text())
    told["process"]["schedule"] = "keep_linear"
    (tmp_path / "regressor.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"learned with process .*keep_linear.*; regress on this run"):
        open_regressor(tmp_path, run)
    with pytest.raises(SystemExit):
        main(["sample", str(run.folder), "--steer", str(folder), "--out", str(tmp_path / "x.json")])
    assert "nothing is asked for; name one of density, weight" in capsys.readouterr().err
    for strength in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=f"strength is {strength:g}; give a finite number, 0 or more"):
            aimed(run, folder, {"density": 0.5}, strength)
    assert open_run(run.folder).facts.graph.properties == ()


def test_a_regressor_is_learned_on_the_command_line(steered, tmp_path, capsys):
    run, _ = steered
    small = ["--train.steps", "2", "--train.batch", "8", "--network.width", "16", "--network.depth", "1", "--device", "cpu"]
    main(["regress", str(run.folder), "--property", "edges", "--out", str(tmp_path / "reads"), *small])
    assert "edges: deviation" in capsys.readouterr().out
    assert open_regressor(tmp_path / "reads", run).kept.properties == ("edges",)
    with pytest.raises(SystemExit):
        main(["regress", str(run.folder), "--property", "mass", "--out", str(tmp_path / "other"), *small])
    assert "tells no number 'mass'" in capsys.readouterr().err
