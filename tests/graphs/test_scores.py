"""Graphs by coupled scores (GDSS), by scores of adjacency alone (EDP-GNN), and out of their distribution (MOOD)."""

import json
import math

import pytest
import torch

from langevin import plans, schedules
from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.posterior import GaussianPosterior
from langevin.core.process import Product
from langevin.core.sample import sample
from langevin.core.space import Centred, SymmetricEdges
from langevin.core.tree import tree
from langevin.embedded import Embedded, Logits
from langevin.guidance import Exploration
from langevin.plans.corrections import Langevin, Split
from langevin.plans.moves import Standard
from langevin.tasks.elbo import elements_of, variational_bound
from tests.rows import Fixed

# nodes x (2) and the one edge a of a graph of two nodes, jointly normal, in so many channels alike: the step of a Langevin
# correction goes by the norms of its own sample, which widens what it rests at by 1 + 2 / D in D dimensions
CHANNELS = 256
MEAN = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
COV = torch.tensor([[0.8, 0.3, 0.35], [0.3, 0.6, -0.2], [0.35, -0.2, 0.5]], dtype=torch.float64)


class Coupled(BaseDenoiser):
    """The exact posterior means of nodes and edge, each from both."""

    shape = {"nodes": (2, CHANNELS), "edges": (2, 2, CHANNELS)}  # noqa: RUF012

    def __init__(self, node, edge):
        super().__init__()
        self.process = Product({"nodes": Gaussian(node), "edges": Gaussian(edge, space=SymmetricEdges())})

    def forward(self, z, t, cond, mask):
        parts = self.process.leaves()
        (a, s), (b, u) = (tuple(float(v) for v in parts[n].schedule(t[n].flatten()[0])) for n in ("nodes", "edges"))
        alpha, sigma = torch.tensor([a, a, b]).double(), torch.tensor([s, s, u]).double()
        joint = torch.stack([z["nodes"][:, 0], z["nodes"][:, 1], z["edges"][:, 0, 1]], -1).double()
        spread = alpha[:, None] * COV * alpha + torch.diag(sigma**2)
        x = MEAN + (joint - alpha * MEAN) @ torch.linalg.solve(spread, alpha[:, None] * COV)
        edges = torch.zeros(len(x), 2, 2, CHANNELS, dtype=torch.float64)
        edges[:, 0, 1] = edges[:, 1, 0] = x[..., 2]
        return {"nodes": GaussianPosterior(x[..., :2].transpose(1, 2).float()), "edges": GaussianPosterior(edges.float())}


class Independent(BaseDenoiser):
    """The exact posterior means of independent normals of mean 0 and one variance."""

    def __init__(self, process, shape, variance):
        super().__init__()
        self.process, self.shape, self.variance = process, shape, variance

    def forward(self, z, t, cond, mask):
        out = {}
        for name, leaf in self.process.leaves().items():
            alpha, sigma = leaf.schedule(t[name])
            gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
            out[name] = GaussianPosterior(z[name] * gain.to(z[name]))
        return tree(out)


@pytest.mark.parametrize("plan", ["predictor_corrector", "splitting"])
@pytest.mark.parametrize("schedule", [schedules.vp_linear(), schedules.ve(0.05, 5.0)], ids=["vp", "ve"])
def test_two_partial_scores_make_the_joint_law(plan, schedule):
    exact, count = Coupled(schedules.vp_linear(), schedule), 80
    made = plans.predictor_corrector(250, snr=0.05) if plan == "predictor_corrector" else plans.splitting(250, snr=0.05)
    z = sample(exact, made, count, seed=1)
    assert torch.equal(z["edges"], z["edges"].transpose(1, 2)) and not z["edges"].diagonal(dim1=1, dim2=2).any()
    joint = torch.stack([z["nodes"][:, 0], z["nodes"][:, 1], z["edges"][:, 0, 1]], -1).reshape(-1, 3).double()
    scale = COV.diagonal().sqrt()
    assert bool(((joint.mean(0) - MEAN).abs() < 0.05 * scale).all())
    assert bool(((torch.cov(joint.T) - COV).abs() < 0.05 * scale[:, None] * scale).all())


