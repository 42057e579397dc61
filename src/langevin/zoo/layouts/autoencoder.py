"""Autoencoders (KL and VQ) as CompVis names them: the decoder's levels are counted from the picture, not from the latent."""

from typing import Any

from langevin.zoo.keys import UNSQUEEZE
from langevin.zoo.layouts.table import Config, Line, Shapes, Table, channels, count

_RESIDUAL = tuple(
    Line(f"{{r}}.{ours}.{{leaf}}", f"{{r}}.{theirs}.{{leaf}}")
    for ours, theirs in (
        ("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"), ("nin_shortcut", "conv_shortcut"),
    )
)  # fmt: skip
_ATTENTION = (
    Line("{a}.norm.{leaf}", "{a}.group_norm.{leaf}"),
    *(
        Line(f"{{a}}.{ours}.{leaf}", f"{{a}}.{theirs}.{leaf}", *([UNSQUEEZE] if leaf == "weight" else []))
        for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
        for leaf in ("weight", "bias")
    ),
)
_OTHERS = (
    Line("{side}.conv_in.{leaf}", "{side}.conv_in.{leaf}"),
    Line("{side}.norm_out.{leaf}", "{side}.conv_norm_out.{leaf}"),
    Line("{side}.conv_out.{leaf}", "{side}.conv_out.{leaf}"),
    Line("encoder.down.{i}.downsample.conv.{leaf}", "encoder.down_blocks.{i}.downsamplers.0.conv.{leaf}"),
    Line("decoder.up.{u}.upsample.conv.{leaf}", "decoder.up_blocks.{u}.upsamplers.0.conv.{leaf}"),
    Line("quant_conv.{leaf}", "quant_conv.{leaf}"),
    Line("post_quant_conv.{leaf}", "post_quant_conv.{leaf}"),
    Line("quantize.embedding.weight", "quantize.embedding.weight"),
)
IGNORED = (
    (r"loss\..*", "the critic and the perceptual loss of its training"),
    (r"(quantize\.)?(used|remap.*|colorize)", "bookkeeping of its training"),
)


def table(config: Config) -> Table:
    """AutoencoderKL and VQModel."""
    levels = len(config["block_out_channels"])
    layers = config.get("layers_per_block", 1)
    turned = {str(i): str(levels - 1 - i) for i in range(levels)}
    residual, attention = {}, {}
    for side in ("encoder", "decoder"):
        for n in (0, 1):
            residual[f"{side}.mid.block_{n + 1}"] = f"{side}.mid_block.resnets.{n}"
        attention[f"{side}.mid.attn_1"] = f"{side}.mid_block.attentions.0"
    for i in range(levels):
        for j in range(layers):
            residual[f"encoder.down.{i}.block.{j}"] = f"encoder.down_blocks.{i}.resnets.{j}"
            attention[f"encoder.down.{i}.attn.{j}"] = f"encoder.down_blocks.{i}.attentions.{j}"
        for j in range(layers + 1):
            residual[f"decoder.up.{i}.block.{j}"] = f"decoder.up_blocks.{levels - 1 - i}.resnets.{j}"
            attention[f"decoder.up.{i}.attn.{j}"] = f"decoder.up_blocks.{levels - 1 - i}.attentions.{j}"
    sides = {"encoder": "encoder", "decoder": "decoder"}
    fields = {"r": residual, "a": attention, "u": turned, "side": sides}
    return Table((*_OTHERS, *_RESIDUAL, *_ATTENTION), fields, IGNORED)


def config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """AutoencoderKL, or VQModel where there is a codebook. How latents are scaled is in no tensor; see `single.py`."""
    levels = count(shapes, "encoder.down.{}.")
    widths = [channels(shapes, f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    attends = [f"encoder.down.{i}.attn.0.norm.weight" in shapes for i in range(levels)]
    latent = channels(shapes, "decoder.conv_in.weight", 1)
    made: dict[str, Any] = {
        "in_channels": channels(shapes, "encoder.conv_in.weight", 1),
        "out_channels": channels(shapes, "decoder.conv_out.weight"),
        "block_out_channels": widths,
        "down_block_types": ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends],
        "up_block_types": ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attends)],
        "layers_per_block": count(shapes, "encoder.down.0.block.{}."),
        "latent_channels": latent,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in shapes,
    }
    if "quantize.embedding.weight" in shapes:
        codes, width = shapes["quantize.embedding.weight"]
        made |= {"num_vq_embeddings": codes, "vq_embed_dim": None if width == latent else width}
        # the scale of latents was 1 there, and the default of the class is another
        return {"_class_name": "VQModel", **made, "scaling_factor": 1.0, **given}
    made |= {"use_quant_conv": "quant_conv.weight" in shapes, "use_post_quant_conv": "post_quant_conv.weight" in shapes}
    return {"_class_name": "AutoencoderKL", **made, **given}
