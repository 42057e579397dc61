"""U-Nets that read text: Stable Diffusion 1, 2, XL, inpainting, upscaling, latent consistency models; and ControlNet."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from langevin.networks.blocks import Added, fixed_groups
from langevin.networks.blocks.transformer import SpatialTransformer
from langevin.networks.controlnet import ControlNet
from langevin.networks.unet import Depth, Reading, UNet
from langevin.zoo.configs import filled, only
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import SQUEEZE, STACK, KeyMap, Move

SHARED: Mapping[str, Any] = {
    "in_channels": 4, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "only_cross_attention": False, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
    "cross_attention_dim": 1280, "transformer_layers_per_block": 1, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "attention_head_dim": 8, "num_attention_heads": None, "use_linear_projection": False, "class_embed_type": None,
    "addition_embed_type": None, "addition_time_embed_dim": None, "num_class_embeds": None, "upcast_attention": False,
    "resnet_time_scale_shift": "default", "projection_class_embeddings_input_dim": None, "addition_embed_type_num_heads": 64,
}  # fmt: skip
UNET: Mapping[str, Any] = {
    **SHARED, "sample_size": None, "out_channels": 4, "center_input_sample": False, "dropout": 0.0, "conv_in_kernel": 3,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "conv_out_kernel": 3,
    "reverse_transformer_layers_per_block": None, "dual_cross_attention": False, "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "time_embedding_dim": None,
    "time_embedding_act_fn": None, "timestep_post_act": None, "time_cond_proj_dim": None, "attention_type": "default",
    "class_embeddings_concat": False, "mid_block_only_cross_attention": None, "cross_attention_norm": None,
}  # fmt: skip
CONTROL: Mapping[str, Any] = {
    **SHARED, "conditioning_channels": 3, "controlnet_conditioning_channel_order": "rgb",
    "conditioning_embedding_out_channels": (16, 32, 96, 256), "global_pool_conditions": False,
}  # fmt: skip
# what no network here computes otherwise; `sample_size`, `upcast_attention` and the like change no output in float32
FIXED = {
    "flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu",
    "encoder_hid_dim_type": None, "encoder_hid_dim": None,
    "class_embed_type": None, "resnet_time_scale_shift": "default", "num_attention_heads": None, "center_input_sample": False,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "dual_cross_attention": False, "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "time_embedding_dim": None,
    "time_embedding_act_fn": None, "timestep_post_act": None, "attention_type": "default", "class_embeddings_concat": False,
    "cross_attention_norm": None, "controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False,
}  # fmt: skip
KINDS = ("CrossAttnDownBlock2D", "DownBlock2D")
# residual blocks in the middle; networks that were made smaller by leaving blocks out have fewer (BK-SDM, 2305.15798)
MIDDLES: Mapping[str | None, int] = {"UNetMidBlock2DCrossAttn": 2, "UNetMidBlock2D": 1, None: 0}


def _each(c: Mapping[str, Any], name: str, least: int = 1) -> list[int]:
    """A whole number for each resolution, of one for all or one each."""
    value, count = c[name], len(c["block_out_channels"])
    numbers = list(value) if isinstance(value, tuple) else [value] * count
    if len(numbers) != count or any(not isinstance(n, int) or n < least for n in numbers):
        raise ValueError(
            f"{name} is {value!r}; this network takes one whole number from {least} on, or {count}, one for each resolution."
        )
    return numbers


def _one(c: Mapping[str, Any], name: str) -> int:
    """A whole number that is the same for all resolutions."""
    numbers = _each(c, name)
    if len(set(numbers)) > 1:
        raise ValueError(f"{name} is {c[name]!r}; this network takes one number for all resolutions.")
    return numbers[0]


def _depths(c: Mapping[str, Any], crossing: Sequence[bool], name: str, blocks: int) -> list[Depth]:
    """Transformer blocks of each resolution, in the order of `name`: a number, or one for each of its residual blocks."""
    value, count = c[name], len(crossing)
    given = list(value) if isinstance(value, tuple) else [value] * count
    made: list[Depth] = []
    for said, reads in zip(given, crossing, strict=False):
        each = list(said) if isinstance(said, (list, tuple)) else [said] * blocks
        if reads and (len(each) != blocks or any(not isinstance(n, int) or n < 1 for n in each)):
            break
        made.append(0 if not reads else each[0] if len(set(each)) == 1 else tuple(each))
    if not len(made) == len(given) == count:
        raise ValueError(
            f"{name} is {value!r}; give one whole number from 1 on, or {count}, one for each resolution, of which those that "
            f"read may have {blocks}, one for each of their residual blocks."
        )
    return made


def _middle(c: Mapping[str, Any], what: str) -> int:
    """Residual blocks in the middle."""
    kind, known = c["mid_block_type"], [k for k in MIDDLES if k is not None or what == "UNet2DConditionModel"]
    if kind not in known:
        raise ValueError(f"{what}.mid_block_type is {kind!r}; the network here knows {', '.join(repr(k) for k in known)}.")
    return MIDDLES[kind]


def _added(c: Mapping[str, Any]) -> Added | None:
    if c["addition_embed_type"] not in (None, "text_time"):
        raise ValueError(f"addition_embed_type is {c['addition_embed_type']!r}; this network knows None and 'text_time'.")
    if c["addition_embed_type"] is None:
        return None
    width, total = c["addition_time_embed_dim"], c["projection_class_embeddings_input_dim"]
    if not isinstance(width, int) or not isinstance(total, int) or width < 1 or total <= 6 * width:
        raise ValueError(
            f"projection_class_embeddings_input_dim is {total!r} and addition_time_embed_dim {width!r}; 'text_time' wants the "
            "first to be six times the second, or five, and the width of the pooled text."
        )
    # the refiner is told five numbers, the base six; the width of the pooled text is 1280 for both
    numbers = next((n for n in (6, 5) if total - n * width == 1280), 6)
    return Added(total - numbers * width, numbers, width)


def _reading(c: Mapping[str, Any], middle: int) -> Reading:
    heads, only_cross = _each(c, "attention_head_dim"), _each(c, "only_cross_attention", 0)
    for kind in c["down_block_types"]:
        if kind not in KINDS:
            raise ValueError(f"down_block_types has {kind!r}; this network is made of {' and '.join(KINDS)}.")
    crossing, blocks = [kind == KINDS[0] for kind in c["down_block_types"]], _one(c, "layers_per_block")
    if len(crossing) != len(heads):
        raise ValueError(f"down_block_types has {len(crossing)} resolutions, and block_out_channels {len(heads)}.")
    depth = _depths(c, crossing, "transformer_layers_per_block", blocks)
    climbing = None
    if c.get("reverse_transformer_layers_per_block") is not None:
        climbing = _depths(c, crossing[::-1], "reverse_transformer_layers_per_block", blocks + 1)[::-1]
    elif "up_block_types" in c and any(not isinstance(d, int) for d in depth):
        raise ValueError(
            f"transformer_layers_per_block is {c['transformer_layers_per_block']!r}, where resolutions have several depths; say "
            "those of the way up too, in reverse_transformer_layers_per_block."
        )
    mirror = ["CrossAttnUpBlock2D" if x else "UpBlock2D" for x in reversed(crossing)]
    if "up_block_types" in c and list(c["up_block_types"]) != mirror:
        raise ValueError(f"up_block_types is {c['up_block_types']}, which is no mirror of down_block_types: {mirror}.")
    groups = _one(c, "norm_num_groups")
    for i, width in enumerate(_each(c, "block_out_channels")):
        asked = heads[i] if crossing[i] or (middle == 2 and i == len(heads) - 1) else 1
        if width % groups or width % asked:
            raise ValueError(
                f"block_out_channels has {width}, which is no multiple of norm_num_groups, {groups}, and of the number of heads "
                f"there, {asked}."
            )
    middle_cross = c.get("mid_block_only_cross_attention")
    if middle_cross not in (None, False):
        raise ValueError(f"mid_block_only_cross_attention is {middle_cross}; this network's middle attends to itself as well.")
    return Reading(
        _one(c, "cross_attention_dim"),
        depth,
        heads,
        _in_the_middle(c["transformer_layers_per_block"]) if middle == 2 else 0,
        groups,
        [i for i, yes in enumerate(only_cross) if yes],
        _added(c),
        c.get("time_cond_proj_dim"),
        climbing,
    )


def _in_the_middle(layers: Any) -> int:
    """Transformer blocks in the middle: those of the coarsest resolution, also where that reads nothing."""
    last = layers[-1] if isinstance(layers, (list, tuple)) else layers
    first = last[0] if isinstance(last, (list, tuple)) else last
    if not isinstance(first, int) or first < 1:
        raise ValueError(f"transformer_layers_per_block is {layers!r}; the middle is as deep as the last, make that 1 or more.")
    return first


def _published(depths: Sequence[Depth]) -> list[int | list[int]]:
    return [max(d, 1) if isinstance(d, int) else list(d) for d in depths]


def _shape(config: Config, defaults: Mapping[str, Any], what: str) -> dict[str, Any]:
    c = filled(config, defaults, what)
    only(c, FIXED, what)
    return c


def build_unet(config: Config) -> UNet:
    """config.json of UNet2DConditionModel -> network. Raises ValueError for values that no network here computes."""
    c = _shape(config, UNET, "UNet2DConditionModel")
    middle = _middle(c, "UNet2DConditionModel")
    return UNet(
        c["in_channels"],
        blocks=_one(c, "layers_per_block"),
        dropout=c["dropout"],
        classes=c["num_class_embeds"],
        time="add",
        out_channels=c["out_channels"],
        widths=c["block_out_channels"],
        norm=fixed_groups(c["norm_num_groups"], c["norm_eps"]),
        reading=_reading(c, middle),
        middle=middle,
    )


def build_control(config: Config) -> ControlNet:
    """config.json of ControlNetModel -> network. Raises ValueError for values that no network here computes."""
    c = _shape(config, CONTROL, "ControlNetModel")
    middle = _middle(c, "ControlNetModel")
    return ControlNet(
        c["in_channels"],
        c["block_out_channels"],
        _one(c, "layers_per_block"),
        _reading(c, middle),
        fixed_groups(c["norm_num_groups"], c["norm_eps"]),
        c["num_class_embeds"],
        c["conditioning_channels"],
        c["conditioning_embedding_out_channels"],
        middle,
    )


RENAMES: Sequence[tuple[str, str]] = (
    (r"^level\.guidance\.", "time_embedding.cond_proj."),
    (r"^level\.first\.", "time_embedding.linear_1."),
    (r"^level\.second\.", "time_embedding.linear_2."),
    (r"^conditions\.label\.", "class_embedding."),
    (r"^conditions\.first\.", "add_embedding.linear_1."),
    (r"^conditions\.second\.", "add_embedding.linear_2."),
    (r"^enter\.", "conv_in."),
    (r"^norm\.", "conv_norm_out."),
    (r"^leave\.", "conv_out."),
    (r"^hint\.enter\.", "controlnet_cond_embedding.conv_in."),
    (r"^hint\.steps\.", "controlnet_cond_embedding.blocks."),
    (r"^hint\.leave\.", "controlnet_cond_embedding.conv_out."),
    (r"^outs\.", "controlnet_down_blocks."),
    (r"^out\.", "controlnet_mid_block."),
    (r"^shrink\.(\d+)\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^grow\.(\d+)\.", r"up_blocks.\1.upsamplers.0.conv."),
    (r"^middle\.stages\.(\d+)\.block\.", r"mid_block.resnets.\1."),
    (r"^middle\.stages\.(\d+)\.attention\.", r"mid_block.attentions.\1."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.block\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.stages\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"(resnets\.\d+)\.emb\.", r"\1.time_emb_proj."),
    (r"(resnets\.\d+)\.skip\.", r"\1.conv_shortcut."),
    (r"(attentions\.\d+)\.enter\.", r"\1.proj_in."),
    (r"(attentions\.\d+)\.leave\.", r"\1.proj_out."),
    (r"(attentions\.\d+)\.blocks\.", r"\1.transformer_blocks."),
    (r"(transformer_blocks\.\d+)\.attention\.", r"\1.attn1."),
    (r"(transformer_blocks\.\d+)\.cross\.", r"\1.attn2."),
    (r"(transformer_blocks\.\d+)\.feed\.grow\.", r"\1.ff.net.0.proj."),
    (r"(transformer_blocks\.\d+)\.feed\.shrink\.", r"\1.ff.net.2."),
    (r"(attn\d)\.query\.", r"\1.to_q."),
    (r"(attn\d)\.out\.", r"\1.to_out.0."),
)


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of UNet2DConditionModel and ControlNetModel."""
    joins: list[tuple[str, tuple[str, ...], Move]] = [
        (r"(.*attn\d)\.key_value\.weight", (r"\1.to_k.weight", r"\1.to_v.weight"), STACK)
    ]
    if not config.get("use_linear_projection", False):
        joins.append((r"(.*\.proj_(?:in|out)\.weight)", (r"\1",), SQUEEZE))
    return KeyMap(renames=RENAMES, joins=joins)


