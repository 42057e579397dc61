"""A run in a layout that others read: the folders of a diffusers pipeline, each part under its published names."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from langevin import spec
from langevin.core.schedule import Table
from langevin.files import write
from langevin.networks import Autoencoder, Prompted, UNet
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.tensors import save
from langevin.zoo.families import autoencoders, clip, stable_diffusion
from langevin.zoo.family import Component, published

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def publish(run: Run, out: Path) -> Path:
    """Write unet/, text_encoder/, tokenizer/ and scheduler/ of a run that draws by captions, and model_index.json; of a run that
    is an autoencoder, the folder of one (AutoencoderKL).

    Pictures drawn by captions are pixels, so that no autoencoder is among the parts: whoever reads the folder loads them and runs
    the loop.

    Args:
        out: a folder that is not there yet, or is empty.

    Raises:
        ValueError: for a run whose parts have no published layout, naming what would have to be another, or a folder in use.
    """
    recipe, net = run.recipe, run.denoiser.net
    if isinstance(net, Autoencoder):
        return _autoencoder(net, run, out)
    if run.facts.codec is not None:
        raise ValueError(
            f"run {recipe.name} draws latents, and only runs of pixels have a published layout here; publish one of those."
        )
    if not isinstance(net, Prompted) or not isinstance(net.net, UNet) or net.net.reading is None or run.facts.vocabulary is None:
        raise ValueError(
            f"run {recipe.name} reads no captions through transformers, and only such runs have a published layout here; train "
            "one with text and network.transformer, as the recipe emoji does."
        )
    scheduler = _scheduler(recipe.process)
    _unused(out)
    parts: dict[str, tuple[nn.Module, Component, str]] = {
        "unet": (net.net, stable_diffusion.COMPONENTS[0], "diffusion_pytorch_model.safetensors"),
        "text_encoder": (net.encoder, clip.COMPONENTS[0], "model.safetensors"),
    }
    index: dict[str, Any] = {"_class_name": "DiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    for name, (part, component, file) in parts.items():
        assert component.config is not None
        said = component.config(part)
        if name == "unet":
            said["sample_size"] = run.facts.shape[-1]  # pyright: ignore[reportArgumentType]
        (out / name).mkdir(parents=True)
        write(out / name / "config.json", json.dumps(said, indent=1))
        save(out / name / file, published(part, component.keys(said, part)), {"format": "pt"})
    run.facts.vocabulary.write(out / "tokenizer")
    (out / "scheduler").mkdir()
    write(out / "scheduler" / "scheduler_config.json", json.dumps(scheduler, indent=1))
    index |= {
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }  # fmt: skip
    write(out / "model_index.json", json.dumps(index, indent=1))
    return out


def _unused(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose a new folder.")


def _autoencoder(net: Autoencoder, run: Run, out: Path) -> Path:
    _unused(out)
    part = autoencoders.COMPONENTS[0]
    config = {**autoencoders.config_kl(net), "sample_size": run.facts.shape[-1]}  # pyright: ignore[reportArgumentType]
    out.mkdir(parents=True, exist_ok=True)
    write(out / "config.json", json.dumps(config, indent=1))
    save(out / "diffusion_pytorch_model.safetensors", published(net, part.keys(config, net)), {"format": "pt"})
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
