"""Values of clean data tilt beliefs: exactly on normal data and on independent categories, and by how much not elsewhere."""

from types import SimpleNamespace

import pytest
import torch

from langevin import oracles, plans, schedules
from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.posterior import CategoricalPosterior, GaussianPosterior
from langevin.core.process import Product
from langevin.core.sample import sample
from langevin.core.space import SymmetricEdges
from langevin.guidance import Moments, Value
from tests.laws.leaping import normal
from tests.laws.test_inverse import COSINE, MATRIX, MEAN, MODEL, ROWS, D, N, Y, posterior, white


def likelihood(x, cond):
    return -0.5 * ((Y[MATRIX] - x @ ROWS.T) ** 2).sum(1) / 0.3**2


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_a_quadratic_value_with_the_covariance_is_bayes_rule(t):
    z = normal(4, D)
    exact = Moments(operator=MATRIX, y=Y[MATRIX], std=0.3)(MODEL)(z, t).mean
    assert torch.allclose(Value(likelihood)(MODEL)(z, t).mean, exact, atol=1e-9)
    assert not torch.allclose(Value(likelihood, covariance="none")(MODEL)(z, t).mean, exact, atol=1e-2)
    assert torch.equal(Value(likelihood, 0.0)(MODEL)(z, t).mean, MODEL(z, t).mean)
    # a linear value shifts by V b
    b = torch.arange(6.0).double()
    plain = Value(lambda x, c: x @ b, covariance="none")(MODEL)(z, t).mean
    assert torch.allclose(Value(lambda x, c: x @ b)(MODEL)(z, t).mean, plain, atol=1e-12)


def test_samples_are_of_the_closed_posterior_and_the_plain_form_is_off():
    mean, covariance = posterior(MATRIX, 0.3)
    off = {}
    for form in ("full", "none"):
        g = Value(likelihood, covariance=form)
        plan = plans.trig(16) if form == "full" else plans.ddpm(250)
        x = sample(MODEL, plan, N, start=white(), guidance=g, seed=5)
        off[form] = (
            float((x.mean(0) - mean).norm() / (mean - MEAN).norm()),
            float((torch.cov(x.T) - covariance).norm() / covariance.norm()),
        )
    assert off["full"][0] < 0.003 and off["full"][1] < 0.01
    assert off["none"] == pytest.approx((0.167, 0.166), abs=0.05)


@pytest.mark.parametrize("limit", ["mask", "uniform"])
def test_independent_categories_are_tilted_exactly(limit):
    process, p, f = Categorical(3, schedules.keep_linear(), limit), torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, -1.0, 1.2])
    exact, tilted = oracles.enumerated(process, p), p * f.exp()
    guided = Value(lambda probs, c: (probs * f.double()).sum((1, 2)))(exact)
    z = torch.tensor([[0], [1], [2]])
    expected = exact(z, 0.7).probs * f.exp()
    assert torch.allclose(guided(z, 0.7).probs, expected / expected.sum(-1, keepdim=True), atol=1e-8)
    n = 20000
    found = torch.bincount(sample(guided, plans.ddpm(20), n, seed=1)[:, 0], minlength=3) / n
    assert torch.allclose(found, tilted / tilted.sum(), atol=0.014)


CENTRES, WEIGHTS, OWN = torch.tensor([[1.0, -0.5], [-0.8, 0.4], [0.2, 0.9]]).double(), torch.tensor([0.5, 0.3, 0.2]).double(), 0.3


class Pair(BaseDenoiser):
    """The exact beliefs of a category c ~ WEIGHTS and a point y ~ N(centre of c, OWN^2)."""

    def __init__(self, centres):
        super().__init__()
        self.process = Product({"c": Categorical(3, schedules.keep_linear(), "uniform"), "y": Gaussian(COSINE.schedule)})
        self.shape, self.centres = {"c": (1,), "y": (2,)}, centres

    def given(self, z, t):
        """log p(c | z) without the categorical state's own evidence, that evidence, and y's mean and variance given each c."""
        alpha, sigma = (c.reshape(-1, 1, 1) for c in COSINE.schedule(t["y"].reshape(-1)[:1]))
        off = z["y"].double()[:, None] - alpha * self.centres
        total = alpha**2 * OWN**2 + sigma**2
        kind = self.process.leaves()["c"]
        assert isinstance(kind, Categorical)
        evidence = kind.marginal_probs(torch.arange(3)[:, None], t["c"].reshape(-1)[0])[:, 0, z["c"][:, 0]].T.double().log()
        means = self.centres + alpha * OWN**2 / total * off
        return WEIGHTS.log() - off.square().sum(-1) / (2 * total[..., 0]), evidence, means, OWN**2 * sigma**2 / total

    def forward(self, z, t, cond, mask):
        logits, evidence, means, _ = self.given(z, t)
        kind = CategoricalPosterior(logits[:, None], evidence[:, None])
        return {"c": kind, "y": GaussianPosterior((kind.probs[:, 0, :, None] * means).sum(1))}


STATES = {"c": torch.tensor([[0], [1], [2], [0]]), "y": torch.tensor([[0.3, 0.2], [-0.4, 0.1], [0.0, 1.1], [1.5, -1.0]]).double()}
TASTE, PULL = torch.tensor([0.4, -1.0, 1.2]).double(), torch.tensor([0.7, -0.3]).double()


