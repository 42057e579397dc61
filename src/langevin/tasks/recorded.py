"""How a picture was made: every option that was not left as it is, in one mapping of plain values."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from langevin.config import PICTURES

PLAIN = (
    "rescale", "strength", "paste", "control_scale", "control_levels", "guess", "noise_level", "clip_skip", "weighted", "long",
    "length",
)  # fmt: skip
"""Options that are recorded as they are said."""


def digest(x: Tensor) -> str:
    """SHA-256 of a picture's shape and values."""
    values = x.detach().float().cpu().contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()


def options_of(
    said: Mapping[str, Any], defaults: Mapping[str, Any], extra: Mapping[str, Any], hashes: Mapping[str, Any]
) -> dict[str, Any]:
    """What the pictures of a request share, by the options' names, and under "unsaid" the options that no plain value tells.

    Args:
        said: the request's own options. defaults: of them. extra: its further ones. hashes: of the pictures in either.
    """
    made = {name: _plain(said[name]) for name in PLAIN if said[name] != defaults[name]}
    unsaid = [name for name in ("guidance", "plan") if said[name] is not None and not isinstance(said[name], (int, float, str))]
    unsaid += ["start"] * (said["start"] is not None)
    if said["cache"] is not None:
        word = getattr(said["cache"], "word", None)
        made |= {} if word is None else {"cache": word}
        unsaid += ["cache"] * (word is None)
    for name, value in extra.items():
        if name in hashes:
            made[name] = hashes[name]
            continue
        try:
            made[name] = json.loads(json.dumps(_plain(value), allow_nan=False))
        except (TypeError, ValueError):
            unsaid.append(name)
    return {**made, **({"unsaid": unsaid} if unsaid else {})}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, Sequence)) and not isinstance(value, str) else value


def request_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a request, as arguments of `Generator.run`: `model.run(**request_of(read_record(path)))`.

    Pictures are recorded by their hashes alone, and feature caches by their word: give `image`, `cache` and the like as well.
    `loaded`, what the model was loaded with, is no part of a request; the strengths at which its adapters stood are.

    Raises:
        ValueError: if an option was of a kind that no record tells.
    """
    if unsaid := record.get("unsaid"):
        raise ValueError(f"the record does not tell {' and '.join(unsaid)}, given as an object; draw with one of your own.")
    about = ("model", "fingerprint", "sampler", "dtype", "loaded", "words", "controlnets", "id", "cache", *PICTURES)
    made = {name: value for name, value in record.items() if name not in about}
    if "plan" in made:
        made.pop("steps", None)  # which are its own
    if "size" in made:
        made["size"] = tuple(made["size"])
    if "control_levels" in made:
        made["control_levels"] = tuple(made["control_levels"])
    return {**made, "first_id": record.get("id", 0)}
