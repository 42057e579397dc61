"""Perceptual distances: parity with the formula written out in numpy, files in published layouts, and training with them."""

import math
import re

import numpy as np
import pytest
import torch

from langevin import networks, schedules
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.data import Arrays
from langevin.evaluate.classifier import Classifier
from langevin.evaluate.perceptual import LPIPS, features, lpips
from langevin.objectives import Autoencoding, Denoising
from langevin.objectives.consistency import Consistency
from langevin.tensors import save
from langevin.training import Trainer
from tests.laws.leaping import normal

SLICES = {
    "vgg16": [(0, 3), (4, 8), (9, 15), (16, 22), (23, 29)],
    "alexnet": [(0, 1), (2, 4), (5, 7), (8, 9), (10, 11)],
}
CONVOLUTIONS = {
    "vgg16": dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (1, 1)),
    "alexnet": {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)},
}
POOLS = {"vgg16": {4: 2, 9: 2, 16: 2, 23: 2}, "alexnet": {2: 3, 5: 3}}


def windows(x, size, stride):
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride]


def by_hand(tensors, kind, a, b):
    """LPIPS of two pictures (3, H, W), in float64 numpy."""
    maps = []
    for picture in (a, b):
        x = (picture - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        found = []
        for first, last in SLICES[kind]:
            for k in range(first, last + 1):
                if k in CONVOLUTIONS[kind]:
                    stride, pad = CONVOLUTIONS[kind][k]
                    w, bias = (tensors[f"features.{k}.{n}"].double().numpy() for n in ("weight", "bias"))
                    x = windows(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), w.shape[-1], stride)
                    x = np.einsum("cijhw,ochw->oij", x, w, optimize=True) + bias[:, None, None]
                elif k in POOLS[kind]:
                    x = windows(x, POOLS[kind][k], 2).max((-1, -2))
                else:
                    x = np.maximum(x, 0)
            found.append(x)
        maps.append(found)
    total = 0.0
    for k, (one, other) in enumerate(zip(*maps, strict=True)):
        one, other = (m / (np.sqrt((m**2).sum(0, keepdims=True)) + 1e-10) for m in (one, other))
        head = tensors[f"lin{k}"].double().numpy()[0]
        total += (head * (one - other) ** 2).sum(0).mean()
    return total


@pytest.fixture(scope="module", params=["alexnet", "vgg16"])
def net(request):
    torch.manual_seed(0)
    net = LPIPS(request.param)
    for k in range(5):
        net.get_parameter(f"lin{k}").data.uniform_(0, 1)
    return net


def published(net, name):
    """A tensor's name in the published module."""
    if match := re.match(r"features\.(\d+)\.(.*)", name):
        place = next(i for i, (a, b) in enumerate(SLICES[net.backbone], 1) if a <= int(match[1]) <= b)
        return f"net.slice{place}.{match[1]}.{match[2]}"
    return f"{name}.model.1.weight"


def test_the_formula_is_that_of_the_paper(net):
    a, b = normal(2, 3, 33, 35).clamp(-1, 1), normal(2, 3, 33, 35, seed=1).clamp(-1, 1)
    tensors = net.state_dict()
    expected = [by_hand(tensors, net.backbone, x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)]
    assert np.allclose(net(a.float(), b.float()).numpy(), expected, rtol=2e-5)
    assert torch.allclose(net(a.float(), b.float()), net(b.float(), a.float()), rtol=1e-5)
    assert torch.equal(net(a.float(), a.float()), torch.zeros(2))