@pytest.mark.parametrize("level", [0.3, 0.7])
@pytest.mark.parametrize("form", ["full", "none"])
def test_leaves_that_belong_together_are_moved_together(level, form):
    """p(c | z) E[exp value | z, c], summed over categories; points to first order, so that half the value quarters the error."""
    model, t = Pair(CENTRES), {"c": torch.tensor(level).double(), "y": torch.tensor(level).double()}
    logits, evidence, means, variance = model.given(STATES, {"c": t["c"][None], "y": t["y"][None]})
    off = {}
    for scale in (0.02, 0.01):
        g = Value(lambda x, c: (x["c"] * TASTE).sum((1, 2)) + x["y"] @ PULL, scale, covariance=form)
        found = g(model)(STATES, t)
        tilted = (logits + evidence + scale * (TASTE + means @ PULL)).softmax(1)
        assert torch.allclose(found["c"].probs[:, 0], tilted, atol=1e-9)
        off[scale] = (found["y"].mean - (tilted[..., None] * (means + scale * variance * PULL)).sum(1)).abs().max()
    assert float(off[0.02]) < 1e-3 and float(off[0.02] / off[0.01]) == pytest.approx(4, rel=0.1)
    # categories do not become exact by their own gradient alone
    alone = (logits + evidence + TASTE).softmax(1)
    found = Value(lambda x, c: (x["c"] * TASTE).sum((1, 2)) + x["y"] @ PULL, covariance=form)(model)(STATES, t)
    assert (found["c"].probs[:, 0] - alone).abs().max() > 0.01
    assert torch.allclose(found["c"].probs[:, 0], (logits + evidence + TASTE + means @ PULL).softmax(1), atol=1e-7)
    same = Value(lambda x, c: x["y"] @ PULL, 0.0, covariance=form)(model)(STATES, t)
    assert torch.allclose(same["c"].probs, model(STATES, t)["c"].probs) and torch.equal(
        same["y"].mean, model(STATES, t)["y"].mean
    )


def bend(x, cond):
    return (x["c"] * TASTE).sum((1, 2)) - 0.5 * ((x["y"] @ PULL - 1) / 0.2) ** 2


def test_samples_of_independent_leaves_are_of_the_law_summed():
    """Its categories counted, its points by mean and covariance; the plain form is too sure of its points."""
    model, n = Pair(CENTRES[:1].expand(3, 2)), 3000
    precision = torch.eye(2).double() / OWN**2 + PULL[:, None] * PULL / 0.2**2
    covariance = precision.inverse()
    mean = covariance @ (CENTRES[0] / OWN**2 + PULL / 0.2**2)
    for level in (0.3, 0.7):  # the beliefs themselves
        t = {"c": torch.full((1,), level).double(), "y": torch.full((1,), level).double()}
        logits, evidence, means, variance = model.given(STATES, t)
        found = Value(bend)(model)(STATES, {"c": level, "y": level})
        assert torch.allclose(found["c"].probs[:, 0], (logits + evidence + TASTE).softmax(1), atol=1e-9)
        narrower = (torch.eye(2).double() / variance[0, 0] + PULL[:, None] * PULL / 0.2**2).inverse()
        assert torch.allclose(found["y"].mean, (means[:, 0] / variance[0, 0] + PULL / 0.2**2) @ narrower, atol=1e-9)
    x = sample(Value(bend)(model), plans.ddpm(120), n, seed=2)
    tilted = (WEIGHTS * TASTE.exp()) / (WEIGHTS * TASTE.exp()).sum()
    assert torch.allclose(torch.bincount(x["c"][:, 0], minlength=3) / n, tilted.float(), atol=4 * 0.5 / n**0.5)
    assert torch.allclose(x["y"].double().mean(0), mean, atol=0.02)
    assert (torch.cov(x["y"].double().T) - covariance).norm() / covariance.norm() < 0.15  # of which .08 is the plan's
    plain = Value(bend, covariance="none")(model)(STATES, {"c": 0.5, "y": 0.5})["y"].mean
    assert (plain - Value(bend)(model)(STATES, {"c": 0.5, "y": 0.5})["y"].mean).abs().max() > 0.1


def test_an_edge_that_is_told_twice_counts_twice():
    """As in the value: the sum over all entries of an adjacency has each edge in it twice, and the diagonal not at all."""
    edges = Categorical(3, schedules.keep_linear(), "uniform", space=SymmetricEdges())
    nodes = Gaussian(COSINE.schedule)

    class Graph(BaseDenoiser):
        def __init__(self):
            super().__init__()
            self.process, self.shape = Product({"e": edges, "x": nodes}), {"e": (2, 2), "x": (2, 1)}

        def forward(self, z, t, cond, mask):
            return {"e": CategoricalPosterior(WEIGHTS.log().expand(*z["e"].shape, 3)), "x": GaussianPosterior(0.5 * z["x"])}

    z = {"e": torch.zeros(1, 2, 2, dtype=torch.int64), "x": torch.ones(1, 2, 1).double()}
    found = Value(lambda x, c: (x["e"] * TASTE).sum((1, 2, 3)))(Graph())(z, 0.5)
    expected = (WEIGHTS.log() + 2 * TASTE).softmax(0)
    assert torch.allclose(found["e"].probs[0, 0, 1], expected) and torch.allclose(found["e"].probs[0, 1, 0], expected)
    assert torch.allclose(found["e"].probs[0, 0, 0], WEIGHTS) and torch.allclose(found["x"].mean, 0.5 * z["x"])


def test_refusals():
    assert COSINE is MODEL.process
    with pytest.raises(ValueError, match="covariance is 'x'"):
        Value(likelihood, covariance="x")
    other = SimpleNamespace(process=SimpleNamespace(leaves=lambda: {"y": "a walk"}))
    with pytest.raises(ValueError, match="leaf 'y' is a walk; use another guidance"):
        Value(bend)(other)  # pyright: ignore[reportArgumentType]
