"""Stable Diffusion 3 and 3.5, as diffusers publishes them; and the names of joint blocks, which FLUX.1 shares."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.mmdit import MMDiT
from langevin.zoo.configs import filled
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import STACK, SWAP, KeyMap, channels_last, patch_convolution

DEFAULTS: Mapping[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64,
    "num_attention_heads": 18, "joint_attention_dim": 4096, "caption_projection_dim": 1152, "pooled_projection_dim": 2048,
    "out_channels": 16, "pos_embed_max_size": 96, "dual_attention_layers": (), "qk_norm": None,
}  # fmt: skip

VECTOR = (
    (r"^text\.", "context_embedder."),
    (r"^vector\.level\.", "time_text_embed.timestep_embedder."),
    (r"^vector\.guidance\.", "time_text_embed.guidance_embedder."),
    (r"^vector\.pooled\.0\.", "time_text_embed.text_embedder.linear_1."),
    (r"^vector\.pooled\.2\.", "time_text_embed.text_embedder.linear_2."),
    (r"_embedder\.first\.", "_embedder.linear_1."),
    (r"_embedder\.second\.", "_embedder.linear_2."),
    (r"^modulation\.1\.", "norm_out.linear."),
    (r"^leave\.", "proj_out."),
)
JOINT = (
    (r"^joint\.", "transformer_blocks."),
    (r"\.image\.modulation\.1\.", ".norm1.linear."),
    (r"\.text\.modulation\.1\.", ".norm1_context.linear."),
    (r"\.image\.attention\.project\.product\.", ".attn.to_qkv."),
    (r"\.text\.attention\.project\.product\.", ".attn.add_qkv_proj."),
    (r"\.image\.attention\.project\.norm_(query|key)\.", r".attn.norm_\1."),
    (r"\.text\.attention\.project\.norm_(query|key)\.", r".attn.norm_added_\1."),
    (r"\.image\.attention\.out\.", ".attn.to_out.0."),
    (r"\.text\.attention\.out\.", ".attn.to_add_out."),
    (r"\.image\.alone\.project\.product\.", ".attn2.to_qkv."),
    (r"\.image\.alone\.project\.norm_(query|key)\.", r".attn2.norm_\1."),
    (r"\.image\.alone\.out\.", ".attn2.to_out.0."),
    (r"\.image\.feed\.0\.", ".ff.net.0.proj."),
    (r"\.image\.feed\.3\.", ".ff.net.2."),
    (r"\.text\.feed\.0\.", ".ff_context.net.0.proj."),
    (r"\.text\.feed\.3\.", ".ff_context.net.2."),
    (r"\.norm_(added_)?query\.", r".norm_\1q."),
    (r"\.norm_(added_)?key\.", r".norm_\1k."),
)
HEADS = (
    (r"(.*\.attn2?\.)to_qkv\.(weight|bias)", (r"\1to_q.\2", r"\1to_k.\2", r"\1to_v.\2"), STACK),
    (r"(.*\.attn\.)add_qkv_proj\.(weight|bias)", (r"\1add_q_proj.\2", r"\1add_k_proj.\2", r"\1add_v_proj.\2"), STACK),
    # theirs are (scale, shift) where nothing is gated
    (r"(norm_out\.linear\..*)", (r"\1",), SWAP),
)


def build(config: Config) -> MMDiT:
    """config.json of SD3Transformer2DModel -> network."""
    c = filled(config, DEFAULTS, "SD3Transformer2DModel")
    width = c["num_attention_heads"] * c["attention_head_dim"]
    if c["caption_projection_dim"] != width:
        raise ValueError(f"caption_projection_dim is {c['caption_projection_dim']}, and text joins the picture's {width}.")
    if c["qk_norm"] not in (None, "rms_norm"):
        raise ValueError(f"qk_norm is {c['qk_norm']!r}; queries and keys are normed by 'rms_norm' here, or not, None.")
    if not c["pos_embed_max_size"]:
        raise ValueError(f"pos_embed_max_size is {c['pos_embed_max_size']}; a table of positions is needed, give its side.")
    return MMDiT(
        c["in_channels"],
        width,
        c["num_attention_heads"],
        c["joint_attention_dim"],
        c["num_layers"],
        pooled=c["pooled_projection_dim"],
        out_channels=c["out_channels"],
        patch=c["patch_size"],
        norm=None if c["qk_norm"] is None else 1e-6,
        unread=True,
        alone=c["dual_attention_layers"],
        table=c["pos_embed_max_size"],
        base=c["sample_size"] // c["patch_size"],
    )


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of SD3Transformer2DModel."""
    assert isinstance(net, MMDiT)
    last = len(net.joint) - 1
    return KeyMap(
        renames=((r"^enter\.", "pos_embed.proj."), (r"^positions$", "pos_embed.pos_embed"), *VECTOR, *JOINT),
        joins=(
            *HEADS,
            (rf"(transformer_blocks\.{last}\.norm1_context\.linear\..*)", (r"\1",), SWAP),
            (r"(pos_embed\.proj\.weight)", (r"\1",), patch_convolution(net.patch)),
            (r"(proj_out\..*)", (r"\1",), channels_last(net.patch)),
        ),
    )


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    net = of_kind(net, MMDiT)
    pooled = net.vector.pooled
    if net.side is None or net.base is None or pooled is None or len(net.single) or not net.unread or net.extra or net.axes:
        raise ValueError(
            "a Stable Diffusion 3 has a table of positions, pooled text, and joint blocks alone, after whose last nobody reads "
            "the text; this network differs."
        )
    return {
        "_class_name": "SD3Transformer2DModel", "sample_size": net.base * net.patch, "patch_size": net.patch,
        "in_channels": net.channels, "out_channels": net.out_channels, "num_layers": len(net.joint),
        "attention_head_dim": net.width // net.heads, "num_attention_heads": net.heads,
        "joint_attention_dim": net.text.in_features, "caption_projection_dim": net.width,
        "pooled_projection_dim": pooled[0].in_features, "pos_embed_max_size": net.side,
        "dual_attention_layers": list(net.alone), "qk_norm": None if net.normed is None else "rms_norm",
    }  # fmt: skip


COMPONENTS = (Component("SD3Transformer2DModel", build, keys, config),)
