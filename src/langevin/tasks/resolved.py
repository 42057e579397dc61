"""A request whose options are resolved, row by row: a row is a picture.

B pictures, C latent channels, H W pixels, h w latents
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, home
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance
from langevin.guidance import CFG
from langevin.plans import begin, counted, parse
from langevin.sampling import named, names
from langevin.tasks.asked import refuse_unread, rows
from langevin.tasks.contract import Progress
from langevin.tasks.inputs import each, mask_of, several, sized
from langevin.tasks.reading import FREE, refuse_missing, under_hints
from langevin.tasks.recorded import digest, options_of
from langevin.text.conditioning import Request


@dataclass(frozen=True, eq=False)
class Job:
    """What a request comes to.

    Args:
        size: (width, height). shape: (C, h, w) of a state. total: how many pictures.
        prompts, against, labels, pictures, masks, hints: one for each, where there are any.
        hashes: of the pictures that were given, by option, one for each row.
        w: of guidance, None where an object was given. steps: evaluations.
        wants: whether conditions of what is led away from are needed. told: of the conditioner, beside the prompts.
        plan: as it was said; filled: on the model's schedule, None where nothing is drawn.
        strengths: of adapters, one mapping for each.
        seeds, ids: of each picture.
        guidance: made of the conditions that are led away from, and of whether there are others.
    """

    size: tuple[int, int]
    shape: tuple[int, ...]
    total: int
    dtype: torch.dtype
    prompts: list[str] | None
    against: list[str] | None
    labels: list[int] | None
    pictures: list[Tensor] | None
    masks: list[Tensor] | None
    hints: list[list[Tensor]]
    hashes: Mapping[str, Any]
    w: float | None
    steps: int
    wants: bool
    told: Mapping[str, Any]
    level: float
    noise_level: int
    start: Tensor | None
    plan: str | Plan | Draft | None
    filled: Plan | None
    denoiser: BaseDenoiser
    guidance: Callable[[Cond, bool], Guidance | None]
    strengths: list[Mapping[str, float]] | None
    guess: bool
    paste: bool
    seeds: list[int]
    ids: list[int]
    callback: Callable[[Progress], None] | None

    @property
    def spans(self) -> list[range]:
        """The rows, in parts whose adapters are of the same strengths."""
        told = self.strengths
        cuts = [k for k in range(1, self.total) if told is not None and told[k] != told[k - 1]]
        return [range(a, b) for a, b in zip([0, *cuts], [*cuts, self.total], strict=True)]

    def noise(self, span: range, device: torch.device) -> Noise:
        """What is drawn for a part of the rows."""
        return named(self.seeds[span.start : span.stop], self.ids[span.start : span.stop], len(span), device)

    def at(self, model: Any, span: range) -> AbstractContextManager[None]:
        """Within, adapters are of a span's strengths."""
        return nullcontext() if self.strengths is None else model.adapted(model, self.strengths[span.start])


