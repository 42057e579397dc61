"""PixArt-alpha and -Sigma, as diffusers publishes them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.blocks import BlockForm, Captions
from langevin.networks.transformer import DiT, Places
from langevin.zoo.configs import filled, only
from langevin.zoo.families.dit import BLOCKS, KEY_VALUE, shape
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import KeyMap, channels_last

DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28, "dropout": 0.0,
    "norm_num_groups": 32, "cross_attention_dim": 1152, "attention_bias": True, "sample_size": 128, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "upcast_attention": False,
    "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6, "interpolation_scale": None,
    "use_additional_conditions": None, "caption_channels": None, "attention_type": "default",
}  # fmt: skip
# of the class that was every transformer at once
OLD: Mapping[str, Any] = {
    "num_vector_embeds": None, "use_linear_projection": False, "only_cross_attention": False, "double_self_attention": False,
}  # fmt: skip
FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate", "norm_elementwise_affine": False, "norm_type": "ada_norm_single",
    "attention_bias": True, "attention_type": "default", **OLD,
}  # fmt: skip

CAPTIONS = (
    (r"^joint\.conditions\.enter\.0\.", "caption_projection.linear_1."),
    (r"^joint\.conditions\.enter\.2\.", "caption_projection.linear_2."),
)


def build(config: Config) -> DiT:
    """config.json of PixArtTransformer2DModel -> network.

    Raises:
        ValueError: for values that no network here computes.
    """
    what = "PixArtTransformer2DModel"
    c = filled(config, {**DEFAULTS, **OLD}, what)
    only(c, FIXED, what)
    width, size = c["num_attention_heads"] * c["attention_head_dim"], c["sample_size"]
    if c["caption_channels"] is None:
        raise ValueError("caption_channels is None; texts pass two layers as they enter, give their features.")
    if c["cross_attention_dim"] != width:
        raise ValueError(f"cross_attention_dim is {c['cross_attention_dim']}, and texts that have entered are {width} wide.")
    sizes = c["use_additional_conditions"]
    scale = c["interpolation_scale"] or max(size // 64, 1)
    return DiT(
        c["in_channels"],
        size,
        c["patch_size"],
        width,
        c["num_layers"],
        c["num_attention_heads"],
        c["dropout"],
        out_channels=c["out_channels"],
        form=BlockForm(single=True, eps=(c["norm_eps"], c["norm_eps"])),
        captions=Captions(width, c["caption_channels"], size == 128 if sizes is None else sizes),
        places=Places(size // c["patch_size"] / scale),
        kinds=False,
    )


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of PixArtTransformer2DModel."""
    assert isinstance(net, DiT)
    return KeyMap(
        renames=(
            *BLOCKS,
            *CAPTIONS,
            (r"^joint\.level\.", "adaln_single.emb.timestep_embedder."),
            (r"^joint\.conditions\.size\.", "adaln_single.emb.resolution_embedder."),
            (r"^joint\.conditions\.aspect\.", "adaln_single.emb.aspect_ratio_embedder."),
            (r"^joint\.shared\.1\.", "adaln_single.linear."),
        ),
        joins=(KEY_VALUE, (r"(proj_out\..*)", (r"\1",), channels_last(net.port.patch))),
    )


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    made = shape(net, "PixArt")
    net = of_kind(net, DiT)
    joint, port = net.joint, net.port
    captions, places, eps = joint.conditions, port.places, joint.form.eps
    if not isinstance(captions, Captions) or captions.norm is not None or captions.guidance is not None:
        raise ValueError("a PixArt reads captions that pass two layers, without norm or guidance; this network differs.")
    if joint.form != BlockForm(single=True, eps=(eps[0], eps[0])) or places is None or not places.span:
        raise ValueError(f"a PixArt's blocks share one modulation, and its patches have places; here {joint.form}, {places}.")
    return {
        "_class_name": "PixArtTransformer2DModel", **made, "caption_channels": captions.tokens,
        "cross_attention_dim": port.project.out_channels, "norm_eps": eps[0], "activation_fn": "gelu-approximate",
        "interpolation_scale": port.size[0] // port.patch / places.span, "norm_type": "ada_norm_single",
        "use_additional_conditions": captions.size is not None, "norm_elementwise_affine": False, "num_embeds_ada_norm": 1000,
    }  # fmt: skip


COMPONENTS = (Component("PixArtTransformer2DModel", build, keys, config),)
