"""Pictures from text, classes, pictures, masks and hints, by any denoiser with what belongs to it.

A request shares weights with other requests and nothing else: a generator keeps no state between or during calls, and picture k
is a function of its prompt, its settings, the seed and its id alone, whatever it is batched with.

    B pictures, C latent channels, H W pixels, h w latents
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, Cond, home
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, Step, trajectory
from langevin.guidance import CFG
from langevin.guidance import known as parts
from langevin.plans import begin, counted, parse
from langevin.tasks.asked import refuse_unread, rows
from langevin.tasks.inputs import Pictures, as_bytes, each, mask_of, several, sized
from langevin.tasks.previews import Previews
from langevin.tasks.reading import FREE, further, refuse_missing, under_hints
from langevin.tasks.recorded import digest, options_of
from langevin.text.conditioning import Conditioner, Request


class Codec(Protocol):
    """Between pictures (B, 3, H, W) in [-1, 1] and latents (B, C, H / factor, W / factor) of about unit variance."""

    @property
    def factor(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents; the mean of the encoder's distribution, or the draw that standard `noise` (B, C, h, w) makes."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Pictures."""
        ...


@dataclass(frozen=True)
class Defaults:
    """What a request that does not say takes.

    Args:
        size: (width, height) in pixels. steps: evaluations.
        guidance: w of classifier-free guidance, 1 for none; of a model that is told it (`told`), what it is told.
        multiple: sizes are multiples of it.
        classes: how many labels there are, for models of classes.
        norm: of guided outputs, see `CFG`.
    """

    size: tuple[int, int] = (512, 512)
    steps: int = 50
    guidance: float = 7.5
    told: bool = False
    multiple: int = 8
    classes: int | None = None
    norm: str = ""


@dataclass(frozen=True)
class Progress:
    """What a request's `callback` is given after each step.

    Args:
        step: see `Step`. preview: pictures (B, 3, h', w') in [-1, 1] of what is believed now; cheap after the first.
    """

    step: Step
    preview: Callable[[], Tensor]


@dataclass(frozen=True)
class Result:
    """Pictures, and what made them.

    Args:
        tensor: (B, 3, H, W) in [-1, 1]. latents: (B, C, h, w), or the pictures where there is no codec.
        info: prompt, seed, plan and the like, for each.
        memory: of a feature cache, what it left out; print it.
    """

    tensor: Tensor
    latents: Tensor
    info: list[dict[str, Any]]
    memory: Any = None

    @property
    def images(self) -> list[Image.Image]:
        return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in as_bytes(self.tensor)]