def resolve(model: Any, said: Mapping[str, Any], extra: Mapping[str, Any], defaults: Mapping[str, Any]) -> Job:
    """What a request to a `Generator` comes to.

    Args:
        said: its own options, all of them. extra: what its conditioner takes. defaults: of its own options.

    Raises:
        ValueError: naming what does not fit the model, and what does.
    """
    refuse_unread(said, extra, defaults, model.conditioner)
    _refuse_idle(model, said, defaults)
    image, mask, control, count = said["image"], said["mask"], said["control"], said["count"]
    pictures = None if image is None else several(image)
    masks = None if mask is None else each(mask)
    hints = [] if control is None else [several(c) for c in (control if isinstance(control, Sequence) else [control])]
    asked = said["adapters"]
    strengths = None if asked is None else [dict(one) for one in ([asked] if isinstance(asked, Mapping) else asked)]
    found = [len(values) for values in (pictures, masks, strengths, *hints) if values is not None]
    prompts, labels, asked = _asked(model, said["prompt"], said["label"], count, max(found, default=1))
    refuse_missing(model, image, mask, hints, said["noise_level"])
    total, size = asked * count, _size(model, said["size"], pictures)
    batch, cache, guidance, steps = said["batch"], said["cache"], said["guidance"], said["steps"]
    if batch is not None and (batch < 1 or (cache is not None and batch < total)):
        raise ValueError(f"batch is {batch}; give at least 1, and leave it out with a cache, which remembers one run.")
    factor = model.codec.factor if model.codec is not None else 1
    shape = (_channels(model), size[1] // factor, size[0] // factor)
    told = model.defaults.told
    w = guidance if isinstance(guidance, (int, float)) else model.defaults.guidance if guidance is None else None
    guided = not told and w is not None and w != 1
    if guided and w == 0 and model.conditioner is not None:
        told_off = "guidance is 0, which draws the negative prompt alone here; 1 is none, what others call 0."
        warnings.warn(told_off, stacklevel=3)
    wants = guided or (guidance is not None and w is None)
    _refuse_unguided(said, extra, guided, wants)
    against = said["negative"]
    if prompts is not None and against is not None:
        against = rows([against] if isinstance(against, str) else list(against), "negative", asked, count)

    # where to begin, and how to go
    level, start, plan = _beginning(model, said, pictures, total), said["start"], said["plan"]
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; ask for at least 1, or leave it out for the publisher's number.")
    many = model.defaults.steps if steps is None else steps
    if plan is not None:
        plan = _counted(plan, steps, many)
    seeds, ids = names(said["seed"], said["first_id"], total)
    denoiser = under_hints(model, said["control_scale"], said["control_levels"], said["guess"])
    small = model.takes == "upscale"
    return Job(
        size=size,
        shape=shape,
        total=total,
        dtype=home(model.denoiser)[1] or torch.float32,
        prompts=prompts,
        against=against,
        labels=labels,
        pictures=pictures and rows([p if small else sized(p, size) for p in pictures], "image", asked, count),
        masks=None if masks is None else rows([mask_of(m, size) for m in masks], "mask", asked, count),
        hints=[rows([sized(h, size) for h in hint], "control", asked, count) for hint in hints],
        hashes={
            "image": pictures and rows([digest(p) for p in pictures], "image", asked, count),
            "mask": None if masks is None else rows([digest(mask_of(m)) for m in masks], "mask", asked, count),
            "control": [rows([digest(h) for h in hint], "control", asked, count) for hint in hints],
        },
        w=w,
        steps=many,
        wants=wants,
        told={**extra, **({"guidance": model.defaults.guidance if w is None else w} if told else {})},
        level=level,
        noise_level=said["noise_level"],
        start=start,
        plan=plan,
        filled=None if level == 0 and pictures is not None else _filled(model, plan, many, level, shape),
        denoiser=denoiser if cache is None else cache(denoiser),
        guidance=lambda null, any_: _guidance(model, guidance, w, guided, null, said["rescale"], any_),
        strengths=None if strengths is None else rows(strengths, "adapters", asked, count),
        guess=said["guess"],
        paste=said["paste"],
        seeds=seeds,
        ids=ids,
        callback=said["callback"],
    )


def conditions(
    model: Any, job: Job, said: Mapping[str, Any], span: range
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:  # fmt: skip
    """The conditions of some pictures of a job, (B, ...) each, and of what they are led away from, (B, ...) or (1, ...)."""
    part = slice(span.start, span.stop)
    cond: dict[str, Tensor] = {}
    null: dict[str, Tensor] | None = None
    if job.prompts is not None and model.conditioner is not None:
        texts = {name: said[name] for name in ("clip_skip", "weighted", "long", "length")}
        likes = job.told.get("like")
        more = {"like": likes[part]} if isinstance(likes, (list, tuple)) and len(likes) == job.total else {}
        asked = Request(
            job.prompts[part], job.against and job.against[part], job.size, job.wants, **texts, extra={**job.told, **more}
        )
        read, away = model.conditioner(asked)
        cond, null = dict(read), None if away is None else dict(away)
    if job.labels is not None:
        cond["label"] = torch.tensor(job.labels[part])
    if job.guess:
        cond["control"] = torch.ones(len(span))
        null = null if null is None else {**null, "control": torch.zeros(1)}
    device = home(model.denoiser)[0]

    def there(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: v.to(device, job.dtype if v.is_floating_point() else None) for n, v in values.items()}

    return there(cond), null and there(null)


def records(
    model: Any, job: Job, said: Mapping[str, Any], extra: Mapping[str, Any], defaults: Mapping[str, Any], used: int
) -> list[dict[str, Any]]:
    """How each picture was made, in plain values.

    Args:
        used: evaluations.
    """
    named = {"model": model.name, "fingerprint": model.fingerprint, "loaded": dict(model.loaded)}
    about = {**{name: value for name, value in named.items() if value}, **({} if model.facts is None else model.facts(model))}
    likes = {"like": [digest(p) for p in several(extra["like"])]} if extra.get("like") is not None else {}
    shared = {
        **about,
        "dtype": str(job.dtype).removeprefix("torch."),
        "size": list(job.size),
        "steps": job.steps if job.plan is None or job.filled is None else used,
        "guidance": job.w,
        "plan": job.plan if isinstance(job.plan, str) else None,
        "sampler": None if job.filled is None else job.filled.name,
        **options_of(said, defaults, extra, likes),
    }
    own = {"seed": job.seeds, "prompt": job.prompts, "negative": job.against, "label": job.labels}
    own |= {"image": job.hashes["image"], "mask": job.hashes["mask"]}
    made: list[dict[str, Any]] = []
    for k in range(job.total):
        one = {"id": job.ids[k], **{name: values[k] for name, values in own.items() if values is not None}}
        if job.strengths is not None:
            one["adapters"] = {**about.get("adapters", {}), **job.strengths[k]}
        one["control"] = [hint[k] for hint in job.hashes["control"]] or None
        made.append({name: value for name, value in {**shared, **one}.items() if value is not None})
    return made


def process_of(model: Any) -> Gaussian:
    """
    Raises:
        ValueError: unless the model has one Gaussian process.
    """
    if not isinstance(model.denoiser.process, Gaussian):
        raise ValueError(f"pictures are drawn by one Gaussian process, and the model's is {model.denoiser.process}.")
    return model.denoiser.process


def _refuse_idle(model: Any, said: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse what other models read and this one does not."""
    if said["negative"] is not None and model.conditioner is None:
        raise ValueError("this model reads no text, so nothing can be led away from; leave negative= out.")
    if (
        isinstance(w := said["guidance"], (int, float))
        and w != 1
        and model.conditioner is None
        and model.defaults.classes is None
    ):
        raise ValueError(f"guidance is {w:g}, and this model has no condition to strengthen; leave it out.")
    if said["negative"] is not None and model.defaults.told and not callable(said["guidance"]):
        raise ValueError(
            f"negative is {said['negative']!r}, and this model is told its guidance, which leads away from nothing; leave "
            "negative= out, or give guidance=CFG(2.0) as well."
        )
    if said["adapters"] and model.adapted is None:
        raise ValueError("adapters is told, and this model was not loaded from a published layout, so it has none; leave it out.")
    if said["mask"] is None and said["paste"] != defaults["paste"]:
        raise ValueError(f"paste is {said['paste']}, and no mask says what is painted anew; give mask= as well, or leave it out.")
    for name in ("control_scale", "control_levels", "guess"):
        if said[name] != defaults[name] and not model.controls:
            raise ValueError(f"{name} is {said[name]}, and the model is under no ControlNet; leave it out.")
    if said["guess"] and callable(said["guidance"]):
        raise ValueError("guess leaves hints out of the half that is led away from; give guidance as a number.")
    if said["noise_level"] != defaults["noise_level"] and model.takes != "upscale":
        raise ValueError(f"noise_level is {said['noise_level']}, which models read that enlarge a picture; leave it out.")


def _refuse_unguided(said: Mapping[str, Any], extra: Mapping[str, Any], guided: bool, wants: bool) -> None:
    """Refuse what is read of guidance alone, where nothing is led away from.

    Args:
        guided: by a number. wants: whether conditions of what is led away from are needed, by whatever guidance.
    """
    if said["rescale"] and not guided:
        own = "an object, which rescales by itself" if wants else "1, or what the model is told"
        raise ValueError(f"rescale is {said['rescale']:g}, of guidance by a number above 1, and guidance is {own}; leave it out.")
    away = {"negative": said["negative"], **{name: value for name, value in extra.items() if name.startswith("negative_")}}
    for name, value in away.items():
        if value not in (None, "") and not wants:
            raise ValueError(
                f"{name} is {value!r}, and guidance is 1, which leads away from nothing; give more, or leave it out."
            )


def _asked(
    model: Any, prompt: str | Sequence[str] | None, label: int | Sequence[int] | None, count: int, pictures: int
) -> tuple[list[str] | None, list[int] | None, int]:
    """Prompts and labels of all pictures, and for how many these were asked: for several pictures, where one was for one."""
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 picture.")
    if prompt is not None and model.conditioner is None:
        raise ValueError(f"prompt is {prompt!r}, and this model reads no text; give label= where it knows classes, or nothing.")
    if prompt is None and model.conditioner is not None:
        raise ValueError("this model reads text; give a prompt, '' for none.")
    if label is not None and model.defaults.classes is None:
        raise ValueError("this model knows no classes; leave label= out.")
    if label is None and model.defaults.classes is not None:
        raise ValueError(f"this model draws classes; give label= from 0 to {model.defaults.classes - 1}.")
    prompts = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    labels = None if label is None else [label] if isinstance(label, int) else list(label)
    if prompts == [] or labels == []:
        raise ValueError("the list of prompts or labels is empty; give one at least.")
    for one in labels or []:
        if not 0 <= one < (model.defaults.classes or 0):
            raise ValueError(f"label is {one}; there are {model.defaults.classes}, counted from 0.")
    asked = len(prompts or labels or [None])
    if asked * count == 1:
        asked = pictures
    return prompts and rows(prompts, "prompt", asked, count), labels and rows(labels, "label", asked, count), asked


def _size(model: Any, size: tuple[int, int] | None, pictures: Sequence[Tensor] | None) -> tuple[int, int]:
    seen = {(p.shape[-1], p.shape[-2]) for p in pictures or ()}
    if len(seen) > 1 and (size is None or model.takes == "upscale"):
        said = " and ".join(f"{width} x {height}" for width, height in sorted(seen))
        hint = "enlarge them one by one" if model.takes == "upscale" else "give size=, to which all are scaled"
        raise ValueError(f"image has pictures of {said} pixels; {hint}.")
    wide, high = next(iter(seen), (0, 0))
    if model.takes == "upscale":
        if not seen:
            raise ValueError("this model enlarges a picture; give image=.")
        factor = model.codec.factor if model.codec is not None else 1
        grown = (wide * factor, high * factor)
        if size not in (None, grown):
            raise ValueError(f"size is {size}, and this model makes {grown} of the image; leave size= out.")
        return grown
    multiple = model.defaults.multiple
    if size is None and seen:
        size = (max(wide // multiple, 1) * multiple, max(high // multiple, 1) * multiple)
    width, height = size or model.defaults.size
    if width < 1 or height < 1 or width % multiple or height % multiple:
        raise ValueError(f"size is {width} x {height}; give multiples of {multiple} pixels.")
    most = model.defaults.most
    if most is not None and max(width, height) > most:
        raise ValueError(
            f"size is {width} x {height}, and this model knows positions in pictures of at most {most} x {most} pixels; give "
            "size= (--size) up to that."
        )
    return width, height


def _beginning(model: Any, said: Mapping[str, Any], pictures: Sequence[Tensor] | None, total: int) -> float:
    """The noise level that a request begins at."""
    strength, start = said["strength"], said["start"]
    level = 1.0 if strength is None else float(strength)
    if not 0 <= level <= 1:
        raise ValueError(f"strength is {strength}; it is the noise level to begin at, from 0 to 1.")
    if strength is not None and pictures is None:
        raise ValueError("strength raises an image to a noise level, and there is none; give image= as well.")
    if pictures is not None and model.takes in FREE and strength is None and said["mask"] is None:
        raise ValueError("image is to begin at, at a strength; give strength= from 0 to 1, or mask= to paint in it.")
    if start is not None and len(start) != total:
        raise ValueError(f"start has {len(start)} states for {total} pictures; give one each.")
    return level


def _channels(model: Any) -> int:
    if model.codec is not None:
        return model.codec.channels
    shape = model.denoiser.shape
    if not isinstance(shape, tuple):
        raise ValueError("the shape of a picture is unknown; build the denoiser with shape=.")
    return shape[0]


def _counted(plan: str | Plan | Draft, steps: int | None, many: int) -> str | Plan | Draft:
    """A plan that says how many evaluations there are, where a name alone leaves that open.

    Raises:
        ValueError: if both say it, and differ.
    """
    if not isinstance(plan, str) or plan.endswith(".json"):
        if steps is not None:
            raise ValueError(f"steps is {steps}, and the plan that is given has its own; leave steps out.")
        return plan
    made, own = counted(plan, many)
    if steps is not None and own not in (None, str(steps)):
        raise ValueError(f"steps is {steps} and plan {plan}, which says how many there are; leave steps out.")
    if steps is not None and own is None and made == plan:
        raise ValueError(f"steps is {steps} and plan {plan}, which takes as many as it needs; leave steps out.")
    return made


def _filled(model: Any, plan: str | Plan | Draft | None, steps: int, level: float, shape: tuple[int, ...]) -> Plan:
    schedule = process_of(model).schedule
    if plan is None:
        tokens = shape[1] // model.patch * (shape[2] // model.patch)
        return model.plan(steps, start=level, tokens=tokens).on(schedule)
    given = parse(plan) if isinstance(plan, str) else plan
    return (given if level == 1 else begin(given, level)).on(schedule)


def _guidance(
    model: Any, asked: float | Guidance | None, w: float | None, guided: bool, null: Cond, rescale: float, conditioned: bool
) -> Guidance | None:
    if asked is not None and w is None:
        if isinstance(asked, CFG) and asked.null is None:
            return dataclasses.replace(asked, null=null, of="output", norm=asked.norm or model.defaults.norm)
        if callable(asked):
            return asked
        raise ValueError(f"guidance is {asked!r}; give a number, 1 for none, or a guidance such as CFG(2.0).")
    if not guided or w is None or not conditioned:
        return None
    return CFG(w, null=null, rescale=rescale, of="output", norm=model.defaults.norm)
