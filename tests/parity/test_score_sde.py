"""DDPM++ of score_sde beside what its authors' modules compute."""

import pytest
import torch

import langevin as lv
from langevin.core.gaussian import Gaussian
from langevin.networks.unet import UNet
from langevin.recipes import config as c
from langevin.recipes.domains.pictures import network
from langevin.recipes.facts import Facts
from langevin.zoo.families import unconditional
from tests.parity.score_sde import answer, original

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def made(blocks: int = 2, attention: tuple[int, ...] = (1,)) -> UNet:
    """Of a recipe, its weights drawn so that every part of it counts."""
    cfg = c.UNetConfig(style="ddpmpp", width=16, multipliers=(1, 2, 2), blocks=blocks, attention=attention, head_width=32,
                       time="add", dropout=0.1)  # fmt: skip
    net = network(cfg, Facts(shape=(3, 8, 8), classes=None), Gaussian(lv.schedules.vp_linear()))
    assert isinstance(net, UNet)
    generator = torch.Generator().manual_seed(0)
    net.load_state_dict({n: torch.randn(v.shape, generator=generator) * 0.2 for n, v in net.state_dict().items()})
    return net.eval()


def test_the_recipes_ddpmpp_is_the_published_network():
    net, label = made(), torch.tensor([3.5, 800.0])
    with torch.no_grad():
        expected = answer(original(net), X, label, 2, (False, True, False))
        assert torch.allclose(net(X, label), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert float((answer(original(net), X, label + 50, 2, (False, True, False)) - expected).abs().max()) > 1e-2


def test_projected_changes_have_no_words_in_the_peers_layout():
    with pytest.raises(ValueError, match="projected here, as in DDPM"):
        unconditional.config(made())
