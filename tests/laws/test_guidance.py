"""Guidance against exact answers."""

import dataclasses

import pytest
import torch

import langevin as lv
from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.control import ControlledPosterior, TiltedPosterior
from langevin.core.categorical import Categorical
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.posterior import lerp
from langevin.core.sample import sample
from langevin.guidance import APG, CFG, CFGZero, ClassifierGuidance, Control, Exploration, Guided, Value

PROCESS = Gaussian(schedules.cosine())
MEANS, LABEL = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64), torch.tensor([0, 1, 1])
EXACT = oracle.mixture(PROCESS, MEANS, 0.3, label=LABEL)
Z = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
COND = {"label": torch.tensor([0, 1, 0, 1, 0, 1])}


class Batches(torch.nn.Module):
    """Remembers the sizes of the batches it is called with."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.sizes = denoiser, []
        self.process, self.shape = denoiser.process, denoiser.shape

    def forward(self, z, *args, **kwargs):
        self.sizes.append(len(z))
        return self.denoiser(z, *args, **kwargs)


class Proxy:
    """One's own guided model, with all else taken from the model that it stands before."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, z, t, cond=None, mask=None):
        belief = self.model(z, t, cond, mask)
        return dataclasses.replace(belief, mean=0.5 * belief.mean)


def test_a_guidance_of_ones_own_may_be_a_function_or_stand_before_a_model():
    def halved(denoiser):
        return Proxy(denoiser).__call__

    ours = lv.sample(EXACT, plans.ddim(1), 6)
    for guidance in (halved, Proxy):
        assert torch.allclose(lv.sample(EXACT, plans.ddim(1), 6, guidance=guidance), 0.5 * ours)
    assert torch.allclose(sample(EXACT, plans.ddim(1), 6, guidance=Proxy), 0.5 * ours)  # pyright: ignore
    around = lv.sample(EXACT, plans.ddim(1), 6, cond=COND, guidance=lambda d: CFG(2.0)(Guided(d, halved(d))))
    by_hand = lv.sample(EXACT, plans.ddim(1), 6, cond=COND, guidance=CFG(2.0))
    assert torch.allclose(around, 0.5 * by_hand)


@pytest.mark.parametrize("guidance, message", [
    (lambda d: 3, r"guidance gives a int; return a denoiser, or a function \(z, t, cond, mask\) -> belief"),
    (lambda d: lambda z, t: d(z, t), r"guidance gives a function of \(z, t\); it is called as \(z, t, cond, mask\)"),
    (lambda d: lambda z, t, cond, mask: d(z, t).mean, r"guidance returns a tensor of shape \(6, 2\); return a belief"),
    (lambda d: lambda z, t, cond, mask: None, "guidance returns None; return a belief"),
])  # fmt: skip
def test_what_is_no_guidance_is_refused_in_a_sentence(guidance, message):
    with pytest.raises(ValueError, match=message):
        lv.sample(EXACT, plans.ddim(2), 6, guidance=guidance)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_is_linear_in_the_beliefs(w):
    conditional, null = EXACT(Z, 0.5, COND).mean, EXACT(Z, 0.5).mean
    assert torch.allclose(CFG(w)(EXACT)(Z, 0.5, COND).mean, null + w * (conditional - null), atol=1e-12)


def test_one_batched_call_and_none_when_unguided():
    for w, sizes in ((2.0, [12] * 4), (1.0, [6] * 4)):
        seen = Batches(EXACT)
        sample(seen, plans.ddim(4), 6, cond=COND, guidance=CFG(w))
        assert seen.sizes == sizes
    seen = Batches(EXACT)
    sample(seen, plans.ddim(4, grid="uniform"), 6, cond=COND, guidance=CFG(2.0, interval=(0.3, 0.8)))
    assert seen.sizes == [6, 12, 12, 6]  # levels 1, .75, .5, .25


def test_w_1_is_the_conditional_model_exactly():
    plain = sample(EXACT, plans.dpmpp(8), 6, cond=COND)
    assert torch.equal(sample(EXACT, plans.dpmpp(8), 6, cond=COND, guidance=CFG(1.0)), plain)


def test_rescale_restores_the_deviation():
    picture = oracle.mixture(PROCESS, Noise.of(0, 4).normal((1, 6, 6)), 0.1, label=torch.tensor([0, 0, 1, 1]))
    z, cond = Noise.of(1, 3).normal((1, 6, 6)), {"label": torch.tensor([0, 1, 1])}
    conditional = picture(z, 0.6, cond).mean
    full = CFG(4.0, rescale=1.0)(picture)(z, 0.6, cond).mean
    assert torch.allclose(full.std((1, 2, 3)), conditional.std((1, 2, 3)), rtol=1e-5)
    half = CFG(4.0, rescale=0.5)(picture)(z, 0.6, cond).mean
    assert torch.allclose(half, 0.5 * (full + CFG(4.0)(picture)(z, 0.6, cond).mean), atol=1e-6)


