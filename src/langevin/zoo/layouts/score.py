"""NCSN++ and DDPM++ as score_sde_pytorch stores them: one list of modules in the order in which they were made."""

from typing import Any

from langevin.zoo.keys import TRANSPOSE
from langevin.zoo.layouts.table import Config, Line, Shapes, Table, channels, count, plain

_LINES = (
    Line("all_modules.0.W", "time_proj.weight"),
    Line("{one}.{leaf}", "{one}.{leaf}"),
    Line("{combine}.Conv_0.{leaf}", "{combine}.{leaf}"),
    *(
        Line(f"{{r}}.{ours}.{{leaf}}", f"{{r}}.{theirs}.{{leaf}}")
        for ours, theirs in (
            ("GroupNorm_0", "norm1"), ("Conv_0", "conv1"), ("Dense_0", "time_emb_proj"),
            ("GroupNorm_1", "norm2"), ("Conv_1", "conv2"), ("Conv_2", "conv_shortcut"),
        )
    ),
    Line("{a}.GroupNorm_0.{leaf}", "{a}.group_norm.{leaf}"),
    *(
        line
        for n, part in enumerate(("to_q", "to_k", "to_v", "to_out.0"))
        for line in (
            Line(f"{{a}}.NIN_{n}.W", f"{{a}}.{part}.weight", TRANSPOSE),
            Line(f"{{a}}.NIN_{n}.b", f"{{a}}.{part}.bias"),
        )
    ),
)  # fmt: skip


def table(config: Config) -> Table:
    """UNet2DModel of Skip blocks, with Fourier weights before all and pyramids."""
    attends = tuple(["Attn" in kind for kind in config[f"{way}_block_types"]] for way in ("down", "up"))
    return _table(config.get("layers_per_block", 2), *attends, plain=False)


def plain_table(config: Config) -> Table:
    """NCSNpp without Fourier weights and pyramids, which is DDPM++."""
    attends = [i in config["attention"] for i in range(len(config["block_out_channels"]))]
    return _table(config["layers_per_block"], attends, attends[::-1], plain=True)


def _table(layers: int, down: list[bool], up: list[bool], plain: bool) -> Table:
    order: list[tuple[str, str]] = [("one", "time_embedding.linear_1"), ("one", "time_embedding.linear_2"), ("one", "conv_in")]
    for i, attends in enumerate(down):
        for j in range(layers):
            order.append(("r", f"down_blocks.{i}.resnets.{j}"))
            if attends:
                order.append(("a", f"down_blocks.{i}.attentions.{j}"))
        if i < len(down) - 1:
            order += [("r", f"down_blocks.{i}.resnet_down"), *([] if plain else [("combine", f"down_blocks.{i}.skip_conv")])]
    order += [("r", "mid_block.resnets.0"), ("a", "mid_block.attentions.0"), ("r", "mid_block.resnets.1")]
    between = [("r", "resnet_up")] if plain else [("one", "skip_norm"), ("one", "skip_conv"), ("r", "resnet_up")]
    for i, attends in enumerate(up):
        order += [("r", f"up_blocks.{i}.resnets.{j}") for j in range(layers + 1)]
        if attends:
            order.append(("a", f"up_blocks.{i}.attentions.0"))
        if i < len(up) - 1:
            order += [(kind, f"up_blocks.{i}.{part}") for kind, part in between]
    order += [("one", "conv_norm_out"), ("one", "conv_out")]
    fields: dict[str, dict[str, str]] = {"one": {}, "r": {}, "a": {}, "combine": {}}
    for n, (kind, name) in enumerate(order, 0 if plain else 1):
        fields[kind][f"all_modules.{n}"] = name
    return Table(_LINES[1:] if plain else _LINES, fields, ((r"sigmas", "the noise levels, which are computed"),))


