"""Image transformers under their authors' names: Stable Diffusion 3, FLUX.1, DiT."""

import math
from typing import Any

from langevin.zoo.keys import COPIES, STACK, SWAP, stack
from langevin.zoo.layouts.table import Config, Line, Shapes, Table, channels, count

LEAVES = ("weight", "bias")


def _same(here: str, there: str, pairs: tuple[tuple[str, str], ...]) -> tuple[Line, ...]:
    return tuple(Line(f"{here}{ours}.{{leaf}}", f"{there}{theirs}.{{leaf}}") for ours, theirs in pairs)


def _fused(here: str, there: str, parts: tuple[str, ...]) -> tuple[Line, ...]:
    return tuple(Line(f"{here}.{leaf}", tuple(f"{there}.{p}.{leaf}" for p in parts), STACK) for leaf in LEAVES)


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")

# Stable Diffusion 3

_SD3 = (
    Line("pos_embed", "pos_embed.pos_embed"),
    *_same("", "", (
        ("x_embedder.proj", "pos_embed.proj"),
        ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
        ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
        ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
        ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
        ("context_embedder", "context_embedder"),
        ("final_layer.linear", "proj_out"),
    )),
    Line("final_layer.adaLN_modulation.1.{leaf}", "norm_out.linear.{leaf}", SWAP),
    # the text of the last block is only looked at: its modulation has two chunks, stored the other way round
    Line(
        "joint_blocks.{last}.context_block.adaLN_modulation.1.{leaf}",
        "transformer_blocks.{last}.norm1_context.linear.{leaf}", SWAP,
    ),
    *_same("joint_blocks.{i}.", "transformer_blocks.{i}.", (
        ("x_block.attn.proj", "attn.to_out.0"),
        ("context_block.attn.proj", "attn.to_add_out"),
        ("x_block.attn2.proj", "attn2.to_out.0"),
        ("x_block.adaLN_modulation.1", "norm1.linear"),
        ("context_block.adaLN_modulation.1", "norm1_context.linear"),
        ("x_block.mlp.fc1", "ff.net.0.proj"),
        ("x_block.mlp.fc2", "ff.net.2"),
        ("context_block.mlp.fc1", "ff_context.net.0.proj"),
        ("context_block.mlp.fc2", "ff_context.net.2"),
        ("x_block.attn.ln_q", "attn.norm_q"),
        ("x_block.attn.ln_k", "attn.norm_k"),
        ("context_block.attn.ln_q", "attn.norm_added_q"),
        ("context_block.attn.ln_k", "attn.norm_added_k"),
        ("x_block.attn2.ln_q", "attn2.norm_q"),
        ("x_block.attn2.ln_k", "attn2.norm_k"),
    )),
    *_fused("joint_blocks.{i}.x_block.attn.qkv", "transformer_blocks.{i}.attn", _QKV),
    *_fused("joint_blocks.{i}.context_block.attn.qkv", "transformer_blocks.{i}.attn", _ADDED),
    *_fused("joint_blocks.{i}.x_block.attn2.qkv", "transformer_blocks.{i}.attn2", _QKV),
)  # fmt: skip


def sd3_table(config: Config) -> Table:
    """SD3Transformer2DModel."""
    last = str(config["num_layers"] - 1)
    return Table(_SD3, {"last": {last: last}})


def sd3_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """SD3Transformer2DModel. Heads have 64 channels where no norm inside attention shows their size."""
    width, inputs, patch = (channels(shapes, "x_embedder.proj.weight", axis) for axis in (0, 1, 3))
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm[0] if norm else given.get("attention_head_dim", 64)
    depth = count(shapes, "joint_blocks.{}.")
    dual = [i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes]
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": inputs,
        "out_channels": channels(shapes, "final_layer.linear.weight") // patch**2,
        "num_layers": depth,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": channels(shapes, "context_embedder.weight", 1),
        "caption_projection_dim": channels(shapes, "context_embedder.weight"),
        "pooled_projection_dim": channels(shapes, "y_embedder.mlp.0.weight", 1),
        "pos_embed_max_size": math.isqrt(channels(shapes, "pos_embed", 1)),
        "qk_norm": "rms_norm" if norm else None,
        "dual_attention_layers": dual,
        **given,
    }


# FLUX.1

