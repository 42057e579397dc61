"""Whose weights a run's model has: those of another run, of a file, with adapters; and what is written to be used so."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from langevin import adapters
from langevin.config import TrainConfig
from langevin.core.denoiser import Denoiser
from langevin.recipes import config as c
from langevin.tensors import metadata, save
from langevin.training import load_latest
from langevin.training.snapshots import average_run

FORMAT = "langevin-weights-1"


def put(model: Denoiser, weights: Mapping[str, Tensor], path: str | Path, besides: Sequence[str] = ()) -> None:
    """Load weights that fit to the last name and shape.

    Args:
        path: where they came from, for the error.
        besides: conditions of the model that the weights may know nothing of; its own stay.

    Raises:
        ValueError: saying the first that differs; nothing is loaded then.
    """
    own = model.state_dict()
    new = tuple(f"conditions.scalars.{name}." for name in besides)
    weights = {**{n: v for n, v in own.items() if any(part in n for part in new)}, **weights}
    differing = [n for n in own if n not in weights] + [n for n in weights if n not in own]
    differing = differing or [n for n, v in own.items() if v.shape != weights[n].shape]
    if differing:
        name = differing[0]
        there, here = (f"of shape {tuple(t[name].shape)}" if name in t else "absent" for t in (weights, own))
        more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise ValueError(f"{path} does not fit this model: {name} is {there} there and {here} here{more}; use the same network.")
    model.load_state_dict(dict(weights))


def adapt(model: Denoiser, cfg: c.FinetuneConfig, seed: int) -> None:
    """Add the adapters of a recipe, and stop training what it freezes.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    if cfg.lora.rank:
        adapters.lora(model, cfg.lora.rank, cfg.lora.alpha, cfg.lora.targets, cfg.lora.dropout, seed=seed)
    if cfg.freeze is not None:
        adapters.freeze(model, cfg.freeze)


def merge_files(model: Denoiser, strengths: Mapping[Path, float]) -> None:
    """Add the adapters of files into the weights, each at its strength.

    Raises:
        ValueError: if a file is damaged, or is of another network.
    """
    names = {f"file {k}": file for k, file in enumerate(strengths)}
    for name, file in names.items():  # all before any is merged: they know the weights they were trained on
        adapters.load_adapters(model, file, strengths[file], name)
    for name in names:
        adapters.merge(model, name)


def save_adapters(model: Denoiser, run: Path, out: Path) -> Path:
    """Write the adapters that a run has trained.

    Raises:
        ValueError: if it has trained none.
    """
    if not any(".lora." in name for name in model.state_dict()):
        raise ValueError(f"{run} has no adapters; train them with --from RUN --finetune.lora.rank 8.")
    return adapters.save_adapters(model, out)


def write_average(model: Denoiser, run: Path, sigma_rel: float, out: Path, at: int | None = None) -> tuple[Path, dict[str, Any]]:
    """Write all weights of a run's model, its trained ones averaged at another width (see `average_run`); and the record.

    Args:
        model: of the run; it has these weights afterwards.
        at: samples seen; those of the newest snapshot by default.

    Raises:
        ValueError: if the run stored no power-function averages, or none up to then.
    """
    if not any((run / "averages").glob("power-*.safetensors")):
        raise ValueError(
            f"{run} stored no power-function averages, from which others follow; train with "
            "--train.averages power:sigma_rel=0.05 power:sigma_rel=0.1."
        )
    averaged, record = average_run(run, sigma_rel, at)
    put(model, {**model.state_dict(), **averaged}, run / "averages")
    words = f"power:sigma_rel={sigma_rel:g} at {record['samples']} samples"
    said = {"format": FORMAT, "average": words, "record": json.dumps(record)}
    out.parent.mkdir(parents=True, exist_ok=True)
    return save(out, model.state_dict(), said), record


def held(run: Path, train: TrainConfig, weights: str | Path | None) -> tuple[dict[str, Tensor], str]:
    """The weights of the newest whole checkpoint of a run, and which they are, in words.

    Args:
        weights: None or "ema" for the run's average; one of `train.averages` by its words, or "ema.1", "ema.2", ... by its place;
            "last" for the weights as they are.

    Raises:
        ValueError: if there is no whole checkpoint, or none of these is meant.
    """
    parts = {"last": "model", "ema": "ema"} | {f"ema.{k}": f"ema.{k}" for k in range(1, len(train.averages) + 1)}
    parts |= {words: f"ema.{k}" for k, words in enumerate(train.averages, 1)}
    name = "ema" if weights is None else str(weights)
    if name not in parts:
        kinds = ", ".join(["ema", "last", *train.averages])
        raise ValueError(f"weights is {name}, which is no .safetensors file, nor an average of {run}: it has {kinds}.")
    found = load_latest(run / "checkpoints", parts=tuple(dict.fromkeys(("model", parts[name]))))
    if found is None:
        raise ValueError(f"{run} has no whole checkpoint yet; train it, or wait for its first.")
    said = {"ema": f"EMA {train.ema:g}", "model": f"last, of step {found.step}"}
    words = said.get(parts[name]) or train.averages[int(parts[name].removeprefix("ema.")) - 1]
    return {**found.tensors["model"], **found.tensors[parts[name]]}, words  # what was frozen is not averaged


def described(file: Path) -> str:
    """Which weights a file holds, in words."""
    said = metadata(file)
    average = said.get("average") if said.get("format") == FORMAT else None
    return f"weights {file.name}" + (f" ({average[:100]})" if average else "")
