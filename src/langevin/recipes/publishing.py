"""A run in a layout that others read, and `langevin.load`: the folder of a diffusers pipeline, its parts under their published
names."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from langevin import spec
from langevin.core.schedule import Table
from langevin.files import new_folder, write
from langevin.networks import Autoencoder, Prompted, UNet
from langevin.networks.autoencoder import Scale
from langevin.networks.latents import LatentCodec
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.zoo.families import autoencoders, clip, stable_diffusion, unconditional
from langevin.zoo.family import Component
from langevin.zoo.saving import write_part

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
PROMPTED, CODED, BARE = "DiffusionPipeline", "StableDiffusionPipeline", "DDIMPipeline"
"""The published class of text-to-image without an autoencoder, for which diffusers has none of its own, with one, and of
pictures alone."""
UNSAID = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
"""What a StableDiffusionPipeline can have besides, and the warning it gives of it."""


def publish(run: Run, out: Path) -> Path:
    """Write the networks of a run that draws pictures by a U-Net, its tokenizer and scheduler, and model_index.json; of a run
    that is an autoencoder, the folder of one (AutoencoderKL).

    A U-Net that reads captions through transformers becomes unet/, text_encoder/, tokenizer/ and scheduler/, and if it draws
    latents vae/ as well, which is a StableDiffusionPipeline; any other unet/ and scheduler/. `langevin.load(out)` draws what the
    run does. A run of pixels has no autoencoder: in diffusers one that reads nothing is a DDIMPipeline; of one that reads
    captions or classes, load the parts and run the loop.

    Args:
        out: a folder that is not there yet, or is empty.

    Raises:
        ValueError: for a run whose parts have no published layout, naming what would have to be another, or a folder in use.
    """
    if isinstance(run.denoiser.net, Autoencoder):
        return _autoencoder(run.denoiser.net, run, out)
    parts, kind = _parts(run)
    if run.facts.codec is not None and kind != PROMPTED:
        raise ValueError(
            f"run {run.recipe.name} draws latents and reads no captions, which has no published layout here; publish a run of "
            "pixels, or one that reads captions, as the recipe emoji does."
        )
    if run.facts.codec is not None:
        parts["vae"], kind = (_plain(run.codec), autoencoders.COMPONENTS[0]), CODED
    scheduler = _scheduler(run.recipe.process)
    index: dict[str, Any] = {"_class_name": kind, **(UNSAID if kind == CODED else {})}
    with new_folder(out) as beside:
        for name, (net, component) in parts.items():
            assert component.config is not None
            said = component.config(net)
            if name in ("unet", "vae"):
                shape = run.facts.codec.pictures if name == "vae" and run.facts.codec else run.facts.shape
                said["sample_size"] = shape[-1]  # pyright: ignore[reportArgumentType]
            write_part(beside / name, net, component.name, said)
            index[name] = ["diffusers" if "_class_name" in said else "transformers", component.name]
        if run.facts.vocabulary is not None:
            run.facts.vocabulary.write(beside / "tokenizer")
            index["tokenizer"] = ["transformers", "CLIPTokenizer"]
        write(beside / "scheduler" / "scheduler_config.json", json.dumps(scheduler, indent=1))
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        write(beside / "model_index.json", json.dumps(index, indent=1))
    return out


def _parts(run: Run) -> tuple[dict[str, tuple[nn.Module, Component]], str]:
    """The networks of a run, each with its published form, and the class of their pipeline."""
    net, name = run.denoiser.net, run.recipe.name
    if (
        isinstance(net, Prompted)
        and isinstance(net.net, UNet)
        and net.net.reading is not None
        and run.facts.vocabulary is not None
    ):
        return {"unet": (net.net, stable_diffusion.COMPONENTS[0]), "text_encoder": (net.encoder, clip.COMPONENTS[0])}, PROMPTED
    if isinstance(net, Prompted):
        raise ValueError(
            f"run {name} reads its captions in a way that has no published layout here; train one with network.transformer, as "
            "the recipe emoji does."
        )
    if not isinstance(net, UNet):
        raise ValueError(
            f"run {name} has a {type(net).__name__}, and only U-Nets have a published layout here; use network 'unet'."
        )
    part = unconditional.COMPONENTS[0]
    assert part.config is not None
    try:
        part.config(net)
    except ValueError as error:
        raise ValueError(f"run {name}: {str(error).rstrip('.')}; train one with --network.style ddpm.") from None
    return {"unet": (net, part)}, BARE


def _plain(codec: LatentCodec | None) -> Autoencoder:
    """The autoencoder whose latents, times the one factor that a StableDiffusionPipeline knows, are those that are diffused: a
    shift, and the means and deviations of channels, are moved into the convolutions of size 1 at both ends of the latents."""
    assert codec is not None
    net, scale = copy.deepcopy(codec.net), codec.scale
    if not net.gaussian or (not scale.shift and scale.mean is None):
        net.scale = scale
        return net
    mean = torch.full((net.latents,), scale.shift, dtype=torch.float64)
    std = torch.ones_like(mean)
    if scale.mean is not None and scale.std is not None:
        mean, std = mean.new_tensor(scale.mean), mean.new_tensor(scale.std)
    for name, width in (("behind", 2 * net.latents), ("before", net.latents)):
        if not isinstance(getattr(net, name), nn.Conv2d):
            made = nn.Conv2d(width, width, 1).to(next(net.parameters()))
            nn.init.dirac_(made.weight)
            nn.init.zeros_(made.bias)  # pyright: ignore[reportArgumentType]
            setattr(net, name, made)
    # (mean, ln variance) -> ((mean - m) / s, ln variance - 2 ln s), and back in the decoder's
    down, up = net.behind, net.before
    assert isinstance(down, nn.Conv2d) and isinstance(up, nn.Conv2d) and down.bias is not None and up.bias is not None
    by = torch.cat([1 / std, torch.ones_like(std)])
    with torch.no_grad():
        down.weight.copy_(down.weight.double() * by[:, None, None, None])
        down.bias.copy_((down.bias.double() - torch.cat([mean, 2 * std.log()])) * by)
        up.bias.copy_(up.bias.double() + up.weight[..., 0, 0].double() @ mean)
        up.weight.copy_(up.weight.double() * std[None, :, None, None])
    net.scale = Scale(scale.factor, upcast=scale.upcast)
    return net


def _autoencoder(net: Autoencoder, run: Run, out: Path) -> Path:
    part = autoencoders.COMPONENTS[0]
    config = {**autoencoders.config_kl(net), "sample_size": run.facts.shape[-1]}  # pyright: ignore[reportArgumentType]
    with new_folder(out) as beside:
        write_part(beside, net, part.name, config)
    return out


def _scheduler(process: c.ProcessConfig) -> dict[str, Any]:
    """scheduler_config.json of a process on a published table."""
    from langevin import schedules
    from langevin.core.prediction import PREDICTIONS as ALL

    if not isinstance(process, c.GaussianConfig):
        raise ValueError(f"process is {process.kind!r}, and only Gaussian ones have a published layout here.")
    schedule = spec.parse(process.schedule, schedules.SCHEDULES, "schedule")
    prediction = spec.parse(process.prediction, ALL, "prediction")
    if not isinstance(schedule, Table) or prediction.name not in PREDICTIONS or prediction.level_name != "index":
        raise ValueError(
            f"process is {process.schedule} with {process.prediction}; what is published stands on a table of betas and is shown "
            "the index of the level, as betas:kind=scaled_linear with v:level=index."
        )
    words = [o.partition("=") for o in process.schedule.partition(":")[2].split(",") if o]
    options = {name: value for name, _, value in words}
    kinds = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    kind = options.get("kind", "linear")
    ends = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}.get(kind, (1e-4, 0.02))
    return {
        "_class_name": "DDIMScheduler", "num_train_timesteps": schedule.size, "beta_schedule": kinds[kind],
        "beta_start": float(options.get("start", ends[0])), "beta_end": float(options.get("end", ends[1])), "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": PREDICTIONS[prediction.name],
        "timestep_spacing": "leading",
    }  # fmt: skip
