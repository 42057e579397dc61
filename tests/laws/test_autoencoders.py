"""Autoencoders and their codecs: what tiles, slices, codes and scales must not change."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.autoencoder import Autoencoder, GaussianCode, Half, Plain, Scale, Tiny
from langevin.networks.blocks import Grow, ResidualBlock, attend_linearly
from langevin.networks.latents import LatentCodec, _spans


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(**options) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(Half(Tiny(), [8, 8], [1, 1]), Half(Tiny(), [8, 8], [1, 1]), 4, **options).eval()


def plain(**options) -> Autoencoder:
    torch.manual_seed(0)
    one, two = (Half(Plain(4), [8, 16], [n, n]) for n in (1, 2))
    net = Autoencoder(one, two, 4, **options).eval()
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return net


def test_growing_is_repeating_pixels_and_a_convolution():
    torch.manual_seed(0)
    grow = Grow(5, 7).double()
    x = seeded(1, 2, 5, 6, 9).double().requires_grad_()
    ours = grow(x)
    theirs = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), grow.weight, grow.bias, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    g = seeded(2, *ours.shape).double()
    inputs = [x, grow.weight, grow.bias]
    for a, b in zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(theirs, inputs, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_linear_attention_is_attention_with_products_as_weights():
    q, k, v = (seeded(i, 2, 3, 6, 11).double() for i in range(3))
    q[:, :, 0], k[:, :, 0] = q[:, :, 0].abs(), k[:, :, 0].abs()  # else some pixel may attend to none
    weights = q.relu().transpose(-1, -2) @ k.relu()
    expected = v @ (weights / weights.sum(-1, keepdim=True)).transpose(-1, -2)
    q, k, v = (part.transpose(2, 3) for part in (q, k, v))
    torch.testing.assert_close(attend_linearly(q, k, v).transpose(2, 3), expected)


@pytest.mark.parametrize("make", [tiny, plain])
def test_without_gradients_memory_is_reused_and_nothing_else_changes(make):
    net, x = make(), seeded(3, 2, 3, 16, 24)
    with_gradients, before = net(x), x.clone()
    with torch.no_grad():
        assert torch.equal(net(x), with_gradients)
    assert torch.equal(x, before)


def test_a_block_under_autocast_answers_in_the_same_precision_without_gradients():
    torch.manual_seed(0)
    block, x = ResidualBlock(8, 8, None), seeded(3, 2, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected = block(x)
        with torch.no_grad():
            made = block(x)
    assert made.dtype == expected.dtype and torch.equal(made, expected)


@pytest.mark.parametrize(
    "length, tile, overlap", [(5, 8, 2), (9, 8, 2), (17, 8, 2), (64, 9, 3), (23, 8, 0), (40, 16, 5), (31, 3, 1)]
)
def test_tiles_weigh_one_together_everywhere(length: int, tile: int, overlap: int):
    for scale in (1, 8):
        total = torch.zeros(length * scale)
        for span in _spans(length, tile, overlap):
            assert span.start >= 0 and span.stop <= length
            total[span.start * scale : span.stop * scale] += span.weight(scale, total)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("make", [tiny, plain])
def test_one_tile_and_slices_change_nothing(make):
    net = make(gaussian=make is plain)
    x, z = seeded(4, 3, 3, 16, 24), seeded(5, 3, 4, 8, 12)
    whole, tiled, sliced = LatentCodec(net), LatentCodec(net, tile=12), LatentCodec(net, slices=1)
    with torch.no_grad():
        assert torch.equal(tiled.encode(x), whole.encode(x)) and torch.equal(tiled.decode(z), whole.decode(z))
        torch.testing.assert_close(sliced.encode(x), whole.encode(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sliced.decode(z), whole.decode(z), rtol=1e-5, atol=1e-5)


def test_tiles_of_convolutions_are_the_picture_where_no_tile_ends_nearby():
    # this network of convolutions sees fewer than 8 latents in each direction: what is further from the ends of the tiles that
    # make it is the same number as without tiles
    net, near = tiny(), 8
    z, x = seeded(6, 1, 4, 58, 70), seeded(7, 1, 3, 117, 140)
    codec, whole = LatentCodec(net, tile=40, overlap=4), LatentCodec(net)

    def far(length: int, scale: int) -> Tensor:
        one, other = _spans(length, 40, 4)
        assert one.falls is not None
        places, blended = torch.arange(length), torch.arange(one.falls, one.falls + 4)
        if blended[0] - near >= other.start and blended[-1] + near < one.stop:
            return torch.ones(length * scale, dtype=torch.bool)
        return (((places < one.stop - near) & (places < blended[0])) | (places > blended[-1] + near)).repeat_interleave(scale)

    with torch.no_grad():
        decoded, encoded = (codec.decode(z), whole.decode(z), 58, 2), (codec.encode(x), whole.encode(x), 59, 1)
    for made, expected, height, scale in (decoded, encoded):
        rows, columns = far(height, scale), far(70, scale)
        assert rows.all() and 40 * scale < columns.sum() < 70 * scale
        assert made.shape == expected.shape
        torch.testing.assert_close(made[..., rows[:, None] & columns], expected[..., rows[:, None] & columns])
        assert not torch.equal(made, expected)  # else there would have been no tiles


def test_a_draw_is_the_mean_and_noise_of_the_encoders_deviation():
    code = GaussianCode(torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 2 * torch.log(torch.tensor(0.5)).item()))
    assert code.mode.item() == 3.0
    assert code.sample(torch.full((1, 1, 1, 1), -2.0)).item() == pytest.approx(2.0)
    assert GaussianCode(code.mean).sample(code.mean) is code.mean


@pytest.mark.parametrize("scale", [Scale(0.3, 0.1), Scale(0.18215), Scale(2.0, mean=(1.0, -1.0), std=(0.5, 3.0)), Scale()])
def test_scales_go_back(scale: Scale):
    z = seeded(8, 2, 2, 3, 3).double()
    torch.testing.assert_close(scale.grown(scale.shrunk(z)), z)


def test_codes_are_the_nearest_and_stay():
    net = plain(project=(True, True), codes=11)
    assert net.codebook is not None
    z = seeded(9, 2, 4, 5, 6)
    said = net.quantise(z)
    distance = (z[:, None] - net.codebook[None, :, :, None, None]).square().sum(2)
    assert torch.equal(distance.argmin(1), said.indices)
    assert torch.equal(net.codebook[said.indices].movedim(-1, 1), said.latents)
    again = net.quantise(said.latents)
    assert torch.equal(again.indices, said.indices) and torch.equal(again.latents, said.latents)
    z.requires_grad_()
    (g,) = torch.autograd.grad(net.quantise(z).latents.sum(), z)
    assert torch.equal(g, torch.ones_like(z))
    with torch.no_grad():
        assert torch.equal(net.decode(z), net.decode(said.latents, quantise=False))
        assert not torch.equal(net.decode(z), net.decode(z, quantise=False))


def test_what_overflows_in_half_precision_stays_in_single():
    for upcast, inside in ((True, torch.float32), (False, torch.float16)):
        codec = LatentCodec(plain(gaussian=True, scale=Scale(upcast=upcast))).half()
        assert {p.dtype for p in codec.parameters()} == {inside}
    codec = LatentCodec(plain(gaussian=True, scale=Scale(upcast=True)))
    assert codec.half().decode(seeded(1, 1, 4, 4, 4).half()).dtype == torch.float16
    assert next(LatentCodec(plain(gaussian=True, scale=Scale(upcast=True))).bfloat16().parameters()).dtype == torch.bfloat16


def test_what_makes_no_sense_is_refused_with_a_remedy():
    net = tiny()
    for make, said in (
        (lambda: LatentCodec(net, tile=8, overlap=3), "make it a third of a tile at most"),
        (lambda: LatentCodec(net, slices=0), "code one picture at once"),
        (lambda: LatentCodec(net).decode(torch.zeros(1, 3, 4, 4)), "this autoencoder's are \\(B, 4, h, w\\)"),
        (lambda: LatentCodec(net).encode(torch.zeros(1, 3, 1, 4)), "sides of 2 pixels at least"),
        (lambda: net.quantise(torch.zeros(1, 4, 2, 2)), "build it with codes"),
        (lambda: Scale(0.0), "factor is 0"),
        (lambda: Scale(1.0, 0.5, (0.0,), (1.0,)), "a shift alone"),
        (lambda: tiny(gaussian=True, codes=4), "either drawn or looked up"),
        (lambda: Half(Tiny(), [8], [1, 2]), "give as many of both"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