def test_files_in_published_layouts_are_read_and_others_refused(net, tmp_path):
    tensors = net.state_dict()
    whole = {published(net, name): value for name, value in tensors.items()}
    whole |= {f"lins.{n[3:]}": v for n, v in whole.items() if n.startswith("lin")}  # the module lists its heads twice
    whole |= {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.zeros(1, 3, 1, 1)}
    backbone = {n: v for n, v in tensors.items() if n.startswith("features.")} | {"classifier.6.bias": torch.zeros(10)}
    heads = {published(net, n): v for n, v in tensors.items() if n.startswith("lin")}
    for name, part in (("whole", whole), ("backbone", backbone), ("heads", heads)):
        save(tmp_path / f"{name}.safetensors", part)
    a, b = normal(1, 1, 32, 32).float(), normal(1, 1, 32, 32, seed=1).float()
    read = lpips(tmp_path / "whole.safetensors"), lpips(tmp_path / "backbone.safetensors", tmp_path / "heads.safetensors")
    for other in read:
        assert torch.equal(other(a, b), net(a, b)) and not any(p.requires_grad for p in other.parameters())
    assert read[0].hash in repr(read[0])
    with pytest.raises(ValueError, match="lacks 'lin0'"):
        lpips(tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="no LPIPS in its published names"):
        lpips(tmp_path / "heads.safetensors")
    save(tmp_path / "negative.safetensors", heads | {"lin2.model.1.weight": -heads["lin2.model.1.weight"]})
    with pytest.raises(ValueError, match="weights below 0"):
        lpips(tmp_path / "backbone.safetensors", tmp_path / "negative.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "heads.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        lpips(tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match=r"at least (16|31) pixels a side"):
        net(a[..., :15, :15], b[..., :15, :15])


def test_features_of_our_own_classifier():
    torch.manual_seed(0)
    classifier = Classifier(1, 8, 10)
    distance = features(classifier)
    a, b = normal(5, 1, 8, 8).float(), normal(5, 1, 8, 8, seed=1).float()
    expected = torch.zeros(5)
    x, y = a, b
    for layer in list(classifier.body)[:9]:
        x, y = layer(x), layer(y)
        if isinstance(layer, torch.nn.ReLU):
            one, other = (m / (m.norm(dim=1, keepdim=True) + 1e-10) for m in (x, y))
            expected = expected + (one - other).square().sum(1).mean((1, 2))
    assert torch.allclose(distance(a, b), expected, atol=1e-6)
    assert len(distance.maps(a)) == 3
    # maps that are 0 at a pixel have a gradient
    a.requires_grad_()
    features(lambda x: [torch.relu(x - 9)])(a, b).sum().backward()
    assert bool(a.grad.isfinite().all())


def test_a_distance_is_0_at_the_same_picture_and_grows_from_there():
    torch.manual_seed(0)
    distance = features(Classifier(1, 8, 10))
    a, step = normal(20, 1, 8, 8).float(), normal(20, 1, 8, 8, seed=1).float()
    near, far = distance(a, a + 0.01 * step), distance(a, a + 0.1 * step)
    assert torch.equal(distance(a, a), torch.zeros(20)) and bool((near < far).all())
    # a square near 0
    ratio = float((distance(a, a + 0.002 * step) / distance(a, a + 0.001 * step)).median())
    assert math.log2(ratio) == pytest.approx(2, abs=0.2)


def test_an_objective_trains_with_it_and_leaves_it_alone():
    torch.manual_seed(0)
    classifier = Classifier(1, 8, 10)
    before = [p.clone() for p in classifier.parameters()]
    model = Denoiser(networks.UNet(1, 8, (1, 2), 1, (), 4), Gaussian(schedules.edm()), "edm", (1, 8, 8))
    objective = Consistency(steps=4, decay=0.9, distance=features(classifier))
    config = TrainConfig(steps=2, batch=4, lr=1e-2)
    run = Trainer(model, Arrays(normal(8, 1, 8, 8).float().clamp(-1, 1)), objective, config)
    start = [p.clone() for p in model.parameters()]
    run.run(progress=False)
    assert all(torch.equal(p, q) for p, q in zip(before, classifier.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(start, model.parameters(), strict=True))


def test_a_distance_is_0_where_features_are_equal_and_nowhere_else():
    torch.manual_seed(0)
    classifier = Classifier(2, 8, 10)
    classifier.body[0].weight.data[:, 1] = 0  # its second channel is never seen
    distance = Consistency(steps=4, distance=features(classifier)).distance
    a, change = normal(6, 2, 8, 8).float(), normal(6, 1, 8, 8, seed=1).float()
    unseen, seen = torch.cat([a[:, :1], a[:, 1:] + change], 1), torch.cat([a[:, :1] + change, a[:, 1:]], 1)
    assert torch.equal(distance(a, unseen), torch.zeros(6)) and bool((distance(a, seen) > 1e-3).all())
    seen.requires_grad_()
    distance(a, seen).sum().backward()
    assert bool((seen.grad[:, 0].abs().amax((1, 2)) > 0).all()) and not seen.grad[:, 1].any()


@pytest.mark.parametrize("made", [
    lambda d: Consistency(steps=4, distance=d), lambda d: Denoising(distance=d),
    lambda d: Autoencoding(distance_of_features=d, perceptual=1.0),
])  # fmt: skip
def test_a_network_that_measures_is_in_no_checkpoint_and_not_trained(made):
    torch.manual_seed(0)
    classifier = Classifier(1, 8, 10)
    objective = made(features(classifier))
    assert not objective.state_dict() and not list(objective.parameters())
    assert classifier.digest() in str(objective)  # by which a resumed run knows it again
    distance = objective.distance_of_features if isinstance(objective, Autoencoding) else objective.distance
    a, b = normal(3, 1, 8, 8).float(), normal(3, 1, 8, 8, seed=1).float()
    single = distance(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(a, b), single)  # beliefs of neighbours are too near each other for half precision
    objective.double()  # it goes where the objective goes
    wide = distance(a.double(), b.double())
    assert wide.dtype == torch.float64 and torch.allclose(wide.float(), single, rtol=1e-5)


def test_pictures_are_compared_at_the_size_asked_for(net, tmp_path):
    save(tmp_path / "net.safetensors", net.state_dict())
    a, b = normal(2, 1, 8, 12).float(), normal(2, 1, 8, 12, seed=1).float()
    large = [torch.nn.functional.interpolate(x, (32, 48), mode="bilinear") for x in (a, b)]
    assert torch.equal(lpips(tmp_path / "net.safetensors", size=32)(a, b), lpips(tmp_path / "net.safetensors")(*large))
    with pytest.raises(ValueError, match="size is 0; give the shorter side"):
        lpips(tmp_path / "net.safetensors", size=0)


def test_names_of_networks_are_those_of_recipes():
    with pytest.raises(ValueError, match=r"which recipes know by name; here give the distance itself"):
        Consistency(distance="classifier")
