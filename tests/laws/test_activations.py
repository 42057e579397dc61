"""Activation checkpointing and recomputed norms: less is kept, and nothing else changes, to the bit."""

import copy
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import langevin as lv
from langevin.networks.blocks import common
from langevin.training.activations import recompute
from langevin.training.trainer import Trainer

G = torch.Generator().manual_seed(0)
PICTURES, LEVEL = torch.randn(4, 3, 8, 8, generator=G), torch.tensor([10.0, 300.0, 600.0, 900.0])

NETS = {
    "unet": lambda: lv.networks.UNet(3, 16, (1, 2), 1, (1,), 16, dropout=0.3),
    "unet add": lambda: lv.networks.UNet(3, 16, (1, 2), 1, (1,), 16, dropout=0.3, time="add"),
    "dit": lambda: lv.networks.DiT(3, 8, 2, 16, 3, 2, dropout=0.3, stem=4),
}


def network(kind):
    torch.manual_seed(0)
    net = NETS[kind]()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return net


def kept(net):
    """Bytes that the backward pass of `net` holds beside its weights, and its gradients."""
    weights, held = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def pack(value):
        if value.untyped_storage().data_ptr() not in weights:
            held[value.untyped_storage().data_ptr()] = (value.untyped_storage().nbytes(), value)
        return value

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = net(PICTURES, LEVEL).square().mean()
    loss.backward()
    return sum(size for size, _ in held.values()), {n: p.grad for n, p in net.named_parameters()}


@pytest.mark.parametrize("kind", NETS)
def test_checkpointed_blocks_keep_less_and_give_the_same_gradients(kind):
    net = network(kind)
    much, wanted = kept(net)
    net = network(kind)
    names = list(net.state_dict())
    recompute(net)
    recompute(net)  # once more is as good
    little, got = kept(net)
    assert little < much / 2
    assert list(net.state_dict()) == names
    assert all(torch.equal(got[n], wanted[n]) for n in wanted)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
        assert not torch.equal(twin.eval()(PICTURES, LEVEL), net.eval()(PICTURES, LEVEL))  # a copy runs its own weights


@pytest.mark.parametrize("kind", NETS)
def test_a_run_may_be_resumed_with_checkpointing_and_ends_on_the_same_bits(kind, tmp_path):
    def trained(steps, out, resume=False, **how):
        denoiser = lv.Denoiser(network(kind), lv.Gaussian(lv.schedules.cosine()))
        config = lv.config.TrainConfig(steps=4, batch=2, save_every=2, schedule="constant", **how)
        trainer = Trainer(denoiser, lv.data.Arrays(PICTURES), lv.objectives.Denoising(), config, out, resume)
        while trainer.step < steps:
            trainer.update()
        trainer.save()
        trainer.close()
        return denoiser.state_dict()

    whole = trained(4, tmp_path / "whole")
    trained(2, tmp_path / "parts")
    parts = trained(4, tmp_path / "parts", resume=True, activation_checkpointing=True)
    assert all(torch.equal(whole[n], parts[n]) for n in whole)


@pytest.mark.parametrize("kind", NETS)
def test_recomputed_norms_change_no_gradient_of_any_order(kind, monkeypatch):
    def results(least):
        monkeypatch.setattr(common, "LEAST_RECOMPUTED", least)
        net = network(kind).eval()
        much, first = kept(net)
        z = PICTURES.clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice, nor forwards
            (slope,) = torch.autograd.grad(net(z, LEVEL).square().sum(), z, create_graph=True)
            (second,) = torch.autograd.grad(slope.square().sum(), z)
            forward = torch.func.jvp(lambda z: net(z, LEVEL), (PICTURES,), (torch.ones_like(PICTURES),))[1]
        reverse = torch.func.grad(lambda z: net(z, LEVEL).square().sum())(PICTURES)
        return much, [*first.values(), slope, second, forward, reverse]

    (little, now), (much, plain) = results(0), results(math.inf)
    assert little < 0.95 * much
    assert all(torch.equal(a, b) for a, b in zip(now, plain, strict=True))


def test_a_compiled_network_may_be_checkpointed():
    net = network("unet").eval()
    wanted = kept(net)[1]
    net = network("unet").eval()
    recompute(net)
    net.compile(backend="aot_eager")
    assert all(torch.allclose(g, wanted[n], rtol=1e-4, atol=1e-6) for n, g in kept(net)[1].items())
