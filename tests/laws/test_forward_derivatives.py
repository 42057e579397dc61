"""Forward derivatives through every network that continuous states pass, against finite differences: one function takes them all,
`objectives.leaps.forward_derivative`."""

import inspect

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from langevin import networks
from langevin.networks.blocks import group_norm
from langevin.networks.blocks.embeddings import Captions
from langevin.networks.blocks.norms import fixed_groups
from langevin.networks.blocks.transformer import BlockForm
from langevin.networks.controlnet import Controlled, ControlNet
from langevin.networks.transformer import Places
from langevin.networks.unet import Reading, Resampling
from langevin.objectives.leaps import forward_derivative
from tests.laws.leaping import normal

COUNT, TEXT, WIDE = 3, 5, 6
PICTURE = (2, 4, 4)
SPAN = {"span": torch.tensor([300.0, 0.0, 40.0])}
TOKENS = {
    "tokens": normal(COUNT, TEXT, WIDE, seed=5),
    "tokens_mask": torch.arange(TEXT)[None] < torch.tensor([[5], [3], [1]]),
}
ALL = {"tokens": TOKENS["tokens"]}
GUIDED = {"guidance": torch.tensor([1.0, 2.0, 3.5])}


def unet(channels=2, **options):
    said = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (0, 1), "head_width": 4, "out_channels": 2}
    return networks.UNet(channels, **{**said, **options})


TEXTS = Reading(WIDE, (1, 1), (2, 2), groups=4)


def reading():
    return unet(widths=[8, 16], attention=(), time="add", norm=fixed_groups(4, 1e-5), reading=TEXTS)


def dit(**options):
    return networks.DiT(2, size=4, patch=2, width=16, depth=2, heads=2, **options)


def sana():
    form = BlockForm(single=True, linear=True, convolution=2.0, bias=False, norm=1e-5)
    return dit(form=form, captions=Captions(16, WIDE, norm=1e-5, guidance=100.0), places=Places(None), kinds=False)


def mmdit(**options):
    return networks.MMDiT(2, width=16, heads=2, tokens=WIDE, **options)


def controlled():
    return Controlled(reading(), [ControlNet(2, [8, 16], 1, TEXTS, fixed_groups(4, 1e-5))])


def graph():
    return networks.GraphTransformer(3, 2, width=8, edge_width=4, whole=4, depth=2, heads=2)


def prompted():
    encoder = networks.TextEncoder(10, WIDE, 1, 2, TEXT, activation="gelu")
    return networks.Prompted(unet(tokens=WIDE), encoder, torch.zeros(TEXT, dtype=torch.long))


LABEL = {"label": torch.tensor([0, 3, 1])}
# the network, the shape of its states, its conditions
NETS = {
    "MLP": (lambda: networks.MLP(3, 16, 2, classes=4, scalars=["span"]), (3,), {**LABEL, **SPAN}),
    "UNet": (lambda: unet(tokens=WIDE, scalars=["span"]), PICTURE, {**ALL, **SPAN}),
    "UNet that reads": (reading, PICTURE, TOKENS),
    "UNet, filtered": (lambda: unet(resampling=Resampling("filtered", "filtered", pyramid=True), norm=group_norm), PICTURE, None),
    "DiT": (lambda: dit(tokens=WIDE, scalars=["span"]), PICTURE, {**ALL, **SPAN}),
    "DiT, linear": (sana, PICTURE, {**TOKENS, **GUIDED}),
    "MMDiT": (lambda: mmdit(joint=2, pooled=3, table=4, unread=True, alone=(0,)), PICTURE,
              {**ALL, "pooled": normal(COUNT, 3, seed=6)}),
    "MMDiT, parallel": (lambda: mmdit(joint=1, single=1, guidance=True, axes=(2, 2, 4)), PICTURE, {**TOKENS, **GUIDED}),
    "MMDiT, sandwich": (
        lambda: mmdit(joint=0, single=2, kind="sandwich", refiners=1, kv_heads=1, axes=(2, 2, 4), towards="data"),
        PICTURE, TOKENS,
    ),
    "JointTransformer": (
        lambda: networks.JointTransformer({"": networks.VectorPort(16, 3, 4)}, 16, 2, 2, scalars=["span"]), (4, 3), SPAN,
    ),
    "Prompted": (prompted, PICTURE, {"ids": torch.arange(COUNT * TEXT).reshape(COUNT, TEXT) % 10}),
    "Upscaling": (
        lambda: networks.Upscaling(unet(4, scalars=["augment"])), PICTURE,
        {"low": normal(COUNT, 2, 2, 2, seed=7), "augment": torch.tensor([0.0, 0.1, 0.4])},
    ),
    "Controlled": (controlled, PICTURE, {**TOKENS, "hint": normal(COUNT, 3, 32, 32, seed=8)}),
    "GraphTransformer": (graph, {"nodes": (4, 3), "edges": (4, 4, 2)}, None),
}  # fmt: skip