def test_splitting_asks_once_a_step_where_prediction_and_correction_ask_twice():
    schedule = schedules.vp_linear()
    assert plans.splitting(50).on(schedule).nfe == 50
    assert plans.predictor_corrector(50).on(schedule).nfe == 100


class Parts(Noise):
    """Noise that is 1 where it is drawn for one purpose, and 0 for all others."""

    def __new__(cls, purpose):
        return object.__new__(cls)

    def __init__(self, purpose):
        Noise.__init__(self, 0, torch.arange(1), purpose=purpose)

    def at(self, purpose, step=None):
        return Fixed(float(purpose == self.purpose), 1)


T, S = 0.6, 0.5
HELD = 0.1 * (T - S) + 19.9 * (T**2 - S**2) / 2  # of vp_linear, int beta
LINEAR = {  # dz = f z dt + g dw from t back to s, by hand: factor, and int g^2 (factor from u to s)^2 du
    "vp": (schedules.vp_linear(), math.exp(HELD / 2), math.expm1(HELD)),
    "ve": (schedules.ve(0.05, 2.0), 1.0, 0.05**2 * (40 ** (2 * T) - 40 ** (2 * S))),
    "flow": (schedules.flow(), (1 - S) / (1 - T), (1 - S) ** 2 * (1 / (1 - T) - 1 / (1 - S)) * (1 / (1 - T) + 1 / (1 - S) - 2)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_linear_half_steps_are_exact(name):
    # the score left out (snr 0, belief z / alpha) the state is multiplied, and given two draws of noise
    schedule, factor, variance = LINEAR[name]
    leaf, z = Gaussian(schedule), torch.full((1, 1), 0.7, dtype=torch.float64)
    believed = GaussianPosterior(z / float(schedule(T)[0]))
    row = Split(start=T, stop=S, snr=0)
    mean, *drawn = (float(row.move(leaf, z, believed, Parts(p), None)) for p in ("", "first", "second", "correction"))
    assert mean == pytest.approx(0.7 * factor, rel=1e-12)
    assert (drawn[0] - mean) ** 2 + (drawn[1] - mean) ** 2 == pytest.approx(variance, rel=1e-12) and drawn[2] == mean


def test_what_gdss_leaves_at_level_1_is_not_in_the_prior():
    # vp from beta 0.1 to 1: alpha(1) = exp(-0.55 / 2). Its code begins at N(0, I) there, and so on ve, whatever sigma(1)
    schedule = schedules.vp_linear(0.1, 1.0)
    assert [round(float(v), 3) for v in schedule(1.0)] == [0.760, 0.650]
    exact = Coupled(schedule, schedules.ve(0.05, 5.0))
    deviation = {"nodes": math.sqrt(1 - math.exp(-0.55)), "edges": math.sqrt(25 - 0.05**2)}
    for name, leaf in exact.process.leaves().items():
        begun = leaf.prior(exact.shape[name], Noise.of(3, 40))
        free = begun if name == "nodes" else begun[:, 0, 1]
        assert float(free.std()) == pytest.approx(deviation[name], rel=4 / (2 * free.numel()) ** 0.5)
        assert torch.allclose(Standard().move(leaf, begun, None, Noise.of(0, 40), None) * deviation[name], begun, rtol=1e-6)


@pytest.mark.parametrize("kind", ["splitting", "predictor_corrector"])
def test_of_data_of_unit_variance_gdss_begins_at_the_right_law_and_the_prior_too_narrow(kind):
    # all q(z_t) are N(0, 1). From variance v at level 1 the reverse equation ends at 1 + (v - 1) exp(-0.55)
    process, b = Gaussian(schedules.vp_linear(0.1, 1.0)), 0.55
    exact, found = Independent(process, (1000,), 1.0), {}
    for standard in (False, True):
        plan = plans.splitting(100, 0.0, standard=standard)
        if kind == "predictor_corrector":
            plan = plans.predictor_corrector(100, corrections=0, standard=standard)
        assert ("standard" in plan.name) == standard == any(isinstance(r, Standard) for r in plan.on(process.schedule).rows)
        assert plan.on(process.schedule).nfe == 100 and Plan.from_json(plan.on(process.schedule).to_json()).rows[0].start == 1
        found[standard] = float(sample(exact, plan, 40, seed=2).double().var())
    assert Standard() not in getattr(plans, kind)(5).on(process.schedule).rows  # only if it is asked for
    error = 4 * (2 / 40_000) ** 0.5
    assert found[True] == pytest.approx(1.0, abs=error + 0.01)
    assert found[False] == pytest.approx(1 - math.exp(-2 * b), abs=error + 0.01)
    assert plans.parse(f"{kind}:5:standard=true").on(process.schedule).rows[0] == Standard()
    with pytest.raises(ValueError, match="leave standard out"):
        plans.begin(plans.parse(f"{kind}:5:standard=true"), 0.5).on(process.schedule)


def test_scores_out_of_distribution_widen_it():
    # Langevin steps with (1 - sqrt(lam)) of the score of N(0, C) rest at covariance C / (1 - sqrt(lam))
    process, lam = Gaussian(schedules.ve(0.3, 1.0)), 0.25
    exact = Independent(process, (1,), 0.5)
    rows = tuple(Langevin(start=0.5, stop=0.5, size=0.05) for _ in range(300))
    plan = Plan(name="rest", basis="x0", order=1, rows=rows)
    variance = 0.5 + float(process.schedule.sigma(torch.tensor(0.5).double())) ** 2
    step = 0.05 * float(process.schedule.sigma(torch.tensor(0.5).double())) ** 2
    for exploring, factor in ((None, 1.0), (Exploration(lam), 1 / (1 - lam**0.5))):
        start = torch.zeros(20_000, 1)
        z = sample(exact, plan, len(start), start=start, guidance=exploring)
        expected = variance * factor / (1 - step / (2 * variance * factor))  # of steps of this size
        assert float(z.var()) == pytest.approx(expected, rel=0.05)


def test_the_pull_of_a_property_is_as_large_as_the_score_whatever_its_units():
    exact = Coupled(schedules.vp_linear(), schedules.vp_linear())
    z = sample(exact, plans.begin(plans.ddpm(2), 1.0), 8, seed=3)
    shifts = []
    for unit in (1.0, 1000.0):
        guided = Exploration(0.0, lambda z, t, cond, mask, unit=unit: unit * z["nodes"][:, 0, 0], w=0.4)(exact)
        plain, moved = exact(z, 0.5), guided(z, 0.5)
        assert torch.allclose(moved["edges"].mean, plain["edges"].mean, atol=1e-5)  # which the property does not speak of
        shifts.append(moved["nodes"].mean - plain["nodes"].mean)
    assert torch.allclose(shifts[0], shifts[1], rtol=1e-4)
    alpha, sigma = (float(v) for v in schedules.vp_linear()(torch.tensor(0.5).double()))
    score = (alpha * plain["nodes"].mean - z["nodes"]) / sigma**2
    expected = 0.4 * 0.1**0.5 * score.abs().sum((1, 2)) * sigma**2 / alpha
    assert torch.allclose(shifts[0][:, 0, 0], expected, rtol=1e-3) and not shifts[0][:, 1].abs().gt(1e-4).any()


def test_the_bound_of_scores_counts_what_is_free_and_the_prior():
    # independent normals, so that the bound is a known number for each coordinate of a node and for each edge, however padded
    schedule, v, low = schedules.ve(0.05, 2.0), 0.7, schedules.ve(0.05, 2.0).floor
    process = Product({"nodes": Gaussian(schedule), "edges": Gaussian(schedule, SymmetricEdges())})
    exact = Independent(process, {"nodes": (5, 2), "edges": (5, 5)}, v)
    level = torch.linspace(low, 1, 101, dtype=torch.float64)
    noise = schedule.sigma(level) ** 2
    chain = 0.5 * ((1 / noise[:-1] - 1 / noise[1:]) * v * noise[1:] / (v + noise[1:])).sum()
    # and KL(N(x, sigma_1^2) || N(0, sigma_1^2)), and what N(z, sigma_low^2) leaves of x
    each = float(chain + 0.5 * v / noise[-1] + 0.5 * (2 * math.pi * math.e * noise[0]).log())
    assert each > 0.5 * math.log(2 * math.pi * math.e * v)
    count = 600
    mask = torch.arange(5) < torch.tensor([5, 3])[torch.arange(count) % 2][:, None]
    drawn = {n: leaf.noise(torch.zeros(count, *exact.shape[n]), Noise.of(7, count).at(n), mask) * v**0.5
             for n, leaf in process.leaves().items()}  # fmt: skip
    batch = Batch(drawn, None, mask)
    sizes = elements_of(exact, batch)
    assert sizes["nodes"].unique().tolist() == [6, 10] and sizes["edges"].unique().tolist() == [3, 10]
    found, _ = variational_bound(exact, batch, draws=8)
    for nats, free in ((found.nats[0::2], 10 + 10), (found.nats[1::2], 6 + 3)):
        assert abs(float(nats.mean()) + each * free) < 4 * float(nats.std()) / len(nats) ** 0.5


def test_centred_points_count_all_their_coordinates():
    exact = Coupled(schedules.vp_linear(), schedules.vp_linear())
    exact.process = Gaussian(schedules.vp_linear(), Centred())
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert elements_of(exact, Batch(torch.zeros(2, 3, 3), None, mask))[""].tolist() == [6, 9]
    assert elements_of(exact, Batch(torch.zeros(2, 3, 3)))[""].tolist() == [9, 9]


class Graphs3(BaseDenoiser):
    """The exact beliefs about graphs of three nodes, whose edges depend on each other, as probabilities of types."""

    shape = {"edges": (3, 3)}  # noqa: RUF012
    every = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])  # of the pairs (0, 1), (0, 2), (1, 2)
    law = torch.tensor([0.3, 0.02, 0.03, 0.05, 0.1, 0.06, 0.04, 0.4], dtype=torch.float64)

    def __init__(self, schedule):
        super().__init__()
        self.process = Product({"edges": Embedded(torch.tensor([0.0, 1.0]), schedule, space=SymmetricEdges())})

    def forward(self, z, t, cond, mask):
        leaf = self.process.leaves()["edges"]
        said = leaf.evidence(z["edges"].double(), t["edges"])[:, [0, 0, 1], [1, 2, 2]]  # (B, 3, types)
        graphs = (self.law.log() + said[:, torch.arange(3), self.every].sum(-1)).softmax(-1)
        there = (graphs @ self.every.double()).clamp(1e-12, 1 - 1e-12)
        logits = torch.zeros(len(there), 3, 3, 2, dtype=torch.float64)
        for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
            logits[:, i, j] = logits[:, j, i] = torch.stack([1 - there[:, k], there[:, k]], -1).log()
        return {"edges": leaf.believed(logits.float())}