_FLUX = (
    *(
        line
        for ours, theirs in (
            ("time_in", "time_text_embed.timestep_embedder"),
            ("vector_in", "time_text_embed.text_embedder"),
            ("guidance_in", "time_text_embed.guidance_embedder"),
        )
        for line in _same(f"{ours}.", f"{theirs}.", (("in_layer", "linear_1"), ("out_layer", "linear_2")))
    ),
    *_same("", "", (("txt_in", "context_embedder"), ("img_in", "x_embedder"), ("final_layer.linear", "proj_out"))),
    Line("final_layer.adaLN_modulation.1.{leaf}", "norm_out.linear.{leaf}", SWAP),
    *_same("double_blocks.{i}.", "transformer_blocks.{i}.", (
        ("img_mod.lin", "norm1.linear"),
        ("txt_mod.lin", "norm1_context.linear"),
        ("img_mlp.0", "ff.net.0.proj"),
        ("img_mlp.2", "ff.net.2"),
        ("txt_mlp.0", "ff_context.net.0.proj"),
        ("txt_mlp.2", "ff_context.net.2"),
        ("img_attn.proj", "attn.to_out.0"),
        ("txt_attn.proj", "attn.to_add_out"),
    )),
    *(
        Line(f"double_blocks.{{i}}.{ours}.scale", f"transformer_blocks.{{i}}.attn.{theirs}.weight")
        for ours, theirs in (
            ("img_attn.norm.query_norm", "norm_q"), ("img_attn.norm.key_norm", "norm_k"),
            ("txt_attn.norm.query_norm", "norm_added_q"), ("txt_attn.norm.key_norm", "norm_added_k"),
        )
    ),
    *_fused("double_blocks.{i}.img_attn.qkv", "transformer_blocks.{i}.attn", _QKV),
    *_fused("double_blocks.{i}.txt_attn.qkv", "transformer_blocks.{i}.attn", _ADDED),
    *_same("single_blocks.{i}.", "single_transformer_blocks.{i}.", (("modulation.lin", "norm.linear"), ("linear2", "proj_out"))),
    Line("single_blocks.{i}.norm.query_norm.scale", "single_transformer_blocks.{i}.attn.norm_q.weight"),
    Line("single_blocks.{i}.norm.key_norm.scale", "single_transformer_blocks.{i}.attn.norm_k.weight"),
)  # fmt: skip


def flux_table(config: Config) -> Table:
    """FluxTransformer2DModel."""
    width = config.get("attention_head_dim", 128) * config.get("num_attention_heads", 24)
    block = "single_transformer_blocks.{i}"
    parts = (*(f"{block}.attn.{p}" for p in _QKV), f"{block}.proj_mlp")
    single = stack(width, width, width, 4 * width)
    lines = (Line(f"single_blocks.{{i}}.linear1.{leaf}", tuple(f"{p}.{leaf}" for p in parts), single) for leaf in LEAVES)
    return Table((*_FLUX, *lines))


def flux_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """FluxTransformer2DModel. Heads are as wide as their norms; their positions (16, 56, 56) where they have 128 channels."""
    inputs, outputs = channels(shapes, "img_in.weight", 1), channels(shapes, "final_layer.linear.weight")
    head = channels(shapes, "double_blocks.0.img_attn.norm.query_norm.scale")
    axes = given.get("axes_dims_rope") or ([16, 56, 56] if head == 128 else None)
    if axes is None:
        raise ValueError(f"the heads have {head} channels, not 128; give axes_dims_rope.")
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": inputs,
        "out_channels": None if outputs == inputs else outputs,
        "num_layers": count(shapes, "double_blocks.{}."),
        "num_single_layers": count(shapes, "single_blocks.{}."),
        "attention_head_dim": head,
        "num_attention_heads": channels(shapes, "img_in.weight") // head,
        "joint_attention_dim": channels(shapes, "txt_in.weight", 1),
        "pooled_projection_dim": channels(shapes, "vector_in.in_layer.weight", 1),
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": axes,
        **given,
    }


# DiT

_DIT = (
    *_same("", "", (
        ("x_embedder.proj", "pos_embed.proj"),
        ("final_layer.adaLN_modulation.1", "proj_out_1"),
        ("final_layer.linear", "proj_out_2"),
    )),
    *_same("blocks.{i}.", "transformer_blocks.{i}.", (
        ("adaLN_modulation.1", "norm1.linear"),
        ("attn.proj", "attn1.to_out.0"),
        ("mlp.fc1", "ff.net.0.proj"),
        ("mlp.fc2", "ff.net.2"),
    )),
    *_fused("blocks.{i}.attn.qkv", "transformer_blocks.{i}.attn1", _QKV),
)  # fmt: skip


def dit_table(config: Config) -> Table:
    """DiTTransformer2DModel, which holds the embedders of time and class once for each block."""
    blocks = [f"transformer_blocks.{i}.norm1.emb" for i in range(config["num_layers"])]
    copies = [
        Line(f"{ours}.{leaf}", tuple(f"{b}.{theirs}.{leaf}" for b in blocks), COPIES)
        for ours, theirs, leaves in (
            ("t_embedder.mlp.0", "timestep_embedder.linear_1", LEAVES),
            ("t_embedder.mlp.2", "timestep_embedder.linear_2", LEAVES),
            ("y_embedder.embedding_table", "class_embedder.embedding_table", ("weight",)),
        )
        for leaf in leaves
    ]
    return Table((*copies, *_DIT), {}, ((r"pos_embed", "the fixed grid of positions, which is computed"),))


def dit_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """DiTTransformer2DModel. The published sizes have heads of 64 channels, the largest (1152 wide) of 72."""
    width, inputs, patch = (channels(shapes, "x_embedder.proj.weight", axis) for axis in (0, 1, 3))
    head = given.get("attention_head_dim", 72 if width == 1152 else 64)
    side = math.isqrt(channels(shapes, "pos_embed", 1)) if "pos_embed" in shapes else 16
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "in_channels": inputs,
        "out_channels": channels(shapes, "final_layer.linear.weight") // patch**2,
        "num_layers": count(shapes, "blocks.{}."),
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": channels(shapes, "y_embedder.embedding_table.weight") - 1,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        **given,
    }