def test_every_network_of_continuous_states_is_here():
    # those that read categories, have no level, or are wrapped around another for categories
    others = {
        "Autoencoder",
        "GraphRegressor",
        "PatchCritic",
        "PixelBeliefs",
        "PixelCategories",
        "SequenceTransformer",
        "TextEncoder",
        "VectorClassifier",
    }
    made = {name for name in networks.__all__ if "forward" in vars(getattr(networks, name))}
    levelled = {name for name in made if "level" in inspect.signature(getattr(networks, name).forward).parameters}
    assert levelled - others == {name.split(",")[0].split(" ")[0] for name in NETS} - {"Controlled"}


@pytest.mark.parametrize("name", NETS)
def test_forward_derivatives_are_those_of_finite_differences(name, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # levels are shown in float32; here differences are taken
    torch.manual_seed(0)
    make, shape, cond = NETS[name]
    net = make().double().eval()
    for k, p in enumerate(net.parameters()):
        p.data.add_(0.1 * normal(1, *p.shape, seed=k)[0])
    shapes = shape if isinstance(shape, dict) else {"": shape}
    at, along = ([normal(COUNT, *s, seed=seed + k) for k, s in enumerate(shapes.values())] for seed in (20, 40))
    if name == "GraphTransformer":  # of undirected graphs
        at[1], along[1] = (e + e.transpose(1, 2) for e in (at[1], along[1]))
    level, rate = torch.tensor([900.0, 500.0, 200.0], dtype=torch.float64), torch.tensor([90.0, -50.0, 20.0], dtype=torch.float64)

    def f(*args):
        *states, t = args
        if not isinstance(shape, dict):
            return net(states[0], t, cond)
        out = net(dict(zip(shapes, states, strict=True)), dict.fromkeys(shapes, t), cond)
        return torch.cat([out[leaf].flatten(1) for leaf in shapes], 1)

    value, slope = forward_derivative(f, (*at, level), (*along, rate))

    def moved(h):
        with torch.no_grad():
            return f(*(z + h * v for z, v in zip((*at, level), (*along, rate), strict=True)))

    assert torch.allclose(value, moved(0), rtol=1e-10, atol=1e-10)
    h = 2e-5
    differences = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert float(slope.norm()) > 1e-2 and float((slope - differences).norm() / differences.norm()) < 1e-6
    # and of reverse mode along one direction of the answer
    inputs = [z.clone().requires_grad_() for z in (*at, level)]
    toward = normal(*slope.shape, seed=60)
    with sdpa_kernel(SDPBackend.MATH):
        back = torch.autograd.grad((f(*inputs) * toward).sum(), inputs)
    both = sum(float((g * v).sum()) for g, v in zip(back, (*along, rate), strict=True))
    assert both == pytest.approx(float((slope * toward).sum()), rel=1e-8, abs=1e-8)
