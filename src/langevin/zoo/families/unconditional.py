"""U-Nets that read no text: DDPM, ADM and guided diffusion, consistency models, NCSN++, and the U-Nets of latent diffusion.

`sample_size` is no part of a network here, which takes any size that its resolutions divide; who publishes one adds it. A network
that was trained here to be guided says so by `_null_class`, a note that others pass over: its last class stands for none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from langevin.networks.blocks import Conditions, Fourier, Norm, Sinusoid, SpatialAttention, fixed_groups, four_channels
from langevin.networks.unet import Attending, Resampling, UNet
from langevin.zoo.configs import filled, only
from langevin.zoo.families.stable_diffusion import RENAMES
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import STACK, KeyMap

DEFAULTS: Mapping[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False, "time_embedding_type": "positional",
    "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D", "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "mid_block_scale_factor": 1, "downsample_padding": 1,
    "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip
FIXED: Mapping[str, Any] = {"mid_block_type": "UNetMidBlock2D"}
WHAT, NULL = "UNet2DModel", "_null_class"

# what a block's name says of its attention, and of the change of resolution behind it; None: as down/upsample_type says
KINDS: Mapping[str, tuple[bool, str | None]] = {
    "{}Block2D": (False, "conv"), "Attn{}Block2D": (True, None), "Resnet{}sampleBlock2D": (False, "residual"),
    "Skip{}Block2D": (False, "filtered"), "AttnSkip{}Block2D": (True, "filtered"),
}  # fmt: skip
TYPES = {"conv": "conv", "resnet": "residual"}
ROOT = 2**0.5


def _one_of(c: Mapping[str, Any], key: str, known: Mapping[Any, Any]) -> Any:
    if c[key] not in known:
        raise ValueError(f"{WHAT}.{key} is {c[key]!r}; the network here knows {', '.join(repr(k) for k in known)}.")
    return known[c[key]]


def _blocks(c: Mapping[str, Any], way: str) -> tuple[list[bool], list[str]]:
    """Which resolutions attend, and how each changes to the next on its way, from the finest on."""
    key = f"{way.lower()}_block_types"
    named = {name.format(way): said for name, said in KINDS.items()}
    attends, changes = [], []
    for block in c[key] if way == "Down" else reversed(c[key]):
        if block.removeprefix("UNetRes") not in named:
            raise ValueError(f"{WHAT}.{key} has {block!r}; the network here knows {', '.join(named)}.")
        attending, change = named[block.removeprefix("UNetRes")]
        attends.append(attending)
        changes.append(_one_of(c, f"{way.lower()}sample_type", TYPES) if change is None else change)
    if len(attends) != len(c["block_out_channels"]):
        raise ValueError(f"{WHAT}.{key} has {len(attends)} blocks for {len(c['block_out_channels'])} block_out_channels.")
    return attends, changes


def _norms(c: Mapping[str, Any], pyramid: bool, attends: Sequence[bool]) -> tuple[Norm, Norm | None]:
    """The norm of blocks and of attention, and that of attention in the middle."""
    widths, groups, eps = c["block_out_channels"], c["norm_num_groups"], c["norm_eps"]
    if pyramid:
        if groups is not None and any(groups != min(w // 4, 32) for w in (widths[0], widths[-1])):
            raise ValueError(f"{WHAT}.norm_num_groups is {groups}, and skip blocks have a group for four channels, up to 32.")
        narrow = [w for w, yes in zip(widths, attends, strict=True) if yes and w < 128]
        if narrow:  # the peer's attention has 32 groups there, and its way up others than the original
            raise ValueError(f"{WHAT}.block_out_channels has {narrow[0]} where skip blocks attend; give 128 or more.")
        norm = four_channels(eps)
    elif groups is None:
        raise ValueError(f"{WHAT}.norm_num_groups is None, which only skip blocks know; give the number of groups.")
    else:
        norm = fixed_groups(groups, eps)
    own = c["attn_norm_num_groups"]
    if own is not None:
        return norm, fixed_groups(own, eps)
    return norm, norm if c["resnet_time_scale_shift"] == "default" else None


def build(config: Config) -> UNet:
    """config.json of UNet2DModel -> network. Raises ValueError for values that no network here computes."""
    c = filled(config, DEFAULTS, WHAT)
    only(c, FIXED, WHAT)
    _one_of(c, "act_fn", {"silu": 0, "swish": 0})
    widths, head = c["block_out_channels"], c["attention_head_dim"]
    (attends, down), (also, up) = _blocks(c, "Down"), _blocks(c, "Up")
    if attends != also:
        raise ValueError(f"{WHAT}.up_block_types attends at other resolutions than down_block_types; let one mirror the other.")
    pyramid = "filtered" in down + up
    if pyramid and set(down + up) != {"filtered"}:
        raise ValueError(f"{WHAT} has skip blocks beside others, in down_block_types or up_block_types; make all of them skip.")
    if pyramid and c["in_channels"] != 3:
        raise ValueError(f"{WHAT}.in_channels is {c['in_channels']}, and skip blocks see pictures of 3 channels.")
    if pyramid and c["out_channels"] != 3:
        raise ValueError(f"{WHAT}.out_channels is {c['out_channels']}, and skip blocks answer with 3 channels.")
    attending = [w for w, yes in zip(widths, attends, strict=True) if yes] + [widths[-1]] * c["add_attention"]
    if head is not None and any(w % head for w in attending):
        raise ValueError(f"{WHAT}.attention_head_dim is {head}, which does not divide all of {attending}.")
    norm, middle_norm = _norms(c, pyramid, attends)
    null = config.get(NULL) is True and bool(c["num_class_embeds"])
    fourier = _one_of(c, "time_embedding_type", {"positional": False, "fourier": True})
    kind = _one_of(c, "class_embed_type", {None: "label", "timestep": "number"})
    if fourier and kind == "number":
        raise ValueError(f"{WHAT}.class_embed_type is 'timestep' with time_embedding_type 'fourier'; there is none such here.")
    return UNet(
        c["in_channels"],
        blocks=c["layers_per_block"],
        attention=[i for i, yes in enumerate(attends) if yes],
        head_width=head,
        dropout=c["dropout"],
        classes=c["num_class_embeds"] and c["num_class_embeds"] - null if kind == "label" else None,
        time=_one_of(c, "resnet_time_scale_shift", {"default": "add", "scale_shift": "scale_shift"}),
        out_channels=c["out_channels"],
        scalars=["label"] if kind == "number" else (),
        widths=widths,
        norm=norm,
        attending=Attending(norm, c["add_attention"], middle_norm, once=pyramid),
        # a block's change is behind it: the coarsest has none on the way down, the finest none on the way up
        resampling=Resampling(down[:-1], up[1:], _one_of(c, "downsample_padding", {0: True, 1: False}), pyramid),
        waves=Fourier(2 * widths[0]) if fourier else Sinusoid(widths[0], c["freq_shift"], not c["flip_sin_to_cos"]),
        scales=(ROOT if pyramid else 1.0, float(c["mid_block_scale_factor"])),
        null=null,
        emb=c["time_embedding_dim"],
        centred=c["center_input_sample"],
        over_level=fourier,
    )


def keys(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of UNet2DModel."""
    assert isinstance(net, UNet)
    changes = len(net.widths) - 1
    down, up = net.resampling.kinds("down", changes), net.resampling.kinds("up", changes)[::-1]
    there = {"residual": "{0}_blocks.{1}.{0}samplers.0.", "filtered": "{0}_blocks.{1}.resnet_{0}.",
             "projected": "{0}_blocks.{1}.resnet_{0}."}  # fmt: skip
    rows = [
        (rf"^{ours}\.{i}\.", there[kind].format(way, i))
        for ours, way, kinds in (("shrink", "down", down), ("grow", "up", up))
        for i, kind in enumerate(kinds)
        if kind in there
    ]
    if net.attending.once:  # one attention behind several blocks
        rows.append((rf"^up\.(\d+)\.stages\.{net.blocks}\.attention\.", r"up_blocks.\1.attentions.0."))
    return KeyMap(
        renames=(
            *rows,
            (r"^level\.waves\.frequencies$", "time_proj.weight"),
            (r"^conditions\.scalars\.label\.first\.", "class_embedding.linear_1."),
            (r"^conditions\.scalars\.label\.second\.", "class_embedding.linear_2."),
            (r"^sights\.(\d+)\.", r"down_blocks.\1.skip_conv."),
            (r"^tails\.(\d+)\.norm\.", r"up_blocks.\1.skip_norm."),
            (r"^tails\.(\d+)\.leave\.", r"up_blocks.\1.skip_conv."),
            *RENAMES,
            (r"(samplers\.0|resnet_down|resnet_up)\.emb\.", r"\1.time_emb_proj."),
            (r"(samplers\.0|resnet_down|resnet_up)\.skip\.", r"\1.conv_shortcut."),
            (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
            (r"(attentions\.\d+)\.attention\.query\.", r"\1.to_q."),
            (r"(attentions\.\d+)\.attention\.out\.", r"\1.to_out.0."),
        ),
        joins=((r"(.*attentions\.\d+)\.attention\.key_value\.(weight|bias)", (r"\1.to_k.\2", r"\1.to_v.\2"), STACK),),
        aliases=(
            (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
            (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
            (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
            (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
            (r"^time_proj\.W$", "time_proj.weight"),
        ),
    )


def _refuse(said: str) -> None:
    raise ValueError(f"{said}, which the layout of {WHAT} has no words for.")


def _groups(net: UNet) -> int | None:
    """The groups of all norms but the middle's attention; None where each four channels are one."""
    middle = next(iter(net.middle)).attention
    norms = {m for m in net.modules() if isinstance(m, nn.GroupNorm)}
    norms -= {getattr(middle, "norm", None)}
    if any(m.eps != net.norm.eps for m in norms):
        _refuse("norms have more than one eps")
    if net.resampling.pyramid:
        if any(m.num_groups != min(m.num_channels // 4, 32) for m in norms):
            _refuse("norms of this network with a pyramid have other groups than of four channels, up to 32")
        return None
    if len({m.num_groups for m in norms}) > 1:
        _refuse("norms of this network have several numbers of groups; build it with norm=fixed_groups(...) to publish it")
    return net.norm.num_groups


def _names(attends: Sequence[bool], changes: Sequence[str], way: str) -> tuple[list[str], str]:
    """The names of blocks, in the order in which they are passed, and the type of change where the name does not say it."""
    said = {change for change, yes in zip(changes, attends, strict=False) if yes and change != "filtered"}
    if len(said) > 1:
        _refuse(f"resolutions that attend are followed by both {' and '.join(sorted(said))} changes")
    own = next(iter(said), "conv")
    last = "filtered" if "filtered" in changes else own if attends[-1] else "conv"
    names = []
    for yes, change in zip(attends, [*changes, last], strict=True):
        kind = None if yes and change != "filtered" else change
        names.append(next(name for name, of in KINDS.items() if of == (yes, kind)).format(way))
    return names, next(theirs for theirs, ours in TYPES.items() if ours == own)


def config(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a U-Net with; its null label, if it has one, is the last class."""
    net = of_kind(net, UNet)
    conditions, attending, resampling = net.conditions, net.attending, net.resampling
    if not isinstance(conditions, Conditions) or conditions.tokens is not None or set(conditions.scalars) - {"label"}:
        _refuse(f"this network reads {', '.join(conditions.names)}")
    assert isinstance(conditions, Conditions)
    if net.patch != 1:
        _refuse(f"this network reads patches of {net.patch} pixels")
    pyramid = resampling.pyramid
    changes = len(net.widths) - 1
    down, up = resampling.kinds("down", changes), resampling.kinds("up", changes)
    if "projected" in down + up:
        _refuse("changes of resolution are projected here, as in DDPM++")
    if pyramid != ("filtered" in down + up) or pyramid != attending.once or (pyramid and set(down + up) != {"filtered"}):
        _refuse("pyramids, filtered changes and attention once a resolution come apart here")
    if not math.isclose(net.scales[0], ROOT if pyramid else 1.0):
        _refuse(f"sums are divided by {net.scales[0]:g} here")
    waves, time = net.level.waves, next(iter(net.middle)).block.time
    fourier = isinstance(waves, Fourier)
    if fourier != net.over_level:
        _refuse("Fourier features and answers over the level come apart here")
    middle = next(iter(net.middle)).attention
    middle_norm = middle.norm if isinstance(middle, SpatialAttention) else None
    own = middle_norm.num_groups if isinstance(middle_norm, nn.GroupNorm) else None
    if middle is not None and own is None and time == "add":
        _refuse("attention in the middle has no norm")
    attends = [i in net.attends for i in range(len(net.widths))]
    (down_names, down_type), (up_names, up_type) = _names(attends, down, "Down"), _names(attends[::-1], up[::-1], "Up")
    label, width = conditions.label, net.level.second.out_features
    made = {
        "_class_name": WHAT, "sample_size": None, "in_channels": net.enter.in_channels, "out_channels": net.leave.out_channels,
        "center_input_sample": net.centred, "time_embedding_type": "fourier" if fourier else "positional",
        "time_embedding_dim": None if width == 4 * net.widths[0] else width,
        "freq_shift": waves.shift if isinstance(waves, Sinusoid) else 0,
        "flip_sin_to_cos": not (isinstance(waves, Sinusoid) and waves.sines_first), "down_block_types": down_names,
        "up_block_types": up_names, "block_out_channels": list(net.widths), "layers_per_block": net.blocks,
        "mid_block_scale_factor": net.scales[1], "downsample_padding": 0 if resampling.end else 1, "downsample_type": down_type,
        "upsample_type": up_type, "dropout": next(iter(net.middle)).block.dropout.p, "act_fn": "silu",
        "attention_head_dim": net.head_width, "norm_num_groups": _groups(net), "attn_norm_num_groups": own,
        "norm_eps": net.norm.eps, "resnet_time_scale_shift": "default" if time == "add" else time,
        "add_attention": attending.middle, "class_embed_type": "timestep" if "label" in conditions.scalars else None,
        "num_class_embeds": None if label is None else label.num_embeddings,
    }  # fmt: skip
    if label is not None and conditions.learned_null:
        made[NULL] = True
    build(made)  # what it cannot say is refused here, and not by who downloads it
    return made


# frequencies of some 16, in half precision, would turn the phases of ln(sigma) by radians
COMPONENTS = (Component(WHAT, build, keys, config, islands=(r"level\.waves\.frequencies",)),)
