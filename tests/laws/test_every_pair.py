"""Any process with any objective, plan and guidance: each pair works, or is refused in one line that ends in a remedy."""

import warnings

import pytest
import torch

import langevin as lv
from langevin import bayesian_flow, heads, schedules
from langevin.core.noise import Noise
from langevin.embedded import Embedded, Logits, state_shape
from langevin.guidance import Exploration, Sharpened, Value
from langevin.interpolants import Interpolant
from langevin.kernels import ordinal_rates
from langevin.networks import MLP, CategoryPort, JointTransformer, SequenceTransformer, VectorPort
from langevin.objectives import (
    ELBO,
    Batch,
    BayesianFlow,
    Consistency,
    Denoising,
    Embedding,
    InterFlow,
    Masking,
    MeanFlow,
    Shortcut,
)
from langevin.objectives.adversarial import Adversarial
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.distribution_matching import DistributionMatching
from langevin.objectives.guidance_distillation import GuidanceDistillation
from langevin.objectives.latent_consistency import LatentConsistency
from langevin.objectives.progressive import Progressive
from langevin.objectives.trajectory import Trajectory

B, LABEL = 4, torch.tensor([0, 1, 2, 0])
NUMBERS, IDS = Noise.of(0, B).normal((2,)), (Noise.of(1, B).uniform((3,)) * 4).long()
KEEP, POINTS = schedules.keep_linear(), torch.eye(4) - 0.25


def rows(scalars):
    return MLP(2, 8, 1, 3, scalars)


def words(states, said):
    return lambda scalars: SequenceTransformer(states, said, 8, 1, 1, timed=True)


def vectors(said):
    return lambda scalars: JointTransformer({"": VectorPort(8, 4, 3, said)}, 8, 1, 1, classes=3, scalars=scalars)


def both(scalars):
    return JointTransformer({"x": CategoryPort(8, 5, 4, 3), "y": VectorPort(8, 4, 3)}, 8, 1, 1, classes=3, scalars=scalars)


PRODUCT = lv.Product({"x": lv.Categorical(4, KEEP, "mask"), "y": lv.Gaussian(schedules.cosine())})
MODELS = {
    "cosine v": (lv.Gaussian(schedules.cosine()), "v", rows, NUMBERS),
    "flow velocity": (lv.Gaussian(schedules.flow()), "velocity", rows, NUMBERS),
    "edm": (lv.Gaussian(schedules.edm()), "edm", rows, NUMBERS),
    "learned": (lv.Gaussian(schedules.learned()), "v", rows, NUMBERS),
    "interpolant": (Interpolant(schedules.flow()), "velocity", rows, NUMBERS),
    "mask": (lv.Categorical(4, KEEP, "mask"), "subs", words(5, 4), IDS),
    "uniform": (lv.Categorical(4, KEEP, "uniform"), heads.ratio(), words(4, 4), IDS),
    "ordinal": (lv.Categorical(4, KEEP, rates=ordinal_rates(4, 0.3)), heads.logistic(), words(4, 2), IDS),
    "points": (Embedded(POINTS, schedules.flow()), "x0", vectors(4), IDS),
    "learned points": (Embedded(POINTS.clone(), schedules.sqrt(), 0.1, learned=True), "x0", vectors(4), IDS),
    "bayesian flow": (bayesian_flow.discrete(4, 2.0), Logits(), vectors(4), IDS),
    "product": (PRODUCT, {"x": "logits", "y": "v"}, both, {"x": IDS, "y": Noise.of(2, B).normal((3, 4))}),
}
OBJECTIVES = {
    "simple": (lambda t: Denoising(drop=0.1), ()),
    "min_snr, elements": (lambda t: Denoising("min_snr", spread="elements"), ()),
    "elbo, loss-aware": (lambda t: Denoising("elbo", levels="loss_aware"), ()),
    "flow": (lambda t: Denoising("flow"), ()),
    "huber, ot": (lambda t: Denoising(distance="huber", coupling="ot"), ()),
    "chain": (lambda t: ELBO(5), ()),
    "hybrid": (lambda t: ELBO(5, cross_entropy=1.0, form="images"), ()),
    "masking": (lambda t: Masking(), ()),
    "interflow": (lambda t: InterFlow(), ()),
    "bayesian flow": (lambda t: BayesianFlow(), ()),
    "embedding": (lambda t: Embedding(), ()),
    "consistency": (lambda t: Consistency(t, 4), ()),
    "continuous": (lambda t: ContinuousConsistency(), ()),
    "lcm": (lambda t: LatentConsistency(t), ("guidance",)),
    "progressive": (lambda t: Progressive(t, 4), ()),
    "guidance": (lambda t: GuidanceDistillation(t), ("guidance",)),
    "adversarial": (lambda t: Adversarial(t, width=4), ()),
    "dmd": (lambda t: DistributionMatching(t, every=1), ()),
    "shortcut": (lambda t: Shortcut(2), ("span",)),
    "mean flow": (lambda t: MeanFlow(omega=2.0, drop=0.1), ("span",)),
    "trajectory": (lambda t: Trajectory(None, 4), ("span",)),
}
GUIDANCE = {
    "cfg": lv.CFG(2.0),
    "cfg, rescaled": lv.CFG(2.0, rescale=0.5),
    "temperature": Sharpened(0.5),
    "exploration": Exploration(0.1),
    "value": Value(lambda x, cond: sum(v.flatten(1).square().sum(1) for v in (x.values() if isinstance(x, dict) else [x]))),
}
UNTOLD = ("mask", "uniform", "ordinal")
"""Networks of words, which read no labels."""
NEEDY = ("diffusers", "ddnm", "ddrm", "annealed_langevin", "restart", "score_sde", "adaptive", "dpm_adaptive", "first_hitting")
"""Plans that read more than a number of steps, or take many."""


