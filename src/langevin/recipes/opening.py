"""From the directory of a run back to its objects."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from langevin.adapters import merge
from langevin.config import Closed
from langevin.core.messages import one_line
from langevin.devices import device_of
from langevin.files import parse_json, read_plain
from langevin.guidance import AutoGuidance, Exploration
from langevin.recipes import config as c
from langevin.recipes import latents
from langevin.recipes.build import Run, build
from langevin.recipes.facts import FACTS_FILE, RECIPE_FILE, Facts
from langevin.recipes.weights import described, held, merge_files, put
from langevin.tensors import load

_LIMIT = 2**20

M = TypeVar("M", bound=Closed)


def open_run(
    path: str | Path, weights: str | Path | None = None, adapters: Mapping[Path, float] | None = None, *, device: str = "cpu",
    codec: str | Path | None = None,
) -> Run:  # fmt: skip
    """A trained run, by default with the averaged weights of its newest whole checkpoint, in eval mode.

    Args:
        weights: a safetensors file of all weights to use instead, such as `langevin ema` writes; or another of the run's own, by
            name (`recipes.weights.held`): one of `train.averages`, or "last".
        adapters: strengths by file, such as `langevin lora` writes; they are merged into the weights.
        device: of the weights; "auto" is a GPU where there is one.
        codec: where the autoencoder of a run of latents is now, if it has moved; it is known by its hash.

    Raises:
        ValueError: if the directory is no run, or has no whole checkpoint, or a file does not fit.
    """
    path, place = Path(path), device_of(device)
    run = build(read_recipe(path), latents.moved(read_facts(path), codec))
    if weights is not None and Path(weights).suffix == ".safetensors":
        put(run.denoiser, load(weights), weights)
        words = described(Path(weights))
    else:
        tensors, words = held(path, run.recipe.train, weights)
        put(run.denoiser, tensors, path)
    merge_files(run.denoiser, adapters or {})
    run.denoiser.to(place).eval().requires_grad_(False)
    said = [words]
    said += [f"adapters {file.name} at {strength:g}" for file, strength in (adapters or {}).items()]
    asked = {"weights": weights, "codec": codec}
    loaded: dict[str, Any] = {name: str(value) for name, value in asked.items() if value is not None}
    if adapters:
        loaded["lora"] = [f"{file}:{strength:g}" for file, strength in adapters.items()]
    return replace(run, folder=path, weights=" with ".join(said), loaded=loaded)


def led_away(run: Run, weaker: str | Path, w: float, device: str = "cpu") -> tuple[Run, AutoGuidance]:
    """An opened run whose samples say that they were led away from other weights of its own, such as an earlier average, and the
    guidance that does so, to be drawn with as `draw(run, count, steer=guidance)`.

    Args:
        weaker: as `weights` of `open_run`.
        w: see `guidance.AutoGuidance`.
    """
    assert run.folder is not None
    other = open_run(run.folder, weaker, device=device, codec=run.loaded.get("codec"))
    return replace(run, loaded={**run.loaded, "weaker": str(weaker), "apart": w}), AutoGuidance(other.denoiser, w)


def exploring(run: Run, lam: float) -> tuple[Run, Exploration]:
    """An opened run whose samples say that they were drawn beyond its data, and the guidance that does so, to be drawn with as
    `draw(run, count, steer=guidance)`.

    Args:
        lam: how far; see `guidance.Exploration`.
    """
    return replace(run, loaded={**run.loaded, "explore": lam}), Exploration(lam)


def weights_of(origin: Path) -> dict[str, Tensor]:
    """Averaged weights of a run, its adapters merged, or those of a file."""
    if not origin.is_dir():
        return load(origin)
    run = open_run(origin)
    if run.recipe.finetune.lora.rank:
        merge(run.denoiser)
    return dict(run.denoiser.state_dict())


def read_recipe(path: str | Path) -> c.Recipe:
    """The recipe of a run directory.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    return read_as(Path(path) / RECIPE_FILE, c.Recipe)


def read_facts(path: str | Path) -> Facts:
    """What the run in a directory knows of its data.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    return read_as(Path(path) / FACTS_FILE, Facts)


def read_as(file: Path, kind: type[M]) -> M:
    """What stands in a JSON file of a run's directory, as a settings class. Raises ValueError as `read_recipe`."""
    if not file.exists() and (file.parent / "checkpoints").is_dir():
        raise ValueError(
            f"{file.parent} is what lv.fit left, with no recipe: build its denoiser again and call lv.fit(..., resume=True), "
            "or load its weights as docs/training.md says."
        )
    if not file.exists() and (file.parent / "model_index.json").is_file():
        raise ValueError(f"{file.parent} is a published model, and no run; use langevin generate, or lv.load.")
    if not file.exists():
        raise ValueError(f"{file.parent} is no run directory: it has no {file.name}; give what `langevin train --out` made.")
    raw = read_plain(file, _LIMIT)
    parse_json(raw, file)  # a field that stands twice would have two meanings
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}"
        raise ValueError(f"{file} is damaged at {one_line(said, 400)}.") from None
