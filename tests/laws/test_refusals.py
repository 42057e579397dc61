"""Combinations that make no sense are refused, in one sentence that names the field, the value and the remedy."""

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row
from langevin.core.posterior import GaussianPosterior
from langevin.embedded import Embedded
from langevin.guidance import Sharpened
from langevin.interpolants import Interpolant
from langevin.objectives import ELBO, Batch, BayesianFlow, Consistency, Denoising, Embedding, InterFlow, MeanFlow, Shortcut
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.progressive import Progressive
from langevin.recipes import config as c
from langevin.recipes import recipe
from langevin.recipes.build import build
from langevin.recipes.domains.pictures import network
from langevin.recipes.facts import Facts
from tests.rows import CATEGORICAL, SKEW

GAUSS = lv.Gaussian(lv.schedules.cosine())
ORACLE = lv.oracles.mixture(GAUSS, torch.tensor([[1.0], [-1.0]]), 0.1)
TABLE = torch.tensor([0.5, 0.3, 0.2])
WORDS = {name: lv.oracles.enumerated(process, TABLE) for name, process in CATEGORICAL.items()}
BOTH = lv.Product({"x": GAUSS, "word": CATEGORICAL["mask"]})
JOINT = lv.oracles.dataset(BOTH, {"x": torch.zeros(3, 2), "word": torch.tensor([0, 1, 2])})
NET = torch.nn.Identity()
GREY = lv.networks.UNet(1, 8, (1,), 1, head_width=8)


class Answers(torch.nn.Module):
    """As published networks do it."""

    def forward(self, z, level, cond=None, mask=None):
        return (z,)


LINEAR, ONE = lv.Denoiser(torch.nn.Linear(1, 1), GAUSS), torch.zeros(1, 1)
POINTS = lv.Denoiser(lv.networks.MLP(2, 4, 1), Embedded(torch.eye(2), lv.schedules.flow()), "x0", shape=(2,))
MAP = lv.FlowMap(lv.networks.MLP(2, 4, 1, scalars=("span",)), lv.Gaussian(lv.schedules.flow()), "velocity")
BETWEEN = lv.Denoiser(NET, Interpolant(lv.schedules.flow()), "velocity")
TOGETHER = lv.Denoiser(NET, BOTH, {"x": "v", "word": "logits"})
TWO = lv.plans.ddim(2)
ROW = Row(level=1.0, start=1.0, stop=0.0, eta=0.5)


def draw(denoiser, plan, **options):
    return lambda: lv.sample(denoiser, plan, 2, **options)


def learn(objective, model, x):
    return lambda: objective(model, Batch(x), Noise.of(0, len(x)))


