"""U-Nets as CompVis, Stability and OpenAI name them, and the ControlNets that copy their first half.

Blocks are counted through: `input_blocks.0` is the first convolution, then one block per residual block (with its attention)
and one per downsampling; `output_blocks` likewise, with the upsampling inside the last block of a level.
"""

from typing import Any

from langevin.zoo.keys import SAME, STACK, Move
from langevin.zoo.layouts.table import Config, Line, Shapes, Table, channels, count, interleave, plain, squeezed

RESIDUAL = (
    Line("{r}.in_layers.0.{leaf}", "{r}.norm1.{leaf}"),
    Line("{r}.in_layers.2.{leaf}", "{r}.conv1.{leaf}"),
    Line("{r}.emb_layers.1.{leaf}", "{r}.time_emb_proj.{leaf}"),
    Line("{r}.out_layers.0.{leaf}", "{r}.norm2.{leaf}"),
    Line("{r}.out_layers.3.{leaf}", "{r}.conv2.{leaf}"),
    Line("{r}.skip_connection.{leaf}", "{r}.conv_shortcut.{leaf}"),
)
ENDS = (
    Line("time_embed.0.{leaf}", "time_embedding.linear_1.{leaf}"),
    Line("time_embed.2.{leaf}", "time_embedding.linear_2.{leaf}"),
    Line("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"),
    Line("label_emb.0.0.{leaf}", "add_embedding.linear_1.{leaf}"),
    Line("label_emb.0.2.{leaf}", "add_embedding.linear_2.{leaf}"),
    Line("label_emb.weight", "class_embedding.weight"),
    Line("input_blocks.0.0.{leaf}", "conv_in.{leaf}"),
    Line("out.0.{leaf}", "conv_norm_out.{leaf}"),
    Line("out.2.{leaf}", "conv_out.{leaf}"),
)
RESAMPLE = (
    Line("{d}.op.{leaf}", "{d}.conv.{leaf}"),
    Line("{u}.conv.{leaf}", "{u}.conv.{leaf}"),
)
CROSS = (Line("{a}.{rest}", "{a}.{rest}"),)


def _attention(qkv: Move, axes: int) -> tuple[Line, ...]:
    """Self-attention with fused queries, keys and values, as 1-d (axes 1) or 2-d (axes 2) convolutions of size 1."""
    parts = ("{a}.to_q", "{a}.to_k", "{a}.to_v")
    return (
        Line("{a}.norm.{leaf}", "{a}.group_norm.{leaf}"),
        Line("{a}.qkv.weight", tuple(f"{p}.weight" for p in parts), squeezed(qkv, axes)),
        Line("{a}.qkv.bias", tuple(f"{p}.bias" for p in parts), qkv),
        Line("{a}.proj_out.weight", "{a}.to_out.0.weight", squeezed(SAME, axes)),
        Line("{a}.proj_out.bias", "{a}.to_out.0.bias"),
    )


def _per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * levels


