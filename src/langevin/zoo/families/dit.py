"""DiT, as diffusers publishes it; and the names of single-stream transformers, which PixArt and Sana share."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from langevin.networks.blocks import BlockForm
from langevin.networks.transformer import DiT, Places
from langevin.zoo.configs import filled, only
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import COPIES, STACK, KeyMap, channels_last

DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": None, "num_layers": 28,
    "dropout": 0.0, "norm_num_groups": 32, "attention_bias": True, "sample_size": 32, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "upcast_attention": False, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False, "norm_eps": 1e-5,
}  # fmt: skip
# old files were written for a class that was every transformer at once; these of its keys never did anything in a DiT
OLD: Mapping[str, Any] = {
    "num_vector_embeds": None, "use_linear_projection": False, "only_cross_attention": False, "cross_attention_dim": None,
}  # fmt: skip
FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate", "norm_elementwise_affine": False, **OLD, "norm_type": "ada_norm_zero"
}  # fmt: skip

BLOCKS = (
    (r"^joint\.trunk\.", "transformer_blocks."),
    (r"\.attention\.query\.", ".attn1.to_q."),
    (r"\.attention\.key_value\.", ".attn1.to_kv."),
    (r"\.attention\.out\.", ".attn1.to_out.0."),
    (r"\.attention\.norm_query\.", ".attn1.norm_q."),
    (r"\.attention\.norm_key\.", ".attn1.norm_k."),
    (r"\.cross\.query\.", ".attn2.to_q."),
    (r"\.cross\.key_value\.", ".attn2.to_kv."),
    (r"\.cross\.out\.", ".attn2.to_out.0."),
    (r"\.cross\.norm_query\.", ".attn2.norm_q."),
    (r"\.cross\.norm_key\.", ".attn2.norm_k."),
    (r"\.feed\.0\.", ".ff.net.0.proj."),
    (r"\.feed\.3\.", ".ff.net.2."),
    (r"^(transformer_blocks\.\d+)\.modulation\.table$", r"\1.scale_shift_table"),
    (r"^joint\.modulation\.table$", "scale_shift_table"),
    (r"^joint\.ports\.0\.project\.", "pos_embed.proj."),
    (r"^joint\.ports\.0\.final\.", "proj_out."),
    (r"\.first\.(weight|bias)$", r".linear_1.\1"),
    (r"\.second\.(weight|bias)$", r".linear_2.\1"),
)
KEY_VALUE = (r"(.*\.attn[12]\.)to_kv\.(weight|bias)", (r"\1to_k.\2", r"\1to_v.\2"), STACK)


def build(config: Config, reference: Literal["original", "diffusers"] = "original") -> DiT:
    """config.json of DiTTransformer2DModel -> network.

    Args:
        reference: whose frequencies the level is embedded with: those that the published weights were trained with, of the
            authors' code, or those that diffusers runs them with, whose answers differ.

    Raises:
        ValueError: for values that no network here computes.
    """
    if reference not in ("original", "diffusers"):
        raise ValueError(f"reference is {reference!r}; the frequencies are of the 'original' or of 'diffusers'.")
    c = filled(config, {**DEFAULTS, **OLD}, "DiTTransformer2DModel")
    only(c, FIXED, "DiTTransformer2DModel")
    if c["num_embeds_ada_norm"] is None:
        raise ValueError("num_embeds_ada_norm is None; a DiT knows labels, give their number.")
    form = BlockForm(bias=c["attention_bias"], eps=(1e-6, c["norm_eps"]))
    return DiT(
        c["in_channels"],
        c["sample_size"],
        c["patch_size"],
        c["num_attention_heads"] * c["attention_head_dim"],
        c["num_layers"],
        c["num_attention_heads"],
        c["dropout"],
        classes=c["num_embeds_ada_norm"],
        out_channels=c["out_channels"],
        form=form,
        places=Places(c["sample_size"] // c["patch_size"]),
        shift=0.0 if reference == "original" else 1.0,
        kinds=False,
    )


def keys(config: Config, net: nn.Module) -> KeyMap:
    """Every block of the file holds the embedders of level and label: they are copies, and one here."""
    assert isinstance(net, DiT)
    depth = range(len(net.joint.trunk))

    def everywhere(name: str) -> tuple[str, ...]:
        return tuple(rf"transformer_blocks.{i}.norm1.emb.{name}" for i in depth)

    return KeyMap(
        renames=(
            *BLOCKS,
            (r"^joint\.modulation\.1\.", "proj_out_1."),
            (r"^proj_out\.", "proj_out_2."),
            (r"\.modulation\.1\.", ".norm1.linear."),
        ),
        joins=(
            KEY_VALUE,
            (r"joint\.level\.(linear_[12]\..*)", everywhere(r"timestep_embedder.\1"), COPIES),
            (r"joint\.conditions\.label\.weight", everywhere("class_embedder.embedding_table.weight"), COPIES),
            (r"(proj_out_2\..*)", (r"\1",), channels_last(net.port.patch)),
        ),
    )


def shape(net: nn.Module, what: str) -> dict[str, Any]:
    """What every published single-stream transformer says of its shape.

    Raises:
        ValueError: for a network that is no such, naming what differs.
    """
    net = of_kind(net, DiT)
    joint, port = net.joint, net.port
    unlike = {
        "kinds": joint.kind is not None, "stem": port.stem is not None, "places": port.places is None,
        "size": port.size[0] != port.size[1], "scalars": bool(getattr(joint.conditions, "scalars", ())),
    }  # fmt: skip
    if differs := [name for name, there in unlike.items() if there]:
        raise ValueError(
            f"{what} is published without kinds, stem and scalars, for squares, and with places; this network differs in "
            f"{' and '.join(differs)}."
        )
    return {
        "num_attention_heads": joint.heads, "attention_head_dim": port.project.out_channels // joint.heads,
        "in_channels": port.project.in_channels, "out_channels": port.out, "num_layers": len(joint.trunk),
        "attention_bias": joint.form.bias, "sample_size": port.size[0], "patch_size": port.patch,
    }  # fmt: skip


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a network with. It does not tell the frequencies: diffusers runs every file with its own
    (`shift=1`), and so a network that was trained with others gives other answers there."""
    made = shape(net, "DiT")
    net = of_kind(net, DiT)
    joint, port = net.joint, net.port
    places, form = port.places, joint.form
    span = None if places is None else places.span
    if span != port.size[0] // port.patch or form != BlockForm(bias=form.bias, eps=(1e-6, form.eps[1])):
        raise ValueError(
            f"a DiT's places are the rows and columns of its patches, and its blocks are plain; here {places}, {form}."
        )
    label = getattr(joint.conditions, "label", None)
    if label is None or getattr(joint.conditions, "tokens", None) is not None:
        raise ValueError("a DiT knows labels and reads no tokens; this network's conditions differ.")
    more = {"num_embeds_ada_norm": label.num_embeddings - 1, "norm_eps": form.eps[1], "activation_fn": "gelu-approximate"}
    return {
        "_class_name": "DiTTransformer2DModel",
        **made,
        **more,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }


COMPONENTS = (Component("DiTTransformer2DModel", build, keys, config),)
