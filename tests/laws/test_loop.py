"""The loop: coefficients once, nothing recompiled, nothing that a graph cannot hold."""

import numpy as np
import pytest
import torch

import langevin as lv
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.guidance import CFG

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PLANS = (lv.plans.dpmpp(6), lv.plans.trig(7), lv.plans.ddpm(5), lv.plans.heun(4))


def denoiser(prediction="v", schedule=None):
    torch.manual_seed(0)
    net = lv.networks.MLP(3, width=16, depth=1)
    return lv.Denoiser(net, Gaussian(schedule or lv.schedules.vp_linear()), prediction, shape=(3,)).eval()


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm", "velocity", "score"])
def test_numbers_that_are_kept_are_the_numbers(prediction):
    # one shared level takes floats kept from the last time; per-sample levels, gradients and learned schedules do not
    model = denoiser(prediction)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        kept = [model(z, 0.37).mean for _ in range(2)]
        fresh = model(z, torch.full((4,), 0.37)).mean
    with_gradient = model(z, 0.37).mean
    assert torch.equal(*kept)
    assert torch.allclose(kept[0], fresh, atol=1e-6) and torch.allclose(kept[0], with_gradient, atol=1e-6)


def test_numbers_of_a_learned_schedule_are_never_kept():
    model = denoiser("v", lv.schedules.learned())
    z = torch.ones(2, 3)
    with torch.no_grad():
        before = model(z, 0.5).mean
        next(model.process.schedule.parameters()).add_(1.0)
        assert not torch.allclose(model(z, 0.5).mean, before)


def test_two_schedules_do_not_share_numbers():
    prediction = lv.predictions.named("v")
    z = torch.ones(1, 3)
    net = lv.networks.MLP(3, width=16, depth=1)
    models = [lv.Denoiser(net, Gaussian(s), prediction, shape=(3,)).eval() for s in (lv.schedules.cosine(), lv.schedules.flow())]
    with torch.no_grad():
        assert not torch.allclose(models[0](z, 0.5).mean, models[1](z, 0.5).mean)


def test_nothing_is_recompiled_and_no_graph_breaks():
    # one graph serves every level, plan and seed of a shape
    import torch._dynamo as dynamo

    dynamo.reset()
    plain, model = denoiser(), denoiser()
    model.compile(backend="eager", fullgraph=True)  # fullgraph refuses breaks
    assert torch.allclose(lv.sample(model, PLANS[0], 4, seed=0), lv.sample(plain, PLANS[0], 4, seed=0), atol=1e-6)
    with dynamo.config.patch(error_on_recompile=True):
        for seed, plan in enumerate(PLANS):
            got = lv.sample(model, plan, 4, seed=seed)
            assert torch.allclose(got, lv.sample(plain, plan, 4, seed=seed), atol=1e-5)
    dynamo.reset()


class Told(torch.nn.Module):
    """A network of one condition, which `drop` takes away."""

    def __init__(self):
        super().__init__()
        self.net = lv.networks.MLP(4, width=16, depth=1)

    def forward(self, z, level, cond=None, mask=None):
        cond = cond or {}
        c = torch.zeros_like(z[:, :1]) if "c" not in cond else cond["c"][:, None]
        c = c if "drop" not in cond else torch.where(cond["drop"][:, None], 0.5, c)
        return self.net(torch.cat([z, c], 1), level)[:, :3]


def told():
    torch.manual_seed(0)
    return lv.Denoiser(Told(), Gaussian(lv.schedules.vp_linear()), "v", shape=(3,)).eval()


C = torch.tensor([1.0, -1.0, 2.0, 0.0])


def test_guidance_neither_breaks_a_graph_nor_is_compiled_again():
    import torch._dynamo as dynamo

    interval = CFG(2.0, interval=(0.1, 0.6))  # compiled, it is guided outside as well, by 1
    for guidance in (CFG(2.0), interval, CFG(3.0, null={"c": torch.tensor([0.3])}), CFG(2.0, rescale=0.7)):
        dynamo.reset()
        model = told()
        guided = guidance(model)
        guided.compile(backend="eager", fullgraph=True)
        expected = [lv.sample(told(), plan, 4, cond={"c": C}, guidance=guidance) for plan in PLANS[1:3]]
        lv.sample(model, PLANS[0], 4, cond={"c": C}, guidance=lambda _, guided=guided: guided)
        with dynamo.config.patch(error_on_recompile=True):
            for plan, wanted in zip(PLANS[1:3], expected, strict=True):
                got = lv.sample(model, plan, 4, cond={"c": C}, guidance=lambda _, guided=guided: guided)
                assert torch.allclose(got, wanted, atol=1e-5)
    dynamo.reset()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("noise", ["step", "path"])
