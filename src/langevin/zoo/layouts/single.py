"""A whole original file: which components are in it, under which prefixes, and what its tensors leave open.

What no tensor tells has a default that is said here and can be given: `given={"vae": {"scaling_factor": 0.13025}}` sets keys of
a component's configuration, `prediction` what the denoiser predicts.

- Heads: 8 in Stable Diffusion 1 and the x4 upscaler; 64 channels each elsewhere; 32 in unconditional latent diffusion.
- Prediction: `epsilon`, but `v_prediction` for Stable Diffusion 2 (its base models of 512 pixels predict epsilon: give it) and
  the x4 upscaler, and where the file holds a tensor called `v_pred`.
- Latent scale of an autoencoder alone: 0.18215 with 4 channels (that of SDXL has 0.13025: give it), FLUX's with 16 (that of
  Stable Diffusion 3 has 1.5305 and a shift of 0.0609: give them).
- The order of fused queries, keys and values in guided-diffusion: by head where they are 1-d convolutions, except in its model of
  64 pixels (192 channels), which was trained with the new order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from langevin.zoo.detect import ORIGINALS, WRAPPERS, flux_task, layout_inside
from langevin.zoo.keys import Row
from langevin.zoo.layouts import autoencoder, score, text, transformer, unet
from langevin.zoo.layouts.table import Config, Piece, Read, Shapes, Table, originals, piece

Find = Callable[[str], tuple[int, ...] | None]
"""The shape of a part's tensor by its name without prefix, None if it is not there."""


@dataclass(frozen=True)
class Part:
    """One kind of component in its authors' names, without prefix.

    Args:
        marks: names that a file has if it has the part.
        config: (shapes, given) -> config.json. table: config -> the table.
        fits: where names alone do not tell parts apart.
    """

    marks: tuple[str, ...]
    config: Callable[[Shapes, Config], dict[str, Any]]
    table: Callable[[Config], Table]
    fits: Callable[[Find], bool] = lambda find: True


_FUSED = "middle_block.1.qkv.weight"


def _convolved(find: Find, dims: int) -> bool:
    """Whether the fused queries, keys and values are a convolution of so many dimensions."""
    return len(find(_FUSED) or ()) == 2 + dims


def _of_64_pixels(find: Find) -> bool:
    return (find("input_blocks.0.0.weight") or (0,))[0] == 192


def _adm(width: int, dims: int, by_head: bool, fits: Callable[[Find], bool]) -> Part:
    return Part(
        ("input_blocks.0.0.weight", _FUSED, "out.2.weight"),
        partial(unet.plain_config, width=width),
        partial(unet.plain_table, axes=dims, by_head=by_head),
        fits,
    )


_CLIP = ("text_model.encoder.layers.0.self_attn.q_proj.weight",)
_OPEN = ("transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight")

