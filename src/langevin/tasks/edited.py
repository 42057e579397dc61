"""Edits of pictures by a generator: the noise that a picture comes from under one prompt, carried down under another.

B pictures, C latent channels, h w latents
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import home
from langevin.core.plan import Draft
from langevin.core.sample import Guidance, sample
from langevin.plans.first_order import ddim
from langevin.plans.inversion import inversion
from langevin.tasks.asked import rows
from langevin.tasks.contract import Result
from langevin.tasks.inputs import Pictures
from langevin.tasks.nulls import invert_through
from langevin.tasks.reading import FREE, further
from langevin.tasks.resolved import Job, conditions, resolve

STATES = ("tokens", "pooled")
"""What null conditions are moved of: states of a text. Masks of tokens and sizes stay as they are."""
READS = (
    "negative", "label", "size", "seed", "first_id", "control", "control_scale", "control_levels", "clip_skip", "weighted",
    "long", "length", "adapters",
)  # fmt: skip
"""Options of a request that say what a picture is told of, and so belong to its inversion."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """Where pictures come from, see `Generator.invert`.

    Args:
        noise: (B, C, h, w), the state at level 1. latents: (B, C, h, w) of the pictures.
        guidance: by which `plan` leads from one to the other: 1 for none, what the model is told, or `Nulls`.
        missed: (B,) relative distance from `latents` of where that leads.
        said: the request's other options. digests: SHA-256 of the pictures.
    """

    noise: Tensor
    latents: Tensor
    guidance: float | Guidance
    plan: Draft
    missed: Tensor
    said: Mapping[str, Any]
    digests: Sequence[str]

    @property
    def options(self) -> dict[str, Any]:
        """Those of `Generator.run` by which the same prompt draws the pictures again: `model.run(prompt, **found.options)`."""
        return {**self.said, "start": self.noise, "plan": self.plan, "guidance": self.guidance}


def invert(
    model: Any,
    image: Pictures,
    prompt: str | Sequence[str] | None,
    steps: int,
    guidance: float | None,
    exact: bool,
    iterations: int,
    rate: float,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Inversion:
    """See `Generator.invert`; `defaults` of a request's own options."""
    if model.takes not in FREE:
        raise ValueError(
            f"this model reads further pictures ({model.takes!r}) beside its state, and noise alone does not lead back; "
            "invert by a model that reads none, such as the one it was made from."
        )
    if guidance is not None and not isinstance(guidance, (int, float)):
        raise ValueError(f"guidance is {guidance!r}; inversion leads through classifier-free guidance of one strength, a number.")
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; give how often each null condition is moved, 0 to leave it as it is.")
    extra = {name: value for name, value in options.items() if name not in defaults}
    for name in options:
        if name in defaults and name not in READS:
            raise ValueError(
                f"{name} says how a picture is drawn, and this one is there; leave it out. There are {', '.join(READS)}."
            )
    said = {**defaults, **options, "prompt": prompt, "image": image, "strength": 1.0, "guidance": guidance, "plan": ddim(steps)}
    job = resolve(model, {name: value for name, value in said.items() if name in defaults}, extra, defaults)
    assert job.pictures is not None and job.w is not None
    through = job.wants and bool(job.prompts or job.labels)
    if through and job.prompts is None and iterations:
        raise ValueError(
            f"guidance is {job.w:g}, and the null of a model of classes is its network's own, which is not moved; give "
            "guidance=1, or iterations=0."
        )
    _refuse_idle(model, {"iterations": iterations, "rate": rate}, through, job.w)
    if len(job.spans) > 1:
        raise ValueError(
            "adapters differ between pictures, which are inverted together; give one mapping, or invert them one by one."
        )
    keep: dict[str, Any] = {name: value for name, value in options.items() if value is not None} | {"size": job.size}
    if job.total > 1 and (prompt is None or isinstance(prompt, str)) and not isinstance(options.get("label"), Sequence):
        keep["count"] = job.total
    with job.at(model, job.spans[0]):
        noise, latents, by, missed = _way(model, job, said, steps, exact, iterations if through else 0, rate)
    return Inversion(noise, latents, by, ddim(steps), missed, keep, job.hashes["image"])


def _refuse_idle(model: Any, said: Mapping[str, Any], through: bool, w: float) -> None:
    """Refuse what is said of null conditions where none is moved.

    Args:
        through: whether the way leads through guidance of strength w. said: iterations and rate.
    """
    usual = inspect.signature(type(model).invert).parameters
    for name, value in said.items():
        read = through and (name == "iterations" or said["iterations"] > 0)
        if value == usual[name].default or read or (name == "iterations" and not value):
            continue
        why = "iterations is 0" if through else f"guidance is {w:g}" if w == 1 else "this model is told its guidance"
        raise ValueError(f"{name} is {value:g}, of null conditions that guidance leads away from, and {why}; leave it out.")


def _way(
    model: Any, job: Job, said: Mapping[str, Any], steps: int, exact: bool, iterations: int, rate: float
) -> tuple[Tensor, Tensor, float | Guidance, Tensor]:
    """Noise, latents, the guidance that leads from one to the other, and how far it misses."""
    assert job.pictures is not None and job.w is not None
    cond, null = conditions(model, job, said, job.spans[0])
    device, x = home(model.denoiser)[0], torch.cat(job.pictures)
    noise = job.noise(range(job.total), device)
    latents = model.encode(x, noise, device, job.dtype)
    for name, value in further(model, x, None, [torch.cat(h) for h in job.hints], job.noise_level, noise).items():
        cond[name] = value.to(device, job.dtype if value.is_floating_point() else None)
    if iterations:
        assert null is not None
        whole = {name: value.expand(job.total, *value.shape[1:]) for name, value in null.items()}
        free = {name: value for name, value in whole.items() if name in STATES}
        rest = {name: value for name, value in whole.items() if name not in STATES}
        found = invert_through(job.denoiser, latents, cond, free, job.w, steps, iterations, rate, exact, rest)
        return found.noise, latents, found.guidance, found.missed
    way: dict[str, Any] = {"shape": job.shape, "cond": cond or None}
    start = sample(job.denoiser, inversion(steps, exact), job.total, start=latents, **way)
    back = sample(job.denoiser, ddim(steps), job.total, start=start, guidance=job.guidance(null, bool(cond)), **way)
    missed = (back - latents).flatten(1).norm(dim=1) / latents.flatten(1).norm(dim=1).clamp(min=1e-12)
    return start, latents, job.w, missed


def edit(model: Any, found: Inversion, source: Any, target: Any, **options: Any) -> Result:
    """Pictures of an inversion under other prompts, or labels. Their records say under "edited" what they were.

    Args:
        options: further ones of `Generator.run`.
    """
    total = len(found.noise)
    was, now = (
        rows([one] if isinstance(one, (str, int)) else list(one), name, total, 1)
        for name, one in (("source", source), ("target", target))
    )
    said = {name: value for name, value in found.options.items() if name not in ("count", "label")}
    made = model.run(**said, **options, **told(model, now))
    info = []
    for k, record in enumerate(made.info):
        missed = float(f"{float(found.missed[k]):.3g}")
        info.append({**record, "edited": {"image": found.digests[k], "from": was[k], "missed": missed}})
    return dataclasses.replace(made, info=info)


def told(model: Any, what: Any) -> dict[str, Any]:
    """A prompt, or the label of a model of classes, as an option."""
    return {"prompt" if model.defaults.classes is None else "label": what}
