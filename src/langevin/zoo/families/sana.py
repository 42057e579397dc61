"""Sana's transformers, as diffusers publishes them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.blocks import BlockForm, Captions
from langevin.networks.transformer import DiT, Places
from langevin.zoo.configs import filled, only
from langevin.zoo.families.dit import BLOCKS, KEY_VALUE, shape
from langevin.zoo.families.pixart import CAPTIONS
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import SQUEEZE, KeyMap, channels_last

# `timestep_scale` is applied to the timestep by whoever calls the network: the level here is what it is shown
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 32, "out_channels": 32, "num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240, "caption_channels": 2304,
    "mlp_ratio": 2.5, "dropout": 0.0, "attention_bias": False, "sample_size": 32, "patch_size": 1,
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "interpolation_scale": None, "guidance_embeds": False,
    "guidance_embeds_scale": 0.1, "qk_norm": None, "timestep_scale": 1.0,
}  # fmt: skip
FIXED: Mapping[str, Any] = {"norm_elementwise_affine": False, "dropout": 0.0}
NORMED = "rms_norm_across_heads"


def build(config: Config) -> DiT:
    """config.json of SanaTransformer2DModel -> network.

    Raises:
        ValueError: for values that no network here computes.
    """
    what = "SanaTransformer2DModel"
    c = filled(config, DEFAULTS, what)
    only(c, FIXED, what)
    width, patch, size = c["num_attention_heads"] * c["attention_head_dim"], c["patch_size"], c["sample_size"]
    if c["qk_norm"] not in (None, NORMED):
        raise ValueError(f"qk_norm is {c['qk_norm']!r}; queries and keys are normed by {NORMED!r} here, or not, None.")
    for name, there in (
        ("cross_attention_dim", c["cross_attention_dim"]),
        ("num_cross_attention_heads * cross_attention_head_dim", _product(c)),
    ):
        if there != width:
            raise ValueError(f"{name} is {there}, and the picture's tokens and texts that have entered are {width} wide.")
    scale = c["interpolation_scale"]
    return DiT(
        c["in_channels"],
        size,
        patch,
        width,
        c["num_layers"],
        c["num_attention_heads"],
        out_channels=c["out_channels"],
        form=BlockForm(
            single=True,
            linear=True,
            convolution=c["mlp_ratio"],
            bias=c["attention_bias"],
            norm=None if c["qk_norm"] is None else 1e-5,
            cross_heads=c["num_cross_attention_heads"],
            eps=(c["norm_eps"], c["norm_eps"]),
        ),
        captions=Captions(
            width, c["caption_channels"], norm=1e-5, guidance=c["guidance_embeds_scale"] if c["guidance_embeds"] else None
        ),
        places=Places(None if scale is None else size // patch / scale),
        kinds=False,
    )


def _product(c: Mapping[str, Any]) -> int | None:
    heads, features = c["num_cross_attention_heads"], c["cross_attention_head_dim"]
    return None if heads is None or features is None else heads * features


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of SanaTransformer2DModel."""
    assert isinstance(net, DiT)
    guided = isinstance(net.joint.conditions, Captions) and net.joint.conditions.guidance is not None
    embed = "time_embed." if guided else "time_embed.emb."
    return KeyMap(
        renames=(
            *BLOCKS,
            *CAPTIONS,
            (r"^pos_embed\.", "patch_embed."),
            (r"^joint\.conditions\.norm\.", "caption_norm."),
            (r"^joint\.level\.", f"{embed}timestep_embedder."),
            (r"^joint\.conditions\.guidance\.", f"{embed}guidance_embedder."),
            (r"^joint\.shared\.1\.", "time_embed.linear."),
            (r"\.feed\.grow\.", ".ff.conv_inverted."),
            (r"\.feed\.mix\.", ".ff.conv_depth."),
            (r"\.feed\.shrink\.", ".ff.conv_point."),
        ),
        joins=(
            KEY_VALUE,
            (r"(.*\.ff\.conv_(?:inverted|point)\.weight)", (r"\1",), SQUEEZE),
            (r"(proj_out\..*)", (r"\1",), channels_last(net.port.patch)),
        ),
    )


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    made = shape(net, "Sana")
    net = of_kind(net, DiT)
    joint, port = net.joint, net.port
    captions, form, places = joint.conditions, joint.form, port.places
    width, heads = port.project.out_channels, form.cross_heads or joint.heads
    unlike = not form.single or not form.linear or form.convolution is None or form.eps[0] != form.eps[1]
    if unlike or form.norm not in (None, 1e-5) or places is None:
        raise ValueError(f"a Sana's blocks are linear, convolve and share one modulation; here {form}.")
    if not isinstance(captions, Captions) or captions.norm is None or captions.size is not None:
        raise ValueError("a Sana reads captions that pass two layers and a norm, without sizes; this network differs.")
    return {
        "_class_name": "SanaTransformer2DModel", **made, "caption_channels": captions.tokens, "mlp_ratio": form.convolution,
        "num_cross_attention_heads": heads, "cross_attention_head_dim": width // heads, "cross_attention_dim": width,
        "norm_eps": form.eps[0], "qk_norm": None if form.norm is None else NORMED,
        "interpolation_scale": None if places.span is None else port.size[0] // port.patch / places.span,
        "guidance_embeds": captions.guidance is not None,
        "guidance_embeds_scale": 0.1 if captions.scale is None else captions.scale,
    }  # fmt: skip


COMPONENTS = (Component("SanaTransformer2DModel", build, keys, config),)
