"""Configurations that are legal and that no golden has, beside the peer's network of the same weights."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin.networks import UNet
from langevin.networks.controlnet import ControlNet
from langevin.zoo.family import Component, load_into, published
from langevin.zoo.registry import component

diffusers = pytest.importorskip("diffusers", reason="the peer is not installed")
G = torch.Generator()


def peer(config: dict[str, Any], kind: str) -> nn.Module:
    """The peer's, with weights none of which is 0 and that keep what passes of order one."""
    net = getattr(diffusers, kind).from_config(json.loads(json.dumps(config))).eval()
    G.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            wide = p.ndim > 1
            p.copy_(torch.randn(p.shape, generator=G) * (1 / p[0].numel() ** 0.5 if wide else 0.1) + (not wide))
    return net


def ours(config: dict[str, Any], part: Component, theirs: nn.Module) -> nn.Module:
    """Ours, with the peer's weights; they go back as they came, and what is published of it makes the peer's network again."""
    state = theirs.state_dict()
    net = part.build(json.loads(json.dumps(config)))
    load_into(net, part.keys(config, net), list(state), state.__getitem__, "the peer's").eval()
    back = published(net, part.keys(config, net))
    assert back.keys() == state.keys() and all(torch.equal(back[n], state[n]) for n in state)
    return net


def again(net: nn.Module, part: Component) -> nn.Module:
    """The peer's network from what is published of ours."""
    assert part.config is not None
    said = json.loads(json.dumps(part.config(net)))
    made = getattr(diffusers, part.name).from_config(said).eval()
    made.load_state_dict(published(net, part.keys(said, net)))
    return made


