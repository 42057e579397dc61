"""FLUX.1 as diffusers publishes it: dev, schnell; Fill, Depth and Canny, which read more channels; Redux: more tokens.

The published network takes tokens that are packed already, with their places. Ours takes latents, and packs them the same way:
in patches of 2 x 2, whose features are ordered (channel, row, column). So cond["concat"] holds, unpacked, what the others read:
    Depth, Canny  the latents of the depth map or of the edges: 16 channels.
    Fill          the latents of the picture without what is to be filled, 16 channels; then the mask, each 8 x 8 pixels that
                  make one latent as 64 channels, row by row (`torch.nn.functional.pixel_unshuffle(mask, 8)`).
Redux is a small network beside it, whose tokens follow those of the text in cond["tokens"].
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.mmdit import MMDiT
from langevin.zoo.configs import filled, only
from langevin.zoo.families.stable_diffusion_3 import HEADS, JOINT, VECTOR
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import KeyMap, stack

DEFAULTS: Mapping[str, Any] = {
    "patch_size": 1, "in_channels": 64, "out_channels": None, "num_layers": 19, "num_single_layers": 38,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
    "guidance_embeds": False, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
PATCH = 2

SINGLE = (
    (r"^single\.", "single_transformer_blocks."),
    (r"^(single_\w+\.\d+)\.modulation\.1\.", r"\1.norm.linear."),
    (r"^(single_\w+\.\d+)\.project\.product\.", r"\1.product."),
    (r"^(single_\w+\.\d+)\.project\.norm_query\.", r"\1.attn.norm_q."),
    (r"^(single_\w+\.\d+)\.project\.norm_key\.", r"\1.attn.norm_k."),
    (r"^(single_\w+\.\d+)\.out\.", r"\1.proj_out."),
)


def build(config: Config) -> MMDiT:
    """config.json of FluxTransformer2DModel -> network."""
    c = filled(config, DEFAULTS, "FluxTransformer2DModel")
    only(c, {"patch_size": 1}, "FluxTransformer2DModel")
    out = c["out_channels"] or c["in_channels"]
    for name, value in (("in_channels", c["in_channels"]), ("out_channels", out)):
        if value % PATCH**2:
            raise ValueError(f"{name} is {value}, and latents are packed by {PATCH**2}; make it a multiple.")
    if out > c["in_channels"]:
        raise ValueError(f"out_channels is {out} for {c['in_channels']} that enter; the latents are among those that enter.")
    return MMDiT(
        out // PATCH**2,
        c["num_attention_heads"] * c["attention_head_dim"],
        c["num_attention_heads"],
        c["joint_attention_dim"],
        c["num_layers"],
        c["num_single_layers"],
        pooled=c["pooled_projection_dim"],
        guidance=c["guidance_embeds"],
        extra=(c["in_channels"] - out) // PATCH**2,
        patch=PATCH,
        axes=c["axes_dims_rope"],
    )


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of FluxTransformer2DModel."""
    assert isinstance(net, MMDiT)
    w = net.width
    product = (
        r"(.*)\.product\.(weight|bias)",
        (r"\1.attn.to_q.\2", r"\1.attn.to_k.\2", r"\1.attn.to_v.\2", r"\1.proj_mlp.\2"),
        stack(w, w, w, 4 * w),
    )
    return KeyMap(renames=((r"^enter\.", "x_embedder."), *SINGLE, *VECTOR, *JOINT), joins=(*HEADS, product))


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with."""
    net = of_kind(net, MMDiT)
    pooled = net.vector.pooled
    plain = net.kind == "parallel" and net.channels == net.out_channels and net.patch == PATCH and not net.alone
    if not plain or pooled is None or net.axes is None or net.side is not None or net.unread or net.normed != 1e-6:
        raise ValueError(
            "a FLUX.1 has joint and parallel blocks with normed queries and keys, rotary positions, pooled text and patches of "
            "2 x 2; this network differs."
        )
    total = (net.channels + net.extra) * PATCH**2
    return {
        "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": total,
        "out_channels": net.out_channels * PATCH**2 if net.extra else None, "num_layers": len(net.joint),
        "num_single_layers": len(net.single), "attention_head_dim": net.width // net.heads, "num_attention_heads": net.heads,
        "joint_attention_dim": net.text.in_features, "pooled_projection_dim": pooled[0].in_features,
        "guidance_embeds": net.vector.guidance is not None, "axes_dims_rope": list(net.axes),
    }  # fmt: skip


COMPONENTS = (Component("FluxTransformer2DModel", build, keys, config),)
