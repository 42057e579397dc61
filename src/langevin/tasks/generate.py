"""Pictures from text, classes, pictures, masks and hints, by any denoiser with what belongs to it.

A request shares weights with other requests and nothing else: a generator keeps no state between or during calls, and picture k
is a function of its prompt, its settings, the seed and its id alone, whatever it is batched with.

    B pictures, C latent channels, H W pixels, h w latents
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from langevin.core.denoiser import BaseDenoiser, home
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, trajectory
from langevin.guidance import known as parts
from langevin.tasks.contract import Codec, Defaults, Progress, Result
from langevin.tasks.edited import Inversion, edit, invert, told
from langevin.tasks.inputs import Pictures, sized
from langevin.tasks.previews import Previews
from langevin.tasks.reading import FREE, further
from langevin.tasks.resolved import Job, conditions, process_of, records, resolve
from langevin.text.conditioning import Conditioner

__all__ = ["Codec", "Defaults", "Generator", "Progress", "Result"]

Conds = Mapping[str, Tensor]


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
        adapted: `with adapted(model, {"style": 0.7}):`, within which adapters count so much for this request and no other.
        sketch: a tiny autoencoder of the same latents, for previews.
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
    sketch: Codec | None = None
    adapted: Callable[["Generator", Mapping[str, float]], AbstractContextManager[None]] | None = None

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
        seed: int | Sequence[int] = 0,
        count: int = 1,
        first_id: int | Sequence[int] = 0,
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
        adapters: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
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
                (seed, first_id + k), whatever the batch; of a list of seeds, one for each picture, that of (seed[k], first_id),
                as it is drawn alone. So may be `first_id`.
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
            adapters: how much those that were added count in this request, by name, in place of how they stand
                (`set_strengths`); one mapping for all pictures or one for each. Those of other strengths are drawn in turn.
            callback: told each step, of one batch after the other, with a preview of what is believed.
            extra: what a family's conditioner takes (`Conditioner.options`), such as original_size and crop.

        Raises:
            ValueError: naming what does not fit the model, and what does.
        """
        said = {name: value for name, value in locals().items() if name not in ("self", "extra")}
        job = resolve(self, said, extra, DEFAULTS)
        parts: list[tuple[Tensor, Tensor, int]] = []
        for span in job.spans:
            with job.at(self, span):
                cond, null = conditions(self, job, said, span)
                few = batch or len(span)
                parts += [self._draw(job, cond, null, span[k : k + few], k) for k in range(0, len(span), few)]
        x, z = torch.cat([x for x, _, _ in parts]), torch.cat([z for _, z, _ in parts])
        info = records(self, job, said, extra, DEFAULTS, max(used for *_, used in parts))
        return Result(x, z, info, None if cache is None else getattr(getattr(job.denoiser, "net", None), "memory", None))

    def invert(
        self,
        image: Pictures,
        prompt: str | Sequence[str] | None = None,
        *,
        steps: int = 50,
        guidance: float | None = None,
        exact: bool = True,
        iterations: int = 20,
        rate: float = 0.03,
        **options: Any,
    ) -> Inversion:
        """The noise that pictures come from under a prompt: `model.run(prompt, **model.invert(image, prompt).options)` draws them
        again, to `missed` of the answer.

        Args:
            image: one picture, or one for each prompt.
            steps: of DDIM, up and down again.
            guidance: w, as in `run`. A model that is told its guidance is inverted under what it is told; any other through
                classifier-free guidance, by a null condition for each step (`tasks.invert_through`, 2211.09794).
            exact: undo each step by a fixed point, to rounding, in some evaluations a step (30 at most); else explicit steps, one
                evaluation each, which come back the nearer the more there are.
            iterations: of Adam for each null condition, of two evaluations and a gradient each; 0 leaves it as it is, so that
                guidance leads elsewhere. rate: of Adam.
            options: of `run`, those that say what the picture is told of: see `langevin.tasks.edited.READS`, and what the
                family's conditioner takes.

        Raises:
            ValueError: as `run`, and for a model that reads masks or small pictures, or whose null is its network's own.
        """
        return invert(self, image, prompt, steps, guidance, exact, iterations, rate, options, DEFAULTS)

    def edit(
        self,
        image: Pictures,
        source: str | int | Sequence[str] | Sequence[int],
        target: str | int | Sequence[str] | Sequence[int],
        *,
        callback: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Result:
        """Pictures as they would be under another prompt: their noise under `source`, carried down under `target`.

            cat = model.edit(photo, "a photo of a dog", "a photo of a cat", guidance=5.0).images[0]

        The same prompt twice gives the pictures back, to `invert`'s `missed`, which stands in `Result.info` under "edited".

        Args:
            image: one, or several. source, target: one for all or one for each; labels for models of classes.
            callback: as in `run`, on the way down.
            options: those of `invert`.

        Raises:
            ValueError: as `invert`.
        """
        words = told(self, source)
        found = self.invert(image, words.get("prompt"), **({"label": source} if "label" in words else {}), **options)
        return edit(self, found, source, target, callback=callback)

    def _draw(self, job: Job, cond: Conds, null: Conds | None, span: range, at: int) -> tuple[Tensor, Tensor, int]:
        """Pictures and latents of some rows of a request, and the evaluations that they took.

        Args:
            cond, null: with theirs from the row `at` on.
        """
        device, dtype, count, first, last = home(self.denoiser)[0], job.dtype, len(span), span.start, span.stop
        noise = job.noise(span, device)
        x = None if job.pictures is None else torch.cat(job.pictures[first:last])
        hole = None if job.masks is None else torch.cat(job.masks[first:last])
        if job.filled is None:  # strength 0: the pictures themselves, and the model is not asked
            assert x is not None
            x = sized(x, job.size)
            return x.float(), self.encode(x, noise, device, dtype), 0
        conditioned = bool(cond)
        cond = {name: value[at : at + count] for name, value in cond.items()}
        hints = [torch.cat(hint[first:last]) for hint in job.hints]
        for name, value in further(self, x, hole, hints, job.noise_level, noise).items():
            cond[name] = value.to(device, dtype if value.is_floating_point() else None)
        null = null and {name: v[at : at + count] if len(v) > 1 else v for name, v in null.items()}
        filled, process, start = job.filled, process_of(self), None if job.start is None else job.start[first:last]
        latents = None
        if x is not None and self.takes != "upscale" and (job.level < 1 or (hole is not None and self.takes in FREE)):
            latents = self.encode(x, noise, device, dtype)
        if latents is not None and job.level < 1 and start is None:
            start = process.marginal(latents, expand(filled.rows[0].start, latents), noise.at("start"))
        if start is None and filled.rows[0].start < 1:
            # publishers' grids begin a little below 1 with the noise of level 1; that is meant, and no reason to warn
            start = process.prior(job.shape, noise.at("prior").at(""), dtype=dtype)
        chain = job.guidance(null, conditioned)
        kept: parts.Known | None = None
        if hole is not None and self.takes in FREE:
            assert latents is not None
            small = F.interpolate(hole, job.shape[1:], mode="area").to(device) > 0
            kept = parts.inpaint(latents, ~small.expand(count, *job.shape))
            chain = _around(kept, chain)
        options: dict[str, Any] = {"shape": job.shape, "seed": noise.seed, "first_id": noise.ids, "guidance": chain}
        options |= {"cond": cond or None, **({} if start is None else {"start": start})}
        z, used = self._walk(job.denoiser, filled, count, options, job.callback)
        if kept is not None:
            z = kept.keep(z)
        made = self.decode(z)
        if job.paste and hole is not None and x is not None:
            # what was not to be painted is the picture's own, to the pixel
            made = torch.where(hole.to(made.device) >= 0.5, made, x.to(made))
        return made, z, used

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


def _around(known: parts.Known, inner: Guidance | None) -> Guidance:
    return known if inner is None else lambda denoiser: known(inner(denoiser))
