"""Objectives that differentiate their network forwards, under autocast."""

from types import MethodType

import pytest
import torch

from langevin import networks, predictions, schedules
from langevin.core.denoiser import Denoiser
from langevin.core.flow_map import FlowMap
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.data import Arrays
from langevin.networks.blocks import dot_product_attention
from langevin.objectives import Batch, MeanFlow
from langevin.objectives.continuous import ContinuousConsistency
from langevin.objectives.leaps import forward_derivative
from langevin.training import fit
from tests.laws.leaping import normal

FLOW, TRIG = Gaussian(schedules.flow()), Gaussian(schedules.trigonometric())


def unet(channels=2, **settings):
    return networks.UNet(channels, width=16, multipliers=(1, 2), blocks=1, attention=(0, 1), head_width=8, **settings)


def dit(**settings):
    return networks.DiT(2, size=4, patch=2, width=16, depth=2, heads=2, **settings)


def prompted():
    encoder = networks.TextEncoder(20, 16, 1, 2, 4)
    return networks.Prompted(unet(tokens=16), encoder, torch.zeros(4, dtype=torch.int64))


def joint():
    ports = {"a": networks.PicturePort(16, 2, (4, 4), 2), "b": networks.VectorPort(16, 3, 5)}
    return networks.JointTransformer(ports, 16, 2, 2)


PICTURE = {"": (2, 4, 4)}
ROWS = {
    "MLP": (lambda: networks.MLP(3, 16, 2), {"": (3,)}),
    "UNet": (unet, PICTURE),
    "DiT": (dit, PICTURE),
    "MMDiT": (lambda: networks.MMDiT(2, 16, 2, tokens=8, joint=2), PICTURE),
    "JointTransformer": (joint, {"a": (2, 4, 4), "b": (5, 3)}),
    "GraphTransformer": (lambda: networks.GraphTransformer(2, 1, 16, 8, 8, 2, 2), {"nodes": (4, 2), "edges": (4, 4)}),
    "Prompted": (prompted, PICTURE),
    "Upscaling": (lambda: networks.Upscaling(unet(4, scalars=("augment",), out_channels=2)), PICTURE),
}
OTHERS = {
    "Autoencoder",
    "CategoryPort",
    "GraphRegressor",
    "VectorClassifier",
    "PatchCritic",
    "PicturePort",
    "PixelBeliefs",
    "PixelCategories",
    "Port",
    "SequenceTransformer",
    "TextEncoder",
    "VectorPort",
}
"""Parts of networks, networks of categories, and what is no network of states."""


def test_every_network_is_in_the_table():
    assert set(ROWS) | OTHERS == set(networks.__all__)


@pytest.mark.parametrize("name", ROWS)
def test_under_autocast_a_derivative_is_that_of_float32_to_the_bit(name):
    torch.manual_seed(0)
    net, leaves = ROWS[name][0](), ROWS[name][1]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * normal(1, *p.shape)[0].float())
    cond = {"tokens": normal(3, 5, 8).float()} if name == "MMDiT" else None

    def f(level, *states):
        z = dict(zip(leaves, states, strict=True))
        out = net(z if len(z) > 1 else z[""], dict.fromkeys(z, level) if len(z) > 1 else level, cond)
        return torch.cat([v.flatten(1) for v in out.values()], 1) if isinstance(out, dict) else out

    def some(seed):
        return tuple(normal(3, *shape, seed=seed).float() for shape in leaves.values())

    at, along = (torch.tensor([900.0, 500.0, 100.0]), *some(0)), (torch.full((3,), 1000.0), *some(1))
    value, rate = forward_derivative(f, at, along)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(f(*at), value)  # so autocast reaches this network
        under = forward_derivative(f, at, tuple(v.bfloat16().float() for v in along))
        halves = forward_derivative(f, at, tuple(v.bfloat16() for v in along))  # as a network under autocast says them
    assert torch.equal(value, under[0]) and float(rate.abs().max()) > 0
    assert torch.equal(under[1], halves[1]) and under[1].dtype == torch.float32
    assert torch.equal(forward_derivative(f, at, tuple(v.bfloat16().float() for v in along))[1], under[1])


@pytest.mark.parametrize("network", [unet, dit])
@pytest.mark.parametrize("kind", [MeanFlow, ContinuousConsistency])
def test_an_update_in_bfloat16_is_that_of_float32_but_for_its_rounding(network, kind):
    moved = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        if kind is MeanFlow:
            model = FlowMap(network(scalars=("span",)), FLOW, predictions.velocity("t"), (2, 4, 4))
        else:
            model = Denoiser(network(), TRIG, predictions.v("t"), (2, 4, 4))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * normal(1, *p.shape)[0].float())
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        data = Arrays(normal(32, 2, 4, 4).float())
        settings = {"steps": 1, "batch": 32, "warmup": 0, "optimiser": "muon", "ema": 0.0, "progress": False}
        fit(model, data, objective=kind(), precision=precision, **settings)
        moved[precision] = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert float(torch.cosine_similarity(moved["float32"], moved["bfloat16"], 0)) > 0.97


def test_at_rest_the_tangent_is_the_whole_gradient_in_bfloat16():
    # F - F^- is 0, not the rounding of the pass it was not differentiated by: with no tangent, no gradient
    torch.manual_seed(0)
    model = Denoiser(unet(), TRIG, predictions.v("t"), (2, 4, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * normal(1, *p.shape)[0].float())
    objective = ContinuousConsistency(normalise=None, adaptive=False)
    objective.tangent = MethodType(lambda self, model, z, *rest: (z, torch.zeros_like(z)), objective)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        objective(model, Batch(normal(8, 2, 4, 4).float()), Noise.of(0, 8)).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_that_is_differentiated_in_half_precision_is_that_of_float32_rounded_once(causal):
    g = torch.Generator().manual_seed(0)
    q, k, v, back = (torch.randn(2, 3, 5, 8, generator=g).bfloat16() for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        made = dot_product_attention(q, k, v, causal=causal)
    exact = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=causal)
    assert torch.equal(made, exact.bfloat16())
    ours = torch.autograd.grad(made, (q, k, v), back)
    for a, b in zip(ours, torch.autograd.grad(exact, wide, back.float()), strict=True):
        assert torch.equal(a, b.bfloat16())