CASES = {
    # plans and processes
    "heun on categories": (draw(WORDS["mask"], lv.plans.heun(4)), "categorical"),
    "heun on a product": (draw(JOINT, lv.plans.heun(4)), "leaf 'word'.*use a plan in the x0 basis"),
    "ddim on a general kernel": (draw(WORDS["skew"], lv.plans.ddim(4)), "only its Bayes bridge; use ddpm"),
    "dpmpp on a general kernel": (draw(WORDS["ordinal"], lv.plans.dpmpp(4)), "only its Bayes bridge"),
    "noise in the velocity basis": (draw(ORACLE, Plan(name="p", basis="velocity", order=1, rows=(ROW,))), "use the x0 basis"),
    "eps where alpha is 0": (draw(ORACLE, lv.plans.heun(4, basis="eps")), "alpha is 0 at level 1"),
    "no steps": (lambda: lv.plans.ddim(0), "steps is 0; ask for at least 1"),
    "order 4": (lambda: lv.plans.dpmpp(5, order=4), "order is 4"),
    "eta 2": (lambda: lv.plans.ddim(5, eta=2.0).on(GAUSS.schedule), "eta is 2.0; it lies in"),
    "unknown grid": (lambda: lv.plans.ddim(5, grid="kerras").on(GAUSS.schedule), "grid is 'kerras'"),
    "unknown plan": (lambda: lv.plans.parse("dpmp:20"), "did you mean 'dpmpp'"),
    "unknown option": (lambda: lv.plans.parse("dpmpp:20:ordr=3"), "did you mean 'order'.* It has steps, order, "),
    "unknown option of levels": (lambda: Denoising(levels="logit_normal:loc=1"), "It has mean, std"),
    "plans of two lengths": (draw(JOINT, {"x": lv.plans.ddim(4), "word": lv.plans.ddim(5)}), "step together"),
    "more steps than timesteps": (lambda: lv.plans.ddim(2000, grid="trailing").on(GAUSS.schedule), "at most 1000"),
    # sampling
    "a network that returns a tuple": (draw(lv.Denoiser(Answers(), GAUSS, shape=(1,)), TWO), "returned a tuple; wrap it"),
    "no samples": (lambda: lv.sample(ORACLE, lv.plans.ddim(2), 0), "count is 0"),
    "unknown shape": (draw(lv.Denoiser(lv.networks.MLP(2, 4, 1), GAUSS, "v"), lv.plans.ddim(2)), "pass shape="),
    "conditions of another count": (draw(ORACLE, lv.plans.ddim(2), cond={"label": torch.zeros(5)}), "5 entries for 2"),
    "a number for a condition": (lambda: ORACLE(torch.zeros(2, 1), 0.5, {"label": 3}), r"cond\['label'\] is int, no tensor"),
    "a list, guided": (lambda: lv.CFG(2.0)(ORACLE)(torch.zeros(2, 1), 0.5, {"label": [3, 3]}), r"is list, no tensor"),
    "a list to lead away from": (lambda: lv.CFG(2.0, null={"label": [3]}), r"null\['label'\] is list, no tensor"),
    "a list to choose a plan under": (lambda: lv.plans.auto(ORACLE, 3, cond={"label": [0, 1]}, count=2), "is list, no tensor"),
    "a list to tune under": (
        lambda: lv.plans.tune(ORACLE, 2, cond={"label": [0, 1]}, count=1, held_out=1), r"cond\['label'\] is list, no tensor"
    ),
    "guidance without a condition": (draw(ORACLE, lv.plans.ddim(2), guidance=lv.CFG(2.0)), "pass cond="),
    "given of another shape": (draw(ORACLE, lv.plans.ddim(2), given=torch.zeros(2, 3)), "make them agree"),
    "given an unknown leaf": (draw(JOINT, lv.plans.ddim(2), given={"y": torch.zeros(2)}), "leaf 'y'"),
    "known without given": (draw(ORACLE, lv.plans.ddim(2), known=torch.ones(2, 1)), "pass given= as well"),
    "a network in place of a denoiser": (lambda: lv.sample(NET, "ddim:2", 2), "denoiser is a Identity; give a network with its"),
    "half a sample": (lambda: lv.sample(ORACLE, "ddim:2", 2.5), "count is 2.5; give an integer"),
    "a class of guidance": (draw(ORACLE, TWO, cond={"label": [0, 1]}, guidance=lv.CFG), "w is a Mixture; give a str"),
    "a strength in words": (lambda: lv.CFG("2"), "w is a str; give a strength"),  # pyright: ignore[reportArgumentType]
    "conditions without names": (draw(ORACLE, TWO, cond={0: [0, 1]}), "cond has the name 0; name conditions by words"),
    "a side in place of a shape": (draw(ORACLE, TWO, shape=2), "shape is 2; give that of one sample"),
    "a shape without numbers": (draw(ORACLE, TWO, shape=(0,)), r"shape is \(0,\); give that of one sample"),
    "a shape that an oracle does not know": (draw(ORACLE, TWO, shape=(3,)), r"data is of shape \(1,\); give such"),
    "a device that is not there": (draw(ORACLE, TWO, device="gpu"), "device is 'gpu', which this machine does not have"),
    "a mask of another size": (draw(JOINT, TWO, mask=torch.ones(2, 5).bool()), r"give bools \(2, 2\), True for real"),
    "a mask of numbers": (draw(JOINT, TWO, mask=torch.ones(2, 2)), "mask is torch.float32"),
    "a likelihood of nan": (lambda: lv.log_prob(LINEAR, torch.full((1, 1), torch.nan)), "x holds values that are not finite"),
    "a negative number of probes": (lambda: lv.log_prob(LINEAR, torch.zeros(1, 1), probes=-1), "probes is -1; give how many"),
    # levels
    "a bare level of another size": (lambda: ORACLE(torch.zeros(3, 1), torch.zeros(2)), r"level has shape \(2,\)"),
    "a level outside": (lambda: ORACLE(torch.zeros(3, 1), 1.5), "levels lie in"),
    "a bare level deeper in": (lambda: GAUSS.marginal(torch.zeros(3, 3), torch.ones(3) * 0.5, Noise.of(0, 3)), "expand it first"),
    "a bridge that climbs": (lambda: GAUSS.bridge(ONE, GaussianPosterior(ONE), 0.2, 0.5, Noise.of(0, 1)), "swap the two"),
    "a level with an axis too many": (lambda: expand(torch.zeros(2, 1, 1), torch.zeros(2, 1)), "2 axes"),
    # predictions
    "v of categories": (lambda: lv.Denoiser(NET, CATEGORICAL["mask"], "v"), "use 'logits'"),
    "logits of a Gaussian": (lambda: lv.Denoiser(NET, GAUSS, "logits"), "use 'v', 'x0' or 'eps'"),
    "subs without a mask": (lambda: lv.Denoiser(NET, CATEGORICAL["uniform"], "subs"), "limit='mask'"),
    "eps where alpha ends at 0": (lambda: lv.Denoiser(NET, GAUSS, "eps"), "use 'v', 'x0' or 'velocity'"),
    "unknown prediction": (lambda: lv.Denoiser(NET, GAUSS, "w"), "prediction is 'w'"),
    "one prediction short": (lambda: lv.Denoiser(NET, BOTH, {"x": "v"}), "names the leaves"),
    # guidance
    "rescale on categories": (lambda: lv.CFG(2.0, rescale=0.5)(WORDS["mask"]), "set rescale=0"),
    "a temperature of numbers": (lambda: Sharpened(0.5)(ORACLE), "temperature and top are of categories, and this is Gaussian"),
    "a temperature of points": (draw(POINTS, TWO, guidance=Sharpened(0.5)), "this network says points alone; use Clamp"),
    "an empty interval": (lambda: lv.CFG(2.0, interval=(0.8, 0.2)), "interval is"),
    # objectives
    "min-SNR of categories": (lambda: Denoising("min_snr").check(CATEGORICAL["mask"]), "does not exist"),
    "continuous bound of a general kernel": (lambda: Denoising("elbo").check(CATEGORICAL["ordinal"]), "the ELBO objective"),
    "flow bound of Gaussians": (lambda: Denoising("flow").check(lv.Gaussian(lv.schedules.cosine())), "use 'elbo'"),
    "a learned schedule without the bound": (lambda: Denoising().check(lv.Gaussian(lv.schedules.learned())), "weight='elbo'"),
    "clean data of one process": (learn(Denoising(clean=0.2), LINEAR, ONE), "clean is 0.2.*or, for known elements, use spread"),
    "the same of a Bayesian flow": (learn(BayesianFlow(clean=0.2), LINEAR, ONE), "clean is 0.2, .* and this process is one"),
    "a coupling of categories": (lambda: Denoising(coupling="ot").check(CATEGORICAL["mask"]), "pairs data .*use 'independent'"),
    "losses that nobody tells of": (lambda: BayesianFlow(levels="loss_aware"), "levels is 'loss_aware', which follows losses"),
    "levels where there are steps": (lambda: BayesianFlow(10, levels="beta:a=2,b=2"), "steps is 10; leave one of them out"),
    "levels of the bound of words": (lambda: Embedding("bound", levels="logit_normal"), "the bound has even steps; leave it out"),
    "guidance of no teacher": (lambda: Consistency(guidance=2.0), "guidance is 2, of a teacher, and there is none"),
    "guidance of no teacher of shortcuts": (lambda: Shortcut(guidance=2.0), "of a teacher, and there is none"),
    "guidance of no teacher of sCM": (lambda: ContinuousConsistency(guidance=2.0), "of a teacher, and there is none"),
    "a mean of levels without a law": (lambda: Consistency(mean=0.0), "mean is 0 and std 2, of density 'lognormal'"),
    "a form of no cross-entropy": (lambda: ELBO(form="text"), "form is 'text', .*cross_entropy is 0; give its weight"),
    "the cross-entropy of numbers": (learn(ELBO(cross_entropy=1.0), LINEAR, ONE), "of categories, and the model's process is"),
    "the bound of an interpolant": (learn(ELBO(), BETWEEN, ONE), "Interpolant has data at both ends.*use Denoising"),
    "a Bayesian flow between data": (learn(BayesianFlow(), BETWEEN, ONE), "an interpolant, with data at both ends"),
    "guidance of no condition": (learn(MeanFlow(omega=2.0, drop=0.1), MAP, torch.zeros(1, 2)), "omega is 2 and kappa 0, and"),
    "learned points": (lambda: Denoising().check(Embedded(torch.eye(2), GAUSS.schedule, learned=True)), "use the Embedding obj"),
    "a flow of a product": (lambda: InterFlow().prepare(TOGETHER), r"model's is Product\(x: Gaussian, word: Categorical\); use"),
    "halving of a product": (lambda: Progressive(JOINT).prepare(TOGETHER), "follows the flow of one Gaussian process"),
    "leaps between points": (lambda: MeanFlow().prepare(POINTS), "the data of the process are ids of 2 points; use Denoising"),
    "unknown weight": (lambda: Denoising("minsnr"), "weight is 'minsnr'"),
    "unknown levels": (lambda: Denoising(levels="gauss"), "levels is 'gauss'"),
    "unknown spread": (lambda: Denoising(spread="each"), "spread is 'each'"),
    # processes and schedules
    "one category": (lambda: lv.Categorical(1, lv.schedules.flow()), "give at least 2"),
    "rates and a limit": (lambda: lv.Categorical(3, lv.schedules.flow(), "mask", rates=SKEW), "not both"),
    "an unknown limit": (lambda: lv.Categorical(3, lv.schedules.flow(), "gauss"), "use 'uniform', 'mask'"),
    "probabilities that do not sum": (lambda: lv.Categorical(3, lv.schedules.flow(), torch.ones(3)), "summing to 1"),
    "rates that do not sum": (lambda: lv.Categorical(3, lv.schedules.flow(), rates=SKEW + 1), "rows summing to 0"),
    "rates with two limits": (lambda: lv.Categorical(2, lv.schedules.flow(), rates=torch.zeros(2, 2)), "several limits"),
    "rates of another size": (lambda: lv.Categorical(4, lv.schedules.flow(), rates=SKEW), "make them agree"),
    "a product of nothing": (lambda: lv.Product({}), "no leaves"),
    "a product of products": (lambda: lv.Product({"a": BOTH}), "leaf 'a' is a Product"),
    "betas of no steps": (lambda: lv.schedules.betas(steps=-5), "steps is -5; a published table has at least 1"),
    "a device without numbers": (draw(ORACLE, TWO, device="meta"), "device is 'meta', which this machine does not"),
    "a shift of 0": (lambda: lv.schedules.shift(lv.schedules.flow(), 0.0), "shift is 0"),
    "a shift of sub-VP": (lambda: lv.schedules.shift(lv.schedules.sub_vp(), 2.0), "no scale to keep"),
    "betas above 1": (lambda: lv.schedules.table(torch.tensor([0.1, 1.2])), "each value in"),
    "zero terminal SNR of a formula": (lambda: lv.schedules.zero_terminal_snr(GAUSS.schedule), "rescale one made by"),
    "a missing leaf": (lambda: JOINT({"x": torch.zeros(1, 2)}, 0.5), "give each one"),
    # networks and data
    "rows too wide for an MLP": (lambda: lv.networks.MLP(2, 4, 1)(torch.zeros(3, 5), torch.zeros(3)), r"reads rows \(B, 2\)"),
    "heads for rotary positions": (lambda: lv.networks.SequenceTransformer(6, 5, 64, 1, 6), "multiple of 12, such as 72"),
    "heads of no width": (lambda: lv.networks.blocks.Attention(10, 3), "width a multiple of 3, such as 12"),
    "pictures for an MLP": (lambda: lv.networks.MLP(8, 4, 1)(torch.zeros(3, 1, 8, 8), torch.zeros(3)), "UNet or DiT for"),
    "colours for a grey U-Net": (lambda: GREY(torch.zeros(1, 3, 8, 8), torch.zeros(1)), "of 3 channels, and this U-Net reads 1"),
    "data that is one number": (lambda: lv.data.Arrays(3.0), "x is the number 3.0; give one entry for each sample"),
    "data that is nothing": (lambda: lv.data.Arrays(None), "x is a NoneType that is no array of numbers"),
    "rows of two lengths": (lambda: lv.data.Arrays([[1.0], [1.0, 2.0]]), "lists of one length"),
    "objects": (lambda: lv.data.Arrays(np.array([None, 1])), "x is a ndarray that is no array of numbers"),
    "16 bits": (lambda: lv.data.Arrays(np.zeros((2, 1, 8, 8), np.uint16)), "x is torch.uint16; give floats, int64 for cat"),
    "complex numbers": (lambda: lv.data.Arrays(torch.zeros(2, 2, dtype=torch.complex64)), "x is torch.complex64; give floats"),
    "one condition for all": (lambda: lv.data.Arrays(torch.zeros(2, 1), {"label": 1}), r"cond\['label'\] is the number 1"),
    "items of words": (lambda: lv.data.Dataset([("a", 1)], x=0, label=1), "0 is a str that is no array of numbers; let"),
    "items without a label": (lambda: lv.data.Dataset([(1.0, None)], x=0, label=1), "label of item 0 is a NoneType"),
    "a page of nothing": (lambda: lv.save_images(torch.zeros(0, 1, 8, 8), "x.png"), "at least one"),
    "a page without columns": (lambda: lv.save_images(torch.zeros(1, 1, 8, 8), "x.png", columns=0), "columns is 0"),
    "a page of categories": (lambda: lv.save_images(torch.zeros(1, 1, 8, 8).long(), "x.png"), "are torch.int64; give floats"),
    "an animation of nothing": (lambda: lv.save_gif([], "x.gif"), "there are no frames"),
    # recipes and training
    "a network to be trained": (lambda: lv.fit(NET, lv.data.two_moons(10)), "denoiser is a Identity; pass a langevin Denoiser"),
    "an unknown recipe": (lambda: recipe("digit"), "did you mean 'digits'"),
    "an MLP on pictures": (lambda: build(recipe("digits").model_copy(update={"network": c.MLPConfig()})), "use 'unet' or 'dit'"),
    "a U-Net on a product": (lambda: network(c.UNetConfig(), Facts(shape=(1, 8, 8), classes=None), BOTH), "use kind 'dit'"),
    "a decay that the rate does not have": (lambda: lv.fit(LINEAR, lv.data.two_moons(10), decay=0.5), "only with schedule wsd"),
    "passes that do not divide": (lambda: lv.fit(LINEAR, lv.data.two_moons(100), batch=10, accumulate=3), "accumulate divide"),
    "an unknown split": (lambda: lv.data.digits("valid"), "choose one of train, test, all"),
    "an unknown name": (lambda: lv.sampel, "did you mean 'sample'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused_in_a_sentence(name):
    make, expected = CASES[name]
    with pytest.raises((ValueError, AttributeError), match=expected) as caught:
        make()
    text = str(caught.value)
    assert len(text) < 400 and "\n" not in text


def test_nothing_is_refused_without_need():
    # the neighbours of the refusals above
    lv.sample(JOINT, {"x": lv.plans.ddim(4), "word": lv.plans.ddpm(4)}, 2)
    lv.sample(WORDS["skew"], lv.plans.ddpm(3), 2)
    lv.sample(ORACLE, lv.plans.heun(3), 2)
    lv.Denoiser(NET, lv.Gaussian(lv.schedules.vp_linear()), "eps")
    Denoising("elbo").check(BOTH)
    assert Batch(torch.zeros(1)).cond is None
