"""The loop: coefficients once, nothing recompiled, nothing that a graph cannot hold."""

import pytest
import torch

import langevin as lv
from langevin.core.gaussian import Gaussian

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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