def test_rescale_of_the_output_restores_its_deviation():
    def net(z, level, cond=None, mask=None):
        kept = 1 - cond.get("drop", torch.zeros(len(z))).float()
        return torch.sin(3 * z) * (1 + cond["label"] * kept)[:, None, None, None]

    class Net(torch.nn.Module):
        forward = staticmethod(net)

    denoiser = Denoiser(Net(), PROCESS, "v", (1, 4, 4))
    z = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    cond = {"label": torch.tensor([1.0, 0.5, 2.0])}
    prediction, t = denoiser.predictions[""], torch.tensor(0.6, dtype=torch.float64)
    outputs = {}
    for amount in (0.0, 0.7, 1.0):
        belief = CFG(4.0, rescale=amount, of="output")(denoiser)(z, 0.6, cond)
        outputs[amount] = prediction.output(PROCESS, belief.mean, z, t)
    theirs = net(z, None, cond)
    assert torch.allclose(outputs[1.0].std((1, 2, 3)), theirs.std((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(outputs[0.7], 0.7 * outputs[1.0] + 0.3 * outputs[0.0], atol=1e-4)
    with pytest.raises(ValueError, match="of is 'output'"):
        CFG(2.0, rescale=0.5, of="output")(EXACT)


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_a_negative_condition_is_what_beliefs_are_led_away_from(w):
    other = {"label": 1 - COND["label"]}
    conditional, against = EXACT(Z, 0.5, COND).mean, EXACT(Z, 0.5, other).mean
    seen = Batches(EXACT)
    guided = CFG(w, null=other)(seen)(Z, 0.5, COND).mean
    assert torch.allclose(guided, against + w * (conditional - against), atol=1e-12)
    assert seen.sizes == ([6] if w == 1 else [12])
    # one for all, and conditions it does not name are shared
    one = CFG(w, null={"label": torch.tensor([1])})(EXACT)(Z, 0.5, COND).mean
    assert torch.allclose(one, CFG(w, null={"label": torch.ones(6, dtype=torch.int64)})(EXACT)(Z, 0.5, COND).mean, atol=1e-12)
    assert torch.allclose(CFG(w, null={})(EXACT)(Z, 0.5, COND).mean, conditional, atol=1e-12)
    with pytest.raises(ValueError, match="'colour'"):
        CFG(2.0, null={"colour": COND["label"]})(EXACT)(Z, 0.5, COND)
    with pytest.raises(ValueError, match="shape"):
        CFG(2.0, null={"label": COND["label"][:3]})(EXACT)(Z, 0.5, COND)


def test_a_negative_condition_tilts_categories():
    process = Categorical(3, schedules.keep_linear(), "mask")
    strings, label = torch.tensor([[0, 1], [1, 1], [2, 0], [2, 2], [0, 0], [1, 2]]), torch.tensor([0, 0, 1, 1, 1, 0])
    exact = oracle.Mixture(process, strings, torch.tensor([0.1, 0.3, 0.2, 0.1, 0.2, 0.1]), label=label)
    z = torch.tensor([[3, 3], [3, 3]])
    cond, other = {"label": torch.tensor([0, 1])}, {"label": torch.tensor([1, 0])}
    w = 0.6
    p, q = (exact(z, 0.7, c).probs for c in (cond, other))
    tilted = p**w * q ** (1 - w)
    assert torch.allclose(CFG(w, null=other)(exact)(z, 0.7, cond).probs, tilted / tilted.sum(-1, keepdim=True), atol=1e-6)


def test_guided_logits_are_the_tilted_distribution():
    process = Categorical(3, schedules.keep_linear(), "mask")
    strings, label = torch.tensor([[0, 1], [1, 1], [2, 0], [2, 2]]), torch.tensor([0, 0, 1, 1])
    exact = oracle.Mixture(process, strings, torch.tensor([0.1, 0.4, 0.2, 0.3]), label=label)
    z, cond = torch.tensor([[3, 3], [3, 3]]), {"label": torch.tensor([0, 1])}
    # every category must be possible under both for the ratio to be finite; compare where it is
    p, q = exact(z, 0.7, cond).probs, exact(z, 0.7).probs
    w = 0.4
    tilted = p**w * q ** (1 - w)
    assert torch.allclose(CFG(w)(exact)(z, 0.7, cond).probs, tilted / tilted.sum(-1, keepdim=True), atol=1e-8)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_classifier_guidance_with_the_exact_classifier_is_the_conditional(t):
    def log_prob(z, level, cond):
        return EXACT.log_prob(z, level, COND) - EXACT.log_prob(z, level)  # log p(c | z) up to a constant

    guided = ClassifierGuidance(log_prob, 1.0)(EXACT)(Z, t).mean
    assert torch.allclose(guided, EXACT(Z, t, COND).mean, atol=1e-9)
    assert torch.equal(ClassifierGuidance(log_prob, 0.0)(EXACT)(Z, t).mean, EXACT(Z, t).mean)


def test_classifier_guidance_from_pure_noise_stays_in_the_data():
    # at t = 1 nothing is left of x, and an inexact classifier's gradient must not be divided by alpha = 0
    def near(z, level, cond):
        exact = EXACT.log_prob(z, level, {"label": torch.zeros(len(z), dtype=torch.int64)}) - EXACT.log_prob(z, level)
        return exact + 0.05 * z.sum(1)

    for plan in (plans.dpmpp(20), plans.ddim(20), plans.ddpm(50)):
        z = sample(EXACT, plan, 64, guidance=ClassifierGuidance(near, 1.0))
        assert z.abs().max() < 5
        plain = sample(EXACT, plan, 64)
        target = MEANS[0].float()  # class 0
        assert (z - target).norm(dim=1).mean() < (plain - target).norm(dim=1).mean()


def test_classifier_guidance_tilts_categories():
    process = Categorical(3, schedules.keep_linear(), "uniform")
    exact = oracle.enumerated(process, torch.tensor([0.5, 0.3, 0.2]))
    g = torch.tensor([0.3, -1.0, 0.4])
    guided = ClassifierGuidance(lambda z, t, c: (z * g).sum((1, 2)), 2.0)(exact)
    z = torch.tensor([[0], [2]])
    expected = exact(z, 0.5).probs * torch.exp(2 * g)
    assert torch.allclose(guided(z, 0.5).probs, expected / expected.sum(-1, keepdim=True), atol=1e-8)


WORDS = oracle.enumerated(Categorical(3, schedules.keep_linear(), "uniform"), torch.tensor([0.5, 0.3, 0.2]))


def near(x, *_):
    """A regressor's log p, of each sample."""
    return -(x.double() - 1).square().flatten(1).sum(1)


STEERED = {
    "classifier": (EXACT, ClassifierGuidance(near)),
    "classifier of categories": (WORDS, ClassifierGuidance(near)),
    "classifier of states": (WORDS, ClassifierGuidance(near, of="state")),
    "value": (EXACT, Value(near)),
    "value of the mean": (EXACT, Value(near, covariance="none")),
    "value of categories": (WORDS, Value(near)),
    "exploration": (EXACT, Exploration(0.04, near)),
    "control": (EXACT, Control(near)),
}


@pytest.mark.parametrize("name", STEERED)
def test_strength_does_not_depend_on_the_batch(name):
    # published guidance of graphs has the mean of its loss over the batch: in one of six a sample is led a sixth as much
    model, guidance = STEERED[name]
    z = Z if model is EXACT else torch.tensor([[0], [1], [2], [2], [1], [0]])

    def led(guidance, z):
        belief = model(z, 0.4) if guidance is None else guidance(model)(z, 0.4)
        if isinstance(belief, TiltedPosterior):
            return belief.tilt
        if isinstance(belief, ControlledPosterior):
            return belief.move(z, z, 0.3, 0.4)
        return belief.params

    whole = led(guidance, z)
    for k in range(6):
        assert torch.allclose(led(guidance, z[k : k + 1]), whole[k : k + 1], rtol=1e-9, atol=1e-12)
    unled = {"control": z, "classifier of states": torch.zeros_like(whole)}.get(name, led(None, z))
    assert float((whole - unled).abs().flatten(1).amax(1).min()) > 1e-3


def test_lerp_on_a_tree():
    a, b = EXACT(Z, 0.3), EXACT(Z, 0.6)
    mixed = lerp({"x": a}, {"x": b}, 0.25)
    assert torch.allclose(mixed["x"].mean, 0.75 * a.mean + 0.25 * b.mean)


class Flat(torch.nn.Module):
    def forward(self, z, level, cond=None, mask=None):
        return 0.5 * z + 0.1


class Labelled(torch.nn.Module):
    """A network that hears of classes."""

    def forward(self, z, level, cond=None, mask=None):
        dropped = cond.get("drop", torch.zeros(len(z), dtype=torch.bool))
        return z * torch.where(dropped, 0.3, 0.5)[:, None] + torch.arange(3) * torch.where(dropped, 0.0, 1.0)[:, None]


RESCALED = [CFG(3.0, rescale=0.7), CFG(3.0, rescale=0.7, of="output"), CFG(3.0, norm="sample"), CFG(3.0, norm="rows")]


@pytest.mark.parametrize("guidance", RESCALED, ids=str)
@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("process", [PROCESS, Gaussian(lv.schedules.lipman(0.1))], ids=["cosine", "noise at level 0"])
def test_what_is_known_leaves_rescaled_beliefs_finite_and_is_no_part_of_them(guidance, prediction, process):
    model = Denoiser(Labelled(), process, prediction, shape=(3,))
    given, known = torch.full((2, 3), 0.2), torch.tensor([[True, False, False]] * 2)
    cond = {"label": torch.zeros(2, dtype=torch.int64)}
    z = sample(model, plans.ddim(5), 2, cond=cond, given=given, known=known, guidance=guidance)
    assert z.isfinite().all() and torch.equal(z[:, 0], given[:, 0])
    # the deviation is that of the unknown: what is known, and clean, may be anything
    state, t = torch.tensor([[0.2, 0.4, -0.3]] * 2).double(), torch.tensor([[0.0, 0.5, 0.5]] * 2).double()
    other = state.clone()
    other[:, 0] = 5.0
    one, two = (guidance(model)(s, t, cond).mean for s in (state, other))
    assert torch.allclose(one[:, 1:], two[:, 1:], atol=1e-12)
    # and it stays as it would be without: where level 0 has no noise, the data
    assert torch.allclose(two[:, 0], CFG(3.0)(model)(other, t, cond).mean[:, 0])
    assert process is not PROCESS or torch.allclose(two[:, 0], other[:, 0])


@pytest.mark.parametrize("guidance", [*RESCALED, APG(3.0), APG(3.0, longest=0.1), CFGZero(3.0)], ids=str)
def test_padding_is_no_part_of_what_is_rescaled_and_projected(guidance):
    class Nodes(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            kept = torch.where(cond.get("drop", torch.zeros(len(z), dtype=torch.bool)), 0.3, 0.5)[:, None, None]
            return torch.where(mask[..., None], z * kept + 1, 50 * kept)  # of padding a network may say anything

    model, cond = guidance(Denoiser(Nodes(), PROCESS, "v")), {"label": torch.zeros(2, dtype=torch.int64)}
    z, padded = Noise.of(4, 2).normal((3, 2), torch.float64), torch.zeros(2, 7, 2, dtype=torch.float64)
    padded[:, :3] = z
    alone = model(z, 0.6, cond, torch.ones(2, 3, dtype=torch.bool)).mean
    among = model(padded, 0.6, cond, (torch.arange(7) < 3).expand(2, 7)).mean
    assert torch.allclose(among[:, :3], alone, atol=1e-12) and bool((among[:, 3:] == 0).all())


def test_exploration_says_nothing_where_nothing_is_seen():
    normal = oracle.gaussian(PROCESS, torch.zeros(2), torch.eye(2))
    z = sample(normal, plans.ddpm(100), 2000, guidance=Exploration(lam=0.04), seed=1)
    assert 1.0 < float(z.double().std()) < 1.6  # flatter than the data, by as much as on schedules that never forget


def test_exploration_beside_what_is_known_is_finite_in_half_precision():
    model, begun = Denoiser(Flat(), PROCESS, "v", shape=(3,)), Noise.of(3, 2).normal((3,)).half()
    led, t = Exploration(0.04, lambda z, t, cond, mask: z.sum(1), w=0.5)(model), torch.tensor([[0.0, 0.5, 0.5]]).double()
    half, full = (led(state, t).mean.float() for state in (begun, begun.float()))
    assert torch.allclose(half, full, atol=0.02)


def test_one_label_is_that_of_all_in_likelihoods():
    x = lv.sample(EXACT, plans.ddim(4), 6, cond=COND)
    ones = torch.ones(6, dtype=torch.long)
    for given in (1, ones):
        found = lv.log_prob(EXACT, x, cond={"label": given}, solver="rk4", steps=4)
        assert torch.equal(found.nats, lv.log_prob(EXACT, x, cond={"label": ones}, solver="rk4", steps=4).nats)
