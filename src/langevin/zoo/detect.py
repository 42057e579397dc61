"""What a published path is, what it needs, and how much memory: told by names and headers alone. Imports no torch.

The names of original layouts are those of `langevin.zoo.layouts`.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langevin.header import Entry
from langevin.zoo.hub import is_file, read_object
from langevin.zoo.store import OLD, alone, check_variant, open_weights, variants, weight_files

Shapes = Mapping[str, tuple[int, ...]]

GIB = 2**30
_U, _V, _TEXT = "model.diffusion_model.", "first_stage_model.", "text_encoders."
_CONTEXT = _U + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
_ENTER = "input_blocks.0.0.weight"
_TRANSFORMERS = ("GemmaModel", "Gemma2Model", "LlamaModel")


@dataclass(frozen=True)
class Part:
    """A component of something published.

    Attributes:
        name: of its folder, or its prefix in a file. kind: its class.
        entries: dtype and shape of its tensors. note: what is odd about it.
    """

    name: str
    kind: str
    entries: tuple[Entry, ...] = field(default=(), repr=False)
    note: str = ""

    @property
    def count(self) -> int:
        """Numbers in its tensors."""
        return sum(e.count for e in self.entries)

    @property
    def size(self) -> int:
        """Bytes in its file."""
        return sum(e.size for e in self.entries)

    def __str__(self) -> str:
        amount = ""
        if self.entries:
            kinds = ", ".join(sorted({e.dtype for e in self.entries}))
            amount = f"{self.count:,} numbers of {kinds}, {self.size / 2**20:,.1f} MiB"
        return f"{self.name:16} {'; '.join(x for x in (self.kind, amount, self.note) if x)}"


@dataclass(frozen=True)
class Found:
    """What a path is.

    Attributes:
        kind: "pipeline", "component", "original", "lora", "embedding" or "tensors".
        name: the published class, or the layout of `langevin.zoo.layouts`, or the format.
        title: in words. needs: what is missing, in sentences.
        picture: what one picture with guidance takes beyond the weights, where that can be told.
    """

    path: Path
    kind: str
    name: str
    title: str
    parts: tuple[Part, ...]
    needs: tuple[str, ...] = ()
    picture: "Picture | None" = None

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    def memory(self, bits: int) -> int:
        """Bytes of the weights when loaded in so many bits each; in 8 bits, a tenth more for scales and what stays in 16."""
        return int(self.count * bits // 8 * (1.1 if bits == 8 else 1))

    def __str__(self) -> str:
        lines = [f"{self.path.name}: {self.title}", *(f"  {part}" for part in self.parts)]
        if self.kind in ("pipeline", "component", "original"):
            kinds = ((32, "float32"), (16, "bf16"), (8, "int8"))
            sizes = ", ".join(f"{amount(self.memory(bits))} in {name}" for bits, name in kinds)
            lines.append(f"  memory: {sizes} for the weights")
        if self.picture is not None:
            (width, height), size = self.picture.size, self.picture.most
            more = f"{amount(size)} more in float32, {amount(size // 2)} in bf16"
            lines.append(f"  one picture of {width} x {height}: about {more}")
        return "\n".join([*lines, *(f"  needs: {need}" for need in self.needs)])


@dataclass(frozen=True)
class Picture:
    """What one picture takes beyond the weights, in bytes of float32.

    Attributes:
        size: (width, height) in pixels.
        network: on the way through the network, two pictures at once. decoder: through the autoencoder.
        factor: pixels of a latent on each side.
    """

    size: tuple[int, int]
    network: int
    decoder: int
    factor: int = 8

    @property
    def most(self) -> int:
        return max(self.network, self.decoder)


def amount(size: int) -> str:
    """Bytes in words, by 1024."""
    return f"{size / GIB:.2f} GiB" if size > GIB // 20 else f"{size / 2**20:.1f} MiB"


def detect(path: str | Path, variant: str | None = None) -> Found:
    """What a published folder or file is.

    Args:
        variant: of the weights that are told; by default the ordinary ones, else what there is.

    Raises:
        ValueError: if it is none that is known, or something in it is damaged, or none of its parts has the variant.
    """
    path = Path(path)
    if path.is_dir():
        if variant is not None:
            check_variant(path, variant)
        if is_file(path / "model_index.json"):
            return _pipeline(path, variant)
        if is_file(path / "config.json"):
            part, config, needs = _component(path, variant, None)
            published = config.get("_class_name")
            title = f"{part.kind}, a component as {'diffusers' if published else 'transformers'} publishes it"
            return Found(path, "component", part.kind, title, (part,), tuple(needs), _picture({part.kind: config}))
        if (single := alone(path)) != path:
            return _file(single)
        files = weight_files(path)
        several = f"; it holds {', '.join(file.name for file in files[:4])}: give one of them" if files else ""
        raise ValueError(f"{path} has no model_index.json and no config.json, so it is no published folder{several}.")
    if path.name in ("model_index.json", "config.json"):
        return detect(path.parent, variant)
    return _file(path)


# Folders


def _pipeline(path: Path, variant: str | None) -> Found:
    index = read_object(path / "model_index.json")
    name = str(index.get("_class_name", "?"))[:80]
    parts, needs, configs = [], [], {}
    for key, value in sorted(index.items()):
        if key.startswith("_") or not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], str):
            continue
        if not re.fullmatch(r"\w{1,64}", key):
            raise ValueError(f"{path / 'model_index.json'} names the component {key[:80]!r}, which is no folder beside it.")
        kind = value[1][:80]
        folder = path / key
        if not folder.is_dir():
            parts.append(Part(key, kind, note="missing"))
            if key not in ("safety_checker", "feature_extractor"):
                needs.append(f"the folder {key} ({kind}), which is not there.")
        elif any(word in kind for word in ("Scheduler", "Tokenizer", "Processor", "Extractor")):
            parts.append(Part(key, kind))
            if "Tokenizer" in kind:
                needs += _tokenizer(folder)
        elif key == "safety_checker":
            parts.append(Part(key, kind, note="not used here"))
        else:
            part, config, missing = _component(folder, variant, kind)
            parts.append(part)
            needs += missing
            configs[part.kind] = config
    title = f"{name}, a folder as diffusers publishes it"
    return Found(path, "pipeline", name, title, tuple(parts), tuple(dict.fromkeys(needs)), _picture(configs))


def _component(folder: Path, variant: str | None, kind: str | None) -> tuple[Part, dict[str, Any], list[str]]:
    config = read_object(folder / "config.json")
    architectures = config.get("architectures")
    listed = architectures[0] if isinstance(architectures, list) and architectures else None
    kind = str(kind or config.get("_class_name") or listed or config.get("model_type") or "?")[:80]
    there = variants(folder)
    if variant not in there and None not in there and there:
        variant = next(iter(there))
    needs, note, entries = [], "", ()
    try:
        entries = tuple(open_weights(folder, variant if variant in there else None).entries.values())
    except ValueError as error:
        needs.append(str(error))
        note = "no weights that can be read"
    also = [v or "ordinary" for v in there if v != variant]
    if also and not note:
        note = f"also {', '.join(also)}"
    if kind.startswith(_TRANSFORMERS) and not _installed("transformers"):
        needs.append("transformers, which runs this text encoder: pip install 'langevin[text]'.")
    return Part(folder.name, kind, entries, note), config, needs


def _tokenizer(folder: Path) -> list[str]:
    if is_file(folder / "tokenizer.json") or is_file(folder / "vocab.json"):
        return [] if _installed("tokenizers") else ["tokenizers, to read text: pip install 'langevin[text]'."]
    if is_file(folder / "spiece.model"):
        lacking = [name for name in ("transformers", "sentencepiece") if not _installed(name)]
        return [f"{' and '.join(lacking)}, to read {folder.name}: pip install 'langevin[text]'."] if lacking else []
    return [f"a vocabulary in {folder.name}: tokenizer.json, vocab.json with merges.txt, or spiece.model."]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# Files


def _file(path: Path) -> Found:
    """What a single file is."""
    if path.suffix.lower() in OLD:
        from langevin.zoo.convert import opened, select

        with opened(path, hashed=False) as old:
            chosen = select(old)
            entries = [Entry(name, view.dtype, view.shape) for name, view in chosen.tensors.items()]
            left = [f"{name} ({count} tensors)" for name, count in chosen.left.items()]
        found = of_tensors(path, entries)
        aside = f"; its part {chosen.name!r}, beside {', '.join(left)}" if left else ""
        convert = f"to be converted: langevin convert {path} {path.stem}.safetensors"
        return Found(
            path, found.kind, found.name, f"{found.title} (a file of torch.save{aside})", found.parts, (convert, *found.needs),
            found.picture,
        )  # fmt: skip
    weights = open_weights(path)
    return of_tensors(path, weights.entries.values())


def of_tensors(path: Path, entries: Iterable[Entry]) -> Found:
    """What a file is by its tensors."""
    entries = list(entries)
    shapes = {e.name: e.shape for e in entries}
    whole = tuple(entries)
    if (lora := adapter_of(shapes)) is not None:
        rank = next((e.shape[0] for e in entries if e.shape and re.search(_DOWN, e.name)), None)
        title = f"adapters for other weights ({lora}{'' if rank is None else f', rank {rank}'})"
        return Found(path, "lora", lora, title, (Part("adapters", "", whole),))
    original = layout_of(shapes)
    if original is not None:
        return _original(path, original, entries)
    if (published := _published(shapes)) is not None:
        need = f"its config.json, which is published beside it: {published} cannot be told from its tensors alone."
        title = f"{published} without its configuration"
        return Found(path, "component", published, title, (Part("", published, whole),), (need,))
    if entries and len(entries) <= 4 and all(len(e.shape) <= 2 for e in entries) and _words(shapes):
        return Found(path, "embedding", "embedding", "learned words for a text encoder", (Part("words", "", whole),))
    return Found(path, "tensors", "tensors", "tensors of no layout that is known here", (Part("", "", whole),))


def _words(shapes: Shapes) -> bool:
    """Whether a few tensors are learned embeddings: diffusers keep them under <the word>, others under these names."""
    known = {"emb_params", "clip_l", "clip_g", "string_to_param.*"}
    return all(name in known or re.fullmatch(r"<[^<>]{1,100}>", name) for name in shapes)


# Adapters

_DOWN = r"lora_A\.(\w+\.)?weight$|lora_down\.weight$|_lora\.down\.weight$|lora\.down\.weight$"


def adapter_of(names: Iterable[str]) -> str | None:
    """The format of a file of adapters: "peft", "diffusers-processors", "kohya", or a kind that is not LoRA; None if it holds
    something else."""
    names = list(names)
    other = r"\.(hada_w1_a|lokr_w1(_a)?|oft_diag|dora_scale|lora_magnitude_vector)"
    if not any(re.search(_DOWN, n) or re.search(other, n) for n in names):
        return None
    for pattern, kind in ((r"\.dora_scale|lora_magnitude_vector", "dora"), (r"\.hada_w1_a", "loha"), (r"\.lokr_w1", "lokr")):
        if any(re.search(pattern, n) for n in names):
            return kind
    if any(n.startswith(("lora_unet_", "lora_te", "lora_transformer_", "lora_prior_")) for n in names):
        return "kohya"
    if any("processor" in n or re.search(r"_lora\.(down|up)\.weight$", n) for n in names):
        return "diffusers-processors"
    return "peft"


# Originals


@dataclass(frozen=True)
class _Original:
    """A layout of a single file: its components, each with its prefix and the kind of part that it is (see `layouts.single`), and
    what it usually lacks."""

    title: str
    parts: tuple[tuple[str, str, str], ...]
    text: str = ""


_UNET, _KL = ("unet", _U, "unet"), ("vae", _V, "autoencoder")
_SD3, _FLUX = "CLIP-L, OpenCLIP-bigG and T5-XXL", "CLIP-L and T5-XXL"
_CLIP_L = ("text_encoder", _TEXT + "clip_l.transformer.", "clip")


def _alone(component: str, part: str) -> tuple[tuple[str, str, str]]:
    return ((component, "", part),)


ORIGINALS: dict[str, _Original] = {
    "stable-diffusion-1": _Original(
        "Stable Diffusion 1", (_UNET, _KL, ("text_encoder", "cond_stage_model.transformer.", "clip")), "CLIP-L"
    ),
    "stable-diffusion-2": _Original(
        "Stable Diffusion 2", (_UNET, _KL, ("text_encoder", "cond_stage_model.model.", "open-clip-penultimate")), "OpenCLIP-H"
    ),
    "sdxl": _Original(
        "Stable Diffusion XL",
        (
            _UNET, _KL, ("text_encoder", "conditioner.embedders.0.transformer.", "clip"),
            ("text_encoder_2", "conditioner.embedders.1.model.", "open-clip"),
        ),
        "CLIP-L and OpenCLIP-bigG",
    ),
    "sdxl-refiner": _Original(
        "Stable Diffusion XL, refiner", (_UNET, _KL, ("text_encoder_2", "conditioner.embedders.0.model.", "open-clip")),
        "OpenCLIP-bigG",
    ),
    "stable-diffusion-3": _Original(
        "Stable Diffusion 3",
        (
            ("transformer", _U, "sd3"), _KL, _CLIP_L, ("text_encoder_2", _TEXT + "clip_g.transformer.", "clip-gelu"),
            ("text_encoder_3", _TEXT + "t5xxl.transformer.", "t5"),
        ),
        _SD3,
    ),
    "stable-diffusion-3-bare": _Original("the transformer of Stable Diffusion 3", _alone("transformer", "sd3"), _SD3),
    "flux": _Original("the transformer of FLUX.1", _alone("transformer", "flux"), _FLUX),
    "flux-whole": _Original(
        "FLUX.1",
        (
            ("transformer", _U, "flux"), ("vae", "vae.", "autoencoder"), _CLIP_L,
            ("text_encoder_2", _TEXT + "t5xxl.transformer.", "t5"),
        ),
        _FLUX,
    ),
    "latent-diffusion": _Original(
        "latent diffusion without text", (("unet", _U, "latent"), ("vqvae", _V, "autoencoder"))
    ),
    "controlnet": _Original("a ControlNet", (("controlnet", "control_model.", "control"),)),
    "controlnet-bare": _Original("a ControlNet", _alone("controlnet", "control")),
    "autoencoder": _Original("an autoencoder of latent diffusion", _alone("vae", "autoencoder")),
    "autoencoder-first-stage": _Original("an autoencoder of latent diffusion", (_KL,)),
    "dit": _Original("DiT", _alone("transformer", "dit")),
    "ncsnpp": _Original("NCSN++ of score_sde", _alone("unet", "ncsnpp")),
    "ddpmpp": _Original("DDPM++ of score_sde", _alone("unet", "ddpmpp")),
    "consistency": _Original("a consistency model, or the U-Net it was distilled from", _alone("unet", "consistency")),
    "guided-diffusion": _Original("a U-Net of guided-diffusion", _alone("unet", "guided-diffusion")),
    "guided-diffusion-new-order": _Original(
        "a U-Net of guided-diffusion for 64 pixels", _alone("unet", "guided-diffusion-new-order")
    ),
}  # fmt: skip
"""Every layout, and what may stand in it."""
WRAPPERS = ("", "state_dict.", "ema.", "model.", "module.", "model.module.")
"""What programs put before all names, in the order in which the weights are looked for."""


def layout_of(shapes: Shapes) -> str | None:
    """The original layout of a file, a key of `ORIGINALS`; None if it is of none that is known here."""
    return next((found for _, found in [_unwrapped(shapes)] if found), None)


def _unwrapped(shapes: Shapes) -> tuple[str, str | None]:
    """(what stands before all names, the layout)."""
    for wrapper in WRAPPERS:
        inner = {n[len(wrapper) :]: s for n, s in shapes.items() if n.startswith(wrapper)} if wrapper else shapes
        if (found := layout_inside(inner)) is not None:
            return wrapper, found
    return "", None


def layout_inside(s: Shapes) -> str | None:
    """The original layout of tensors whose names nothing stands before."""

    def has(*names: str) -> bool:
        return all(name in s for name in names)

    def begins(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in s)

    if has(_U + _ENTER):
        if not has(_CONTEXT):
            return "latent-diffusion"
        for prefix, name in (
            ("conditioner.embedders.1.", "sdxl"), ("conditioner.embedders.0.model.", "sdxl-refiner"),
            ("cond_stage_model.transformer.", "stable-diffusion-1"), ("cond_stage_model.model.", "stable-diffusion-2"),
        ):  # fmt: skip
            if begins(prefix):
                return name
        # without its text encoders, by the width of the text that it reads
        widths = {768: "stable-diffusion-1", 1024: "stable-diffusion-2", 2048: "sdxl", 1280: "sdxl-refiner"}
        return widths.get(s[_CONTEXT][-1], "stable-diffusion-1")
    joint, double = "joint_blocks.0.x_block.attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight"
    qkv = s.get("middle_block.1.qkv.weight", ())
    guided = {4: "consistency", 3: "guided-diffusion"}.get(len(qkv))
    if guided == "guided-diffusion" and s.get(_ENTER, (0,))[0] == 192:
        guided = "guided-diffusion-new-order"
    encoder = ("encoder.down.0.block.0.norm1.weight", "decoder.conv_in.weight")
    marks: Sequence[tuple[bool, str | None]] = (
        (has(_U + joint), "stable-diffusion-3"),
        (has(joint), "stable-diffusion-3-bare"),
        (has(_U + double), "flux-whole"),
        (has(double), "flux"),
        (has("control_model.input_hint_block.0.weight"), "controlnet"),
        (has("input_hint_block.0.weight", "zero_convs.0.0.weight"), "controlnet-bare"),
        (has("all_modules.0.W", "all_modules.4.Conv_0.weight"), "ncsnpp"),
        (has("all_modules.0.weight", "all_modules.3.Conv_0.weight"), "ddpmpp"),
        (has("blocks.0.adaLN_modulation.1.weight", "y_embedder.embedding_table.weight"), "dit"),
        (has(_ENTER, "out.2.weight"), guided),
        (has(*encoder), "autoencoder"),
        (has(*(_V + name for name in encoder)), "autoencoder-first-stage"),
    )
    return next((name for there, name in marks if there and name), None)


def flux_task(inputs: int, outputs: int) -> str:
    """What a transformer of FLUX.1 is for, by its channels: packed latents in and out; "Control" reads those of a hint as well,
    "Fill" those of the masked picture and the mask in full (64, 128 and 384 in the published ones)."""
    return "" if inputs == outputs else "Control" if inputs == 2 * outputs else "Fill"


def _original(path: Path, layout: str, entries: list[Entry]) -> Found:
    told = ORIGINALS[layout]
    wrapper = _unwrapped({e.name: e.shape for e in entries})[0]
    shapes = {e.name[len(wrapper) :]: e.shape for e in entries if e.name.startswith(wrapper)}
    parts, needs = [], []
    for name, prefix, _ in told.parts:
        inside = tuple(e for e in entries if e.name.startswith(wrapper + prefix))
        if inside:
            parts.append(Part(name, "", inside))
        elif not name.startswith("text_encoder"):
            needs.append(f"the {'autoencoder' if 'vae' in name else name}, which is not in the file.")
    rest = tuple(e for e in entries if not any(e.name.startswith(wrapper + prefix) for _, prefix, _ in told.parts))
    if rest:
        parts.append(Part("beside them", "", rest))
    if told.text and not any(part.name.startswith("text_encoder") for part in parts):
        several = " and " in told.text
        needs.append(f"the text encoder{'s' * several} {told.text}, which {'are' if several else 'is'} not in the file.")
    title = told.title
    enter = shapes.get(_U + _ENTER, (0, 4))
    if layout in ("stable-diffusion-1", "stable-diffusion-2", "sdxl", "sdxl-refiner"):
        title += {9: ", inpainting", 7: ", upscaler", 8: ", editing by instruction"}.get(enter[1], "")
    if layout.startswith("flux"):
        title += ", dev" if any("guidance_in." in name for name in shapes) else ", schnell"
        inner = _U if layout == "flux-whole" else ""
        enter, leave = (shapes.get(f"{inner}{name}.weight", (0, 0)) for name in ("img_in", "final_layer.linear"))
        if task := flux_task(enter[-1], leave[0]):
            title += {"Fill": ", Fill (paints in a mask)", "Control": ", Control (of depths or edges)"}[task]
    if layout in ("flux", "stable-diffusion-3-bare"):
        needs.append("an autoencoder of 16 channels, which is not in the file.")
    side = {"stable-diffusion-1": 512, "stable-diffusion-2": 768, "sdxl": 1024, "sdxl-refiner": 1024}.get(layout)
    picture = None
    if side is not None:
        decoder = shapes.get(_V + "decoder.conv_out.weight", (3, 128))[1]
        picture = _picture_of((side, side), enter[0], (side // 8) ** 2, decoder, 8)
    return Found(path, "original", layout, f"{title}, in its authors' single file", tuple(parts), tuple(needs), picture)


def _published(shapes: Shapes) -> str | None:
    """The class of a published component's tensors, where its config.json is not beside them."""
    marks = (
        ("controlnet_cond_embedding.conv_in.weight", "ControlNetModel"),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "UNet2DConditionModel"),
        ("encoder.down_blocks.0.resnets.0.norm1.weight", "AutoencoderKL"),
        ("down_blocks.0.resnets.0.norm1.weight", "UNet2DModel"),
        ("single_transformer_blocks.0.proj_mlp.weight", "FluxTransformer2DModel"),
        ("transformer_blocks.0.attn.add_q_proj.weight", "SD3Transformer2DModel"),
        ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", "DiTTransformer2DModel"),
        ("adaln_single.linear.weight", "PixArtTransformer2DModel"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "T5EncoderModel"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "CLIPTextModel"),
    )
    return next((name for mark, name in marks if mark in shapes), None)


