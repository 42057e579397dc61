"""Autoencoders: of Stable Diffusion, FLUX and their kin (KL), of early latent diffusion (VQ), TAESD, and DC-AE of Sana."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from langevin.networks.autoencoder import Autoencoder, Deep, Half, Plain, Scale, Tiny
from langevin.zoo.configs import filled, only
from langevin.zoo.family import Component, Config, of_kind
from langevin.zoo.keys import SQUEEZE, STACK, KeyMap

SHARED: Mapping[str, Any] = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,), "layers_per_block": 1, "act_fn": "silu", "norm_num_groups": 32, "sample_size": 32,
    "mid_block_add_attention": True,
}  # fmt: skip
KL: Mapping[str, Any] = {
    **SHARED, "latent_channels": 4, "scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None,
    "force_upcast": True, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
# old configurations have no scaling_factor, and latent diffusion did not scale such latents; the peer takes 0.18215 for them
VQ: Mapping[str, Any] = {
    **SHARED, "latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "scaling_factor": 1.0, "norm_type": "group",
    "lookup_from_codebook": False, "force_upcast": False,
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "in_channels": 3, "out_channels": 3, "encoder_block_out_channels": (64, 64, 64, 64),
    "decoder_block_out_channels": (64, 64, 64, 64), "act_fn": "relu", "upsample_fn": "nearest", "latent_channels": 4,
    "upsampling_scaling_factor": 2, "num_encoder_blocks": (1, 3, 3, 3), "num_decoder_blocks": (3, 3, 3, 1),
    "latent_magnitude": 3, "latent_shift": 0.5, "force_upcast": False, "scaling_factor": 1.0, "shift_factor": 0.0,
    "block_out_channels": (64, 64, 64, 64),
}  # fmt: skip
DC: Mapping[str, Any] = {
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32, "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock", "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024), "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3), "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)), "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
    "encoder_out_shortcut": True, "decoder_in_shortcut": True, "decoder_conv_act_fn": "relu", "scaling_factor": 1.0,
}  # fmt: skip
# values other than these are of networks that nobody published, or that are not here
PLAIN = {"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False}
BARE = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
NORMS = {"rms_norm": "root_mean_square", "batch_norm": "batch"}


def _plain(c: Mapping[str, Any], what: str) -> tuple[Half, Half]:
    only(c, PLAIN, what)
    widths, blocks = c["block_out_channels"], c["layers_per_block"]
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if tuple(c[key]) != (kind,) * len(widths):
            raise ValueError(f"{what}.{key} is {c[key]!r}; the network here has {kind}, for each of {len(widths)} widths.")
    style = Plain(c["norm_num_groups"], c["mid_block_add_attention"])
    return Half(style, widths, [blocks] * len(widths)), Half(style, widths, [blocks + 1] * len(widths))


def _scale(c: Mapping[str, Any]) -> Scale:
    mean, std = c.get("latents_mean"), c.get("latents_std")
    return Scale(
        c["scaling_factor"],
        float(c.get("shift_factor") or 0.0),
        None if mean is None else tuple(mean),
        None if std is None else tuple(std),
        bool(c.get("force_upcast", False)),
    )


def build_kl(config: Config) -> Autoencoder:
    """config.json of AutoencoderKL -> network. Raises ValueError for values that no network here computes."""
    c = filled(config, KL, "AutoencoderKL")
    return Autoencoder(
        *_plain(c, "AutoencoderKL"),
        c["latent_channels"],
        c["in_channels"],
        c["out_channels"],
        gaussian=True,
        project=(c["use_quant_conv"], c["use_post_quant_conv"]),
        scale=_scale(c),
    )


def build_vq(config: Config) -> Autoencoder:
    """config.json of VQModel -> network. Raises ValueError for values that no network here computes."""
    c = filled(config, VQ, "VQModel")
    return Autoencoder(
        *_plain(c, "VQModel"),
        c["latent_channels"],
        c["in_channels"],
        c["out_channels"],
        project=(True, True),
        codes=c["num_vq_embeddings"],
        code_width=c["vq_embed_dim"],
        scale=_scale(c),
    )


def build_tiny(config: Config) -> Autoencoder:
    """config.json of AutoencoderTiny -> network. Raises ValueError for values that no network here computes."""
    c = filled(config, TINY, "AutoencoderTiny")
    only(c, BARE, "AutoencoderTiny")
    encoder = Half(Tiny(), c["encoder_block_out_channels"], c["num_encoder_blocks"])
    # the decoder's are told from the coarsest on
    decoder = Half(Tiny(), c["decoder_block_out_channels"][::-1], c["num_decoder_blocks"][::-1])
    return Autoencoder(encoder, decoder, c["latent_channels"], c["in_channels"], c["out_channels"], scale=_scale(c))


def _each(value: Any, count: int, key: str, known: Mapping[str, Any]) -> list[Any]:
    values = [value] * count if isinstance(value, str) else list(value)
    if len(values) != count or not set(values) <= set(known):
        raise ValueError(f"AutoencoderDC.{key} is {value!r}; give {count} of {', '.join(known)}.")
    return [known[v] for v in values]


def _deep(c: Mapping[str, Any], half: str) -> Half:
    encodes = half == "encoder"
    widths, blocks = list(c[f"{half}_block_out_channels"]), list(c[f"{half}_layers_per_block"])
    sizes = [tuple(s) for s in c[f"{half}_qkv_multiscales"]]
    count = len(widths)
    if not len(blocks) == len(sizes) == count or not all(blocks[1:]) or count < 2:
        raise ValueError(
            f"AutoencoderDC.{half}_layers_per_block is {tuple(blocks)} for {count} {half}_block_out_channels and {len(sizes)} "
            f"{half}_qkv_multiscales; give as many of each, and blocks everywhere but at the first."
        )
    attends = _each(c[f"{half}_block_types"], count, f"{half}_block_types", {"ResBlock": False, "EfficientViTBlock": True})
    norms, activations, change = ["root_mean_square"] * count, ["silu"] * count, "downsample_block_type"
    if not encodes:
        norms = _each(c["decoder_norm_types"], count, "decoder_norm_types", NORMS)
        activations = _each(c["decoder_act_fns"], count, "decoder_act_fns", {"silu": "silu", "relu": "relu"})
        change = "upsample_block_type"
    if c["decoder_conv_act_fn"] not in ("silu", "relu"):
        raise ValueError(
            f"AutoencoderDC.decoder_conv_act_fn is {c['decoder_conv_act_fn']!r}; the network here knows silu and relu."
        )
    ways = {"pixel_unshuffle": False, "conv": True} if encodes else {"pixel_shuffle": False, "interpolate": True}
    skipped = 0 if blocks[0] else 1  # no blocks at full resolution
    style = Deep(
        c["attention_head_dim"],
        attends[skipped:],
        sizes[skipped:],
        norms[skipped:],
        activations[skipped:],
        strided=_each(c[change], 1, change, ways)[0],
        shortcut=c["encoder_out_shortcut" if encodes else "decoder_in_shortcut"],
        out=c["decoder_conv_act_fn"],
        folds=bool(skipped),
    )
    return Half(style, widths[skipped:], blocks[skipped:])


def build_dc(config: Config) -> Autoencoder:
    """config.json of AutoencoderDC -> network. Raises ValueError for values that no network here computes."""
    c = filled(config, DC, "AutoencoderDC")
    return Autoencoder(_deep(c, "encoder"), _deep(c, "decoder"), c["latent_channels"], c["in_channels"], scale=_scale(c))


def _levels(net: nn.Module) -> list[tuple[str, int, int, int]]:
    """(half, our level, its resolution, how many blocks); resolutions count from the full one."""
    made = []
    for half, shape in zip(("encoder", "decoder"), of_kind(net, Autoencoder).shapes, strict=True):
        folds = isinstance(shape.style, Deep) and shape.style.folds
        count = len(shape.widths)
        for k in range(count):
            level = k if half == "encoder" else count - 1 - k
            made.append((half, k, level + folds, shape.blocks[level]))
    return made


OLDER = (
    (r"(mid_block\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(mid_block\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(mid_block\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(mid_block\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)


def keys_plain(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of AutoencoderKL and VQModel."""
    middle = "mid_block.attentions.0"
    return KeyMap(
        renames=(
            (r"^codebook$", "quantize.embedding.weight"),
            (r"^behind\.", "quant_conv."),
            (r"^before\.", "post_quant_conv."),
            (r"^(encoder|decoder)\.enter\.", r"\1.conv_in."),
            (r"^(encoder|decoder)\.last\.norm\.", r"\1.conv_norm_out."),
            (r"^(encoder|decoder)\.leave\.", r"\1.conv_out."),
            (r"^encoder\.levels\.(\d+)\.blocks\.", r"encoder.down_blocks.\1.resnets."),
            (r"^encoder\.levels\.(\d+)\.change\.", r"encoder.down_blocks.\1.downsamplers.0.conv."),
            (r"^decoder\.levels\.(\d+)\.blocks\.", r"decoder.up_blocks.\1.resnets."),
            (r"^decoder\.levels\.(\d+)\.change\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
            (r"\.middle\.1\.norm\.", f".{middle}.group_norm.") if _attends(net) else (r"$^", ""),
            (r"\.middle\.1\.attention\.query\.", f".{middle}.to_q."),
            (r"\.middle\.1\.attention\.out\.", f".{middle}.to_out.0."),
            (r"\.middle\.1\.attention\.key_value\.", f".{middle}.key_value."),
            (r"\.middle\.0\.", ".mid_block.resnets.0."),
            (r"\.middle\.[12]\.", ".mid_block.resnets.1."),
            (r"\.skip\.", ".conv_shortcut."),
        ),
        joins=((r"(.*)\.key_value\.(weight|bias)", (r"\1.to_k.\2", r"\1.to_v.\2"), STACK),),
        aliases=OLDER,
    )


def _attends(net: nn.Module) -> bool:
    style = of_kind(net, Autoencoder).shapes[0].style
    return isinstance(style, Plain) and style.attention


def keys_tiny(config: Config, net: nn.Module) -> KeyMap:
    """Layers are counted through, the decoder's with its activation and the repeating of pixels among them."""
    renames = [(r"\.convs\.0\.", ".conv.0."), (r"\.convs\.1\.", ".conv.2."), (r"\.convs\.2\.", ".conv.4.")]
    renames += [(r"^(encoder|decoder)\.enter\.", r"\1.layers.0.")]
    at = {"encoder": 1, "decoder": 2}
    last = {half: k for half, k, _, _ in _levels(net)}
    for half, k, _, count in _levels(net):
        for j in range(count):
            renames.append((rf"^{half}\.levels\.{k}\.blocks\.{j}\.", f"{half}.layers.{at[half] + j}."))
        at[half] += count
        if k < last[half]:
            at[half] += half == "decoder"
            renames.append((rf"^{half}\.levels\.{k}\.change\.", f"{half}.layers.{at[half]}."))
            at[half] += 1
    renames += [(rf"^{half}\.leave\.", f"{half}.layers.{place}.") for half, place in at.items()]
    return KeyMap(renames=renames)


def keys_dc(config: Config, net: nn.Module) -> KeyMap:
    """The rows between our names and those of AutoencoderDC."""
    renames: list[tuple[str, str]] = [
        (r"\.attention\.near\.(\d+)\.0\.", r".attn.to_qkv_multiscale.\1.proj_in."),
        (r"\.attention\.near\.(\d+)\.1\.", r".attn.to_qkv_multiscale.\1.proj_out."),
        (r"\.attention\.out\.", ".attn.to_out."),
        (r"\.attention_norm\.", ".attn.norm_out."),
        (r"\.feed\.grow\.", ".conv_out.conv_inverted."),
        (r"\.feed\.mix\.", ".conv_out.conv_depth."),
        (r"\.feed\.shrink\.", ".conv_out.conv_point."),
        (r"\.feed_norm\.", ".conv_out.norm."),
        (r"^(encoder|decoder)\.enter\.", r"\1.conv_in."),
        (r"^decoder\.last\.norm\.", "decoder.norm_out."),
        (r"^(encoder|decoder)\.leave\.", r"\1.conv_out."),
    ]
    for half, k, level, count in _levels(net):
        if half == "encoder":  # blocks, then the change to the next resolution
            place, behind, first = f"encoder.down_blocks.{level}.", f"encoder.down_blocks.{level}.{count}.", 0
        else:  # the change to a resolution, then its blocks; the coarsest needs none
            place, behind = f"decoder.up_blocks.{level}.", f"decoder.up_blocks.{level - 1}.0."
            first = 1 if k else 0
        for j in range(count):
            renames.append((rf"^{half}\.levels\.{k}\.blocks\.{j}\.", f"{place}{first + j}."))
        renames.append((rf"^{half}\.levels\.{k}\.change\.", behind))
    joins = (
        (r"(.*)\.attention\.qkv\.weight", tuple(rf"\1.attn.to_{n}.weight" for n in "qkv"), STACK),
        (r"(.*\.conv_out\.conv_(?:inverted|point)\.weight)", (r"\1",), SQUEEZE),
    )
    return KeyMap(renames=renames, joins=joins)


def _published_scale(net: Autoencoder, kl: bool) -> dict[str, Any]:
    s = net.scale
    made: dict[str, Any] = {"scaling_factor": s.factor}
    if kl:
        made |= {"shift_factor": s.shift or None, "force_upcast": s.upcast}
        made |= {"latents_mean": None if s.mean is None else list(s.mean), "latents_std": None if s.std is None else list(s.std)}
    elif s.shift or s.mean is not None:
        raise ValueError("the published layout of this class has no shift and no means of latents; publish an AutoencoderKL.")
    return made


def _published_plain(net: Autoencoder, name: str) -> dict[str, Any]:
    encoder, decoder = net.shapes
    style, blocks, count = of_kind(encoder.style, Plain), encoder.blocks[0], len(encoder.widths)
    mirrored = (style, [*encoder.widths], [blocks + 1] * count) == (decoder.style, [*decoder.widths], [*decoder.blocks])
    if not mirrored or list(encoder.blocks) != [blocks] * count:
        raise ValueError(f"{name} has a decoder like its encoder, with one block more at each resolution; this one differs.")
    return {
        "_class_name": name, "in_channels": net.channels[0], "out_channels": net.channels[1], "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count,
        "block_out_channels": list(encoder.widths), "layers_per_block": blocks, "latent_channels": net.inner,
        "norm_num_groups": style.groups, "mid_block_add_attention": style.attention,
    }  # fmt: skip


def config_kl(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish an autoencoder with a Gaussian with; `sample_size` is up to who trained it."""
    net = of_kind(net, Autoencoder)
    if net.codebook is not None or not net.gaussian:
        raise ValueError("AutoencoderKL has a Gaussian and no codebook; this autoencoder differs.")
    return {
        **_published_plain(net, "AutoencoderKL"), **_published_scale(net, True),
        "use_quant_conv": isinstance(net.behind, nn.Conv2d), "use_post_quant_conv": isinstance(net.before, nn.Conv2d),
    }  # fmt: skip


def config_vq(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish an autoencoder with a codebook with."""
    net = of_kind(net, Autoencoder)
    if net.codebook is None or not (isinstance(net.behind, nn.Conv2d) and isinstance(net.before, nn.Conv2d)):
        raise ValueError("VQModel has a codebook between two convolutions; this autoencoder differs.")
    return {
        **_published_plain(net, "VQModel"), **_published_scale(net, False), "num_vq_embeddings": len(net.codebook),
        "vq_embed_dim": net.latents, "force_upcast": net.scale.upcast,
    }  # fmt: skip


def config_tiny(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a tiny autoencoder with."""
    net = of_kind(net, Autoencoder)
    encoder, decoder = net.shapes
    for half in (encoder, decoder):
        of_kind(half.style, Tiny)
    widths = list(decoder.widths)[::-1]
    return {
        "_class_name": "AutoencoderTiny", "in_channels": net.channels[0], "out_channels": net.channels[1],
        "encoder_block_out_channels": list(encoder.widths), "decoder_block_out_channels": widths, "act_fn": "relu",
        "num_encoder_blocks": list(encoder.blocks), "num_decoder_blocks": list(decoder.blocks)[::-1],
        "latent_channels": net.inner, "scaling_factor": net.scale.factor, "shift_factor": net.scale.shift,
        "block_out_channels": widths,
    }  # fmt: skip


def config_dc(net: nn.Module) -> dict[str, Any]:
    """The configuration to publish a deep compression autoencoder with."""
    net = of_kind(net, Autoencoder)
    made: dict[str, Any] = {
        "_class_name": "AutoencoderDC", "in_channels": net.channels[0], "latent_channels": net.inner,
        **_published_scale(net, False),
    }  # fmt: skip
    theirs = {ours: name for name, ours in NORMS.items()}
    for half, shape in zip(("encoder", "decoder"), net.shapes, strict=True):
        s = of_kind(shape.style, Deep)
        full = int(s.folds)  # a resolution without blocks stands before the first, and says nothing
        kinds = ["EfficientViTBlock" if yes else "ResBlock" for yes in s.attends]
        made |= {
            f"{half}_block_types": ["ResBlock"] * full + kinds, "attention_head_dim": s.head,
            f"{half}_block_out_channels": [shape.widths[0]] * full + list(shape.widths),
            f"{half}_layers_per_block": [0] * full + list(shape.blocks),
            f"{half}_qkv_multiscales": [[]] * full + [list(sizes) for sizes in s.sizes],
        }  # fmt: skip
        if half == "encoder":
            made |= {
                "encoder_out_shortcut": s.shortcut,
                "downsample_block_type": "conv" if s.strided else "pixel_unshuffle",
            }
        else:
            made |= {
                "decoder_in_shortcut": s.shortcut, "upsample_block_type": "interpolate" if s.strided else "pixel_shuffle",
                "decoder_norm_types": ["rms_norm"] * full + [theirs[n] for n in s.norms],
                "decoder_act_fns": ["silu"] * full + list(s.activations), "decoder_conv_act_fn": s.out,
            }  # fmt: skip
    return made


def _overflows(net: nn.Module) -> bool:
    return isinstance(net, Autoencoder) and net.scale.upcast


COMPONENTS = (
    Component("AutoencoderKL", build_kl, keys_plain, config_kl, overflows=_overflows),
    Component("VQModel", build_vq, keys_plain, config_vq, overflows=_overflows),
    Component("AutoencoderTiny", build_tiny, keys_tiny, config_tiny),
    Component("AutoencoderDC", build_dc, keys_dc, config_dc),
)
