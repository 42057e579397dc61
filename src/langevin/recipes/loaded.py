"""A published model of pixels where a run is asked for: with pictures that are given, in place of held-out ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langevin.devices import device_of
from langevin.recipes import config as c
from langevin.recipes import recipe
from langevin.recipes.build import Run
from langevin.recipes.domains.given import of_folder
from langevin.recipes.facts import RECIPE_FILE, Facts
from langevin.recipes.opening import open_run


def open_either(
    path: str | Path, what: str, pictures: Path | None = None, given: str | None = None, device: str = "cpu", **options: Any
) -> Run:
    """A run, or what a published model of pixels is as one.

    Args:
        what: the task, for messages. pictures: a folder of them, for a published model, which has none of its own.
        given: what was given in their place, None for nothing. options: of `open_run`, of runs alone.

    Raises:
        ValueError: as `open_run`, or for a model that reads texts or classes, draws latents or leaps to the end of its flow.
    """
    if (Path(path) / RECIPE_FILE).is_file() or not _published(path):
        if pictures is not None:
            raise ValueError(
                f"pictures is {pictures}, which is for published models, and {path} has no model_index.json, as they have; "
                "leave it out."
            )
        return open_run(path, device=device, **options)
    for name, value in options.items():
        if value:
            raise ValueError(f"{name} is {value}, which is of runs, and {path} is a published model; leave it out.")
    if pictures is None and given is None:
        raise ValueError(f"{path} is a published model, which has no held-out pictures; say --pictures FOLDER.")
    return run_of(path, what, pictures, device)


def _published(path: str | Path) -> bool:
    return Path(path).is_file() or (Path(path) / "model_index.json").is_file()


def run_of(path: str | Path, what: str, pictures: Path | None = None, device: str = "cpu") -> Run:
    """What a published model of pixels is as a run: its denoiser, the shape of its pictures, and those in a folder, all held out.

    Raises:
        ValueError: saying why it is none.
    """
    from langevin.zoo.load import load

    model = load(path, device=device_of(device))
    if isinstance(model, Mapping) or not hasattr(model, "run"):
        raise ValueError(f"{path} is one part of a model; give the folder that has model_index.json.")
    kind, shape = getattr(model.origin, "kind", ""), model.denoiser.shape
    reasons = {
        "reads texts": model.conditioner is not None,
        "draws classes": model.defaults.classes is not None,
        "draws latents, or pictures in a range of its own": model.codec is not None,
        "says where its flow ends and not which way it goes": kind == "ConsistencyModelPipeline",
    }
    for why, so in reasons.items():
        if so:
            raise ValueError(f"{what} takes published models that draw pixels from noise alone, and {path} {why}; give another.")
    channels, _, width = shape
    data = c.ImagesData(size=width, channels=channels, labels=False)
    made = recipe("digits").model_copy(update={"name": model.name, "about": f"{path}, as published", "data": data})
    run = Run(made, model.denoiser, Facts(shape=shape, classes=None))
    if pictures is None:
        return run
    held = of_folder(run, pictures, given=False)
    return run._sharing({"_splits": (held, held)})
