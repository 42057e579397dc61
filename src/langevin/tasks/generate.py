"""Pictures from text, classes, pictures, masks and hints, by any denoiser with what belongs to it.

A request shares weights with other requests and nothing else: a generator keeps no state between or during calls, and picture k
is a function of its prompt, its settings, the seed and its id alone, whatever it is batched with.

    B pictures, C latent channels, H W pixels, h w latents
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, home
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, Step, trajectory
from langevin.guidance import CFG
from langevin.guidance import known as parts
from langevin.plans import begin, counted, parse
from langevin.text.conditioning import Conditioner, Request

Picture = Image.Image | Tensor


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
        return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in _bytes(self.tensor)]


def _bytes(x: Tensor) -> np.ndarray[Any, Any]:
    if not bool(x.isfinite().all()):
        raise ValueError("the pictures hold values that are not finite; the model or the plan diverged.")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Generator:
    """`images = generator("a red bicycle", size=(768, 512), steps=20, seed=7)`.

    Args:
        denoiser: of latents, or of pictures where there is no codec.
        plan: `plan(steps, start=1.0, tokens=None)`, the publisher's sampler.
        codec: see `Codec`.
        conditioner: from prompts to conditions; None for models of classes and for those without conditions.
        controls: networks that read pictures of hints. controlled: `controlled(net, controls, scales)`, the network under them.
        takes: further channels that the network reads: "" none, "inpaint" (mask and masked latents), "fill" (masked latents and
            the mask in full), "control" (the latents of a hint), "upscale" (a small picture).
        small: the process that noises a small picture, for upscaling. most: its highest noise level.
        patch: pixels of latents a token has on each side, for plans that depend on the number of tokens.
        name, fingerprint: of the model, for the record.
        parts: its networks under their published names, each with its published configuration, where it was published.
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
        guidance: float | Guidance | None = None,
        rescale: float = 0.0,
        plan: str | Plan | Draft | None = None,
        image: Picture | Sequence[Picture] | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        paste: bool = True,
        control: Picture | Sequence[Picture] | None = None,
        control_scale: float | Sequence[float] = 1.0,
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

        Args:
            prompt: one for all, or one for each picture. negative: what to lead away from.
            label: of models of classes.
            size: (width, height) in pixels.
            steps: evaluations, also of a plan that is named without a number. seed, first_id: picture k is that of
                (seed, first_id + k), whatever the batch.
            count: pictures of each prompt.
            guidance: w of classifier-free guidance, 1 for none (a model that is told its guidance is told this); or a guidance.
            rescale: see `CFG`; of the network's output (guidance_rescale of others).
            plan: another sampler, such as "dpmpp:20:grid=karras"; under a strength all its steps are below it (`plans.begin`).
            image: a picture to begin at, to inpaint, or to upscale.
            strength: the noise level that `image` is raised to; 0 leaves it as it is, 1 forgets it. The same for every plan.
            mask: white where `image` is to be painted anew. paste: elsewhere the result is `image` to the pixel.
            control: hints, one for each network in `controls`, or for the one that takes it. control_scale: how much each counts.
            noise_level: of the small picture, in upscaling.
            clip_skip, weighted, long, length: see `langevin.text`.
            start: the first state (B, C, h, w), in place of noise of the seed.
            cache: a feature cache, see `langevin.tasks.feature_cache`.
            callback: told each step.
            extra: what a family's conditioner takes, such as original_size and crop.

        Raises:
            ValueError: naming what does not fit the model, and what does.
        """
        pictures = None if image is None else self._pictures(image)
        prompts, labels = self._asked(prompt, label, count)
        batch = len(prompts) if prompts is not None else len(labels) if labels is not None else count
        size = self._size(size, pictures)
        device, dtype = home(self.denoiser)
        dtype = dtype or torch.float32
        noise = Noise.of(seed, batch, first_id, device)
        width, height = size
        factor = self.codec.factor if self.codec is not None else 1
        shape = (self._channels(), height // factor, width // factor)
        told = self.defaults.told
        w = guidance if isinstance(guidance, (int, float)) else self.defaults.guidance if guidance is None else None
        guided = not told and w is not None and w != 1

        # conditions
        cond: dict[str, Tensor] = {}
        null: dict[str, Tensor] | None = None
        if prompts is not None and self.conditioner is not None:
            against = None if negative is None else [negative] * batch if isinstance(negative, str) else list(negative)
            if against is not None and len(against) != batch:
                raise ValueError(f"negative has {len(against)} prompts for {batch} pictures; give one, or one for each.")
            said = {**extra, **({"guidance": w} if told and w is not None else {})}
            wants = guided or (guidance is not None and w is None)
            request = Request(prompts, against, size, wants, clip_skip, weighted, long, length, said)
            found, away = self.conditioner(request)
            cond, null = dict(found), None if away is None else dict(away)
        elif extra:
            raise ValueError(f"the model has no option {min(extra)!r}.")
        if labels is not None:
            cond["label"] = torch.tensor(labels)
        if mask is not None and pictures is None:
            raise ValueError("mask marks what to paint anew of an image, and there is none; give image= as well.")
        if self.takes:
            cond.update(self._further(pictures, control, mask, noise_level, noise, batch, size))
        if self.takes != "control" and (control is not None or self.controls):
            cond.update(self._hints(control, batch, size))
        cond = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in cond.items()}
        if null is not None:
            null = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in null.items()}

        # where to begin, and how to go
        level = 1.0 if strength is None else float(strength)
        if not 0 <= level <= 1:
            raise ValueError(f"strength is {strength}; it is the noise level to begin at, from 0 to 1.")
        if strength is not None and pictures is None:
            raise ValueError("strength raises an image to a noise level, and there is none; give image= as well.")
        free = self.takes in ("", "control")  # to begin at a picture, and to keep what is known of it
        if pictures is not None and free and strength is None and mask is None:
            raise ValueError("image is to begin at, at a strength; give strength= from 0 to 1, or mask= to paint in it.")
        many = steps or self.defaults.steps
        if plan is not None:
            plan = _counted(plan, steps, many)
        if level == 0 and pictures is not None:
            return self._untouched(_sized(pictures, size).expand(batch, -1, -1, -1), noise, prompts, seed, first_id)
        filled = self._filled(plan, many, level, shape)
        process = self._process()
        latents = None
        if pictures is not None and self.takes != "upscale" and (level < 1 or (mask is not None and free)):
            latents = self._encode(_sized(pictures, size).expand(batch, -1, -1, -1), noise, device, dtype)
        if latents is not None and level < 1 and start is None:
            start = process.marginal(latents, expand(filled.rows[0].start, latents), noise.at("start"))
        if start is None and filled.rows[0].start < 1:
            # publishers' grids begin a little below 1 with the noise of level 1; that is meant, and no reason to warn
            start = process.prior(shape, noise.at("prior").at(""), dtype=dtype)
        chain = self._guidance(guidance, w, guided, null, rescale, bool(cond))
        kept: parts.Known | None = None
        if mask is not None and self.takes not in ("inpaint", "fill"):
            if latents is None:
                raise ValueError("this model enlarges pictures and paints no masks; leave mask= out.")
            hole = F.interpolate(_mask(mask, size), shape[1:], mode="area").to(device) > 0
            kept = parts.inpaint(latents, ~hole.expand(batch, *shape))
            chain = _around(kept, chain)

        denoiser = self._denoiser(control_scale)
        if cache is not None:
            denoiser = cache(denoiser)
        options: dict[str, Any] = {"shape": shape, "seed": seed, "first_id": first_id, "guidance": chain, "cond": cond or None}
        if start is not None:
            options["start"] = start
        z, made = self._walk(denoiser, filled, batch, options, callback)
        if kept is not None:
            z = kept.keep(z)
        x = self.decode(z)
        if paste and mask is not None and pictures is not None and self.takes != "upscale":
            # what was not to be painted is the picture's own, to the pixel
            own = _sized(pictures, size).to(x)
            x = torch.where(_mask(mask, size).to(x.device) >= 0.5, x, own.expand_as(x))
        if plan is not None:
            many = made
        info = self._record(prompts, negative, labels, size, many, seed, first_id, batch, w, plan, filled, strength)
        return Result(x, z, info, None if cache is None else getattr(getattr(denoiser, "net", None), "memory", None))

    def _untouched(self, x: Tensor, noise: Noise, prompts: list[str] | None, seed: int, first_id: int) -> Result:
        """What strength 0 gives: the pictures themselves. The model is not asked."""
        device, dtype = home(self.denoiser)
        info = [{"prompt": None if prompts is None else prompts[k], "seed": seed, "id": first_id + k, "strength": 0.0}
                for k in range(len(x))]  # fmt: skip
        return Result(x.float(), self._encode(x, noise, device, dtype or torch.float32), info)

    # What a request is made of

    def _asked(
        self, prompt: str | Sequence[str] | None, label: int | Sequence[int] | None, count: int
    ) -> tuple[list[str] | None, list[int] | None]:
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
        for one in labels or []:
            if not 0 <= one < (self.defaults.classes or 0):
                raise ValueError(f"label is {one}; there are {self.defaults.classes}, counted from 0.")
        return _repeated(prompts, count), _repeated(labels, count)

    def _size(self, size: tuple[int, int] | None, pictures: Tensor | None) -> tuple[int, int]:
        if self.takes == "upscale":
            if pictures is None:
                raise ValueError("this model enlarges a picture; give image=.")
            factor = self.codec.factor if self.codec is not None else 1
            grown = (pictures.shape[-1] * factor, pictures.shape[-2] * factor)
            if size not in (None, grown):
                raise ValueError(f"size is {size}, and this model makes {grown} of the image; leave size= out.")
            return grown
        each = self.defaults.multiple
        if size is None and pictures is not None:
            size = (max(pictures.shape[-1] // each, 1) * each, max(pictures.shape[-2] // each, 1) * each)
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

    def _pictures(self, image: Picture | Sequence[Picture]) -> Tensor:
        if isinstance(image, (Image.Image, Tensor)):
            return _tensor(image)
        return torch.cat([_tensor(one) for one in image])

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
            if callable(asked):
                return asked
            raise ValueError(f"guidance is {asked!r}; give a number, 1 for none, or a guidance such as CFG(2.0).")
        if null is not None and self.defaults.told:
            return CFG(w or 1.0, null=null, rescale=rescale, of="output", norm=self.defaults.norm)
        if not guided or w is None or not conditioned:
            return None
        return CFG(w, null=null, rescale=rescale, of="output", norm=self.defaults.norm)

    def _encode(self, x: Tensor, noise: Noise, device: torch.device, dtype: torch.dtype) -> Tensor:
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

    def _further(
        self, pictures: Tensor | None, control: Any, mask: Picture | None, level: int, noise: Noise, batch: int,
        size: tuple[int, int],
    ) -> dict[str, Tensor]:  # fmt: skip
        """What the network reads beside the state."""
        device, dtype = home(self.denoiser)
        dtype = dtype or torch.float32
        if self.takes == "control":
            if not isinstance(control, (Image.Image, Tensor)):
                raise ValueError("this model follows a hint, such as a map of depths or edges; give one picture, control=.")
            hint = _sized(_tensor(control), size).expand(batch, -1, -1, -1)
            return {"concat": self._encode(hint, noise.at("hint"), device, dtype)}
        if self.takes == "upscale":
            assert pictures is not None and self.small is not None
            if not 0 <= level <= self.most:
                raise ValueError(f"noise_level is {level}; give a whole number from 0 to {self.most}.")
            few = pictures.expand(batch, -1, -1, -1).to(device, dtype)
            table: Any = self.small.schedule
            noised = self.small.marginal(few, expand((level + 1) / table.size, few), noise.at("small"))
            return {"concat": noised, "label": torch.full((batch,), level)}
        if pictures is None or mask is None:
            raise ValueError("this model paints what a mask marks in a picture; give image= and mask=.")
        hole = _mask(mask, size)
        own = _sized(pictures, size) * (hole < 0.5)
        masked = self._encode(own.expand(batch, -1, -1, -1), noise.at("masked"), device, dtype)
        if self.takes == "fill":
            whole = F.pixel_unshuffle((hole >= 0.5).to(masked), self.codec.factor if self.codec is not None else 1)
            return {"concat": torch.cat([masked, whole.expand(batch, -1, -1, -1)], 1)}
        small = F.interpolate((hole >= 0.5).float(), masked.shape[-2:]).to(masked)
        return {"concat": torch.cat([small.expand(batch, -1, -1, -1), masked], 1)}

    def _hints(self, control: Picture | Sequence[Picture] | None, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
        given = control if isinstance(control, Sequence) else [control]
        hints = [hint for hint in given if hint is not None]
        if hints and not self.controls:
            raise ValueError(
                f"control has {len(hints)} hints for 0 networks; add a ControlNet by add_control(model, FOLDER) of "
                "langevin.zoo.adapting, or --controlnet FOLDER."
            )
        if len(hints) != len(self.controls):
            raise ValueError(f"control has {len(hints)} hints for {len(self.controls)} networks; give one each.")
        made = {}
        for i, hint in enumerate(hints):
            # hints are in [0, 1]
            x = (_sized(_tensor(hint), size) + 1) / 2
            made[f"hint{i or ''}"] = x.expand(batch, -1, -1, -1)
        return made

    def _denoiser(self, scale: float | Sequence[float]) -> BaseDenoiser:
        if not self.controls or self.controlled is None:
            return self.denoiser
        if not isinstance(self.denoiser, Denoiser):
            raise ValueError("hints are read beside one network; take the denoiser without guidance.")
        scales = [float(scale)] * len(self.controls) if isinstance(scale, (int, float)) else [float(s) for s in scale]
        net = self.controlled(self.denoiser.net, self.controls, scales)
        made = Denoiser(net, self.denoiser.process, self.denoiser.predictions[""], self.denoiser.shape)
        return made.train(self.denoiser.training)

    def _walk(
        self, denoiser: BaseDenoiser, plan: Plan, batch: int, options: Any, callback: Callable[[Progress], None] | None
    ) -> tuple[Tensor, int]:
        """The last state, and how many evaluations led there."""
        walk, previews, nfe = trajectory(denoiser, plan, batch, **options), _Previews(self), 0
        while True:
            try:
                step = next(walk)
            except StopIteration as end:
                return end.value, nfe
            nfe = step.nfe
            if callback is not None:
                callback(Progress(step, lambda s=step: previews(s)))

    def _record(
        self, prompts: list[str] | None, negative: Any, labels: list[int] | None, size: tuple[int, int], steps: int, seed: int,
        first_id: int, batch: int, w: float | None, plan: Any, filled: Plan, strength: float | None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        shared = {"model": self.name, "fingerprint": self.fingerprint, "size": list(size), "steps": steps, "seed": seed,
                  "guidance": w, "plan": plan if isinstance(plan, str) else filled.name, "strength": strength}  # fmt: skip
        made = []
        for k in range(batch):
            own: dict[str, Any] = {"id": first_id + k}
            if prompts is not None:
                own["prompt"] = prompts[k]
            if negative is not None:
                own["negative"] = negative if isinstance(negative, str) else negative[k]
            if labels is not None:
                own["label"] = labels[k]
            made.append({n: v for n, v in {**own, **shared}.items() if v not in (None, "")})
        return made

    def but(self, **changes: Any) -> "Generator":
        """The same generator with other parts; weights are shared."""
        return dataclasses.replace(self, **changes)


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


class _Previews:
    """What is believed, as small pictures. The first is decoded; a linear map from latents to colours is fitted to it, and makes
    the others."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.map: Tensor | None = None

    def __call__(self, step: Step) -> Tensor:
        belief: Any = step.belief
        z = step.z if belief is None else belief.mean
        codec = self.generator.codec
        if codec is None:
            return z.float().clamp(-1, 1)
        rows = F.pad(z.float().movedim(1, -1), (0, 1), value=1.0)
        if self.map is None:
            small = F.avg_pool2d(self.generator.decode(z), codec.factor)
            flat, colours = rows.reshape(-1, rows.shape[-1]).double(), small.movedim(1, -1).reshape(-1, small.shape[1]).double()
            # a little of nothing is asked for as well, so that few latents do not fit by chance
            gram = flat.T @ flat + 1e-3 * len(flat) * torch.eye(flat.shape[1], dtype=torch.float64, device=flat.device)
            self.map = torch.linalg.solve(gram, flat.T @ colours).float()
            return small
        return (rows @ self.map).movedim(-1, 1).clamp(-1, 1)