def unet_config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a U-Net that reads text with. `use_linear_projection` is true: it is the newer form."""
    net = of_kind(net, UNet)
    r = of_kind(net.reading, Reading)
    crossing = [d != 0 for d in r.depth]
    down = ["CrossAttnDownBlock2D" if x else "DownBlock2D" for x in crossing]
    up = ["CrossAttnUpBlock2D" if x else "UpBlock2D" for x in reversed(crossing)]
    label = getattr(net.conditions, "label", None)
    stages, layers = list(net.middle), _published(r.depth)
    attention = stages[0].attention if stages else None
    deep = len(attention.blocks) if isinstance(attention, SpatialTransformer) else 0
    if deep and not crossing[-1]:  # what is said of a resolution that reads nothing holds for the middle
        layers[-1] = deep
    made = {
        "_class_name": "UNet2DConditionModel", "in_channels": net.enter.in_channels, "out_channels": net.leave.out_channels,
        "down_block_types": down, "up_block_types": up, "block_out_channels": list(net.widths),
        "layers_per_block": net.blocks, "norm_num_groups": net.norm.num_groups, "norm_eps": net.norm.eps,
        "cross_attention_dim": r.context, "attention_head_dim": list(r.heads), "use_linear_projection": True,
        "transformer_layers_per_block": layers, "time_cond_proj_dim": r.guidance,
        "only_cross_attention": [i in r.cross_only for i in range(len(down))],
        "num_class_embeds": None if label is None else label.num_embeddings,
    }  # fmt: skip
    kinds = [kind for kind, count in MIDDLES.items() if count == len(stages)]
    if net.patch != 1 or not kinds or deep != (_in_the_middle(layers) if len(stages) == 2 else 0):
        raise ValueError(
            "the published layout has no patches, and a middle as deep as the coarsest resolution; this U-Net differs."
        )
    if kinds[0] != UNET["mid_block_type"]:
        made["mid_block_type"] = kinds[0]
    if r.climbing is not None:
        made["reverse_transformer_layers_per_block"] = _published(r.climbing)[::-1]
    if r.added is not None:
        made |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": r.added.width,
            "projection_class_embeddings_input_dim": r.added.pooled + r.added.numbers * r.added.width,
        }  # fmt: skip
    return made


COMPONENTS = (
    Component("UNet2DConditionModel", build_unet, keys, unet_config),
    Component("ControlNetModel", build_control, keys),
)