@pytest.mark.parametrize("plan", [plans.splitting(60, snr=0.1), plans.ddpm(60)], ids=str)
def test_graphs_drawn_by_the_probabilities_of_their_edges_have_the_law_of_the_data(plan):
    exact, count = Graphs3(schedules.ve(sigma_min=0.1, sigma_max=5)), 4000
    x = sample(exact, plan, count, seed=3)["edges"]
    pairs = (x[:, [0, 0, 1], [1, 2, 2]] > 0.5).long()
    drawn = torch.bincount(pairs @ torch.tensor([4, 2, 1]), minlength=8).double()
    expected = count * exact.law
    # chi squared of 7 degrees has deviation 3.7 about 7, and what 60 steps leave is within that
    assert float(((drawn - expected) ** 2 / expected).sum()) < 26
    independent = torch.stack([torch.where(exact.every == 1, p, 1 - p).prod(1) for p in [exact.law @ exact.every.double()]])[0]
    assert float(((drawn - count * independent) ** 2 / (count * independent)).sum()) > 1000  # and not that of edges alone


def test_a_network_that_says_nothing_leaves_what_a_number_says_of_its_edge():
    leaf = Embedded(torch.tensor([0.0, 1.0]), schedules.vp_linear(), space=SymmetricEdges())
    t, z = torch.tensor(0.3, dtype=torch.float64), torch.linspace(-2, 3, 9, dtype=torch.float64).reshape(1, 3, 3)
    alpha, sigma = leaf.schedule(t)
    mean = Logits().posterior(leaf, torch.zeros(1, 3, 3, 2, dtype=torch.float64), z, t).mean
    assert torch.allclose(mean, torch.sigmoid((alpha * z - alpha**2 / 2) / sigma**2), atol=1e-12)


