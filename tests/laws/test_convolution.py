"""Convolutions by fewer products are the convolutions: to the bit where nothing is rounded, to rounding elsewhere."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks import convolution
from langevin.networks.blocks.residual import ResidualBlock
from langevin.networks.convolution import Conv2d, convolve, filters, pays
from langevin.networks.packing import PackedConvolution, PackedWinograd, pack

ORDERS = (torch.contiguous_format, torch.channels_last)


def fewer(x: Tensor, weight: Tensor, bias: Tensor | None, together: int | None = None) -> Tensor:
    def filtered(part: slice):
        made = filters(weight[part])
        return lambda place, rows: rows @ made[place].t()

    return convolve(x, len(weight), bias, filtered, together)


@pytest.mark.parametrize("room", [1, 700, 2**19])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (3, 5, 7, 9), (2, 4, 1, 1), (1, 2, 2, 5), (5, 3, 4, 4), (1, 2, 16, 1)])
def test_the_same_to_the_bit_where_nothing_is_rounded(monkeypatch, shape, order, room):
    """Filters of multiples of four and pictures of small integers: every sum and product is exact in float32."""
    monkeypatch.setattr(convolution, "LEAST_TILES", 1)
    monkeypatch.setattr(convolution, "SLICE", room)  # slices of one row of tiles, of several, of all pictures
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, shape, generator=g).float().contiguous(memory_format=order)
    weight = 4.0 * torch.randint(-8, 9, (6, shape[1], 3, 3), generator=g)
    bias = torch.randint(-8, 9, (6,), generator=g).float()
    for b in (bias, None):
        for together in (None, 4):
            out = fewer(x, weight, b, together)
            assert torch.equal(out, F.conv2d(x, weight, b, padding=1))
            assert out.is_contiguous(memory_format=order)


@pytest.mark.parametrize("order", ORDERS)
def test_rounding_is_that_of_single_precision(order):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 256, 16, 16, generator=g), torch.randn(256, 256, 3, 3, generator=g) / (9 * 256) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ours = (fewer(x.contiguous(memory_format=order), weight, None) - exact).square().mean().sqrt()
    plain = (F.conv2d(x, weight, padding=1) - exact).square().mean().sqrt()
    assert ours < 4 * plain and ours < 1e-6 * exact.square().mean().sqrt()


def layer(channels: int = 256, side: int = 32) -> tuple[Conv2d, Tensor]:
    torch.manual_seed(0)
    return Conv2d(channels, channels, 3, padding=1), torch.randn(2, channels, side, side)


def counted(monkeypatch) -> list[int]:
    calls: list[int] = []
    real = convolution.convolve
    monkeypatch.setattr(convolution, "convolve", lambda x, *rest: calls.append(len(x)) or real(x, *rest))
    return calls


def test_it_is_done_where_it_pays_and_no_gradient_is_asked_for(monkeypatch):
    calls = counted(monkeypatch)
    conv, x = layer()
    plain = nn.Conv2d(256, 256, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    with torch.no_grad():
        assert torch.allclose(conv(x), plain(x), atol=2e-5) and calls == [2]
        for other in (conv.to(torch.bfloat16), conv.to(torch.float64)):  # no other precision
            other(x.to(other.weight.dtype))
        conv.float()
        conv(x[:1, :, :4, :4])  # few pixels
        conv(x[0])  # no batch
        few = Conv2d(32, 32, 3, padding=1)
        few(x[:, :32])
        assert calls == [2]
    # gradients are those of the plain convolution, to the bit
    conv, x = layer()
    conv.load_state_dict(plain.state_dict())
    for one in (conv, plain):
        one(x).square().sum().backward()
    assert calls == [2] and all(torch.equal(a.grad, b.grad) for a, b in zip(conv.parameters(), plain.parameters(), strict=True))


def test_layers_of_other_kinds_are_left_alone(monkeypatch):
    calls = counted(monkeypatch)
    x = torch.randn(2, 256, 32, 32)
    with torch.no_grad():
        for options in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"padding_mode": "reflect"}):
            conv = Conv2d(256, 256, 3, **{"padding": 1, **options})
            plain = nn.Conv2d(256, 256, 3, **{"padding": 1, **options})
            plain.load_state_dict(conv.state_dict())
            assert torch.equal(conv(x), plain(x))
    assert not calls


def test_the_environment_decides(monkeypatch):
    calls = counted(monkeypatch)
    conv, x = layer()
    convolution.allowed.cache_clear()
    try:
        with torch.no_grad():
            monkeypatch.setenv("LANGEVIN_CONVOLUTION", "native")
            assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)) and not calls
            convolution.allowed.cache_clear()
            monkeypatch.setenv("LANGEVIN_CONVOLUTION", "fast")
            with pytest.raises(ValueError, match="LANGEVIN_CONVOLUTION is 'fast'; set it to 'native' or 'winograd'"):
                conv(x)
    finally:
        convolution.allowed.cache_clear()


def test_what_pays_grows_with_channels_and_pictures():
    def picture(channels: int, side: int, order: torch.memory_format) -> Tensor:
        return torch.empty(2, channels, side, side).contiguous(memory_format=order)

    apart, beside = ORDERS
    assert pays(picture(320, 64, apart), 320) and not pays(picture(320, 8, apart), 320)
    assert pays(picture(128, 64, beside), 128) and not pays(picture(128, 64, apart), 128)
    assert not pays(picture(64, 64, beside), 64) and not pays(picture(512, 1, beside), 512)


def test_a_wide_block_is_the_block(monkeypatch):
    calls = counted(monkeypatch)
    torch.manual_seed(0)
    block = ResidualBlock(256, 320, 16)
    nn.init.normal_(block.conv2.weight, std=0.02)
    x, emb = torch.randn(2, 256, 32, 32), torch.randn(2, 1, 1, 16)
    exact = copy.deepcopy(block).double()(x.double(), emb.double())
    with torch.no_grad():
        assert float((block(x, emb) - exact).abs().max()) < 1e-5 * float(exact.abs().max()) and calls == [2, 2]


@pytest.mark.parametrize("order", ORDERS)
def test_packed_it_is_used_at_every_size(order):
    torch.manual_seed(0)
    plain = nn.Sequential(Conv2d(192, 200, 3, padding=1), nn.Conv2d(200, 8, 3, padding=1))
    packed = pack(copy.deepcopy(plain))
    assert isinstance(packed[0], PackedWinograd) and isinstance(packed[1], PackedConvolution)
    for shape in ((1, 192, 5, 9), (3, 192, 20, 12)):
        x = torch.randn(shape).contiguous(memory_format=order)
        exact = copy.deepcopy(plain).double()(x.double())
        with torch.no_grad():
            assert float((packed(x).double() - exact).abs().max()) <= 1e-5
    with pytest.raises(ValueError, match="knows no gradients"):
        packed(x.requires_grad_())
    with pytest.raises(ValueError, match="holds no weights to save"):
        packed.state_dict()