def _blocks(config: Config) -> dict[str, dict[str, str]]:
    """Which block is which: residual blocks r, attention a, downsampling d and upsampling u, original -> published."""
    levels = len(config["block_out_channels"])
    layers = _per_level(config.get("layers_per_block", 2), levels)
    down, up = list(config["down_block_types"]), list(config.get("up_block_types") or [])
    resnets = config.get("downsample_type") == "resnet" or any("Resnet" in kind for kind in (*down, *up))
    made: dict[str, dict[str, str]] = {"r": {}, "a": {}, "d": {}, "u": {}}
    n = 1
    for i, repeats in enumerate(layers):
        for j in range(repeats):
            made["r"][f"input_blocks.{n}.0"] = f"down_blocks.{i}.resnets.{j}"
            if "Attn" in down[i]:
                made["a"][f"input_blocks.{n}.1"] = f"down_blocks.{i}.attentions.{j}"
            n += 1
        if i < levels - 1:
            made["r" if resnets else "d"][f"input_blocks.{n}.0"] = f"down_blocks.{i}.downsamplers.0"
            n += 1
    made["r"] |= {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    made["a"]["middle_block.1"] = "mid_block.attentions.0"
    n = 0
    for i, kind in enumerate(up):
        repeats = layers[levels - 1 - i] + 1
        for j in range(repeats):
            made["r"][f"output_blocks.{n}.0"] = f"up_blocks.{i}.resnets.{j}"
            if "Attn" in kind:
                made["a"][f"output_blocks.{n}.1"] = f"up_blocks.{i}.attentions.{j}"
            if j == repeats - 1 and i < levels - 1:
                place = 2 if "Attn" in kind else 1
                made["r" if resnets else "u"][f"output_blocks.{n}.{place}"] = f"up_blocks.{i}.upsamplers.0"
            n += 1
    return made


def cross_table(config: Config) -> Table:
    """UNet2DConditionModel."""
    return Table((*ENDS, *RESIDUAL, *RESAMPLE, *CROSS), _blocks(config))


def control_table(config: Config) -> Table:
    """ControlNetModel."""
    hints = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    last = 4 * len(hints) - 2
    lines = [
        Line(f"input_hint_block.{2 * n}.{{leaf}}", f"controlnet_cond_embedding.blocks.{n - 1}.{{leaf}}")
        for n in range(1, last // 2)
    ]
    ends = (
        Line("input_hint_block.0.{leaf}", "controlnet_cond_embedding.conv_in.{leaf}"),
        Line(f"input_hint_block.{last}.{{leaf}}", "controlnet_cond_embedding.conv_out.{leaf}"),
        Line("zero_convs.{i}.0.{leaf}", "controlnet_down_blocks.{i}.{leaf}"),
        Line("middle_block_out.0.{leaf}", "controlnet_mid_block.{leaf}"),
    )
    return Table((*lines, *ends, *ENDS, *RESIDUAL, *RESAMPLE, *CROSS), _blocks({**config, "up_block_types": ()}))


def plain_table(config: Config, axes: int, by_head: bool) -> Table:
    """UNet2DModel.

    Args:
        axes: of length 1 that the weights of attention end with.
        by_head: fused rows are (heads, 3, width), not (3, heads, width).
    """
    width = config.get("attention_head_dim", 8)
    if by_head and not width:
        raise ValueError("attention_head_dim is not given, and this layout fuses queries, keys and values head by head.")
    qkv = interleave(width) if by_head else STACK
    return Table((*ENDS, *RESIDUAL, *RESAMPLE, *_attention(qkv, axes)), _blocks(config))


# Configurations from shapes


def _levels(shapes: Shapes) -> list[dict[str, Any]]:
    """One dictionary per level: channels, layers, depths of the transformers (0 none), whether it attends, first names."""
    blocks = count(shapes, "input_blocks.{}.")
    convolved = {n for n in range(blocks) if f"input_blocks.{n}.0.op.weight" in shapes}
    if not convolved:  # residual blocks that resample have the names of others; those of the second half give them away
        outputs = count(shapes, "output_blocks.{}.")
        ups = sum(f"output_blocks.{n}.{k}.in_layers.0.weight" in shapes for n in range(outputs) for k in (1, 2))
        period = blocks // (ups + 1)
        if period * (ups + 1) != blocks or period < 2:
            raise ValueError(f"its {blocks} input blocks make no {ups + 1} equal levels.")
        convolved = set(range(period, blocks, period))
    levels: list[dict[str, Any]] = [{"layers": [], "depths": [], "attends": False}]
    for n in range(1, blocks):
        if n in convolved:
            levels.append({"layers": [], "depths": [], "attends": False})
            continue
        levels[-1]["layers"].append(n)
        levels[-1]["depths"].append(count(shapes, f"input_blocks.{n}.1.transformer_blocks.{{}}."))
        levels[-1]["attends"] |= f"input_blocks.{n}.1.norm.weight" in shapes
    for level in levels:
        if not level["layers"]:
            raise ValueError("a level of its U-Net has no residual blocks.")
        level["channels"] = channels(shapes, f"input_blocks.{level['layers'][0]}.0.out_layers.3.weight")
        level["depth"] = level["depths"][0]
        if any(d != level["depth"] for d in level["depths"]):
            raise ValueError(
                f"the transformers of one level have the depths {level['depths']}; this layout has one depth for each level."
            )
    return levels


def _trunk(shapes: Shapes, given: Config) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    levels = _levels(shapes)
    attended = next((f"input_blocks.{lv['layers'][0]}.1" for lv in levels if lv["attends"]), "middle_block.1")
    if f"{attended}.transformer_blocks.0.attn2.to_k.weight" not in shapes:
        attended = "middle_block.1"
    context = channels(shapes, f"{attended}.transformer_blocks.0.attn2.to_k.weight", 1)
    linear = len(shapes[f"{attended}.proj_in.weight"]) == 2
    widths = [lv["channels"] for lv in levels]
    middle = count(shapes, "middle_block.1.transformer_blocks.{}.")
    depths = [lv["depth"] or (middle if lv is levels[-1] else 0) for lv in levels]
    used = {d for d in depths if d}
    inputs = channels(shapes, "input_blocks.0.0.weight", 1)
    labels = "label_emb.weight" in shapes
    # the number of heads is in no tensor: 8 in the first generation and the x4 upscaler, heads of 64 channels in the others
    heads: Any = [max(w // 64, 1) for w in widths] if linear and not labels else 8
    config: dict[str, Any] = {
        "in_channels": inputs,
        "block_out_channels": widths,
        "layers_per_block": plain([len(lv["layers"]) for lv in levels]),
        "down_block_types": ["CrossAttnDownBlock2D" if lv["attends"] else "DownBlock2D" for lv in levels],
        "transformer_layers_per_block": used.pop() if len(used) == 1 else [d or 1 for d in depths],
        "attention_head_dim": heads,
        "cross_attention_dim": context,
        "use_linear_projection": linear,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
    }
    if labels:
        config["num_class_embeds"] = channels(shapes, "label_emb.weight")
    if "label_emb.0.0.weight" in shapes:
        size = channels(shapes, "label_emb.0.0.weight", 1)
        if context == 1024:
            raise ValueError("the U-Net takes picture embeddings as classes (Stable unCLIP), which no network here does.")
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": size,
        }
    if "time_embed.cond_proj.weight" in shapes:
        config["time_cond_proj_dim"] = channels(shapes, "time_embed.cond_proj.weight", 1)
    alone = [lv["attends"] and _only_cross(shapes, f"input_blocks.{lv['layers'][0]}.1", context) for lv in levels]
    if any(alone):
        config["only_cross_attention"] = alone
    return levels, config


def _only_cross(shapes: Shapes, block: str, context: int) -> bool:
    """Whether the first attention looks at the text as well; where the text is as wide as the block, no shape tells."""
    rows, columns = shapes.get(f"{block}.transformer_blocks.0.attn1.to_k.weight", (0, 0))
    return columns == context != rows


def cross_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """UNet2DConditionModel, from the names and shapes of its tensors."""
    levels, config = _trunk(shapes, given)
    first, ups = 0, []
    for level in reversed(levels):
        repeats = len(level["layers"]) + 1
        ups.append(any(f"output_blocks.{n}.1.norm.weight" in shapes for n in range(first, first + repeats)))
        first += repeats
    return {
        "_class_name": "UNet2DConditionModel",
        **config,
        "out_channels": channels(shapes, "out.2.weight"),
        "up_block_types": ["CrossAttnUpBlock2D" if up else "UpBlock2D" for up in ups],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        **given,
    }


def control_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """ControlNetModel."""
    _, config = _trunk(shapes, given)
    places = sorted(int(n.split(".")[1]) for n in shapes if n.startswith("input_hint_block.") and n.endswith(".weight"))
    hints = [shapes[f"input_hint_block.{n}.weight"] for n in places[:-1]]
    return {
        "_class_name": "ControlNetModel",
        **config,
        "conditioning_channels": hints[0][1],
        "conditioning_embedding_out_channels": [hints[0][0], *(shape[0] for shape in hints[2::2])],
        **given,
    }


def plain_config(shapes: Shapes, given: Config, width: int) -> dict[str, Any]:
    """UNet2DModel. width: channels of a head, which is in no tensor."""
    levels = _levels(shapes)
    resnets = not any(".op." in name for name in shapes)
    outputs = count(shapes, "output_blocks.{}.")
    per = outputs // len(levels)
    ups = [any(f"output_blocks.{n}.1.norm.weight" in shapes for n in range(i * per, i * per + per)) for i in range(len(levels))]
    first = levels[0]["layers"][0]
    doubled = channels(shapes, f"input_blocks.{first}.0.emb_layers.1.weight") == 2 * levels[0]["channels"]
    config: dict[str, Any] = {
        "_class_name": "UNet2DModel",
        "in_channels": channels(shapes, "input_blocks.0.0.weight", 1),
        "out_channels": channels(shapes, "out.2.weight"),
        "block_out_channels": [lv["channels"] for lv in levels],
        "layers_per_block": plain([len(lv["layers"]) for lv in levels]),
        "down_block_types": [
            "AttnDownBlock2D" if lv["attends"] else "ResnetDownsampleBlock2D" if resnets else "DownBlock2D" for lv in levels
        ],
        "up_block_types": ["AttnUpBlock2D" if up else "ResnetUpsampleBlock2D" if resnets else "UpBlock2D" for up in ups],
        "downsample_type": "resnet" if resnets else "conv",
        "upsample_type": "resnet" if resnets else "conv",
        "resnet_time_scale_shift": "scale_shift" if doubled else "default",
        "attention_head_dim": width,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
    }
    if resnets:
        config["attn_norm_num_groups"] = 32
    config["sample_size"] = 8 * 2 ** (len(levels) - 1)  # the lowest level of all that were published is 8 x 8
    if "label_emb.weight" in shapes:
        config["num_class_embeds"] = channels(shapes, "label_emb.weight")
    return {**config, **given}