@dataclass(frozen=True, eq=False)
class Generator:
    """`images = generator("a red bicycle", size=(768, 512), steps=20, seed=7)`.

    Args:
        denoiser: of latents, or of pictures where there is no codec.
        plan: `plan(steps, start=1.0, tokens=None)`, the publisher's sampler.
        codec: see `Codec`.
        conditioner: from prompts to conditions; None for models of classes and for those without conditions.
        controls: networks that read pictures of hints. controlled: `controlled(net, controls, scales, guess)`, the network under
            them.
        takes: further channels that the network reads: "" none, "inpaint" (mask and masked latents), "fill" (masked latents and
            the mask in full), "control" (the latents of a hint), "upscale" (a small picture).
        small: the process that noises a small picture, for upscaling. most: its highest noise level.
        patch: pixels of latents a token has on each side, for plans that depend on the number of tokens.
        name, fingerprint: of the model, for the record. loaded: how it was loaded, in plain values. facts: what else is
            recorded of it, told at every request, such as the strengths of adapters.
        parts: its networks under their published names, each with its published configuration, where it was published.
        origin: what it was put together from there, to be saved again.
    """

    denoiser: BaseDenoiser
    plan: Callable[..., Draft]
    codec: Codec | None = None
    conditioner: Conditioner | None = None
    defaults: Defaults = field(default_factory=Defaults)
    controls: Sequence[nn.Module] = ()
    controlled: Callable[[Any, Sequence[Any], Sequence[float]], nn.Module] | None = None
    takes: str = ""
    small: Gaussian | None = None
    most: int = 350
    patch: int = 2
    name: str = ""
    fingerprint: str = ""
    parts: Mapping[str, tuple[nn.Module, Mapping[str, Any]]] = field(default_factory=dict, repr=False)
    loaded: Mapping[str, Any] = field(default_factory=dict)
    facts: Callable[["Generator"], Mapping[str, Any]] | None = None
    origin: Any = field(default=None, repr=False)

    def __call__(self, prompt: str | Sequence[str] | None = None, **options: Any) -> list[Image.Image]:
        """Pictures. The options are those of `run`."""
        return self.run(prompt, **options).images

    def run(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative: str | Sequence[str] | None = None,
        label: int | Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        seed: int = 0,
        count: int = 1,
        first_id: int = 0,
        batch: int | None = None,
        guidance: float | Guidance | None = None,
        rescale: float = 0.0,
        plan: str | Plan | Draft | None = None,
        image: Pictures | None = None,
        strength: float | None = None,
        mask: Pictures | None = None,
        paste: bool = True,
        control: Pictures | Sequence[Pictures] | None = None,
        control_scale: float | Sequence[float] = 1.0,
        control_levels: tuple[float, float] = (1.0, 0.0),
        guess: bool = False,
        noise_level: int = 20,
        clip_skip: int = 0,
        weighted: bool = False,
        long: bool = False,
        length: int | None = None,
        start: Tensor | None = None,
        cache: Guidance | None = None,
        callback: Callable[[Progress], None] | None = None,
        **extra: Any,
    ) -> Result:
        """Pictures, latents and their record.

        Prompts, labels, images and what else is one for each picture are each repeated `count` times, one after the other.

        Args:
            prompt: one for all, or one for each picture. negative: what to lead away from.
            label: of models of classes.
            size: (width, height) in pixels.
            steps: evaluations, also of a plan that is named without a number. seed, first_id: picture k is that of
                (seed, first_id + k), whatever the batch.
            count: pictures of each prompt, or of each image where there is one prompt.
            batch: most pictures in one call of the network; all by default. They are the same either way, up to rounding.
            guidance: w of classifier-free guidance, 1 for none (a model that is told its guidance is told this); or a guidance. A
                `CFG` without a null leads away from the negative prompt, in the network's output, as a number does, also of a
                model that is told its guidance: that is then told its own default.
            rescale: see `CFG`; of the network's output (guidance_rescale of others).
            plan: another sampler, such as "dpmpp:20:grid=karras"; under a strength all its steps are below it (`plans.begin`).
            image: a picture to begin at, to inpaint, or to upscale; or several.
            strength: the noise level that `image` is raised to; 0 leaves it as it is, 1 forgets it. The same for every plan.
            mask: white where `image` is to be painted anew. paste: elsewhere the result is `image` to the pixel.
            control: hints, one for each network in `controls`, or for the one that takes it; each for all pictures, or several.
            control_scale: how much each counts. control_levels: from which noise level down to which they count.
            guess: hints count without a text: coarse resolutions more than fine ones, and the half of guidance that is led away
                from sees none.
            noise_level: of the small picture, in upscaling.
            clip_skip, weighted, long, length: see `langevin.text.conditioning.Request`; a family reads some of them.
            start: the first state (B, C, h, w), in place of noise of the seed.
            cache: a feature cache, see `langevin.tasks.feature_cache`.
            callback: told each step, of one batch after the other.
            extra: what a family's conditioner takes (`Conditioner.options`), such as original_size and crop.

        Raises:
            ValueError: naming what does not fit the model, and what does.
        """
        said = dict(locals())
        refuse_unread(said, extra, DEFAULTS, self.conditioner)
        self._refuse_idle(said)
        pictures = None if image is None else several(image)
        masks = None if mask is None else each(mask)
        hints = [] if control is None else [several(c) for c in (control if isinstance(control, Sequence) else [control])]
        found = [len(values) for values in (pictures, masks, *hints) if values is not None]
        prompts, labels, asked = self._asked(prompt, label, count, max(found, default=1))
        refuse_missing(self, image, mask, hints, noise_level)
        total, size = asked * count, self._size(size, pictures)
        if batch is not None and (batch < 1 or (cache is not None and batch < total)):
            raise ValueError(f"batch is {batch}; give at least 1, and leave it out with a cache, which remembers one run.")
        device, dtype = home(self.denoiser)
        dtype = dtype or torch.float32
        factor = self.codec.factor if self.codec is not None else 1
        shape = (self._channels(), size[1] // factor, size[0] // factor)
        told = self.defaults.told
        w = guidance if isinstance(guidance, (int, float)) else self.defaults.guidance if guidance is None else None
        guided = not told and w is not None and w != 1
        if guided and w == 0 and self.conditioner is not None:
            told_off = "guidance is 0, which draws the negative prompt alone here; 1 is none, what others call 0."
            warnings.warn(told_off, stacklevel=2)

        # conditions
        cond: dict[str, Tensor] = {}
        null: dict[str, Tensor] | None = None
        against = None
        if prompts is not None and self.conditioner is not None:
            if negative is not None:
                against = rows([negative] if isinstance(negative, str) else list(negative), "negative", asked, count)
            more = {**extra, **({"guidance": self.defaults.guidance if w is None else w} if told else {})}
            wants = guided or (guidance is not None and w is None)
            request = Request(prompts, against, size, wants, clip_skip, weighted, long, length, more)
            read, away = self.conditioner(request)
            cond, null = dict(read), None if away is None else dict(away)
        if labels is not None:
            cond["label"] = torch.tensor(labels)
        if guess:
            cond["control"] = torch.ones(total)
            null = null if null is None else {**null, "control": torch.zeros(1)}

        # where to begin, and how to go
        level = 1.0 if strength is None else float(strength)
        if not 0 <= level <= 1:
            raise ValueError(f"strength is {strength}; it is the noise level to begin at, from 0 to 1.")
        if strength is not None and pictures is None:
            raise ValueError("strength raises an image to a noise level, and there is none; give image= as well.")
        if pictures is not None and self.takes in FREE and strength is None and mask is None:
            raise ValueError("image is to begin at, at a strength; give strength= from 0 to 1, or mask= to paint in it.")
        if start is not None and len(start) != total:
            raise ValueError(f"start has {len(start)} states for {total} pictures; give one each.")
        many = steps or self.defaults.steps
        if plan is not None:
            plan = _counted(plan, steps, many)
        filled = None if level == 0 and pictures is not None else self._filled(plan, many, level, shape)
        denoiser = under_hints(self, control_scale, control_levels, guess)
        if cache is not None:
            denoiser = cache(denoiser)
        small = self.takes == "upscale"
        job = _Job(
            size=size,
            shape=shape,
            cond={n: v.to(device, dtype if v.is_floating_point() else None) for n, v in cond.items()},
            null=null and {n: v.to(device, dtype if v.is_floating_point() else None) for n, v in null.items()},
            pictures=pictures and rows([p if small else sized(p, size) for p in pictures], "image", asked, count),
            masks=None if masks is None else rows([mask_of(m, size) for m in masks], "mask", asked, count),
            hints=[rows([sized(h, size) for h in hint], "control", asked, count) for hint in hints],
            level=level,
            noise_level=noise_level,
            start=start,
            filled=filled,
            denoiser=denoiser,
            guidance=lambda null: self._guidance(guidance, w, guided, null, rescale, bool(cond)),
            paste=paste,
            seed=seed,
            first_id=first_id,
            callback=callback,
        )
        parts = [self._draw(job, k, min(k + (batch or total), total)) for k in range(0, total, batch or total)]
        x, z = torch.cat([x for x, _, _ in parts]), torch.cat([z for _, z, _ in parts])
        hashes = {
            "image": pictures and rows([digest(p) for p in pictures], "image", asked, count),
            "mask": None if masks is None else rows([digest(mask_of(m)) for m in masks], "mask", asked, count),
            "control": [rows([digest(h) for h in hint], "control", asked, count) for hint in hints],
        }
        likes = {"like": [digest(p) for p in several(extra["like"])]} if extra.get("like") is not None else {}
        shared = {
            **self._about(),
            "dtype": str(dtype).removeprefix("torch."),
            "size": list(size),
            "steps": many if plan is None or filled is None else max(used for *_, used in parts),
            "seed": seed,
            "guidance": w,
            "plan": plan if isinstance(plan, str) else None,
            "sampler": None if filled is None else filled.name,
            **options_of(said, DEFAULTS, extra, likes),
        }
        own = {"prompt": prompts, "negative": against, "label": labels, "image": hashes["image"], "mask": hashes["mask"]}
        info: list[dict[str, Any]] = []
        for k in range(total):
            one = {"id": first_id + k, **{name: values[k] for name, values in own.items() if values is not None}}
            one["control"] = [hint[k] for hint in hashes["control"]] or None
            info.append({name: value for name, value in {**one, **shared}.items() if value is not None})
        return Result(x, z, info, None if cache is None else getattr(getattr(denoiser, "net", None), "memory", None))

    def _draw(self, job: "_Job", first: int, last: int) -> tuple[Tensor, Tensor, int]:
        """Pictures and latents of the rows first, ..., last - 1 of a request, and the evaluations that they took."""
        device, dtype = home(self.denoiser)
        dtype, count = dtype or torch.float32, last - first
        noise = Noise.of(job.seed, count, job.first_id + first, device)
        x = None if job.pictures is None else torch.cat(job.pictures[first:last])
        hole = None if job.masks is None else torch.cat(job.masks[first:last])
        if job.filled is None:  # strength 0: the pictures themselves, and the model is not asked
            assert x is not None
            x = sized(x, job.size)
            return x.float(), self.encode(x, noise, device, dtype), 0
        cond = {name: value[first:last] for name, value in job.cond.items()}
        hints = [torch.cat(hint[first:last]) for hint in job.hints]
        for name, value in further(self, x, hole, hints, job.noise_level, noise).items():
            cond[name] = value.to(device, dtype if value.is_floating_point() else None)
        null = job.null and {name: v[first:last] if len(v) > 1 else v for name, v in job.null.items()}
        filled, process, start = job.filled, self._process(), None if job.start is None else job.start[first:last]
        latents = None
        if x is not None and self.takes != "upscale" and (job.level < 1 or (hole is not None and self.takes in FREE)):
            latents = self.encode(x, noise, device, dtype)
        if latents is not None and job.level < 1 and start is None:
            start = process.marginal(latents, expand(filled.rows[0].start, latents), noise.at("start"))
        if start is None and filled.rows[0].start < 1:
            # publishers' grids begin a little below 1 with the noise of level 1; that is meant, and no reason to warn
            start = process.prior(job.shape, noise.at("prior").at(""), dtype=dtype)
        chain = job.guidance(null)
        kept: parts.Known | None = None
        if hole is not None and self.takes in FREE:
            assert latents is not None
            small = F.interpolate(hole, job.shape[1:], mode="area").to(device) > 0
            kept = parts.inpaint(latents, ~small.expand(count, *job.shape))
            chain = _around(kept, chain)
        options: dict[str, Any] = {"shape": job.shape, "seed": job.seed, "first_id": job.first_id + first, "guidance": chain}
        options |= {"cond": cond or None, **({} if start is None else {"start": start})}
        z, used = self._walk(job.denoiser, filled, count, options, job.callback)
        if kept is not None:
            z = kept.keep(z)
        made = self.decode(z)
        if job.paste and hole is not None and x is not None:
            # what was not to be painted is the picture's own, to the pixel
            made = torch.where(hole.to(made.device) >= 0.5, made, x.to(made))
        return made, z, used

    # What a request is made of

    def _refuse_idle(self, said: Mapping[str, Any]) -> None:
        """Refuse what other models read and this one does not."""
        if said["negative"] is not None and self.conditioner is None:
            raise ValueError("this model reads no text, so nothing can be led away from; leave negative= out.")
        if said["negative"] is not None and self.defaults.told and not callable(said["guidance"]):
            raise ValueError(
                f"negative is {said['negative']!r}, and this model is told its guidance, which leads away from nothing; leave "
                "negative= out, or give guidance=CFG(2.0) as well."
            )
        for name in ("control_scale", "control_levels", "guess"):
            if said[name] != DEFAULTS[name] and not self.controls:
                raise ValueError(f"{name} is {said[name]}, and the model is under no ControlNet; leave it out.")
        if said["guess"] and callable(said["guidance"]):
            raise ValueError("guess leaves hints out of the half that is led away from; give guidance as a number.")
        if said["noise_level"] != DEFAULTS["noise_level"] and self.takes != "upscale":
            raise ValueError(f"noise_level is {said['noise_level']}, which models read that enlarge a picture; leave it out.")

    def _about(self) -> dict[str, Any]:
        """What is recorded of the model."""
        named = {"model": self.name, "fingerprint": self.fingerprint, "loaded": dict(self.loaded)}
        return {**{name: value for name, value in named.items() if value}, **({} if self.facts is None else self.facts(self))}

    def _asked(
        self, prompt: str | Sequence[str] | None, label: int | Sequence[int] | None, count: int, pictures: int
    ) -> tuple[list[str] | None, list[int] | None, int]:
        """Prompts and labels of all pictures, and for how many these were asked: for several pictures, where one was for one."""
        if count < 1:
            raise ValueError(f"count is {count}; ask for at least 1 picture.")
        if prompt is not None and self.conditioner is None:
            raise ValueError("this model reads no text; give label= where it knows classes, or nothing.")
        if prompt is None and self.conditioner is not None:
            raise ValueError("this model reads text; give a prompt, '' for none.")
        if label is not None and self.defaults.classes is None:
            raise ValueError("this model knows no classes; leave label= out.")
        if label is None and self.defaults.classes is not None:
            raise ValueError(f"this model draws classes; give label= from 0 to {self.defaults.classes - 1}.")
        prompts = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        labels = None if label is None else [label] if isinstance(label, int) else list(label)
        if prompts == [] or labels == []:
            raise ValueError("the list of prompts or labels is empty; give one at least.")
        for one in labels or []:
            if not 0 <= one < (self.defaults.classes or 0):
                raise ValueError(f"label is {one}; there are {self.defaults.classes}, counted from 0.")
        asked = len(prompts or labels or [None])
        if asked * count == 1:
            asked = pictures
        return prompts and rows(prompts, "prompt", asked, count), labels and rows(labels, "label", asked, count), asked

    def _size(self, size: tuple[int, int] | None, pictures: Sequence[Tensor] | None) -> tuple[int, int]:
        seen = {(p.shape[-1], p.shape[-2]) for p in pictures or ()}
        if len(seen) > 1 and (size is None or self.takes == "upscale"):
            said = " and ".join(f"{width} x {height}" for width, height in sorted(seen))
            hint = "enlarge them one by one" if self.takes == "upscale" else "give size=, to which all are scaled"
            raise ValueError(f"image has pictures of {said} pixels; {hint}.")
        wide, high = next(iter(seen), (0, 0))
        if self.takes == "upscale":
            if not seen:
                raise ValueError("this model enlarges a picture; give image=.")
            factor = self.codec.factor if self.codec is not None else 1
            grown = (wide * factor, high * factor)
            if size not in (None, grown):
                raise ValueError(f"size is {size}, and this model makes {grown} of the image; leave size= out.")
            return grown
        each = self.defaults.multiple
        if size is None and seen:
            size = (max(wide // each, 1) * each, max(high // each, 1) * each)
        width, height = size or self.defaults.size
        if width < 1 or height < 1 or width % each or height % each:
            raise ValueError(f"size is {width} x {height}; give multiples of {each} pixels.")
        return width, height

    def _channels(self) -> int:
        if self.codec is not None:
            return self.codec.channels
        shape = self.denoiser.shape
        if not isinstance(shape, tuple):
            raise ValueError("the shape of a picture is unknown; build the denoiser with shape=.")
        return shape[0]

    def _process(self) -> Gaussian:
        if not isinstance(self.denoiser.process, Gaussian):
            raise ValueError(f"pictures are drawn by one Gaussian process, and the model's is {self.denoiser.process}.")
        return self.denoiser.process

    def _filled(self, plan: str | Plan | Draft | None, steps: int, level: float, shape: tuple[int, ...]) -> Plan:
        schedule = self._process().schedule
        if plan is None:
            tokens = shape[1] // self.patch * (shape[2] // self.patch)
            return self.plan(steps, start=level, tokens=tokens).on(schedule)
        given = parse(plan) if isinstance(plan, str) else plan
        return (given if level == 1 else begin(given, level)).on(schedule)

    def _guidance(
        self, asked: float | Guidance | None, w: float | None, guided: bool, null: Cond, rescale: float, conditioned: bool
    ) -> Guidance | None:
        if asked is not None and w is None:
            if isinstance(asked, CFG) and asked.null is None:
                return dataclasses.replace(asked, null=null, of="output", norm=asked.norm or self.defaults.norm)
            if callable(asked):
                return asked
            raise ValueError(f"guidance is {asked!r}; give a number, 1 for none, or a guidance such as CFG(2.0).")
        if not guided or w is None or not conditioned:
            return None
        return CFG(w, null=null, rescale=rescale, of="output", norm=self.defaults.norm)

    def encode(self, x: Tensor, noise: Noise, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] as latents, drawn by `noise` where the encoder's are."""
        if self.codec is None:
            return x.to(device, dtype)
        codec = self.codec
        height, width = x.shape[-2] // codec.factor, x.shape[-1] // codec.factor
        drawn = noise.at("encode").normal((codec.channels, height, width), dtype)
        with torch.no_grad():
            return codec.encode(x.to(device, dtype), drawn.to(device)).to(dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Latents as pictures (B, 3, H, W) in [-1, 1]."""
        with torch.no_grad():
            x = z if self.codec is None else torch.cat([self.codec.decode(one[None]) for one in z])
        return x.float().clamp(-1, 1)

    def _walk(
        self, denoiser: BaseDenoiser, plan: Plan, batch: int, options: Any, callback: Callable[[Progress], None] | None
    ) -> tuple[Tensor, int]:
        """The last state, and how many evaluations led there."""
        walk, previews, nfe = trajectory(denoiser, plan, batch, **options), Previews(self), 0
        while True:
            try:
                step = next(walk)
            except StopIteration as end:
                return end.value, nfe
            nfe = step.nfe
            if callback is not None:
                callback(Progress(step, lambda s=step: previews(s)))

    def but(self, **changes: Any) -> "Generator":
        """The same generator with other parts; weights are shared."""
        return dataclasses.replace(self, **changes)


DEFAULTS: Mapping[str, Any] = {
    name: told.default for name, told in inspect.signature(Generator.run).parameters.items() if name not in ("self", "extra")
}
"""A request's own options, and what each is where it is not said."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A request whose options are resolved, row by row."""

    size: tuple[int, int]
    shape: tuple[int, ...]
    cond: Mapping[str, Tensor]
    null: Mapping[str, Tensor] | None
    pictures: list[Tensor] | None
    masks: list[Tensor] | None
    hints: list[list[Tensor]]
    level: float
    noise_level: int
    start: Tensor | None
    filled: Plan | None
    denoiser: BaseDenoiser
    guidance: Callable[[Cond], Guidance | None]
    paste: bool
    seed: int
    first_id: int
    callback: Callable[[Progress], None] | None


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


def _around(known: parts.Known, inner: Guidance | None) -> Guidance:
    return known if inner is None else lambda denoiser: known(inner(denoiser))