def _around(known: parts.Known, inner: Guidance | None) -> Guidance:
    return known if inner is None else lambda denoiser: known(inner(denoiser))


def _repeated(values: list[Any] | None, count: int) -> list[Any] | None:
    return None if values is None else [value for value in values for _ in range(count)]


def _tensor(image: Picture) -> Tensor:
    """A picture (1, 3, H, W) in [-1, 1]."""
    if isinstance(image, Tensor):
        x = image if image.ndim == 4 else image[None]
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not bool(x.isfinite().all()) or float(x.abs().max()) > 1.001:
            raise ValueError(
                f"a picture has shape {tuple(image.shape)}; give (3, H, W) or (B, 3, H, W) in [-1, 1], or a PIL image."
            )
        return x.float()
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def _mask(mask: Picture, size: tuple[int, int]) -> Tensor:
    """(1, 1, H, W) in [0, 1]; tensors are taken as they are."""
    if isinstance(mask, Tensor):
        x = mask.float().reshape(1, 1, *mask.shape[-2:])
        if float(x.min()) < 0 or float(x.max()) > 1:
            raise ValueError(f"mask spans [{x.min():g}, {x.max():g}]; give 1 where the picture is painted anew and 0 elsewhere.")
    else:
        x = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32) / 255)[None, None]
    return x if x.shape[-2:] == (size[1], size[0]) else F.interpolate(x, (size[1], size[0]))


def _sized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == (size[1], size[0]):
        return x
    shrinking = math.prod(x.shape[-2:]) > size[0] * size[1]
    return F.interpolate(x, (size[1], size[0]), mode="bicubic", antialias=shrinking).clamp(-1, 1)