@pytest.mark.parametrize("prediction", ["logits", "eps", "logits:evidence=false,level=t"])
def test_a_run_of_scores_has_graphs_for_samples(tmp_path, capsys, prediction):
    from langevin.cli import main
    from langevin.data import read_graphs
    from langevin.recipes import recipe
    from langevin.recipes.drawing import draw
    from langevin.recipes.opening import open_run
    from langevin.recipes.starting import start

    cycles = [{"n": n, "edges": [[k, (k + 1) % n] for k in range(n)]} for n in (3, 4, 5, 6)]
    cycles += [{"n": n, "edges": [[j, k] for k in range(1, n) for j in range(0, k, m)]} for n in (3, 4, 5, 6) for m in (1, 2, 9)]
    (tmp_path / "cycles.json").write_text(json.dumps(cycles))
    base = recipe("community-gdss").model_dump()
    form = "types" if prediction.startswith("logits") else "numbers"
    base["data"].update(path=str(tmp_path / "cycles.json"), held_out=0.3, form=form)
    base["process"]["prediction"] = prediction
    base["network"].update(width=16, edge_width=8, whole=8, depth=1)
    base["train"].update(steps=4, batch=8, save_every=4, preview_every=1000, warmup=8)
    base["sample"]["plan"] = "splitting:4"
    made = type(recipe("community-gdss")).model_validate(base)
    _, trainer = start(made, tmp_path / "run")
    trainer.run()
    trainer.close()
    run = open_run(tmp_path / "run")
    x = draw(run, 6, seed=1)["edges"]
    assert x.dtype == torch.int64 and torch.equal(x, x.transpose(1, 2))
    graphs = run.domain.graphs(run, {"edges": x})
    assert all(3 <= len(g.nodes) <= 6 and bool((g.kinds == 1).all()) for g in graphs)
    real = [run.train[k] for k in range(len(run.train))]
    told = run.domain.judge(run, real)  # training graphs are as far from held-out ones as training graphs
    assert told["degree"] == told["degree_floor"] > 0 and told["spectral"] == told["spectral_floor"] > 0
    assert told["valid"] == 1 and told["novel"] == 0 and told["ratio"] <= 1
    numbers = read_graphs(tmp_path / "cycles.json").as_numbers().batch(torch.tensor([0])).x
    assert numbers["edges"][0, :3, :3].tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    # beyond the data, at the command line as in Python
    drawn = {}
    for name, flags in {"plain": [], "0": ["--explore", "0"], "far": ["--explore", "0.5"]}.items():
        main(["sample", str(tmp_path / "run"), "--count", "6", "--seed", "1", "--out", str(tmp_path / f"{name}.json"), *flags])
        drawn[name] = json.loads((tmp_path / f"{name}.json").read_text())
    by_hand = run.domain.graphs(run, draw(run, 6, seed=1, steer=Exploration(0.5)))
    assert drawn["plain"] == drawn["0"] != drawn["far"] == [{"n": len(g.nodes), "edges": g.pairs.tolist()} for g in by_hand]
    main(["sample", str(tmp_path / "run"), "--count", "6", "--out", str(tmp_path / "far.png"), "--explore", "0.5"])
    capsys.readouterr()
    main(["inspect", str(tmp_path / "far.png")])
    said = capsys.readouterr().out
    assert "--explore=0.5" in said and "--steer" not in said
    for flags, why in (
        (["--explore", "1"], "explore is 1; give"),
        (["--explore", "0", "--weaker", "last"], "weaker and explore are both"),
    ):
        with pytest.raises(SystemExit):
            main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "x.json"), *flags])
        assert why in capsys.readouterr().err
    if ":" in prediction:  # its options are those of the prediction anywhere
        said = run.denoiser.predictions["edges"]
        assert isinstance(said, Logits) and not said.with_evidence and said.level_name == "t"
        with pytest.raises(ValueError, match=r"'logits:shown=probs', and a network of graphs is shown their states"):
            process = made.process.model_copy(update={"prediction": "logits:shown=probs"})
            start(made.model_copy(update={"process": process}), tmp_path / "probs")
    other = {"types": "numbers", "numbers": "types"}[form]
    with pytest.raises(ValueError, match=rf"data\.form is '{other}', .* of prediction '{prediction}' is of {form}"):
        base["data"]["form"] = other
        start(type(made).model_validate(base), tmp_path / "other")