def model(name, scalars=()):
    process, prediction, net, x = MODELS[name]
    kind = lv.FlowMap if "span" in scalars else lv.Denoiser
    shape = {n: tuple(v.shape[1:]) for n, v in x.items()} if isinstance(x, dict) else tuple(x.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(net(scalars), process, prediction, shape=state_shape(process, shape))


def tried(work):
    """What came of it: nothing, or the refusal, which has to be one."""
    try:
        found = work()
    except ValueError as error:
        said = str(error)
        assert "\n" not in said and said.endswith((".", ".)")) and (";" in said or " use " in said), said
        return said
    for value in found.values() if isinstance(found, dict) else [found]:
        assert bool(value.isfinite().all())
    return None


@pytest.mark.parametrize("name", MODELS)
def test_every_objective_learns_a_process_or_says_why_not(name):
    _, _, _, x = MODELS[name]
    source = NUMBERS.flip(0) if name == "interpolant" else None
    learned = set()
    for kind, (make, scalars) in OBJECTIVES.items():

        def work(kind=kind, make=make, scalars=scalars):
            teacher, student = model(name), model(name, scalars)
            objective = make(teacher)
            objective.prepare(student)
            objective.begin(student, 0, 0.0)
            cond = {} if name in UNTOLD else {"label": LABEL}
            loss = objective(student, Batch(x, cond, source=source), Noise.of(3, B)).total
            loss.backward()
            # a student that begins as its teacher agrees with the denoiser that follows it
            assert kind == "dmd" or any(p.grad is not None and bool(p.grad.any()) for p in student.parameters())
            return loss.detach()

        if tried(work) is None:
            learned.add(kind)
    assert learned


@pytest.mark.parametrize("name", [name for name in MODELS if name != "learned"])
def test_every_plan_and_guidance_draws_from_a_process_or_says_why_not(name):
    told = {"cond": None if name in UNTOLD else {"label": LABEL}, **({"start": NUMBERS} if name == "interpolant" else {})}
    denoiser = model(name)
    drawn = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks of words read no labels
        for plan in sorted(set(lv.plans.PLANS) - set(NEEDY)):
            if tried(lambda plan=plan: lv.sample(denoiser, f"{plan}:2", B, **told)) is None:
                drawn.add(plan)
        for guidance in GUIDANCE.values():
            tried(lambda guidance=guidance: lv.sample(denoiser, "ddpm:2", B, guidance=guidance, **told))
    assert drawn