PARTS: dict[str, Part] = {
    "unet": Part(
        ("input_blocks.0.0.weight", "out.2.weight", "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
        unet.cross_config,
        unet.cross_table,
    ),
    "consistency": _adm(64, 2, False, lambda find: _convolved(find, 2)),
    "guided-diffusion": _adm(64, 1, True, lambda find: _convolved(find, 1) and not _of_64_pixels(find)),
    "guided-diffusion-new-order": _adm(64, 1, False, lambda find: _convolved(find, 1) and _of_64_pixels(find)),
    "latent": _adm(32, 1, True, lambda find: _convolved(find, 1)),
    "control": Part(("input_hint_block.0.weight", "zero_convs.0.0.weight"), unet.control_config, unet.control_table),
    "autoencoder": Part(("encoder.down.0.block.0.norm1.weight", "decoder.conv_in.weight"), autoencoder.config, autoencoder.table),
    "clip": Part(_CLIP, text.clip_config, text.clip_table),
    "clip-gelu": Part(_CLIP, partial(text.clip_config, act="gelu"), text.clip_table),
    "open-clip": Part(_OPEN, text.open_clip_config, text.open_clip_table),
    "open-clip-penultimate": Part(
        _OPEN, partial(text.open_clip_config, penultimate=True), partial(text.open_clip_table, penultimate=True)
    ),
    "t5": Part(("encoder.block.0.layer.0.SelfAttention.q.weight",), text.t5_config, text.t5_table),
    "sd3": Part(("joint_blocks.0.x_block.attn.qkv.weight",), transformer.sd3_config, transformer.sd3_table),
    "flux": Part(("double_blocks.0.img_attn.qkv.weight",), transformer.flux_config, transformer.flux_table),
    "dit": Part(
        ("blocks.0.adaLN_modulation.1.weight", "y_embedder.embedding_table.weight"),
        transformer.dit_config,
        transformer.dit_table,
    ),
    "ncsnpp": Part(("all_modules.0.W", "all_modules.4.Conv_0.weight"), score.config, score.table),
    "ddpmpp": Part(("all_modules.0.weight", "all_modules.3.Conv_0.weight"), score.plain_config, score.plain_table),
}


@dataclass(frozen=True)
class Place:
    """Where a part stands in a layout: its published component, its prefix in the file, and what it is."""

    component: str
    prefix: str
    part: str


LAYOUTS: dict[str, tuple[Place, ...]] = {
    name: tuple(Place(*part) for part in original.parts) for name, original in ORIGINALS.items()
}
"""Every layout, and what may stand in it."""

_SCHEDULE = (
    r"(low_scale_model\.)?(betas|logvar|lvlb_weights|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|(sqrt_|log_)?(one_minus_)?alphas_cumprod(_prev)?|sqrt_recip(m1)?_alphas_cumprod)"
)
_CONTRAST = r"cond_stage_model\.logit_scale|text_encoders\.\w+\.(transformer\.)?logit_scale"
IGNORED = (
    (_SCHEDULE, "the schedule, which is computed"),
    (r"denoiser\.sigmas", "the schedule, which is computed"),
    (r"scale_factor", "the scale of latents, which is in the configuration"),
    (r"v_pred|ztsnr", "says what the denoiser predicts"),
    (r"model_ema\..*", "the moving average of the same weights; average=True takes it"),
    (_CONTRAST, "of the contrastive training"),
)


@dataclass(frozen=True)
class Single:
    """An original file, opened: components under their published names, read when they are asked for.

    Args:
        layout: a key of LAYOUTS. pieces: by published component.
        pipeline: the class of the whole, None where the file is one component. scheduler: its scheduler_config.json.
        ignored: names of the file that are not used, with the reasons.
    """

    layout: str
    pieces: dict[str, Piece]
    pipeline: str | None
    scheduler: dict[str, Any] | None
    ignored: dict[str, str]
    _rows: dict[str, list[Row]] = field(repr=False)
    _stored: dict[str, str] = field(repr=False)
    _read: Read = field(repr=False)

    def back(self, tensors: Mapping[str, Mapping[str, Tensor]], whole: bool = True) -> dict[str, Tensor]:
        """The file again, with other values: {component: {published name: tensor}} -> {name in the file: tensor}.

        Args:
            whole: with what is not used, as it was read.
        """
        made: dict[str, Tensor] = {}
        for component, values in tensors.items():
            made |= originals(self._rows[component], values.__getitem__)
        made = {self._stored[name]: value for name, value in made.items()}
        return made | ({name: self._read(name) for name in self.ignored} if whole else {})


def components(shapes: Shapes, what: str = "the file") -> list[str]:
    """The published components that an original file holds, told by its names alone.

    Raises:
        ValueError: if it is of no layout known here.
    """
    stored, _ = _unwrapped(shapes, None)
    inner = {name: shapes[at] for name, at in stored.items()}
    return [place.component for place in _there(LAYOUTS[_known(layout_inside(inner), shapes, what)], inner)]


def _known(name: str | None, shapes: Shapes, what: str, said: str | None = None) -> str:
    if name is None or name not in LAYOUTS:
        first = f"{what} is of no original layout known here (its first tensor is {next(iter(shapes), 'none')!r})"
        raise ValueError(f"{said or first}; there are {', '.join(LAYOUTS)}.")
    return name


def opened(
    shapes: Shapes,
    read: Read,
    *,
    given: Mapping[str, Config] | None = None,
    prediction: str | None = None,
    average: bool | None = None,
    layout: str | None = None,
    what: str = "the file",
) -> Single:
    """What an original file holds.

    Args:
        shapes: of its tensors, by name, in the file's order; nested ones under dotted names, as `flat` gives them.
        read: a tensor by its name in the file.
        given: by component, configuration keys that no tensor tells.
        prediction: of the denoiser, `epsilon` or `v_prediction`.
        average: take the moving average of the weights where the file has both. By default where the authors' own programs
            do: DiT and score_sde, not Stable Diffusion.
        layout: a key of LAYOUTS, where the file could be of several.

    Raises:
        ValueError: if it is of no layout known here, or holds a tensor that the layout has no use for.
    """
    stored, unused = _unwrapped(shapes, average)
    inner = {name: shapes[at] for name, at in stored.items()}
    name = _known(layout or layout_inside(inner), shapes, what, f"layout is {layout!r}" if layout else None)
    pieces: dict[str, Piece] = {}
    rows: dict[str, list[Row]] = {}
    ignored = dict(unused)
    left = dict(inner)
    for place in _there(LAYOUTS[name], inner):
        mine = {n.removeprefix(place.prefix): s for n, s in left.items() if n.startswith(place.prefix)}
        if not place.prefix:
            mine = {n: s for n, s in mine.items() if _why(n) is None}
        part = PARTS[place.part]
        config = part.config(mine, (given or {}).get(place.component, {}))
        made, dropped = part.table(config).rows(mine, f"{what}: the layout {name}")
        ignored |= {stored[place.prefix + n]: why for n, why in dropped.items()}
        rows[place.component] = [Row(place.prefix + row.ours, row.theirs, row.move) for row in made]
        kind = config.get("_class_name") or config["architectures"][0]
        pieces[place.component] = piece(kind, config, rows[place.component], inner, lambda n: read(stored[n]), what)
        left = {n: s for n, s in left.items() if n.removeprefix(place.prefix) not in mine or not n.startswith(place.prefix)}
    for n in left:
        why = _why(n)
        if why is None:
            raise ValueError(f"{what}: the layout {name} does not know the tensor {stored[n]!r}.")
        ignored[stored[n]] = why
    if unknown := sorted(set(given or {}) - set(pieces)):
        raise ValueError(f"given names {unknown[0]!r}, and {what} holds {', '.join(pieces)}.")
    pipeline, scheduler = _whole(name, pieces, inner, lambda n: read(stored[n]), prediction)
    return Single(name, pieces, pipeline, scheduler, ignored, rows, stored, read)


def to_original(layout: str, parts: Mapping[str, tuple[Config, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """An original file of published components: {component: (config.json, {name: tensor})} -> {name: tensor}.

    What an original holds beyond them (noise levels, a text layer that is not used) is not made up.

    Raises:
        ValueError: naming a component that the layout has no place for, or a tensor.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; there are {', '.join(LAYOUTS)}.")
    places = {place.component: place for place in LAYOUTS[layout]}
    made: dict[str, Tensor] = {}
    for component, (config, tensors) in parts.items():
        if component not in places:
            raise ValueError(f"the layout {layout} has no {component!r}; it has {', '.join(places)}.")
        place = places[component]
        table = PARTS[place.part].table(config)
        made |= originals(table.back(tensors, f"the layout {layout}"), tensors.__getitem__, place.prefix)
    return made


def flat(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries and lists, under dotted names, in their order."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    items: Sequence[tuple[Any, Any]] = (
        list(tree.items()) if isinstance(tree, Mapping) else list(enumerate(tree)) if isinstance(tree, (list, tuple)) else []
    )
    made: dict[str, Tensor] = {}
    for key, value in items:
        made |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return made


def _why(name: str) -> str | None:
    return next((why for pattern, why in IGNORED if re.fullmatch(pattern, name)), None)


def _has(part: Part, shapes: Shapes, prefix: str) -> bool:
    return all(prefix + mark in shapes for mark in part.marks) and part.fits(lambda name: shapes.get(prefix + name))


def _there(places: Sequence[Place], shapes: Shapes) -> list[Place]:
    return [place for place in places if _has(PARTS[place.part], shapes, place.prefix)]


def _unwrapped(shapes: Shapes, average: bool | None) -> tuple[dict[str, str], dict[str, str]]:
    """What the weights are called inside the dictionaries of training programs: {inner name: name in the file}, and the rest."""
    if any(n.startswith("ema.shadow_params.") for n in shapes):
        return _shadow(shapes, average is not False)
    for wrapper in sorted(WRAPPERS, key=lambda w: w == "ema.") if average is False else WRAPPERS:
        stored = {n.removeprefix(wrapper): n for n in shapes if n.startswith(wrapper)}
        if layout_inside({inner: shapes[n] for inner, n in stored.items()}):
            rest = {n: "other state of its training" for n in shapes if not n.startswith(wrapper)}
            return (_averaged(stored), rest) if average else (stored, rest)
    return {n: n for n in shapes}, {}


def _shadow(shapes: Shapes, average: bool) -> tuple[dict[str, str], dict[str, str]]:
    """score_sde's average: a list, in the order of the parameters that are trained, that is without the Fourier weights."""
    model = {n.removeprefix("model.").removeprefix("module."): n for n in shapes if n.startswith("model.")}
    trained = [n for n in model if n != "all_modules.0.W" and n.startswith("all_modules.")]
    listed = [n for n in shapes if n.startswith("ema.shadow_params.")]
    if len(listed) != len(trained):
        raise ValueError(f"the average lists {len(listed)} tensors, and the model has {len(trained)} that are trained.")
    for inner, name in zip(trained, listed, strict=True):
        if shapes[model[inner]] != shapes[name]:
            raise ValueError(f"{name!r} of the average has the shape {shapes[name]}, and {inner!r} has {shapes[model[inner]]}.")
    stored = model | dict(zip(trained, listed, strict=True)) if average else model
    used = set(stored.values())
    why = "weights as last trained; their average is used" if average else "the average; the weights as last trained are used"
    return stored, {
        n: why if n in listed or n.startswith("model.") else "other state of its training" for n in shapes if n not in used
    }


def _averaged(stored: Mapping[str, str]) -> dict[str, str]:
    """With LDM's average in place of the weights: its names are those of the model without the dots."""
    swapped = dict(stored)
    for inner in stored:
        if inner.startswith("model.diffusion_model."):
            shadow = "model_ema." + inner.removeprefix("model.").replace(".", "")
            if shadow in stored:
                swapped[inner], swapped[shadow] = stored[shadow], stored[inner]
    return swapped


# What is said beside the weights

_DIFFUSION = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _betas(shapes: Shapes, read: Read) -> dict[str, Any]:
    """The schedule that the file holds, if it is one of roots that are evenly spaced."""
    if "betas" not in shapes:
        return {}
    betas = read("betas").double()
    roots = betas.sqrt()
    even = roots[0] + (roots[-1] - roots[0]) * (roots.new_tensor(range(len(roots))) / max(len(roots) - 1, 1))
    if float((roots - even).abs().max()) > 1e-4:
        return {}
    start, end = (float(f"{float(b):.5g}") for b in (betas[0], betas[-1]))
    return {"num_train_timesteps": len(betas), "beta_start": start, "beta_end": end, "beta_schedule": "scaled_linear"}


def _set_scale(config: dict[str, Any], layout: str, upscaler: bool, shapes: Shapes, read: Read) -> None:
    """Completes an autoencoder's configuration by the scale and shift of its latents, which no tensor tells."""
    small = upscaler or len(config["block_out_channels"]) == 3
    four = 0.13025 if layout.startswith("sdxl") else 0.08333 if small else 0.18215
    sixteen = (1.5305, 0.0609) if layout.startswith("stable-diffusion-3") else (0.3611, 0.1159)
    scale, shift = sixteen if config["latent_channels"] == 16 else (four, None)
    if "scale_factor" in shapes:
        scale = float(read("scale_factor"))
    config.setdefault("scaling_factor", scale)
    config.setdefault("shift_factor", shift)


def _stable_diffusion(
    config: dict[str, Any], layout: str, upscaler: bool, shapes: Shapes, read: Read, prediction: str
) -> tuple[str, dict[str, Any]]:
    """The same of Stable Diffusion's U-Nets; completes the network's configuration."""
    second = layout == "stable-diffusion-2"
    if second and not upscaler and prediction == "v_prediction":
        config.setdefault("upcast_attention", True)  # half precision overflows in those of 768 pixels
    side = {"stable-diffusion-1": 64, "stable-diffusion-2": 96 if prediction == "v_prediction" else 64}.get(layout, 128)
    config.setdefault("sample_size", 128 if upscaler else side)
    base: dict[str, Any] = {**_DIFFUSION, **_betas(shapes, read), "steps_offset": 1, "prediction_type": prediction}
    if "ztsnr" in shapes:
        base |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    xl, inpaint = layout.startswith("sdxl"), config["in_channels"] == 9
    task = "Upscale" if upscaler else "Inpaint" if inpaint else "Img2Img" if layout == "sdxl-refiner" else ""
    name = f"StableDiffusion{'XL' * xl}{task}Pipeline"
    if xl:
        return name, {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **base}
    if second:
        return name, {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, **base}
    return name, {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, **base}


def _whole(
    layout: str, pieces: dict[str, Piece], shapes: Shapes, read: Read, prediction: str | None
) -> tuple[str | None, dict[str, Any] | None]:
    """The class of the pipeline and the configuration of its scheduler; completes what components' configurations leave to it."""
    upscaler = layout == "stable-diffusion-2" and "unet" in pieces and pieces["unet"].config["in_channels"] == 7
    if prediction is None:
        prediction = "v_prediction" if layout == "stable-diffusion-2" or "v_pred" in shapes else "epsilon"
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction is {prediction!r}; it is 'epsilon' or 'v_prediction'.")
    if "vae" in pieces and pieces["vae"].kind == "AutoencoderKL":
        _set_scale(pieces["vae"].config, layout, upscaler, shapes, read)
    if layout.startswith(("autoencoder", "controlnet")):
        return None, None
    if layout in ("stable-diffusion-1", "stable-diffusion-2", "sdxl", "sdxl-refiner") and "unet" in pieces:
        return _stable_diffusion(pieces["unet"].config, layout, upscaler, shapes, read, prediction)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    if layout.startswith("stable-diffusion-3"):
        return "StableDiffusion3Pipeline", {**flow, "shift": 3.0}
    if layout.startswith("flux"):
        config = pieces["transformer"].config
        kind = f"Flux{flux_task(config['in_channels'], config.get('out_channels') or config['in_channels'])}Pipeline"
        if not config["guidance_embeds"]:
            return kind, {**flow, "shift": 1.0}
        dynamic = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        return kind, {**flow, "shift": 3.0, "use_dynamic_shifting": True, **dynamic}
    if layout == "latent-diffusion":
        base = {**_DIFFUSION, "beta_start": 0.0015, "beta_end": 0.0195, **_betas(shapes, read)}
        return "LDMPipeline", {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, **base}
    if layout == "ncsnpp":
        sigmas = read("sigmas").double() if "sigmas" in shapes else None
        low, high, n = (
            (0.01, 1348.0, 2000)
            if sigmas is None
            else (*(float(f"{float(s):.6g}") for s in (sigmas.min(), sigmas.max())), len(sigmas))
        )
        return "ScoreSdeVePipeline", {
            "_class_name": "ScoreSdeVeScheduler", "sigma_min": low, "sigma_max": high, "num_train_timesteps": n, "snr": 0.15,
        }  # fmt: skip
    if layout == "ddpmpp":
        return "ScoreSdeVpPipeline", {"_class_name": "ScoreSdeVpScheduler", "num_train_timesteps": 1000}
    if layout == "consistency":
        return "ConsistencyModelPipeline", {
            "_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0,
            "sigma_data": 0.5, "rho": 7.0,
        }  # fmt: skip
    linear = {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
    }
    if layout == "dit":
        return "DiTPipeline", {"_class_name": "DDIMScheduler", **linear}
    if layout == "guided-diffusion-new-order":  # the model of 64 pixels, whose noise_schedule is cosine in its README
        linear["beta_schedule"] = "squaredcos_cap_v2"
    return "DDPMPipeline", {"_class_name": "DDPMScheduler", **linear, "clip_sample": True, "variance_type": "learned_range"}
