"""Lumina-Image 2.0, as diffusers publishes it.

The published network counts time from noise 0 to data 1 and answers with the data less the noise. Ours is built with
towards="data": it takes the level 1000 t with t = 0 at the data, and answers with the noise less the data, as all networks
here do that say a velocity.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.blocks import Gated, SandwichBlock
from langevin.networks.mmdit import MMDiT
from langevin.zoo.configs import filled
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import STACK, KeyMap, Move, channels_last, stack

DEFAULTS: Mapping[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": None, "hidden_size": 2304, "num_layers": 26,
    "num_refiner_layers": 2, "num_attention_heads": 24, "num_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": None,
    "norm_eps": 1e-5, "scaling_factor": 1.0, "axes_dim_rope": (32, 32, 32), "axes_lens": (300, 512, 512), "cap_feat_dim": 1024,
}  # fmt: skip

RENAMES = (
    (r"^enter\.", "x_embedder."),
    (r"^text_norm\.", "time_caption_embed.caption_embedder.0."),
    (r"^text\.", "time_caption_embed.caption_embedder.1."),
    (r"^vector\.level\.first\.", "time_caption_embed.timestep_embedder.linear_1."),
    (r"^vector\.level\.second\.", "time_caption_embed.timestep_embedder.linear_2."),
    (r"^modulation\.1\.", "norm_out.linear_1."),
    (r"^leave\.", "norm_out.linear_2."),
    (r"^refine_text\.(\d+)\.before\.", r"context_refiner.\1.norm1."),
    (r"^refine_text\.", "context_refiner."),
    (r"^refine_image\.", "noise_refiner."),
    (r"^single\.", "layers."),
    (r"\.before\.", ".norm1.norm."),
    (r"\.modulation\.1\.", ".norm1.linear."),
    (r"\.after\.", ".norm2."),
    (r"\.feed_before\.", ".ffn_norm1."),
    (r"\.feed_after\.", ".ffn_norm2."),
    (r"\.attention\.project\.product\.", ".attn.to_qkv."),
    (r"\.attention\.project\.norm_query\.", ".attn.norm_q."),
    (r"\.attention\.project\.norm_key\.", ".attn.norm_k."),
    (r"\.attention\.out\.", ".attn.to_out.0."),
    (r"\.feed\.grow\.", ".feed_forward.linear_3_1."),
    (r"\.feed\.shrink\.", ".feed_forward.linear_2."),
)


def build(config: Config) -> MMDiT:
    """config.json of Lumina2Transformer2DModel -> network. Sizes and captions longer than `axes_lens` are no trouble here."""
    c = filled(config, DEFAULTS, "Lumina2Transformer2DModel")
    width = c["hidden_size"]
    inner = 4 * width if c["ffn_dim_multiplier"] is None else int(c["ffn_dim_multiplier"] * 4 * width)
    return MMDiT(
        c["in_channels"],
        width,
        c["num_attention_heads"],
        c["cap_feat_dim"],
        joint=0,
        single=c["num_layers"],
        kind="sandwich",
        out_channels=c["out_channels"],
        patch=c["patch_size"],
        axes=c["axes_dim_rope"],
        kv_heads=c["num_kv_heads"],
        inner=-(-inner // c["multiple_of"]) * c["multiple_of"],
        refiners=c["num_refiner_layers"],
        emb=min(width, 1024),
        eps=c["norm_eps"],
        towards="data",
    )


def _block(net: nn.Module) -> SandwichBlock:
    return next(m for m in net.modules() if isinstance(m, SandwichBlock))


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of Lumina2Transformer2DModel."""
    assert isinstance(net, MMDiT)
    heads: Move = stack(*_block(net).attention.project.sizes)
    return KeyMap(
        renames=RENAMES,
        joins=(
            (r"(.*\.attn\.)to_qkv\.weight", (r"\1to_q.weight", r"\1to_k.weight", r"\1to_v.weight"), heads),
            (r"(.*\.feed_forward\.)linear_3_1\.weight", (r"\1linear_3.weight", r"\1linear_1.weight"), STACK),
            (r"(x_embedder\.weight)", (r"\1",), channels_last(net.patch, 1)),
            (r"(norm_out\.linear_2\..*)", (r"\1",), channels_last(net.patch)),
        ),
    )


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    net = of_kind(net, MMDiT)
    if net.kind != "sandwich" or len(net.joint) or net.axes is None or net.extra or net.towards != "data" or not len(net.single):
        raise ValueError(
            "a Lumina-Image 2.0 has sandwich blocks alone, rotary positions, and time that runs towards data; this differs."
        )
    block = _block(net)
    feed, project = block.feed, block.attention.project
    assert isinstance(feed, Gated) and net.text_norm is not None
    return {
        "_class_name": "Lumina2Transformer2DModel", "patch_size": net.patch, "in_channels": net.channels,
        "out_channels": net.out_channels, "hidden_size": net.width, "num_layers": len(net.single),
        "num_refiner_layers": len(net.refine_text), "num_attention_heads": net.heads, "num_kv_heads": project.kv_heads,
        "multiple_of": feed.shrink.in_features, "ffn_dim_multiplier": feed.shrink.in_features / (4 * net.width),
        "norm_eps": net.text_norm.eps, "axes_dim_rope": list(net.axes), "cap_feat_dim": net.text.in_features,
    }  # fmt: skip


COMPONENTS = (Component("Lumina2Transformer2DModel", build, keys, config),)
