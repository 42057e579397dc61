"""Networks packed for inference say the same, and say what they cannot do."""

import copy

import pytest
import torch
from torch import nn

from langevin.networks import DiT, UNet
from langevin.networks.linear import Linear
from langevin.networks.packing import Packed, PackedConvolution, pack
from tests.laws.test_networks import PICTURE, awake


@pytest.mark.parametrize("make", [lambda: DiT(2, 8, 2, 16, 2, 2, classes=3, tokens=5), lambda: UNet(2, 16, (1, 2), 1, (1,), 8)])
def test_a_packed_network_is_the_network(make):
    plain = awake(make())
    packed = pack(copy.deepcopy(plain))
    assert not any(type(m) is Linear for m in packed.modules()) and any(isinstance(m, Packed) for m in packed.modules())
    assert any(isinstance(m, PackedConvolution) for m in packed.modules()) and not any(
        type(m) is nn.Conv2d for m in packed.modules()
    )
    cond = {} if isinstance(plain, UNet) else {"label": torch.tensor([0, 2, 1]), "tokens": torch.ones(3, 4, 5)}
    for level in (torch.tensor([10.0, 500.0, 900.0]), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 900):
        with torch.no_grad():
            ours, theirs = packed(PICTURE, level, cond), plain(PICTURE, level, cond)
        assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("gelu", ["tanh", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_follows_is_done_along(gelu: str, dtype: torch.dtype):
    torch.manual_seed(0)
    plain = nn.Sequential(Linear(40, 24), nn.GELU(approximate=gelu), nn.Dropout(0.5), Linear(24, 8, bias=False)).to(dtype).eval()
    packed = pack(copy.deepcopy(plain))
    assert not any(isinstance(m, nn.GELU) for m in packed.modules())
    x = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = plain.double()(x.double())
    with torch.no_grad():
        assert float((packed(x).double() - exact).abs().max()) <= (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_convolutions_are_the_convolutions_at_any_size(dtype: torch.dtype):
    torch.manual_seed(0)
    for options in (
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"kernel_size": 1},
        {"dilation": 2, "bias": False},
        {"kernel_size": (1, 3)},
    ):
        plain = nn.Sequential(nn.Conv2d(20, 36, **{"kernel_size": 3, **options})).to(dtype)
        packed = pack(copy.deepcopy(plain))
        assert isinstance(packed[0], PackedConvolution)
        for shape in ((1, 20, 5, 9), (3, 20, 40, 33)):
            x = torch.randn(shape).to(dtype)
            exact = copy.deepcopy(plain).double()(x.double())
            for given in (x, x.contiguous(memory_format=torch.channels_last)):
                with torch.no_grad():
                    assert float((packed(given).double() - exact).abs().max()) <= (1e-5 if dtype == torch.float32 else 2e-2)
    # groups, and padding by what is there, are left as they are
    left = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding="same")
    )
    assert not any(isinstance(m, PackedConvolution) for m in pack(left).modules())


def test_what_a_packed_network_cannot_do_is_said():
    convolution = pack(nn.Sequential(nn.Conv2d(4, 4, 3)))
    with pytest.raises(ValueError, match="knows no gradients"):
        convolution(torch.zeros(2, 4, 5, 5, requires_grad=True))
    with pytest.raises(ValueError, match="holds no weights to save"):
        convolution.state_dict()
    net = pack(nn.Sequential(Linear(4, 4)))
    with pytest.raises(ValueError, match="knows no gradients"):
        net(torch.zeros(2, 4, requires_grad=True))
    with pytest.raises(ValueError, match="holds no weights to save"):
        net.state_dict()
    with pytest.raises(ValueError, match=r"packed for torch\.float32"):
        net(torch.zeros(2, 4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="in float32 or bfloat16"):
        pack(nn.Sequential(Linear(4, 4)).double())
    assert sum(p.numel() for p in net.parameters()) == 0