def test_what_is_captured_draws_as_sample_does(device, noise):
    model = told().to(device)
    options = {"guidance": CFG(2.0), "noise": noise, "seed": 5}
    plan = lv.plans.dpmpp(5, sde=True)
    again = lv.captured(model, plan, 4, cond={"c": C}, **options)
    for first in (0, 7, 2**40):
        expected = lv.sample(model, plan, 4, cond={"c": C}, first_id=first, **options)
        assert torch.allclose(again(first), expected, atol=1e-6), first
    # other conditions are copied in, and stay
    other = lv.sample(model, plan, 4, cond={"c": 2 * C}, first_id=7, **options)
    kept = again(7, {"c": 2 * C})
    assert torch.allclose(kept, other, atol=1e-6) and torch.allclose(again(7), other, atol=1e-6)
    again(8)
    assert torch.allclose(kept, other, atol=1e-6)  # what was returned is the caller's
    # and weights are read where they are
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert torch.allclose(again(7), lv.sample(model, plan, 4, cond={"c": 2 * C}, first_id=7, **options), atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_a_start_and_categories_are_captured(device):
    model, starts = told().to(device), Noise.of(3, 8).normal((3,))
    again = lv.captured(model, lv.plans.trig(4), 4, start=starts[:4])
    for part in (starts[:4], starts[4:]):
        assert torch.allclose(again(start=part), lv.sample(model, lv.plans.trig(4), 4, start=part), atol=1e-6)
    for limit in ("mask", torch.tensor([0.2, 0.3, 0.5])):
        process = lv.Categorical(3, lv.schedules.keep_linear(), limit)
        torch.manual_seed(0)
        words = lv.Denoiser(lv.networks.SequenceTransformer(process.states, 3, width=16, depth=1), process, "logits", (7,))
        words.to(device).eval()
        again = lv.captured(words, lv.plans.ddpm(4), 6)
        assert torch.equal(again(3), lv.sample(words, lv.plans.ddpm(4), 6, first_id=3))
        assert not torch.equal(again(3), again(9))


def test_what_is_captured_takes_what_sample_takes():
    """Plans as words, arrays of numpy, lists, and what is known in a shape that broadcasts, now and in later calls."""
    model, plan = told(), "dpmpp:5"
    options = {"given": np.array([0.5, 0.0, 0.0], np.float32), "known": [True, False, False]}
    held = lv.captured(denoiser(), "trig:4", 4, **options)()
    assert torch.equal(held, lv.sample(denoiser(), "trig:4", 4, **options)) and torch.all(held[:, 0] == 0.5)
    again = lv.captured(model, plan, 4, cond={"c": C.double().numpy()}, guidance=CFG(2.0))
    expected = lv.sample(model, lv.plans.dpmpp(5), 4, cond={"c": C}, guidance=CFG(2.0))
    assert torch.equal(again(), expected)
    other = lv.sample(model, plan, 4, cond={"c": 2 * C}, guidance=CFG(2.0))
    for cond in ((2 * C).numpy(), (2 * C).tolist()):
        again(cond={"c": C})
        assert torch.equal(again(cond={"c": cond}), other) and not torch.equal(other, expected)
    starts = Noise.of(3, 8).normal((3,))
    begun = lv.captured(model, plan, 4, start=starts[:4].numpy())
    for part in (starts[:4], starts[4:]):
        assert torch.equal(begun(start=part.tolist()), lv.sample(model, plan, 4, start=part))
    with pytest.raises(ValueError, match="cond is a Tensor; name the conditions"):
        again(cond=C)
    with pytest.raises(ValueError, match=r"cond\['c'\] is a list; give a tensor, a numpy array or lists of numbers"):
        again(cond={"c": ["red"]})


def test_what_cannot_be_captured_is_refused():
    with pytest.raises(ValueError, match="as many evaluations as the states need"):
        lv.captured(told(), lv.plans.adaptive(), 4)
    again = lv.captured(told(), lv.plans.ddim(2), 4, cond={"c": C}, guidance=CFG(2.0))
    for options, said in (
        ({"cond": {"c": C[:2]}}, r"cond\['c'\] has shape \(2,\).*shape \(4,\)"),
        ({"cond": {"d": C}}, "none of that name"),
        ({"start": torch.zeros(4, 3)}, r"start\[''\].*none of that name"),
    ):
        with pytest.raises(ValueError, match=said):
            again(**options)
    with pytest.raises(ValueError, match="warmup is 0"):
        lv.captured(told(), lv.plans.ddim(2), 4, warmup=0)


@CUDA
def test_a_guided_loop_never_waits_for_the_device():
    model, cond = told().cuda(), {"c": C.cuda()}
    null = {"c": torch.tensor([0.3])}
    for guidance in (CFG(2.0), CFG(2.0, interval=(0.1, 0.6)), CFG(2.0, null={n: v.cuda() for n, v in null.items()})):
        for plan in (lv.plans.trig(5), lv.plans.ddpm(5)):
            lv.sample(model, plan, 4, cond=cond, guidance=guidance)  # what is kept is made
            torch.cuda.set_sync_debug_mode("error")
            try:
                lv.sample(model, plan, 4, cond=cond, guidance=guidance)
            finally:
                torch.cuda.set_sync_debug_mode("default")


@CUDA
def test_a_whole_sampling_is_one_graph():
    model = denoiser().cuda()
    start = torch.randn(4, 3, device="cuda")
    plan = lv.plans.trig(8).on(model.process.schedule)
    expected = lv.sample(model, plan, 4, start=start)  # warms up what is kept
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = lv.sample(model, plan, 4, start=start)
    graph.replay()
    assert torch.allclose(got, expected, atol=1e-6)


def test_conditions_come_in_the_dtype_of_the_weights():
    torch.manual_seed(0)
    net = lv.networks.DiT(1, (4, 4), 2, 16, 1, 2, 0.0, None, 5)
    denoiser = lv.Denoiser(net, lv.Gaussian(lv.schedules.cosine()), "v", shape=(1, 4, 4)).to(torch.bfloat16)
    tokens = torch.randn(2, 3, 5)
    drawn = [lv.sample(denoiser, lv.plans.ddim(2), 2, cond={"tokens": t}) for t in (tokens, tokens.bfloat16())]
    assert torch.equal(*drawn)