def config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """UNet2DModel of Skip blocks; the levels are read off the order of the modules.

    Raises:
        ValueError: if the modules are not those of NCSN++ with Fourier embedding and input and output pyramids.
    """
    kinds = "".join(_kind(shapes, n) for n in range(count(shapes, "all_modules.{}.")))
    # down, a level is residual blocks (r), attention (a), the resampling block and the pyramid's convolution (c);
    # up, it ends in the norm (n) and convolution (o) of the pyramid
    parts = kinds.removeprefix("wllo").split("c")
    levels = len(parts)
    if not kinds.startswith("wllo") or levels < 2 or not parts[0].endswith("r"):
        raise ValueError("its modules are not those of NCSN++ with Fourier embedding and pyramids of pictures.")
    attends = ["a" in part for part in parts[:-1]]
    layers = parts[0].count("r") - 1
    # what follows the last pyramid's convolution: the last level, the middle, and up
    tail = parts[-1]
    attends.append(tail.startswith("ra"))
    last = "ra" * layers if attends[-1] else "r" * layers
    ups = tail.removeprefix(last).removeprefix("rar").split("no")[:-1]
    shown = ["a" in part for part in ups]
    # a level of up begins with the block that resamples the level before
    channel_names, n = [], 4
    for i in range(levels):
        channel_names.append(f"all_modules.{n}.Conv_0.weight")
        n += len(parts[i]) + 1
    if len(shown) != levels or any(f not in shapes for f in channel_names):
        raise ValueError(f"the {len(kinds)} modules of its NCSN++ make no {levels} levels.")
    return {
        "_class_name": "UNet2DModel",
        "sample_size": 256,
        "in_channels": channels(shapes, "all_modules.3.weight", 1),
        "out_channels": shapes[f"all_modules.{len(kinds) - 1}.weight"][0],
        "block_out_channels": [shapes[name][0] for name in channel_names],
        "layers_per_block": plain([layers]),
        "down_block_types": ["AttnSkipDownBlock2D" if a else "SkipDownBlock2D" for a in attends],
        "up_block_types": ["AttnSkipUpBlock2D" if a else "SkipUpBlock2D" for a in shown],
        "time_embedding_type": "fourier",
        "norm_num_groups": None,
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "mid_block_scale_factor": 2**0.5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "center_input_sample": False,
        "downsample_padding": 1,
        "act_fn": "silu",
        **given,
    }


def plain_config(shapes: Shapes, given: Config) -> dict[str, Any]:
    """NCSNpp of DDPM++; the levels are read off the order of the modules.

    Raises:
        ValueError: if the modules are not those of DDPM++ with blocks of BigGAN.
    """
    kinds = [_kind(shapes, n) for n in range(count(shapes, "all_modules.{}."))]
    marked = "".join("c" if kind == "r" and _resamples(shapes, n) else kind for n, kind in enumerate(kinds))
    # between changes of resolution (c): the levels down, the last with the middle and the first up, the levels up
    parts = marked.removeprefix("llo").removesuffix("no").split("c")
    levels = len(parts) // 2 + 1
    layers, attends = parts[0].count("r"), ["a" in part for part in [*parts[: levels - 1], parts[-levels][-1:]]]
    down, up = (["ra" * layers if yes else "r" * layers for yes in attends], ["r" * (layers + 1) + "a" * yes for yes in attends])
    expected = "llo" + "c".join(down) + "rar" + "c".join(up[::-1]) + "no"
    if levels < 2 or marked != expected:
        raise ValueError("its modules are not those of DDPM++ with blocks of BigGAN; no other networks of score_sde are read.")
    first, widths = 3, []
    for part in down:
        widths.append(shapes[f"all_modules.{first}.Conv_0.weight"][0])
        first += len(part) + 1
    return {
        "_class_name": "NCSNpp",
        "sample_size": 32,
        "in_channels": channels(shapes, "all_modules.2.weight", 1),
        "out_channels": shapes[f"all_modules.{len(kinds) - 1}.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "attention": [i for i, yes in enumerate(attends) if yes],
        **given,
    }


def _resamples(shapes: Shapes, n: int) -> bool:
    """Whether a block changes the resolution: it has a convolution of size 1 between as many channels as it has."""
    skip = shapes.get(f"all_modules.{n}.Conv_2.weight")
    return skip is not None and skip[0] == skip[1]


def _kind(shapes: Shapes, n: int) -> str:
    name = f"all_modules.{n}"
    if f"{name}.W" in shapes:
        return "w"
    if f"{name}.NIN_0.W" in shapes:
        return "a"
    if f"{name}.Dense_0.weight" in shapes:
        return "r"
    if f"{name}.Conv_0.weight" in shapes:
        return "c"
    return {1: "n", 2: "l", 4: "o"}.get(len(shapes.get(f"{name}.weight", ())), "?")