def alike(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape and float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def blocks(way: str, *attend: bool) -> list[str]:
    return [f"CrossAttn{way}Block2D" if yes else f"{way}Block2D" for yes in attend]


READING: dict[str, Any] = {
    "block_out_channels": [16, 32, 32], "norm_num_groups": 4, "cross_attention_dim": 12, "attention_head_dim": [2, 4, 8],
    "layers_per_block": 2, "use_linear_projection": True,
}  # fmt: skip
SMALLER = {
    # SSD-1B: transformers of several depths in one resolution, others on the way up (2401.02677)
    "several depths": {
        **READING, "down_block_types": blocks("Down", False, True, True), "up_block_types": blocks("Up", True, True, False),
        "transformer_layers_per_block": [1, [2, 1], [3, 2]],
        "reverse_transformer_layers_per_block": [[1, 2, 3], [2, 1, 1], 1],
    },
    # Segmind-Vega: one residual block in the middle, and no attention there
    "a plain middle": {
        **READING, "down_block_types": blocks("Down", False, True, True), "up_block_types": blocks("Up", True, True, False),
        "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2],
    },
    # BK-SDM: no middle at all (2305.15798)
    "no middle": {
        **READING, "down_block_types": blocks("Down", True, True, True), "up_block_types": blocks("Up", True, True, True),
        "mid_block_type": None, "layers_per_block": 1, "attention_head_dim": 4, "use_linear_projection": False,
    },
    "another way up": {
        **READING, "down_block_types": blocks("Down", True, True, False), "up_block_types": blocks("Up", False, True, True),
        "transformer_layers_per_block": 2, "reverse_transformer_layers_per_block": [1, 3, 1],
    },
    "one resolution": {
        "block_out_channels": [24], "norm_num_groups": 3, "cross_attention_dim": 12, "attention_head_dim": 4,
        "down_block_types": blocks("Down", True), "up_block_types": blocks("Up", True), "act_fn": "swish",
    },
}  # fmt: skip


@pytest.mark.parametrize("config", SMALLER.values(), ids=list(SMALLER))
def test_networks_made_smaller_by_leaving_blocks_out_are_the_peers(config: dict[str, Any]):
    part = component("UNet2DConditionModel")
    theirs = peer(config, part.name)
    net = ours(config, part, theirs)
    z, tokens = torch.randn(2, 4, 8, 12, generator=G), torch.randn(2, 5, 12, generator=G)
    level = torch.tensor([3.0, 700.0])
    with torch.no_grad():
        said = theirs(z, level, tokens).sample
        alike(net(z, level, {"tokens": tokens}), said)
        alike(again(net, part)(z, level, tokens).sample, said)


def test_text_that_is_hidden_is_so_where_blocks_attend_to_text_alone():
    """Without a mask these are the peer's; with one the peer hides tokens from a block's second attention alone."""
    config = {**SMALLER["no middle"], "only_cross_attention": [True, False, True], "mid_block_type": "UNetMidBlock2DCrossAttn"}
    part = component("UNet2DConditionModel")
    theirs = peer(config, part.name)
    net = ours(config, part, theirs)
    z, tokens, level = torch.randn(2, 4, 8, 12, generator=G), torch.randn(2, 5, 12, generator=G), torch.tensor([3.0, 700.0])
    mask = torch.tensor([True, True, True, False, False]).expand(2, -1)
    with torch.no_grad():
        alike(net(z, level, {"tokens": tokens}), theirs(z, level, tokens).sample)
        short = theirs(z, level, tokens[:, :3]).sample
        alike(net(z, level, {"tokens": tokens, "tokens_mask": mask}), short)
        hidden = theirs(z, level, tokens, encoder_attention_mask=mask).sample
        assert float((hidden - short).abs().max()) > 1e-2 * float(short.abs().max())


def test_a_control_with_a_plain_middle_is_the_peers():
    config = {
        **SMALLER["a plain middle"], "conditioning_embedding_out_channels": [4, 8], "transformer_layers_per_block": [1, [2, 1], 2]
    }  # fmt: skip
    config.pop("up_block_types")
    part = component("ControlNetModel")
    theirs = peer(config, part.name)
    net = ours(config, part, theirs)
    assert isinstance(net, ControlNet)
    z, tokens, hint = (torch.randn(*shape, generator=G) for shape in ((2, 4, 8, 12), (2, 5, 12), (2, 3, 16, 24)))
    level = torch.tensor([3.0, 700.0])
    with torch.no_grad():
        down, middle = theirs(z, level, tokens, hint.sigmoid(), return_dict=False)
        said = net(z, level, {"tokens": tokens}, hint.sigmoid())
    for one, other in zip([*said.kept, said.middle], [*down, middle], strict=True):
        alike(one, other)


CHANGES = [
    # (down, up), each in the order of the configuration
    (["ResnetDownsampleBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]),
    (["DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"]),
    (["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], ["ResnetUpsampleBlock2D", "UpBlock2D", "AttnUpBlock2D"]),
]


@pytest.mark.parametrize("types", CHANGES, ids=[" ".join(up) for _, up in CHANGES])
@pytest.mark.parametrize("changes", [{}, {"downsample_type": "resnet"}, {"upsample_type": "resnet"}], ids=str)
def test_each_change_of_resolution_is_that_of_the_block_before_it(types: tuple[list[str], list[str]], changes: dict[str, str]):
    down, up = types
    config = {
        "down_block_types": down, "up_block_types": up, "block_out_channels": [16, 16, 32][-len(down) :], "norm_num_groups": 4,
        "attention_head_dim": 8, "layers_per_block": 1, **changes,
    }  # fmt: skip
    part = component("UNet2DModel")
    theirs = peer(config, part.name)
    net = ours(config, part, theirs)
    assert isinstance(net, UNet)
    z, level = torch.randn(2, 3, 8, 12, generator=G), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        said = theirs(z, level).sample
        alike(net(z, level), said)
        alike(again(net, part)(z, level).sample, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transformer_layers_per_block": [1, 0, 1]}, "transformer_layers_per_block is (1, 0, 1); give one whole number from 1"),
        ({"transformer_layers_per_block": [1, 1]}, "transformer_layers_per_block is (1, 1); give one whole number"),
        ({"transformer_layers_per_block": [1, [2, 1, 1], 1]}, "may have 2, one for each of their residual blocks"),
        ({"transformer_layers_per_block": [1, [2, 1], 1]}, "say those of the way up too"),
        ({"reverse_transformer_layers_per_block": [[1, 2], 1, 1]}, "may have 3, one for each of their residual blocks"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "knows 'UNetMidBlock2DCrossAttn', 'UNetMidBlock2D', None"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_network_here_computes_is_refused_by_name(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError) as caught:
        component("UNet2DConditionModel").build({**SMALLER["no middle"], "layers_per_block": 2, **changes})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_control_without_a_middle_is_refused():
    config = {key: value for key, value in SMALLER["no middle"].items() if key != "up_block_types"}
    with pytest.raises(ValueError, match="mid_block_type is None"):
        component("ControlNetModel").build(config)