# Memory


def _picture_of(size: tuple[int, int], width: int, positions: int, decoder: int, factor: int) -> Picture:
    """What is computed on the way to one picture: by a guided call of the network, and by the decoder. The factors are those of
    measured forward passes: a U-Net of Stable Diffusion 1 and DiT-XL keep about 60 activations of their first width, the decoder
    about 11.
    """
    return Picture(size, 4 * 2 * 60 * positions * width, 4 * 11 * size[0] * size[1] * decoder, factor)


def _picture(configs: Mapping[str, Mapping[str, Any]]) -> Picture | None:
    """The default picture of a network and its autoencoder, and what it takes."""

    def number(config: Mapping[str, Any], key: str, otherwise: int) -> int:
        value = config.get(key, otherwise)
        value = value[0] if isinstance(value, list) and value else value
        return value if type(value) is int and 0 < value < 2**16 else otherwise

    kind, network = next(((k, c) for k, c in configs.items() if "UNet" in k or "Transformer" in k), ("", None))
    coder = next((c for k, c in configs.items() if k.startswith(("Autoencoder", "VQModel"))), None)
    if network is None:
        return None
    heads = number(network, "num_attention_heads", 0) * number(network, "attention_head_dim", 0)
    transformer = "Transformer" in kind  # old configurations of U-Nets leave widths out that are the default
    width = heads if transformer else number(network, "block_out_channels", 320)
    patch = number(network, "patch_size", 1) if transformer else 1
    factor, decoder = 1, 0
    if coder is not None:
        widths = coder.get("block_out_channels") or coder.get("encoder_block_out_channels")
        stages = len(widths) if isinstance(widths, list) and len(widths) < 12 else 4
        factor, decoder = 2 ** (stages - 1), number(coder, "block_out_channels", 128)
    flux = network.get("_class_name") == "FluxTransformer2DModel"
    side = number(network, "sample_size", 64 if flux else 0)
    if not side or not width:
        return None
    positions = (side // patch) ** 2
    pixels = side * factor * (2 if flux else 1)
    return _picture_of((pixels, pixels), width, positions, decoder, factor)
